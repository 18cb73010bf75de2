//! The topology as a drawing of characters: ports on the left, the switch in the middle, uplinks on the right.
//!
//! What is up has `●` and a solid line, what is down `○` and a dashed one.

use crate::control::render::clipped;
use crate::control::render::sheet::{End, Row, Sheet, group_words};
use crate::control::show::topology::Topology;

/// How much is shown of what a neighbour says.
const FOREIGN: usize = 26;
const SOLID: &str = "──";
const DASHED: &str = "╌╌";
const NOTHING: &str = "  ";

/// A line on one side of the switch.
struct Line {
    text: String,
    /// What leads from it to the switch, or `NOTHING`.
    joint: &'static str,
}

/// Draws every network, one below the other.
pub fn topology(topology: &Topology) -> String {
    Sheet::all(topology)
        .iter()
        .map(sheet)
        .collect::<Vec<_>>()
        .join("\n\n")
}

fn sheet(sheet: &Sheet<'_>) -> String {
    let (left, right) = (left(sheet), right(sheet));
    let count = left.len().max(right.len()).max(1);
    let width = left
        .iter()
        .map(|line| line.text.chars().count())
        .max()
        .unwrap_or(0);
    let name = &sheet.network.name;
    let inside = name.chars().count() + 2;
    let margin = " ".repeat(width + 3);
    let mut lines = vec![
        format!("{name}: {}", sheet.heading()),
        String::new(),
        format!("{margin}┌{}┐", "─".repeat(inside)),
    ];
    for index in 0..count {
        let (text, joint, side) = match left.get(index) {
            Some(line) => (line.text.as_str(), line.joint, side_of(line.joint, "┤")),
            None => ("", NOTHING, "│"),
        };
        let label = if index == (count - 1) / 2 { name } else { "" };
        let (outside, other_side) = match right.get(index) {
            Some(line) => (
                format!("{} {}", line.joint, line.text),
                side_of(line.joint, "├"),
            ),
            None => (String::new(), "│"),
        };
        let padding = " ".repeat(width - text.chars().count());
        let line = format!(
            "{text}{padding} {joint}{side} {label:0$} {other_side}{outside}",
            inside - 2
        );
        lines.push(line.trim_end().to_owned());
    }
    lines.push(format!("{margin}└{}┘", "─".repeat(inside)));
    lines.join("\n")
}

/// The side of the switch where a line does or does not lead to it.
fn side_of(joint: &str, joined: &'static str) -> &'static str {
    if joint == NOTHING { "│" } else { joined }
}

fn left(sheet: &Sheet<'_>) -> Vec<Line> {
    let rows = || sheet.groups.iter().flat_map(|(_, rows)| rows);
    let longest = |text: fn(&Row<'_>) -> usize| rows().map(text).max().unwrap_or(0);
    let names = longest(|row| row.port.name.chars().count());
    let kinds = longest(|row| row.port.kind.chars().count());
    let states = longest(|row| state(row).chars().count());
    let ways = rows()
        .filter_map(|row| sheet.way_words(row.way))
        .map(|way| way.chars().count())
        .max()
        .unwrap_or(0);
    let mut lines: Vec<Line> = Vec::new();
    for (group, rows) in &sheet.groups {
        if !lines.is_empty() {
            lines.push(plain(String::new()));
        }
        let (name, vlan) = group_words(group);
        lines.push(plain(format!("{name}, {vlan}")));
        for row in rows {
            let mark = mark(row.is_up());
            let way = sheet.way_words(row.way).unwrap_or_default();
            let mut text = format!(
                "  {mark} {:names$}  {:kinds$}",
                row.port.name, row.port.kind
            );
            for (word, width) in [(state(row), states), (way, ways)] {
                if width > 0 {
                    text += &format!("  {word:width$}");
                }
            }
            lines.push(Line {
                text,
                joint: joint(row.is_up()),
            });
        }
    }
    lines
}

fn right(sheet: &Sheet<'_>) -> Vec<Line> {
    let names = sheet
        .uplinks
        .iter()
        .map(|end| end.uplink.name.chars().count());
    let names = names.max().unwrap_or(0);
    let mut lines = Vec::new();
    if !sheet.uplinks.is_empty() {
        lines.push(plain("uplinks".to_owned()));
    }
    for end in &sheet.uplinks {
        lines.push(Line {
            text: format!(
                "{} {:names$}  {}",
                mark(end.is_up()),
                end.uplink.name,
                end.facts()
            ),
            joint: joint(end.is_up()),
        });
        lines.extend(
            more(end)
                .into_iter()
                .map(|text| plain(format!("    {text}"))),
        );
    }
    lines
}

/// What else there is to say of an uplink, a line each.
fn more(end: &End<'_>) -> Vec<String> {
    let mut lines: Vec<_> = end
        .trouble()
        .map(|trouble| format!("! {trouble}"))
        .into_iter()
        .collect();
    lines.extend(end.behind.iter().map(|(switch, port)| {
        format!(
            "▸ {} {}",
            clipped(&switch.name, FOREIGN),
            clipped(port, FOREIGN)
        )
    }));
    lines
}

/// The state of a port where it is not what one would wish.
fn state<'a>(row: &Row<'a>) -> &'a str {
    if row.is_up() { "" } else { &row.port.state }
}

const fn mark(up: bool) -> char {
    if up { '●' } else { '○' }
}

const fn joint(up: bool) -> &'static str {
    if up { SOLID } else { DASHED }
}

const fn plain(text: String) -> Line {
    Line {
        text,
        joint: NOTHING,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::render::sheet;

    #[test]
    fn a_network_is_drawn_as_a_switch_with_ports_and_uplinks() {
        let text = topology(&sheet::example());
        let expected = r#"vmnet0: bridged, MTU 1500, team by port-id

                                   ┌────────┐
prod, VLAN 10                      │        │   uplinks
  ● web1  guest           eth1   ──┤        ├── ● eth1  up, 10 Gb/s, active
  ○ web2  guest  waiting  eth1   ╌╌┤        │       ▸ "><script>alert('1')</scr… Gi1/0/3 (LLDP)
                                   │ vmnet0 │       ▸ "]; evil [label="\ ]]>&amp; (CDP)
no port group, untagged            │        ├╌╌ ○ eth2  down, standby
  ● br0   host            spread ──┤        │       ! no link, or gone
                                   │        │       ▸ "]; evil [label="\ "><b> (CDP)
                                   └────────┘

vmnet1: host-only, MTU 9000

                          ┌────────┐
no port group, untagged   │        │
  ● db       guest      ──┤ vmnet1 │
  ● gateway  gateway    ──┤        │
                          └────────┘"#;
        assert!(text.lines().all(|line| line.chars().count() <= 100));
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn ports_of_a_team_without_uplinks_have_none() {
        let mut without = sheet::example().of("vmnet0").unwrap();
        let ids: Vec<_> = without.uplinks().map(|uplink| uplink.id.clone()).collect();
        without
            .nodes
            .retain(|node| !ids.iter().any(|id| id == node.id()));
        let text = topology(&without);
        assert_eq!(text.matches("no uplink").count(), 3, "\n{text}");
    }

    #[test]
    fn a_network_with_nothing_is_a_box() {
        let mut nothing = sheet::example().of("vmnet1").unwrap();
        nothing.nodes.truncate(1);
        nothing.edges.clear();
        let expected = "\
vmnet1: host-only, MTU 9000

   ┌────────┐
   │ vmnet1 │
   └────────┘";
        let text = topology(&nothing);
        assert_eq!(text, expected, "\n{text}");
    }
}

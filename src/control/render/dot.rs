//! The topology in the language of Graphviz.
//!
//! Every name is a quoted string, in which only quotes and backslashes mean something to the language, and backslashes
//! and ampersands to the labels; names of others are made harmless in both.

use crate::control::render::clipped;
use crate::control::render::sheet::{End, Row, Sheet, group_words};
use crate::control::show::topology::{EdgeKind, Switch, Topology};

/// How much is shown of what a neighbour says.
const FOREIGN: usize = 60;
const UP: &str = "style=solid";
const DOWN: &str = "style=dashed, color=\"#c0392b\", fontcolor=\"#c0392b\"";

/// Writes the topology as an undirected graph, from the left to the right.
pub fn dot(topology: &Topology) -> String {
    let mut lines = vec![
        "graph vmlan {".to_owned(),
        "  rankdir=LR;".to_owned(),
        "  node [shape=box, fontname=\"sans-serif\"];".to_owned(),
        "  edge [fontname=\"sans-serif\", fontsize=10];".to_owned(),
    ];
    for sheet in Sheet::all(topology) {
        lines.extend(network(&sheet));
    }
    let nats = topology.edges.iter();
    let nats = nats.filter(|edge| edge.kind == EdgeKind::Nat);
    lines.extend(nats.map(|edge| {
        let (from, to) = (quoted(&edge.from), quoted(&edge.to));
        format!("  {from} -- {to} [label=\"NAT\", {}];", look(edge.up))
    }));
    lines.extend(topology.switches().map(switch));
    lines.push("}".to_owned());
    lines.join("\n")
}

fn network(sheet: &Sheet<'_>) -> Vec<String> {
    let id = quoted(&sheet.network.id);
    let words = label(&[&sheet.network.name, &sheet.heading()]);
    let mut lines = vec![format!("  {id} [label={words}, style=bold];")];
    for (group, rows) in &sheet.groups {
        let (name, vlan) = group_words(group);
        let cluster = quoted(&format!("cluster {}", group.id));
        lines.push(format!("  subgraph {cluster} {{"));
        lines.push(format!(
            "    label={};",
            label(&[&format!("{name}, {vlan}")])
        ));
        lines.extend(rows.iter().map(port));
        lines.push("  }".to_owned());
        for row in rows {
            let port = quoted(&row.port.id);
            let way = label(&[sheet.way_words(row.way).unwrap_or_default()]);
            let look = look(row.is_up());
            lines.push(format!("  {port} -- {id} [label={way}, {look}];"));
        }
    }
    for end in &sheet.uplinks {
        lines.extend(uplink(&id, end));
    }
    lines
}

fn port(row: &Row<'_>) -> String {
    let kind = format!("{}, {}", row.port.kind, row.port.state);
    format!(
        "    {} [label={}, {}];",
        quoted(&row.port.id),
        label(&[&row.port.name, &kind]),
        look(row.is_up())
    )
}

fn uplink(network: &str, end: &End<'_>) -> Vec<String> {
    let id = quoted(&end.uplink.id);
    let facts = end.facts();
    let words: Vec<&str> = [&*end.uplink.name, &facts]
        .into_iter()
        .chain(end.trouble())
        .collect();
    let look = look(end.is_up());
    let mut lines = vec![
        format!("  {id} [label={}, {look}];", label(&words)),
        format!("  {network} -- {id} [{look}];"),
    ];
    lines.extend(end.behind.iter().map(|(switch, port)| {
        let (switch, port) = (quoted(&switch.id), label(&[&clipped(port, FOREIGN)]));
        format!("  {id} -- {switch} [label={port}, {look}];")
    }));
    lines
}

fn switch(switch: &Switch) -> String {
    let name = label(&[&clipped(&switch.name, FOREIGN)]);
    format!("  {} [label={name}, shape=box3d];", quoted(&switch.id))
}

const fn look(up: bool) -> &'static str {
    if up { UP } else { DOWN }
}

/// A label of several lines, in which nothing but the ends of lines has a meaning.
fn label(lines: &[&str]) -> String {
    let lines: Vec<_> = lines.iter().map(|line| escaped(line)).collect();
    format!("\"{}\"", lines.join("\\n"))
}

/// A name that is not shown.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '&' => out += "&amp;",
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::control::render::sheet;

    /// The text without what is between quotes.
    fn unquoted(text: &str) -> String {
        let (mut out, mut inside, mut escape) = (String::new(), false, false);
        for c in text.chars() {
            match c {
                _ if escape => escape = false,
                '\\' if inside => escape = true,
                '"' => inside = !inside,
                c if !inside => out.push(c),
                _ => {}
            }
        }
        assert!(!inside, "every quote ends: {text}");
        out
    }

    #[test]
    fn a_small_network_is_this_graph() {
        let text = dot(&sheet::example().of("vmnet1").unwrap());
        let expected = r#"graph vmlan {
  rankdir=LR;
  node [shape=box, fontname="sans-serif"];
  edge [fontname="sans-serif", fontsize=10];
  "network/vmnet1" [label="vmnet1\nhost-only, MTU 9000", style=bold];
  subgraph "cluster g3" {
    label="no port group, untagged";
    "p4" [label="db\nguest, up", style=solid];
    "p5" [label="gateway\ngateway, up", style=solid];
  }
  "p4" -- "network/vmnet1" [label="", style=solid];
  "p5" -- "network/vmnet1" [label="", style=solid];
}"#;
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn no_name_breaks_out_of_its_quotes() {
        let text = dot(&sheet::example());
        let bare = unquoted(&text);
        for word in ["script", "evil", "eth", "web", "<", "&", "\\"] {
            assert!(!bare.contains(word), "{word} is outside quotes in\n{bare}");
        }
        for (open, close) in [('{', '}'), ('[', ']')] {
            assert_eq!(bare.matches(open).count(), bare.matches(close).count());
        }
        for port in ["p1", "p2", "p3", "p4", "p5"] {
            let node = format!("    \"{port}\" [");
            assert_eq!(text.matches(&node).count(), 1, "{port}");
        }
        assert!(text.contains(r#"label="\"]; evil [label=\"\\","#), "{text}");
    }

    #[test]
    fn graphviz_understands_it() {
        let dot_command = Command::new("dot")
            .arg("-Tsvg")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = dot_command else {
            println!("skipped: Graphviz is not installed");
            return;
        };
        let mut stdin = child.stdin.take().unwrap();
        let text = dot(&sheet::example());
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{text}");
        let drawn = String::from_utf8(output.stdout).unwrap();
        assert_eq!(drawn.matches(">web1<").count(), 1, "{drawn}");
    }
}

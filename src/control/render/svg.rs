//! The topology as a picture (SVG 1.1): self-contained, without scripts, for light and dark pages.
//!
//! Ports are on the left in their port groups, the switch is in the middle, uplinks are on the right, and what is behind
//! them further to the right. A port's line goes through the switch to the uplink that carries it, and has its colour.
//! Texts are measured as if all characters were equally wide, as they are in the fonts that are asked for.

use std::fmt::Write;

use crate::control::render::clipped;
use crate::control::render::sheet::{End, Sheet, Way, group_words};
use crate::control::show::topology::Topology;

/// How much is shown of what a neighbour says.
const FOREIGN: usize = 40;
/// How many colours uplinks have.
const COLOURS: usize = 8;
/// The space around everything.
const MARGIN: usize = 16;
/// The height of a line of text.
const ROW: usize = 22;
/// The space between boxes, and within them.
const GAP: usize = 12;
/// The space between columns, for lines.
const LINES: usize = 80;
/// What the name of a switch takes of its height.
const NAME: usize = 34;

/// The colours of uplinks come last, so that they count more than those of boxes on dark pages too.
const STYLE: &str = "
    .page { fill: #ffffff } .box { fill: #f6f8fa; stroke: #8c959f } .switch { fill: #eaeef2; stroke: #57606a; stroke-width: 2 }
    text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328 }
    .title { font-size: 15px; font-weight: bold } .name { font-weight: bold } .fact { fill: #656d76 }
    path { fill: none; stroke: #8c959f; stroke-width: 1.5 } .idle { opacity: 0.45; stroke-dasharray: 4 4 }
    @media (prefers-color-scheme: dark) {
      .page { fill: #16181d } .box { fill: #22262e; stroke: #6b7280 } .switch { fill: #2b303a; stroke: #9aa4b2 }
      text { fill: #e6e6e6 } .fact { fill: #9aa4b2 }
    }
    .on { fill: #2e9e6b } .off { fill: #d64545 } .bad { fill: #d64545 } .down { stroke: #d64545; stroke-dasharray: 4 4 }
    .c0 { stroke: #2f7ed8 } .c1 { stroke: #e08a1e } .c2 { stroke: #2e9e6b } .c3 { stroke: #9b59d0 }
    .c4 { stroke: #c2507a } .c5 { stroke: #1aa5a5 } .c6 { stroke: #8a7a2f } .c7 { stroke: #6b7fd7 }
";

/// A drawing as it grows: what is in it, and how far it reaches.
#[derive(Default)]
struct Canvas {
    body: String,
    width: usize,
    height: usize,
}

/// Draws every network, one below the other.
pub fn svg(topology: &Topology) -> String {
    let mut canvas = Canvas {
        height: MARGIN,
        ..Canvas::default()
    };
    for sheet in Sheet::all(topology) {
        network(&mut canvas, &sheet);
    }
    let (width, height) = (canvas.width + MARGIN, canvas.height);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>vmlan topology</title>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n{}</svg>",
        canvas.body
    )
}

/// Where the middle of a column's things is, and how much room they take.
struct Column {
    heights: Vec<usize>,
}

impl Column {
    fn height(&self) -> usize {
        let gaps = GAP * self.heights.len().saturating_sub(1);
        self.heights.iter().sum::<usize>() + gaps
    }

    /// Returns where each thing begins if all are in the middle of some room.
    fn places(&self, top: usize, room: usize) -> Vec<usize> {
        let mut y = top + room.saturating_sub(self.height()) / 2;
        let place = |height: &usize| {
            let place = y;
            y += height + GAP;
            place
        };
        self.heights.iter().map(place).collect()
    }
}

/// A switch behind uplinks, as it is drawn.
struct Outside<'a> {
    id: &'a str,
    name: String,
    /// Its ports, each with the place of the uplink that leads there.
    wires: Vec<(usize, String)>,
}

/// Where the things of one network are.
struct Layout {
    /// Where everything begins.
    top: usize,
    /// How high the switch is.
    height: usize,
    /// Where the port groups end.
    ports_end: usize,
    /// Where the switch begins and ends.
    switch: usize,
    switch_end: usize,
    /// Where the uplinks begin and end, and at which height each of them is.
    uplinks: usize,
    uplinks_end: usize,
    uplink_tops: Vec<usize>,
    /// Where the switches outside begin, and at which height each of them is.
    outside: usize,
    outside_tops: Vec<usize>,
}

impl Layout {
    fn new(sheet: &Sheet<'_>, outside: &[Outside<'_>], top: usize) -> Self {
        let groups = Column {
            heights: sheet
                .groups
                .iter()
                .map(|(_, ports)| box_height(ports.len()))
                .collect(),
        };
        let ends = Column {
            heights: sheet.uplinks.iter().map(end_height).collect(),
        };
        let switches = Column {
            heights: outside
                .iter()
                .map(|one| box_height(one.wires.len()))
                .collect(),
        };
        let right = ends.height().max(switches.height()) + NAME + GAP;
        let height = groups.height().max(right).max(NAME + ROW);
        let (below, room) = (top + NAME, height - NAME);
        let ports_end = MARGIN + group_width(sheet);
        let switch = ports_end + LINES;
        let switch_end = switch + (measure(&sheet.network.name) + MARGIN * 2).max(100);
        let uplinks = switch_end + LINES;
        let uplinks_end = uplinks + end_width(sheet);
        Self {
            top,
            height,
            ports_end,
            switch,
            switch_end,
            uplinks,
            uplinks_end,
            uplink_tops: ends.places(below, room),
            outside: uplinks_end + LINES,
            outside_tops: switches.places(below, room),
        }
    }

    /// Where lines meet an uplink.
    fn joint(&self, uplink: usize) -> usize {
        self.uplink_tops.get(uplink).map_or(self.top, |y| y + ROW)
    }
}

fn network(canvas: &mut Canvas, sheet: &Sheet<'_>) {
    let top = canvas.height + ROW + GAP;
    let outside = outside(sheet);
    let layout = Layout::new(sheet, &outside, top);
    let name = &sheet.network.name;
    let heading = format!("{name}: {}", sheet.heading());
    canvas.text(MARGIN, top - ROW, "title", &heading);
    let width = layout.switch_end - layout.switch;
    canvas.rect(layout.switch, top, width, layout.height, "switch");
    canvas.centred(layout.switch + width / 2, top + ROW, "name", name);
    ports(canvas, sheet, &layout);
    uplinks(canvas, sheet, &layout);
    let end = switches(canvas, sheet, &outside, &layout);
    canvas.reach(MARGIN + measure(&heading) * 5 / 4);
    canvas.reach(end);
    canvas.height = top + layout.height + MARGIN * 2;
}

fn ports(canvas: &mut Canvas, sheet: &Sheet<'_>, layout: &Layout) {
    let Layout {
        ports_end,
        switch,
        switch_end,
        ..
    } = *layout;
    let middle = usize::midpoint(switch, switch_end);
    let mut y = layout.top;
    for (group, rows) in &sheet.groups {
        let (name, vlan) = group_words(group);
        let height = box_height(rows.len());
        canvas.rect(MARGIN, y, ports_end - MARGIN, height, "box");
        canvas.text(MARGIN + GAP, y + 16, "fact", &format!("{name}, {vlan}"));
        for (row, at) in rows.iter().zip(row_places(y)) {
            let up = row.is_up();
            canvas.dot(MARGIN + GAP + 4, at, up);
            canvas.text(MARGIN + GAP * 2 + 4, at + 4, "name", &row.port.name);
            let facts = format!("{}, {}", row.port.kind, row.port.state);
            let class = if up { "fact" } else { "fact bad" };
            canvas.ending(ports_end - GAP, at + 4, class, &facts);
            let idle = if up { "" } else { " idle" };
            let (class, way) = match row.way {
                Way::One(uplink) => {
                    let joint = layout.joint(uplink);
                    let curve = format!("C{middle} {at} {middle} {joint} {switch_end} {joint}");
                    (format!("c{}{idle}", uplink % COLOURS), curve)
                }
                Way::Lost => ("down".to_owned(), String::new()),
                Way::None | Way::Spread => (format!("any{idle}"), String::new()),
            };
            canvas.path(&class, &format!("M{ports_end} {at}H{switch}{way}"));
        }
        y += height + GAP;
    }
}

fn uplinks(canvas: &mut Canvas, sheet: &Sheet<'_>, layout: &Layout) {
    let Layout {
        switch_end,
        uplinks,
        uplinks_end,
        ..
    } = *layout;
    for ((index, end), y) in sheet.uplinks.iter().enumerate().zip(&layout.uplink_tops) {
        let colour = colour(sheet, index);
        let joint = layout.joint(index);
        canvas.path(&colour, &format!("M{switch_end} {joint}H{uplinks}"));
        let class = format!("box {colour}");
        canvas.rect(uplinks, *y, uplinks_end - uplinks, end_height(end), &class);
        canvas.dot(uplinks + GAP + 4, y + 15, end.is_up());
        canvas.text(uplinks + GAP * 2 + 4, y + 19, "name", &end.uplink.name);
        canvas.text(uplinks + GAP, y + 38, "fact", &end.facts());
        if let Some(trouble) = end.trouble() {
            canvas.text(uplinks + GAP, y + 56, "fact bad", trouble);
        }
    }
}

/// Draws the switches outside; returns where they end.
fn switches(
    canvas: &mut Canvas,
    sheet: &Sheet<'_>,
    outside: &[Outside<'_>],
    layout: &Layout,
) -> usize {
    let texts = |one: &Outside<'_>| {
        let ports = one.wires.iter().map(|(_, port)| measure(port)).max();
        measure(&one.name).max(ports.unwrap_or(0))
    };
    let Some(longest) = outside.iter().map(texts).max() else {
        return layout.uplinks_end;
    };
    let (x, width) = (layout.outside, longest + GAP * 2);
    let (from, between) = (layout.uplinks_end, layout.uplinks_end + LINES / 2);
    for (one, top) in outside.iter().zip(&layout.outside_tops) {
        canvas.rect(x, *top, width, box_height(one.wires.len()), "box");
        canvas.text(x + GAP, top + 17, "name", &one.name);
        for ((uplink, port), y) in one.wires.iter().zip(row_places(*top)) {
            canvas.text(x + GAP, y + 4, "fact", port);
            let joint = layout.joint(*uplink);
            let curve = format!("M{from} {joint}C{between} {joint} {between} {y} {x} {y}");
            canvas.path(&colour(sheet, *uplink), &curve);
        }
    }
    x + width
}

/// What is behind the uplinks, each switch once.
fn outside<'a>(sheet: &Sheet<'a>) -> Vec<Outside<'a>> {
    let mut outside: Vec<Outside<'a>> = Vec::new();
    for (index, end) in sheet.uplinks.iter().enumerate() {
        for (switch, port) in &end.behind {
            let wire = (index, clipped(port, FOREIGN));
            match outside.iter_mut().find(|one| one.id == switch.id) {
                Some(one) => one.wires.push(wire),
                None => outside.push(Outside {
                    id: &switch.id,
                    name: clipped(&switch.name, FOREIGN),
                    wires: vec![wire],
                }),
            }
        }
    }
    outside
}

/// The look of an uplink and its lines.
fn colour(sheet: &Sheet<'_>, uplink: usize) -> String {
    if sheet.uplinks.get(uplink).is_some_and(End::is_up) {
        format!("c{}", uplink % COLOURS)
    } else {
        "down".to_owned()
    }
}

/// How high a box with a heading and some rows is.
const fn box_height(rows: usize) -> usize {
    (rows + 1) * ROW + GAP
}

/// Where the middles of a box's rows are.
fn row_places(top: usize) -> impl Iterator<Item = usize> {
    (1..).map(move |row| top + ROW * row + ROW / 2)
}

fn group_width(sheet: &Sheet<'_>) -> usize {
    let groups = sheet.groups.iter();
    let widths = groups.flat_map(|(group, rows)| {
        let (name, vlan) = group_words(group);
        let facts = |kind: &str, state: &str| measure(kind) + measure(state) + GAP * 6;
        let rows = rows
            .iter()
            .map(move |row| measure(&row.port.name) + facts(&row.port.kind, &row.port.state));
        rows.chain([measure(name) + measure(&vlan) + GAP * 4])
    });
    widths.max().unwrap_or(0).max(200)
}

fn end_width(sheet: &Sheet<'_>) -> usize {
    let widths = sheet.uplinks.iter().flat_map(|end| {
        [
            measure(&end.uplink.name) + GAP,
            measure(&end.facts()),
            end.trouble().map_or(0, measure),
        ]
    });
    widths.max().map_or(0, |width| width + GAP * 2)
}

fn end_height(end: &End<'_>) -> usize {
    if end.trouble().is_some() {
        ROW * 3
    } else {
        ROW * 2 + 4
    }
}

/// How wide a text is.
fn measure(text: &str) -> usize {
    text.chars().count() * 15 / 2
}

impl Canvas {
    /// Adds a line of the body.
    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{line}");
    }

    fn rect(&mut self, x: usize, y: usize, width: usize, height: usize, class: &str) {
        self.add(format_args!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"5\"/>"
        ));
    }

    fn text(&mut self, x: usize, y: usize, class: &str, text: &str) {
        let text = escaped(text);
        self.add(format_args!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{text}</text>"
        ));
    }

    fn centred(&mut self, x: usize, y: usize, class: &str, text: &str) {
        let text = escaped(text);
        self.add(format_args!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>"
        ));
    }

    fn ending(&mut self, x: usize, y: usize, class: &str, text: &str) {
        let text = escaped(text);
        self.add(format_args!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{text}</text>"
        ));
    }

    /// Makes sure that what is there can be seen.
    fn reach(&mut self, x: usize) {
        self.width = self.width.max(x);
    }

    fn dot(&mut self, x: usize, y: usize, up: bool) {
        let class = if up { "on" } else { "off" };
        self.add(format_args!(
            "<circle class=\"{class}\" cx=\"{x}\" cy=\"{y}\" r=\"4\"/>"
        ));
    }

    fn path(&mut self, class: &str, steps: &str) {
        self.add(format_args!("<path class=\"{class}\" d=\"{steps}\"/>"));
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            // XML has no way to write these.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::render::sheet;
    use crate::control::show::topology::{Edge, EdgeKind, Node, Port};

    /// Reads the elements: their tags in order, and the texts between them. Fails where they are not balanced.
    fn read(text: &str) -> (Vec<String>, Vec<String>) {
        let (mut open, mut tags, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for part in text.split('<').skip(1) {
            let (tag, after) = part.split_once('>').expect("every tag ends");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            assert!(!after.contains('>'), "{after}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
            } else {
                let name = tag.split([' ', '/']).next().unwrap().to_owned();
                if !tag.ends_with('/') {
                    open.push(name.clone());
                }
                tags.push(name);
            }
            texts.push(after.trim().to_owned());
        }
        assert_eq!(open, [""; 0]);
        (tags, texts)
    }

    #[test]
    fn every_port_is_drawn_once_and_no_name_becomes_an_element() {
        let text = svg(&sheet::example());
        let (tags, texts) = read(&text);
        let known = ["svg", "title", "style", "rect", "text", "path", "circle"];
        assert!(
            tags.iter().all(|tag| known.contains(&tag.as_str())),
            "{text}"
        );
        for name in ["web1", "web2", "br0", "db", "gateway", "eth1", "eth2"] {
            let count = texts.iter().filter(|text| *text == name).count();
            assert_eq!(count, 1, "{name} in\n{text}");
        }
        let hostile = "&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;";
        assert!(texts.iter().any(|text| text == hostile), "{text}");
        assert!(
            texts.iter().any(|text| text == "]]&gt;&amp;amp; (CDP)"),
            "{text}"
        );
    }

    #[test]
    fn a_port_has_the_colour_of_the_uplink_that_carries_it() {
        let text = svg(&sheet::example());
        assert_eq!(text.matches("<path class=\"c0\" ").count(), 4, "{text}");
        assert_eq!(
            text.matches("<path class=\"c0 idle\" ").count(),
            1,
            "{text}"
        );
        assert_eq!(text.matches("<path class=\"down\" ").count(), 2, "{text}");
        assert_eq!(text, svg(&sheet::example()), "it is the same each time");
    }

    #[test]
    fn fifty_ports_have_a_line_each_and_do_not_overlap() {
        let mut topology = sheet::example();
        for number in 0..50 {
            let id = format!("many{number}");
            topology.nodes.push(Node::Port(Port {
                id: id.clone(),
                network: "vmnet0".to_owned(),
                name: id.clone(),
                kind: "guest".to_owned(),
                state: "up".to_owned(),
                mac: None,
            }));
            for (kind, to) in [(EdgeKind::Member, "g1"), (EdgeKind::Carried, "u2")] {
                topology.edges.push(Edge {
                    kind,
                    from: id.clone(),
                    to: to.to_owned(),
                    up: true,
                    label: None,
                });
            }
        }
        let text = svg(&topology);
        let lines: Vec<_> = text.lines().filter(|line| line.contains(">many")).collect();
        let places: std::collections::BTreeSet<_> = lines
            .iter()
            .map(|line| {
                line.split_once("y=\"")
                    .unwrap()
                    .1
                    .split_once('"')
                    .unwrap()
                    .0
            })
            .collect();
        assert_eq!((lines.len(), places.len()), (50, 50));
        assert_eq!(text.matches("<path class=\"c1\" ").count(), 50);
    }

    #[test]
    fn what_xml_cannot_say_is_replaced() {
        assert_eq!(
            escaped("a\u{0}b\u{1b}\u{ffff}"),
            "a\u{fffd}b\u{fffd}\u{fffd}"
        );
    }
}

//! The multicast groups as a table.

use crate::control::render::{finished, right, span, table};
use crate::control::show::group::Group;

/// How many characters of port names there are on a line.
const WIDTH: usize = 44;

/// Draws the multicast groups.
pub fn groups(groups: &[Group]) -> String {
    let mut table = table(&["NETWORK", "VLAN", "GROUP", "EXPIRES", "PORTS"]);
    for group in groups {
        let vlan = match group.vlan {
            0 => "-".to_owned(),
            vlan => vlan.to_string(),
        };
        let mut lines = lines(&group.ports).into_iter();
        table.add_row([
            group.network.clone(),
            vlan,
            group.group.clone(),
            span(group.expires_s),
            lines.next().unwrap_or_default(),
        ]);
        for line in lines {
            table.add_row(["", "", "", "", &line]);
        }
    }
    right(&mut table, &[1, 3]);
    finished(&table)
}

/// Names, with commas between them, on as many lines as it takes.
fn lines(names: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let comma = if index + 1 < names.len() { "," } else { "" };
        match lines.last_mut() {
            Some(line) if line.len() + name.len() + 2 <= WIDTH => {
                *line += &format!(" {name}{comma}");
            }
            Some(_) | None => lines.push(format!("{name}{comma}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_ports_take_several_lines() {
        let group = |vlan, group: &str, ports: usize| Group {
            network: "vmnet0".to_owned(),
            vlan,
            group: group.to_owned(),
            ports: (1..=ports).map(|port| format!("web{port}")).collect(),
            expires_s: 250,
        };
        let text = groups(&[group(0, "239.1.2.3", 1), group(10, "ff05::101", 9)]);
        let expected = "\
NETWORK  VLAN  GROUP      EXPIRES  PORTS
vmnet0      -  239.1.2.3    4 min  web1
vmnet0     10  ff05::101    4 min  web1, web2, web3, web4, web5, web6, web7,
                                   web8, web9";
        assert_eq!(text, expected, "\n{text}");
    }
}

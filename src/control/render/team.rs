//! The teams as tables: policies, uplinks and what is behind them, and who is carried by which.

use crate::control::render::{clipped, finished, or_dash, right, span, speed, table};
use crate::control::show::team::{
    Carried, Driver, Lacp, Neighbour, Participant, Policy, Team, Uplink,
};
use crate::net::vlan::{VlanId, VlanSet};

/// How much is shown of what a neighbour says.
const FOREIGN: usize = 40;

/// Draws the teams, one after the other.
pub fn teams(teams: &[Team]) -> String {
    teams.iter().map(team).collect::<Vec<_>>().join("\n\n\n")
}

/// Draws the teams at a glance.
pub(super) fn glance(teams: &[Team]) -> String {
    let mut table = table(&["TEAM OF", "BALANCING", "UPLINK", "LINK", "ROLE", "IN USE"]);
    for team in teams {
        for uplink in &team.uplinks {
            table.add_row([
                &team.network,
                &team.load_balancing,
                &uplink.name,
                &uplink.link,
                &uplink.role,
                yes(uplink.in_use),
            ]);
        }
    }
    let mut lines = vec![finished(&table)];
    lines.extend(teams.iter().flat_map(|team| drivers(&team.uplinks)));
    lines.join("\n")
}

/// Says by what means the frames of each uplink come and go, and why.
fn drivers(uplinks: &[Uplink]) -> impl Iterator<Item = String> {
    uplinks.iter().filter_map(|uplink| {
        let Driver { name, why } = uplink.driver.as_ref()?;
        Some(format!("  {} uses {name}: {why}", uplink.name))
    })
}

fn team(team: &Team) -> String {
    let mut parts = vec![
        policies(&team.network, &team.policies),
        uplinks(&team.uplinks),
    ];
    if !team.ports.is_empty() {
        parts.push(carried(&team.ports));
    }
    if !team.advisories.is_empty() {
        let lines = team
            .advisories
            .iter()
            .map(|text| format!("! {}: {text}", team.network));
        parts.push(lines.collect::<Vec<_>>().join("\n"));
    }
    parts.join("\n\n")
}

fn policies(network: &str, policies: &[Policy]) -> String {
    let mut table = table(&[
        "TEAM OF",
        "GROUP",
        "BALANCING",
        "DETECTION",
        "NOTIFY",
        "FAILBACK",
        "FILTER",
        "ACTIVE",
        "STANDBY",
    ]);
    for policy in policies {
        let balancing = match &policy.hash {
            Some(hash) => format!("{} {hash}", policy.load_balancing),
            None => policy.load_balancing.clone(),
        };
        table.add_row([
            network,
            policy.port_group.as_deref().unwrap_or("-"),
            &balancing,
            &policy.failure_detection,
            yes(policy.notify_switches),
            yes(policy.failback),
            yes(policy.reverse_filter),
            &list(&policy.active),
            &list(&policy.standby),
        ]);
    }
    let mut text = finished(&table);
    for policy in policies.iter().filter(|policy| policy.ambiguous) {
        let of = policy.port_group.as_deref().unwrap_or(network);
        let used = list(&policy.in_use);
        text += &format!("\n  {of} sends each frame by {used}: it is not known which works");
    }
    text
}

fn uplinks(uplinks: &[Uplink]) -> String {
    let mut table = table(&[
        "UPLINK", "LINK", "ROLE", "IN USE", "SPEED", "SINCE", "MAC", "STATE",
    ]);
    for uplink in uplinks {
        table.add_row([
            uplink.name.clone(),
            uplink.link.clone(),
            uplink.role.clone(),
            yes(uplink.in_use).to_owned(),
            uplink.speed.map_or_else(|| "-".to_owned(), speed),
            span(uplink.since_s),
            uplink.mac.clone(),
            uplink.state.clone(),
        ]);
    }
    right(&mut table, &[4, 5]);
    let mut lines = vec![finished(&table)];
    lines.extend(drivers(uplinks));
    for uplink in uplinks {
        let name = &uplink.name;
        lines.extend(
            uplink
                .neighbours
                .iter()
                .map(|one| format!("  {name} leads to {}", neighbour(one))),
        );
        if !uplink.vlans.is_empty() {
            let vlans = uplink.vlans.iter().copied().filter_map(VlanId::new);
            lines.push(format!(
                "  {name} brings VLAN {}",
                vlans.collect::<VlanSet>()
            ));
        }
        if let Some(state) = &uplink.lacp {
            lines.extend(lacp(name, state));
        }
    }
    lines.join("\n")
}

fn neighbour(one: &Neighbour) -> String {
    let mut text = format!(
        "{} port {} ({})",
        clipped(one.name(), FOREIGN),
        clipped(&one.port, FOREIGN),
        one.protocol.to_uppercase()
    );
    if let Some(vlan) = one.vlan {
        text += &format!(", untagged VLAN {vlan}");
    }
    text
}

fn lacp(name: &str, state: &Lacp) -> Vec<String> {
    let fallback = if state.fallback {
        ", carries without a partner"
    } else {
        ""
    };
    let mut lines = vec![format!(
        "  {name} LACP: {}, {}{fallback}; says {}",
        words(&state.selection),
        words(&state.mux),
        flags(&state.actor)
    )];
    if let Some(partner) = &state.partner {
        lines.push(format!(
            "  {name} LACP partner {} key {} port {}; says {}",
            partner.system,
            partner.key,
            partner.port,
            flags(partner)
        ));
    }
    lines
}

fn carried(ports: &[Carried]) -> String {
    let mut table = table(&["PORT", "GROUP", "UPLINK", "SINCE", "WHY"]);
    for port in ports {
        table.add_row([
            port.port.clone(),
            or_dash(port.port_group.as_deref()),
            or_dash(port.uplink.as_deref()),
            span(port.since_s),
            port.why.clone(),
        ]);
    }
    right(&mut table, &[3]);
    finished(&table)
}

fn flags(end: &Participant) -> String {
    match end.state.as_slice() {
        [] => "nothing".to_owned(),
        state => words(&state.join(", ")),
    }
}

fn words(word: &str) -> String {
    word.replace('_', " ")
}

fn list(names: &[String]) -> String {
    match names {
        [] => "-".to_owned(),
        names => names.join(" "),
    }
}

const fn yes(so: bool) -> &'static str {
    if so { "yes" } else { "no" }
}

/// A team with two uplinks, the second of which has no link.
#[cfg(test)]
pub(in crate::control) fn example() -> Team {
    let text = r#"{
      "network": "vmnet0", "load_balancing": "port-id",
      "policies": [
        { "port_group": null, "load_balancing": "port-id", "hash": null, "failure_detection": "link",
          "notify_switches": true, "failback": true, "reverse_filter": true,
          "active": ["eth1", "eth2"], "standby": [], "in_use": ["eth1"], "ambiguous": false },
        { "port_group": "storage", "load_balancing": "explicit", "hash": null, "failure_detection": "beacon",
          "notify_switches": true, "failback": false, "reverse_filter": true,
          "active": ["eth2"], "standby": ["eth1"], "in_use": ["eth1"], "ambiguous": true }
      ],
      "uplinks": [
        { "name": "eth1", "link": "up", "role": "active", "in_use": true, "state": "works", "since_s": 4000,
          "mac": "52:54:00:00:00:01", "speed": 10000000000,
          "driver": { "name": "af_packet", "why": "as configured" }, "vlans": [10, 20, 21, 22], "lacp": null,
          "neighbours": [
            { "protocol": "lldp", "chassis": "00:1b:21:aa:bb:cc", "port": "Gi1/0/3", "port_description": null,
              "system": "switch1", "system_description": "a switch", "address": "10.0.0.2", "vlan": 1,
              "mtu": 9216, "seen_s": 3, "expires_s": 117 }
          ] },
        { "name": "eth2", "link": "down", "role": "active", "in_use": false, "state": "no link, or gone",
          "since_s": 61, "mac": "52:54:00:00:00:02", "speed": null, "vlans": [], "neighbours": [], "lacp": null }
      ],
      "ports": [
        { "port": "web1", "port_group": "prod", "policy": null, "uplink": "eth1", "since_s": 61,
          "why": "its own does not work" },
        { "port": "db", "port_group": "storage", "policy": "storage", "uplink": null, "since_s": 61,
          "why": "by each, since it is not known which works" }
      ],
      "advisories": ["uplink eth2 has no link, or is gone"]
    }"#;
    serde_json::from_str(text).expect("it is in order")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_is_read_in_100_columns() {
        let text = teams(&[example()]);
        let expected = "\
TEAM OF  GROUP    BALANCING  DETECTION  NOTIFY  FAILBACK  FILTER  ACTIVE     STANDBY
vmnet0   -        port-id    link       yes     yes       yes     eth1 eth2  -
vmnet0   storage  explicit   beacon     yes     no        yes     eth2       eth1
  storage sends each frame by eth1: it is not known which works

UPLINK  LINK  ROLE    IN USE    SPEED      SINCE  MAC                STATE
eth1    up    active  yes     10 Gb/s  1 h 6 min  52:54:00:00:00:01  works
eth2    down  active  no            -      1 min  52:54:00:00:00:02  no link, or gone
  eth1 uses af_packet: as configured
  eth1 leads to switch1 port Gi1/0/3 (LLDP), untagged VLAN 1
  eth1 brings VLAN 10,20-22

PORT  GROUP    UPLINK  SINCE  WHY
web1  prod     eth1    1 min  its own does not work
db    storage  -       1 min  by each, since it is not known which works

! vmnet0: uplink eth2 has no link, or is gone";
        assert!(text.lines().all(|line| line.chars().count() <= 100));
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn what_lacp_has_come_to_is_told_at_each_uplink() {
        let end = |state: &[&str]| Participant {
            system_priority: 1,
            system: "00:1b:21:aa:bb:cc".to_owned(),
            key: 7,
            port_priority: 2,
            port: 3,
            state: state.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        let mut state = Lacp {
            selection: "selected".to_owned(),
            receive: "current".to_owned(),
            mux: "distributing".to_owned(),
            fallback: false,
            actor: end(&["active", "in_sync", "collecting"]),
            partner: Some(end(&["short_timeout"])),
            pdus_received: 1,
            pdus_sent: 2,
            markers: 0,
            pdus_ignored: 0,
        };
        assert_eq!(
            lacp("eth1", &state),
            [
                "  eth1 LACP: selected, distributing; says active, in sync, collecting",
                "  eth1 LACP partner 00:1b:21:aa:bb:cc key 7 port 3; says short timeout"
            ]
        );
        state.partner = None;
        state.selection = "no_partner".to_owned();
        state.fallback = true;
        state.actor.state.clear();
        assert_eq!(
            lacp("eth1", &state),
            ["  eth1 LACP: no partner, distributing, carries without a partner; says nothing"]
        );
    }
}

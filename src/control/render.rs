//! What is shown, as tables and drawings for people.

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table};

use crate::control::show::topology::Topology;
use crate::control::show::{Address, Lease, Network, Port, Status};
use crate::control::timestamp;

pub mod dot;
pub mod group;
pub mod nat;
mod sheet;
pub mod svg;
pub mod team;
pub mod topology;

/// How to draw a topology.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Drawing {
    /// Characters
    #[default]
    Text,
    /// The language of Graphviz
    Dot,
    /// A picture
    Svg,
}

impl Drawing {
    /// Draws what is connected to what.
    pub fn draw(self, topology: &Topology) -> String {
        match self {
            Self::Text => topology::topology(topology),
            Self::Dot => dot::dot(topology),
            Self::Svg => svg::svg(topology),
        }
    }
}

/// Draws everything at a glance.
pub fn status(status: &Status) -> String {
    let mut parts = vec![format!(
        "vmlan {}, up for {}",
        status.version,
        uptime(status.uptime_s)
    )];
    parts.push(networks(&status.networks, &status.ports, &status.leases));
    if !status.ports.is_empty() {
        parts.push(ports(&status.ports));
    }
    if !status.teams.is_empty() {
        parts.push(team::glance(&status.teams));
    }
    let translators: Vec<_> = status
        .networks
        .iter()
        .filter_map(|network| network.nat.clone())
        .collect();
    if !translators.is_empty() {
        parts.push(nat::glance(&translators));
    }
    let advisories = status.networks.iter().flat_map(|network| {
        network
            .advisories
            .iter()
            .map(move |text| format!("! {}: {text}", network.name))
    });
    let advisories: Vec<_> = advisories.collect();
    if !advisories.is_empty() {
        parts.push(advisories.join("\n"));
    }
    parts.join("\n\n")
}

/// Draws the ports.
pub fn ports(ports: &[Port]) -> String {
    let mut table = table(&[
        "PORT", "NETWORK", "GROUP", "KIND", "STATE", "MAC", "IN", "OUT", "DROPS",
    ]);
    for port in ports {
        table.add_row([
            port.name.clone(),
            port.network.clone(),
            or_dash(port.port_group.as_deref()),
            port.kind.clone(),
            port.state.clone(),
            or_dash(port.mac.as_deref()),
            count(port.ingress_frames),
            count(port.egress_frames),
            count(port.drops.values().sum()),
        ]);
    }
    right(&mut table, &[6, 7, 8]);
    let mut text = finished(&table);
    for port in ports {
        let drops = port
            .drops
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect::<Vec<_>>()
            .join(", ");
        if !drops.is_empty() {
            text += &format!("\n  {} dropped {drops}", port.name);
        }
    }
    text
}

/// Draws the forwarding tables.
pub fn fdb(addresses: &[Address]) -> String {
    let mut table = table(&["NETWORK", "VLAN", "MAC", "PORT", "AGE"]);
    for address in addresses {
        let vlan = if address.vlan == 0 {
            "-".to_owned()
        } else {
            address.vlan.to_string()
        };
        let age = address
            .age_s
            .map_or_else(|| "fixed".to_owned(), |age| format!("{age} s"));
        table.add_row([
            address.network.clone(),
            vlan,
            address.mac.clone(),
            address.port.clone(),
            age,
        ]);
    }
    right(&mut table, &[1, 4]);
    finished(&table)
}

/// Draws the leases.
pub fn leases(leases: &[Lease]) -> String {
    let mut table = table(&["NETWORK", "IP", "MAC", "HOSTNAME", "EXPIRES"]);
    for lease in leases {
        table.add_row([
            lease.network.clone(),
            lease.ip.clone(),
            lease.mac.clone(),
            or_dash(lease.hostname.as_deref()),
            lease.expires.clone(),
        ]);
    }
    finished(&table)
}

/// Writes the leases as dnsmasq does: the end in seconds since 1970, MAC, address, name and client identifier.
pub fn dnsmasq(leases: &[Lease]) -> String {
    let or_star = |text: &Option<String>| text.clone().unwrap_or_else(|| "*".to_owned());
    let line = |lease: &Lease| {
        let expires = timestamp::parse(&lease.expires).map_or(0, timestamp::seconds);
        format!(
            "{expires} {} {} {} {}",
            lease.mac,
            lease.ip,
            or_star(&lease.hostname),
            or_star(&lease.client_id)
        )
    };
    leases.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn networks(networks: &[Network], ports: &[Port], leases: &[Lease]) -> String {
    let mut table = table(&["NETWORK", "MODE", "SUBNET", "MTU", "GUESTS UP", "LEASES"]);
    for network in networks {
        let guests: Vec<_> = ports
            .iter()
            .filter(|port| port.network == network.name && port.kind == "guest")
            .collect();
        let up = guests.iter().filter(|port| port.state == "up").count();
        let leases = leases
            .iter()
            .filter(|lease| lease.network == network.name)
            .count();
        table.add_row([
            network.name.clone(),
            network.mode.clone(),
            or_dash(network.subnet.as_deref()),
            network.mtu.to_string(),
            format!("{up} of {}", guests.len()),
            leases.to_string(),
        ]);
    }
    right(&mut table, &[3, 4, 5]);
    finished(&table)
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().copied());
    table
}

fn right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn finished(table: &Table) -> String {
    table
        .lines()
        .map(|line| {
            line.strip_prefix(' ')
                .unwrap_or(&line)
                .trim_end()
                .to_owned()
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

/// A count in at most six characters, rounded down.
fn count(count: u64) -> String {
    let units = [
        ("T", 1_000_000_000_000),
        ("G", 1_000_000_000),
        ("M", 1_000_000),
        ("k", 1_000),
    ];
    match units.into_iter().find(|(_, unit)| count >= *unit) {
        Some((name, unit)) if count >= 10_000 => {
            format!("{}.{}{name}", count / unit, count % unit * 10 / unit)
        }
        Some(_) | None => count.to_string(),
    }
}

/// A time that has passed or is to pass, in its two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time that ran is not negative, and casts saturate"
)]
fn uptime(seconds: f64) -> String {
    span(seconds as u64)
}

/// A speed in bits a second, as adapters are sold.
fn speed(bits: u64) -> String {
    let units = [
        ("Tb/s", 1_000_000_000_000),
        ("Gb/s", 1_000_000_000),
        ("Mb/s", 1_000_000),
        ("kb/s", 1_000),
    ];
    match units.into_iter().find(|(_, unit)| bits >= *unit) {
        Some((name, unit)) => match bits % unit * 10 / unit {
            0 => format!("{} {name}", bits / unit),
            tenths => format!("{}.{tenths} {name}", bits / unit),
        },
        None => format!("{bits} b/s"),
    }
}

/// Cuts what somebody else wrote to a length in characters.
fn clipped(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        None => text.to_owned(),
        Some(_) => {
            let kept: String = text.chars().take(length.saturating_sub(1)).collect();
            format!("{}…", kept.trim_end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn port(name: &str) -> Port {
        Port {
            name: name.to_owned(),
            network: "vmnet1".to_owned(),
            port_group: None,
            kind: "guest".to_owned(),
            state: "connected".to_owned(),
            mac: Some("52:54:00:12:34:56".to_owned()),
            socket: Some("/run/vmlan/web1.sock".to_owned()),
            queues: Some(1),
            features: Vec::new(),
            ingress_frames: 12_345_678,
            ingress_bytes: 0,
            egress_frames: 999,
            egress_bytes: 0,
            drops: BTreeMap::from([
                ("vlan_not_allowed".to_owned(), 2),
                ("no_buffer".to_owned(), 3),
            ]),
        }
    }

    fn lease(hostname: Option<&str>) -> Lease {
        Lease {
            network: "vmnet1".to_owned(),
            ip: "192.168.81.128".to_owned(),
            mac: "52:54:00:12:34:56".to_owned(),
            hostname: hostname.map(str::to_owned),
            client_id: None,
            expires: "2025-07-14T09:30:00Z".to_owned(),
        }
    }

    #[test]
    fn status_is_read_at_a_glance_in_100_columns() {
        let network = Network {
            name: "vmnet1".to_owned(),
            mode: "host-only".to_owned(),
            subnet: Some("192.168.81.0/24".to_owned()),
            mtu: 1500,
            advisories: vec!["the DHCP pool is exhausted".to_owned()],
            prefix: None,
            nat: None,
        };
        let all = Status {
            version: "0.1.0".to_owned(),
            uptime_s: 4_000.5,
            networks: vec![network],
            ports: vec![port("web1"), port("db")],
            teams: vec![team::example()],
            leases: vec![lease(None)],
        };
        let text = status(&all);
        let expected = "\
vmlan 0.1.0, up for 1 h 6 min

NETWORK  MODE       SUBNET            MTU  GUESTS UP  LEASES
vmnet1   host-only  192.168.81.0/24  1500     0 of 2       1

PORT  NETWORK  GROUP  KIND   STATE      MAC                   IN  OUT  DROPS
web1  vmnet1   -      guest  connected  52:54:00:12:34:56  12.3M  999      5
db    vmnet1   -      guest  connected  52:54:00:12:34:56  12.3M  999      5
  web1 dropped 3 no_buffer, 2 vlan_not_allowed
  db dropped 3 no_buffer, 2 vlan_not_allowed

TEAM OF  BALANCING  UPLINK  LINK  ROLE    IN USE
vmnet0   port-id    eth1    up    active  yes
vmnet0   port-id    eth2    down  active  no
  eth1 uses af_packet: as configured

! vmnet1: the DHCP pool is exhausted";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn dnsmasq_has_five_columns() {
        let text = dnsmasq(&[lease(Some("web1")), lease(None)]);
        assert_eq!(
            text,
            "1752485400 52:54:00:12:34:56 192.168.81.128 web1 *\n1752485400 52:54:00:12:34:56 192.168.81.128 * *"
        );
    }

    #[test]
    fn speeds_have_the_unit_in_which_adapters_are_sold() {
        assert_eq!(
            [0, 10_000, 100_000_000, 2_500_000_000, 25_000_000_000].map(speed),
            ["0 b/s", "10 kb/s", "100 Mb/s", "2.5 Gb/s", "25 Gb/s"]
        );
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(clipped("Gi1/0/3", 7), "Gi1/0/3");
        assert_eq!(clipped("Gi1/0/31", 7), "Gi1/0/…");
        assert_eq!(clipped("ééé éé", 5), "ééé…");
        assert_eq!(clipped("", 0), "");
    }

    #[test]
    fn counts_stay_short() {
        assert_eq!(
            [0, 9_999, 10_000, 12_345_678, u64::MAX].map(count),
            ["0", "9999", "10.0k", "12.3M", "18446744.0T"]
        );
    }
}

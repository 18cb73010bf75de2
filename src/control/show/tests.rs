//! What is shown of snapshots made by hand.

use std::path::Path;

use super::*;
use crate::control::config::File;
use crate::control::problem::Problems;
use crate::control::show::topology::{EdgeKind, Node, Topology, topology};
use crate::net::multicast::GroupRow;
use crate::net::neighbours::{Neighbour, Protocol};
use crate::net::team::lacp::{self, Counters, Mux, Receive, Selection};
use crate::net::team::view::{CarriedView, PolicyView, TeamView, UplinkView};
use crate::net::team::{Detection, Hash, LoadBalancing};
use crate::ports::PortState;
use crate::wire::ethernet::MacAddr;
use crate::wire::lacp::{Participant, State};

const SECOND: Duration = Duration::from_secs(1);

fn plan() -> Plan {
    let text = "[network.lan]\nmode = \"bridged\"\nteam.active = [\"eth1\"]\n[network.lab]\nmode = \"isolated\"\n";
    let mut problems = Problems::default();
    let file = File::read(text, &mut problems);
    let (runtime, state) = (Path::new("/run/vmlan"), Path::new("/var/lib/vmlan"));
    let plan = Plan::new(&file, runtime, state, &mut problems);
    assert_eq!(problems.errors(), []);
    plan
}

fn port(id: u16, name: &str, group: Option<&str>, kind: &'static str) -> PortSnapshot {
    PortSnapshot {
        id: PortId(id),
        name: name.to_owned(),
        port_group: group.map(str::to_owned),
        vlan: group.map_or("untagged", |_| "10").to_owned(),
        kind,
        state: PortState::Up,
        mac: None,
        features: Vec::new(),
        driver: None,
        ingress: crate::engine::Count::default(),
        egress: crate::engine::Count::default(),
        drops: BTreeMap::new(),
    }
}

fn policy(group: Option<&str>, load_balancing: LoadBalancing, used: &[u16]) -> PolicyView {
    PolicyView {
        port_group: group.map(str::to_owned),
        load_balancing,
        detection: Detection::Beacon,
        notify_switches: true,
        failback: false,
        reverse_filter: true,
        active: vec!["eth1".to_owned()],
        standby: group.map_or_else(Vec::new, |_| vec!["eth2".to_owned()]),
        used: used.iter().copied().map(PortId).collect(),
        ambiguous: false,
    }
}

fn neighbour(protocol: Protocol, chassis: &str, port: &str, now: Instant) -> Neighbour {
    Neighbour {
        protocol,
        chassis: chassis.to_owned(),
        port: port.to_owned(),
        port_description: None,
        system: Some("switch1".to_owned()),
        system_description: None,
        address: None,
        vlan: Some(1),
        mtu: None,
        seen: now - SECOND * 3,
        expires: now + SECOND * 117,
    }
}

fn uplink(id: u16, name: &str, link: bool, neighbours: Vec<Neighbour>) -> UplinkView {
    UplinkView {
        port: PortId(id),
        name: name.to_owned(),
        link,
        state: "works",
        since: SECOND * 5,
        mac: MacAddr([2; 6]),
        speed: Some(10_000_000_000),
        vlans: vec![10],
        neighbours,
        lacp: None,
    }
}

fn carried(id: u16, policy: usize, uplink: Option<u16>) -> CarriedView {
    CarriedView {
        port: PortId(id),
        policy,
        uplink: uplink.map(PortId),
        since: SECOND * 7,
        why: "by its number",
    }
}

/// Two networks: one with a team of three uplinks, the last of which no policy names, and one without.
fn snapshot(now: Instant) -> Snapshot {
    let twice = vec![
        neighbour(Protocol::Lldp, "00:1b", "Gi1/0/3", now),
        neighbour(Protocol::Cdp, "switch1.example", "Gi1/0/3", now),
    ];
    let network = |name: &str, ports, team, groups| NetworkSnapshot {
        name: name.to_owned(),
        advisories: Vec::new(),
        ports,
        leases: Vec::new(),
        fdb: Vec::new(),
        team,
        groups,
        nat: None,
    };
    let team = TeamView {
        policies: vec![
            policy(None, LoadBalancing::PortId, &[1]),
            policy(Some("prod"), LoadBalancing::Lacp(Hash::Layer34), &[1, 2]),
        ],
        uplinks: vec![
            uplink(1, "eth1", true, twice),
            uplink(
                2,
                "eth2",
                true,
                vec![neighbour(Protocol::Lldp, "00:1b", "Gi1/0/4", now)],
            ),
            uplink(3, "eth3", false, Vec::new()),
        ],
        ports: vec![carried(4, 0, Some(1)), carried(5, 1, None)],
        advisories: vec!["it is so".to_owned()],
    };
    let group = GroupRow {
        vlan: 10,
        group: [239, 1, 2, 3].into(),
        ports: vec![PortId(5), PortId(9)],
        expires: now + SECOND * 250,
    };
    let uplinks = [(1, "eth1"), (2, "eth2"), (3, "eth3")];
    let mut ports: Vec<_> = uplinks
        .iter()
        .map(|(id, name)| port(*id, name, None, "uplink"))
        .collect();
    ports.push(port(4, "br0", None, "host"));
    ports.push(port(5, "web1", Some("prod"), "guest"));
    let lab = vec![port(6, "db", None, "guest")];
    Snapshot {
        networks: vec![
            network("lan", ports, Some(team), vec![group]),
            network("lab", lab, None, Vec::new()),
        ],
    }
}

fn drawn(now: Instant) -> Topology {
    let snapshot = snapshot(now);
    topology(&plan(), &snapshot, &team::teams(&snapshot, now))
}

#[test]
fn a_team_has_what_it_always_had_and_more() {
    let now = Instant::now() + SECOND * 10;
    let snapshot = snapshot(now);
    let status = status(&plan(), &snapshot, SECOND, now);
    let json = serde_json::to_value(&status).unwrap();
    let team = &json["teams"][0];
    assert_eq!(json["teams"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&team["network"], &team["load_balancing"]),
        (&"lan".into(), &"port-id".into())
    );
    let uplinks = team["uplinks"].as_array().unwrap();
    let facts: Vec<_> = uplinks
        .iter()
        .map(|uplink| {
            let word = |key: &str| uplink[key].as_str().unwrap();
            (
                word("name"),
                word("link"),
                word("role"),
                uplink["in_use"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        facts,
        [
            ("eth1", "up", "active", true),
            ("eth2", "up", "standby", true),
            ("eth3", "down", "unused", false)
        ]
    );
    assert_eq!(
        (&uplinks[0]["speed"], &uplinks[0]["since_s"]),
        (&10_000_000_000_u64.into(), &5.into())
    );
    let neighbour = &uplinks[0]["neighbours"][0];
    assert_eq!(
        (&neighbour["protocol"], &neighbour["seen_s"]),
        (&"lldp".into(), &3.into())
    );
    assert_eq!(neighbour["expires_s"], 117);
    assert_eq!(team["policies"][1]["hash"], "layer3+4");
    assert_eq!(
        team["policies"][1]["in_use"],
        serde_json::json!(["eth1", "eth2"])
    );
    let ports = &team["ports"];
    assert_eq!(
        (&ports[0]["port"], &ports[0]["uplink"]),
        (&"br0".into(), &"eth1".into())
    );
    assert_eq!(
        (&ports[1]["policy"], &ports[1]["uplink"]),
        (&"prod".into(), &().into())
    );
}

#[test]
fn what_lacp_says_is_told_in_words() {
    let end = |state| Participant {
        system_priority: 1,
        system: MacAddr([2; 6]),
        key: 3,
        port_priority: 4,
        port: 5,
        state,
    };
    let now = Instant::now();
    let mut snapshot = snapshot(now);
    let team = snapshot.networks[0].team.as_mut().unwrap();
    team.uplinks[0].lacp = Some(lacp::Status {
        receive: Receive::Disabled,
        mux: Mux::Attached,
        selection: Selection::NoPartner,
        fallback: true,
        actor: end(State::TIMEOUT | State::SYNCHRONIZATION),
        partner: None,
        counters: Counters::default(),
    });
    let lacp = team::teams(&snapshot, now)[0].uplinks[0]
        .lacp
        .clone()
        .unwrap();
    assert_eq!(
        (
            lacp.selection.as_str(),
            lacp.receive.as_str(),
            lacp.mux.as_str()
        ),
        ("no_partner", "port_disabled", "attached")
    );
    assert_eq!(lacp.actor.state, ["short_timeout", "in_sync"]);
    assert_eq!((lacp.partner, lacp.fallback), (None, true));
}

#[test]
fn groups_name_their_ports_and_those_that_are_gone_by_number() {
    let now = Instant::now();
    let groups = group::groups(&snapshot(now), now);
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].ports, ["web1", "port 9"]);
    assert_eq!(
        (groups[0].group.as_str(), groups[0].expires_s),
        ("239.1.2.3", 250)
    );
}

#[test]
fn a_topology_has_every_thing_once_and_every_edge_between_two_things() {
    let topology = drawn(Instant::now() + SECOND * 10);
    let ids: Vec<_> = topology.nodes.iter().map(Node::id).collect();
    assert_eq!(
        ids,
        [
            "network/lan",
            "port_group/lan/prod/10",
            "port/lan/web1",
            "port_group/lan//untagged",
            "port/lan/br0",
            "uplink/lan/eth1",
            "switch/lldp/00:1b",
            "uplink/lan/eth2",
            "uplink/lan/eth3",
            "network/lab",
            "port_group/lab//untagged",
            "port/lab/db",
        ],
        "a switch that speaks LLDP and CDP, and to which two uplinks lead, is one"
    );
    for edge in &topology.edges {
        assert!(
            ids.contains(&&*edge.from) && ids.contains(&&*edge.to),
            "{edge:?}"
        );
    }
    let ways = |port: &str| {
        let edges = topology.edges_from(EdgeKind::Carried, port);
        edges.map(|edge| edge.to.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ways("port/lan/br0"), ["uplink/lan/eth1"]);
    assert_eq!(
        ways("port/lan/web1"),
        ["uplink/lan/eth1", "uplink/lan/eth2"]
    );
    let wires: Vec<_> = topology
        .edges_to(EdgeKind::Wire, "switch/lldp/00:1b")
        .map(|edge| edge.label.as_deref().unwrap())
        .collect();
    assert_eq!(wires, ["Gi1/0/3 (LLDP)", "Gi1/0/4 (LLDP)"]);
    let text = serde_json::to_string(&topology).unwrap();
    assert_eq!(serde_json::from_str::<Topology>(&text).unwrap(), topology);
}

#[test]
fn a_part_of_the_topology_is_about_one_network() {
    let topology = drawn(Instant::now() + SECOND * 10);
    assert_eq!(topology.of("nothing"), None);
    let lab = topology.of("lab").unwrap();
    let ids: Vec<_> = lab.nodes.iter().map(Node::id).collect();
    assert_eq!(
        ids,
        ["network/lab", "port_group/lab//untagged", "port/lab/db"]
    );
    assert_eq!(lab.edges.len(), 2);
    let lan = topology.of("lan").unwrap();
    assert_eq!(lan.nodes.len() + lab.nodes.len(), topology.nodes.len());
    assert_eq!(lan.edges.len() + lab.edges.len(), topology.edges.len());
}

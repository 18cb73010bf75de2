//! The teams as they are shown: policies, uplinks and who is at their other ends, and who is carried by which.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::control::show::port_name;
use crate::engine::{NetworkSnapshot, Snapshot};
use crate::net::neighbours::{self, Protocol};
use crate::net::port::PortId;
use crate::net::team::LoadBalancing;
use crate::net::team::lacp;
use crate::net::team::view::{CarriedView, PolicyView, TeamView, UplinkView};
use crate::wire::lacp as pdu;

/// A team.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Team {
    /// Its network.
    pub network: String,
    /// How frames are spread over its uplinks, by the network's own policy.
    pub load_balancing: String,
    /// The policies: the network's own first.
    pub policies: Vec<Policy>,
    /// Its uplinks in their order.
    pub uplinks: Vec<Uplink>,
    /// The ports that it carries.
    pub ports: Vec<Carried>,
    /// What an operator should know, one sentence each.
    pub advisories: Vec<String>,
}

/// How the ports of a port group, or all others of the network, are spread.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Policy {
    /// The port group, or none for the network's own policy.
    pub port_group: Option<String>,
    /// By what ports or frames are spread.
    pub load_balancing: String,
    /// What of a frame is hashed, if something is.
    pub hash: Option<String>,
    /// How an uplink is found to have failed: `link` or `beacon`.
    pub failure_detection: String,
    /// Whether switches are told of moves.
    pub notify_switches: bool,
    /// Whether an uplink that works again gets its place back.
    pub failback: bool,
    /// Whether frames from an uplink reach those ports only that it carries.
    pub reverse_filter: bool,
    /// Its active uplinks in their order.
    pub active: Vec<String>,
    /// Its standby uplinks in their order.
    pub standby: Vec<String>,
    /// Those that are used now.
    pub in_use: Vec<String>,
    /// Whether beacons leave open which of them works.
    pub ambiguous: bool,
}

/// An uplink of a team.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Uplink {
    /// The adapter's name.
    pub name: String,
    /// `up` or `down`.
    pub link: String,
    /// `active`, `standby`, or `unused` where no policy names it.
    pub role: String,
    /// Whether frames leave by it.
    pub in_use: bool,
    /// Why it is, or is not, as one would wish; a few words.
    pub state: String,
    /// For how many seconds the link has counted as it does.
    pub since_s: u64,
    /// The adapter's own address.
    pub mac: String,
    /// Its speed in bits a second, where known.
    pub speed: Option<u64>,
    /// By what means its frames come and go; none while the adapter is gone.
    #[serde(default)]
    pub driver: Option<Driver>,
    /// The VLANs whose frames came in.
    pub vlans: Vec<u16>,
    /// Who is at the other end, newest first.
    pub neighbours: Vec<Neighbour>,
    /// What LACP has come to, where it is spoken.
    pub lacp: Option<Lacp>,
}

/// By what means the frames of an uplink come and go.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Driver {
    /// `af_packet` or `af_xdp`.
    pub name: String,
    /// Why it is this one; a few words.
    pub why: String,
}

/// Who is at the other end of an uplink, as it says itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Neighbour {
    /// `lldp` or `cdp`.
    pub protocol: String,
    /// What identifies it.
    pub chassis: String,
    /// What identifies its port.
    pub port: String,
    /// Its port in words.
    pub port_description: Option<String>,
    /// Its name.
    pub system: Option<String>,
    /// It in words.
    pub system_description: Option<String>,
    /// Where it is managed.
    pub address: Option<String>,
    /// The VLAN of its port's untagged frames.
    pub vlan: Option<u16>,
    /// The largest that its port takes, in bytes: of LLDP a frame, of CDP a packet.
    pub mtu: Option<u16>,
    /// Seconds since it last said so.
    pub seen_s: u64,
    /// Seconds until it is forgotten.
    pub expires_s: u64,
}

/// What LACP has come to at one uplink.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lacp {
    /// Whether it is to be part of the aggregate, or why not.
    pub selection: String,
    /// The state of its receive machine.
    pub receive: String,
    /// The state of its mux machine.
    pub mux: String,
    /// Whether it carries frames because nobody has a partner.
    pub fallback: bool,
    /// Our end.
    pub actor: Participant,
    /// The partner's, if there is one.
    pub partner: Option<Participant>,
    /// LACPDUs heard.
    pub pdus_received: u64,
    /// LACPDUs sent.
    pub pdus_sent: u64,
    /// Markers answered.
    pub markers: u64,
    /// PDUs that made no sense or came too often.
    pub pdus_ignored: u64,
}

/// One end of a link as LACP knows it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Participant {
    /// The priority of its system.
    pub system_priority: u16,
    /// Its system.
    pub system: String,
    /// Its key.
    pub key: u16,
    /// The priority of its port.
    pub port_priority: u16,
    /// Its port.
    pub port: u16,
    /// The flags of its state that are set.
    pub state: Vec<String>,
}

/// A port that a team carries.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Carried {
    /// Its name.
    pub port: String,
    /// Its port group, if it is in one.
    pub port_group: Option<String>,
    /// The port group whose policy is its, or none for the network's own.
    pub policy: Option<String>,
    /// The uplink, where it is one for all its frames.
    pub uplink: Option<String>,
    /// For how many seconds.
    pub since_s: u64,
    /// Why it is this one; a few words.
    pub why: String,
}

impl Neighbour {
    /// Returns what to call it.
    pub fn name(&self) -> &str {
        self.system.as_deref().unwrap_or(&self.chassis)
    }

    /// Returns its port, and how that is known, as in `Gi1/0/3 (LLDP)`.
    pub fn port_words(&self) -> String {
        format!("{} ({})", self.port, self.protocol.to_uppercase())
    }
}

/// Returns the teams.
pub fn teams(snapshot: &Snapshot, now: Instant) -> Vec<Team> {
    let networks = snapshot.networks.iter();
    networks
        .filter_map(|network| Some(team(network, network.team.as_ref()?, now)))
        .collect()
}

fn team(network: &NetworkSnapshot, view: &TeamView, now: Instant) -> Team {
    let policies: Vec<_> = view
        .policies
        .iter()
        .map(|one| policy(network, one))
        .collect();
    Team {
        network: network.name.clone(),
        load_balancing: policies
            .first()
            .map_or_else(String::new, |policy| policy.load_balancing.clone()),
        uplinks: view
            .uplinks
            .iter()
            .map(|one| uplink(network, one, &policies, now))
            .collect(),
        ports: view
            .ports
            .iter()
            .map(|port| carried(network, port, &policies))
            .collect(),
        policies,
        advisories: view.advisories.clone(),
    }
}

fn policy(network: &NetworkSnapshot, view: &PolicyView) -> Policy {
    Policy {
        port_group: view.port_group.clone(),
        load_balancing: view.load_balancing.name().to_owned(),
        hash: match view.load_balancing {
            LoadBalancing::Lacp(hash) => Some(hash.name().to_owned()),
            LoadBalancing::PortId
            | LoadBalancing::SourceMac
            | LoadBalancing::IpHash
            | LoadBalancing::Explicit
            | LoadBalancing::LoadBased => None,
        },
        failure_detection: view.detection.name().to_owned(),
        notify_switches: view.notify_switches,
        failback: view.failback,
        reverse_filter: view.reverse_filter,
        active: view.active.clone(),
        standby: view.standby.clone(),
        in_use: view
            .used
            .iter()
            .map(|port| port_name(network, *port))
            .collect(),
        ambiguous: view.ambiguous,
    }
}

fn uplink(
    network: &NetworkSnapshot,
    view: &UplinkView,
    policies: &[Policy],
    now: Instant,
) -> Uplink {
    let mut ports = network.ports.iter();
    let port = ports.find(|port| port.kind == "uplink" && port.name == view.name);
    let driver = port.and_then(|port| port.driver.as_ref());
    let named = |names: fn(&Policy) -> &Vec<String>| {
        policies
            .iter()
            .any(|policy| names(policy).contains(&view.name))
    };
    let role = if named(|policy| &policy.active) {
        "active"
    } else if named(|policy| &policy.standby) {
        "standby"
    } else {
        "unused"
    };
    Uplink {
        name: view.name.clone(),
        link: if view.link { "up" } else { "down" }.to_owned(),
        role: role.to_owned(),
        in_use: named(|policy| &policy.in_use),
        state: view.state.to_owned(),
        since_s: view.since.as_secs(),
        mac: view.mac.to_string(),
        speed: view.speed,
        driver: driver.map(|driver| Driver {
            name: driver.name.to_owned(),
            why: driver.why.clone(),
        }),
        vlans: view.vlans.clone(),
        neighbours: view
            .neighbours
            .iter()
            .map(|one| neighbour(one, now))
            .collect(),
        lacp: view.lacp.as_ref().map(lacp_of),
    }
}

fn neighbour(neighbour: &neighbours::Neighbour, now: Instant) -> Neighbour {
    let protocol = match neighbour.protocol {
        Protocol::Lldp => "lldp",
        Protocol::Cdp => "cdp",
    };
    Neighbour {
        protocol: protocol.to_owned(),
        chassis: neighbour.chassis.clone(),
        port: neighbour.port.clone(),
        port_description: neighbour.port_description.clone(),
        system: neighbour.system.clone(),
        system_description: neighbour.system_description.clone(),
        address: neighbour.address.clone(),
        vlan: neighbour.vlan,
        mtu: neighbour.mtu,
        seen_s: now.saturating_duration_since(neighbour.seen).as_secs(),
        expires_s: neighbour.expires.saturating_duration_since(now).as_secs(),
    }
}

fn lacp_of(status: &lacp::Status) -> Lacp {
    Lacp {
        selection: word(status.selection.words()),
        receive: word(status.receive.name()),
        mux: word(status.mux.name()),
        fallback: status.fallback,
        actor: participant(&status.actor),
        partner: status.partner.as_ref().map(participant),
        pdus_received: status.counters.received,
        pdus_sent: status.counters.sent,
        markers: status.counters.markers,
        pdus_ignored: status.counters.ignored,
    }
}

fn participant(end: &pdu::Participant) -> Participant {
    let flags = pdu::State::ALL.iter();
    Participant {
        system_priority: end.system_priority,
        system: end.system.to_string(),
        key: end.key,
        port_priority: end.port_priority,
        port: end.port,
        state: flags
            .filter(|(flag, _)| end.state.has(*flag))
            .map(|(_, name)| word(name))
            .collect(),
    }
}

fn carried(network: &NetworkSnapshot, view: &CarriedView, policies: &[Policy]) -> Carried {
    let port = network.ports.iter().find(|port| port.id == view.port);
    let name = |port: PortId| port_name(network, port);
    Carried {
        port: name(view.port),
        port_group: port.and_then(|port| port.port_group.clone()),
        policy: policies
            .get(view.policy)
            .and_then(|policy| policy.port_group.clone()),
        uplink: view.uplink.map(name),
        since_s: view.since.as_secs(),
        why: view.why.to_owned(),
    }
}

/// Makes one word of a few, as machines like them.
fn word(words: &str) -> String {
    words.replace(' ', "_")
}

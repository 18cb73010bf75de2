//! What a network of Workstation becomes here, and what of it does not.
//!
//! # Theory of operation
//!
//! A network that is bridged to an adapter is a bridged network, one with a NAT a NAT network, any other one with a
//! subnet a host-only network. All that is said of the subnet must be the same. The plan of addresses is vmlan's: the
//! host adapter has the first, the gateway the second in a NAT network and the last in others; where Workstation's were others,
//! that is reported. What is vmlan's default anyway is not written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

use super::dhcp::{self, Dhcp};
use super::dhcpd_conf::network_name;
use super::gather::{Facts, Networks};
use super::nat_conf::{Forward, NatConf, Protocol};
use super::report::{Place, Report, Said};
use crate::control::duration::Span;
use crate::control::value::Adapter;

/// The shortest time after which idle UDP is forgotten here.
const SHORTEST: u64 = 10;
/// The longest.
const LONGEST: u64 = 86_400;
/// What RFC 4787 asks for at least.
const RECOMMENDED: u64 = 120;
/// The most forwards of a network.
const FORWARDS: usize = 4096;
/// The most name servers.
const NAME_SERVERS: usize = 16;

/// A network as it is to be written.
#[derive(Debug)]
pub struct Draft {
    /// Its name.
    pub name: String,
    /// Where it was said that there is such a network.
    pub place: Place,
    /// What it is.
    pub mode: Mode,
}

/// What a network is.
#[derive(Debug)]
pub enum Mode {
    /// Bridged to these adapters.
    Bridged(Vec<String>),
    /// Host-only, or a NAT.
    Served(Box<Served>),
}

/// A network that vmlan serves.
#[derive(Debug)]
pub struct Served {
    /// Its plan of addresses.
    pub addresses: Addresses,
    /// Whether the host has an adapter in it.
    pub host_adapter: bool,
    /// Its NAT.
    pub nat: Option<Nat>,
    /// Its DHCP server; `None` for none.
    pub dhcp: Option<Dhcp>,
}

/// A NAT.
#[derive(Debug, Default)]
pub struct Nat {
    /// When idle UDP is forgotten.
    pub udp_timeout: Option<Span>,
    /// Whether active FTP works.
    pub ftp: bool,
    /// The name servers that are asked, if not the host's.
    pub name_servers: Vec<IpAddr>,
    /// Its IPv6: `None` for vmlan's default, `Some(None)` for none.
    pub ipv6: Option<Option<Ipv6Net>>,
    /// The ports that lead to guests.
    pub forwards: Vec<Forward>,
}

/// Who has which address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addresses {
    /// The subnet.
    pub net: Ipv4Net,
    /// The host adapter's, if there is one.
    pub host: Option<Ipv4Addr>,
    /// The gateway's.
    pub gateway: Ipv4Addr,
    /// What the gateway of Workstation's NAT had.
    pub old_gateway: Option<Ipv4Addr>,
}

impl Addresses {
    /// Says why an address cannot be a guest's, if it cannot.
    pub fn refuses(&self, ip: Ipv4Addr) -> Option<String> {
        let net = self.net;
        if !net.contains(&ip) {
            Some(format!("{ip} is not in the subnet {net}"))
        } else if ip == net.network() || ip == net.broadcast() {
            Some(format!("{ip} is not an address of one machine in {net}"))
        } else if ip == self.gateway {
            Some(format!("{ip} is the address of vmlan's gateway"))
        } else if Some(ip) == self.host {
            Some(format!("{ip} is the address of the host adapter"))
        } else {
            None
        }
    }
}

/// What is taken already by networks before.
#[derive(Debug, Default)]
struct Taken {
    uplinks: BTreeSet<String>,
    /// The subnets that the host is in, and of which networks.
    hosts: Vec<(Ipv4Net, String)>,
    forwards: BTreeMap<(Protocol, u16), String>,
}

impl Taken {
    /// Tells whether the host can have an adapter in a network, which it has then.
    fn attach(&mut self, name: &str, subnet: &Said<Ipv4Net>, report: &mut Report) -> bool {
        let net = subnet.value;
        let overlaps =
            |(other, _): &&(Ipv4Net, String)| other.contains(&net) || net.contains(other);
        if let Some((other, owner)) = self.hosts.iter().find(overlaps) {
            let setting = format!("{name} with subnet {net}");
            let why = format!("{owner} has {other}, and the host can be in one of them alone");
            let action = "it gets no host_adapter; give one of the two another subnet";
            report.decide(subnet.place, setting, &why, action);
            return false;
        }
        self.hosts.push((net, name.to_owned()));
        true
    }
}

/// Says why vmlan cannot have a subnet, if it cannot.
fn unusable(net: Ipv4Net) -> Option<&'static str> {
    let first = net.network().octets()[0];
    if !(8..=29).contains(&net.prefix_len()) {
        Some("vmlan has subnets with prefixes of 8 to 29 bits")
    } else if first == 0 || first == 127 || first >= 224 {
        Some("it has no addresses for machines")
    } else {
        None
    }
}

/// Makes of everything that is said what is to be written.
pub fn drafts(networks: &Networks, report: &mut Report) -> Vec<Draft> {
    let mut taken = Taken::default();
    let drafts = networks
        .iter()
        .filter_map(|(name, facts)| draft(name, facts, &mut taken, report));
    drafts.collect()
}

fn draft(name: &str, facts: &Facts, taken: &mut Taken, report: &mut Report) -> Option<Draft> {
    let said = facts.said_subnets();
    if !facts.uplinks.is_empty() {
        for subnet in &said {
            let why =
                format!("{name} is bridged, and has the addresses of the LAN behind its adapter");
            let setting = format!("subnet {}", subnet.value);
            report.ignored(subnet.place, setting, &why, "nothing to do");
        }
        return bridged(name, facts, taken, report);
    }
    let Some(first) = said.first() else {
        nowhere(name, facts, report);
        return None;
    };
    for other in said.iter().filter(|other| other.value != first.value) {
        let text = format!(
            "{name} has the subnet {} here, and {} elsewhere; let both be the same, or import one of them",
            other.value, first.value
        );
        report.mistake(other.place, text);
    }
    if let Some(why) = unusable(first.value) {
        let action = "the network is left out; give it and its guests another subnet";
        let setting = format!("{name} with subnet {}", first.value);
        report.decide(first.place, setting, why, action);
        return None;
    }
    Some(Draft {
        name: name.to_owned(),
        place: first.place,
        mode: Mode::Served(Box::new(served(name, facts, first, taken, report))),
    })
}

/// Tells of a network of which too little is said.
fn nowhere(name: &str, facts: &Facts, report: &mut Report) {
    if let Some(nat) = &facts.nat {
        let text = format!("nothing says which subnet {name} has; write `ip` into [host]");
        report.mistake(nat.place, text);
        return;
    }
    let answers = &facts.answers;
    let flags = [&answers.nat, &answers.adapter, &answers.dhcp];
    let flags = flags.into_iter().flatten().map(|said| said.place);
    let forwards = answers.forwards.iter().map(|said| said.place);
    let reservations = answers.reservations.iter().map(|said| said.place);
    let told = flags.chain(forwards).chain(reservations).min();
    if let Some(place) = told {
        let why = "nothing says which subnet it has, nor which adapter it is bridged to";
        let action = "if it is used, add it: mode = \"bridged\" with the adapter in team.active, or \"host-only\" with a subnet";
        report.decide(place, name, why, action);
    }
}

fn bridged(name: &str, facts: &Facts, taken: &mut Taken, report: &mut Report) -> Option<Draft> {
    let mut uplinks: Vec<String> = Vec::new();
    for Said { value, place } in &facts.uplinks {
        let setting = format!("{value} bridged to {name}");
        if let Err(error) = value.parse::<Adapter>() {
            let action = "name an adapter of this machine in team.active";
            report.decide(*place, setting, &error.to_string(), action);
        } else if network_name(value).is_some() || value == "gateway" {
            let why = "an uplink cannot be called as what a network has of its own";
            let action = "name an adapter that leads to a LAN in team.active";
            report.decide(*place, setting, why, action);
        } else if uplinks.contains(value) {
            report.ignored(*place, setting, "it is said twice", "nothing to do");
        } else if !taken.uplinks.insert(value.clone()) {
            let why = "the adapter is in another network already, and can be in one alone";
            report.decide(*place, setting, why, "give one of them another adapter");
        } else {
            let why = "vmlan owns its uplinks, and the host takes part by an adapter of the network instead";
            let action = format!(
                "add host_adapter to the network, and move the host's own addresses there by `vmlan adopt {value} --network {name}`; a wireless adapter cannot be an uplink"
            );
            report.decide(*place, setting, why, &action);
            uplinks.push(value.clone());
        }
    }
    let place = facts.uplinks.first()?.place;
    if uplinks.len() > 1 {
        let why =
            "Workstation bridges to one adapter at a time, and vmlan makes a team of them all";
        let action = "they must lead to the same LAN; else move them to networks of their own";
        report.decide(place, format!("{name} has several adapters"), why, action);
    }
    (!uplinks.is_empty()).then(|| Draft {
        name: name.to_owned(),
        place,
        mode: Mode::Bridged(uplinks),
    })
}

fn served(
    name: &str,
    facts: &Facts,
    subnet: &Said<Ipv4Net>,
    taken: &mut Taken,
    report: &mut Report,
) -> Served {
    let net = subnet.value;
    let off = facts.answers.nat.as_ref().filter(|said| !said.value);
    if let (Some(off), Some(nat)) = (off, &facts.nat) {
        let why = format!(
            "its NAT is turned off, on line {} of the answers",
            off.place.line
        );
        let action = "set mode = \"nat\" if it is to have one";
        report.ignored(nat.place, format!("nat.conf of {name}"), &why, action);
    }
    let said_on = facts.nat.is_some() || facts.answers.nat.is_some();
    let is_nat = said_on && off.is_none();
    let conf = facts.nat.as_ref().map(|said| &said.value);
    let host_adapter = has_adapter(name, facts) && taken.attach(name, subnet, report);
    let at = |offset: u32| Ipv4Addr::from_bits(net.network().to_bits().saturating_add(offset));
    let last = Ipv4Addr::from_bits(net.broadcast().to_bits().saturating_sub(1));
    let conf_ip = conf.and_then(|conf| conf.ip.clone());
    let addresses = Addresses {
        net,
        host: host_adapter.then(|| at(1)),
        gateway: if is_nat { at(2) } else { last },
        old_gateway: is_nat.then(|| conf_ip.as_ref().map_or_else(|| at(2), |said| said.value)),
    };
    if is_nat && let Some(ip) = conf_ip.filter(|ip| ip.value != addresses.gateway) {
        let why = format!("vmlan's gateway is {}", addresses.gateway);
        let action = "guests with DHCP learn it; change it in guests with addresses of their own";
        report.different(ip.place, format!("[host] ip = {}", ip.value), &why, action);
    }
    adapter_address(name, facts, addresses, report);
    let mut forwards = facts.answers.forwards.clone();
    forwards.extend(conf.into_iter().flat_map(|conf| conf.forwards.clone()));
    let nat = if is_nat {
        let unsaid = NatConf::default();
        let mut nat = nat(conf.unwrap_or(&unsaid), addresses, report);
        nat.forwards = take_forwards(&forwards, addresses, taken, report);
        if nat.forwards.len() > FORWARDS {
            let why =
                format!("a network has at most {FORWARDS} forwards, and the first ones are kept");
            let action = "forward ranges of ports, as in listen = \"0.0.0.0:8000-8010\"";
            report.decide(subnet.place, format!("forwards of {name}"), &why, action);
            nat.forwards.truncate(FORWARDS);
        }
        Some(nat)
    } else {
        for forward in &forwards {
            let why = format!("{name} has no NAT, and is reached from the host alone");
            let action = "set mode = \"nat\" if it is to be forwarded";
            report.ignored(forward.place, forward.value.text(), &why, action);
        }
        None
    };
    Served {
        addresses,
        host_adapter,
        nat,
        dhcp: dhcp::draft(facts, addresses, report),
    }
}

/// Whether the host has an adapter in a network.
fn has_adapter(name: &str, facts: &Facts) -> bool {
    let answered = facts.answers.adapter.as_ref().map(|said| said.value);
    answered.unwrap_or_else(|| {
        let block = facts
            .hosts
            .iter()
            .any(|host| host.adapter_of().as_deref() == Some(name));
        let nat = facts.nat.as_ref();
        block || nat.is_some_and(|nat| nat.value.host_ip.is_some())
    })
}

/// Tells if the host adapter had another address than it has here.
fn adapter_address(name: &str, facts: &Facts, addresses: Addresses, report: &mut Report) {
    let Some(host) = addresses.host else { return };
    let nat = facts
        .nat
        .as_ref()
        .and_then(|nat| nat.value.host_ip.as_ref());
    let mut said: Vec<(Place, String, Ipv4Addr)> = Vec::new();
    said.extend(nat.map(|ip| (ip.place, format!("[host] hostIp = {}", ip.value), ip.value)));
    let blocks = facts.hosts.iter();
    let blocks = blocks.filter(|host| host.adapter_of().as_deref() == Some(name));
    for ips in blocks.filter_map(|host| host.ips.as_ref()) {
        let ip = ips.value.first();
        said.extend(ip.map(|ip| (ips.place, format!("host {name}: fixed-address {ip}"), *ip)));
    }
    for (place, setting, ip) in said {
        if ip != host {
            let why = format!("vmlan's host adapter is {host}");
            let action = "use that address of the host from now on";
            report.different(place, setting, &why, action);
        }
    }
}

fn nat(conf: &NatConf, addresses: Addresses, report: &mut Report) -> Nat {
    Nat {
        udp_timeout: conf
            .udp_timeout
            .as_ref()
            .map(|said| udp_timeout(said, report)),
        ftp: conf.ftp.as_ref().is_some_and(|said| said.value),
        name_servers: name_servers(conf, addresses, report),
        ipv6: ipv6(conf, report),
        forwards: Vec::new(),
    }
}

fn udp_timeout(said: &Said<u64>, report: &mut Report) -> Span {
    let setting = format!("[udp] timeout = {}", said.value);
    let longest = Span(Duration::from_secs(LONGEST));
    let seconds = match said.value {
        0 => {
            let why = format!("here everything that is idle is forgotten, after {longest} at most");
            report.different(
                said.place,
                setting,
                &why,
                "nothing to do, or set udp_timeout",
            );
            LONGEST
        }
        seconds if !(SHORTEST..=LONGEST).contains(&seconds) => {
            let why = format!("here it is between {SHORTEST} s and {longest}");
            report.different(
                said.place,
                setting,
                &why,
                "nothing to do, or set udp_timeout",
            );
            seconds.clamp(SHORTEST, LONGEST)
        }
        seconds if seconds < RECOMMENDED => {
            let why = format!(
                "it is kept as udp_timeout, and less than the {RECOMMENDED} s that RFC 4787 asks for"
            );
            let action = "remove udp_timeout for vmlan's default of 5 minutes";
            report.decide(said.place, setting, &why, action);
            seconds
        }
        seconds => seconds,
    };
    Span(Duration::from_secs(seconds))
}

fn name_servers(conf: &NatConf, addresses: Addresses, report: &mut Report) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for Said { value, place } in &conf.name_servers {
        let ip = value.1;
        let setting = format!("[dns] nameserver {ip}");
        let own = [Some(addresses.gateway), addresses.old_gateway];
        if own.iter().flatten().any(|own| ip == *own) {
            let why = "it is the gateway itself, which would ask itself";
            report.ignored(*place, setting, why, "nothing to do");
        } else if ip.is_unspecified() || ip.is_multicast() {
            let why = "it is not the address of one machine";
            report.ignored(*place, setting, why, "name another server in dns.servers");
        } else if servers.contains(&ip) {
            report.ignored(*place, setting, "it is said twice", "nothing to do");
        } else if servers.len() == NAME_SERVERS {
            let why = format!("vmlan asks {NAME_SERVERS} servers at most");
            report.decide(*place, setting, &why, "keep the best ones in dns.servers");
        } else {
            servers.push(ip);
        }
    }
    if let Some(detect) = &conf.detect_dns {
        let setting = format!("[dns] autodetect = {}", u8::from(detect.value));
        if detect.value && !servers.is_empty() {
            let why =
                "vmlan asks the servers that are named, or else those of the host, never both";
            let action = "remove dns.servers to have those of the host asked";
            report.different(detect.place, setting, why, action);
        } else if !detect.value && servers.is_empty() {
            let why = "no server is named, so vmlan asks those of the host";
            let action = "name servers in dns.servers, or set dns = false in the network";
            report.decide(detect.place, setting, why, action);
        }
    }
    servers
}

fn ipv6(conf: &NatConf, report: &mut Report) -> Option<Option<Ipv6Net>> {
    let enabled = conf.ipv6.as_ref().map(|said| said.value);
    let Some(prefix) = &conf.ipv6_prefix else {
        return (enabled == Some(false)).then_some(None);
    };
    let net = prefix.value.trunc();
    let setting = format!("[host] natIp6Prefix = {}", prefix.value);
    let first = net.network();
    if enabled != Some(true) {
        if enabled.is_none() {
            let why = "natIp6Enable is not 1";
            let action = "remove ipv6 = false to have IPv6, and set ipv6.prefix to keep the prefix";
            report.ignored(prefix.place, setting, why, action);
        }
        return Some(None);
    }
    if net.prefix_len() != 64
        || first.is_multicast()
        || first.is_unicast_link_local()
        || first.is_unspecified()
        || first.is_loopback()
        || first.to_ipv4_mapped().is_some()
    {
        let why = "guests need a prefix of 64 bits with addresses for machines";
        let action = "set ipv6.prefix, or let vmlan choose one";
        report.decide(prefix.place, setting, why, action);
        return None;
    }
    Some(Some(net))
}

/// Takes those forwards that lead to guests and whose ports are free.
fn take_forwards(
    forwards: &[Said<Forward>],
    addresses: Addresses,
    taken: &mut Taken,
    report: &mut Report,
) -> Vec<Forward> {
    let mut kept: Vec<Forward> = Vec::new();
    for Said { value, place } in forwards {
        let key = (value.protocol, value.port);
        if let Some(why) = addresses.refuses(*value.to.ip()) {
            let action = "add a forward to a guest's address";
            report.decide(*place, value.text(), &why, action);
        } else if kept.contains(value) {
            // Workstation keeps forwards in two files.
        } else if let Some(earlier) = taken.forwards.get(&key) {
            let why = format!("the port is forwarded already, to {earlier}");
            let action = "choose another port for one of them";
            report.decide(*place, value.text(), &why, action);
        } else {
            taken.forwards.insert(key, value.to.to_string());
            if value.port < 1024 {
                let why = "ports below 1024 are for root and who has CAP_NET_BIND_SERVICE";
                let action = "run vmlan with that, or choose a port from 1024 on";
                report.decide(*place, value.text(), why, action);
            }
            kept.push(*value);
        }
    }
    kept
}

impl Forward {
    /// Returns it as people know it.
    fn text(&self) -> String {
        format!("{} {} = {}", self.protocol.name(), self.port, self.to)
    }
}

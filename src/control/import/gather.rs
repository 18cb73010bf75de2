//! Which network each file, and each part of it, is about; all that is said of one network in one place.
//!
//! A file is about the network that its path names (`…/vmnet8/…`). Where the path names none, a `nat.conf` is about
//! the one of its device, and a subnet of a `dhcpd.conf` about the one whose host adapter is in it, or whose subnet it
//! is by another file. What is about no network is a mistake.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::dhcpd_conf::{DhcpdConf, Host, Subnet, network_name};
use super::nat_conf::NatConf;
use super::networking::{Answers, Networking};
use super::report::{Place, Report, Said};

/// The length of a prefix where nobody says it: Workstation's own.
const PREFIX: u8 = 24;

/// A file that was read.
#[derive(Debug)]
pub struct Source {
    /// Its place among the files.
    pub file: usize,
    /// The network that its path names.
    pub network: Option<String>,
    /// What it says.
    pub contents: Contents,
}

/// What a file says.
#[derive(Debug)]
pub enum Contents {
    /// `nat.conf`.
    Nat(Box<NatConf>),
    /// `dhcpd.conf`.
    Dhcp(DhcpdConf),
    /// `networking`.
    Networking(Networking),
}

/// All that is said of one network.
#[derive(Debug, Default)]
pub struct Facts {
    /// Its NAT, and the beginning of the file that tells of it.
    pub nat: Option<Said<NatConf>>,
    /// Its subnets and their pools.
    pub subnets: Vec<Subnet>,
    /// Its hosts.
    pub hosts: Vec<Host>,
    /// What the network editor was told.
    pub answers: Answers,
    /// The adapters that it is bridged to.
    pub uplinks: Vec<Said<String>>,
}

/// All networks by name.
#[derive(Debug, Default)]
pub struct Networks(BTreeMap<(usize, String), Facts>);

impl Networks {
    /// Returns the networks in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Facts)> {
        self.0.iter().map(|((_, name), facts)| (&**name, facts))
    }

    fn of(&mut self, name: &str) -> &mut Facts {
        self.0.entry((name.len(), name.to_owned())).or_default()
    }

    /// Finds the network that has this subnet.
    fn with(&self, fits: impl Fn(Ipv4Net) -> bool) -> Option<String> {
        let mut networks = self.iter();
        let found = networks.find(|(_, facts)| facts.subnet().is_some_and(|said| fits(said.value)));
        found.map(|(name, _)| name.to_owned())
    }
}

impl Facts {
    /// Returns everything that is said of the subnet.
    pub fn said_subnets(&self) -> Vec<Said<Ipv4Net>> {
        let mut said = Vec::new();
        let answered = self.answers.subnet.as_ref();
        said.extend(answered.and_then(|ip| {
            let prefix = self
                .answers
                .prefix
                .as_ref()
                .map_or(PREFIX, |said| said.value);
            subnet(ip, prefix)
        }));
        let blocks = self.subnets.iter();
        said.extend(blocks.map(|block| Said::new(block.net, block.place)));
        if let Some(nat) = &self.nat
            && let Some(ip) = &nat.value.ip
        {
            let known = said.iter().find(|said| said.value.contains(&ip.value));
            let known = known.map(|said| said.value.prefix_len());
            let prefix = nat.value.prefix.as_ref().map(|said| said.value);
            said.extend(subnet(ip, prefix.or(known).unwrap_or(PREFIX)));
        }
        said
    }

    /// Takes the reservations of the answers for hosts, unless they are hosts of a `dhcpd.conf` already.
    fn reserve(&mut self) {
        for Said { value, place } in &self.answers.reservations {
            let (mac, ip) = *value;
            let is_there = |host: &Host| {
                let (own, ips) = (host.mac.as_ref(), host.ips.as_ref());
                own.is_some_and(|own| own.value == mac)
                    && ips.is_some_and(|ips| ips.value.contains(&ip))
            };
            if !self.hosts.iter().any(is_there) {
                self.hosts.push(Host {
                    place: *place,
                    name: mac.to_string(),
                    mac: Some(Said::new(mac, *place)),
                    ips: Some(Said::new(vec![ip], *place)),
                    hostname: None,
                });
            }
        }
    }

    /// Returns what is said first of the subnet.
    pub fn subnet(&self) -> Option<Said<Ipv4Net>> {
        self.said_subnets().into_iter().next()
    }
}

fn subnet(ip: &Said<Ipv4Addr>, prefix: u8) -> Option<Said<Ipv4Net>> {
    let net = Ipv4Net::new(ip.value, prefix).ok()?;
    Some(Said::new(net.trunc(), ip.place))
}

/// Puts together what the files say of each network.
pub fn gather(sources: Vec<Source>, report: &mut Report) -> Networks {
    let mut networks = Networks::default();
    let mut unnamed = Vec::new();
    for source in sources {
        let place = Place {
            file: source.file,
            line: 1,
        };
        match source.contents {
            Contents::Networking(networking) => {
                for (name, answers) in networking.networks {
                    networks.of(&name).answers.take(answers);
                }
                for Said { value, place } in networking.bridges {
                    let (adapter, name) = value;
                    networks.of(&name).uplinks.push(Said::new(adapter, place));
                }
            }
            Contents::Nat(nat) => {
                let name = nat_network(source.network, &nat, place, report);
                let facts = networks.of(&name);
                if facts.nat.is_some() {
                    let text = format!("{name} has a nat.conf already; import one of them");
                    report.mistake(place, text);
                } else {
                    facts.nat = Some(Said::new(*nat, place));
                }
            }
            Contents::Dhcp(conf) => match source.network {
                Some(name) => {
                    let facts = networks.of(&name);
                    facts.subnets.extend(conf.subnets);
                    facts.hosts.extend(conf.hosts);
                }
                None => unnamed.push(conf),
            },
        }
    }
    for conf in unnamed {
        place_unnamed(conf, &mut networks, report);
    }
    for facts in networks.0.values_mut() {
        facts.reserve();
    }
    networks
}

fn nat_network(path: Option<String>, nat: &NatConf, place: Place, report: &mut Report) -> String {
    let device = nat.device.as_ref();
    let named = device.and_then(|device| {
        let name = device.value.rsplit(['/', '\\']).next()?;
        network_name(name)
    });
    match (path, named, device) {
        (Some(path), named, Some(device)) if named.as_ref() != Some(&path) => {
            let setting = format!("[host] device = {}", device.value);
            let why = format!("by its path, the file is about {path}");
            report.different(device.place, setting, &why, "look whether that is right");
            path
        }
        (Some(path), _, _) => path,
        (None, Some(named), _) => named,
        (None, None, _) => {
            let why = "neither its path nor a device says which network it is about, so vmnet8 is assumed, Workstation's NAT network";
            report.decide(
                place,
                "[host] device",
                why,
                "rename the network if it is another",
            );
            "vmnet8".to_owned()
        }
    }
}

/// Finds the networks of a file whose path names none.
fn place_unnamed(conf: DhcpdConf, networks: &mut Networks, report: &mut Report) {
    let mut homeless = Vec::new();
    for subnet in conf.subnets {
        let inside = |host: &&Host| {
            let ips = host.ips.as_ref();
            ips.is_some_and(|ips| ips.value.iter().any(|ip| subnet.net.contains(ip)))
        };
        let adapters = conf.hosts.iter().filter(|host| host.adapter_of().is_some());
        let adapter = adapters.clone().find(inside).and_then(Host::adapter_of);
        match adapter.or_else(|| networks.with(|net| net == subnet.net)) {
            Some(name) => networks.of(&name).subnets.push(subnet),
            None => homeless.push(subnet),
        }
    }
    for subnet in &homeless {
        let text = format!(
            "nothing says which network the subnet {} is of: neither the path, as in vmnet8/dhcpd/dhcpd.conf, nor a block such as `host vmnet8` with an address in it, nor another file; import it from a directory named vmnet8, or whatever the network is to be called",
            subnet.net
        );
        report.mistake(subnet.place, text);
    }
    for host in conf.hosts {
        let first = host.ips.as_ref().and_then(|ips| ips.value.first().copied());
        let name = host.adapter_of().or_else(|| {
            let ip = first?;
            networks.with(|net| net.contains(&ip))
        });
        match (name, first) {
            (Some(name), _) => networks.of(&name).hosts.push(host),
            (None, Some(ip)) if homeless.iter().any(|subnet| subnet.net.contains(&ip)) => {}
            (None, Some(ip)) => {
                let why = format!("{ip} is in no subnet of these files");
                let action = "add a reservation to the network that it is in";
                report.decide(host.place, format!("host {}", host.name), &why, action);
            }
            (None, None) => {
                let why = "it has no address to reserve";
                report.ignored(
                    host.place,
                    format!("host {}", host.name),
                    why,
                    "nothing to do",
                );
            }
        }
    }
}

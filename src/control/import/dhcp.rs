//! What the DHCP server of a network of Workstation becomes here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use super::dhcpd_conf::{Host, NETBIOS, Options};
use super::draft::Addresses;
use super::gather::Facts;
use super::report::{Place, Report, Said};
use crate::control::duration::Span;
use crate::control::value::{Domain, OPTION, Range, Text};
use crate::net::dhcp::MIN_LEASE;
use crate::wire::ethernet::MacAddr;

/// What vmlan has where nobody says it.
const LEASE: u64 = 1_800;
const MAX_LEASE: u64 = 7_200;
const LONGEST: u64 = 365 * 86_400;
/// The most addresses of a pool.
const POOL: u32 = 65_536;
/// The most addresses of one option.
const ADDRESSES: usize = 256;

/// A DHCP server; what is vmlan's default is not in it.
#[derive(Debug, Default)]
pub struct Dhcp {
    /// The pool.
    pub pool: Option<Range>,
    /// The lease.
    pub lease: Option<Span>,
    /// The longest lease.
    pub max_lease: Option<Span>,
    /// The routers.
    pub router: Vec<Ipv4Addr>,
    /// The name servers.
    pub dns: Vec<Ipv4Addr>,
    /// The time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// The domain name.
    pub domain: Option<String>,
    /// The domain search list.
    pub search: Vec<String>,
    /// The MTU.
    pub mtu: Option<u64>,
    /// The server to boot from.
    pub next_server: Option<Ipv4Addr>,
    /// The name of the TFTP server.
    pub tftp_server: Option<String>,
    /// The file to boot.
    pub boot_file: Option<String>,
    /// Lists of addresses by the code of their option.
    pub options: BTreeMap<u8, Vec<Ipv4Addr>>,
    /// Addresses that belong to one client each.
    pub reservations: Vec<Reservation>,
}

/// An address that belongs to one client.
#[derive(Debug)]
pub struct Reservation {
    /// Whose it is.
    pub mac: MacAddr,
    /// The address.
    pub ip: Ipv4Addr,
    /// The client's name.
    pub hostname: Option<String>,
}

/// Makes a server of what is said of a network; there is none where it was turned off.
pub fn draft(facts: &Facts, addresses: Addresses, report: &mut Report) -> Option<Dhcp> {
    let off = facts.answers.dhcp.as_ref().is_some_and(|said| !said.value);
    if off {
        for block in &facts.subnets {
            let setting = format!("dhcpd.conf of {}", block.net);
            let why = "the answers say that the network has no DHCP server";
            let action = "remove dhcp = false if it is to have one";
            report.ignored(block.place, setting, why, action);
        }
        return None;
    }
    let mut dhcp = Dhcp::default();
    let mut blocks = facts.subnets.iter();
    if let Some(block) = blocks.next() {
        dhcp.pool = pool(&block.ranges, block.place, addresses, report);
        dhcp.options(&block.options, addresses, block.place, report);
    }
    for block in blocks {
        let text = format!(
            "the subnet {} is described already; import one of them",
            block.net
        );
        report.mistake(block.place, text);
    }
    dhcp.reservations = reservations(&facts.hosts, addresses, report);
    Some(dhcp)
}

/// Chooses the pool: the largest part of what was one, without the addresses that are taken.
fn pool(
    ranges: &[Said<(Ipv4Addr, Ipv4Addr)>],
    place: Place,
    addresses: Addresses,
    report: &mut Report,
) -> Option<Range> {
    let net = addresses.net;
    let usual = usual_pool(addresses);
    if ranges.is_empty() {
        let why = format!("there is no range, and vmlan's pool is {usual}");
        let action = "set pool, as a pool cannot be empty; guests with reservations do not use it";
        report.different(place, format!("subnet {net}"), &why, action);
        return None;
    }
    let bits = |said: &Said<(Ipv4Addr, Ipv4Addr)>| (said.value.0.to_bits(), said.value.1.to_bits());
    let mut sorted: Vec<_> = ranges.iter().map(|said| (bits(said), said.place)).collect();
    sorted.sort_unstable();
    // What touches is one.
    let mut merged: Vec<((u32, u32), Place)> = Vec::new();
    for ((first, last), place) in sorted {
        match merged.last_mut() {
            Some(((_, end), _)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push(((first, last), place)),
        }
    }
    let mut owned = vec![net.network(), net.broadcast(), addresses.gateway];
    owned.extend(addresses.host);
    owned.sort_unstable();
    let mut best: Option<((u32, u32), Place)> = None;
    for (range, place) in &merged {
        for part in without(*range, &owned) {
            let size = |(first, last): (u32, u32)| last - first;
            if best.is_none_or(|(best, _)| size(part) > size(best)) {
                best = Some((part, *place));
            }
        }
    }
    let text = |(first, last): (u32, u32)| {
        let (first, last) = (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last));
        format!("range {first} {last}")
    };
    let Some(((first, mut last), chosen)) = best else {
        let why = format!("all its addresses are taken by others, so vmlan's pool is {usual}");
        report.decide(place, text(merged[0].0), &why, "set pool");
        return None;
    };
    last = last.min(first.saturating_add(POOL - 1));
    let pool = Range {
        first: Ipv4Addr::from_bits(first),
        last: Ipv4Addr::from_bits(last),
    };
    for (range, place) in merged {
        if place != chosen {
            let why = format!("vmlan has one pool in a network, and the largest range is {pool}");
            report.decide(
                place,
                text(range),
                &why,
                "set another pool if that is too small",
            );
        } else if range != (first, last) {
            let mut owners = vec![format!("{} is the gateway's", addresses.gateway)];
            owners.extend(
                addresses
                    .host
                    .map(|host| format!("{host} the host adapter's")),
            );
            let why = format!(
                "{}, and a pool has {POOL} addresses at most, so it is {pool} here",
                owners.join(", ")
            );
            report.different(place, text(range), &why, "nothing to do");
        }
    }
    (pool != usual).then_some(pool)
}

/// Returns the parts of a range between single addresses, which are in order.
fn without((first, last): (u32, u32), owned: &[Ipv4Addr]) -> Vec<(u32, u32)> {
    let mut parts = Vec::new();
    let mut begin = Some(first);
    for ip in owned.iter().map(|ip| ip.to_bits()) {
        let Some(start) = begin.filter(|start| (*start..=last).contains(&ip)) else {
            continue;
        };
        if ip > start {
            parts.push((start, ip - 1));
        }
        begin = ip.checked_add(1);
    }
    parts.extend(
        begin
            .filter(|start| *start <= last)
            .map(|start| (start, last)),
    );
    parts
}

/// The pool where nobody says which: the upper half, the gateway's address aside.
fn usual_pool(addresses: Addresses) -> Range {
    let (network, broadcast) = (
        addresses.net.network().to_bits(),
        addresses.net.broadcast().to_bits(),
    );
    let mut last = broadcast.saturating_sub(1);
    if last == addresses.gateway.to_bits() {
        last = last.saturating_sub(1);
    }
    let half = network
        .saturating_add((broadcast - network) / 2)
        .saturating_add(1);
    Range {
        first: Ipv4Addr::from_bits(half.max(last.saturating_sub(POOL - 1))),
        last: Ipv4Addr::from_bits(last),
    }
}

impl Dhcp {
    fn options(
        &mut self,
        options: &Options,
        addresses: Addresses,
        block: Place,
        report: &mut Report,
    ) {
        self.leases(options, report);
        self.gateways(options, addresses, block, report);
        self.ntp = some(options.ntp.as_ref(), "option ntp-servers", report);
        self.domain = valid::<Domain>(&options.domain, "option domain-name", report);
        self.tftp_server = valid::<Text>(&options.tftp_server, "option tftp-server-name", report);
        self.boot_file = valid::<Text>(&options.boot_file, "filename", report);
        self.next_server = options.next_server.as_ref().map(|said| said.value);
        if let Some(said) = &options.search {
            let mut bytes = 0;
            for domain in &said.value {
                let one = Some(Said::new(domain.clone(), said.place));
                let domain = valid::<Domain>(&one, "option domain-search", report);
                let Some(domain) = domain else { continue };
                bytes += domain.len() + 2;
                if bytes > OPTION {
                    let why = format!("an option has {OPTION} bytes at most");
                    let action = "keep the ones that matter";
                    report.decide(said.place, "option domain-search", &why, action);
                    break;
                }
                self.search.push(domain);
            }
        }
        if let Some(said) = &options.mtu {
            if (576..=1500).contains(&said.value) {
                self.mtu = Some(said.value);
            } else {
                let why = "clients are told an MTU from 576 to that of the network, 1500";
                let action = "set mtu in the network, which tells it to clients too";
                let setting = format!("option interface-mtu {}", said.value);
                report.decide(said.place, setting, why, action);
            }
        }
        if let Some(said) = &options.broadcast
            && said.value != addresses.net.broadcast()
        {
            let why = format!("vmlan hands out {}", addresses.net.broadcast());
            let setting = format!("option broadcast-address {}", said.value);
            report.different(said.place, setting, &why, "nothing to do");
        }
        for (code, said) in &options.lists {
            let mut list = some(Some(said), &format!("option {code}"), report);
            let gateway = |ip: &Ipv4Addr| Some(*ip) == addresses.old_gateway;
            if *code == NETBIOS && list.iter().any(gateway) {
                let why = "vmlan's gateway does not answer NetBIOS names";
                let action =
                    "guests find one another by DNS, or by NetBIOS broadcasts within the network";
                report.ignored(said.place, "option netbios-name-servers", why, action);
                list.retain(|ip| !gateway(ip));
            }
            if !list.is_empty() {
                self.options.insert(*code, list);
            }
        }
    }

    fn leases(&mut self, options: &Options, report: &mut Report) {
        let shortest = MIN_LEASE.as_secs();
        let mut within = |said: &Option<Said<u64>>, name: &str, usual: u64| {
            let Some(said) = said else { return usual };
            let seconds = said.value.clamp(shortest, LONGEST);
            if seconds != said.value {
                let why = format!("a lease lasts between {shortest} s and a year");
                let setting = format!("{name} {}", said.value);
                report.different(said.place, setting, &why, "nothing to do");
            }
            seconds
        };
        let lease = within(&options.lease, "default-lease-time", LEASE);
        let max = within(&options.max_lease, "max-lease-time", MAX_LEASE.max(lease));
        let capped = lease.min(max);
        if let Some(said) = options.lease.as_ref().filter(|_| capped < lease) {
            let why = "it is more than max-lease-time, which holds";
            let setting = format!("default-lease-time {}", said.value);
            report.different(said.place, setting, why, "nothing to do");
        }
        let span = |seconds| Span(Duration::from_secs(seconds));
        self.lease = (capped != LEASE).then(|| span(capped));
        self.max_lease = (max != MAX_LEASE.max(capped)).then(|| span(max));
    }

    /// Takes routers and name servers: what was the gateway of Workstation's NAT is vmlan's now.
    fn gateways(
        &mut self,
        options: &Options,
        addresses: Addresses,
        block: Place,
        report: &mut Report,
    ) {
        let is_nat = addresses.old_gateway.is_some();
        let now = |list: Vec<Ipv4Addr>| {
            let mut kept: Vec<Ipv4Addr> = Vec::new();
            for ip in list {
                let ip = if Some(ip) == addresses.old_gateway {
                    addresses.gateway
                } else {
                    ip
                };
                if !kept.contains(&ip) && !ip.is_unspecified() {
                    kept.push(ip);
                }
            }
            // It is told anyway.
            if is_nat && kept == [addresses.gateway] {
                kept.clear();
            }
            kept
        };
        if let Some(said) = &options.routers {
            let (inside, outside): (Vec<_>, Vec<_>) = some(Some(said), "option routers", report)
                .into_iter()
                .partition(|ip| addresses.net.contains(ip) || ip.is_unspecified());
            for ip in outside {
                let why = format!("{ip} is not in the subnet {}", addresses.net);
                let action = "set router to an address that guests can reach";
                report.decide(said.place, format!("option routers {ip}"), &why, action);
            }
            self.router = now(inside);
            if !is_nat && !self.router.is_empty() {
                let why = "clients are told of a router, but no nat.conf of this network was read, so it is host-only";
                let action = "import its nat.conf too, set mode = \"nat\" and remove router, or keep it if a guest is the router";
                report.decide(said.place, "option routers", why, action);
            }
        } else if is_nat {
            let why = "no router is named, and vmlan names its gateway";
            let action = "set router = [] in the network's `dhcp` to name none";
            report.different(block, "option routers", why, action);
        }
        self.dns = now(some(
            options.dns.as_ref(),
            "option domain-name-servers",
            report,
        ));
    }
}

/// Returns a list, which fits into an option.
fn some(said: Option<&Said<Vec<Ipv4Addr>>>, name: &str, report: &mut Report) -> Vec<Ipv4Addr> {
    let Some(said) = said else { return Vec::new() };
    if said.value.len() > ADDRESSES {
        let why = format!("an option has {ADDRESSES} addresses at most");
        report.decide(said.place, name, &why, "keep the ones that matter");
    }
    said.value.iter().take(ADDRESSES).copied().collect()
}

/// Returns a text that can stand in our configuration; an empty one says that there is none.
fn valid<T: FromStr<Err: std::fmt::Display>>(
    said: &Option<Said<String>>,
    name: &str,
    report: &mut Report,
) -> Option<String> {
    let said = said.as_ref().filter(|said| !said.value.is_empty())?;
    match said.value.parse::<T>() {
        Ok(_) => Some(said.value.clone()),
        Err(error) => {
            let setting = format!("{name} {:?}", said.value);
            let action = "set another in the network's `dhcp`";
            report.decide(said.place, setting, &error.to_string(), action);
            None
        }
    }
}

fn reservations(hosts: &[Host], addresses: Addresses, report: &mut Report) -> Vec<Reservation> {
    let mut reservations = Vec::new();
    let (mut macs, mut ips) = (BTreeSet::new(), BTreeSet::new());
    for host in hosts.iter().filter(|host| host.adapter_of().is_none()) {
        let place = host.place;
        let setting = format!("host {}", host.name);
        let Some(mac) = &host.mac else {
            let why = "a reservation is for a hardware address, and none is named";
            report.decide(place, setting, why, "add a reservation with mac and ip");
            continue;
        };
        let Some(said) = &host.ips else {
            let why = "it has no address to reserve";
            report.ignored(place, setting, why, "nothing to do");
            continue;
        };
        let inside = said.value.iter().find(|ip| addresses.net.contains(*ip));
        let Some(ip) = inside.or_else(|| said.value.first()).copied() else {
            continue;
        };
        if said.value.len() > 1 {
            let why = format!("a reservation is for one address: {ip}");
            report.different(said.place, &setting, &why, "nothing to do");
        }
        let refusal = if let Some(why) = addresses.refuses(ip) {
            Some(why)
        } else if !mac.value.is_station() {
            Some(format!("{} is not the address of one station", mac.value))
        } else if macs.contains(&mac.value) {
            Some(format!("{} has a reservation already", mac.value))
        } else if ips.contains(&ip) {
            Some(format!("{ip} is reserved already"))
        } else {
            None
        };
        if let Some(why) = refusal {
            let action = "add a reservation that is free";
            report.decide(place, setting, &why, action);
            continue;
        }
        macs.insert(mac.value);
        ips.insert(ip);
        let named = valid::<Domain>(&host.hostname, "option host-name", report);
        let block = Some(&host.name).filter(|name| name.parse::<Domain>().is_ok());
        reservations.push(Reservation {
            mac: mac.value,
            ip,
            hostname: named.or_else(|| block.cloned()),
        });
    }
    reservations
}

//! What the statements of Workstation's `dhcpd.conf` mean: subnets, pools, options and hosts.
//!
//! What is said around a subnet holds in it too unless it says otherwise. Options that vmlan has no key for are carried
//! over by their code where it is known what they look like, and reported where it is not. A value that cannot be
//! what it should be is a mistake.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

use super::nat_conf::prefix_of;
use super::networking::network_numbered;
use super::report::{Place, Report, Said};
use super::statements::{self, Statement};
use crate::wire::ethernet::MacAddr;

/// Options that are lists of addresses and have no key of their own, with their codes (RFC 2132).
const LISTS: [(&str, u8); 9] = [
    ("time-servers", 4),
    ("log-servers", 7),
    ("lpr-servers", 9),
    ("netbios-name-servers", 44),
    ("netbios-dd-server", 45),
    ("smtp-server", 69),
    ("pop-server", 70),
    ("nntp-server", 71),
    ("www-server", 72),
];

/// The code of the option of NetBIOS name servers.
pub const NETBIOS: u8 = 44;

/// What a `dhcpd.conf` says.
#[derive(Debug, Default)]
pub struct DhcpdConf {
    /// The subnets.
    pub subnets: Vec<Subnet>,
    /// The hosts.
    pub hosts: Vec<Host>,
}

/// One subnet.
#[derive(Debug)]
pub struct Subnet {
    /// Where it is.
    pub place: Place,
    /// The subnet.
    pub net: Ipv4Net,
    /// Its pools.
    pub ranges: Vec<Said<(Ipv4Addr, Ipv4Addr)>>,
    /// What its clients are told.
    pub options: Options,
}

/// What clients are told.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The seconds of a lease.
    pub lease: Option<Said<u64>>,
    /// The most seconds of a lease.
    pub max_lease: Option<Said<u64>>,
    /// The routers.
    pub routers: Option<Said<Vec<Ipv4Addr>>>,
    /// The name servers.
    pub dns: Option<Said<Vec<Ipv4Addr>>>,
    /// The time servers.
    pub ntp: Option<Said<Vec<Ipv4Addr>>>,
    /// The domain name.
    pub domain: Option<Said<String>>,
    /// The domain search list.
    pub search: Option<Said<Vec<String>>>,
    /// The MTU.
    pub mtu: Option<Said<u64>>,
    /// The server to boot from.
    pub next_server: Option<Said<Ipv4Addr>>,
    /// The name of the TFTP server.
    pub tftp_server: Option<Said<String>>,
    /// The file to boot.
    pub boot_file: Option<Said<String>>,
    /// The broadcast address.
    pub broadcast: Option<Said<Ipv4Addr>>,
    /// Lists of addresses by the code of their option.
    pub lists: BTreeMap<u8, Said<Vec<Ipv4Addr>>>,
}

/// One host.
#[derive(Debug)]
pub struct Host {
    /// Where it is.
    pub place: Place,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<Said<MacAddr>>,
    /// Its addresses.
    pub ips: Option<Said<Vec<Ipv4Addr>>>,
    /// What it is called.
    pub hostname: Option<Said<String>>,
}

impl Host {
    /// Returns the name of the network whose host adapter this is, if it is one.
    pub fn adapter_of(&self) -> Option<String> {
        network_name(&self.name)
    }
}

/// Reads the name of a network, however it was written: `VMnet8` is `vmnet8`.
pub fn network_name(text: &str) -> Option<String> {
    let (name, number) = text.split_at_checked("vmnet".len())?;
    if !name.eq_ignore_ascii_case("vmnet") {
        return None;
    }
    network_numbered(number)
}

/// Reads a file.
pub fn read(text: &str, file: usize, report: &mut Report) -> DhcpdConf {
    let statements = statements::read(text, file, report);
    let mut conf = DhcpdConf::default();
    conf.block(&statements, report);
    conf
}

impl DhcpdConf {
    /// Takes a block around subnets and hosts, and gives what it says to the subnets in it.
    fn block(&mut self, statements: &[Statement], report: &mut Report) {
        let first = self.subnets.len();
        let mut options = Options::default();
        for statement in statements {
            match (statement.word(0), &statement.block) {
                ("subnet", Some(block)) => self.subnet(statement, block, report),
                ("host", Some(block)) => self.host(statement, block, report),
                ("shared-network" | "group", Some(block)) => self.block(block, report),
                _ => options.take(statement, report),
            }
        }
        for subnet in &mut self.subnets[first..] {
            subnet.options.inherit(&options);
        }
    }

    fn subnet(&mut self, statement: &Statement, block: &[Statement], report: &mut Report) {
        let net = match statement.values(1).as_slice() {
            [address, "netmask", mask] => address
                .parse::<Ipv4Addr>()
                .ok()
                .zip(mask.parse().ok().and_then(prefix_of))
                .and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()),
            _ => None,
        };
        let Some(net) = net else {
            let form = "is not a subnet such as subnet 192.168.88.0 netmask 255.255.255.0";
            wrong(statement, form, report);
            return;
        };
        let mut subnet = Subnet {
            place: statement.place,
            net: net.trunc(),
            ranges: Vec::new(),
            options: Options::default(),
        };
        for statement in block {
            match (statement.word(0), &statement.block) {
                ("range", None) => subnet.range(statement, report),
                ("host", Some(block)) => self.host(statement, block, report),
                ("pool", Some(block)) => {
                    for statement in block {
                        match statement.word(0) {
                            "range" if statement.block.is_none() => {
                                subnet.range(statement, report);
                            }
                            _ => subnet.options.take(statement, report),
                        }
                    }
                }
                _ => subnet.options.take(statement, report),
            }
        }
        self.subnets.push(subnet);
    }

    fn host(&mut self, statement: &Statement, block: &[Statement], report: &mut Report) {
        let mut host = Host {
            place: statement.place,
            name: statement.word(1).to_owned(),
            mac: None,
            ips: None,
            hostname: None,
        };
        let is_adapter = host.adapter_of().is_some();
        for statement in block {
            let place = statement.place;
            match (statement.word(0), statement.word(1)) {
                ("hardware", "ethernet") => {
                    let form = "is not an address such as hardware ethernet 00:0c:29:12:34:56";
                    host.mac = one(statement, 2, form, report);
                }
                ("fixed-address", _) => {
                    let ips = addresses(statement, 1);
                    if ips.is_none() {
                        let why = "vmlan reserves addresses, not names";
                        let action = "add a reservation with its ip";
                        report.decide(place, statement.text(), why, action);
                    }
                    host.ips = ips;
                }
                ("option", "host-name") => {
                    host.hostname = Some(Said::new(statement.word(2).to_owned(), place));
                }
                // What the host's own adapter is told: it is not a client of vmlan's server.
                _ if is_adapter => {}
                _ => {
                    let why =
                        "a reservation has an address and a name, and options are the network's";
                    let action = "set it in the guest, or for the whole network";
                    report.ignored(place, setting(&host.name, statement), why, action);
                }
            }
        }
        self.hosts.push(host);
    }
}

impl Subnet {
    fn range(&mut self, statement: &Statement, report: &mut Report) {
        let words = statement.values(1);
        let words = words.strip_prefix(&["dynamic-bootp"]).unwrap_or(&words);
        let ends = match words {
            [one] => one.parse().ok().map(|ip| (ip, ip)),
            [first, last] => first.parse().ok().zip(last.parse().ok()),
            _ => None,
        };
        match ends {
            Some((first, last)) if !self.net.contains(&first) || !self.net.contains(&last) => {
                let form = format!("is not within the subnet {}", self.net);
                wrong(statement, &form, report);
            }
            Some((first, last)) if first > last => {
                wrong(statement, "ends before it begins", report);
            }
            Some(ends) => self.ranges.push(Said::new(ends, statement.place)),
            None => {
                let form = "is not a range such as range 192.168.88.128 192.168.88.254";
                wrong(statement, form, report);
            }
        }
    }
}

impl Options {
    /// Takes one statement.
    fn take(&mut self, statement: &Statement, report: &mut Report) {
        let place = statement.place;
        let addresses_form = "is not followed by addresses";
        let number = "is not followed by a number";
        if statement.block.is_some() {
            let why = "vmlan has no conditions, classes and the like";
            let action = "give clients reservations instead";
            report.ignored(place, statement.text(), why, action);
            return;
        }
        match (statement.word(0), statement.word(1)) {
            ("default-lease-time", _) => self.lease = one(statement, 1, number, report),
            ("max-lease-time", _) => self.max_lease = one(statement, 1, number, report),
            ("next-server", _) => match addresses(statement, 1) {
                Some(said) => self.next_server = said.value.first().map(|ip| Said::new(*ip, place)),
                None => {
                    let why = "vmlan takes the address of the server to boot from, not its name";
                    report.decide(
                        place,
                        statement.text(),
                        why,
                        "set next_server in the network's `dhcp`",
                    );
                }
            },
            ("filename", _) => self.boot_file = text(statement, 1),
            ("option", "routers") => self.routers = list(statement, addresses_form, report),
            ("option", "domain-name-servers") => {
                self.dns = list(statement, addresses_form, report);
            }
            ("option", "ntp-servers") => self.ntp = list(statement, addresses_form, report),
            ("option", "domain-name") => self.domain = text(statement, 2),
            ("option", "domain-search") => {
                let domains = statement.values(2).into_iter().map(str::to_owned);
                self.search = Some(Said::new(domains.collect(), place));
            }
            ("option", "interface-mtu") => self.mtu = one(statement, 2, number, report),
            ("option", "tftp-server-name") => self.tftp_server = text(statement, 2),
            ("option", "bootfile-name") => self.boot_file = text(statement, 2),
            ("option", "broadcast-address") => {
                self.broadcast = one(statement, 2, "is not followed by an address", report);
            }
            ("option", name) if LISTS.iter().any(|(list, _)| *list == name) => {
                let code = LISTS.iter().find(|(list, _)| *list == name);
                let said = list(statement, addresses_form, report);
                self.lists
                    .extend(code.zip(said).map(|((_, code), said)| (*code, said)));
            }
            ("allow", "unknown-clients" | "booting" | "bootp") | ("authoritative", _) => {}
            (word, _) => {
                let (fate_is_decision, why, action) = without_equivalent(word, statement.word(1));
                let text = statement.text();
                if fate_is_decision {
                    report.decide(place, text, why, action);
                } else {
                    report.ignored(place, text, why, action);
                }
            }
        }
    }

    /// Takes what is said around these and not by them.
    fn inherit(&mut self, outer: &Self) {
        fn or<T: Clone>(slot: &mut Option<T>, outer: &Option<T>) {
            if slot.is_none() {
                slot.clone_from(outer);
            }
        }
        or(&mut self.lease, &outer.lease);
        or(&mut self.max_lease, &outer.max_lease);
        or(&mut self.routers, &outer.routers);
        or(&mut self.dns, &outer.dns);
        or(&mut self.ntp, &outer.ntp);
        or(&mut self.domain, &outer.domain);
        or(&mut self.search, &outer.search);
        or(&mut self.mtu, &outer.mtu);
        or(&mut self.next_server, &outer.next_server);
        or(&mut self.tftp_server, &outer.tftp_server);
        or(&mut self.boot_file, &outer.boot_file);
        or(&mut self.broadcast, &outer.broadcast);
        for (code, said) in &outer.lists {
            self.lists.entry(*code).or_insert_with(|| said.clone());
        }
    }
}

/// Says whether a statement without equivalent needs a decision, why it has none, and what to do.
fn without_equivalent(word: &str, argument: &str) -> (bool, &'static str, &'static str) {
    match (word, argument) {
        ("deny" | "ignore", "unknown-clients") => (
            true,
            "vmlan serves every client in the network",
            "keep strangers out of the network, or set dhcp = false in it",
        ),
        ("deny" | "ignore", "bootp" | "booting") => (
            false,
            "vmlan serves every client in the network, and clients of BOOTP alone never",
            "nothing to do",
        ),
        ("include", _) => (
            true,
            "files within files are not followed",
            "name that file in the command too",
        ),
        ("range", _) => (
            true,
            "it is in no subnet",
            "set pool in the network's `dhcp`",
        ),
        ("not", "authoritative") => (
            false,
            "vmlan answers for every address of its subnet",
            "nothing to do",
        ),
        ("ddns-update-style" | "ddns-updates", _) => (
            false,
            "vmlan updates nobody's DNS; its own knows its clients",
            "nothing to do",
        ),
        ("option", "subnet-mask") => (
            false,
            "vmlan hands out the mask of the network's subnet",
            "nothing to do",
        ),
        ("option", _) => (
            true,
            "vmlan has no key for this option",
            "write it by its code, as in options = { \"252\" = \"text\" } in the network's `dhcp`",
        ),
        _ => (
            false,
            "vmlan does not know this statement",
            "look whether something in README.md takes its place",
        ),
    }
}

fn setting(host: &str, statement: &Statement) -> String {
    format!("host {host}: {}", statement.text())
}

fn wrong(statement: &Statement, form: &str, report: &mut Report) {
    report.mistake(statement.place, format!("{:?} {form}", statement.text()));
}

/// Reads the one value that a statement has.
fn one<T: FromStr>(
    statement: &Statement,
    from: usize,
    form: &str,
    report: &mut Report,
) -> Option<Said<T>> {
    let value = match statement.values(from).as_slice() {
        [value] => value.parse().ok(),
        _ => None,
    };
    if value.is_none() {
        wrong(statement, form, report);
    }
    value.map(|value| Said::new(value, statement.place))
}

fn text(statement: &Statement, at: usize) -> Option<Said<String>> {
    Some(Said::new(statement.word(at).to_owned(), statement.place))
}

fn list(statement: &Statement, form: &str, report: &mut Report) -> Option<Said<Vec<Ipv4Addr>>> {
    let list = addresses(statement, 2);
    if list.is_none() {
        wrong(statement, form, report);
    }
    list
}

/// Reads a list of addresses with at least one.
fn addresses(statement: &Statement, from: usize) -> Option<Said<Vec<Ipv4Addr>>> {
    let values = statement.values(from);
    let addresses: Option<Vec<_>> = values.iter().map(|value| value.parse().ok()).collect();
    let addresses = addresses.filter(|addresses| !addresses.is_empty())?;
    Some(Said::new(addresses, statement.place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading(text: &str) -> (DhcpdConf, Report) {
        let mut report = Report::default();
        let conf = read(text, 0, &mut report);
        (conf, report)
    }

    fn notes(text: &str) -> Vec<String> {
        let (_, report) = reading(text);
        assert!(report.makes_sense(), "{report:?}");
        let notes = report.notes().into_iter();
        notes
            .map(|note| format!("{}: {note}", note.place.line))
            .collect()
    }

    const VMNET8: &str = "allow unknown-clients;
default-lease-time 1800;
max-lease-time 7200;
subnet 192.168.88.0 netmask 255.255.255.0 {
	range 192.168.88.128 192.168.88.254;
	option broadcast-address 192.168.88.255;
	option domain-name-servers 192.168.88.2;
	option domain-name localdomain;
	default-lease-time 3600;
	option netbios-name-servers 192.168.88.2;
	option routers 192.168.88.2;
}
host vmnet8 {
	hardware ethernet 00:50:56:C0:00:08;
	fixed-address 192.168.88.1;
	option domain-name-servers 0.0.0.0;
	option domain-name \"\";
	option routers 0.0.0.0;
}
host build { hardware ethernet 00:0c:29:12:34:56; fixed-address 192.168.88.10; option host-name \"build-1\"; }
";

    #[test]
    fn subnets_hosts_and_options_are_read_and_inner_ones_hold() {
        let (conf, report) = reading(VMNET8);
        assert!(
            report.makes_sense() && report.notes().is_empty(),
            "{report:?}"
        );
        let [subnet] = conf.subnets.as_slice() else {
            panic!("{conf:?}");
        };
        assert_eq!(subnet.net.to_string(), "192.168.88.0/24");
        assert_eq!(subnet.ranges[0].place.line, 5);
        let options = &subnet.options;
        let lease =
            |said: &Option<Said<u64>>| said.clone().map(|said| (said.value, said.place.line));
        assert_eq!(lease(&options.lease), Some((3600, 9)));
        assert_eq!(lease(&options.max_lease), Some((7200, 3)));
        let gateway = vec![Ipv4Addr::new(192, 168, 88, 2)];
        assert_eq!(options.routers.as_ref().unwrap().value, gateway);
        assert_eq!(options.dns.as_ref().unwrap().value, gateway);
        assert_eq!(options.lists[&NETBIOS].value, gateway);
        assert_eq!(options.domain.as_ref().unwrap().value, "localdomain");
        let [adapter, build] = conf.hosts.as_slice() else {
            panic!("{conf:?}");
        };
        assert_eq!(adapter.adapter_of().as_deref(), Some("vmnet8"));
        assert_eq!(build.adapter_of(), None);
        assert_eq!(build.hostname.as_ref().unwrap().value, "build-1");
        assert_eq!(
            build.mac.as_ref().unwrap().value.to_string(),
            "00:0c:29:12:34:56"
        );
    }

    #[test]
    fn what_is_said_around_a_subnet_holds_in_it_wherever_it_is_said() {
        let text = "group { shared-network lab { subnet 10.0.0.0 netmask 255.0.0.0 { pool { range 10.0.1.1; } } option interface-mtu 1400; } option domain-name \"lab\"; } option ntp-servers 10.0.0.5;";
        let (conf, report) = reading(text);
        assert!(
            report.makes_sense() && report.notes().is_empty(),
            "{report:?}"
        );
        let options = &conf.subnets[0].options;
        assert_eq!(options.mtu.as_ref().unwrap().value, 1400);
        assert_eq!(options.domain.as_ref().unwrap().value, "lab");
        assert!(options.ntp.is_some());
        let ip = Ipv4Addr::new(10, 0, 1, 1);
        assert_eq!(conf.subnets[0].ranges[0].value, (ip, ip));
    }

    #[test]
    fn networks_are_named_however_they_are_written() {
        assert_eq!(network_name("VMnet8").as_deref(), Some("vmnet8"));
        assert_eq!(network_name("vmnet008").as_deref(), Some("vmnet8"));
        for text in ["", "vmnet", "vmnet8a", "vmnet1234", "eth0", "vmnét8"] {
            assert_eq!(network_name(text), None, "{text}");
        }
    }

    #[test]
    fn what_has_no_equivalent_is_told_one_line_each() {
        for (statement, told) in [
            (
                "deny unknown-clients;",
                "decide: deny unknown-clients: vmlan serves every client",
            ),
            (
                "deny bootp;",
                "ignored: deny bootp: vmlan serves every client",
            ),
            (
                "include \"/etc/more.conf\";",
                "decide: include \"/etc/more.conf\": files within files",
            ),
            (
                "range 10.0.0.1 10.0.0.2;",
                "decide: range 10.0.0.1 10.0.0.2: it is in no subnet",
            ),
            (
                "not authoritative;",
                "ignored: not authoritative: vmlan answers",
            ),
            (
                "ddns-update-style none;",
                "ignored: ddns-update-style none: vmlan updates",
            ),
            (
                "option subnet-mask 255.0.0.0;",
                "ignored: option subnet-mask 255.0.0.0: ",
            ),
            (
                "option nis-domain \"x\";",
                "decide: option nis-domain \"x\": vmlan has no key",
            ),
            (
                "next-server boot.example;",
                "decide: next-server boot.example: vmlan takes the address",
            ),
            (
                "server-identifier 10.0.0.1;",
                "ignored: server-identifier 10.0.0.1: vmlan does not know",
            ),
            (
                "class \"a\" { match x; }",
                "ignored: class \"a\": vmlan has no conditions",
            ),
            (
                "host a { fixed-address a.example; }",
                "decide: fixed-address a.example: vmlan reserves addresses",
            ),
            (
                "host a { filename \"x\"; }",
                "ignored: host a: filename \"x\": a reservation has",
            ),
        ] {
            let notes = notes(&format!("\n{statement}"));
            assert_eq!(notes.len(), 1, "{statement}: {notes:?}");
            assert!(notes[0].starts_with(&format!("2: {told}")), "{}", notes[0]);
        }
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = "default-lease-time soon;
subnet 10.0.0.0 netmask 255.0.255.0 { }
subnet 10.0.0.0 { }
subnet 10.0.0.0 netmask 255.0.0.0 {
 range 11.0.0.1 11.0.0.2;
 range 10.0.0.2 10.0.0.1;
 range 10.0.0.1 option;
 option routers nobody;
 option interface-mtu 1 2;
}
host a { hardware ethernet 00:11; }
max-lease-time 7200
";
        let (_, report) = reading(text);
        let lines: Vec<_> = report
            .mistakes()
            .iter()
            .map(|mistake| mistake.place.unwrap().line)
            .collect();
        assert_eq!(lines, [1, 2, 3, 5, 6, 7, 8, 9, 11, 12], "{report:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(subnet 10.0.0.0 netmask 255.0.0.0 |host a |range |option routers |\\{|\\}|;|10.0.0.1 |[\" ,\n#é]){0,40}") {
            reading(&text);
        }
    }
}

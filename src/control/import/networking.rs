//! Workstation's `networking`: the answers that its network editor keeps, one a line.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::nat_conf::{Forward, Protocol, flag, port, prefix_of};
use super::report::{Place, Report, Said};
use crate::wire::ethernet::MacAddr;

/// The most forwards and bridges that are read.
const MOST: usize = 4096;
/// The highest number of a network.
const HIGHEST: u16 = 255;

/// What a `networking` file says.
#[derive(Debug, Default)]
pub struct Networking {
    /// What it says of each network, by name.
    pub networks: BTreeMap<String, Answers>,
    /// Adapters and the networks that they are bridged to.
    pub bridges: Vec<Said<(String, String)>>,
}

/// What is said of one network.
#[derive(Debug, Default)]
pub struct Answers {
    /// Whether it has a DHCP server.
    pub dhcp: Option<Said<bool>>,
    /// Whether it has a NAT.
    pub nat: Option<Said<bool>>,
    /// Its subnet.
    pub subnet: Option<Said<Ipv4Addr>>,
    /// The length of the subnet's prefix.
    pub prefix: Option<Said<u8>>,
    /// Whether the host has an adapter in it.
    pub adapter: Option<Said<bool>>,
    /// Port forwards.
    pub forwards: Vec<Said<Forward>>,
    /// Addresses that belong to one client each.
    pub reservations: Vec<Said<(MacAddr, Ipv4Addr)>>,
}

/// Reads a file.
pub fn read(text: &str, file: usize, report: &mut Report) -> Networking {
    let mut networking = Networking::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with("VERSION=") {
            continue;
        }
        let place = Place {
            file,
            line: line_number,
        };
        networking.take(line, place, report);
    }
    networking
}

impl Networking {
    fn take(&mut self, line: &str, place: Place, report: &mut Report) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["answer", key, values @ ..] => self.answer(line, key, values, place, report),
            ["add_bridge_mapping", adapter, network] => match network_numbered(network) {
                Some(network) if self.bridges.len() < MOST => {
                    let bridge = ((*adapter).to_owned(), network);
                    self.bridges.push(Said::new(bridge, place));
                }
                Some(_) => report.mistake(place, format!("there are more than {MOST} bridges")),
                None => wrong(line, "does not name a network by its number", place, report),
            },
            ["add_nat_portfwd", network, protocol, from, ip, to, ..] => {
                let protocol = match protocol.to_ascii_lowercase().as_str() {
                    "tcp" => Some(Protocol::Tcp),
                    "udp" => Some(Protocol::Udp),
                    _ => None,
                };
                let to = ip.parse().ok().zip(port(to));
                let (Some(network), Some(protocol), Some(from), Some((ip, to))) =
                    (network_numbered(network), protocol, port(from), to)
                else {
                    wrong(
                        line,
                        "is not a forward such as add_nat_portfwd 8 tcp 8888 192.168.88.128 80",
                        place,
                        report,
                    );
                    return;
                };
                let answers = self.networks.entry(network).or_default();
                if answers.forwards.len() == MOST {
                    report.mistake(place, format!("there are more than {MOST} forwards"));
                    return;
                }
                let forward = Forward {
                    protocol,
                    port: from,
                    to: SocketAddrV4::new(ip, to),
                };
                answers.forwards.push(Said::new(forward, place));
            }
            ["remove_nat_portfwd", network, protocol, from, ..] => {
                let answers =
                    network_numbered(network).and_then(|network| self.networks.get_mut(&network));
                if let (Some(answers), Some(from)) = (answers, port(from)) {
                    answers.forwards.retain(|forward| {
                        let Forward {
                            protocol: own,
                            port,
                            ..
                        } = forward.value;
                        port != from || !own.name().eq_ignore_ascii_case(protocol)
                    });
                }
            }
            ["add_dhcp_mac_to_ip", network, mac, ip, ..] => {
                let client = mac.parse().ok().zip(ip.parse().ok());
                let Some((network, client)) = network_numbered(network).zip(client) else {
                    let form = "is not a reservation such as add_dhcp_mac_to_ip 8 00:0c:29:12:34:56 192.168.88.10";
                    wrong(line, form, place, report);
                    return;
                };
                let answers = self.networks.entry(network).or_default();
                if answers.reservations.len() == MOST {
                    let text = format!("there are more than {MOST} reservations");
                    report.mistake(place, text);
                    return;
                }
                answers.reservations.push(Said::new(client, place));
            }
            ["remove_dhcp_mac_to_ip", network, mac, ..] => {
                let answers =
                    network_numbered(network).and_then(|network| self.networks.get_mut(&network));
                if let (Some(answers), Ok(mac)) = (answers, mac.parse::<MacAddr>()) {
                    answers.reservations.retain(|one| one.value.0 != mac);
                }
            }
            ["remove_bridge_mapping", ..] => {
                let why = "vmlan bridges to no adapter that nobody named";
                report.ignored(place, line, why, "nothing to do");
            }
            [command, ..] if command.starts_with("add_") || command.starts_with("remove_") => {
                let why = "vmlan does not know this setting";
                let action = "look whether something in README.md takes its place";
                report.ignored(place, line, why, action);
            }
            _ => wrong(
                line,
                "is not a line such as `answer VNET_8_NAT yes`",
                place,
                report,
            ),
        }
    }

    fn answer(
        &mut self,
        line: &str,
        key: &str,
        values: &[&str],
        place: Place,
        report: &mut Report,
    ) {
        let unknown = |report: &mut Report| {
            let why = "vmlan does not know this answer";
            let action = "look whether something in README.md takes its place";
            report.ignored(place, line, why, action);
        };
        let named = key
            .strip_prefix("VNET_")
            .and_then(|key| key.split_once('_'));
        let named = named.and_then(|(number, what)| Some((network_numbered(number)?, what)));
        let Some((network, what)) = named else {
            unknown(report);
            return;
        };
        let value = values.first().copied().unwrap_or_default();
        let yes = flag(value).map(|yes| Said::new(yes, place));
        let address = value.parse().ok();
        if what == "INTERFACE" {
            if self.bridges.len() < MOST && !value.is_empty() {
                self.bridges
                    .push(Said::new((value.to_owned(), network), place));
            }
            return;
        }
        // Workstation's own marks: of what it generated, and of the network on its host.
        if what.ends_with("_HASH") || what.ends_with("_UUID") {
            return;
        }
        let mut answers = Answers::default();
        let form = match what {
            "DHCP" => {
                answers.dhcp = yes;
                "is neither yes nor no"
            }
            "NAT" => {
                answers.nat = yes;
                "is neither yes nor no"
            }
            "VIRTUAL_ADAPTER" => {
                answers.adapter = yes;
                "is neither yes nor no"
            }
            "HOSTONLY_SUBNET" => {
                answers.subnet = address.map(|ip| Said::new(ip, place));
                "is not an address such as 192.168.88.0"
            }
            "HOSTONLY_NETMASK" => {
                let prefix = address.and_then(prefix_of);
                answers.prefix = prefix.map(|prefix| Said::new(prefix, place));
                "is not a netmask such as 255.255.255.0"
            }
            _ => {
                unknown(report);
                return;
            }
        };
        if answers.is_empty() {
            wrong(line, form, place, report);
        }
        self.networks.entry(network).or_default().take(answers);
    }
}

impl Answers {
    /// Tells whether nothing is said but of forwards.
    const fn is_empty(&self) -> bool {
        self.dhcp.is_none()
            && self.nat.is_none()
            && self.subnet.is_none()
            && self.prefix.is_none()
            && self.adapter.is_none()
    }

    /// Takes what was said later.
    pub fn take(&mut self, later: Self) {
        fn or<T>(slot: &mut Option<T>, later: Option<T>) {
            if later.is_some() {
                *slot = later;
            }
        }
        or(&mut self.dhcp, later.dhcp);
        or(&mut self.nat, later.nat);
        or(&mut self.subnet, later.subnet);
        or(&mut self.prefix, later.prefix);
        or(&mut self.adapter, later.adapter);
        self.forwards.extend(later.forwards);
        self.reservations.extend(later.reservations);
    }
}

/// Returns the name of the network with this number: `8` is `vmnet8`.
pub fn network_numbered(number: &str) -> Option<String> {
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    let number: u16 = number.parse().ok().filter(|_| digits)?;
    (number <= HIGHEST).then(|| format!("vmnet{number}"))
}

fn wrong(line: &str, form: &str, place: Place, report: &mut Report) {
    report.mistake(place, format!("{line:?} {form}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading(text: &str) -> (Networking, Report) {
        let mut report = Report::default();
        let networking = read(text, 0, &mut report);
        (networking, report)
    }

    #[test]
    fn answers_forwards_and_bridges_are_read() {
        let text = "VERSION=1,0\nanswer VNET_1_DHCP no\nanswer VNET_1_DHCP_CFG_HASH 0A1B\nanswer VNET_1_HOSTONLY_NETMASK 255.255.255.0\nanswer VNET_1_HOSTONLY_SUBNET 192.168.81.0\nanswer VNET_1_VIRTUAL_ADAPTER yes\nanswer VNET_8_NAT yes\nadd_nat_portfwd 8 tcp 8888 192.168.88.128 80\nadd_bridge_mapping eth0 0\nanswer VNET_2_INTERFACE eth1\n";
        let (networking, report) = reading(text);
        assert!(
            report.makes_sense() && report.notes().is_empty(),
            "{report:?}"
        );
        let at = |line| Place { file: 0, line };
        let one = &networking.networks["vmnet1"];
        assert_eq!(one.dhcp, Some(Said::new(false, at(2))));
        assert_eq!(one.prefix, Some(Said::new(24, at(4))));
        let subnet = Ipv4Addr::new(192, 168, 81, 0);
        assert_eq!(one.subnet, Some(Said::new(subnet, at(5))));
        assert_eq!(one.adapter, Some(Said::new(true, at(6))));
        let eight = &networking.networks["vmnet8"];
        assert_eq!(eight.nat, Some(Said::new(true, at(7))));
        let forward = Forward {
            protocol: Protocol::Tcp,
            port: 8888,
            to: "192.168.88.128:80".parse().unwrap(),
        };
        assert_eq!(eight.forwards, [Said::new(forward, at(8))]);
        let bridge = |adapter: &str, network: &str, line| {
            Said::new((adapter.to_owned(), network.to_owned()), at(line))
        };
        assert_eq!(
            networking.bridges,
            [bridge("eth0", "vmnet0", 9), bridge("eth1", "vmnet2", 10)]
        );
    }

    #[test]
    fn what_is_not_known_is_told_and_what_is_wrong_is_refused() {
        let (_, report) = reading(
            "answer VNET_8_DISPLAY_NAME lab\nremove_bridge_mapping eth1\nanswer NETWORKING yes\n",
        );
        let notes: Vec<_> = report.notes().iter().map(|note| note.place.line).collect();
        assert_eq!((notes, report.makes_sense()), (vec![1, 2, 3], true));
        let (_, report) = reading(
            "answer VNET_8_NAT perhaps\nhello\nadd_nat_portfwd 8 sctp 1 10.0.0.1 1\nadd_bridge_mapping eth0 256\nanswer VNET_8_HOSTONLY_NETMASK 255.0.255.0\nanswer VNET_8_HOSTONLY_SUBNET x\n",
        );
        let lines: Vec<_> = report
            .mistakes()
            .iter()
            .map(|one| one.place.unwrap().line)
            .collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6], "{report:?}");
    }

    #[test]
    fn what_was_added_can_be_removed_later() {
        let text = "add_nat_portfwd 8 tcp 80 10.0.0.9 80\nadd_nat_portfwd 8 udp 80 10.0.0.9 80\nremove_nat_portfwd 8 tcp 80\nadd_dhcp_mac_to_ip 8 00:0C:29:00:00:01 10.0.0.8\nadd_dhcp_mac_to_ip 8 00:0C:29:00:00:02 10.0.0.9\nremove_dhcp_mac_to_ip 8 00:0c:29:00:00:01\n";
        let (networking, report) = reading(text);
        assert!(report.makes_sense() && report.notes().is_empty());
        let answers = &networking.networks["vmnet8"];
        let lines = |places: Vec<Place>| places.iter().map(|place| place.line).collect::<Vec<_>>();
        let forwards = answers.forwards.iter().map(|one| one.place).collect();
        let reservations = answers.reservations.iter().map(|one| one.place).collect();
        assert_eq!((lines(forwards), lines(reservations)), (vec![2], vec![5]));
        let (_, report) = reading("add_dhcp_mac_to_ip 8 00:0c 10.0.0.8\n");
        assert!(!report.makes_sense());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(answer |VNET_|8|_NAT|_DHCP| yes|add_nat_portfwd |add_bridge_mapping | tcp|[0-9.\n é]){0,40}") {
            reading(&text);
        }
    }
}

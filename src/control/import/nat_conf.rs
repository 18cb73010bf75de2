//! Workstation's `nat.conf`: sections of keys and values.
//!
//! A value that cannot be what it should be is a mistake; a key that has no equivalent is reported and left out.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::report::{Place, Report, Said};

/// The most forwards that are read.
const FORWARDS: usize = 4096;

/// What a `nat.conf` says.
#[derive(Debug, Default)]
pub struct NatConf {
    /// The device of the network, such as `/dev/vmnet8`.
    pub device: Option<Said<String>>,
    /// The gateway's address.
    pub ip: Option<Said<Ipv4Addr>>,
    /// The length of the subnet's prefix.
    pub prefix: Option<Said<u8>>,
    /// The host adapter's address.
    pub host_ip: Option<Said<Ipv4Addr>>,
    /// Whether active FTP works.
    pub ftp: Option<Said<bool>>,
    /// Whether there is IPv6.
    pub ipv6: Option<Said<bool>>,
    /// Its prefix.
    pub ipv6_prefix: Option<Said<Ipv6Net>>,
    /// The seconds after which idle UDP is forgotten, 0 for never.
    pub udp_timeout: Option<Said<u64>>,
    /// Whether the host's name servers are used.
    pub detect_dns: Option<Said<bool>>,
    /// Name servers by their numbers.
    pub name_servers: Vec<Said<(u32, IpAddr)>>,
    /// Port forwards.
    pub forwards: Vec<Said<Forward>>,
}

/// A protocol that is forwarded.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of the host that leads to a guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Forward {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The host's port.
    pub port: u16,
    /// The guest's address and port.
    pub to: SocketAddrV4,
}

/// Reads a file.
pub fn read(text: &str, file: usize, report: &mut Report) -> NatConf {
    let mut conf = NatConf::default();
    let mut section = String::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let place = Place {
            file,
            line: line_number,
        };
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            if let Some(name) = name.strip_suffix(']') {
                section = name.trim().to_ascii_lowercase();
            } else {
                report.mistake(place, format!("{line:?} has no ] at its end"));
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            let text = format!("{line:?} is neither a [section] nor a key = value");
            report.mistake(place, text);
            continue;
        };
        let entry = Entry {
            section: &section,
            key: key.trim(),
            value: value.trim().trim_matches('"'),
            place,
        };
        conf.take(&entry, report);
    }
    conf.name_servers.sort_by_key(|server| server.value.0);
    conf
}

/// One key and its value.
struct Entry<'a> {
    section: &'a str,
    key: &'a str,
    value: &'a str,
    place: Place,
}

impl NatConf {
    fn take(&mut self, entry: &Entry<'_>, report: &mut Report) {
        let key = entry.key.to_ascii_lowercase();
        match (entry.section, key.as_str()) {
            ("host", "ip") => self.ip(entry, report),
            ("host", "netmask") => match entry.value.parse().ok().and_then(prefix_of) {
                Some(prefix) => set(&mut self.prefix, entry.said(prefix), entry, report),
                None => entry.wrong("is not a netmask such as 255.255.255.0", report),
            },
            ("host", "hostip") => {
                if let Some(ip) = entry.address(report) {
                    set(&mut self.host_ip, ip, entry, report);
                }
            }
            ("host", "device") => {
                let device = entry.said(entry.value.to_owned());
                set(&mut self.device, device, entry, report);
            }
            ("host", "activeftp") => {
                if let Some(ftp) = entry.flag(report) {
                    set(&mut self.ftp, ftp, entry, report);
                }
            }
            ("host", "natip6enable") => {
                if let Some(enable) = entry.flag(report) {
                    set(&mut self.ipv6, enable, entry, report);
                }
            }
            ("host", "natip6prefix") => {
                if let Some(prefix) = entry.parsed("is not a prefix such as fd00::/64", report) {
                    set(&mut self.ipv6_prefix, prefix, entry, report);
                }
            }
            ("udp", "timeout") => {
                if let Some(timeout) = entry.parsed("is not a number of seconds", report) {
                    set(&mut self.udp_timeout, timeout, entry, report);
                }
            }
            ("dns", "autodetect") => {
                if let Some(detect) = entry.flag(report) {
                    set(&mut self.detect_dns, detect, entry, report);
                }
            }
            ("dns", key) if key.starts_with("nameserver") => self.name_server(entry, key, report),
            ("incomingtcp", _) => self.forward(entry, Protocol::Tcp, report),
            ("incomingudp", _) => self.forward(entry, Protocol::Udp, report),
            (section, key) => {
                let (why, action) = without_equivalent(section, key, entry.value);
                report.ignored(entry.place, entry.setting(), why, action);
            }
        }
    }

    fn ip(&mut self, entry: &Entry<'_>, report: &mut Report) {
        if !entry.value.contains('/') {
            if let Some(ip) = entry.address(report) {
                set(&mut self.ip, ip, entry, report);
            }
            return;
        }
        if let Some(net) =
            entry.parsed::<Ipv4Net>("is not an address such as 192.168.88.2/24", report)
        {
            set(&mut self.ip, entry.said(net.value.addr()), entry, report);
            self.prefix = Some(entry.said(net.value.prefix_len()));
        }
    }

    fn name_server(&mut self, entry: &Entry<'_>, key: &str, report: &mut Report) {
        let number = key
            .trim_start_matches("nameserver")
            .parse()
            .unwrap_or(u32::MAX);
        if let Some(ip) = entry.parsed::<IpAddr>("is not the address of a name server", report) {
            self.name_servers.push(entry.said((number, ip.value)));
        }
    }

    fn forward(&mut self, entry: &Entry<'_>, protocol: Protocol, report: &mut Report) {
        let form = "is not a forward such as 8888 = 192.168.88.128:80";
        let port = port(entry.key);
        let to = entry.value.parse::<SocketAddrV4>().ok();
        let (Some(port), Some(to)) = (port, to.filter(|to| to.port() != 0)) else {
            entry.wrong(form, report);
            return;
        };
        if self.forwards.len() == FORWARDS {
            let text = format!("there are more than {FORWARDS} forwards");
            report.mistake(entry.place, text);
        }
        if self.forwards.len() <= FORWARDS {
            let forward = Forward { protocol, port, to };
            self.forwards.push(entry.said(forward));
        }
    }
}

impl Entry<'_> {
    fn setting(&self) -> String {
        let Self {
            section,
            key,
            value,
            ..
        } = self;
        format!("[{section}] {key} = {value}")
    }

    const fn said<T>(&self, value: T) -> Said<T> {
        Said::new(value, self.place)
    }

    fn wrong(&self, form: &str, report: &mut Report) {
        report.mistake(self.place, format!("{}: {form}", self.setting()));
    }

    fn parsed<T: FromStr>(&self, form: &str, report: &mut Report) -> Option<Said<T>> {
        match self.value.parse() {
            Ok(value) => Some(self.said(value)),
            Err(_) => {
                self.wrong(form, report);
                None
            }
        }
    }

    fn address(&self, report: &mut Report) -> Option<Said<Ipv4Addr>> {
        self.parsed("is not an address such as 192.168.88.2", report)
    }

    fn flag(&self, report: &mut Report) -> Option<Said<bool>> {
        let flag = flag(self.value);
        if flag.is_none() {
            self.wrong("is neither 1 nor 0", report);
        }
        flag.map(|flag| self.said(flag))
    }
}

/// Reads what VMware's files write for true and false.
pub fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "true" | "on" => Some(true),
        "0" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// Reads a port other than 0.
pub fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// Returns the length of the prefix that a netmask has, if it is one.
pub fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    ipnet::ipv4_mask_to_prefix(mask).ok()
}

fn set<T>(slot: &mut Option<Said<T>>, said: Said<T>, entry: &Entry<'_>, report: &mut Report) {
    if let Some(earlier) = slot.replace(said) {
        let setting = format!("[{}] {}", entry.section, entry.key);
        let why = format!("it is written again on line {}", entry.place.line);
        report.ignored(earlier.place, setting, &why, "nothing to do");
    }
}

/// Says why a key has no equivalent, and what to do.
fn without_equivalent(section: &str, key: &str, value: &str) -> (&'static str, &'static str) {
    match (section, key) {
        ("host", "allowanyoui") if flag(value) == Some(false) => (
            "vmlan serves guests whatever the vendor of their hardware address",
            "guests are held to their own addresses by `security`; nothing to do",
        ),
        ("host", "allowanyoui") => (
            "vmlan serves guests whatever the vendor of their hardware address",
            "nothing to do",
        ),
        ("host", "configport") => (
            "vmlan is asked and changed by its control socket",
            "use `vmlan status`, or curl --unix-socket",
        ),
        ("host", "resetconnectiononlinkdown") => (
            "connections are the daemon's own sockets, and the host's kernel decides when they end",
            "nothing to do",
        ),
        ("host", "resetconnectionondestlocalhost") => (
            "guests reach the host by its host adapter's address, and its loopback not at all",
            "to let them reach the loopback by the gateway's address, set map_host_loopback = true in the network's `nat`",
        ),
        ("host", "usemacosvmnetvirtapi") => ("it is about macOS", "nothing to do"),
        ("tcp", "timewaittimeout") => (
            "vmlan chooses how long it remembers a connection that was closed",
            "if there are too many, set tcp_transitory_timeout in the network's `nat`",
        ),
        ("netbios", _) => (
            "vmlan does not answer NetBIOS names",
            "guests find one another by DNS, or by NetBIOS broadcasts within the network",
        ),
        ("privilegedudp" | "privilegedtcp", _) => (
            "connections leave from any free port of the host, never from one below 1024",
            "for NFS or rsh, let the server accept other ports (NFS: `insecure`), or use a bridged network",
        ),
        ("dns", "policy") => (
            "vmlan asks one server after the other, and first the one that answered last",
            "write the servers in the order in which they are to be asked",
        ),
        ("dns", "timeout" | "retries") => (
            "vmlan waits 2 s for each server and asks each twice",
            "nothing to do",
        ),
        _ => (
            "vmlan does not know this setting",
            "look whether something in README.md takes its place",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading(text: &str) -> (NatConf, Report) {
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

    #[test]
    fn what_has_an_equivalent_is_read_with_its_line() {
        let text = "\u{feff}# NAT\r\n[host]\r\nip = 192.168.88.2/24\r\nhostIp = 192.168.88.1\nDevice = /dev/vmnet8\nactiveFTP=1\nnatIp6Enable = 0\nnatIp6Prefix = fd15:4ba5:5a2b:1008::/64\n\n[udp]\ntimeout = 60 # seconds\n[dns]\nautodetect = 1\nnameserver2 = 2620:fe::fe\nnameserver1 = 9.9.9.9\n[incomingtcp]\n#8888 = 192.168.88.128:80\n8889 = 192.168.88.128:80\n[incomingudp]\n6000 = 192.168.88.129:6001\n";
        let (conf, report) = reading(text);
        assert!(
            report.makes_sense() && report.notes().is_empty(),
            "{report:?}"
        );
        let at = |line| Place { file: 0, line };
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        assert_eq!(conf.ip, Some(Said::new(ip("192.168.88.2"), at(3))));
        assert_eq!(conf.prefix, Some(Said::new(24, at(3))));
        assert_eq!(conf.host_ip, Some(Said::new(ip("192.168.88.1"), at(4))));
        assert_eq!(conf.device.unwrap().value, "/dev/vmnet8");
        assert_eq!(conf.ftp, Some(Said::new(true, at(6))));
        assert_eq!(conf.ipv6, Some(Said::new(false, at(7))));
        let prefix = conf.ipv6_prefix.unwrap().value.to_string();
        assert_eq!(prefix, "fd15:4ba5:5a2b:1008::/64");
        assert_eq!(conf.udp_timeout, Some(Said::new(60, at(11))));
        assert_eq!(conf.detect_dns, Some(Said::new(true, at(13))));
        let servers: Vec<_> = conf
            .name_servers
            .iter()
            .map(|server| server.value.1.to_string())
            .collect();
        assert_eq!(servers, ["9.9.9.9", "2620:fe::fe"]);
        let forward = |protocol, port, to: &str, line| {
            let to = to.parse().unwrap();
            Said::new(Forward { protocol, port, to }, at(line))
        };
        assert_eq!(
            conf.forwards,
            [
                forward(Protocol::Tcp, 8889, "192.168.88.128:80", 18),
                forward(Protocol::Udp, 6000, "192.168.88.129:6001", 20)
            ]
        );
    }

    #[test]
    fn an_address_and_a_netmask_are_a_subnet_too() {
        let (conf, _) = reading("[host]\nip = 10.1.2.2\nnetmask = 255.255.0.0\n");
        assert_eq!(conf.prefix.unwrap().value, 16);
    }

    #[test]
    fn what_has_no_equivalent_is_told_one_line_each() {
        for (setting, told) in [
            ("[host]\nallowAnyOUI = 1", "whatever the vendor"),
            ("[host]\nallowAnyOUI = 0", "security"),
            ("[host]\nconfigport = 33445", "control socket"),
            ("[host]\nresetConnectionOnLinkDown = 1", "the host's kernel"),
            (
                "[host]\nresetConnectionOnDestLocalHost = 1",
                "map_host_loopback",
            ),
            ("[host]\nuseMacosVmnetVirtApi = 1", "macOS"),
            ("[tcp]\ntimeWaitTimeout = 30", "tcp_transitory_timeout"),
            ("[netbios]\nnbnsTimeout = 2", "NetBIOS"),
            ("[privilegedUDP]\nport = 111", "below 1024"),
            ("[privilegedTCP]\nautodetect = 1", "below 1024"),
            ("[dns]\npolicy = order", "one server after the other"),
            ("[dns]\ntimeout = 2", "2 s"),
            ("[dns]\nretries = 3", "twice"),
            ("[host]\ncolour = red", "does not know"),
        ] {
            let notes = notes(setting);
            let (section, key) = setting.split_once('\n').unwrap();
            assert_eq!(notes.len(), 1, "{setting}: {notes:?}");
            let begin = format!("2: ignored: {} {key}: ", section.to_ascii_lowercase());
            assert!(notes[0].starts_with(&begin), "{} {begin}", notes[0]);
            assert!(notes[0].contains(told), "{}", notes[0]);
        }
    }

    #[test]
    fn the_later_of_two_values_holds() {
        assert_eq!(
            notes("[udp]\ntimeout = 30\ntimeout = 60\n"),
            ["2: ignored: [udp] timeout: it is written again on line 3; nothing to do"]
        );
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = "[host\nnonsense\n[host]\nip = 300.1.1.1\nnetmask = 255.0.255.0\nactiveFTP = maybe\nnatIp6Prefix = fd00\n[udp]\ntimeout = -1\n[dns]\nnameserver1 = dns.example\n[incomingtcp]\n0 = 10.0.0.1:80\n80 = 10.0.0.1\n+80 = 10.0.0.1:80\n81 = 10.0.0.1:0\n";
        let (_, report) = reading(text);
        let lines: Vec<_> = report
            .mistakes()
            .iter()
            .map(|mistake| mistake.place.unwrap().line)
            .collect();
        assert_eq!(
            lines,
            [1, 2, 4, 5, 6, 7, 9, 11, 13, 14, 15, 16],
            "{report:?}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\[(host|udp|dns|incomingtcp)\\]\n|(ip|timeout|80|nameserver1) *=|[0-9.:=#\"\n é\\[\\]]){0,30}") {
            reading(&text);
        }
    }
}

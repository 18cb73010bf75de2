//! Tests of what a NAT, its forwards, DNS and IPv6 can be written as.

use super::*;
use crate::control::config::File;
use crate::control::config::dns::Dns;
use crate::control::config::ipv6::{Dhcp6, Ipv6};
use crate::control::config::network::Network;

fn read(text: &str) -> (Network, Problems) {
    let mut problems = Problems::default();
    let text = format!("[network.n]\nmode = \"nat\"\nsubnet = \"192.168.88.0/24\"\n{text}");
    let mut file = File::read(&text, &mut problems);
    (file.networks.remove("n").unwrap_or_default(), problems)
}

fn good(text: &str) -> Network {
    let (network, problems) = read(text);
    assert_eq!(problems.errors(), [], "{text}");
    network
}

/// Returns the only problem, without the path of the network.
fn bad(text: &str) -> String {
    let (_, problems) = read(text);
    let errors = problems.errors();
    assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
    let text = errors[0].to_string();
    text.strip_prefix("network.n.").unwrap_or(&text).to_owned()
}

#[test]
fn every_key_of_a_nat_is_read() {
    let nat = good(
        r#"
        [network.n.nat]
        outside = "lan"
        address = "203.0.113.5/24"
        gateway = "203.0.113.1"
        address6 = "2001:db8::5/64"
        gateway6 = "fe80::1"
        port_group = "dmz"
        ports = "2000-2999"
        filtering = "endpoint-independent"
        udp_timeout = "3m"
        dns_timeout = "20s"
        tcp_timeout = "1d"
        tcp_transitory_timeout = "5m"
        icmp_timeout = "2m"
        max_flows = 1000
        max_flows_per_guest = 100
        map_host_loopback = true
        ftp = true
        log = "/var/log/nat.log"
        "#,
    )
    .nat
    .unwrap();
    assert_eq!(nat.outside.as_deref(), Some("lan"));
    let place = "203.0.113.5/24".parse().unwrap();
    assert_eq!(nat.address, Some(Address4::Static(place)));
    assert_eq!(nat.gateway.unwrap().0.to_string(), "203.0.113.1");
    let place = "2001:db8::5/64".parse().unwrap();
    assert_eq!(nat.address6, Some(Addressing6::Static(place)));
    assert_eq!(nat.gateway6.unwrap().0.to_string(), "fe80::1");
    assert_eq!(nat.port_group.as_deref(), Some("dmz"));
    assert_eq!(
        nat.ports,
        Some(Ports {
            first: 2000,
            last: 2999
        })
    );
    assert_eq!(nat.filtering, Some(Filtering::EndpointIndependent));
    let spans = [
        nat.timeouts.udp,
        nat.timeouts.dns,
        nat.timeouts.tcp,
        nat.timeouts.tcp_transitory,
        nat.timeouts.icmp,
    ];
    let spans = spans.map(|span| span.unwrap().0.as_secs());
    assert_eq!(spans, [180, 20, 86_400, 300, 120]);
    assert_eq!(nat.max_flows, Some(1000));
    assert_eq!(nat.max_flows_per_guest, Some(100));
    assert_eq!((nat.map_host_loopback, nat.ftp), (Some(true), Some(true)));
    assert_eq!(nat.log, Log::File("/var/log/nat.log".into()));
    assert_eq!(nat.network_keys.len(), 6);
}

#[test]
fn values_of_a_nat_have_other_forms() {
    let nat = |keys: &str| good(&format!("[network.n.nat]\n{keys}")).nat.unwrap();
    assert_eq!(nat("address = \"dhcp\"").address, Some(Address4::Dhcp));
    assert_eq!(nat("address = false").address, Some(Address4::Off));
    assert_eq!(nat("address6 = \"auto\"").address6, Some(Addressing6::Auto));
    assert_eq!(nat("address6 = false").address6, Some(Addressing6::Off));
    assert_eq!(nat("log = \"journal\"").log, Log::Journal);
    assert_eq!(nat("log = false").log, Log::Off);
    assert_eq!(
        nat("filtering = \"address\"").filtering,
        Some(Filtering::Address)
    );
    assert_eq!(nat("").log, Log::Off);
}

#[test]
fn a_timeout_shorter_than_the_rfc_is_warned_of_and_an_absurd_one_refused() {
    for (key, short, told) in [
        ("udp_timeout", "60s", "1m is less than the 2m of RFC 4787"),
        ("tcp_timeout", "1h", "1h is less than the 124m of RFC 5382"),
        (
            "tcp_transitory_timeout",
            "30s",
            "30s is less than the 4m of RFC 5382",
        ),
        ("icmp_timeout", "30s", "30s is less than the 1m of RFC 5508"),
    ] {
        let (network, problems) = read(&format!("nat.{key} = \"{short}\""));
        assert_eq!(problems.errors(), []);
        let warnings = problems.warnings();
        assert_eq!(warnings.len(), 1, "{key}: {warnings:?}");
        assert_eq!(warnings[0].path, format!("network.n.nat.{key}"));
        assert!(warnings[0].text.starts_with(told), "{warnings:?}");
        assert_ne!(network.nat.unwrap().timeouts, Timeouts::default());
        for absurd in ["0s", "3650d"] {
            let refused = bad(&format!("nat.{key} = \"{absurd}\""));
            assert!(refused.contains(" is not between "), "{refused}");
        }
    }
    let (_, problems) = read("nat.dns_timeout = \"5s\"");
    assert_eq!((problems.errors(), problems.warnings()), (vec![], vec![]));
}

#[test]
fn every_key_of_a_forward_is_read() {
    let network = good(
        r#"
        [[network.n.forward]]
        protocol = "udp"
        listen = "[::1]:5000-5009"
        to = ["web1:5000-5009", "192.168.88.10:6000-6009"]
        balance = "source-hash"
        [[network.n.forward]]
        listen = 8080
        to = "web1:80"
        balance = "least-connections"
        health = { interval = "10s", timeout = "1s", fall = 5, rise = 1 }
        [[network.n.forward]]
        listen = "127.0.0.1:0"
        to = "web1:80"
        health = true
        [[network.n.forward]]
        protocol = "tcp"
        listen = ":81"
        to = ["web1:80"]
        balance = "round-robin"
        health = false
        "#,
    );
    let [udp, web, picked, plain] = network.forwards.as_slice() else {
        panic!("{:?}", network.forwards);
    };
    assert_eq!(udp.protocol, Protocol::Udp);
    assert_eq!(udp.listen.unwrap().to_string(), "[::1]:5000-5009");
    assert_eq!(udp.to.len(), 2);
    assert_eq!(udp.balance, Some(Balance::SourceHash));
    assert_eq!(web.listen.unwrap().to_string(), ":8080");
    assert_eq!(web.balance, Some(Balance::LeastConnections));
    let health = web.health.unwrap();
    assert_eq!(
        (health.interval.as_secs(), health.timeout.as_secs()),
        (10, 1)
    );
    assert_eq!((health.fall, health.rise), (5, 1));
    assert_eq!(picked.health, Some(Health::default()));
    assert_eq!((plain.protocol, plain.health), (Protocol::Tcp, None));
    assert_eq!(plain.balance, Some(Balance::RoundRobin));
}

#[test]
fn dns_and_ipv6_are_read_in_all_their_forms() {
    let network = good(
        r#"
        [network.n.dns]
        servers = ["9.9.9.9", "[2620:fe::fe]:5353"]
        domain = "lab.example"
        hosts = { nas = "192.168.88.5", "db.lab" = ["192.168.88.6", "fd00::6"] }
        [network.n.ipv6]
        prefix = "fd00:1:2:3::/64"
        dhcp = "stateful"
        [[network.n.dhcp.reservation]]
        mac = "02:00:00:00:00:01"
        ip = "192.168.88.10"
        ip6 = "fd00:1:2:3::10"
        "#,
    );
    let Dns::On(server) = network.dns else {
        panic!("{:?}", network.dns);
    };
    let servers = server
        .servers
        .unwrap()
        .iter()
        .map(|server| server.0.to_string())
        .collect::<Vec<_>>();
    assert_eq!(servers, ["9.9.9.9:53", "[2620:fe::fe]:5353"]);
    assert_eq!(server.domain.unwrap().0, "lab.example");
    assert_eq!(server.hosts.len(), 2);
    assert_eq!(server.hosts[0].1.len(), 2);
    let Ipv6::On(table) = network.ipv6 else {
        panic!("{:?}", network.ipv6);
    };
    assert_eq!(table.prefix.unwrap().0.to_string(), "fd00:1:2:3::/64");
    assert_eq!(table.dhcp, Some(Dhcp6::Stateful));
    let reservation = &network.dhcp.server().unwrap().reservations[0];
    assert_eq!(reservation.ip6.unwrap().0.to_string(), "fd00:1:2:3::10");
    assert!(matches!(good("dns = false").dns, Dns::Off));
    assert!(matches!(good("dns = true").dns, Dns::On(_)));
    assert!(matches!(good("dns = {}").dns, Dns::On(_)));
    assert!(matches!(good("").dns, Dns::Unsaid));
    assert!(matches!(good("ipv6 = false").ipv6, Ipv6::Off));
    assert!(matches!(good("ipv6 = true").ipv6, Ipv6::On(_)));
    assert!(matches!(good("").ipv6, Ipv6::Unsaid));
    let dhcp = |text: &str| match good(&format!("ipv6.dhcp = {text}")).ipv6 {
        Ipv6::On(table) => table.dhcp,
        Ipv6::Off | Ipv6::Unsaid => None,
    };
    assert_eq!(dhcp("false"), Some(Dhcp6::Off));
    assert_eq!(dhcp("\"stateless\""), Some(Dhcp6::Stateless));
}

#[test]
fn what_is_no_value_is_refused_in_words() {
    let forward = |keys: &str| format!("forward = [{{ {keys} }}]");
    for (text, told) in [
        (
            "nat = true".to_owned(),
            "nat: must be a table, not true or false",
        ),
        (
            "nat.outsid = \"host\"".to_owned(),
            "nat.outsid: is not a key that vmlan knows; did you mean \"outside\"?",
        ),
        (
            "nat.address = true".to_owned(),
            "nat.address: must be \"dhcp\", an address such as \"203.0.113.5/24\", or false",
        ),
        (
            "nat.address = \"203.0.113.5\"".to_owned(),
            "nat.address: \"203.0.113.5\" is not an address in a subnet: write it with its prefix length, as in \"203.0.113.5/24\"",
        ),
        (
            "nat.address6 = \"dhcp\"".to_owned(),
            "nat.address6: \"dhcp\" is not an address in a prefix: write it with the prefix length, as in \"2001:db8::5/64\"",
        ),
        (
            "nat.address6 = 1".to_owned(),
            "nat.address6: must be \"auto\", an address such as \"2001:db8::5/64\", or false",
        ),
        (
            "nat.gateway = \"x\"".to_owned(),
            "nat.gateway: \"x\" is not an IPv4 address: write four numbers, as in 192.168.81.1",
        ),
        (
            "nat.gateway6 = \"x\"".to_owned(),
            "nat.gateway6: \"x\" is not an IPv6 address: write one as in fd00::10",
        ),
        (
            "nat.ports = \"2000-2001\"".to_owned(),
            "nat.ports: 2000-2001 are too few: give it 256 or more, as in \"1024-65535\"",
        ),
        (
            "nat.filtering = \"adress\"".to_owned(),
            "nat.filtering: \"adress\" is not one of \"address-and-port\", \"address\", \"endpoint-independent\"; did you mean \"address\"?",
        ),
        (
            "nat.udp_timeout = 60".to_owned(),
            "nat.udp_timeout: must be a string, not a whole number",
        ),
        (
            "nat.max_flows = 0".to_owned(),
            "nat.max_flows: 0 is not between 1 and 4194304",
        ),
        (
            "nat.log = \"nat.log\"".to_owned(),
            "nat.log: must be an absolute path such as \"/var/log/vmlan-nat.log\", \"journal\", or false",
        ),
        (
            "nat.log = true".to_owned(),
            "nat.log: must be an absolute path such as \"/var/log/vmlan-nat.log\", \"journal\", or false",
        ),
        (
            forward("listen = \":80\""),
            "forward[0].to: is missing; a forward has listen = \"127.0.0.1:2222\" and to = \"web1:22\"",
        ),
        (
            forward("to = \"web1:80\""),
            "forward[0].listen: is missing; a forward has listen = \"127.0.0.1:2222\" and to = \"web1:22\"",
        ),
        (
            forward("listen = true, to = \"web1:80\""),
            "forward[0].listen: must be a string, as in \"127.0.0.1:2222\"",
        ),
        (
            forward("listen = -1, to = \"web1:80\""),
            "forward[0].listen: \"-1\" is not a port: write a number from 1 to 65535, or a range such as \"8000-8010\"",
        ),
        (
            forward("listen = \":80\", to = []"),
            "forward[0].to: is empty: name a VM and a port, as in \"web1:22\"",
        ),
        (
            forward("listen = \":80\", to = [\"web1\"]"),
            "forward[0].to[0]: \"web1\" is not where a forward can lead to: write a VM or an address of the network, and a port, as in \"web1:22\", \"192.168.88.10:22\" or \"[fd00::10]:22\"",
        ),
        (
            forward("listen = \":80\", to = \"web1:80\", protocol = \"icmp\""),
            "forward[0].protocol: \"icmp\" is not one of \"tcp\", \"udp\"",
        ),
        (
            forward("listen = \":80\", to = \"web1:80\", balance = \"random\""),
            "forward[0].balance: \"random\" is not one of \"round-robin\", \"source-hash\", \"least-connections\"",
        ),
        (
            forward("listen = \":80\", to = \"web1:80\", health = 1"),
            "forward[0].health: must be true, false or a table such as { interval = \"5s\", timeout = \"2s\", fall = 3, rise = 2 }",
        ),
        (
            forward(
                "listen = \":80\", to = \"web1:80\", health = { interval = \"1s\", timeout = \"2s\" }",
            ),
            "forward[0].health.timeout: 2s is more than the interval, 1s",
        ),
        (
            forward("listen = \":80\", to = \"web1:80\", health.fall = 0"),
            "forward[0].health.fall: 0 is not between 1 and 100",
        ),
        (
            forward("listen = \":80\", to = \"web1:80\", health = true, protocol = \"udp\""),
            "forward[0].health: is found out by connections of TCP; leave it out of a forward of UDP",
        ),
        ("dns = 1".to_owned(), "dns: must be true, false or a table"),
        (
            "dns.servers = []".to_owned(),
            "dns.servers: is empty: name a server, or leave the key out to use those of the host",
        ),
        (
            "dns.servers = \"quad9\"".to_owned(),
            "dns.servers[0]: \"quad9\" is not a name server: write its address, as in \"9.9.9.9\", \"9.9.9.9:5353\" or \"[2620:fe::fe]:53\"",
        ),
        (
            "dns.domain = \"a b\"".to_owned(),
            "dns.domain: \"a b\" is not a domain name: use labels of letters, digits and dashes, as in vmnet1.internal",
        ),
        (
            "dns.hosts = []".to_owned(),
            "dns.hosts: must be a table of names and addresses, as in { nas = \"192.168.88.5\" }",
        ),
        (
            "dns.hosts.nas = \"x\"".to_owned(),
            "dns.hosts.nas: \"x\" is not an address: write one as in 192.168.88.5 or fd00::5",
        ),
        (
            "dns.hosts.nas = []".to_owned(),
            "dns.hosts.nas: must have 1 to 16 addresses",
        ),
        (
            "dns.hosts.nas = [1]".to_owned(),
            "dns.hosts.nas: must be an address, or a list of addresses",
        ),
        (
            "dns.hosts.\"n s\" = \"10.0.0.1\"".to_owned(),
            "dns.hosts.\"n s\": \"n s\" is not a domain name: use labels of letters, digits and dashes, as in vmnet1.internal",
        ),
        (
            "ipv6 = \"fd00::/64\"".to_owned(),
            "ipv6: must be true, false or a table",
        ),
        (
            "ipv6.prefix = \"fd00::/48\"".to_owned(),
            "ipv6.prefix: \"fd00::/48\" must have 64 bits, as guests make their addresses in it",
        ),
        (
            "ipv6.dhcp = true".to_owned(),
            "ipv6.dhcp: must be \"stateless\", \"stateful\" or false",
        ),
    ] {
        assert_eq!(bad(&text), told, "{text}");
    }
}

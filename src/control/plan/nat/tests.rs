//! Tests of what a NAT network means, what does not fit together, and what the engine is told.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::control::identity::Macs;
use crate::control::plan::Plan;
use crate::control::plan::dns::Servers;
use crate::control::prefixes::Prefixes;
use crate::engine::{NetworkSpec, Spec};
use crate::net::gateway::ServiceSpec;
use crate::net::nat as net;
use crate::net::nat::Protocol;
use crate::net::nat::forward::{Balance, Host};
use crate::net::vlan::VlanId;

fn read(text: &str) -> (Plan, Problems) {
    let mut problems = Problems::default();
    let file = File::read(text, &mut problems);
    let (run, state) = (Path::new("/run/vmlan"), Path::new("/nowhere/vmlan"));
    let plan = Plan::new(&file, run, state, &mut problems);
    (plan, problems)
}

fn good(text: &str) -> Plan {
    let (plan, problems) = read(text);
    assert_eq!(problems.errors(), [], "{text}");
    plan
}

fn told(plan: &Plan) -> (Spec, Macs, Prefixes) {
    let (macs, prefixes) = (Macs::load(plan).unwrap(), Prefixes::load(plan).unwrap());
    let spec = plan.spec(&macs, &prefixes, &BTreeMap::new());
    (spec, macs, prefixes)
}

fn network<'a>(spec: &'a Spec, name: &str) -> &'a NetworkSpec {
    spec.networks
        .iter()
        .find(|network| network.name == name)
        .unwrap()
}

fn translator<'a>(spec: &'a Spec, name: &str) -> &'a net::Spec {
    network(spec, name)
        .gateway
        .as_ref()
        .unwrap()
        .nat
        .as_ref()
        .unwrap()
}

const NAT: &str = "[network.n]\nmode = \"nat\"\nsubnet = \"192.168.88.0/24\"\n";
const LAN: &str = "[network.lan]\nmode = \"bridged\"\nteam.active = [\"e\"]\n\
    port_group.dmz.vlan = 10\nport_group.all.vlan = \"all\"\n";
const VMS: &str =
    "[vm.web1]\nnetwork = \"n\"\n[vm.web2]\nnetwork = \"n\"\n[vm.far]\nnetwork = \"lan\"\n";

#[test]
fn a_nat_network_needs_no_more_than_a_subnet() {
    let plan = good(&format!("{NAT}[vm.web1]\nnetwork = \"n\"\n"));
    let network_plan = &plan.networks[0];
    let dns = network_plan.dns.as_ref().unwrap();
    assert_eq!(
        (&dns.servers, dns.domain.as_str()),
        (&Servers::Host, "n.internal")
    );
    let ipv6 = network_plan.ipv6.unwrap();
    assert_eq!((ipv6.prefix, ipv6.router), (None, true));
    let dhcp = &network_plan.dhcp.as_ref().unwrap().spec;
    assert_eq!(dhcp.server.to_string(), "192.168.88.2");
    assert_eq!(
        (dhcp.routers.as_slice(), dhcp.dns.as_slice()),
        (&[dhcp.server][..], &[dhcp.server][..])
    );
    assert_eq!(dhcp.domain.as_deref(), Some("n.internal"));
    assert_eq!(dhcp.pool.start().to_string(), "192.168.88.128");
    assert_eq!(dhcp.pool.end().to_string(), "192.168.88.254");

    let (spec, macs, prefixes) = told(&plan);
    let network = network(&spec, "n");
    assert!(network.outside.is_none());
    let gateway = network.gateway.as_ref().unwrap();
    assert_eq!(gateway.inside.vms, [("web1".to_owned(), macs.vm("web1"))]);
    let nat = gateway.nat.as_ref().unwrap();
    assert!(matches!(nat.outside, net::Outside::Host));
    let v4 = (dhcp.server, "192.168.88.0/24".parse().unwrap());
    assert_eq!(nat.gateways.v4, Some(v4));
    let prefix = prefixes.of("n").unwrap();
    let (own, net) = nat.gateways.v6.unwrap();
    assert_eq!(
        (own, net),
        (crate::control::plan::ipv6::gateway(prefix), prefix)
    );
    assert!(own.to_string().ends_with("::2") || own.to_bits() & 0xffff == 2);
    assert!(nat.gateways.link_local.unwrap().is_unicast_link_local());
    assert_eq!(nat.timeouts, Timeouts::default());
    assert_eq!(nat.limits, Limits::default());
    assert_eq!(nat.filtering, Filtering::AddressAndPort);
    assert!(nat.forwards.is_empty() && nat.closed.is_empty());
    assert!(!nat.map_host_loopback && !nat.ftp && !nat.log);
    assert!(plan.vms[0].guards.dhcp_server && plan.vms[0].guards.router_advertisement);
}

#[test]
fn what_dhcp_hands_out_can_be_said_otherwise() {
    let text =
        format!("{NAT}[network.n.dhcp]\nrouter = []\ndns = \"9.9.9.9\"\ndomain = \"x.example\"\n");
    let plan = good(&text);
    let dhcp = &plan.networks[0].dhcp.as_ref().unwrap().spec;
    assert!(dhcp.routers.is_empty());
    assert_eq!(dhcp.dns.len(), 1);
    assert_eq!(dhcp.dns[0].to_string(), "9.9.9.9");
    assert_eq!(dhcp.domain.as_deref(), Some("x.example"));
    let dns = plan.networks[0].dns.as_ref().unwrap();
    assert_eq!(
        dns.domain, "x.example",
        "names are those that clients are told"
    );
    let plan = good(&format!("{NAT}dns = false\nipv6 = false\n"));
    let network = &plan.networks[0];
    assert!(network.dns.is_none() && network.ipv6.is_none());
    assert!(network.dhcp.as_ref().unwrap().spec.dns.is_empty());
    let (spec, ..) = told(&plan);
    let gateways = &translator(&spec, "n").gateways;
    assert_eq!((gateways.v6, gateways.link_local), (None, None));
}

#[test]
fn networks_without_an_outside_have_dns_and_ipv6_where_it_is_asked_for() {
    let host_only = "[network.h]\nmode = \"host-only\"\nsubnet = \"192.168.81.0/24\"\n";
    let plan = good(host_only);
    let network = &plan.networks[0];
    assert!(network.dns.is_none() && network.ipv6.is_none() && network.nat.is_none());
    let dhcp = &network.dhcp.as_ref().unwrap().spec;
    assert_eq!(
        (
            dhcp.server.to_string().as_str(),
            dhcp.routers.len(),
            dhcp.dns.len()
        ),
        ("192.168.81.254", 0, 0)
    );
    assert_eq!(dhcp.domain, None);
    let plan = good(&format!(
        "{host_only}dns = {{ hosts.nas = \"192.168.81.9\" }}\nipv6 = true\n"
    ));
    let network = &plan.networks[0];
    let dns = network.dns.as_ref().unwrap();
    assert_eq!(dns.servers, Servers::Nobody);
    assert_eq!(dns.hosts[0].0, "nas");
    assert!(!network.ipv6.unwrap().router);
    let dhcp = &network.dhcp.as_ref().unwrap().spec;
    assert_eq!(
        (dhcp.dns.as_slice(), dhcp.routers.len()),
        (&[dhcp.server][..], 0)
    );
    assert_eq!(dhcp.domain.as_deref(), Some("h.internal"));
}

#[test]
fn the_engine_is_told_all_that_is_said_of_a_nat() {
    let text = format!(
        "{NAT}{LAN}{VMS}{}",
        r#"
        [network.other]
        mode = "isolated"
        subnet = "10.9.0.0/24"
        ipv6.prefix = "fd00:9::/64"
        [network.n.nat]
        filtering = "address"
        udp_timeout = "3m"
        dns_timeout = "10s"
        tcp_timeout = "1d"
        tcp_transitory_timeout = "5m"
        icmp_timeout = "2m"
        max_flows = 1000
        map_host_loopback = true
        ftp = true
        log = "journal"
        [network.n.ipv6]
        prefix = "fd00:1::/64"
        [[network.n.forward]]
        listen = "127.0.0.1:2222"
        to = "web1:22"
        [[network.n.forward]]
        protocol = "udp"
        listen = "[::1]:8000-8001"
        to = ["web2:9000-9001", "[::10]:9000-9001", "[fd00:1::11]:9000-9001"]
        balance = "source-hash"
        "#
    );
    let (spec, macs, _) = told(&good(&text));
    let nat = translator(&spec, "n");
    assert_eq!(nat.filtering, Filtering::Address);
    let timeouts = &nat.timeouts;
    let spans = [
        timeouts.udp,
        timeouts.dns,
        timeouts.tcp,
        timeouts.tcp_transitory,
        timeouts.icmp,
    ];
    assert_eq!(
        spans.map(|span| span.as_secs()),
        [180, 10, 86_400, 300, 120]
    );
    assert_eq!(
        nat.limits,
        Limits {
            flows: 1000,
            flows_per_guest: 1000
        }
    );
    assert!(nat.map_host_loopback && nat.ftp && nat.log);
    let closed: Vec<_> = nat.closed.iter().map(ToString::to_string).collect();
    assert_eq!(closed, ["10.9.0.0/24", "fd00:9::/64"]);
    let [ssh, udp] = nat.forwards.as_slice() else {
        panic!("{:?}", nat.forwards);
    };
    assert_eq!(
        (ssh.ip.to_string().as_str(), ssh.first, ssh.last),
        ("127.0.0.1", 2222, 2222)
    );
    let web1 = Host::Vm {
        name: "web1".to_owned(),
        mac: macs.vm("web1"),
    };
    assert_eq!((&ssh.targets[0].host, ssh.targets[0].port), (&web1, 22));
    assert_eq!(
        (udp.protocol, udp.balance),
        (Protocol::Udp, Balance::SourceHash)
    );
    assert_eq!((udp.first, udp.last), (8000, 8001));
    let hosts: Vec<_> = udp
        .targets
        .iter()
        .map(|target| target.host.to_string())
        .collect();
    assert_eq!(hosts, ["web2", "fd00:1::10", "fd00:1::11"]);
}

#[test]
fn a_nat_can_be_a_station_of_a_bridged_network() {
    let text = format!(
        "{NAT}{LAN}{VMS}{}",
        r#"
        [network.n.nat]
        outside = "lan"
        port_group = "dmz"
        address = "203.0.113.5/24"
        gateway = "203.0.113.1"
        address6 = "2001:db8::5/64"
        gateway6 = "fe80::1"
        ports = "20000-29999"
        [[network.n.forward]]
        listen = ":80"
        to = "web1:80"
        [[network.n.forward]]
        listen = "203.0.113.5:443"
        to = "192.168.88.9:443"
        "#
    );
    let (spec, macs, _) = told(&good(&text));
    let outside = network(&spec, "n").outside.as_ref().unwrap();
    assert_eq!(outside.network, "lan");
    assert_eq!(outside.port_group.as_deref(), Some("dmz"));
    assert_eq!(
        outside.member.vlan,
        PortVlan::Access(VlanId::new(10).unwrap())
    );
    assert_eq!(outside.member.mac, Some(macs.nat("n")));
    let nat = translator(&spec, "n");
    let net::Outside::Network(station) = &nat.outside else {
        panic!("{:?}", nat.outside);
    };
    assert_eq!(station.mac, macs.nat("n"));
    assert!(station.mac.is_station() && station.mac != macs.gateway("n"));
    assert_eq!(station.ports, 20_000..=29_999);
    let expected = Addressing4::Static {
        ip: "203.0.113.5".parse().unwrap(),
        net: "203.0.113.0/24".parse().unwrap(),
        router: Some("203.0.113.1".parse().unwrap()),
    };
    assert_eq!(station.v4, expected);
    let expected = Addressing6::Static {
        ip: "2001:db8::5".parse().unwrap(),
        net: "2001:db8::/64".parse().unwrap(),
        router: Some("fe80::1".parse().unwrap()),
    };
    assert_eq!(station.v6, expected);
    assert!(station.hostname.ends_with("-n"));
    let listen: Vec<_> = nat
        .forwards
        .iter()
        .map(|forward| forward.ip.to_string())
        .collect();
    assert_eq!(listen, ["0.0.0.0", "::", "203.0.113.5"]);

    let (spec, ..) = told(&good(&format!(
        "{NAT}ipv6 = false\nnat.outside = \"lan\"\n{LAN}"
    )));
    let net::Outside::Network(station) = &translator(&spec, "n").outside else {
        panic!("it leads to a network");
    };
    assert_eq!(
        (station.v4, station.v6),
        (Addressing4::Dhcp, Addressing6::Off)
    );
    assert_eq!(station.ports, 1024..=65_535);
    let plan = good(&format!("{NAT}nat.outside = \"lan\"\n{LAN}"));
    let Outside::Network(station) = &plan
        .find_network("n")
        .unwrap()
        .nat
        .as_ref()
        .unwrap()
        .outside
    else {
        panic!("it leads to a network");
    };
    assert_eq!(station.v6, Addressing6::Auto);
}

#[test]
fn a_reservation_can_have_an_ipv6_address() {
    let text = format!(
        "{NAT}ipv6.dhcp = \"stateful\"\ndhcp.reservation = [{{ mac = \"02:00:00:00:00:01\", ip = \"192.168.88.9\", ip6 = \"::9\" }}]\n"
    );
    let plan = good(&text);
    let reservation = &plan.networks[0].dhcp.as_ref().unwrap().reservations[0];
    assert_eq!(reservation.ip6.unwrap().to_string(), "::9");
    let (spec, ..) = told(&plan);
    let gateway = network(&spec, "n").gateway.as_ref().unwrap();
    assert_eq!(gateway.inside.reservations.len(), 1);
    let dhcp = gateway
        .services
        .iter()
        .any(|service| matches!(service, ServiceSpec::Dhcp(dhcp) if dhcp.reservations.len() == 1));
    assert!(dhcp);
}

#[test]
fn what_does_not_fit_together_is_refused_in_words() {
    let nat = |keys: &str| format!("{NAT}{LAN}{VMS}[network.n.nat]\n{keys}\n");
    let lan = |keys: &str| nat(&format!("outside = \"lan\"\n{keys}"));
    let forward = |keys: &str| format!("{NAT}{LAN}{VMS}[[network.n.forward]]\n{keys}\n");
    let outward = |keys: &str| {
        lan(&format!(
            "address = \"203.0.113.5/24\"\ngateway = \"203.0.113.1\"\n[[network.n.forward]]\n{keys}"
        ))
    };
    let isolated = |keys: &str| format!("[network.i]\nmode = \"isolated\"\n{keys}\n");
    let reserved = |ip6: &str, ipv6: &str| {
        format!(
            "{NAT}{ipv6}\ndhcp.reservation = [{{ mac = \"02:00:00:00:00:01\", ip = \"192.168.88.9\", ip6 = \"{ip6}\" }}]\n"
        )
    };
    for (text, expected) in [
        (
            "[network.n]\nmode = \"nat\"".to_owned(),
            "network.n.subnet: is missing: a NAT network needs one, as in subnet = \"192.168.88.0/24\"",
        ),
        (
            format!("{NAT}team.active = [\"e\"]"),
            "network.n.team: a network that is nat has no uplink; name a bridged network in nat.outside, and leave this out",
        ),
        (
            isolated("nat = {}"),
            "network.i.nat: a network that is isolated is not translated; use mode = \"nat\"",
        ),
        (
            isolated("forward = [{ listen = 80, to = \"x:80\" }]"),
            "network.i.forward: a network that is isolated is not translated; use mode = \"nat\"",
        ),
        (
            format!("{LAN}[network.lan.nat]"),
            "network.lan.nat: a network that is bridged is not translated; its guests are reached directly; leave it out",
        ),
        (
            format!("{LAN}[network.lan.dns]"),
            "network.lan.dns: a bridged network is served by the name servers of the LAN behind its uplink; leave it out",
        ),
        (
            format!("{LAN}[network.lan.ipv6]"),
            "network.lan.ipv6: a bridged network has the routers of the LAN behind its uplink; leave it out",
        ),
        (
            isolated("dns = {}"),
            "network.i.dns: needs a subnet to serve, as in subnet = \"192.168.81.0/24\"",
        ),
        (
            isolated("ipv6 = {}"),
            "network.i.ipv6: needs a subnet to serve, as in subnet = \"192.168.81.0/24\"",
        ),
        (
            isolated("subnet = \"10.9.0.0/24\"\ndns.servers = \"9.9.9.9\""),
            "network.i.dns.servers: guests of this network reach nobody outside, and their questions stay inside too; leave the key out",
        ),
        (
            nat("outside = \"lna\""),
            "network.n.nat.outside: there is no bridged network \"lna\"; did you mean \"lan\"?",
        ),
        (
            nat("outside = \"wide-area\""),
            "network.n.nat.outside: there is no bridged network \"wide-area\"; there is \"lan\"",
        ),
        (
            nat("outside = \"n\""),
            "network.n.nat.outside: network \"n\" is nat, and a NAT leads to a bridged one; there is \"lan\"",
        ),
        (
            format!("{NAT}nat.outside = \"n\""),
            "network.n.nat.outside: network \"n\" is nat, and a NAT leads to a bridged one; leave it out to use the host's own sockets",
        ),
        (
            nat("address = \"dhcp\""),
            "network.n.nat.address: is for an outside that is a bridged network; with outside = \"host\" guests have the addresses of the host. Leave it out",
        ),
        (
            nat("max_flows = 10\nmax_flows_per_guest = 11"),
            "network.n.nat.max_flows_per_guest: 11 is more than there may be of all guests, max_flows = 10",
        ),
        (
            lan("port_group = \"dnz\""),
            "network.n.nat.port_group: there is no port group \"dnz\" in network \"lan\"; did you mean \"dmz\"?",
        ),
        (
            lan("port_group = \"all\""),
            "network.n.nat.port_group: carries several VLANs, and a NAT is in one: name a port group with one VLAN, as in vlan = 10",
        ),
        (
            lan("map_host_loopback = true"),
            "network.n.nat.map_host_loopback: the host's loopback is reached by the daemon's own sockets alone: use outside = \"host\", or leave it out",
        ),
        (
            lan("address = false\naddress6 = false"),
            "network.n.nat.address: with neither an IPv4 nor an IPv6 address nothing leaves; leave `address` out to have one from a DHCP server",
        ),
        (
            lan("gateway = \"203.0.113.1\""),
            "network.n.nat.gateway: goes with an address that is typed: write address too, or leave this out",
        ),
        (
            lan("gateway6 = \"fe80::1\""),
            "network.n.nat.gateway6: goes with an address that is typed: write address6 too, or leave this out",
        ),
        (
            lan("address = \"203.0.113.5/24\"\ngateway = \"203.0.112.1\""),
            "network.n.nat.gateway: 203.0.112.1 is not in the subnet 203.0.113.0/24",
        ),
        (
            lan("address = \"203.0.113.5/24\"\ngateway = \"203.0.113.5\""),
            "network.n.nat.gateway: 203.0.113.5 is the address of the NAT itself",
        ),
        (
            lan("address = \"192.168.88.9/16\"\ngateway = \"192.168.0.1\""),
            "network.n.nat.address: 192.168.0.0/16 overlaps the network's own subnet 192.168.88.0/24: what is inside could not be told from what is outside",
        ),
        (
            lan("address6 = \"2001:db8::5/64\"\ngateway6 = \"2001:db9::1\""),
            "network.n.nat.gateway6: 2001:db9::1 is neither in the prefix 2001:db8::/64 nor link-local",
        ),
        (
            forward("listen = 2222\nto = \"web:22\""),
            "network.n.forward[0].to: there is no VM \"web\"; did you mean \"web1\"?",
        ),
        (
            forward("listen = 2222\nto = \"far:22\""),
            "network.n.forward[0].to: VM \"far\" is in network \"lan\", not in \"n\"",
        ),
        (
            forward("listen = 2222\nto = [\"web1:22\", \"10.0.0.1:22\"]"),
            "network.n.forward[0].to[1]: 10.0.0.1 is not in the subnet 192.168.88.0/24",
        ),
        (
            forward("listen = 2222\nto = \"192.168.88.2:22\""),
            "network.n.forward[0].to: 192.168.88.2 is the address of the gateway and DHCP server",
        ),
        (
            forward("listen = 2222\nto = \"[fd00::10]:22\""),
            "network.n.forward[0].to: fd00::10 is in a prefix that nobody chose: write its end alone, as in ::10, or set ipv6.prefix",
        ),
        (
            forward("listen = 2222\nto = \"[::2]:22\""),
            "network.n.forward[0].to: ::2 is the address of the gateway",
        ),
        (
            format!("{NAT}ipv6 = false\nforward = [{{ listen = 2222, to = \"[::9]:22\" }}]"),
            "network.n.forward[0].to: the network has no IPv6, as ipv6 = false says",
        ),
        (
            format!(
                "{NAT}ipv6.prefix = \"fd00:1::/64\"\nforward = [{{ listen = 2222, to = \"[fd00:2::9]:22\" }}]"
            ),
            "network.n.forward[0].to: fd00:2::9 is not in the prefix fd00:1::/64",
        ),
        (
            forward("listen = \":8000-8010\"\nto = \"web1:9000\""),
            "network.n.forward[0].to: has 1 port where the forward listens on 11 ports; write 9000-9010",
        ),
        (
            forward("listen = \":8000\"\nto = \"web1:9000-9001\""),
            "network.n.forward[0].to: has 2 ports where the forward listens on 1 port; write 9000",
        ),
        (
            forward("listen = 8000\nto = [\"web1:80\", \"web1:80\"]"),
            "network.n.forward[0].to[1]: is named twice",
        ),
        (
            forward("listen = \":10000-20000\"\nto = \"web1:10000-20000\""),
            "network.n.forward[0].listen: 10000-20000 are more than 4096 ports, each of which is a socket",
        ),
        (
            forward(
                "listen = \":8000\"\nto = \"web1:80\"\n[[network.n.forward]]\nlisten = \"127.0.0.1:8000\"\nto = \"web2:80\"",
            ),
            "network.n.forward[1].listen: tcp 127.0.0.1:8000 is taken already, by network.n.forward[0].listen",
        ),
        (
            format!(
                "{NAT}{VMS}[network.m]\nmode = \"nat\"\nsubnet = \"10.0.0.0/24\"\nforward = [{{ listen = \"1.2.3.4:8000-8009\", to = \"10.0.0.9:1-10\" }}]\n{LAN}[[network.n.forward]]\nlisten = \"0.0.0.0:8009\"\nto = \"web1:80\""
            ),
            "network.n.forward[0].listen: tcp 0.0.0.0:8009 is taken already, by network.m.forward[0].listen",
        ),
        (
            forward("listen = \"[::1]:8080\"\nto = \"192.168.88.9:80\""),
            "network.n.forward[0].listen: this is IPv6, and a target is not: name addresses of one family, or VMs",
        ),
        (
            format!(
                "{NAT}ipv6 = false\nforward = [{{ listen = \"[::1]:8080\", to = \"192.168.88.9:80\" }}]"
            ),
            "network.n.forward[0].listen: guests have no IPv6, as ipv6 = false says; listen on an IPv4 address",
        ),
        (
            outward("listen = \"203.0.113.6:80\"\nto = \"web1:80\""),
            "network.n.forward[0].listen: 203.0.113.6 is not an address of the NAT in network \"lan\"; write \":80\" for whatever it has",
        ),
        (
            outward("listen = \"0.0.0.0:80\"\nto = \"[::9]:80\""),
            "network.n.forward[0].listen: this is IPv4, and a target is not: name addresses of one family, or VMs",
        ),
        (
            outward("listen = \":80\"\nto = [\"[::9]:80\", \"192.168.88.9:80\"]"),
            "network.n.forward[0].listen: there is no family that all targets are of: name addresses of one family, or VMs",
        ),
        (
            format!(
                "{NAT}ipv6 = false\nforward = [{{ listen = \"[::]:80\", to = \"192.168.88.9:80\" }}]\nnat.outside = \"lan\"\n{LAN}"
            ),
            "network.n.forward[0].listen: the NAT has no address of this family outside",
        ),
        (
            format!(
                "{NAT}ipv6 = false\nnat = {{ outside = \"lan\", address6 = \"2001:db8::5/64\", gateway6 = \"fe80::1\" }}\n{LAN}"
            ),
            "network.n.nat.address6: the network's guests have no IPv6; leave this out, or leave `ipv6 = false` out",
        ),
        (
            reserved("::9", ""),
            "network.n.dhcp.reservation[0].ip6: guests make their own IPv6 addresses here; set ipv6.dhcp = \"stateful\" to give them some",
        ),
        (
            reserved("fd00::9", "ipv6.dhcp = \"stateful\""),
            "network.n.dhcp.reservation[0].ip6: fd00::9 is in a prefix that nobody chose: write its end alone, as in ::9, or set ipv6.prefix",
        ),
        (
            reserved(
                "fd00:2::9",
                "ipv6 = { dhcp = \"stateful\", prefix = \"fd00:1::/64\" }",
            ),
            "network.n.dhcp.reservation[0].ip6: fd00:2::9 is not in the prefix fd00:1::/64",
        ),
        (
            reserved(
                "fd00:1::2",
                "ipv6 = { dhcp = \"stateful\", prefix = \"fd00:1::/64\" }",
            ),
            "network.n.dhcp.reservation[0].ip6: fd00:1::2 is the address of the gateway",
        ),
        (
            format!(
                "{NAT}ipv6.prefix = \"fd00:1::/64\"\n[network.o]\nmode = \"nat\"\nsubnet = \"10.0.0.0/24\"\nipv6.prefix = \"fd00:1::/64\""
            ),
            "network.o.ipv6.prefix: fd00:1::/64 is taken already, by network \"n\"",
        ),
    ] {
        let (_, problems) = read(&text);
        let errors: Vec<_> = problems.errors().iter().map(ToString::to_string).collect();
        assert_eq!(errors, [expected], "{text}");
    }
}

#[test]
fn forwards_that_do_not_meet_are_not_in_each_others_way() {
    let text = format!(
        "{NAT}{VMS}{LAN}{}",
        r#"
        [[network.n.forward]]
        listen = "127.0.0.1:8000"
        to = "web1:80"
        [[network.n.forward]]
        listen = "127.0.0.2:8000"
        to = "web1:80"
        [[network.n.forward]]
        listen = "[::]:8000"
        to = "web1:80"
        [[network.n.forward]]
        protocol = "udp"
        listen = "127.0.0.1:8000"
        to = "web1:80"
        [[network.n.forward]]
        listen = "127.0.0.1:0"
        to = "web1:80"
        [[network.n.forward]]
        listen = "127.0.0.1:0"
        to = "web2:80"
        [network.o]
        mode = "nat"
        subnet = "10.0.0.0/24"
        nat.outside = "lan"
        forward = [{ listen = ":8000", to = "10.0.0.9:80" }]
        "#
    );
    let plan = good(&text);
    assert_eq!(
        plan.find_network("n")
            .unwrap()
            .nat
            .as_ref()
            .unwrap()
            .forwards
            .len(),
        6
    );
}

#[test]
fn what_may_be_a_mistake_is_warned_of() {
    let station = "[network.n.nat]\noutside = \"lan\"\naddress = \"203.0.113.5/24\"\n";
    for (text, path, told) in [
        (
            format!("{NAT}{VMS}[[network.n.forward]]\nlisten = \":80\"\nto = \"web1:80\"\n{LAN}"),
            "network.n.forward[0].listen",
            "port 80 is for root",
        ),
        (
            format!("{NAT}{LAN}{station}"),
            "network.n.nat.gateway",
            "is missing: guests will reach 203.0.113.0/24 alone",
        ),
        (
            format!(
                "{NAT}{LAN}[network.n.nat]\noutside = \"lan\"\naddress6 = \"2001:db8::5/64\"\n"
            ),
            "network.n.nat.gateway6",
            "is missing: guests will reach 2001:db8::/64 alone",
        ),
        (
            format!("{NAT}nat.ftp = true\n"),
            "network.n.nat.ftp",
            "active FTP works where `outside` is a network",
        ),
        (
            format!("{NAT}[network.o]\nmode = \"isolated\"\nsubnet = \"192.168.88.128/25\"\n"),
            "network.o.subnet",
            "192.168.88.128/25 overlaps 192.168.88.0/24 of network \"n\": two machines",
        ),
    ] {
        let (_, problems) = read(&text);
        let warnings = problems.warnings();
        assert_eq!(
            (problems.errors(), warnings.len()),
            (vec![], 1),
            "{text}\n{warnings:?}"
        );
        assert_eq!(warnings[0].path, path);
        assert!(warnings[0].text.starts_with(told), "{warnings:?}");
    }
    let outside = format!(
        "{NAT}{LAN}{VMS}{station}gateway = \"203.0.113.1\"\n[[network.n.forward]]\nlisten = \":80\"\nto = \"web1:80\"\n"
    );
    assert_eq!(
        read(&outside).1.warnings(),
        [],
        "a NAT outside has every port"
    );
}

#[test]
fn a_station_beside_guests_has_the_timeouts_it_was_told() {
    let plan = good(&format!("{NAT}nat.udp_timeout = \"10m\"\n"));
    let nat = plan.networks[0].nat.as_ref().unwrap();
    assert_eq!(nat.timeouts.udp, Duration::from_secs(600));
    assert_eq!(nat.outside.name(), "host");
}

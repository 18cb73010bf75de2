//! Tests of what is refused, and of what the engine is told.

use super::*;
use crate::control::identity::Macs;
use crate::net::gateway::ServiceSpec;
use crate::ports::PortSpec;

fn plan(text: &str) -> (Plan, Vec<String>) {
    let mut problems = Problems::default();
    let file = File::read(text, &mut problems);
    let plan = Plan::new(
        &file,
        Path::new("/run/vmlan"),
        Path::new("/nowhere/vmlan"),
        &mut problems,
    );
    let texts = problems.errors().iter().map(ToString::to_string).collect();
    (plan, texts)
}

fn problems(text: &str) -> Vec<String> {
    plan(text).1
}

const HOST_ONLY: &str = "[network.vmnet1]\nmode = \"host-only\"\nsubnet = \"192.168.81.0/24\"\n";

#[test]
fn every_feature_that_does_not_exist_yet_is_refused_by_its_path() {
    let refused = [
        ("daemon.metrics", "[daemon]\nmetrics = \"127.0.0.1:9797\""),
        ("daemon.workers", "[daemon]\nworkers = 2"),
        ("uplink.eth1.driver", "[uplink.eth1]\ndriver = \"af_xdp\""),
        ("network.a.mode", "[network.a]\nmode = \"nat\""),
        (
            "network.a.forward",
            "[network.a]\nmode = \"isolated\"\n[[network.a.forward]]\nto = \"x\"",
        ),
        (
            "network.a.nat",
            "[network.a]\nmode = \"isolated\"\nnat = {}",
        ),
        (
            "network.a.team.active",
            "[network.a]\nmode = \"bridged\"\nteam.active = [\"eth1\", \"eth2\"]",
        ),
        (
            "network.a.team.standby",
            "[network.a]\nmode = \"bridged\"\nteam.active = [\"eth1\"]\nteam.standby = [\"eth2\"]",
        ),
        (
            "network.a.team.failback",
            "[network.a]\nmode = \"bridged\"\nteam.active = [\"eth1\"]\nteam.failback = true",
        ),
        (
            "network.a.port_group.g.vlan",
            "[network.a]\nmode = \"isolated\"\nport_group.g.vlan = { tagged = [1] }",
        ),
        (
            "network.a.port_group.g.security",
            "[network.a]\nmode = \"isolated\"\nport_group.g.security.promiscuous = true",
        ),
        (
            "network.a.port_group.g.shaping",
            "[network.a]\nmode = \"isolated\"\nport_group.g.shaping.average = \"1M\"",
        ),
        (
            "vm.x.queues",
            "[network.a]\nmode = \"isolated\"\n[vm.x]\nnetwork = \"a\"\nqueues = 2",
        ),
    ];
    for (path, text) in refused {
        let problems = problems(text);
        assert_eq!(problems.len(), 1, "{text}\n{problems:#?}");
        assert!(
            problems[0].starts_with(&format!("{path}: ")),
            "{problems:?}"
        );
        assert!(
            problems[0].contains("not available in this version; "),
            "{problems:?}"
        );
    }
}

#[test]
fn what_does_not_fit_together_is_refused_by_its_path() {
    let dhcp = |keys: &str| format!("{HOST_ONLY}[network.vmnet1.dhcp]\n{keys}");
    let two =
        "[network.a]\nmode = \"isolated\"\n[vm.x]\nnetwork = \"a\"\n[vm.y]\nnetwork = \"a\"\n";
    let attached = |name: &str, adapter: &str, subnet: &str| {
        format!(
            "[network.{name}]\nmode = \"host-only\"\nsubnet = \"{subnet}\"\nhost_adapter = \"{adapter}\"\n"
        )
    };
    for (path, text) in [
        ("network.vmnet1.subnet", "[network.vmnet1]\nmode = \"host-only\"".to_owned()),
        ("network.a.mode", "[network.a]\n".to_owned()),
        ("network.a.mtu", "[network.a]\nmode = \"isolated\"\nmtu = 1279".to_owned()),
        ("network.a.team.active", "[network.a]\nmode = \"bridged\"".to_owned()),
        ("network.a.subnet", "[network.a]\nmode = \"bridged\"\nteam.active = [\"e\"]\nsubnet = \"10.0.0.0/24\"".to_owned()),
        ("network.a.dhcp", "[network.a]\nmode = \"bridged\"\nteam.active = [\"e\"]\ndhcp = {}".to_owned()),
        ("network.a.dhcp", "[network.a]\nmode = \"isolated\"\ndhcp = {}".to_owned()),
        ("network.a.host_adapter", "[network.a]\nmode = \"isolated\"\nhost_adapter = \"sixteen-bytes-ab\"".to_owned()),
        ("network.a.port_group.g.vlan", "[network.a]\nmode = \"isolated\"\nport_group.g.vlan = 4096".to_owned()),
        ("network.vmnet1.dhcp.pool", dhcp("pool = \"192.168.81.200-192.168.82.10\"")),
        ("network.vmnet1.dhcp.pool", dhcp("pool = \"192.168.81.200-192.168.81.254\"")),
        ("network.vmnet1.dhcp.lease", dhcp("lease = \"0s\"")),
        ("network.vmnet1.dhcp.max_lease", dhcp("lease = \"2h\"\nmax_lease = \"1h\"")),
        ("network.vmnet1.dhcp.renew", dhcp("lease = \"1h\"\nrenew = \"59m\"")),
        ("network.vmnet1.dhcp.rebind", dhcp("lease = \"1h\"\nrebind = \"1h\"")),
        ("network.vmnet1.dhcp.router[0]", dhcp("router = \"10.0.0.1\"")),
        ("network.vmnet1.dhcp.routes[0].via", dhcp("routes = [{ to = \"10.0.0.0/8\", via = \"10.0.0.1\" }]")),
        ("network.vmnet1.dhcp.mtu", dhcp("mtu = 9000")),
        ("network.vmnet1.dhcp.dns[1]", dhcp("dns = [\"1.1.1.1\", \"x\"]")),
        ("network.vmnet1.dhcp.reservation[0].ip", dhcp("reservation = [{ mac = \"02:00:00:00:00:01\", ip = \"10.0.0.1\" }]")),
        ("network.vmnet1.dhcp.reservation[0].ip", dhcp("reservation = [{ mac = \"02:00:00:00:00:01\", ip = \"192.168.81.254\" }]")),
        (
            "network.vmnet1.dhcp.reservation[1].ip",
            dhcp("reservation = [{ mac = \"02:00:00:00:00:01\", ip = \"192.168.81.5\" }, { mac = \"02:00:00:00:00:02\", ip = \"192.168.81.5\" }]"),
        ),
        (
            "network.vmnet1.dhcp.reservation[1]",
            dhcp("reservation = [{ mac = \"02:00:00:00:00:01\", ip = \"192.168.81.5\" }, { mac = \"02:00:00:00:00:01\", ip = \"192.168.81.6\" }]"),
        ),
        ("network.vmnet1.dhcp.reservation[0].vm", dhcp("reservation = [{ vm = \"web1\", ip = \"192.168.81.5\" }]")),
        ("network.vmnet1.dhcp.reservation[0]", dhcp("reservation = [{ ip = \"192.168.81.5\" }]")),
        ("vm.x.network", "[vm.x]\nnetwork = \"a\"".to_owned()),
        ("vm.x.network", "[network.a]\nmode = \"isolated\"\n[vm.x]\n".to_owned()),
        ("vm.y.port_group", format!("{two}port_group = \"prod\"")),
        ("vm.y.mac", format!("{two}mac = \"01:00:00:00:00:01\"")),
        ("vm.y.socket", format!("{two}socket = \"/run/vmlan/x.sock\"")),
        ("vm.y.socket", format!("{two}socket = \"/run/vmlan/vmlan.sock\"")),
        ("vm.y.socket", format!("{two}socket = \"/{}\"", "x".repeat(107))),
        ("vm.y.socket", format!("{two}socket = \"x.sock\"")),
        ("vm.\"a/b\"", "[network.a]\nmode = \"isolated\"\n[vm.\"a/b\"]\nnetwork = \"a\"".to_owned()),
        ("vm.gateway", "[network.a]\nmode = \"isolated\"\n[vm.gateway]\nnetwork = \"a\"".to_owned()),
        ("network.b.subnet", attached("a", "tap0", "10.0.0.0/16") + &attached("b", "tap1", "10.0.1.0/24")),
        ("network.b.host_adapter", attached("a", "tap0", "10.0.0.0/24") + &attached("b", "tap0", "10.0.1.0/24")),
        ("network.a.host_adapter", attached("a", "x", "10.0.0.0/24") + "[vm.x]\nnetwork = \"a\""),
        (
            "network.b.team.active[0]",
            "[network.a]\nmode = \"bridged\"\nteam.active = [\"e\"]\n[network.b]\nmode = \"bridged\"\nteam.active = [\"e\"]".to_owned(),
        ),
        ("daemon.state_dir", "[daemon]\nstate_dir = \"/run/vmlan\"".to_owned()),
    ] {
        let problems = problems(&text);
        assert_eq!(problems.len(), 1, "{text}\n{problems:#?}");
        assert!(problems[0].starts_with(&format!("{path}: ")), "{path}\n{problems:?}");
    }
}

#[test]
fn long_lists_are_taken_as_far_as_an_option_can_be_sent() {
    let routes = |count: usize| {
        let routes: Vec<_> = (0..count)
            .map(|n| format!("{{ to = \"10.{n}.0.0/16\", via = \"192.168.81.9\" }}"))
            .collect();
        let routes = routes.join(", ");
        problems(&format!("{HOST_ONLY}dhcp.routes = [{routes}]\n"))
    };
    assert_eq!(routes(146), [""; 0]);
    let dhcp = |key: &str, value: &str, count: usize| {
        let list = vec![format!("{value:?}"); count].join(", ");
        problems(&format!("{HOST_ONLY}dhcp.{key} = [{list}]\n"))
    };
    assert_eq!(dhcp("dns", "1.1.1.1", 256), [""; 0]);
    assert_eq!(dhcp("search", "lab.example", 78), [""; 0]);
    for problems in [
        routes(147),
        dhcp("dns", "1.1.1.1", 257),
        dhcp("search", "lab.example", 79),
    ] {
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}

#[test]
fn problems_of_dhcp_are_reported_beside_those_of_the_network() {
    let dhcp = "[network.a.dhcp]
        lease = \"0s\"
        search = [\"SEARCH\"]
        [[network.a.dhcp.reservation]]
        vm = \"nobody\"
        ip = \"10.0.0.5\"
        [[network.a.dhcp.reservation]]
        mac = \"01:00:00:00:00:01\"
        ip = \"10.0.0.5\"
        [[network.a.dhcp.reservation]]
        mac = \"02:00:00:00:00:01\"
    "
    .replace("SEARCH", &vec!["lab.example"; 79].join("\", \""));
    let beside = [
        "network.a.dhcp.lease: ",
        "network.a.dhcp.search: ",
        "network.a.dhcp.reservation[0].vm: ",
        "network.a.dhcp.reservation[1].mac: ",
        "network.a.dhcp.reservation[1].ip: ",
        "network.a.dhcp.reservation[2].ip: ",
    ];
    for (outer, keys) in [
        ("network.a.mode: ", "mode = \"odd\""),
        ("network.a.mode: ", "subnet = \"10.0.0.0/24\""),
        ("network.a.subnet: ", "mode = \"host-only\""),
        (
            "network.a.subnet: ",
            "mode = \"isolated\"\nsubnet = \"10.0.0.0/30\"",
        ),
        ("network.a.dhcp: ", "mode = \"isolated\""),
    ] {
        let problems = problems(&format!("[network.a]\n{keys}\n{dhcp}"));
        for path in beside.iter().chain([&outer]) {
            let count = problems
                .iter()
                .filter(|problem| problem.starts_with(path))
                .count();
            assert_eq!(count, 1, "{path}\n{keys}\n{problems:#?}");
        }
        assert_eq!(problems.len(), beside.len() + 1, "{problems:#?}");
    }
}

#[test]
fn names_that_are_not_there_are_reported_once_and_in_words() {
    let group = |groups: &str| {
        problems(&format!(
            "[network.a]\nmode = \"isolated\"\n{groups}\n[vm.x]\nnetwork = \"a\"\nport_group = \"a g\"\n"
        ))
    };
    assert_eq!(
        group(""),
        ["vm.x.port_group: there is no port group \"a g\" in network \"a\", which has none"]
    );
    assert_eq!(
        group("port_group.prod.vlan = 1"),
        ["vm.x.port_group: there is no port group \"a g\" in network \"a\"; there is \"prod\""]
    );
    let refused = group("port_group.\"a g\".vlan = 1");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(
        refused[0].starts_with("network.a.port_group.\"a g\": "),
        "{refused:?}"
    );
    assert_eq!(
        problems("[vm.x]\n"),
        [
            "vm.x.network: is missing, and there is no network to name: add a table such as [network.vmnet1]"
        ]
    );
    assert_eq!(
        problems("[vm.x]\nnetwork = \"a\"\n"),
        ["vm.x.network: there is no network \"a\"; add it as [network.a]"]
    );
    assert_eq!(
        problems(&format!("{HOST_ONLY}dhcp = \"yes\"\n")),
        ["network.vmnet1.dhcp: must be true, false or a table"]
    );
}

#[test]
fn two_vms_with_one_address_are_refused() {
    let vm =
        |name: &str| format!("[vm.{name}]\nnetwork = \"vmnet1\"\nmac = \"52:54:00:00:00:01\"\n");
    let problems = problems(&format!("{HOST_ONLY}{}{}", vm("a"), vm("b")));
    assert_eq!(
        problems,
        ["vm.b.mac: 52:54:00:00:00:01 is taken already, by vm.a.mac"]
    );
}

#[test]
fn networks_that_the_host_is_not_in_may_have_the_same_subnet() {
    let other = HOST_ONLY.replace("vmnet1", "vmnet2");
    assert_eq!(problems(&format!("{HOST_ONLY}{other}")), [""; 0]);
}

#[test]
fn the_engine_is_told_of_every_port_service_and_reservation() {
    let text = "
        [network.vmnet0]
        mode = \"bridged\"
        team.active = [\"eth1\"]
        host_adapter = \"vmnet0\"
        port_group.prod.vlan = 10
        [network.vmnet1]
        mode = \"host-only\"
        subnet = \"192.168.81.0/24\"
        host_adapter = \"vmnet1\"
        mtu = 9000
        [[network.vmnet1.dhcp.reservation]]
        vm = \"web1\"
        ip = \"192.168.81.10\"
        [vm.web1]
        network = \"vmnet1\"
        [vm.db]
        network = \"vmnet0\"
        port_group = \"prod\"
    ";
    let (plan, problems) = plan(text);
    assert_eq!(problems, [""; 0]);
    let macs = Macs::load(&plan).unwrap();
    let spec = plan.spec(&macs, &BTreeMap::new());
    let [bridged, host_only] = &spec.networks[..] else {
        panic!("two networks")
    };
    assert!(bridged.gateway.is_none());
    let ports: Vec<_> = bridged
        .ports
        .iter()
        .map(|port| (port.name.as_str(), port.port.kind(), port.vlan))
        .collect();
    assert!(matches!(&bridged.ports[1].port, PortSpec::Tap(tap) if tap.address.is_none()));
    let ten = crate::net::vlan::VlanId::new(10).unwrap();
    assert_eq!(
        ports,
        [
            ("eth1", "uplink", PortVlan::All),
            ("vmnet0", "host", PortVlan::Untagged),
            ("db", "guest", PortVlan::Access(ten))
        ]
    );
    let [host, guest] = &host_only.ports[..] else {
        panic!("two ports")
    };
    assert!(
        matches!(&host.port, PortSpec::Tap(tap) if tap.address == "192.168.81.1/24".parse().ok() && tap.mtu == 9000)
    );
    assert_eq!(guest.port.mac(), Some(macs.vm("web1")));
    let services = &host_only.gateway.as_ref().unwrap().services;
    let [ServiceSpec::Dhcp(dhcp), ServiceSpec::Address(address)] = &services[..] else {
        panic!("two services")
    };
    assert_eq!(
        (address.ip.to_string(), dhcp.server.to_string()),
        ("192.168.81.254".to_owned(), "192.168.81.254".to_owned())
    );
    assert_eq!(
        (
            dhcp.reservations[0].mac,
            dhcp.reservations[0].hostname.as_deref()
        ),
        (macs.vm("web1"), Some("web1"))
    );
    assert_eq!(
        (dhcp.mtu, dhcp.routers.len(), dhcp.dns.len()),
        (Some(9000), 0, 0)
    );
}

//! Tests of what is refused, and of what the engine is told.

use std::num::NonZeroU32;

use super::*;
use crate::control::identity::Macs;
use crate::control::prefixes::Prefixes;
use crate::engine::NetworkSpec;
use crate::net::gateway::ServiceSpec;
use crate::net::team::{self, Detection, Hash, LoadBalancing, lacp};
use crate::net::vlan::{PortVlan, Tag, VlanId};
use crate::ports::PortSpec;
use crate::wire::ethernet::Tci;

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
        ("daemon.workers", "[daemon]\nworkers = 2"),
        (
            "network.a.port_group.g.shaping",
            "[network.a]\nmode = \"isolated\"\nport_group.g.shaping.average = \"1M\"",
        ),
        (
            "network.a.port_group.g.dhcp",
            "[network.a]\nmode = \"isolated\"\nport_group.g.dhcp = {}",
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
        (
            "network.b.port_group.g.host_adapter",
            "[network.a]\nmode = \"isolated\"\nhost_adapter = \"vmk0\"\n[network.b]\nmode = \"isolated\"\nport_group.g.host_adapter = \"vmk0\"".to_owned(),
        ),
        (
            "network.a.host_adapter",
            "[network.a]\nmode = \"bridged\"\nteam.active = [\"e\"]\nhost_adapter = \"x\"\n[vm.x]\nnetwork = \"a\"".to_owned(),
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
fn an_uplink_is_known_by_its_place_among_those_that_are_none() {
    let text = "[network.n]\nmode = \"bridged\"\nteam.active = [\"a/b\", \"e1\", \"e1\"]\n\
        [network.n.port_group.g]\nteam.active = [7, \"e2\"]";
    assert_eq!(
        problems(text),
        [
            "network.n.team.active[0]: \"a/b\" cannot be the name of a network adapter",
            "network.n.team.active[2]: \"e1\" is taken already, by network.n.team.active[1]",
            "network.n.port_group.g.team.active[0]: must be a string, not a whole number",
            "network.n.port_group.g.team.active[1]: \"e2\" is not an uplink of network \"n\"; did you mean \"e1\"?",
        ]
    );
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
    let spec = plan.spec(&macs, &Prefixes::default(), &BTreeMap::new());
    let [bridged, host_only] = &spec.networks[..] else {
        panic!("two networks")
    };
    assert!(bridged.gateway.is_none());
    let ports: Vec<_> = bridged
        .ports
        .iter()
        .map(|port| {
            (
                port.name.as_str(),
                port.port.kind(),
                port.member.vlan.clone(),
            )
        })
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

/// What is wrong with a bridged network, and what may be, with these tables after its `mode`.
fn of_bridged(tables: &str) -> (Vec<String>, Vec<String>) {
    let mut problems = Problems::default();
    let text = format!("[network.a]\nmode = \"bridged\"\n{tables}\n");
    let file = File::read(&text, &mut problems);
    let directory = Path::new("/run/vmlan");
    Plan::new(&file, directory, Path::new("/nowhere"), &mut problems);
    let texts = |problems: Vec<crate::control::problem::Problem>| {
        problems.iter().map(ToString::to_string).collect()
    };
    (texts(problems.errors()), texts(problems.warnings()))
}

#[test]
fn teams_that_cannot_be_are_refused_in_words() {
    let two = "team.active = [\"e1\", \"e2\"]\n";
    let group = |keys: &str| format!("{two}[network.a.port_group.g.team]\n{keys}");
    let of_channel = |keys: &str| {
        format!("{two}team.load_balancing = \"ip-hash\"\n[network.a.port_group.g.team]\n{keys}")
    };
    let t = "network.a.team";
    let g = "network.a.port_group.g.team";
    let hash = "the channel that load_balancing = \"ip-hash\" makes";
    let lacp = "the channel that load_balancing = \"lacp\" makes";
    let without_active = "leaves the port group without an active uplink, and a standby one takes the place of an active one; name one in `active`";
    for (text, expected) in [
        (
            String::new(),
            format!(
                "{t}.active: is missing: a bridged network needs an uplink, as in active = [\"eth1\"]"
            ),
        ),
        (
            "team.active = []".to_owned(),
            format!(
                "{t}.active: is empty: a bridged network needs an uplink, as in active = [\"eth1\"]"
            ),
        ),
        (
            "team.unused = [\"e1\"]".to_owned(),
            format!(
                "{t}.active: is missing: a bridged network needs an uplink, as in active = [\"eth1\"]"
            ),
        ),
        (
            "team.standbyNic = [\"e1\"]".to_owned(),
            format!(
                "{t}.standbyNic: a standby uplink takes the place of an active one; name one in `active`"
            ),
        ),
        (
            "team.active = [\"e1\", \"e1\"]".to_owned(),
            format!("{t}.active[1]: \"e1\" is taken already, by {t}.active[0]"),
        ),
        (
            "team.activeNic = [\"e1\"]\nteam.unused = [\"e1\"]".to_owned(),
            format!("{t}.unused[0]: \"e1\" is taken already, by {t}.activeNic[0]"),
        ),
        (
            format!(
                "{two}[network.b]\nmode = \"bridged\"\nteam.active = [\"e3\"]\nteam.standby = [\"e2\"]"
            ),
            format!("network.b.team.standby[0]: \"e2\" is taken already, by {t}.active[1]"),
        ),
        (
            format!("{two}team.load_balancing = \"ip-hash\"\nteam.failure_detection = \"beacon\""),
            format!(
                "{t}.failure_detection: {hash} brings no beacon from one uplink to another; write \"link\""
            ),
        ),
        (
            format!("{two}team.load_balancing = \"lacp\"\nteam.failure_detection = \"beacon\""),
            format!(
                "{t}.failure_detection: {lacp} brings no beacon from one uplink to another; write \"link\""
            ),
        ),
        (
            format!("{two}team.load_balancing = \"iphash\"\nteam.standby = [\"e3\"]"),
            format!(
                "{t}.standby: {hash} uses all of its uplinks; move these to `active` or `unused`"
            ),
        ),
        (
            format!("{two}team.load_balancing = \"lacp\"\nteam.standby = [\"e3\"]"),
            format!(
                "{t}.standby: {lacp} uses all of its uplinks; move these to `active` or `unused`"
            ),
        ),
        (
            format!("{two}team.load_balancing = \"ip-hash\"\nteam.reverse_filter = true"),
            format!(
                "{t}.reverse_filter: {hash} brings a port's frames on any uplink; write false, or leave the key out"
            ),
        ),
        (
            format!("{two}team.load_balancing = \"lacp\"\nteam.reversePolicy = true"),
            format!(
                "{t}.reversePolicy: {lacp} brings a port's frames on any uplink; write false, or leave the key out"
            ),
        ),
        (
            format!("{two}team.lacp.mode = \"passive\""),
            format!(
                "{t}.lacp: is for load_balancing = \"lacp\" only; write that, or leave the table out"
            ),
        ),
        (
            group("active = [\"e3\"]"),
            format!(
                "{g}.active[0]: \"e3\" is not an uplink of network \"a\"; did you mean \"e1\"?"
            ),
        ),
        (
            group("standby = [\"usb0\"]"),
            format!(
                "{g}.standby[0]: \"usb0\" is not an uplink of network \"a\"; there is \"e1\", \"e2\""
            ),
        ),
        (
            group("active = [\"e1\"]\nstandby = [\"e1\"]"),
            format!("{g}.standby[0]: \"e1\" is named already, at {g}.active[0]"),
        ),
        (
            group("active_uplinks = [\"e1\", \"e1\"]"),
            format!("{g}.active_uplinks[1]: \"e1\" is named already, at {g}.active_uplinks[0]"),
        ),
        (
            group("unused = [\"e1\", \"e2\"]"),
            format!("{g}: leaves the port group without an uplink; name one in `active`"),
        ),
        (
            group("active = []\nstandby = [\"e1\"]"),
            format!("{g}: {without_active}"),
        ),
        (
            group("standby = [\"e1\", \"e2\"]"),
            format!("{g}: {without_active}"),
        ),
        (
            group("load_balancing = \"ip-hash\""),
            format!(
                "{g}.load_balancing: {hash} is one for all port groups; write it in [network.a.team]"
            ),
        ),
        (
            group("load_balancing = \"lacp\""),
            format!(
                "{g}.load_balancing: {lacp} is one for all port groups; write it in [network.a.team]"
            ),
        ),
        (
            of_channel("load_balancing = \"port-id\""),
            format!("{g}.load_balancing: {hash} is one for all port groups; leave the key out"),
        ),
        (
            of_channel("active = [\"e1\"]"),
            format!("{g}.active: {hash} is one for all port groups; leave the key out"),
        ),
        (
            of_channel("unused = []"),
            format!("{g}.unused: {hash} is one for all port groups; leave the key out"),
        ),
        (
            of_channel("failure_detection = \"beacon\""),
            format!(
                "{g}.failure_detection: {hash} brings no beacon from one uplink to another; write \"link\""
            ),
        ),
        (
            of_channel("reverse_filter = true"),
            format!(
                "{g}.reverse_filter: {hash} brings a port's frames on any uplink; write false, or leave the key out"
            ),
        ),
    ] {
        assert_eq!(of_bridged(&text), (vec![expected], vec![]), "{text}");
    }
}

#[test]
fn only_bridged_networks_have_uplinks() {
    let isolated = |keys: &str| problems(&format!("[network.a]\nmode = \"isolated\"\n{keys}\n"));
    for (keys, expected) in [
        (
            "team.active = [\"e1\"]",
            "network.a.team: a network that is isolated has no uplink; use mode = \"bridged\"",
        ),
        (
            "port_group.g.team.failback = false",
            "network.a.port_group.g.team: a network that is isolated has no uplink; leave the table out",
        ),
        (
            "port_group.g.follow_uplinks = true",
            "network.a.port_group.g.follow_uplinks: a network that is isolated has no uplink to follow; leave the key out",
        ),
    ] {
        assert_eq!(isolated(keys), [expected]);
    }
    let harmless = "igmp_snooping = true\nport_group.g = { follow_uplinks = false, host_adapter = \"vmk0\", vlan = 5 }";
    assert_eq!(isolated(harmless), [""; 0]);
}

#[test]
fn beacons_among_too_few_uplinks_are_warned_of() {
    let warned = |tables: &str| {
        let (errors, warnings) = of_bridged(tables);
        assert_eq!(errors, [""; 0], "{tables}");
        warnings
    };
    let two = "beacons between two uplinks do not tell which one failed: when they stop, frames are sent on both";
    let one = "the beacons of one uplink are heard by no other: its link alone tells of a failure";
    let beacon = "team.failure_detection = \"beacon\"\n";
    assert_eq!(
        warned(&format!(
            "{beacon}team.active = [\"e1\"]\nteam.standby = [\"e2\"]"
        )),
        [format!("network.a.team.failure_detection: {two}")]
    );
    assert_eq!(
        warned(&format!("{beacon}team.active = [\"e1\"]")),
        [format!("network.a.team.failure_detection: {one}")]
    );
    let inherited = format!("{beacon}team.active = [\"e1\"]\nport_group.g.team.failback = true");
    assert_eq!(warned(&inherited).len(), 1, "it is said once");
    let three = format!("{beacon}team.active = [\"e1\", \"e2\", \"e3\"]\n");
    assert_eq!(warned(&three), [""; 0]);
    assert_eq!(
        warned(&format!("{three}port_group.g.team.unused = [\"e3\"]")),
        [format!("network.a.port_group.g.team: {two}")]
    );
}

#[test]
fn private_vlans_that_contradict_one_another_are_refused_in_words() {
    let g = "network.a.port_group";
    let both = |one: &str, other: &str| {
        problems(&format!(
            "[network.a]\nmode = \"isolated\"\nport_group.one.vlan = {one}\nport_group.two.vlan = {other}\n"
        ))
    };
    let of_100 = "{ primary = 100, isolated = 101 }";
    for (one, other, expected) in [
        (
            of_100,
            "{ primary = 101, promiscuous = true }",
            format!(
                "{g}.one.vlan.isolated: VLAN 101 is the primary VLAN of port group \"two\", and cannot be a secondary one too"
            ),
        ),
        (
            "{ primary = 100, promiscuous = true }",
            "{ primary = 100, community = 100 }",
            format!(
                "{g}.two.vlan.community: VLAN 100 is the primary VLAN of port group \"one\", and cannot be a secondary one too"
            ),
        ),
        (
            of_100,
            "{ primary = 200, isolated = 101 }",
            format!(
                "{g}.two.vlan.isolated: VLAN 101 belongs to primary VLAN 100 in port group \"one\", and cannot belong to 200 too"
            ),
        ),
        (
            of_100,
            "{ primary = 100, community = 101 }",
            format!(
                "{g}.two.vlan.community: VLAN 101 is isolated in port group \"one\", and cannot be community too"
            ),
        ),
        (
            "{ primary = 100, community = 101 }",
            of_100,
            format!(
                "{g}.two.vlan.isolated: VLAN 101 is community in port group \"one\", and cannot be isolated too"
            ),
        ),
        (
            of_100,
            "{ primary = 100, isolated = 102 }",
            format!(
                "{g}.two.vlan.isolated: primary VLAN 100 has an isolated VLAN already, 101 in port group \"one\"; it can have one"
            ),
        ),
        (
            "101",
            of_100,
            format!(
                "{g}.one.vlan: VLAN 101 is a secondary VLAN in port group \"two\"; write {{ primary = 100, isolated = 101 }}"
            ),
        ),
        (
            "100",
            of_100,
            format!(
                "{g}.one.vlan: VLAN 100 is the primary VLAN of port group \"two\"; write {{ primary = 100, promiscuous = true }}"
            ),
        ),
        (
            "{ tagged = [5], untagged = 102 }",
            "{ primary = 100, community = 102 }",
            format!(
                "{g}.one.vlan.untagged: VLAN 102 is a secondary VLAN in port group \"two\"; write {{ primary = 100, community = 102 }}"
            ),
        ),
    ] {
        assert_eq!(both(one, other), [expected], "{one} {other}");
    }
    assert_eq!(both(of_100, of_100), [""; 0]);
    assert_eq!(
        both(of_100, "{ tagged = [100, 101], untagged = 0 }"),
        [""; 0]
    );
    let elsewhere = format!(
        "[network.a]\nmode = \"isolated\"\nport_group.g.vlan = {of_100}\n[network.b]\nmode = \"isolated\"\nport_group.g.vlan = 101\n"
    );
    assert_eq!(problems(&elsewhere), [""; 0]);
}

#[test]
fn security_is_the_nearest_that_was_said_key_by_key() {
    let security = |network: &str, group: &str, vm: &str| {
        let text = format!(
            "[network.a]\nmode = \"bridged\"\nteam.active = [\"e\"]\n{network}\n[network.a.port_group.g]\n{group}\n[vm.v]\nnetwork = \"a\"\nport_group = \"g\"\n{vm}\n"
        );
        let (plan, problems) = plan(&text);
        assert_eq!(problems, [""; 0], "{text}");
        let Security {
            promiscuous,
            mac_changes,
            forged_transmits,
        } = plan.vms[0].security;
        [promiscuous, mac_changes, forged_transmits]
    };
    let legacy = "security = \"legacy\"";
    for (network, group, vm, expected) in [
        ("", "", "", [false, false, false]),
        (legacy, "", "", [false, true, true]),
        ("", legacy, "", [false, true, true]),
        ("", "", legacy, [false, true, true]),
        (legacy, "security = \"reject\"", "", [false, false, false]),
        (
            legacy,
            "security.mac_changes = false",
            "",
            [false, false, true],
        ),
        (
            "security.promiscuous = true",
            legacy,
            "security.forged_transmits = false",
            [false, true, false],
        ),
        (
            "security.promiscuous = true",
            "security.mac_changes = true",
            "",
            [true, true, false],
        ),
        (
            "",
            "security = { preset = \"legacy\", promiscuous = true, mac_changes = false }",
            "",
            [true, false, true],
        ),
    ] {
        assert_eq!(
            security(network, group, vm),
            expected,
            "{network} {group} {vm}"
        );
    }
}

#[test]
fn where_vmlan_serves_addresses_nobody_else_does_unless_it_is_said() {
    let guards = |network: &str, vm: &str| {
        let (plan, problems) = plan(&format!("{network}[vm.v]\nnetwork = \"vmnet1\"\n{vm}\n"));
        assert_eq!(problems, [""; 0], "{network}");
        let guards = plan.vms[0].guards;
        (guards.dhcp_server, guards.router_advertisement)
    };
    let bridged = "[network.vmnet1]\nmode = \"bridged\"\nteam.active = [\"e\"]\n";
    let quiet = format!("{HOST_ONLY}dhcp = false\n");
    let bare = "[network.vmnet1]\nmode = \"isolated\"\n";
    assert_eq!(guards(HOST_ONLY, ""), (true, true));
    assert_eq!(guards(&quiet, ""), (false, false));
    assert_eq!(guards(bare, ""), (false, false));
    assert_eq!(guards(bridged, ""), (false, false));
    assert_eq!(
        guards(HOST_ONLY, "security.ra_guard = false"),
        (true, false)
    );
    assert_eq!(guards(bridged, "security.dhcp_guard = true"), (true, false));
    assert_eq!(guards(HOST_ONLY, "security = \"legacy\""), (true, true));
}

#[test]
fn a_port_group_has_of_the_team_what_it_does_not_say_otherwise() {
    let policies = |group: &str| {
        let text = format!(
            "[network.a]\nmode = \"bridged\"\nteam.active = [\"e1\", \"e2\"]\nteam.standby = [\"e3\"]\nteam.unused = [\"e4\"]\nteam.failback = false\n[network.a.port_group.g.team]\n{group}\n"
        );
        let (plan, problems) = plan(&text);
        assert_eq!(problems, [""; 0], "{group}");
        let team = plan.networks[0].team.as_ref().unwrap();
        let names: Vec<_> = team
            .uplinks
            .iter()
            .map(|uplink| uplink.name.as_str())
            .collect();
        assert_eq!(names, ["e1", "e2", "e3", "e4"]);
        team.policies.clone()
    };
    for (group, active, standby) in [
        ("", &["e1", "e2"][..], &["e3"][..]),
        ("active = [\"e2\"]", &["e2"], &["e3"]),
        ("active = [\"e3\", \"e4\"]", &["e3", "e4"], &[]),
        ("standby = [\"e1\"]", &["e2"], &["e1"]),
        ("unused = [\"e2\"]", &["e1"], &["e3"]),
        ("active = [\"e4\"]\nstandby = []", &["e4"], &[]),
    ] {
        let policies = policies(group);
        assert_eq!(policies[1].active, active, "{group}");
        assert_eq!(policies[1].standby, standby, "{group}");
        assert!(!policies[1].failback && policies[1].notify_switches);
    }
    let [own, changed] = &policies(
        "load_balancing = \"mac\"\nfailback = true\nreverse_filter = false\nnotify_switches = false\nfailure_detection = \"beacon\"",
    )[..] else {
        panic!("two policies")
    };
    let expected = team::Policy {
        port_group: Some("g".to_owned()),
        load_balancing: LoadBalancing::SourceMac,
        detection: Detection::Beacon,
        notify_switches: false,
        failback: true,
        reverse_filter: false,
        ..own.clone()
    };
    assert_eq!(*changed, expected);
}

#[test]
fn a_channel_needs_no_word_about_the_reverse_filter() {
    for (balancing, filter) in [("port-id", true), ("ip-hash", false), ("lacp", false)] {
        let text = format!(
            "[network.a]\nmode = \"bridged\"\nteam.active = [\"e1\", \"e2\"]\nteam.load_balancing = {balancing:?}\nport_group.g.team.failback = false\n"
        );
        let (plan, problems) = plan(&text);
        assert_eq!(problems, [""; 0]);
        let team = plan.networks[0].team.as_ref().unwrap();
        let filters: Vec<_> = team
            .policies
            .iter()
            .map(|policy| policy.reverse_filter)
            .collect();
        assert_eq!(filters, [filter, filter], "{balancing}");
    }
}

#[test]
fn the_engine_is_told_how_a_team_speaks_lacp() {
    let text = "[network.a]\nmode = \"bridged\"\nteam.active = [\"e1\"]\nteam.load_balancing = \"lacp\"\nteam.lacp = { hash = \"layer2\", system_priority = 7 }\n";
    let (plan, problems) = plan(text);
    assert_eq!(problems, [""; 0]);
    let macs = Macs::load(&plan).unwrap();
    let spec = plan.spec(&macs, &Prefixes::default(), &BTreeMap::new());
    let team = spec.networks[0].team.as_ref().unwrap();
    let expected = lacp::Spec {
        mode: lacp::Mode::Active,
        rate: lacp::Rate::Fast,
        fallback: true,
        system: macs.team("a"),
        system_priority: 7,
    };
    assert_eq!(team.lacp.as_ref(), Some(&expected));
    assert!(macs.team("a").is_station());
    let balancing = team.policies[0].load_balancing;
    assert_eq!(balancing, LoadBalancing::Lacp(Hash::Layer2));
}

#[test]
fn discovery_says_and_hears_what_it_is_told_to() {
    for (word, advertise, listen) in [
        ("both", true, true),
        ("advertise", true, false),
        ("listen", false, true),
        ("off", false, false),
    ] {
        let (plan, _) = plan(&format!(
            "[network.a]\nmode = \"bridged\"\nteam.active = [\"e1\"]\nteam.discovery = {word:?}\n"
        ));
        let macs = Macs::load(&plan).unwrap();
        let spec = plan.spec(&macs, &Prefixes::default(), &BTreeMap::new());
        let discovery = &spec.networks[0].team.as_ref().unwrap().discovery;
        assert_eq!((discovery.advertise, discovery.listen), (advertise, listen));
        assert_eq!(discovery.chassis, macs.team("a"));
        let version = concat!("vmlan ", env!("CARGO_PKG_VERSION"));
        assert_eq!(discovery.description, version);
        assert!(!discovery.host.is_empty());
    }
}

#[test]
fn the_engine_is_told_of_everything_in_the_example_of_three_teams() {
    let (plan, problems) = plan(include_str!("../../../tests/configs/three-teams.toml"));
    assert_eq!(problems, [""; 0]);
    let optional: Vec<_> = plan
        .uplinks()
        .map(|(path, uplink)| (path, uplink.name.as_str(), uplink.optional, uplink.speed))
        .collect();
    assert_eq!(
        optional,
        [
            (
                "network.bmc.team.active[0]",
                "usb0",
                true,
                Some(1_000_000_000)
            ),
            ("network.infra.team.active[0]", "eth2", false, None),
            ("network.infra.team.standby[0]", "eth3", false, None),
            ("network.public.team.active[0]", "eth0", false, None),
            ("network.public.team.active[1]", "eth1", false, None),
        ]
    );
    let macs = Macs::load(&plan).unwrap();
    let spec = plan.spec(&macs, &Prefixes::default(), &BTreeMap::new());
    let [bmc, infra, public] = &spec.networks[..] else {
        panic!("three networks")
    };
    let team = |network: &NetworkSpec| network.team.clone().unwrap();
    let kinds = |network: &NetworkSpec| -> Vec<(String, &str, Option<String>, usize)> {
        let ports = network.ports.iter();
        ports
            .map(|port| {
                let policy = port.member.policy;
                (
                    port.name.clone(),
                    port.port.kind(),
                    port.port_group.clone(),
                    policy,
                )
            })
            .collect()
    };
    let port = |name: &str, kind, group: Option<&str>, policy| {
        (name.to_owned(), kind, group.map(str::to_owned), policy)
    };

    assert_eq!(
        kinds(bmc),
        [
            port("usb0", "uplink", None, 0),
            port("vmk3", "host", None, 0)
        ]
    );
    let bmc = team(bmc);
    assert_eq!((bmc.name.as_str(), bmc.policies.len()), ("bmc", 1));
    assert!(!bmc.policies[0].notify_switches && !bmc.discovery.advertise);

    assert_eq!(
        kinds(infra),
        [
            port("eth2", "uplink", None, 0),
            port("eth3", "uplink", None, 0),
            port("vmk0", "host", Some("management"), 0),
            port("vmk1", "host", Some("migration"), 1)
        ]
    );
    assert_eq!(infra.mtu, 9000);
    let [own, migration] = &team(infra).policies[..] else {
        panic!("two policies")
    };
    assert_eq!(
        (&own.active[..], &own.standby[..]),
        (&["eth2".to_owned()][..], &["eth3".to_owned()][..])
    );
    assert_eq!(
        (&migration.active, &migration.standby),
        (&own.standby, &own.active)
    );
    assert_eq!(migration.load_balancing, LoadBalancing::Explicit);
    let vmk1 = &infra.ports[3];
    let PortSpec::Tap(tap) = &vmk1.port else {
        panic!("a host adapter")
    };
    assert_eq!((tap.address, tap.mtu), (None, 9000));
    assert_eq!(tap.mac, macs.host_in("infra", "migration"));
    assert_eq!(vmk1.member.vlan, PortVlan::Access(VlanId::new(31).unwrap()));
    assert_eq!(vmk1.member.mac, Some(tap.mac));
    assert_eq!(vmk1.member.security, Security::LEGACY);

    assert_eq!(
        kinds(public),
        [
            port("eth0", "uplink", None, 0),
            port("eth1", "uplink", None, 0),
            port("vmk2", "host", Some("prod"), 0),
            port("firewall", "guest", Some("router"), 0),
            port("proxy1", "guest", Some("dmz"), 0),
            port("web1", "guest", Some("prod"), 0)
        ]
    );
    let [eth0, _, vmk2, firewall, proxy1, web1] = &public.ports[..] else {
        panic!("six ports")
    };
    assert!(eth0.member.uplink && eth0.member.service_tags);
    assert_eq!(eth0.member.vlan, PortVlan::All);
    let thousand = NonZeroU32::new(1000);
    assert_eq!(web1.member.storm.broadcast, thousand);
    assert_eq!(vmk2.member.storm.broadcast, None, "the host is not limited");
    assert!(proxy1.member.isolated && proxy1.follow_uplinks);
    assert!(proxy1.member.guards.dhcp_server && !web1.member.guards.dhcp_server);
    assert_eq!(web1.member.security, Security::default());
    assert_eq!(firewall.member.security, Security::LEGACY);
    assert!(!firewall.member.service_tags);
    let public_team = team(public);
    assert_eq!(
        public_team.policies[0].load_balancing,
        LoadBalancing::LoadBased
    );
    assert_eq!(public_team.up_delay.as_secs(), 30);
    assert!(public.snooping);
}

#[test]
fn what_keeps_guests_in_check_does_not_apply_to_the_host() {
    let text = format!(
        "{HOST_ONLY}[network.vmnet1.port_group.g]\nvlan = \"all\"\nisolated = true\nstorm_control.broadcast = 1\nhost_adapter = \"vmk0\"\n[vm.v]\nnetwork = \"vmnet1\"\nport_group = \"g\"\n"
    );
    let (plan, problems) = plan(&text);
    assert_eq!(problems, [""; 0]);
    let macs = Macs::load(&plan).unwrap();
    let spec = plan.spec(&macs, &Prefixes::default(), &BTreeMap::new());
    let [host, guest] = &spec.networks[0].ports[..] else {
        panic!("two ports")
    };
    assert!(host.member.service_tags && guest.member.service_tags);
    assert!(!host.member.isolated && guest.member.isolated);
    assert_eq!(host.member.guards, Guards::default());
    assert!(guest.member.guards.dhcp_server && guest.member.guards.router_advertisement);
    assert_eq!(host.member.storm.broadcast, None);
    assert_ne!(macs.host_in("vmnet1", "g"), macs.host("vmnet1"));
}

#[test]
fn the_engine_is_told_which_vlans_are_secondary() {
    let (plan, problems) = plan(
        "[network.a]\nmode = \"isolated\"\nport_group.g.vlan = { primary = 100, isolated = 101 }\n",
    );
    assert_eq!(problems, [""; 0]);
    let spec = plan.spec(
        &Macs::load(&plan).unwrap(),
        &Prefixes::default(),
        &BTreeMap::new(),
    );
    let tag = Tag::Tagged(Tci(101));
    let class = PortVlan::All.classify(tag, &spec.networks[0].private_vlans);
    assert_eq!(class.unwrap().domain.number(), 100);
}

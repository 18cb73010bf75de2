//! Tests of the keys of teams, port groups and security: each is read, by all its names, and refused in words.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::port_group::PortGroup;
use super::security::Preset;
use super::team::{Discovery, Lacp, Team, Uplinks};
use super::*;
use crate::net::storm::Limits;
use crate::net::team::lacp::{Mode, Rate};
use crate::net::team::{Detection, Hash, LoadBalancing};
use crate::net::vlan::{Domain, PortVlan, PrivatePort, PrivateRole, VlanId};

fn read(text: &str) -> (File, Vec<String>) {
    let mut problems = Problems::default();
    let file = File::read(text, &mut problems);
    let texts = problems.errors().iter().map(ToString::to_string).collect();
    (file, texts)
}

fn good(text: &str) -> File {
    let (file, problems) = read(text);
    assert_eq!(problems, [""; 0], "{text}");
    file
}

#[test]
fn metrics_are_at_an_address_with_a_port() {
    let file = good("[daemon]\nmetrics = \"[::1]:9797\"\n");
    assert_eq!(file.metrics, Some("[::1]:9797".parse().unwrap()));
    for wrong in ["127.0.0.1", "127.0.0.1:0", ":9797", "localhost:9797"] {
        let (file, problems) = read(&format!("[daemon]\nmetrics = \"{wrong}\"\n"));
        assert_eq!(file.metrics, None);
        let told = format!(
            "daemon.metrics: {wrong:?} is not an address with a port: write it as in \"127.0.0.1:9797\" or \"[::1]:9797\""
        );
        assert_eq!(problems, [told]);
    }
}

fn team(keys: &str) -> Team {
    let mut file = good(&format!("[network.x.team]\n{keys}\n"));
    file.networks.remove("x").unwrap().team.unwrap()
}

fn group(keys: &str) -> PortGroup {
    let mut file = good(&format!("[network.x.port_group.g]\n{keys}\n"));
    let mut network = file.networks.remove("x").unwrap();
    network.port_groups.remove("g").unwrap()
}

fn vlan(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

fn adapters(names: &[&str]) -> Option<Uplinks> {
    Some(
        names
            .iter()
            .map(|name| Adapter((*name).to_owned()))
            .enumerate()
            .collect(),
    )
}

#[test]
fn an_uplink_is_described() {
    let file =
        good("[uplink.a]\noptional = true\nspeed = \"10G\"\ndriver = \"af_xdp\"\n[uplink.b]\n");
    let described = Uplink {
        optional: true,
        speed: Some(10_000_000_000),
        driver: Driver::AfXdp,
    };
    assert_eq!(file.uplinks["a"], described);
    assert_eq!(file.uplinks["b"], Uplink::default());
}

#[test]
fn every_key_of_a_team_is_read() {
    let team = team(
        "active = [\"a\", \"b\"]\nstandby = \"c\"\nunused = [\"d\"]\nload_balancing = \"lacp\"
        failure_detection = \"beacon\"\nnotify_switches = false\nfailback = false\nreverse_filter = false
        up_delay = \"30s\"\ndown_delay = \"5m\"\ndiscovery = \"listen\"
        [network.x.team.lacp]\nmode = \"passive\"\nrate = \"slow\"\nfallback = false\nhash = \"layer2\"\nsystem_priority = 1",
    );
    let policy = &team.policy;
    assert_eq!(policy.active, adapters(&["a", "b"]));
    assert_eq!(policy.standby, adapters(&["c"]));
    assert_eq!(policy.unused, adapters(&["d"]));
    assert!(matches!(
        policy.load_balancing,
        Some(LoadBalancing::Lacp(_))
    ));
    assert_eq!(policy.detection, Some(Detection::Beacon));
    assert_eq!(policy.notify_switches, Some(false));
    assert_eq!(policy.failback, Some(false));
    assert_eq!(policy.reverse_filter, Some(false));
    let delays = [30, 300].map(Duration::from_secs);
    assert_eq!([team.up_delay, team.down_delay], delays);
    assert_eq!(team.discovery, Discovery::Listen);
    let lacp = Lacp {
        mode: Mode::Passive,
        rate: Rate::Slow,
        fallback: false,
        hash: Hash::Layer2,
        system_priority: 1,
    };
    assert_eq!(team.lacp, Some(lacp));
}

#[test]
fn what_a_team_does_not_say_is_the_usual() {
    let team = team("lacp = {}");
    assert_eq!(team.policy.active, None);
    assert_eq!(team.up_delay, Duration::ZERO);
    assert_eq!(team.discovery, Discovery::Both);
    let lacp = Lacp {
        mode: Mode::Active,
        rate: Rate::Fast,
        fallback: true,
        hash: Hash::Layer34,
        system_priority: 32_768,
    };
    assert_eq!(team.lacp, Some(lacp));
}

#[test]
fn keys_of_a_team_have_the_names_of_esxi_too() {
    for key in ["activeNic", "active_uplinks", "active-uplinks"] {
        assert_eq!(
            team(&format!("{key} = [\"a\"]")).policy.active,
            adapters(&["a"])
        );
    }
    for key in ["standbyNic", "standby_uplinks", "standby-uplinks"] {
        assert_eq!(
            team(&format!("{key} = [\"a\"]")).policy.standby,
            adapters(&["a"])
        );
    }
    let team = team("notifySwitches = false\nreversePolicy = false\nrollingOrder = true").policy;
    assert_eq!(
        (team.notify_switches, team.reverse_filter, team.failback),
        (Some(false), Some(false), Some(false))
    );
    let rolling = self::team("rollingOrder = false").policy;
    assert_eq!(rolling.failback, Some(true));
}

#[test]
fn values_of_a_team_have_the_names_of_esxi_too() {
    use LoadBalancing::{Explicit, IpHash, LoadBased, PortId, SourceMac};
    for (word, balancing) in [
        ("port-id", PortId),
        ("loadbalance_srcid", PortId),
        ("portid", PortId),
        ("source-mac", SourceMac),
        ("loadbalance_srcmac", SourceMac),
        ("mac", SourceMac),
        ("ip-hash", IpHash),
        ("loadbalance_ip", IpHash),
        ("iphash", IpHash),
        ("explicit", Explicit),
        ("failover_explicit", Explicit),
        ("load-based", LoadBased),
        ("loadbalance_loadbased", LoadBased),
        ("lacp", LoadBalancing::Lacp(Hash::Layer34)),
    ] {
        let team = team(&format!("load_balancing = {word:?}"));
        assert_eq!(team.policy.load_balancing, Some(balancing), "{word}");
    }
    for (word, detection) in [
        ("link", Detection::Link),
        ("link_status", Detection::Link),
        ("link status only", Detection::Link),
        ("beacon", Detection::Beacon),
        ("beacon_probing", Detection::Beacon),
    ] {
        let team = team(&format!("failure_detection = {word:?}"));
        assert_eq!(team.policy.detection, Some(detection), "{word}");
    }
    for (word, discovery) in [
        ("both", Discovery::Both),
        ("listen", Discovery::Listen),
        ("advertise", Discovery::Advertise),
        ("off", Discovery::Off),
    ] {
        assert_eq!(team(&format!("discovery = {word:?}")).discovery, discovery);
    }
    for (word, hash) in [
        ("layer2", Hash::Layer2),
        ("layer2+3", Hash::Layer23),
        ("layer3+4", Hash::Layer34),
    ] {
        let lacp = team(&format!("lacp.hash = {word:?}")).lacp.unwrap();
        assert_eq!(lacp.hash, hash);
    }
}

#[test]
fn every_form_of_vlan_is_read() {
    let port = |role| {
        PortVlan::Private(PrivatePort {
            primary: vlan(100),
            role,
        })
    };
    for (form, expected) in [
        ("0", PortVlan::Untagged),
        ("1", PortVlan::Access(vlan(1))),
        ("4094", PortVlan::Access(vlan(4094))),
        ("4095", PortVlan::All),
        ("\"all\"", PortVlan::All),
        ("{ untagged = 10 }", PortVlan::Access(vlan(10))),
        ("{ tagged = [], untagged = 0 }", PortVlan::Untagged),
        (
            "{ primary = 100, promiscuous = true }",
            port(PrivateRole::Promiscuous),
        ),
        (
            "{ primary = 100, isolated = 101 }",
            port(PrivateRole::Isolated(vlan(101))),
        ),
        (
            "{ primary = 100, community = 102 }",
            port(PrivateRole::Community(vlan(102))),
        ),
    ] {
        assert_eq!(group(&format!("vlan = {form}")).vlan, expected, "{form}");
    }
    assert_eq!(group("").vlan, PortVlan::Untagged);
    let ten = Some(Domain::from(vlan(10)));
    for (form, tagged, untagged) in [
        ("[\"20-22\", 40, \"50\"]", &[20, 21, 22, 40, 50][..], None),
        ("{ tagged = [\"20-22\", 40] }", &[20, 21, 22, 40], None),
        ("{ tagged = 40, untagged = 10 }", &[40], ten),
        (
            "{ tagged = \"40-41\", untagged = 0 }",
            &[40, 41],
            Some(Domain::UNTAGGED),
        ),
    ] {
        let PortVlan::Trunk(trunk) = group(&format!("vlan = {form}")).vlan else {
            panic!("{form} is a trunk")
        };
        let found: Vec<u16> = trunk.tagged.iter().map(VlanId::number).collect();
        assert_eq!((&found[..], trunk.untagged), (tagged, untagged), "{form}");
    }
}

#[test]
fn every_key_of_a_port_group_is_read() {
    let typed = group(
        "isolated = true\nservice_tags = true\nhost_adapter = \"vmk0\"\nfollow_uplinks = true\nteam.failback = false
        storm_control = { broadcast = 1000, multicast = 1, unknown_unicast = 10000000 }",
    );
    assert!(typed.isolated && typed.follow_uplinks);
    assert_eq!(typed.service_tags, Some(true));
    assert_eq!(typed.host_adapter, Some(Adapter("vmk0".to_owned())));
    assert_eq!(typed.team.unwrap().failback, Some(false));
    let limits = Limits {
        broadcast: NonZeroU32::new(1000),
        multicast: NonZeroU32::new(1),
        unknown_unicast: NonZeroU32::new(10_000_000),
    };
    assert_eq!(typed.storm, limits);
    let unsaid = group("");
    assert!(!unsaid.isolated && !unsaid.follow_uplinks);
    assert_eq!((unsaid.service_tags, unsaid.host_adapter), (None, None));
    assert_eq!(unsaid.storm, Limits::default());
}

#[test]
fn security_is_read_in_all_its_forms_and_places() {
    let allowed = Security {
        promiscuous: Some(true),
        mac_changes: Some(false),
        forged_transmits: Some(true),
        ..Security::default()
    };
    for keys in [
        "promiscuous = true\nmac_changes = false\nforged_transmits = true",
        "promiscuous = \"accept\"\nmac_changes = \"reject\"\nforged_transmits = \"accept\"",
        "allowPromiscuous = true\nmacChanges = false\nforgedTransmits = true",
        "allow_promiscuous = true\nallow_mac_change = false\nallow_forged_transmits = \"accept\"",
    ] {
        let file = good(&format!(
            "[network.x.security]\n{keys}\n[network.x.port_group.g.security]\n{keys}\n[vm.v.security]\n{keys}\n"
        ));
        let network = &file.networks["x"];
        let places = [
            network.security,
            network.port_groups["g"].security,
            file.vms["v"].security,
        ];
        assert_eq!(places, [allowed; 3]);
    }
    let guards = group("security = { dhcp_guard = false, ra_guard = true }").security;
    assert_eq!(
        (guards.dhcp_guard, guards.ra_guard),
        (Some(false), Some(true))
    );
    for (form, preset) in [
        ("\"legacy\"", Preset::Legacy),
        ("\"reject\"", Preset::Reject),
        ("{ preset = \"legacy\" }", Preset::Legacy),
        ("{ preset = \"reject\" }", Preset::Reject),
    ] {
        let security = Security {
            preset: Some(preset),
            ..Security::default()
        };
        assert_eq!(group(&format!("security = {form}")).security, security);
    }
}

#[test]
fn snooping_is_said_by_the_network() {
    let file = good("[network.x]\nigmp_snooping = false\n[network.y]\n");
    let said = ["x", "y"].map(|name| file.networks[name].igmp_snooping);
    assert_eq!(said, [Some(false), None]);
}

#[test]
fn what_is_no_value_is_refused_in_words() {
    let forms =
        "write 0 for none, a number from 1 to 4094, \"all\", or a list such as [\"20-29\", 40]";
    let number = "write a number from 1 to 4094, or a range such as \"20-29\"";
    let vlans = |vlan: &str| format!("[network.x.port_group.g]\nvlan = {vlan}\n");
    let group = |keys: &str| format!("[network.x.port_group.g]\n{keys}\n");
    let team = |keys: &str| format!("[network.x.team]\n{keys}\n");
    let g = "network.x.port_group.g";
    let t = "network.x.team";
    for (text, expected) in [
        (
            "[uplink.a]\noptional = \"yes\"".to_owned(),
            "uplink.a.optional: must be true or false, not a string".to_owned(),
        ),
        (
            "[uplink.a]\nspeed = 10".to_owned(),
            "uplink.a.speed: must be a string, not a whole number".to_owned(),
        ),
        (
            "[uplink.a]\nspeed = \"10Gb\"".to_owned(),
            "uplink.a.speed: \"10Gb\" is not a speed: write bits a second as a whole number and k, M, G or T, as in \"10G\"".to_owned(),
        ),
        (
            team("load_balancing = \"port_id\""),
            format!("{t}.load_balancing: \"port_id\" is not one of \"port-id\", \"source-mac\", \"ip-hash\", \"explicit\", \"load-based\", \"lacp\"; did you mean \"port-id\"?"),
        ),
        (
            team("failure_detection = \"becon\""),
            format!("{t}.failure_detection: \"becon\" is not one of \"link\", \"beacon\"; did you mean \"beacon\"?"),
        ),
        (
            team("discovery = \"none\""),
            format!("{t}.discovery: \"none\" is not one of \"both\", \"listen\", \"advertise\", \"off\""),
        ),
        (
            team("failback = 1"),
            format!("{t}.failback: must be true or false, not a whole number"),
        ),
        (
            team("rollingOrder = \"no\""),
            format!("{t}.rollingOrder: must be true or false, not a string"),
        ),
        (
            team("active = [\"a\"]\nactiveNic = [\"b\"]"),
            format!("{t}.activeNic: is another name of `active`, which is written too: keep one of them"),
        ),
        (
            team("standbyNic = [\"a\"]\nstandby_uplinks = [\"b\"]"),
            format!("{t}.standby_uplinks: is another name of `standby`, and so is `standbyNic`: keep one of them"),
        ),
        (
            team("failback = true\nrollingOrder = false"),
            format!("{t}.rollingOrder: is another name of `failback`, which is written too: keep one of them"),
        ),
        (
            team("up_delay = \"6m\""),
            format!("{t}.up_delay: 6m is longer than 5m"),
        ),
        (
            team("down_delay = \"301s\""),
            format!("{t}.down_delay: 301s is longer than 5m"),
        ),
        (
            team("up_delay = \"1\""),
            format!("{t}.up_delay: \"1\" is not a duration: write a number and s, m, h or d, as in \"30m\""),
        ),
        (
            team("lacp.mode = \"on\""),
            format!("{t}.lacp.mode: \"on\" is not one of \"active\", \"passive\""),
        ),
        (
            team("lacp.rate = \"fsat\""),
            format!("{t}.lacp.rate: \"fsat\" is not one of \"fast\", \"slow\"; did you mean \"fast\"?"),
        ),
        (
            team("lacp.hash = \"layer3\""),
            format!("{t}.lacp.hash: \"layer3\" is not one of \"layer2\", \"layer2+3\", \"layer3+4\"; did you mean \"layer2\"?"),
        ),
        (
            team("lacp.system_priority = 65536"),
            format!("{t}.lacp.system_priority: 65536 is not between 0 and 65535"),
        ),
        (
            team("lacp.key = 1"),
            format!("{t}.lacp.key: is not a key that vmlan knows"),
        ),
        (
            group("team.up_delay = \"1s\""),
            format!("{g}.team.up_delay: is the same for all port groups; write it in [network.x.team]"),
        ),
        (
            group("team.lacp = {}"),
            format!("{g}.team.lacp: is the same for all port groups; write it in [network.x.team]"),
        ),
        (
            group("storm_control.broadcast = 0"),
            format!("{g}.storm_control.broadcast: 0 is not between 1 and 10000000"),
        ),
        (
            group("storm_control.multicast = 10000001"),
            format!("{g}.storm_control.multicast: 10000001 is not between 1 and 10000000"),
        ),
        (
            group("storm_control.unicast = 1"),
            format!("{g}.storm_control.unicast: is not a key that vmlan knows"),
        ),
        (
            group("isolated = \"yes\""),
            format!("{g}.isolated: must be true or false, not a string"),
        ),
        (
            group("host_adapter = \"a/b\""),
            format!("{g}.host_adapter: \"a/b\" cannot be the name of a network adapter"),
        ),
        (
            group("security = \"lagacy\""),
            format!("{g}.security: \"lagacy\" is not one of \"reject\", \"legacy\"; did you mean \"legacy\"?"),
        ),
        (
            group("security = true"),
            format!("{g}.security: must be a table or \"legacy\", not true or false"),
        ),
        (
            group("security.promiscuous = \"yes\""),
            format!("{g}.security.promiscuous: must be true or \"accept\", false or \"reject\", not \"yes\""),
        ),
        (
            group("security.macChanges = 1"),
            format!("{g}.security.macChanges: must be true or \"accept\", false or \"reject\", not a whole number"),
        ),
        (
            group("security.dhcp_guard = \"accept\""),
            format!("{g}.security.dhcp_guard: must be true or false, not a string"),
        ),
        (
            group("security = { promiscuous = true, allowPromiscuous = true }"),
            format!("{g}.security.allowPromiscuous: is another name of `promiscuous`, which is written too: keep one of them"),
        ),
        (
            group("security.forged = true"),
            format!("{g}.security.forged: is not a key that vmlan knows"),
        ),
        (vlans("4096"), format!("{g}.vlan: 4096 is not a VLAN; {forms}")),
        (vlans("-1"), format!("{g}.vlan: -1 is not a VLAN; {forms}")),
        (vlans("\"20-29\""), format!("{g}.vlan: \"20-29\" is not a VLAN; {forms}")),
        (vlans("true"), format!("{g}.vlan: true is not a VLAN; {forms}")),
        (vlans("[4096]"), format!("{g}.vlan[0]: 4096 is not a VLAN; {number}")),
        (vlans("[0]"), format!("{g}.vlan[0]: 0 is not a VLAN; {number}")),
        (vlans("[1, \"4000-4095\"]"), format!("{g}.vlan[1]: \"4000-4095\" is not a VLAN; {number}")),
        (vlans("[\"29-20\"]"), format!("{g}.vlan[0]: \"29-20\" ends before it begins; write \"20-29\"")),
        (vlans("[true]"), format!("{g}.vlan[0]: must be a number or a range, not true or false")),
        (vlans("[10, 10]"), format!("{g}.vlan[1]: VLAN 10 is listed already, in 10")),
        (
            vlans("{ tagged = [\"20-29\", \"25-35\"] }"),
            format!("{g}.vlan.tagged[1]: VLAN 25 is listed already, in \"20-29\""),
        ),
        (
            vlans("[]"),
            format!("{g}.vlan: lists no VLAN: write some, as in [\"20-29\", 40], or an untagged one"),
        ),
        (
            vlans("{}"),
            format!("{g}.vlan: lists no VLAN: write some, as in [\"20-29\", 40], or an untagged one"),
        ),
        (
            vlans("{ tagged = [] }"),
            format!("{g}.vlan.tagged: lists no VLAN: write some, as in [\"20-29\", 40], or an untagged one"),
        ),
        (
            vlans("{ tagged = [\"1-20\"], untagged = 10 }"),
            format!("{g}.vlan.untagged: VLAN 10 is tagged already, in \"1-20\"; it travels one way or the other"),
        ),
        (
            vlans("{ tagged = [20], untagged = 4095 }"),
            format!("{g}.vlan.untagged: 4095 is not between 0 and 4094"),
        ),
        (
            vlans("{ taged = [20], untagged = 1 }"),
            format!("{g}.vlan.taged: is not a key that vmlan knows; did you mean \"tagged\"?"),
        ),
        (
            vlans("{ primary = 100 }"),
            format!("{g}.vlan.primary: needs one of promiscuous = true, isolated = VLAN and community = VLAN beside primary"),
        ),
        (
            vlans("{ primary = 100, isolated = 101, community = 102 }"),
            format!("{g}.vlan.primary: needs one of promiscuous = true, isolated = VLAN and community = VLAN beside primary"),
        ),
        (
            vlans("{ isolated = 101 }"),
            format!("{g}.vlan.primary: is missing: name the primary VLAN, as in {{ primary = 100, isolated = 101 }}"),
        ),
        (
            vlans("{ primary = 100, promiscuous = false }"),
            format!("{g}.vlan.promiscuous: must be true; other ports are isolated = VLAN or community = VLAN"),
        ),
        (
            vlans("{ primary = 100, isolated = 101, tagged = [5] }"),
            format!("{g}.vlan.tagged: a port of a private VLAN has no other VLANs; leave the key out"),
        ),
        (
            vlans("{ primary = 4095, isolated = 101 }"),
            format!("{g}.vlan.primary: 4095 is not between 1 and 4094"),
        ),
        (
            vlans("{ primary = 100, community = 0 }"),
            format!("{g}.vlan.community: 0 is not between 1 and 4094"),
        ),
        (
            "[network.x]\nigmp_snooping = 1".to_owned(),
            "network.x.igmp_snooping: must be true or false, not a whole number".to_owned(),
        ),
    ] {
        assert_eq!(read(&text).1, [expected], "{text}");
    }
}

#[test]
fn a_list_with_a_mistake_is_not_taken_for_a_shorter_one() {
    let (file, problems) = read("[network.x.port_group.g]\nvlan = [10, 5000, 5001]\n");
    assert_eq!(problems.len(), 2, "{problems:?}");
    let vlan = &file.networks["x"].port_groups["g"].vlan;
    assert_eq!(*vlan, PortVlan::Untagged);
}

proptest! {
    #[test]
    fn any_trunk_is_read_or_refused(tagged in proptest::collection::vec((0..4097_u16, 0..4097_u16), 0..4), untagged in proptest::option::of(0..4097_u16)) {
        let list: Vec<_> = tagged.iter().map(|(first, last)| format!("\"{first}-{last}\"")).collect();
        let untagged = untagged.map_or_else(String::new, |vlan| format!(", untagged = {vlan}"));
        let text = format!("[network.x.port_group.g]\nvlan = {{ tagged = [{}]{untagged} }}\n", list.join(", "));
        let (file, problems) = read(&text);
        let vlan = &file.networks["x"].port_groups["g"].vlan;
        prop_assert!(problems.is_empty() || *vlan == PortVlan::Untagged);
        if let PortVlan::Trunk(trunk) = vlan {
            prop_assert!(!trunk.tagged.is_empty());
            let twice = trunk.untagged.and_then(|domain| VlanId::new(domain.number()));
            prop_assert!(twice.is_none_or(|vlan| !trunk.tagged.contains(vlan)));
        }
    }

    #[test]
    fn any_value_of_a_port_group_is_read_or_refused(
        key in "vlan|security|team|storm_control|isolated|host_adapter|team.active|security.preset|vlan.tagged|vlan.primary",
        value in "[0-9]{1,6}|-1|true|1.5|\"[a-z0-9-]{0,5}\"|\\[\\]|\\[[0-9]{1,4}\\]|\\{\\}|\\[\\[\\]\\]|\\{ [a-z]{1,4} = 1 \\}",
    ) {
        read(&format!("[network.x.port_group.g]\n{key} = {value}\n"));
    }
}

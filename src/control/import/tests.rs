//! Whole imports: what is written, what is reported, and that what is written can be run.

use proptest::prelude::*;

use super::*;

const NETWORKING: &str = "VERSION=1,0
answer VNET_1_DHCP yes
answer VNET_1_DHCP_CFG_HASH 5AD6C3A6F3CBEA2E
answer VNET_1_HOSTONLY_NETMASK 255.255.255.0
answer VNET_1_HOSTONLY_SUBNET 192.168.81.0
answer VNET_1_VIRTUAL_ADAPTER yes
answer VNET_8_DHCP yes
answer VNET_8_HOSTONLY_NETMASK 255.255.255.0
answer VNET_8_HOSTONLY_SUBNET 192.168.88.0
answer VNET_8_NAT yes
answer VNET_8_VIRTUAL_ADAPTER yes
add_nat_portfwd 8 tcp 8888 192.168.88.128 80
add_bridge_mapping eth0 0
";

const NAT: &str = "# VMware NAT configuration file

[host]
# NAT gateway address
ip = 192.168.88.2
netmask = 255.255.255.0
device = /dev/vmnet8
activeFTP = 1
natIp6Enable = 0
natIp6Prefix = fd15:4ba5:5a2b:1008::/64
allowAnyOUI = 1

[tcp]
timeWaitTimeout = 30

[udp]
timeout = 60

[dns]
policy = order
nameserver1 = 9.9.9.9
nameserver2 = 192.168.88.2

[incomingtcp]
8888 = 192.168.88.128:80
2222 = 192.168.88.10:22

[incomingudp]
69 = 192.168.88.10:69
";

const DHCP8: &str = "allow unknown-clients;
default-lease-time 1800;
max-lease-time 7200;
subnet 192.168.88.0 netmask 255.255.255.0 {
	range 192.168.88.128 192.168.88.254;
	option broadcast-address 192.168.88.255;
	option domain-name-servers 192.168.88.2;
	option domain-name localdomain;
	default-lease-time 1800;
	max-lease-time 7200;
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
# my own
host web1 {
	hardware ethernet 00:0c:29:12:34:56;
	fixed-address 192.168.88.10;
}
";

const DHCP1: &str = "allow unknown-clients;
subnet 192.168.81.0 netmask 255.255.255.0 {
	range 192.168.81.128 192.168.81.254;
	option broadcast-address 192.168.81.255;
	option domain-name-servers 192.168.81.1;
	option domain-name \"lab.example\";
	default-lease-time 3600;
}
host vmnet1 {
	hardware ethernet 00:50:56:C0:00:01;
	fixed-address 192.168.81.1;
}
";

/// Files by their paths.
fn files(files: &[(&str, &str)]) -> Vec<Input> {
    let input = |(path, text): &(&str, &str)| {
        let name = path.rsplit('/').next().unwrap();
        let kind = match name {
            "nat.conf" => Kind::Nat,
            "networking" => Kind::Networking,
            _ => Kind::Dhcp,
        };
        Input {
            name: (*path).to_owned(),
            network: path.split('/').find_map(dhcpd_conf::network_name),
            kind,
            text: (*text).to_owned(),
        }
    };
    files.iter().map(input).collect()
}

/// What would be written without its heading, and what is reported.
fn written(inputs: &[Input]) -> (String, Vec<String>) {
    let mut report = Report::default();
    let drafts = drafts(inputs, &mut report);
    assert!(report.makes_sense(), "{:#?}", report.mistakes());
    let text = write::write(&drafts, &[]);
    let (_, text) = text.split_once("\n\n").unwrap();
    (text.to_owned(), told(inputs, &report))
}

fn told(inputs: &[Input], report: &Report) -> Vec<String> {
    let notes = report.notes().into_iter();
    notes
        .map(|note| {
            format!(
                "{}:{}: {note}",
                inputs[note.place.file].name, note.place.line
            )
        })
        .collect()
}

/// What makes no sense in these files.
fn mistakes(inputs: &[Input]) -> Vec<String> {
    let mut report = Report::default();
    assert_eq!(import(inputs, &mut report), None);
    let mistakes = report.mistakes().into_iter();
    mistakes
        .map(|mistake| {
            let place = mistake
                .place
                .map(|place| format!("{}:{}: ", inputs[place.file].name, place.line));
            place.unwrap_or_default() + &mistake.text
        })
        .collect()
}

/// Whether a note begins with one of these, for each of them, and there are no others.
fn assert_told(told: &[String], expected: &[&str]) {
    let fits = told.len() == expected.len()
        && told
            .iter()
            .zip(expected)
            .all(|(told, begin)| told.starts_with(begin));
    assert!(fits, "{told:#?} are not {expected:#?}");
}

fn everything() -> Vec<Input> {
    files(&[
        ("networking", NETWORKING),
        ("vmnet1/dhcpd/dhcpd.conf", DHCP1),
        ("vmnet8/nat/nat.conf", NAT),
        ("vmnet8/dhcpd/dhcpd.conf", DHCP8),
    ])
}

#[test]
fn a_whole_host_becomes_three_networks() {
    let (text, told) = written(&everything());
    let expected = r#"[network.vmnet0]
mode = "bridged"
team.active = ["eth0"]

[network.vmnet1]
mode = "host-only"
subnet = "192.168.81.0/24" # the gateway is 192.168.81.254
host_adapter = "vmnet1" # the host takes part as 192.168.81.1, which needs some privilege

[network.vmnet1.dhcp]
lease = "1h"
dns = ["192.168.81.1"]
domain = "lab.example"

[network.vmnet8]
mode = "nat"
subnet = "192.168.88.0/24" # the gateway is 192.168.88.2
host_adapter = "vmnet8" # the host takes part as 192.168.88.1, which needs some privilege
ipv6 = false # as it was; without this line guests have IPv6 too

[network.vmnet8.nat]
outside = "host" # the daemon's own sockets: needs no privilege
udp_timeout = "1m"
ftp = true

[network.vmnet8.dns]
servers = ["9.9.9.9"]

[network.vmnet8.dhcp]
domain = "localdomain"

[[network.vmnet8.dhcp.reservation]]
mac = "00:0c:29:12:34:56"
ip = "192.168.88.10"
hostname = "web1"

[[network.vmnet8.forward]]
listen = "0.0.0.0:8888"
to = "192.168.88.128:80"

[[network.vmnet8.forward]]
listen = "0.0.0.0:2222"
to = "192.168.88.10:22"

[[network.vmnet8.forward]]
protocol = "udp"
listen = "0.0.0.0:69"
to = "192.168.88.10:69"
"#;
    assert_eq!(text, expected, "\n{text}");
    assert_told(
        &told,
        &[
            "networking:13: decide: eth0 bridged to vmnet0: vmlan owns its uplinks",
            "vmnet1/dhcpd/dhcpd.conf:3: different: range 192.168.81.128 192.168.81.254: 192.168.81.254 is the gateway's",
            "vmnet8/nat/nat.conf:11: ignored: [host] allowAnyOUI = 1: ",
            "vmnet8/nat/nat.conf:14: ignored: [tcp] timeWaitTimeout = 30: ",
            "vmnet8/nat/nat.conf:17: decide: [udp] timeout = 60: it is kept as udp_timeout",
            "vmnet8/nat/nat.conf:20: ignored: [dns] policy = order: ",
            "vmnet8/nat/nat.conf:22: ignored: [dns] nameserver 192.168.88.2: it is the gateway itself",
            "vmnet8/nat/nat.conf:29: decide: udp 69 = 192.168.88.10:69: ports below 1024",
            "vmnet8/dhcpd/dhcpd.conf:11: ignored: option netbios-name-servers: ",
        ],
    );
}

#[test]
fn what_is_written_passes_our_own_check() {
    let host_only = files(&[
        ("vmnet1/dhcpd/dhcpd.conf", DHCP1),
        ("networking", "add_bridge_mapping eth0 0\n"),
    ]);
    let mut report = Report::default();
    let imported = import(&host_only, &mut report);
    assert!(report.makes_sense(), "{:#?}", report.mistakes());
    assert_eq!(imported.unwrap().networks, 2);
    let imported = import(&everything(), &mut report);
    assert!(report.makes_sense(), "{:#?}", report.mistakes());
    assert_eq!(imported.unwrap().networks, 3);
}

#[test]
fn one_file_of_windows_has_several_networks() {
    let text = DHCP1.to_owned() + &DHCP8.replace("host vmnet8", "host VMnet8");
    let (text, _) = written(&files(&[("vmnetdhcp.conf", &text.replace('\n', "\r\n"))]));
    assert!(
        text.contains("[network.vmnet1]\nmode = \"host-only\"\nsubnet = \"192.168.81.0/24\""),
        "{text}"
    );
    assert!(
        text.contains("[network.vmnet8]\nmode = \"host-only\"\nsubnet = \"192.168.88.0/24\""),
        "{text}"
    );
    assert!(
        text.contains("[[network.vmnet8.dhcp.reservation]]\nmac"),
        "{text}"
    );
}

#[test]
fn a_network_is_known_by_its_path_its_device_or_its_subnet() {
    let (text, told) = written(&files(&[(
        "nat.conf",
        "[host]\nip = 10.8.0.2/24\ndevice = vmnet5\n",
    )]));
    assert!(
        text.starts_with("[network.vmnet5]\nmode = \"nat\"\nsubnet = \"10.8.0.0/24\""),
        "{text}"
    );
    assert_eq!(told, [""; 0]);
    let (text, told) = written(&files(&[
        (
            "vmnet3/nat.conf",
            "[host]\nip = 10.8.0.2\ndevice = /dev/vmnet5\n",
        ),
        (
            "dhcpd.conf",
            "subnet 10.8.0.0 netmask 255.255.255.0 { range 10.8.0.20 10.8.0.30; option routers 10.8.0.2; }\nhost a { hardware ethernet 00:0c:29:00:00:01; fixed-address 10.8.0.9; }",
        ),
    ]));
    assert!(
        text.contains("[network.vmnet3.dhcp]\npool = \"10.8.0.20-10.8.0.30\"\n"),
        "{text}"
    );
    assert!(text.contains("hostname = \"a\""), "{text}");
    assert_told(
        &told,
        &["vmnet3/nat.conf:3: different: [host] device = /dev/vmnet5: by its path"],
    );
    let (text, told) = written(&files(&[("nat.conf", "[host]\nip = 10.8.0.2\n")]));
    assert!(text.starts_with("[network.vmnet8]"), "{text}");
    assert_told(
        &told,
        &["nat.conf:1: decide: [host] device: neither its path nor a device"],
    );
}

#[test]
fn files_that_contradict_one_another_are_refused_with_all_that_is_wrong() {
    let told = mistakes(&files(&[
        (
            "networking",
            "answer VNET_8_HOSTONLY_SUBNET 192.168.88.0\nanswer VNET_8_NAT perhaps\n",
        ),
        (
            "vmnet8/nat/nat.conf",
            "[host]\nip = 192.168.99.2/24\n[udp]\ntimeout = x\n",
        ),
        ("other/vmnet8/nat.conf", "[host]\n"),
        ("dhcpd.conf", "subnet 10.0.0.0 netmask 255.0.0.0 { }\n}\n"),
        ("vmnet7/nat.conf", "[host]\n"),
    ]));
    assert_told(
        &told,
        &[
            "networking:2: \"answer VNET_8_NAT perhaps\" is neither yes nor no",
            "vmnet8/nat/nat.conf:2: vmnet8 has the subnet 192.168.99.0/24 here, and 192.168.88.0/24 elsewhere",
            "vmnet8/nat/nat.conf:4: [udp] timeout = x: is not a number of seconds",
            "other/vmnet8/nat.conf:1: vmnet8 has a nat.conf already",
            "dhcpd.conf:1: nothing says which network the subnet 10.0.0.0/8 is of",
            "dhcpd.conf:2: there is a } without its {",
            "vmnet7/nat.conf:1: nothing says which subnet vmnet7 has",
        ],
    );
}

#[test]
fn a_network_that_vmlan_cannot_have_keeps_nobody_from_the_others() {
    let (text, told) = written(&files(&[(
        "networking",
        "answer VNET_2_HOSTONLY_NETMASK 255.255.255.252\nanswer VNET_2_HOSTONLY_SUBNET 10.0.0.0\nanswer VNET_3_HOSTONLY_SUBNET 127.0.0.0\nanswer VNET_4_HOSTONLY_SUBNET 10.4.0.0\nanswer VNET_4_VIRTUAL_ADAPTER yes\nanswer VNET_5_HOSTONLY_SUBNET 10.4.0.0\nanswer VNET_5_VIRTUAL_ADAPTER yes\nadd_nat_portfwd 6 tcp 8080 10.6.0.9 80\n",
    )]));
    assert_told(
        &told,
        &[
            "networking:2: decide: vmnet2 with subnet 10.0.0.0/30: vmlan has subnets with prefixes of 8 to 29 bits",
            "networking:3: decide: vmnet3 with subnet 127.0.0.0/24: it has no addresses for machines",
            "networking:6: decide: vmnet5 with subnet 10.4.0.0/24: vmnet4 has 10.4.0.0/24",
            "networking:8: decide: vmnet6: nothing says which subnet it has",
        ],
    );
    assert_eq!(text.matches("host_adapter").count(), 1, "{text}");
    assert_eq!(text.matches("[network.").count(), 2, "{text}");
    assert_told(
        &mistakes(&files(&[("networking", "VERSION=1,0\n")])),
        &["nothing in these files describes a network"],
    );
}

#[test]
fn answers_decide_what_a_network_is() {
    let answers = "answer VNET_2_HOSTONLY_SUBNET 10.2.0.0\nanswer VNET_2_DHCP no\nanswer VNET_2_VIRTUAL_ADAPTER no\nanswer VNET_2_NAT no\nadd_nat_portfwd 2 tcp 80 10.2.0.9 80\nanswer VNET_3_DHCP no\nanswer VNET_4_NAT yes\nanswer VNET_4_HOSTONLY_SUBNET 10.4.0.0\n";
    let (text, told) = written(&files(&[
        ("networking", answers),
        (
            "vmnet2/nat.conf",
            "[host]\nip = 10.2.0.2\nhostIp = 10.2.0.1\n",
        ),
        (
            "vmnet2/dhcpd.conf",
            "subnet 10.2.0.0 netmask 255.255.255.0 { range 10.2.0.20 10.2.0.30; }",
        ),
    ]));
    assert_eq!(
        text,
        "[network.vmnet2]\nmode = \"host-only\"\nsubnet = \"10.2.0.0/24\" # the gateway is 10.2.0.254\ndhcp = false\n\n[network.vmnet4]\nmode = \"nat\"\nsubnet = \"10.4.0.0/24\" # the gateway is 10.4.0.2\n\n[network.vmnet4.nat]\noutside = \"host\" # the daemon's own sockets: needs no privilege\n"
    );
    assert_told(
        &told,
        &[
            "networking:5: ignored: tcp 80 = 10.2.0.9:80: vmnet2 has no NAT",
            "networking:6: decide: vmnet3: nothing says which subnet it has",
            "vmnet2/nat.conf:1: ignored: nat.conf of vmnet2: its NAT is turned off, on line 4",
            "vmnet2/dhcpd.conf:1: ignored: dhcpd.conf of 10.2.0.0/24: the answers say",
        ],
    );
}

#[test]
fn adapters_are_bridged_once_and_to_one_network() {
    let text = "add_bridge_mapping eth0 0\nadd_bridge_mapping eth0 0\nadd_bridge_mapping eth1 0\nadd_bridge_mapping eth1 2\nadd_bridge_mapping an-adapter-of-windows 3\nanswer VNET_0_HOSTONLY_SUBNET 10.0.0.0\n";
    let (text, told) = written(&files(&[("networking", text)]));
    assert_eq!(
        text,
        "[network.vmnet0]\nmode = \"bridged\"\nteam.active = [\"eth0\", \"eth1\"]\n"
    );
    assert_told(
        &told,
        &[
            "networking:1: decide: eth0 bridged to vmnet0: vmlan owns",
            "networking:1: decide: vmnet0 has several adapters: ",
            "networking:2: ignored: eth0 bridged to vmnet0: it is said twice",
            "networking:3: decide: eth1 bridged to vmnet0: vmlan owns",
            "networking:4: decide: eth1 bridged to vmnet2: the adapter is in another network",
            "networking:5: decide: an-adapter-of-windows bridged to vmnet3: ",
            "networking:6: ignored: subnet 10.0.0.0/24: vmnet0 is bridged",
        ],
    );
}

#[test]
fn another_plan_of_addresses_becomes_ours() {
    let (text, told) = written(&files(&[
        (
            "vmnet8/nat.conf",
            "[host]\nip = 10.8.0.254/24\nhostIp = 10.8.0.3\n[incomingtcp]\n80 = 10.8.0.2:80\n8080 = 10.9.0.2:80\n",
        ),
        (
            "vmnet8/dhcpd.conf",
            "subnet 10.8.0.0 netmask 255.255.255.0 {\n range 10.8.0.1 10.8.0.99;\n range 10.8.0.150 10.8.0.160;\n option routers 10.8.0.254, 10.8.0.7;\n option domain-name-servers 10.8.0.254;\n}\nhost vmnet8 {\n fixed-address 10.8.0.3;\n}\n",
        ),
    ]));
    assert!(
        text.contains("pool = \"10.8.0.3-10.8.0.99\"\nrouter = [\"10.8.0.2\", \"10.8.0.7\"]\n"),
        "{text}"
    );
    assert!(!text.contains("dns ="), "{text}");
    assert_told(
        &told,
        &[
            "vmnet8/nat.conf:2: different: [host] ip = 10.8.0.254: vmlan's gateway is 10.8.0.2",
            "vmnet8/nat.conf:3: different: [host] hostIp = 10.8.0.3: vmlan's host adapter is 10.8.0.1",
            "vmnet8/nat.conf:5: decide: tcp 80 = 10.8.0.2:80: 10.8.0.2 is the address of vmlan's gateway",
            "vmnet8/nat.conf:6: decide: tcp 8080 = 10.9.0.2:80: 10.9.0.2 is not in the subnet",
            "vmnet8/dhcpd.conf:2: different: range 10.8.0.1 10.8.0.99: 10.8.0.2 is the gateway's, 10.8.0.1 the host adapter's",
            "vmnet8/dhcpd.conf:3: decide: range 10.8.0.150 10.8.0.160: vmlan has one pool",
            "vmnet8/dhcpd.conf:8: different: host vmnet8: fixed-address 10.8.0.3: vmlan's host adapter",
        ],
    );
}

#[test]
fn ports_are_forwarded_once() {
    let nat = |net: u8| {
        format!(
            "[host]\nip = 10.{net}.0.2\n[incomingtcp]\n8080 = 10.{net}.0.9:80\n8080 = 10.{net}.0.9:80\n8080 = 10.{net}.0.9:81\n"
        )
    };
    let (text, told) = written(&files(&[
        ("vmnet8/nat.conf", &nat(8)),
        ("vmnet9/nat.conf", &nat(9)),
    ]));
    assert_eq!(text.matches("forward").count(), 1, "{text}");
    assert_told(
        &told,
        &[
            "vmnet8/nat.conf:6: decide: tcp 8080 = 10.8.0.9:81: the port is forwarded already, to 10.8.0.9:80",
            "vmnet9/nat.conf:4: decide: tcp 8080 = 10.9.0.9:80: the port is forwarded already",
            "vmnet9/nat.conf:5: decide: tcp 8080 = 10.9.0.9:80: the port is forwarded already",
            "vmnet9/nat.conf:6: decide: tcp 8080 = 10.9.0.9:81: the port is forwarded already",
        ],
    );
}

#[test]
fn idle_udp_is_forgotten_here_some_day() {
    let of = |seconds: &str| {
        let text = format!("[host]\nip = 10.8.0.2\n[udp]\ntimeout = {seconds}\n");
        let (text, told) = written(&files(&[("vmnet8/nat.conf", &text)]));
        let (_, timeout) = text.split_once("udp_timeout = ").unwrap();
        let fate = told
            .first()
            .map(|told| told.split(": ").nth(1).unwrap().to_owned());
        (timeout.trim_end().to_owned(), fate)
    };
    let told = |timeout: &str, fate: &str| (timeout.to_owned(), Some(fate.to_owned()));
    assert_eq!(of("0"), told("\"1d\"", "different"));
    assert_eq!(of("1"), told("\"10s\"", "different"));
    assert_eq!(of("60"), told("\"1m\"", "decide"));
    assert_eq!(of("300"), ("\"5m\"".to_owned(), None));
    assert_eq!(of("18446744073709551615"), told("\"1d\"", "different"));
}

#[test]
fn name_servers_and_ipv6_of_a_nat_are_carried_over() {
    let of = |rest: &str| {
        written(&files(&[(
            "vmnet8/nat.conf",
            &format!("[host]\nip = 10.8.0.2\n{rest}"),
        )]))
    };
    let (text, told) = of(
        "natIp6Enable = 1\nnatIp6Prefix = fd00:8::/64\n[dns]\nautodetect = 1\nnameserver1 = 9.9.9.9\n",
    );
    assert!(
        text.contains("[network.vmnet8.ipv6]\nprefix = \"fd00:8::/64\"\n"),
        "{text}"
    );
    assert_told(
        &told,
        &["vmnet8/nat.conf:6: different: [dns] autodetect = 1: "],
    );
    let (text, told) = of(
        "natIp6Enable = 1\nnatIp6Prefix = fe80::/64\n[dns]\nautodetect = 0\nnameserver1 = 0.0.0.0\n",
    );
    assert!(!text.contains("ipv6") && !text.contains("dns"), "{text}");
    assert_told(
        &told,
        &[
            "vmnet8/nat.conf:4: decide: [host] natIp6Prefix = fe80::/64: ",
            "vmnet8/nat.conf:6: decide: [dns] autodetect = 0: no server is named",
            "vmnet8/nat.conf:7: ignored: [dns] nameserver 0.0.0.0: ",
        ],
    );
    let (text, told) = of("natIp6Prefix = fd00:8::/64\n");
    assert!(text.contains("ipv6 = false"), "{text}");
    assert_told(&told, &["vmnet8/nat.conf:3: ignored: [host] natIp6Prefix"]);
}

#[test]
fn leases_and_options_are_carried_over_as_far_as_they_fit() {
    let dhcp = "subnet 10.1.0.0 netmask 255.255.0.0 {
 range 10.1.0.50 10.1.0.99;
 range 10.1.0.100 10.1.0.120;
 default-lease-time 60;
 max-lease-time 600;
 option routers 10.1.0.9, 10.2.0.1;
 option ntp-servers 10.1.0.5;
 option domain-name bad_name;
 option domain-search \"a.example\", \"b.example\";
 option interface-mtu 9000;
 option netbios-name-servers 10.1.0.7;
 option broadcast-address 10.1.0.255;
 next-server 10.1.0.6;
 filename \"boot/pxe.0\";
 option tftp-server-name \"tftp\";
}
";
    let inputs = files(&[("vmnet2/dhcpd.conf", dhcp)]);
    let (text, told) = written(&inputs);
    let expected = r#"[network.vmnet2.dhcp]
pool = "10.1.0.50-10.1.0.120"
lease = "2m"
max_lease = "10m"
router = ["10.1.0.9"]
ntp = ["10.1.0.5"]
search = ["a.example", "b.example"]
next_server = "10.1.0.6"
tftp_server = "tftp"
boot_file = "boot/pxe.0"
options.44 = ["10.1.0.7"]
"#;
    assert!(text.ends_with(expected), "{text}");
    assert_told(
        &told,
        &[
            "vmnet2/dhcpd.conf:4: different: default-lease-time 60: ",
            "vmnet2/dhcpd.conf:6: decide: option routers 10.2.0.1: ",
            "vmnet2/dhcpd.conf:6: decide: option routers: clients are told of a router",
            "vmnet2/dhcpd.conf:8: decide: option domain-name \"bad_name\": ",
            "vmnet2/dhcpd.conf:10: decide: option interface-mtu 9000: ",
            "vmnet2/dhcpd.conf:12: different: option broadcast-address 10.1.0.255: ",
        ],
    );
    let mut report = Report::default();
    assert!(import(&inputs, &mut report).is_some(), "{report:#?}");
}

#[test]
fn a_lease_is_no_longer_than_the_longest() {
    let of = |lease: &str, max: &str| {
        let text = format!(
            "default-lease-time {lease};\nmax-lease-time {max};\nsubnet 10.1.0.0 netmask 255.255.0.0 {{ range 10.1.128.0 10.1.255.253; }}\n"
        );
        let inputs = files(&[("vmnet2/dhcpd.conf", &text)]);
        assert!(import(&inputs, &mut Report::default()).is_some());
        let (text, told) = written(&inputs);
        let dhcp = text.split_once(".dhcp]\n").map_or("", |(_, dhcp)| dhcp);
        (dhcp.to_owned(), told.len())
    };
    assert_eq!(of("1800", "7200"), (String::new(), 0));
    assert_eq!(
        of("7200", "3600"),
        ("lease = \"1h\"\nmax_lease = \"1h\"\n".to_owned(), 1)
    );
    assert_eq!(of("86400", "86400"), ("lease = \"1d\"\n".to_owned(), 0));
    let most = u64::MAX.to_string();
    assert_eq!(of(&most, &most), ("lease = \"365d\"\n".to_owned(), 2));
}

#[test]
fn reservations_of_fusion_are_carried_over_once() {
    let answers = "answer VNET_8_HOSTONLY_SUBNET 10.0.0.0\nadd_dhcp_mac_to_ip 8 00:0C:29:00:00:01 10.0.0.8\nadd_dhcp_mac_to_ip 8 00:0C:29:00:00:02 10.0.0.9\n";
    let dhcp = "subnet 10.0.0.0 netmask 255.255.255.0 { range 10.0.0.128 10.0.0.253; }\nhost one { hardware ethernet 00:0c:29:00:00:01; fixed-address 10.0.0.8; }\n";
    let (text, told) = written(&files(&[
        ("networking", answers),
        ("vmnet8/dhcpd.conf", dhcp),
    ]));
    assert_told(&told, &[]);
    let ends = "hostname = \"one\"\n\n[[network.vmnet8.dhcp.reservation]]\nmac = \"00:0c:29:00:00:02\"\nip = \"10.0.0.9\"\n";
    assert!(text.ends_with(ends), "{text}");
    assert_eq!(text.matches(".reservation]]").count(), 2, "{text}");
}

#[test]
fn reservations_that_cannot_be_are_told() {
    let dhcp = "subnet 10.1.0.0 netmask 255.255.255.0 { }
host a { hardware ethernet 00:0c:29:00:00:01; fixed-address 10.1.0.9, 10.1.0.10; option host-name \"alpha\"; }
host b { hardware ethernet 00:0c:29:00:00:01; fixed-address 10.1.0.11; }
host c { hardware ethernet 00:0c:29:00:00:02; fixed-address 10.1.0.9; }
host d { hardware ethernet 00:0c:29:00:00:03; fixed-address 10.1.0.254; }
host e { hardware ethernet 01:0c:29:00:00:03; fixed-address 10.1.0.12; }
host f { hardware ethernet 00:0c:29:00:00:04; }
host g { fixed-address 10.1.0.13; }
host h_ { hardware ethernet 00:0c:29:00:00:05; fixed-address 10.9.0.1; }
host i_ { hardware ethernet 00:0c:29:00:00:06; fixed-address 10.1.0.14; }
";
    let inputs = files(&[("vmnet2/dhcpd.conf", dhcp)]);
    let (text, told) = written(&inputs);
    assert_eq!(text.matches("[[").count(), 2, "{text}");
    assert!(
        text.contains("ip = \"10.1.0.9\"\nhostname = \"alpha\"\n"),
        "{text}"
    );
    assert!(text.ends_with("ip = \"10.1.0.14\"\n"), "{text}");
    assert_told(
        &told,
        &[
            "vmnet2/dhcpd.conf:1: different: subnet 10.1.0.0/24: there is no range",
            "vmnet2/dhcpd.conf:2: different: host a: a reservation is for one address: 10.1.0.9",
            "vmnet2/dhcpd.conf:3: decide: host b: 00:0c:29:00:00:01 has a reservation already",
            "vmnet2/dhcpd.conf:4: decide: host c: 10.1.0.9 is reserved already",
            "vmnet2/dhcpd.conf:5: decide: host d: 10.1.0.254 is the address of vmlan's gateway",
            "vmnet2/dhcpd.conf:6: decide: host e: 01:0c:29:00:00:03 is not the address of one station",
            "vmnet2/dhcpd.conf:7: ignored: host f: it has no address",
            "vmnet2/dhcpd.conf:8: decide: host g: a reservation is for a hardware address",
            "vmnet2/dhcpd.conf:9: decide: host h_: 10.9.0.1 is not in the subnet",
        ],
    );
    assert!(import(&inputs, &mut Report::default()).is_some());
}

#[test]
fn a_pool_is_the_largest_part_that_is_free() {
    let of = |ranges: &str| {
        let text = format!("subnet 10.0.0.0 netmask 255.0.0.0 {{ {ranges} }}\n");
        let inputs = files(&[("vmnet2/dhcpd.conf", &text)]);
        let (text, told) = written(&inputs);
        assert!(import(&inputs, &mut Report::default()).is_some(), "{text}");
        let pool = text
            .split_once("pool = \"")
            .map(|(_, pool)| pool.split('"').next().unwrap().to_owned());
        (pool, told.len())
    };
    let pool = |text: &str| Some(text.to_owned());
    assert_eq!(
        of("range 10.0.0.0 10.255.255.255;"),
        (pool("10.0.0.1-10.1.0.0"), 1)
    );
    assert_eq!(of("range 10.255.255.254;"), (None, 1));
    assert_eq!(
        of("range 10.0.0.9; range 10.0.0.5 10.0.0.8;"),
        (pool("10.0.0.5-10.0.0.9"), 0)
    );
    assert_eq!(
        of("range 10.0.0.9; range 10.0.0.5 10.0.0.6;"),
        (pool("10.0.0.5-10.0.0.6"), 1)
    );
}

#[test]
fn more_than_a_network_can_have_is_left_out() {
    let forwards: String = (2000..5000)
        .map(|port| format!("{port} = 10.0.0.9:80\n"))
        .collect();
    let nat = format!("[host]\nip = 10.0.0.2/24\n[incomingtcp]\n{forwards}[incomingudp]\n");
    let answers: String = (2000..5000)
        .map(|port| format!("add_nat_portfwd 8 udp {port} 10.0.0.9 80\n"))
        .collect();
    let domains: Vec<_> = (0..100).map(|host| format!("a{host}.example")).collect();
    let dhcp = format!(
        "subnet 10.0.0.0 netmask 255.255.255.0 {{ range 10.0.0.128 10.0.0.254; option routers 10.0.0.2; option domain-search {}; }}",
        domains.join(", ")
    );
    let inputs = files(&[
        ("networking", &answers),
        ("vmnet8/nat.conf", &nat),
        ("vmnet8/dhcpd.conf", &dhcp),
    ]);
    let (_, told) = written(&inputs);
    assert_told(
        &told,
        &[
            "vmnet8/dhcpd.conf:1: decide: forwards of vmnet8: a network has at most 4096",
            "vmnet8/dhcpd.conf:1: decide: option domain-search: an option has 1024 bytes",
        ],
    );
    assert!(import(&inputs, &mut Report::default()).is_some());
}

/// Texts that are nearly files.
fn nearly(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let word = proptest::sample::select(words);
    proptest::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

const STATEMENTS: &[&str] = &[
    "subnet 10.0.0.0 netmask 255.255.255.0 {\n",
    "subnet 10.0.0.0 netmask 255.255.255.248 {\n",
    "subnet 10.8.0.0 netmask 255.255.0.0 { range 10.8.0.0 10.8.255.255; }\n",
    "host a { hardware ethernet 00:0c:29:00:00:01; fixed-address 10.0.0.5; }\n",
    "host vmnet8 { fixed-address 10.0.0.1; }\n",
    "host \u{1b}\"x { hardware ethernet 01:00:00:00:00:01; fixed-address 10.0.0.255; }\n",
    "range 10.0.0.0 10.0.0.255;\n",
    "range 10.0.0.1 10.0.0.2;\n",
    "option routers 10.0.0.9, 10.9.9.9, 0.0.0.0;\n",
    "option domain-name \"a\\\";\n",
    "option domain-search a, b.c, \"-\";\n",
    "option netbios-name-servers 10.0.0.2, 10.0.0.7;\n",
    "option interface-mtu 1400;\n",
    "default-lease-time 1;\n",
    "max-lease-time 99999999999;\n",
    "filename \"\u{7f}\";\n",
    "}\n",
    "}\n",
];

const ANSWERS: &[&str] = &[
    "answer VNET_8_DHCP yes\n",
    "answer VNET_8_DHCP no\n",
    "answer VNET_8_NAT no\n",
    "answer VNET_9_NAT yes\n",
    "answer VNET_8_HOSTONLY_SUBNET 10.0.0.0\n",
    "answer VNET_9_HOSTONLY_SUBNET 10.0.0.0\n",
    "answer VNET_9_HOSTONLY_NETMASK 255.0.0.0\n",
    "answer VNET_9_HOSTONLY_NETMASK 255.255.255.255\n",
    "answer VNET_8_VIRTUAL_ADAPTER yes\n",
    "answer VNET_9_VIRTUAL_ADAPTER yes\n",
    "add_nat_portfwd 8 tcp 80 10.0.0.5 80\n",
    "add_nat_portfwd 9 tcp 80 10.0.0.6 80\n",
    "add_nat_portfwd 9 udp 80 10.0.0.2 80\n",
    "remove_nat_portfwd 9 udp 80\n",
    "add_bridge_mapping eth0 0\n",
    "add_bridge_mapping vmnet8 7\n",
    "add_bridge_mapping a/b 6\n",
    "add_dhcp_mac_to_ip 8 00:0c:29:00:00:01 10.0.0.6\n",
    "add_dhcp_mac_to_ip 9 00:0c:29:00:00:01 10.0.0.6\n",
];

proptest! {
    #[test]
    fn what_makes_sense_line_by_line_is_never_refused_as_a_whole(
        dhcp in nearly(STATEMENTS), answers in nearly(ANSWERS), named in any::<bool>()
    ) {
        let path = if named { "vmnet8/dhcpd.conf" } else { "dhcpd.conf" };
        let mut report = Report::default();
        import(&files(&[("networking", &answers), (path, &dhcp)]), &mut report);
        for mistake in report.mistakes() {
            prop_assert!(!mistake.text.starts_with("vmlan cannot have"), "{mistake:?}\n{answers}\n{dhcp}");
        }
    }

    #[test]
    fn whatever_is_imported_passes_our_own_check(
        ip in "10\\.[0-2]\\.0\\.[0-9]{1,2}",
        prefix in 8_u8..=29,
        lines in proptest::collection::vec("(ip = 10\\.0\\.0\\.[0-9]/24|hostIp = 10\\.0\\.0\\.1|natIp6Enable = [01]|natIp6Prefix = f[cde]00:[0-9]::/6[45]|activeFTP = [01]|colour = red)", 0..4),
        ports in proptest::collection::vec((1_u16..9, 0_u8..=255), 0..6),
        timeout in 0_u32..100_000,
        ranges in proptest::collection::vec((0_u8..=255, 0_u8..=255), 0..4),
        times in (0_u32..100_000, 0_u32..100_000),
        hosts in proptest::collection::vec((0_u8..4, 0_u8..=255, "[a-z_-]{1,3}"), 0..6),
        text in "\\PC{0,6}",
    ) {
        let nat = format!(
            "[host]\nip = {ip}/{prefix}\n{}\n[udp]\ntimeout = {timeout}\n[incomingtcp]\n{}",
            lines.join("\n"),
            ports.iter().map(|(port, to)| format!("{port} = 10.0.0.{to}:80\n")).collect::<String>()
        );
        let dhcp = format!(
            "default-lease-time {};\nmax-lease-time {};\nsubnet 10.0.0.0 netmask 255.255.255.0 {{\n{}option domain-name {text:?};\n}}\n{}",
            times.0,
            times.1,
            ranges.iter().map(|(a, b)| format!("range 10.0.0.{} 10.0.0.{};\n", a.min(b), a.max(b))).collect::<String>(),
            hosts.iter().map(|(mac, ip, name)| format!("host {name} {{ hardware ethernet 00:0c:29:00:00:0{mac}; fixed-address 10.0.0.{ip}; }}\n")).collect::<String>()
        );
        let alone = files(&[("vmnet1/dhcpd.conf", &dhcp)]);
        let mut report = Report::default();
        let imported = import(&alone, &mut report);
        // What is between quotation marks may hold one itself.
        prop_assert!(imported.is_some() || text.contains(['"', '\\']) || text.chars().any(char::is_control), "{:#?}\n{}", report.mistakes(), dhcp);
        for inputs in [files(&[("vmnet8/nat.conf", &nat)]), files(&[("vmnet8/nat.conf", &nat), ("vmnet8/dhcpd.conf", &dhcp)])] {
            let mut report = Report::default();
            let imported = import(&inputs, &mut report);
            let refused = report.mistakes().iter().any(|one| one.text.starts_with("vmlan cannot have"));
            prop_assert!(!refused, "{:#?}\n{}{}", report.mistakes(), nat, dhcp);
            prop_assert_eq!(imported.is_some(), report.makes_sense());
        }
    }

    #[test]
    fn no_text_is_too_odd(texts in proptest::collection::vec("(\\[host\\]\n|ip = 1.2.3.4\n|answer VNET_8_NAT yes\n|subnet 1.2.3.0 netmask 255.255.255.0 \\{|\\}|host vmnet8 \\{|[a-z0-9;.= \"#\n]|\\PC){0,30}", 3)) {
        let inputs = files(&[("nat.conf", &texts[0]), ("dhcpd.conf", &texts[1]), ("networking", &texts[2])]);
        let mut report = Report::default();
        prop_assert_eq!(import(&inputs, &mut report).is_some(), report.makes_sense());
    }
}

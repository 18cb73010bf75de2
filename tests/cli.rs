//! The binary as people use it: what it prints, its exit codes, and the daemon from start to end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// What a command left behind.
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn vmlan() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("vmlan"));
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command
}

fn run(args: &[&str]) -> Outcome {
    let output = vmlan().args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn json(args: &[&str]) -> Value {
    let outcome = run(args);
    assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// A configuration with directories of its own.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new(networks: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (runtime, state) = (dir.path().join("run"), dir.path().join("state"));
        let daemon = format!("[daemon]\nruntime_dir = {runtime:?}\nstate_dir = {state:?}\n");
        std::fs::write(dir.path().join("vmlan.toml"), daemon + networks).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> String {
        self.path("vmlan.toml").display().to_string()
    }

    /// Starts a daemon, and returns it with what it printed once it is ready.
    fn start(&self, args: &[&str]) -> (Daemon, Vec<String>) {
        let config = self.config();
        let command = vmlan()
            .args(["run", "--config", &config])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut daemon = Daemon(command.unwrap());
        let mut lines = Vec::new();
        for line in BufReader::new(daemon.0.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if line == "ready" {
                return (daemon, lines);
            }
            lines.push(line);
        }
        panic!(
            "the daemon ended with {:?} before it was ready",
            daemon.0.wait()
        );
    }
}

/// A daemon that does not outlive its test.
struct Daemon(Child);

impl Daemon {
    fn stop(mut self, signal: &str) -> ExitStatus {
        let sent = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        self.0.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const LAB: &str =
    "[network.lab]\nmode = \"isolated\"\nsubnet = \"10.9.0.0/24\"\n[vm.web1]\nnetwork = \"lab\"\n";

#[test]
fn check_reports_every_problem_at_once() {
    let outcome = run(&["check", "--offline", "tests/configs/wrong.toml"]);
    let expected = r#"
tests/configs/wrong.toml:3: daemon.worker: is not a key that vmlan knows; did you mean "workers"?
tests/configs/wrong.toml:6: network.vmnet0.mode: "bridge" is not one of "host-only", "nat", "bridged", "isolated"; did you mean "bridged"?
tests/configs/wrong.toml:8: network.vmnet1.subnet: is missing: a host-only network needs one, as in subnet = "192.168.81.0/24"
tests/configs/wrong.toml:10: network.vmnet1.subnt: is not a key that vmlan knows; did you mean "subnet"?
tests/configs/wrong.toml:11: network.vmnet1.mtu: 100 is not between 1280 and 9000
tests/configs/wrong.toml:15: network.vmnet8.subnet: "192.168.88.5/24" is an address within a subnet; write the subnet itself, 192.168.88.0/24
tests/configs/wrong.toml:21: network.lab.dhcp.pool: 10.9.1.1-10.9.1.9 is not within the subnet 10.9.0.0/24; use 10.9.0.128-10.9.0.253
tests/configs/wrong.toml:22: network.lab.dhcp.lease: "1 hour" is not a duration: write a number and s, m, h or d, as in "30m"
tests/configs/wrong.toml:24: network.lab.dhcp.reservation[0].vm: there is no VM "wbe1"; did you mean "web1"?
tests/configs/wrong.toml:25: network.lab.dhcp.reservation[0].ip: 10.9.1.10 is not in the subnet 10.9.0.0/24
tests/configs/wrong.toml:28: vm.web1.network: there is no network "labb"; did you mean "lab"?
tests/configs/wrong.toml:29: vm.web1.mac: "52:54:00:12:34" is not a MAC address: write six pairs of hexadecimal digits, as in 52:54:00:12:34:56
tests/configs/wrong.toml:34: network.lan.host_adaptor: is not a key that vmlan knows; did you mean "host_adapter"?
tests/configs/wrong.toml:36: network.lan.team.activeNic[1]: "eth1" is taken already, by network.lan.team.activeNic[0]
tests/configs/wrong.toml:38: network.lan.team.load_balancing: "iphsh" is not one of "port-id", "source-mac", "ip-hash", "explicit", "load-based", "lacp"; did you mean "iphash"?
tests/configs/wrong.toml:39: network.lan.team.failback: must be true or false, not a string
tests/configs/wrong.toml:41: network.lan.port_group.prod.vlan[1]: VLAN 25 is listed already, in "20-29"
tests/configs/wrong.toml:43: network.lan.port_group.prod.security.promiscuous: must be true or "accept", false or "reject", not "yes"
tests/configs/wrong.toml:45: network.lan.port_group.prod.team.standby[0]: "eth9" is not an uplink of network "lan"; did you mean "eth1"?
tests/configs/wrong.toml:52: network.net.nat.outside: network "vmnet1" is host-only, and a NAT leads to a bridged one; there is "lan"
tests/configs/wrong.toml:53: network.net.nat.udp_timeout: 1s is not between 10s and 1d
tests/configs/wrong.toml:55: network.net.ipv6.prefix: "fd00::/48" must have 64 bits, as guests make their addresses in it
tests/configs/wrong.toml:57: network.net.dns.servers[0]: "quad9" is not a name server: write its address, as in "9.9.9.9", "9.9.9.9:5353" or "[2620:fe::fe]:53"
tests/configs/wrong.toml:60: network.net.forward[0].to: there is no VM "app"; did you mean "app1"?
tests/configs/wrong.toml:62: network.net.forward[1].listen: tcp 127.0.0.1:2222 is taken already, by network.net.forward[0].listen
tests/configs/wrong.toml:63: network.net.forward[1].to: 192.168.91.10 is not in the subnet 192.168.90.0/24
26 problems in tests/configs/wrong.toml
"#;
    assert_eq!(
        outcome.stdout,
        expected.trim_start(),
        "\n{}",
        outcome.stdout
    );
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(1), ""));
}

#[test]
fn check_accepts_every_key_and_tells_of_adapters_that_are_elsewhere_unless_offline() {
    for file in ["tests/configs/full.toml", "tests/configs/three-teams.toml"] {
        let report = json(&["check", file, "--offline", "--json"]);
        assert_eq!(report["problems"], serde_json::json!([]), "{file}");
        assert_eq!(report["warnings"], serde_json::json!([]), "{file}");
    }
    let site = Site::new(
        "[uplink.nowhere1]\noptional = true\n[network.lan]\nmode = \"bridged\"\n[network.lan.team]\nactive = [\"nowhere0\"]\nstandby = [\"nowhere1\"]\nunused = [\"no-where.2\"]\n",
    );
    let config = site.config();
    let outcome = run(&["check", &config]);
    let expected = format!(
        "{config}:9: network.lan.team.active[0]: this machine has no network adapter named \"nowhere0\"; write optional = true in [uplink.nowhere0] if it comes later\n\
         {config}:11: network.lan.team.unused[0]: this machine has no network adapter named \"no-where.2\"; write optional = true in [uplink.\"no-where.2\"] if it comes later\n\
         2 problems in {config}\n"
    );
    assert_eq!((outcome.code, outcome.stdout), (Some(1), expected));
    assert_eq!(run(&["check", "--offline", &config]).code, Some(0));
    assert_eq!(run(&["check"]).code, Some(0));
}

#[test]
fn a_mistake_of_syntax_has_a_line_and_a_column() {
    let site = Site::new("[network.lab]\nmode = isolated\n");
    let outcome = run(&["check", &site.config()]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome
            .stdout
            .starts_with(&format!("{}:5: column 8: ", site.config())),
        "{}",
        outcome.stdout
    );
}

#[test]
fn exit_codes_tell_a_wrong_request_from_wrong_usage_and_from_no_daemon() {
    let site = Site::new(LAB);
    let socket = site.path("run/vmlan.sock").display().to_string();
    for args in [
        vec!["status", "--socket", &socket],
        vec!["leases", "--config", &site.config(), "--json"],
    ] {
        let outcome = run(&args);
        assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
        assert!(
            outcome.stderr.contains(&socket) && outcome.stderr.contains("`vmlan run`"),
            "{}",
            outcome.stderr
        );
    }
    assert_eq!(run(&["status", "--colour"]).code, Some(2));
    assert_eq!(run(&[]).code, Some(2));
    let missing = run(&["check", "/nowhere/vmlan.toml"]);
    assert_eq!(missing.code, Some(1));
    assert!(
        missing
            .stderr
            .starts_with("vmlan: cannot read the configuration file /nowhere/vmlan.toml: "),
        "{}",
        missing.stderr
    );
    let unknown = run(&["args", "wbe1", "--config", &site.config()]);
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.stderr.ends_with("did you mean \"web1\"?\n"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn args_are_what_each_vmm_takes() {
    let args = |vm: &str, vmm: &str| {
        run(&[
            "args",
            vm,
            "--vmm",
            vmm,
            "--config",
            "tests/configs/full.toml",
        ])
        .stdout
    };
    assert_eq!(
        args("web1", "qemu"),
        "-m 1G -object memory-backend-memfd,id=mem0,size=1G,share=on -machine memory-backend=mem0 \
         -chardev socket,id=vmlan-web1,path=/run/vmlan/web1.sock,reconnect=1 \
         -netdev vhost-user,id=net-web1,chardev=vmlan-web1,queues=1 \
         -device virtio-net-pci,netdev=net-web1,mac=52:54:00:12:34:56\n"
    );
    assert_eq!(
        args("web1", "cloud-hypervisor"),
        "--memory size=1G,shared=on --net vhost_user=true,socket=/run/vmlan/web1.sock,mac=52:54:00:12:34:56,vhost_mode=client\n"
    );
    assert!(args("db", "qemu").contains("path=/run/vmlan/database.sock,server=on,wait=off "));
    assert!(args("db", "cloud-hypervisor").contains(",vhost_mode=server"));
    let element = args("web1", "libvirt");
    for part in [
        "<interface type='vhostuser'>",
        "<mac address='52:54:00:12:34:56'/>",
        "path='/run/vmlan/web1.sock' mode='client'",
        "<model type='virtio'/>",
    ] {
        assert!(element.contains(part), "{part} is missing in {element}");
    }
    let assumed = "note: no --config: these are for a daemon that was run with --vm guest\n";
    assert!(run(&["args", "guest"]).stderr.contains(assumed));
    for args in [
        ["args", "guest", "--vm", "guest"],
        ["args", "web1", "--config", "tests/configs/full.toml"],
    ] {
        assert!(!run(&args).stderr.contains("no --config"));
    }
    assert_eq!(
        json(&["args", "guest", "--json"])["vm"],
        "guest",
        "without a file, any name is a guest's"
    );
}

#[test]
fn completions_and_the_manual_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).stdout.contains("vmlan"));
    }
    assert!(run(&["man"]).stdout.contains(".TH vmlan 1"));
}

#[test]
fn a_daemon_starts_shows_itself_and_leaves_nothing_but_its_state() {
    let site = Site::new(LAB);
    let before = json(&["args", "web1", "--config", &site.config(), "--json"]);
    let (daemon, printed) = site.start(&["--vm", "extra=lab"]);
    let web1 = site.path("run/web1.sock").display().to_string();
    assert!(
        printed.contains(&format!("web1 (lab) listens on {web1}")),
        "{printed:?}"
    );
    assert!(
        printed.iter().any(|line| line.contains("id=vmlan-extra,")),
        "{printed:?}"
    );
    let control = std::fs::metadata(site.path("run/vmlan.sock")).unwrap();
    assert!(control.file_type().is_socket());
    assert_eq!(control.permissions().mode() & 0o777, 0o660);

    let status = json(&["status", "--config", &site.config(), "--json"]);
    assert_eq!(status["networks"][0]["name"], "lab");
    assert_eq!(status["networks"][0]["subnet"], "10.9.0.0/24");
    let ports = status["ports"].as_array().unwrap();
    let guest = ports.iter().find(|port| port["name"] == "web1").unwrap();
    assert_eq!(
        (&guest["kind"], &guest["state"], &guest["queues"]),
        (&"guest".into(), &"waiting".into(), &1.into())
    );
    assert_eq!(
        (&guest["socket"], &guest["mac"]),
        (&before["socket"], &before["mac"])
    );
    for command in [
        "status", "ports", "fdb", "leases", "teams", "groups", "topology", "nat",
    ] {
        assert_eq!(
            run(&[command, "--config", &site.config()]).code,
            Some(0),
            "{command}"
        );
        json(&[command, "--config", &site.config(), "--json"]);
    }
    assert_eq!(
        run(&["leases", "--format", "dnsmasq", "--config", &site.config()]).stdout,
        ""
    );

    let config = site.config();
    for format in ["text", "dot", "svg"] {
        let drawn = run(&["topology", "lab", "--format", format, "--config", &config]);
        assert!(drawn.stdout.contains("web1"), "{}", drawn.stdout);
    }
    let unknown = run(&["topology", "lob", "--config", &config]);
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown.stderr.contains("did you mean \"lab\"?"),
        "{}",
        unknown.stderr
    );
    for (args, reason) in [
        (["add", "lab", "lo"], "it is not an Ethernet adapter"),
        (["add", "lab", "nowhere0"], "no network adapter named"),
        (["add", "lab", "web1"], "a guest port has this name already"),
        (
            ["add", "lab", "a/b"],
            "cannot be the name of a network adapter",
        ),
        (["remove", "lob", "eth1"], "did you mean \"lab\"?"),
        (["remove", "lab", "eth1"], "there are none"),
    ] {
        let outcome = run(&[&["uplink"][..], &args, &["--config", &config]].concat());
        assert_eq!(outcome.code, Some(1), "{args:?}: {}", outcome.stdout);
        let refusal = format!("cannot {} uplink {:?} ", args[0], args[2]);
        let told = outcome.stderr.contains(&refusal) && outcome.stderr.contains(reason);
        assert!(
            told || outcome.stderr.contains("permission denied"),
            "{}",
            outcome.stderr
        );
    }

    assert_eq!(daemon.stop("-TERM").code(), Some(0));
    assert!(
        !site.path("run").exists(),
        "the daemon made the directory and takes it away"
    );
    let after = json(&["args", "web1", "--config", &site.config(), "--json"]);
    assert_eq!(
        before, after,
        "the address is the same before, while and after the daemon runs"
    );
    assert_eq!(
        std::fs::read_to_string(site.path("state/leases")).unwrap(),
        "vmlan leases 1\n"
    );
}

const NAT: &str = "[network.vmnet8]\nmode = \"nat\"\nsubnet = \"10.88.0.0/24\"\n[vm.web1]\nnetwork = \"vmnet8\"\n\
    [network.lab]\nmode = \"isolated\"\n[vm.db]\nnetwork = \"lab\"\n";

#[test]
fn a_nat_network_shows_itself_and_keeps_its_prefix() {
    let site = Site::new(NAT);
    let config = site.config();
    let shown = |daemon: Daemon| {
        let status = json(&["status", "--config", &config, "--json"]);
        assert_eq!(daemon.stop("-TERM").code(), Some(0));
        status["networks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|network| network["name"] == "vmnet8")
            .unwrap()
            .clone()
    };
    let (daemon, _) = site.start(&[]);
    let all = json(&["nat", "--config", &config, "--json"]);
    let network = &all["networks"][0];
    assert_eq!(
        (&network["network"], &network["outside"]),
        (&"vmnet8".into(), &"host".into())
    );
    assert_eq!(
        network["flows"],
        serde_json::json!({ "tcp": 0, "udp": 0, "icmp": 0 })
    );
    assert_eq!(
        (&network["max_flows"], &all["left_out"]),
        (&262_144.into(), &0.into())
    );
    let text = run(&[
        "nat",
        "vmnet8",
        "--vm",
        "web1",
        "--protocol",
        "tcp",
        "--limit",
        "5",
        "--config",
        &config,
    ]);
    assert!(
        text.stdout.starts_with("NETWORK  OUTSIDE"),
        "{}{}",
        text.stdout,
        text.stderr
    );
    let glance = run(&["status", "--config", &config]).stdout;
    assert!(glance.contains("NAT OF  OUTSIDE"), "{glance}");
    let drawn = run(&["topology", "vmnet8", "--config", &config]).stdout;
    assert!(drawn.contains("nat, MTU 1500, leads to host"), "{drawn}");
    for (args, told) in [
        (
            vec!["nat", "vmnet9"],
            "there is no NAT network \"vmnet9\"; did you mean \"vmnet8\"?",
        ),
        (
            vec!["nat", "lab"],
            "there is no NAT network \"lab\"; there is vmnet8",
        ),
        (
            vec!["nat", "--vm", "web2"],
            "there is no VM \"web2\"; did you mean \"web1\"?",
        ),
        (
            vec!["forward", "add", "lab", ":8080", "db:80"],
            "it is isolated, and only a NAT network has port forwards",
        ),
        (
            vec!["forward", "add", "vmnet8", ":8080", "db:80"],
            "to: VM \"db\" is in network \"lab\", not in \"vmnet8\"",
        ),
        (
            vec!["forward", "add", "vmnet8", "8080:80", "web1:80"],
            "is not where a forward can listen",
        ),
        (
            vec!["forward", "remove", "vmnet8", "127.0.0.1:9"],
            "there is no such forward of tcp; there are none",
        ),
    ] {
        let outcome = run(&[&args[..], &["--config", &config]].concat());
        assert_eq!(outcome.code, Some(1), "{args:?}: {}", outcome.stdout);
        assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    }
    assert_eq!(
        run(&["nat", "--protocol", "sctp", "--config", &config]).code,
        Some(2)
    );
    let before = shown(daemon);
    assert_eq!(
        (&before["mode"], &before["subnet"]),
        (&"nat".into(), &"10.88.0.0/24".into())
    );
    let prefix = before["prefix"].as_str().unwrap();
    assert!(
        prefix.starts_with("fd") && prefix.ends_with("::/64"),
        "{prefix}"
    );
    let (daemon, _) = site.start(&[]);
    assert_eq!(shown(daemon)["prefix"], before["prefix"]);
}

#[test]
fn an_interrupt_is_as_good_as_a_request_to_stop() {
    let site = Site::new(LAB);
    let (daemon, _) = site.start(&[]);
    assert_eq!(daemon.stop("-INT").code(), Some(0));
}

#[test]
fn a_second_daemon_is_refused_and_does_not_disturb_the_first() {
    let site = Site::new(LAB);
    let (daemon, _) = site.start(&[]);
    let second = run(&["run", "--config", &site.config()]);
    assert_eq!(second.code, Some(1));
    let expected = format!("another vmlan daemon uses {}", site.path("run").display());
    assert!(second.stderr.contains(&expected), "{}", second.stderr);
    assert_eq!(run(&["status", "--config", &site.config()]).code, Some(0));
    assert_eq!(daemon.stop("-TERM").code(), Some(0));
}

#[test]
fn the_control_socket_of_a_dead_daemon_is_replaced() {
    let site = Site::new(LAB);
    std::fs::create_dir(site.path("run")).unwrap();
    drop(UnixListener::bind(site.path("run/vmlan.sock")).unwrap());
    assert_eq!(run(&["status", "--config", &site.config()]).code, Some(3));
    let (daemon, _) = site.start(&[]);
    assert_eq!(run(&["status", "--config", &site.config()]).code, Some(0));
    assert_eq!(daemon.stop("-TERM").code(), Some(0));
    assert!(is_empty(&site.path("run")));
}

#[test]
fn a_daemon_that_cannot_start_leaves_nothing_behind() {
    let site = Site::new(&format!(
        "{LAB}[vm.web2]\nnetwork = \"lab\"\nsocket = \"/nowhere/web2.sock\"\n"
    ));
    let outcome = run(&["run", "--config", &site.config()]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
    assert!(outcome.stderr.contains("web2"), "{}", outcome.stderr);
    assert!(!site.path("run").exists());
}

#[test]
fn an_uplink_that_is_not_there_is_an_error_of_run() {
    let site = Site::new("[network.lan]\nmode = \"bridged\"\nteam.active = [\"nowhere0\"]\n");
    let outcome = run(&["run", "--config", &site.config()]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains(
            "network.lan.team.active[0]: this machine has no network adapter named \"nowhere0\""
        ),
        "{}",
        outcome.stderr
    );
    assert!(!site.path("run").exists() && !site.path("state").exists());
}

#[test]
fn a_mistake_of_the_command_line_is_not_blamed_on_a_file() {
    let outcome = run(&["run", "--vm", "x=vmnet7"]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome
            .stderr
            .contains("\n--vm x=vmnet7: there is no network \"vmnet7\""),
        "{}",
        outcome.stderr
    );
    assert!(!outcome.stderr.contains("default"), "{}", outcome.stderr);
}

#[test]
fn directories_that_cannot_be_used_are_told_apart() {
    let site = Site::new(LAB);
    std::fs::write(site.path("state"), "").unwrap();
    let outcome = run(&["run", "--config", &site.config()]);
    assert!(
        outcome.stderr.contains("it is not a directory"),
        "{}",
        outcome.stderr
    );
    std::fs::remove_file(site.path("state")).unwrap();
    std::fs::create_dir(site.path("run")).unwrap();
    std::os::unix::fs::symlink(site.path("run"), site.path("state")).unwrap();
    let outcome = run(&["run", "--config", &site.config()]);
    assert!(
        outcome.stderr.contains("it is the same directory as"),
        "{}",
        outcome.stderr
    );
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

/// A directory as Workstation has it, with a host-only network and a NAT network.
fn workstation() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "networking",
        "VERSION=1,0\nanswer VNET_1_HOSTONLY_SUBNET 192.168.81.0\nanswer VNET_1_VIRTUAL_ADAPTER yes\nanswer VNET_1_DISPLAY_NAME lab\n",
    );
    write(
        "vmnet8/nat/nat.conf",
        "[host]\nip = 192.168.88.2/24\n[incomingtcp]\n2222 = 192.168.88.10:22\n",
    );
    write(
        "vmnet1/dhcpd/dhcpd.conf",
        "subnet 192.168.81.0 netmask 255.255.255.0 {\n  range 192.168.81.128 192.168.81.254;\n}\nhost web1 { hardware ethernet 00:0c:29:12:34:56; fixed-address 192.168.81.10; }\n",
    );
    dir
}

#[test]
fn what_is_imported_from_workstation_can_be_run() {
    let dir = workstation();
    let home = dir.path().to_str().unwrap();
    let outcome = run(&["import", home]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let report: Vec<_> = outcome.stderr.lines().collect();
    let expected = [
        format!("{home}/networking:4: ignored: answer VNET_1_DISPLAY_NAME lab: "),
        format!("{home}/vmnet1/dhcpd/dhcpd.conf:2: different: range "),
        "imported 2 networks: 1 different, 1 ignored, 0 to decide".to_owned(),
    ];
    assert_eq!(report.len(), expected.len(), "{report:#?}");
    for (told, begin) in report.iter().zip(&expected) {
        assert!(told.starts_with(begin), "{told}");
    }
    assert!(
        outcome.stdout.contains("\n[network.vmnet1]\n")
            && outcome.stdout.contains("\n[[network.vmnet8.forward]]\n"),
        "{}",
        outcome.stdout
    );

    let file = dir.path().join("vmlan.toml");
    let file = file.to_str().unwrap();
    let outcome = run(&["import", home, "--output", file]);
    assert_eq!((outcome.code, &*outcome.stdout), (Some(0), ""));
    let checked = run(&["check", file]);
    assert_eq!(
        checked.stdout,
        format!("{file} is in order: 2 networks, 0 VMs\n")
    );
    let again = run(&["import", home, "--output", file]);
    assert_eq!(again.code, Some(1));
    assert!(
        again.stderr.ends_with("add --force to overwrite it\n"),
        "{}",
        again.stderr
    );
    let report = json(&["import", home, "--output", file, "--force", "--json"]);
    assert_eq!(report["output"], file);
    assert_eq!(report["configuration"], Value::Null);
    assert_eq!(report["report"][0]["fate"], "ignored");
    assert_eq!(report["report"][1]["line"], 2);
}

#[test]
fn what_makes_no_sense_is_not_imported_and_all_of_it_is_told() {
    let dir = workstation();
    let home = dir.path().to_str().unwrap();
    std::fs::write(
        dir.path().join("networking"),
        "answer VNET_1_DHCP perhaps\nhello\n",
    )
    .unwrap();
    let file = dir.path().join("vmlan.toml");
    let outcome = run(&[
        "import",
        home,
        "/nowhere/nat.conf",
        "--output",
        file.to_str().unwrap(),
    ]);
    let expected = format!(
        "cannot read /nowhere/nat.conf: No such file or directory (os error 2)\n\
         {home}/networking:1: \"answer VNET_1_DHCP perhaps\" is neither yes nor no\n\
         {home}/networking:2: \"hello\" is not a line such as `answer VNET_8_NAT yes`\n\
         vmlan: nothing was imported: 3 problems\n"
    );
    assert_eq!(
        (outcome.code, &*outcome.stdout, outcome.stderr),
        (Some(1), "", expected)
    );
    assert!(!file.exists());
    let outcome = run(&["import", home, "--json"]);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(outcome.code, Some(1));
    assert_eq!(report["problems"][1]["line"], 2);
}

//! Adoption against the kernel: a daemon in a network namespace of its own, and a peer behind its uplink who asks the host
//! for an echo all the time. Needs root; a test that cannot run says so.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on says so and ends"
)]

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const HOST: [&str; 2] = ["10.77.0.5", "fd77::5"];
const ECHO: u16 = 7777;
/// How long the host may be silent while its addresses move, on a machine that is busy.
const SILENCE: Duration = Duration::from_secs(3);

/// Runs a test in a thread with a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("skipped: needs root");
        return;
    }
    let thread = thread::spawn(|| {
        leave_namespace();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Moves this thread, and the processes and threads it starts, to a new network namespace.
#[expect(unsafe_code, reason = "std has no namespaces")]
fn leave_namespace() {
    // SAFETY: no memory is involved.
    let answer = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output();
    let output = output.expect("iproute2 is installed");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {stderr}");
}

/// What `ip` prints, nothing where it fails.
fn shown(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output();
    let output = output.unwrap();
    // A space after each word makes words of the end of a line, too.
    String::from_utf8_lossy(&output.stdout).replace('\n', " \n")
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What the peer heard of the host, by IPv4 and by IPv6.
#[derive(Clone, Copy)]
struct Heard {
    last: Instant,
    longest_silence: Duration,
}

/// Somebody on the LAN who talks with the host all the time.
struct Peer {
    heard: Arc<Mutex<[Heard; 2]>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Makes the LAN: `eth1` with the host's addresses and routes here, and the peer at the other end.
    fn new() -> Self {
        for arguments in [
            "link set lo up",
            "link add eth1 type veth peer name p0",
            "link set eth1 up",
            "addr add 10.77.0.5/24 brd + dev eth1",
            "addr add 10.77.0.6/24 dev eth1 valid_lft 3600 preferred_lft 1800",
            "addr add fd77::5/64 dev eth1 nodad",
        ] {
            ip(arguments);
        }
        let heard = Heard {
            last: Instant::now(),
            longest_silence: Duration::ZERO,
        };
        let heard = Arc::new(Mutex::new([heard; 2]));
        let ends = Arc::new(AtomicBool::new(false));
        let (started, is_there) = mpsc::channel();
        let (ready, goes) = mpsc::channel::<()>();
        let thread = {
            let (heard, ends) = (Arc::clone(&heard), Arc::clone(&ends));
            thread::spawn(move || {
                leave_namespace();
                let this = std::fs::read_link("/proc/thread-self").unwrap();
                started.send(this.file_name().unwrap().to_owned()).unwrap();
                goes.recv().unwrap();
                for arguments in [
                    "link set p0 up",
                    "addr add 10.77.0.1/24 dev p0",
                    "addr add fd77::1/64 dev p0 nodad",
                ] {
                    ip(arguments);
                }
                ask(&heard, &ends);
            })
        };
        let namespace = is_there.recv().unwrap();
        ip(&format!("link set p0 netns {}", namespace.display()));
        ready.send(()).unwrap();
        // An adapter without a link has no IPv6 routes.
        until("the link is up", || {
            shown("link show dev eth1").contains("LOWER_UP")
        });
        for arguments in [
            "route add default via 10.77.0.1 dev eth1 metric 100",
            "route add 192.0.2.0/24 via 10.77.0.1 dev eth1 src 10.77.0.5 mtu 1400 proto static",
            "route add 198.51.100.9 dev eth1 scope link",
            "route add 198.51.100.0/24 via 198.51.100.9 dev eth1 onlink",
            "route add 203.0.113.0/24 via 10.77.0.1 dev eth1 table 100",
            "-6 route add default via fd77::1 dev eth1 metric 200",
            "-6 route add 2001:db8::/32 via fd77::1 dev eth1 src fd77::5",
        ] {
            ip(arguments);
        }
        let peer = Self {
            heard,
            ends,
            thread: Some(thread),
        };
        let echo = UdpSocket::bind(("::", ECHO)).unwrap();
        let ends = Arc::clone(&peer.ends);
        echo.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 16];
            while !ends.load(Ordering::Relaxed) {
                if let Ok((length, from)) = echo.recv_from(&mut buffer) {
                    let _ = echo.send_to(&buffer[..length], from);
                }
            }
        });
        peer.hears();
        peer
    }

    /// Waits until the host answers, from now on.
    fn hears(&self) {
        let asked = Instant::now();
        until("the host answers", || {
            self.heard
                .lock()
                .unwrap()
                .iter()
                .all(|heard| heard.last > asked)
        });
    }

    /// Returns the longest time for which the host was silent since it was last asked.
    fn longest_silence(&self) -> [Duration; 2] {
        self.hears();
        let mut heard = self.heard.lock().unwrap();
        let longest = heard.map(|heard| heard.longest_silence);
        for heard in &mut *heard {
            heard.longest_silence = Duration::ZERO;
        }
        longest
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Asks the host until it ends, and notes when there is an answer.
fn ask(heard: &Mutex<[Heard; 2]>, ends: &AtomicBool) {
    let sockets = ["0.0.0.0:0", "[::]:0"].map(|any| UdpSocket::bind(any).unwrap());
    for socket in &sockets {
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
    }
    let mut number = 0_u64;
    while !ends.load(Ordering::Relaxed) {
        for (family, socket) in sockets.iter().enumerate() {
            number += 1;
            let _ = socket.send_to(&number.to_be_bytes(), (HOST[family], ECHO));
            let mut answer = [0; 16];
            while let Ok((length, _)) = socket.recv_from(&mut answer) {
                if answer[..length] == number.to_be_bytes() {
                    let mut heard = heard.lock().unwrap();
                    let heard = &mut heard[family];
                    heard.longest_silence = heard.longest_silence.max(heard.last.elapsed());
                    heard.last = Instant::now();
                    break;
                }
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A daemon with a bridged network between `eth1` and the host adapter `vmnet0`.
struct Site {
    dir: TempDir,
    daemon: Option<Child>,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (runtime, state) = (dir.path().join("run"), dir.path().join("state"));
        let text = format!(
            "[daemon]\nruntime_dir = {runtime:?}\nstate_dir = {state:?}\n\
             [network.lan]\nmode = \"bridged\"\nteam.active = [\"eth1\"]\nhost_adapter = \"vmnet0\"\n"
        );
        std::fs::write(dir.path().join("vmlan.toml"), text).unwrap();
        let mut site = Self { dir, daemon: None };
        site.start();
        site
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("vmlan.toml")
    }

    fn record(&self) -> PathBuf {
        self.dir.path().join("state/adopted.json")
    }

    fn start(&mut self) {
        let daemon = vmlan()
            .arg("run")
            .arg("--config")
            .arg(self.config())
            .stdout(Stdio::piped())
            .spawn();
        let daemon = self.daemon.insert(daemon.unwrap());
        let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap() == "ready"),
            "the daemon ends before it is ready"
        );
    }

    fn end(&mut self, signal: &str) {
        let mut daemon = self.daemon.take().unwrap();
        let sent = Command::new("kill")
            .args([signal, &daemon.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        daemon.wait().unwrap();
    }

    /// Asks the daemon, and returns its answer in JSON, or else the error.
    fn adopt(&self, arguments: &str) -> Result<Value, String> {
        let output = vmlan()
            .arg("adopt")
            .args(arguments.split_whitespace())
            .arg("--json")
            .arg("--config")
            .arg(self.config())
            .output()
            .unwrap();
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap());
        }
        assert_eq!(output.status.code(), Some(1));
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn vmlan() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("vmlan"));
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command
}

/// Every address and route, as `ip` prints them, with the adapter that it is on now.
const OWNED: [(&str, &str); 10] = [
    ("-o addr show", " DEV inet 10.77.0.5/24 brd 10.77.0.255 "),
    ("-o addr show", " DEV inet 10.77.0.6/24 "),
    ("-o addr show", " DEV inet6 fd77::5/64 "),
    ("route show", "default via 10.77.0.1 dev DEV metric 100 "),
    (
        "route show",
        "192.0.2.0/24 via 10.77.0.1 dev DEV proto static src 10.77.0.5 mtu 1400 ",
    ),
    ("route show", "198.51.100.9 dev DEV scope link "),
    (
        "route show",
        "198.51.100.0/24 via 198.51.100.9 dev DEV onlink ",
    ),
    (
        "route show table 100",
        "203.0.113.0/24 via 10.77.0.1 dev DEV ",
    ),
    ("-6 route show", "default via fd77::1 dev DEV metric 200 "),
    (
        "-6 route show",
        "2001:db8::/32 via fd77::1 dev DEV src fd77::5 metric 1024 ",
    ),
];

/// Returns what the adapter has of it.
fn has(adapter: &str) -> Vec<&'static str> {
    let has = |(arguments, what): &(&str, &str)| {
        // The names are padded, and addresses are in columns.
        let text: Vec<_> = shown(arguments)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        (text.join(" ") + " ").contains(&what.replace("DEV", adapter))
    };
    OWNED
        .iter()
        .filter(|one| has(one))
        .map(|(_, what)| *what)
        .collect()
}

fn all_on(adapter: &str) {
    let all: Vec<_> = OWNED.iter().map(|(_, what)| *what).collect();
    assert_eq!(has(adapter), all, "{}", everything());
    let other = if adapter == "eth1" { "vmnet0" } else { "eth1" };
    assert!(has(other).is_empty(), "{}", everything());
}

fn everything() -> String {
    ["addr", "route show table all", "-6 route show table all"]
        .map(shown)
        .join("\n")
}

fn arp_ignore() -> String {
    let mut text = String::new();
    let mut file = std::fs::File::open("/proc/sys/net/ipv4/conf/eth1/arp_ignore").unwrap();
    file.read_to_string(&mut text).unwrap();
    text.trim().to_owned()
}

#[test]
fn what_nobody_confirms_goes_back_and_the_host_is_reached_all_the_time() {
    in_namespace(|| {
        let peer = Peer::new();
        let site = Site::new();
        all_on("eth1");
        peer.longest_silence();
        let adopted = site.adopt("eth1 --network lan --timeout 5s").unwrap();
        assert_eq!(
            (&adopted["state"], &adopted["host_adapter"]),
            (&"pending".into(), &"vmnet0".into())
        );
        all_on("vmnet0");
        let silence = peer.longest_silence();
        assert!(
            silence.iter().all(|silence| *silence < SILENCE),
            "{silence:?}"
        );
        assert_eq!(arp_ignore(), "1");
        let lifetime = shown("addr show dev vmnet0 to 10.77.0.6");
        let lasts = |seconds: u32, word: &str| {
            (seconds - 60..=seconds).any(|left| lifetime.contains(&format!("{word} {left}sec")))
        };
        assert!(
            lasts(3600, "valid_lft") && lasts(1800, "preferred_lft"),
            "{lifetime}"
        );
        let error = site.adopt("eth1 --network lan").unwrap_err();
        assert!(error.contains("the adoption of eth1 is pending"), "{error}");
        until("the time is over", || {
            site.adopt("").unwrap() == serde_json::json!([])
        });
        all_on("eth1");
        assert_eq!(arp_ignore(), "0");
        assert!(!site.record().exists());
        let silence = peer.longest_silence();
        assert!(
            silence.iter().all(|silence| *silence < SILENCE),
            "{silence:?}"
        );
    });
}

#[test]
fn what_is_confirmed_stays_rests_while_no_daemon_runs_and_is_taken_again() {
    in_namespace(|| {
        let peer = Peer::new();
        let mut site = Site::new();
        peer.longest_silence();
        site.adopt("eth1 --network lan").unwrap();
        assert_eq!(site.adopt("--confirm").unwrap()["state"], "confirmed");
        let error = site.adopt("--confirm").unwrap_err();
        assert!(error.contains("none is pending"), "{error}");
        all_on("vmnet0");
        peer.hears();

        site.end("-TERM");
        all_on("eth1");
        peer.hears();
        site.start();
        all_on("vmnet0");
        let silence = peer.longest_silence();
        assert!(
            silence.iter().all(|silence| *silence < SILENCE),
            "{silence:?}"
        );

        site.end("-KILL");
        assert!(
            has("eth1").is_empty(),
            "the addresses went with the host adapter"
        );
        site.start();
        all_on("vmnet0");
        peer.hears();

        assert_eq!(site.adopt("--undo").unwrap()["interface"], "eth1");
        all_on("eth1");
        peer.hears();
        site.end("-TERM");
        assert!(!site.record().exists());
    });
}

#[test]
fn a_daemon_that_was_killed_before_anybody_confirmed_gives_everything_back_when_it_returns() {
    in_namespace(|| {
        let peer = Peer::new();
        let mut site = Site::new();
        site.adopt("eth1 --network lan --timeout 1h").unwrap();
        site.end("-KILL");
        site.start();
        all_on("eth1");
        peer.hears();
        assert_eq!(site.adopt("").unwrap(), serde_json::json!([]));
    });
}

#[test]
fn a_daemon_that_was_killed_gives_everything_back_even_if_the_next_one_refuses_its_file() {
    in_namespace(|| {
        let peer = Peer::new();
        let mut site = Site::new();
        site.adopt("eth1 --network lan").unwrap();
        site.adopt("--confirm").unwrap();
        let text = std::fs::read_to_string(site.config()).unwrap();
        let broken = text.replace("[\"eth1\"]", "[\"eth1\", \"eth9\"]");
        std::fs::write(site.config(), broken).unwrap();
        let refused = |site: &Site| {
            let mut run = vmlan();
            let output = run.arg("run").arg("--config").arg(site.config()).output();
            assert_eq!(output.unwrap().status.code(), Some(1));
        };
        refused(&site);
        all_on("vmnet0");
        site.end("-KILL");
        refused(&site);
        peer.hears();
        all_on("eth1");
        std::fs::write(site.config(), text).unwrap();
        site.start();
        all_on("vmnet0");
    });
}

#[test]
fn a_host_adapter_that_was_deleted_comes_back_with_what_it_had() {
    in_namespace(|| {
        let peer = Peer::new();
        let site = Site::new();
        site.adopt("eth1 --network lan").unwrap();
        site.adopt("--confirm").unwrap();
        ip("link del vmnet0");
        until("the host adapter is back", || {
            has("vmnet0").len() == OWNED.len()
        });
        all_on("vmnet0");
        peer.hears();
    });
}

#[test]
fn what_cannot_be_adopted_is_refused_in_its_own_words_and_stays() {
    in_namespace(|| {
        let _peer = Peer::new();
        let site = Site::new();
        for (arguments, words) in [
            (
                "eth1 --network lab",
                "there is no such network; there is lan",
            ),
            (
                "eth0 --network lan",
                "it is no uplink of the network; its team has eth1",
            ),
            (
                "eth1 --network lan --port-group x",
                "there is no port group \"x\"; the network has none",
            ),
            (
                "eth1 --network lan --timeout 4s",
                "choose one from 5s to 1h",
            ),
            ("--undo", "nothing is adopted"),
        ] {
            let error = site.adopt(arguments).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        ip("route add 192.0.3.0/24 nexthop via 10.77.0.1 dev eth1 nexthop via 10.77.0.2 dev eth1");
        let error = site.adopt("eth1 --network lan").unwrap_err();
        assert!(
            error.contains("192.0.3.0/24 has more than one next hop"),
            "{error}"
        );
        ip("route del 192.0.3.0/24");
        ip("link set vmnet0 down");
        let error = site.adopt("eth1 --network lan").unwrap_err();
        assert!(error.contains("vmnet0 is down"), "{error}");
        ip("link set vmnet0 up");
        all_on("eth1");
        ip("addr flush dev eth1 scope global");
        let error = site.adopt("eth1 --network lan").unwrap_err();
        assert!(error.contains("nothing to adopt"), "{error}");
    });
}

#[test]
fn whoever_may_only_look_changes_nothing() {
    in_namespace(|| {
        let _peer = Peer::new();
        let site = Site::new();
        let open = |path: &str, mode: u32| {
            let path = site.dir.path().join(path);
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        open("", 0o755);
        open("run/vmlan.sock", 0o666);
        // The one of the build may be where nobody else can go.
        let binary = site.dir.path().join("vmlan");
        std::fs::copy(assert_cmd::cargo::cargo_bin!("vmlan"), &binary).unwrap();
        let ask = |arguments: &str| {
            let output = Command::new(&binary)
                .args(arguments.split_whitespace())
                .arg("--socket")
                .arg(site.dir.path().join("run/vmlan.sock"))
                .uid(65534)
                .output()
                .unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            (output.status.code(), error)
        };
        assert_eq!(ask("status"), (Some(0), String::new()));
        assert_eq!(ask("adopt"), (Some(0), String::new()), "it may look");
        for change in [
            "adopt eth1 --network lan",
            "adopt --undo",
            "uplink remove lan eth1",
        ] {
            let (code, error) = ask(change);
            assert_eq!(code, Some(1), "{change}");
            assert!(
                error.contains("only root and the daemon's own user"),
                "{error}"
            );
        }
        all_on("eth1");
    });
}

//! The uplink and the host adapter against the kernel: veth pairs and TAP devices, each test in network namespaces of
//! its own. Needs root; a test that cannot run says so.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on says so and ends"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::RawFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use vmlan::engine::{self, Durable, Engine, Journal, NetworkPort, NetworkSpec};
use vmlan::net::Now;
use vmlan::net::dhcp::Record;
use vmlan::net::drops::{DropReason, Drops};
use vmlan::net::inside::{self, Inside};
use vmlan::net::member::Member;
use vmlan::net::nat;
use vmlan::net::nat::forward::{Balance, Forward, Host, Target};
use vmlan::net::offload;
use vmlan::net::outbox::Egress;
use vmlan::net::vlan::{Tag, TagAction};
use vmlan::net::{address, gateway};
use vmlan::ports::burst::Burst;
use vmlan::ports::packet::{self, Driver, Packet};
use vmlan::ports::sockets::{self, Sockets};
use vmlan::ports::tap::{self, Tap};
use vmlan::ports::{OpenError, Port, PortSpec, PortState, Sent, Watcher};
use vmlan::wire::checksum::{Sum, checksum};
use vmlan::wire::ethernet::{self, MacAddr, Tci};
use vmlan::wire::virtio_net::{GSO_TCPV4, NEEDS_CSUM, VirtioNetHeader};
use vmlan::wire::{ipv4, udp};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// Runs a test in a thread with a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !is_root() {
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

#[expect(unsafe_code, reason = "std does not tell who we are")]
fn is_root() -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::geteuid() == 0 }
}

/// Moves this thread, and the processes it starts, to a new network namespace without IPv6 chatter.
#[expect(unsafe_code, reason = "std has no namespaces")]
fn leave_namespace() {
    // SAFETY: no memory is involved.
    let answer = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
}

/// Makes this thread that of a user without privileges.
#[expect(unsafe_code, reason = "std changes users for new processes only")]
fn become_nobody() {
    // SAFETY: no memory is involved; the bare system call concerns this thread alone.
    let answer = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
    assert_eq!(answer, 0);
}

#[expect(
    unsafe_code,
    reason = "std does not tell the kernel's number of a thread"
)]
fn thread_id() -> i32 {
    // SAFETY: no memory is involved.
    unsafe { libc::gettid() }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes a pair of adapters that are up, and opens both.
fn pair() -> (Packet, Packet) {
    ip("link add v0 type veth peer name v1");
    ip("link set v0 up");
    ip("link set v1 up");
    open_pair([Driver::AfPacket; 2])
}

/// Opens both ends of a pair.
fn open_pair([a, b]: [Driver; 2]) -> (Packet, Packet) {
    let (mut a, mut b) = (uplink_by(a, "v0"), uplink_by(b, "v1"));
    until("the pair is up", || has_link(&mut a) && has_link(&mut b));
    (a, b)
}

fn uplink(interface: &str) -> Packet {
    uplink_by(Driver::AfPacket, interface)
}

fn uplink_by(driver: Driver, interface: &str) -> Packet {
    Packet::open(&uplink_spec(driver, interface)).unwrap()
}

fn uplink_spec(driver: Driver, interface: &str) -> packet::Spec {
    packet::Spec {
        interface: interface.to_owned(),
        optional: false,
        speed: None,
        driver,
    }
}

fn tap_spec(name: &str, address: &str) -> tap::Spec {
    tap::Spec {
        name: name.to_owned(),
        mac: MAC,
        address: Some(address.parse().unwrap()),
        mtu: 1500,
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Lets the port look, and tells what it saw.
fn has_link(port: &mut dyn Port) -> bool {
    // Each look is due: the ports ask for at most one a second.
    let instant = port.poll_timeout().unwrap_or_else(Instant::now);
    port.handle_timeout(Now {
        instant,
        wall: SystemTime::UNIX_EPOCH,
    });
    assert_eq!(port.status().state == PortState::Up, port.is_up());
    port.is_up()
}

/// What a worker waits with.
struct Epoll(RawFd);

impl Epoll {
    fn new() -> Self {
        Self(epoll::create(true).unwrap())
    }

    fn watcher(&self) -> Watcher {
        Watcher::new(self.0, 7)
    }

    /// Tells whether frames were reported since the last call.
    fn reported(&self) -> bool {
        self.wait(0).0
    }

    /// Waits for a change to be reported, and for nothing else.
    fn change(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.wait(100).1 {
            assert!(Instant::now() < deadline, "waited in vain for a change");
        }
    }

    /// Waits some milliseconds; tells whether frames, and whether changes were reported.
    fn wait(&self, wait: i32) -> (bool, bool) {
        let mut events = [epoll::Event::new(epoll::Events::empty(), 0); 4];
        let count = epoll::wait(self.0, wait, &mut events).unwrap();
        let tokens = events[..count].iter().map(|event| {
            let data = event.data;
            let (port, change) = Watcher::read(data);
            assert_eq!(port, 7);
            change
        });
        let changes: Vec<_> = tokens.collect();
        (changes.contains(&false), changes.contains(&true))
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        epoll::close(self.0).unwrap();
    }
}

/// Takes all frames there are.
fn received(port: &mut dyn Port, drops: &mut Drops) -> Vec<(Vec<u8>, VirtioNetHeader)> {
    let mut frames = Vec::new();
    let mut burst = Burst::default();
    loop {
        port.receive(&mut burst, drops).unwrap();
        if burst.is_empty() && !port.arm() {
            return frames;
        }
        for frame in burst.frames() {
            let mut bytes = Vec::new();
            burst.copy_frame(frame, TagAction::Keep, &mut bytes);
            assert_eq!(bytes.len(), frame.head.frame_len as usize);
            frames.push((bytes, frame.head.offload));
        }
        port.release(&mut burst);
    }
}

fn bytes_received(port: &mut dyn Port) -> Vec<Vec<u8>> {
    received(port, &mut Drops::default())
        .into_iter()
        .map(|(bytes, _)| bytes)
        .collect()
}

/// Sends frames with the same header and change of tag.
fn send(
    port: &mut dyn Port,
    frames: &[Vec<u8>],
    header: VirtioNetHeader,
    action: TagAction,
) -> (Sent, Vec<(DropReason, u64)>) {
    let (mut burst, mut drops) = (Burst::default(), Drops::default());
    let mut sent = Sent::default();
    for chunk in frames.chunks(64) {
        burst.clear();
        let mut batch = Vec::new();
        for (index, frame) in chunk.iter().enumerate() {
            assert!(burst.push_owned(frame.clone(), header));
            batch.push(Egress {
                frame: u16::try_from(index).unwrap(),
                action,
            });
        }
        let more = port.transmit(&burst, &batch, &mut drops).unwrap();
        sent.frames += more.frames;
        sent.bytes += more.bytes;
    }
    (sent, drops.iter().collect())
}

fn send_plain(port: &mut dyn Port, frames: &[Vec<u8>]) -> (Sent, Vec<(DropReason, u64)>) {
    send(port, frames, VirtioNetHeader::default(), TagAction::Keep)
}

/// A frame of an EtherType that nobody answers.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = Vec::from(OTHER.0);
    frame.extend(MAC.0);
    frame.extend([0x88, 0xb5]);
    frame.extend((14..len).map(|i| u8::try_from(i % 251).unwrap()));
    frame
}

/// A UDP datagram whose checksum is only begun, and the header that says so.
fn udp_frame(
    dst_mac: MacAddr,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    port: u16,
    payload: &[u8],
) -> (Vec<u8>, VirtioNetHeader) {
    let udp_len = u16::try_from(8 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_len).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(4000u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(udp_len.to_be_bytes());
    packet.extend(
        Sum::default()
            .add_pseudo_header(src, dst, 17, udp_len)
            .fold()
            .to_be_bytes(),
    );
    packet.extend(payload);
    let mut frame = Vec::from(dst_mac.0);
    frame.extend(MAC.0);
    frame.extend([8, 0]);
    frame.extend(packet);
    let header = VirtioNetHeader {
        flags: NEEDS_CSUM,
        csum_start: 34,
        csum_offset: 6,
        ..VirtioNetHeader::default()
    };
    (frame, header)
}

#[test]
fn frames_of_every_length_arrive_as_they_were_sent_and_do_not_come_back() {
    in_namespace(|| {
        let (mut a, mut b) = pair();
        let frames: Vec<_> = [60, 127, 128, 129, 1000, 1514].map(frame).into();
        let (sent, drops) = send_plain(&mut b, &frames);
        assert_eq!(
            (sent.frames, sent.bytes),
            (6, 60 + 127 + 128 + 129 + 1000 + 1514)
        );
        assert_eq!(drops, []);
        let mut arrived = Vec::new();
        until("the frames arrive", || {
            arrived.extend(bytes_received(&mut a));
            arrived.len() >= frames.len()
        });
        assert_eq!(arrived, frames);
        assert_eq!(
            bytes_received(&mut b),
            Vec::<Vec<u8>>::new(),
            "what leaves does not come in"
        );
    });
}

#[test]
fn a_tag_arrives_where_it_was_and_a_frame_of_full_size_may_have_one() {
    in_namespace(|| {
        let (mut a, mut b) = pair();
        let frames: Vec<_> = [60, 124, 128, 1514].map(frame).into();
        let (sent, drops) = send(
            &mut b,
            &frames,
            VirtioNetHeader::default(),
            TagAction::Insert(Tci(0x600a)),
        );
        assert_eq!((sent.frames, drops), (4, vec![]));
        let mut arrived = Vec::new();
        until("the frames arrive", || {
            arrived.extend(bytes_received(&mut a));
            arrived.len() >= frames.len()
        });
        for (arrived, sent) in arrived.iter().zip(&frames) {
            assert_eq!(arrived[..12], sent[..12]);
            assert_eq!(arrived[12..16], [0x81, 0, 0x60, 0x0a]);
            assert_eq!(arrived[16..], sent[12..]);
        }
    });
}

#[test]
fn a_tag_of_a_provider_and_two_tags_arrive_where_they_were() {
    in_namespace(|| {
        let (mut a, mut b) = pair();
        for tags in [
            &[0x88, 0xa8, 0, 7][..],
            &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9],
            &[0x81, 0, 0, 7, 0x81, 0, 0, 9],
        ] {
            let mut frame = frame(200);
            frame.splice(12..12, tags.iter().copied());
            send_plain(&mut b, std::slice::from_ref(&frame));
            let mut arrived = Vec::new();
            until("the frame arrives", || {
                arrived.extend(bytes_received(&mut a));
                !arrived.is_empty()
            });
            assert_eq!(arrived, [frame]);
        }
    });
}

#[test]
fn the_place_of_an_unfinished_checksum_moves_with_a_tag() {
    in_namespace(|| {
        let (mut a, mut b) = pair();
        let (frame, header) = udp_frame(
            OTHER,
            Ipv4Addr::new(10, 9, 0, 1),
            Ipv4Addr::new(10, 9, 0, 2),
            4001,
            &[7; 300],
        );
        send(
            &mut b,
            std::slice::from_ref(&frame),
            header,
            TagAction::Insert(Tci(10)),
        );
        let mut arrived = Vec::new();
        until("the frame arrives", || {
            arrived.extend(received(&mut a, &mut Drops::default()));
            !arrived.is_empty()
        });
        let (bytes, offload) = &arrived[0];
        assert_eq!(bytes[16..], frame[12..]);
        assert!(offload.needs_checksum());
        assert_eq!((offload.csum_start, offload.csum_offset), (38, 6));
    });
}

#[test]
fn a_datagram_with_an_unfinished_checksum_reaches_a_socket() {
    in_namespace(|| {
        let (mut a, _b) = pair();
        ip("addr add 10.9.0.2/24 dev v1");
        ip(&format!("link set v1 address {OTHER}"));
        let socket = UdpSocket::bind("10.9.0.2:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let port = socket.local_addr().unwrap().port();
        let payload: Vec<u8> = (0..1000).map(|i| u8::try_from(i % 249).unwrap()).collect();
        let (frame, header) = udp_frame(
            OTHER,
            Ipv4Addr::new(10, 9, 0, 1),
            Ipv4Addr::new(10, 9, 0, 2),
            port,
            &payload,
        );
        let (sent, drops) = send(&mut a, &[frame], header, TagAction::Keep);
        assert_eq!((sent.frames, drops), (1, vec![]));
        let mut got = vec![0; 2000];
        let len = socket.recv(&mut got).unwrap();
        assert_eq!(got[..len], payload);
    });
}

#[test]
fn what_the_kernel_refuses_is_counted_and_what_follows_is_sent() {
    in_namespace(|| {
        let (mut a, mut b) = pair();
        let (small, large) = (frame(100), frame(3000));
        let (sent, drops) = send_plain(
            &mut b,
            &[
                small.clone(),
                large.clone(),
                small.clone(),
                large,
                small.clone(),
            ],
        );
        assert_eq!((sent.frames, sent.bytes), (3, 300));
        assert_eq!(drops, [(DropReason::TooBig, 2)]);
        let mut arrived = Vec::new();
        until("the frames arrive", || {
            arrived.extend(bytes_received(&mut a));
            arrived.len() >= 3
        });
        assert_eq!(arrived, [small.clone(), small.clone(), small]);

        let nonsense = VirtioNetHeader {
            flags: NEEDS_CSUM,
            csum_start: 5000,
            csum_offset: 6,
            ..VirtioNetHeader::default()
        };
        let (sent, drops) = send(&mut b, &[frame(100)], nonsense, TagAction::Keep);
        assert_eq!((sent.frames, drops), (0, vec![(DropReason::BadOffload, 1)]));
        let unknown = VirtioNetHeader {
            gso_type: 3,
            gso_size: 500,
            ..VirtioNetHeader::default()
        };
        let (sent, drops) = send(&mut b, &[frame(100), frame(100)], unknown, TagAction::Keep);
        assert_eq!((sent.frames, drops), (0, vec![(DropReason::BadOffload, 2)]));
    });
}

#[test]
fn frames_that_did_not_fit_are_told_when_the_port_is_armed() {
    in_namespace(|| {
        let (mut a, mut b) = pair();
        let epoll = Epoll::new();
        a.watch(epoll.watcher()).unwrap();
        bytes_received(&mut a);
        assert!(!a.arm());
        epoll.reported();
        send_plain(&mut b, &vec![frame(60); 40]);
        until("frames are there", || a.arm());
        assert!(
            epoll.reported(),
            "frames that came after the port was armed"
        );
        let (mut burst, mut drops) = (Burst::default(), Drops::default());
        let mut count = 0;
        until("all frames are taken", || {
            a.receive(&mut burst, &mut drops).unwrap();
            assert!(burst.len() <= 32);
            count += burst.len();
            a.release(&mut burst);
            assert!(burst.is_empty());
            assert!(
                count >= 40 || a.arm(),
                "{count} of 40, and no word of the others"
            );
            count >= 40
        });
        assert!(!a.arm());
        assert_eq!(count, 40);
    });
}

#[test]
fn the_link_follows_the_carrier() {
    in_namespace(|| {
        let (mut a, mut b) = pair();
        ip("link set v1 down");
        until("the link is down", || {
            !has_link(&mut a) && !has_link(&mut b)
        });
        let (sent, drops) = send_plain(&mut a, &[frame(60), frame(60)]);
        assert_eq!((sent.frames, drops), (0, vec![(DropReason::PortDown, 2)]));
        assert!(
            bytes_received(&mut b).is_empty(),
            "an adapter that is down is no fault"
        );
        ip("link set v1 up");
        until("the link is up", || has_link(&mut a) && has_link(&mut b));
        send_plain(&mut a, &[frame(60)]);
        until("frames flow again", || !bytes_received(&mut b).is_empty());
    });
}

#[test]
fn a_link_that_went_down_unseen_is_seen_when_a_frame_is_refused() {
    in_namespace(|| {
        let (mut a, _b) = pair();
        ip("link set v0 down");
        assert!(a.is_up(), "nobody has looked yet");
        let (sent, drops) = send_plain(&mut a, &vec![frame(60); 40]);
        assert_eq!((sent.frames, drops), (0, vec![(DropReason::PortDown, 40)]));
        assert!(!a.is_up());
    });
}

#[test]
fn an_adapter_that_vanished_is_taken_again_when_it_is_back() {
    in_namespace(|| {
        let (mut a, b) = pair();
        drop(b);
        let epoll = Epoll::new();
        a.watch(epoll.watcher()).unwrap();
        epoll.reported();
        ip("link del v0");
        until("the link is down", || !has_link(&mut a));
        assert!(bytes_received(&mut a).is_empty());
        assert!(!a.arm(), "nothing to be woken for");
        epoll.reported();
        let (sent, drops) = send_plain(&mut a, &[frame(60)]);
        assert_eq!((sent.frames, drops), (0, vec![(DropReason::PortDown, 1)]));

        ip("link add v0 type veth peer name v1");
        ip("link set v1 up");
        until("the link is back", || has_link(&mut a));
        let mut b = uplink("v1");
        until("the far side is up", || has_link(&mut b));
        bytes_received(&mut a);
        epoll.reported();
        send_plain(&mut b, &[frame(77)]);
        until("it is still watched", || epoll.reported());
        let mut arrived = Vec::new();
        until("a frame arrives", || {
            arrived.extend(bytes_received(&mut a));
            !arrived.is_empty()
        });
        assert_eq!(
            arrived,
            [frame(77)],
            "frames for others arrive, too: the adapter is promiscuous again"
        );
    });
}

/// Makes a pair of adapters that are up, and an uplink of the first that is watched.
fn watched() -> (Packet, Epoll) {
    ip("link add v0 type veth peer name v1");
    ip("link set v1 up");
    let mut port = uplink("v0");
    let epoll = Epoll::new();
    port.watch(epoll.watcher()).unwrap();
    until_told("the link is up", &mut port, &epoll, Port::is_up);
    (port, epoll)
}

/// Waits for a condition of a port that is never asked to look by itself.
fn until_told<P: Port>(what: &str, port: &mut P, epoll: &Epoll, condition: impl Fn(&P) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    port.handle_event();
    while !condition(port) {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        if epoll.wait(100).1 {
            port.handle_event();
        }
    }
    assert_eq!(port.status().state == PortState::Up, port.is_up());
}

#[test]
fn a_carrier_that_is_lost_or_back_is_told_and_not_looked_for() {
    in_namespace(|| {
        let (mut a, epoll) = watched();
        for _ in 0..20 {
            ip("link set v1 down");
            until_told("the link is down", &mut a, &epoll, |a| !a.is_up());
            let (sent, drops) = send_plain(&mut a, &[frame(60)]);
            assert_eq!((sent.frames, drops), (0, vec![(DropReason::PortDown, 1)]));
            ip("link set v1 up");
            until_told("the link is back", &mut a, &epoll, Port::is_up);
            let (sent, drops) = send_plain(&mut a, &[frame(60)]);
            assert_eq!((sent.frames, drops), (1, vec![]));
        }
    });
}

/// Puts the far ends of pairs of adapters into a namespace of their own, with the same numbers, as if each pair were one
/// physical adapter: only of those the kernel tells late. Returns where to say what is done to the far ends.
fn cables(names: &[&str]) -> (mpsc::Sender<String>, mpsc::Receiver<()>) {
    let (tell, told) = mpsc::channel();
    let (order, orders) = mpsc::channel::<String>();
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        leave_namespace();
        tell.send(thread_id()).unwrap();
        for arguments in orders {
            ip(&arguments);
            done.send(()).unwrap();
        }
    });
    let far = told.recv().unwrap();
    for (name, index) in names.iter().zip(500..) {
        ip(&format!(
            "link add {name} index {index} type veth peer name {name} index {index} netns {far}"
        ));
        order.send(format!("link set {name} up")).unwrap();
        is_done.recv().unwrap();
    }
    (order, is_done)
}

#[test]
fn of_cables_that_are_pulled_one_after_the_other_each_is_told_soon() {
    in_namespace(|| {
        let names = ["v0", "v1", "v2"];
        let (order, done) = cables(&names);
        let mut ports = names.map(|name| {
            let mut port = uplink(name);
            let epoll = Epoll::new();
            port.watch(epoll.watcher()).unwrap();
            until_told("the link is up", &mut port, &epoll, Port::is_up);
            (name, port, epoll)
        });
        for (name, port, epoll) in &mut ports {
            order.send(format!("link set {name} down")).unwrap();
            done.recv().unwrap();
            let pulled = Instant::now();
            until_told("the link is down", port, epoll, |port| !port.is_up());
            let taken = pulled.elapsed();
            assert!(taken < Duration::from_millis(600), "{name}: {taken:?}");
        }
        for (name, port, epoll) in &mut ports {
            order.send(format!("link set {name} up")).unwrap();
            done.recv().unwrap();
            until_told("the link is back", port, epoll, Port::is_up);
        }
    });
}

#[test]
fn an_adapter_that_somebody_takes_down_stays_down_until_it_is_brought_up() {
    in_namespace(|| {
        let (mut a, epoll) = watched();
        ip("link set v0 down");
        until_told("the link is down", &mut a, &epoll, |a| !a.is_up());
        assert!(!has_link(&mut a), "nor does a look bring it up");
        assert!(!ip("-o link show dev v0").contains(",UP"));
        ip("link set v0 up");
        until_told("the link is up", &mut a, &epoll, Port::is_up);
        let mut b = uplink("v1");
        send_plain(&mut b, &[frame(70)]);
        until("frames flow again", || {
            bytes_received(&mut a) == [frame(70)]
        });
    });
}

#[test]
fn an_adapter_that_is_deleted_and_made_again_is_followed_whatever_its_number() {
    in_namespace(|| {
        let (mut a, epoll) = watched();
        for index in [1000, 1000, 1001, 1000] {
            ip("link del v0");
            until_told("the adapter is gone", &mut a, &epoll, |a| !a.is_up());
            assert_eq!(a.adapter(), None);
            ip(&format!("link add v0 index {index} type veth peer name v1"));
            ip("link set v1 up");
            until_told("the adapter is back", &mut a, &epoll, Port::is_up);
            let mut b = uplink("v1");
            until("the far side is up", || has_link(&mut b));
            epoll.reported();
            send_plain(&mut b, &[frame(77)]);
            until("the new one is watched", || epoll.reported());
            let mut arrived = Vec::new();
            until("a frame arrives", || {
                arrived.extend(bytes_received(&mut a));
                !arrived.is_empty()
            });
            assert_eq!(arrived, [frame(77)]);
        }
    });
}

#[test]
fn an_adapter_that_was_replaced_unseen_by_one_of_the_same_number_is_taken() {
    in_namespace(|| {
        ip("link add v0 index 1000 type veth peer name v1");
        ip("link set v1 up");
        let mut a = uplink("v0");
        ip("link del v0");
        ip("link add v0 index 1000 type veth peer name v1");
        ip("link set v1 up");
        until("the link is up", || has_link(&mut a));
        let mut b = uplink("v1");
        until("both are up", || has_link(&mut b));
        send_plain(&mut b, &[frame(77)]);
        until("a frame arrives", || !bytes_received(&mut a).is_empty());
    });
}

#[test]
fn an_adapter_that_is_renamed_is_let_go_of_and_the_one_that_gets_its_name_is_taken() {
    in_namespace(|| {
        let (mut a, epoll) = watched();
        ip("link set v0 down");
        ip("link set v0 name w0");
        ip("link set w0 up");
        until_told("it is let go of", &mut a, &epoll, |a| !a.is_up());
        assert_eq!(a.adapter(), None);
        until("it is as it was", || {
            ip("-o -d link show dev w0").contains("promiscuity 0")
        });
        let mut b = uplink("v1");
        until("the far side is up", || has_link(&mut b));
        let (sent, _) = send_plain(&mut b, &[frame(60)]);
        assert_eq!(sent.frames, 1);

        ip("link add v0 type veth peer name x1");
        ip("link set x1 up");
        until_told("the other is taken", &mut a, &epoll, Port::is_up);
        let mut x = uplink("x1");
        until("its far side is up", || has_link(&mut x));
        send_plain(&mut x, &[frame(88)]);
        let mut arrived = Vec::new();
        until("a frame arrives", || {
            arrived.extend(bytes_received(&mut a));
            !arrived.is_empty()
        });
        assert_eq!(
            arrived,
            [frame(88)],
            "nothing of the one that was let go of"
        );
    });
}

#[test]
fn an_adapter_that_is_meant_by_a_further_name_is_kept() {
    in_namespace(|| {
        ip("link add v0 type veth peer name v1");
        ip("link property add dev v0 altname further");
        ip("link set v1 up");
        let mut a = uplink("further");
        let epoll = Epoll::new();
        a.watch(epoll.watcher()).unwrap();
        until_told("the link is up", &mut a, &epoll, Port::is_up);
        ip("link set v1 down");
        until_told("the link is down", &mut a, &epoll, |a| !a.is_up());
        ip("link set v1 up");
        until_told("the link is back", &mut a, &epoll, Port::is_up);
        assert!(a.adapter().is_some());
    });
}

#[test]
fn an_adapter_that_moves_to_another_namespace_is_let_go_of() {
    in_namespace(|| {
        let (mut a, epoll) = watched();
        let (tell, told) = mpsc::channel();
        let (done, wait) = mpsc::channel::<()>();
        let far = thread::spawn(move || {
            leave_namespace();
            tell.send(thread_id()).unwrap();
            wait.recv().unwrap();
        });
        ip(&format!("link set v0 netns {}", told.recv().unwrap()));
        until_told("it is gone", &mut a, &epoll, |a| !a.is_up());
        assert_eq!(a.adapter(), None);
        done.send(()).unwrap();
        far.join().unwrap();
    });
}

#[test]
fn an_optional_adapter_that_is_absent_is_taken_when_it_shows_up() {
    in_namespace(|| {
        let mut a = Packet::open(&packet::Spec {
            interface: "v0".to_owned(),
            optional: true,
            speed: None,
            driver: Driver::AfPacket,
        })
        .unwrap();
        let epoll = Epoll::new();
        a.watch(epoll.watcher()).unwrap();
        assert_eq!((a.is_up(), a.adapter()), (false, None));
        assert_eq!(a.status().state, PortState::Down);
        assert!(bytes_received(&mut a).is_empty());

        ip("link add w0 type veth peer name v1");
        ip("link set v1 up");
        ip("link set w0 name v0");
        until_told("it is taken", &mut a, &epoll, Port::is_up);
        assert!(a.adapter().is_some());
        let mut b = uplink("v1");
        until("the far side is up", || has_link(&mut b));
        send_plain(&mut b, &[frame(60)]);
        until("a frame arrives", || !bytes_received(&mut a).is_empty());
    });
}

#[test]
fn an_adapter_that_cannot_be_used_when_it_shows_up_stops_nothing() {
    in_namespace(|| {
        let (mut a, epoll) = watched();
        ip("link del v0");
        until_told("the adapter is gone", &mut a, &epoll, |a| !a.is_up());
        ip("tuntap add v0 mode tun");
        epoll.change();
        a.handle_event();
        assert!(!a.is_up() && !has_link(&mut a));
        assert_eq!(a.adapter(), None, "it is not one of Ethernet's");
        ip("tuntap del v0 mode tun");
        ip("link add v0 type veth peer name v1");
        ip("link set v1 up");
        until_told("the next one is taken", &mut a, &epoll, Port::is_up);

        let error = Packet::open(&packet::Spec {
            interface: "lo".to_owned(),
            optional: true,
            speed: None,
            driver: Driver::AfPacket,
        });
        assert!(error.is_err(), "one that is there is judged at once");
    });
}

#[test]
fn an_adapter_tells_its_address_and_its_speed() {
    in_namespace(|| {
        ip("link add v0 type veth peer name v1");
        ip(&format!("link set v0 address {OTHER}"));
        let mut a = uplink("v0");
        let epoll = Epoll::new();
        a.watch(epoll.watcher()).unwrap();
        assert_eq!(a.adapter().unwrap().mac, OTHER);
        ip("link set v1 up");
        until_told("the link is up", &mut a, &epoll, Port::is_up);
        let facts = a.adapter().unwrap();
        assert_eq!((facts.mac, facts.speed), (OTHER, Some(10_000_000_000)));
        ip(&format!("link set v0 address {MAC}"));
        until_told("its address changed", &mut a, &epoll, |a| {
            a.adapter().unwrap().mac == MAC
        });

        ip("link add br0 type bridge");
        let unknown = uplink("br0");
        assert_eq!(unknown.adapter().unwrap().speed, None);
    });
}

#[test]
fn a_bridge_that_loses_the_adapter_as_a_port_takes_nothing_away() {
    in_namespace(|| {
        let (mut a, epoll) = watched();
        ip("link add br0 type bridge");
        ip("link set v0 master br0");
        ip("link set v0 nomaster");
        ip("link set v0 mtu 1400");
        until("the last change is told", || {
            if epoll.wait(100).1 {
                a.handle_event();
            }
            ip("-o link show dev v0").contains("mtu 1400")
        });
        a.handle_event();
        assert!(a.is_up() && a.adapter().is_some());
    });
}

#[test]
fn a_storm_of_other_adapters_that_overflows_the_socket_costs_no_truth() {
    in_namespace(|| {
        let (mut a, epoll) = watched();
        ip("link add x0 type veth peer name x1");
        let storm = || {
            let batch = "link set x0 mtu 1400\nlink set x0 mtu 1300\n".repeat(500);
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            ip.stdin
                .take()
                .unwrap()
                .write_all(batch.as_bytes())
                .unwrap();
            assert!(ip.wait().unwrap().success());
        };
        storm();
        a.handle_event();
        assert!(a.is_up());
        // The change itself is lost: the socket is full by then.
        storm();
        ip("link set v1 down");
        ip(&format!("link set v0 address {OTHER}"));
        until_told("the link is down", &mut a, &epoll, |a| !a.is_up());
        assert_eq!(a.adapter().unwrap().mac, OTHER);
        ip("link set v1 up");
        until_told("the link is back", &mut a, &epoll, Port::is_up);
    });
}

#[test]
fn a_host_adapter_that_the_host_takes_down_or_deletes_is_told() {
    in_namespace(|| {
        let mut port = Tap::open(&tap_spec("t0", "10.9.0.1/24")).unwrap();
        let epoll = Epoll::new();
        port.watch(epoll.watcher()).unwrap();
        until_told("it is up", &mut port, &epoll, Port::is_up);
        ip("link set t0 down");
        until_told("it is down", &mut port, &epoll, |port| !port.is_up());
        ip("link set t0 up");
        until_told("it is up again", &mut port, &epoll, Port::is_up);
        ip("link set t0 down");
        ip("link set t0 name t1");
        ip("link set t1 up");
        until_told("its name does not matter", &mut port, &epoll, Port::is_up);
        ip("link del t1");
        until_told("it is gone", &mut port, &epoll, |port| !port.is_up());
        until("it is made again", || has_link(&mut port));
        ip("link set t0 down");
        until_told("it is followed again", &mut port, &epoll, |port| {
            !port.is_up()
        });
    });
}

#[test]
fn an_uplink_is_an_ethernet_adapter_that_exists() {
    in_namespace(|| {
        for interface in ["v0", "", "a-name-that-is-too-long", "v%d"] {
            let error = Packet::open(&packet::Spec {
                interface: interface.to_owned(),
                optional: false,
                speed: None,
                driver: Driver::AfPacket,
            })
            .err()
            .unwrap();
            assert!(
                matches!(&error, OpenError::NoAdapter(name) if name == interface),
                "{error}"
            );
        }
        let error = Packet::open(&packet::Spec {
            interface: "lo".to_owned(),
            optional: false,
            speed: None,
            driver: Driver::AfPacket,
        })
        .err()
        .unwrap();
        assert_eq!(
            error.to_string(),
            "cannot use the uplink \"lo\": it is not an Ethernet adapter"
        );
    });
}

#[test]
fn an_adapter_that_is_down_is_brought_up() {
    in_namespace(|| {
        ip("link add v0 type veth peer name v1");
        ip("link set v1 up");
        let mut a = uplink("v0");
        until("the link is up", || has_link(&mut a));
        assert!(ip("-o link show dev v0").contains(",UP,"));
        assert!(ip("-o -d link show dev v0").contains("promiscuity 1"));
    });
}

#[test]
fn nobody_is_told_which_privileges_are_missing() {
    in_namespace(|| {
        ip("link add v0 type veth peer name v1");
        become_nobody();
        let error = Packet::open(&packet::Spec {
            interface: "v0".to_owned(),
            optional: false,
            speed: None,
            driver: Driver::AfPacket,
        })
        .err()
        .unwrap();
        assert!(matches!(error, OpenError::Permission { .. }), "{error}");
        for word in ["\"v0\"", "CAP_NET_RAW", "CAP_NET_ADMIN", "setcap"] {
            assert!(error.to_string().contains(word), "{error}");
        }
        let error = Tap::open(&tap_spec("t0", "10.9.0.1/24")).err().unwrap();
        assert!(matches!(error, OpenError::Permission { .. }), "{error}");
        for word in ["\"t0\"", "CAP_NET_ADMIN", "/dev/net/tun"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    });
}

#[test]
fn a_host_adapter_has_the_addresses_and_the_mtu_that_were_asked_for() {
    in_namespace(|| {
        let mut port = Tap::open(&tap::Spec {
            mtu: 1400,
            ..tap_spec("t0", "10.9.1.1/20")
        })
        .unwrap();
        until("it is up", || has_link(&mut port));
        let link = ip("-o link show dev t0");
        assert!(
            link.contains("mtu 1400") && link.contains(&MAC.to_string()),
            "{link}"
        );
        let address = ip("-o -4 addr show dev t0");
        assert!(
            address.contains("inet 10.9.1.1/20 brd 10.9.15.255"),
            "{address}"
        );
        let routes = ip("route show dev t0");
        assert!(
            routes.starts_with("10.9.0.0/20") && routes.lines().count() == 1,
            "{routes}"
        );
        drop(port);
        // A process that another test is starting has the descriptor too, until it begins.
        until("it is gone with its port", || {
            !ip("-o link show").contains("t0")
        });
    });
}

#[test]
fn a_host_adapter_without_an_address_is_left_for_the_host_to_configure() {
    in_namespace(|| {
        let _port = Tap::open(&tap::Spec {
            address: None,
            ..tap_spec("t0", "10.9.0.1/24")
        })
        .unwrap();
        assert_eq!(ip("-o -4 addr show dev t0"), "");
    });
}

#[test]
fn the_gateway_of_an_own_network_does_not_become_the_hosts_way_out() {
    in_namespace(|| {
        let heeds = |name: &str| {
            let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra_defrtr");
            std::fs::read_to_string(path).map(|text| text.trim().to_owned())
        };
        let _own = Tap::open(&tap_spec("t0", "10.9.0.1/24")).unwrap();
        let _lan = Tap::open(&tap::Spec {
            address: None,
            ..tap_spec("t1", "10.9.0.1/24")
        })
        .unwrap();
        match (heeds("t0"), heeds("t1")) {
            (Ok(own), Ok(lan)) => assert_eq!((own.as_str(), lan.as_str()), ("0", "1")),
            _ => println!("skipped: the kernel has no IPv6"),
        }
    });
}

#[test]
fn the_host_asks_for_its_neighbours_through_the_host_adapter_and_hears_them() {
    in_namespace(|| {
        let mut port = Tap::open(&tap_spec("t0", "10.9.0.1/24")).unwrap();
        until("it is up", || has_link(&mut port));
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        socket.send_to(b"anybody?", "10.9.0.2:9").unwrap();
        let mut arrived = Vec::new();
        until("a question arrives", || {
            arrived.extend(bytes_received(&mut port));
            arrived.iter().any(|frame| frame[12..14] == [8, 6])
        });
        let arp = arrived
            .iter()
            .find(|frame| frame[12..14] == [8, 6])
            .unwrap();
        assert_eq!(arp[..6], MacAddr::BROADCAST.0);
        assert_eq!(arp[6..12], MAC.0);
        assert_eq!(arp[38..42], [10, 9, 0, 2]);

        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let to = socket.local_addr().unwrap().port();
        let (frame, header) = udp_frame(
            MAC,
            Ipv4Addr::new(10, 9, 0, 2),
            Ipv4Addr::new(10, 9, 0, 1),
            to,
            &[5; 700],
        );
        let (sent, drops) = send(&mut port, &[frame], header, TagAction::Keep);
        assert_eq!((sent.frames, sent.bytes, drops), (1, 742, vec![]));
        let mut got = vec![0; 2000];
        assert_eq!(socket.recv(&mut got).unwrap(), 700);
        assert_eq!(got[..700], [5; 700]);
    });
}

#[test]
fn a_name_that_is_taken_is_said_in_words() {
    in_namespace(|| {
        let _first = Tap::open(&tap_spec("t0", "10.9.0.1/24")).unwrap();
        let error = Tap::open(&tap_spec("t0", "10.9.0.1/24")).err().unwrap();
        assert!(
            error
                .to_string()
                .contains("another process uses the TAP device"),
            "{error}"
        );
        ip("link add v0 type veth peer name v1");
        let error = Tap::open(&tap_spec("v0", "10.9.0.1/24")).err().unwrap();
        assert!(error.to_string().contains("of another kind"), "{error}");
        let error = Tap::open(&tap_spec("a-name-that-is-too-long", "10.9.0.1/24"))
            .err()
            .unwrap();
        assert!(error.to_string().contains("1 to 15"), "{error}");
    });
}

#[test]
fn a_host_adapter_that_the_host_took_down_or_deleted_comes_back() {
    in_namespace(|| {
        let mut port = Tap::open(&tap_spec("t0", "10.9.0.1/24")).unwrap();
        until("it is up", || has_link(&mut port));
        ip("link set t0 down");
        let (sent, drops) = send_plain(&mut port, &[frame(60), frame(60)]);
        assert_eq!((sent.frames, drops), (0, vec![(DropReason::PortDown, 2)]));
        assert!(!has_link(&mut port), "the host's decision stands");
        ip("link set t0 up");
        until("it is up again", || has_link(&mut port));

        let epoll = Epoll::new();
        port.watch(epoll.watcher()).unwrap();
        epoll.reported();
        ip("link del t0");
        assert!(bytes_received(&mut port).is_empty());
        assert!(!port.is_up() && !port.arm());
        assert!(epoll.reported(), "a worker is told that it is gone");
        until("it is made again", || has_link(&mut port));
        bytes_received(&mut port);
        epoll.reported();
        assert!(ip("-o -4 addr show dev t0").contains("10.9.0.1/24"));
        UdpSocket::bind("10.9.0.1:0")
            .unwrap()
            .send_to(b"anybody?", "10.9.0.2:9")
            .unwrap();
        until("it is still watched", || epoll.reported());
        assert!(!bytes_received(&mut port).is_empty(), "frames flow again");
    });
}

#[test]
fn a_host_adapter_that_is_moved_to_another_namespace_goes_on_there() {
    in_namespace(|| {
        let mut port = Tap::open(&tap_spec("t0", "10.9.0.1/24")).unwrap();
        until("it is up", || has_link(&mut port));
        let mut away = Command::new("unshare")
            .args(["-n", "sleep", "1000"])
            .spawn()
            .unwrap();
        let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).unwrap();
        until("it is elsewhere", || {
            namespace(&away.id().to_string()) != namespace("thread-self")
        });
        ip(&format!("link set t0 netns {}", away.id()));
        assert!(!has_link(&mut port), "a device that is moved is taken down");
        let inside = format!("-t {} -n ip link set t0 up", away.id());
        let status = Command::new("nsenter").args(inside.split(' ')).status();
        assert!(status.unwrap().success());
        until("it is up there", || has_link(&mut port));
        let (sent, drops) = send_plain(&mut port, &[frame(60)]);
        assert_eq!((sent.frames, drops), (1, vec![]));
        away.kill().unwrap();
        away.wait().unwrap();
    });
}

/// Carries what one port received to another, putting a tag on or taking it off; tells the longest frame.
fn carry(from: &mut dyn Port, to: &mut dyn Port, tag: Option<Tci>, drops: &mut Drops) -> u32 {
    let mut burst = Burst::default();
    from.receive(&mut burst, drops).unwrap();
    for frame in burst.frames_mut() {
        assert_eq!(
            offload::check(&mut frame.head, 1500),
            Ok(()),
            "{:?}",
            frame.head
        );
    }
    let batch: Vec<_> = burst
        .frames()
        .iter()
        .enumerate()
        .map(|(index, frame)| {
            let action = match (frame.head.parse().unwrap().tag, tag) {
                (Tag::Untagged, Some(tci)) => TagAction::Insert(tci),
                (Tag::Tagged(_), None) => TagAction::Strip,
                (Tag::Untagged, None) | (Tag::Tagged(_), Some(_)) => TagAction::Keep,
            };
            Egress {
                frame: u16::try_from(index).unwrap(),
                action,
            }
        })
        .collect();
    let longest = burst
        .frames()
        .iter()
        .filter(|frame| frame.head.offload.gso_type == GSO_TCPV4);
    let longest = longest.map(|frame| frame.head.frame_len).max().unwrap_or(0);
    if !batch.is_empty() {
        to.transmit(&burst, &batch, drops).unwrap();
    }
    from.release(&mut burst);
    longest
}

/// Two hosts, each behind a host adapter, exchange data over a wire between two uplinks.
fn exchange(tag: Option<Tci>, drivers: [Driver; 2]) {
    const LEN: usize = 8 << 20;
    let data: Vec<u8> = (0..LEN)
        .map(|i| u8::try_from((i / 7 + i / 4099) % 256).unwrap())
        .collect();

    pair();
    let (mut uplink_a, mut uplink_b) = open_pair(drivers);
    let mut tap_a = Tap::open(&tap_spec("t0", "10.9.0.1/24")).unwrap();
    let (done, finished) = mpsc::channel();
    let (give_tap, take_tap) = mpsc::channel();
    let expected = data.clone();
    let far = thread::spawn(move || {
        leave_namespace();
        let tap = Tap::open(&tap::Spec {
            mac: OTHER,
            ..tap_spec("t0", "10.9.0.2/24")
        })
        .unwrap();
        let listener = TcpListener::bind("10.9.0.2:5000").unwrap();
        give_tap.send(tap).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut got = vec![0; LEN];
        stream.read_exact(&mut got).unwrap();
        assert!(got == expected, "the data arrive whole");
        stream.write_all(&got).unwrap();
    });
    let mut tap_b = take_tap.recv().unwrap();
    until("the host adapters are up", || {
        has_link(&mut tap_a) && has_link(&mut tap_b)
    });
    // A thread stays in the namespace of the one that started it.
    let near = thread::spawn(move || {
        let mut stream = TcpStream::connect("10.9.0.2:5000").unwrap();
        let mut back = vec![0; LEN];
        stream.write_all(&data).unwrap();
        stream.read_exact(&mut back).unwrap();
        assert!(back == data, "the data come back whole");
        done.send(()).unwrap();
    });

    let (mut drops, mut longest) = (Drops::default(), [0; 4]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while finished.try_recv().is_err() {
        assert!(Instant::now() < deadline, "{longest:?} {drops:?}");
        assert!(
            !near.is_finished() || finished.try_recv().is_ok(),
            "the near host failed: {drops:?}"
        );
        let seen = [
            carry(&mut tap_a, &mut uplink_a, tag, &mut drops),
            carry(&mut uplink_b, &mut tap_b, None, &mut drops),
            carry(&mut tap_b, &mut uplink_b, tag, &mut drops),
            carry(&mut uplink_a, &mut tap_a, None, &mut drops),
        ];
        for (longest, seen) in longest.iter_mut().zip(seen) {
            *longest = seen.max(*longest);
        }
    }
    far.join().unwrap();
    near.join().unwrap();
    let whole = |(port, len): (usize, &u32)| {
        // What AF_XDP carries is cut before it crosses.
        let crossed = port % 2 == 1;
        let cut = crossed && drivers.contains(&Driver::AfXdp);
        cut || *len > 9000
    };
    assert!(
        longest.iter().enumerate().all(whole),
        "super-frames cross whole: {longest:?}"
    );
    let wrong = drops
        .iter()
        .find(|(reason, _)| *reason != DropReason::DeviceBusy);
    assert_eq!(wrong, None);
}

#[test]
fn hosts_exchange_data_in_super_frames() {
    in_namespace(|| exchange(None, [Driver::AfPacket; 2]));
}

#[test]
fn hosts_exchange_data_in_super_frames_that_are_cut_for_a_lane() {
    for drivers in [
        [Driver::AfXdp, Driver::AfPacket],
        [Driver::AfXdp, Driver::AfXdp],
    ] {
        in_namespace(move || exchange(None, drivers));
    }
}

#[test]
fn hosts_exchange_data_by_a_lane_in_tagged_frames() {
    in_namespace(|| exchange(Some(Tci(10)), [Driver::AfXdp, Driver::AfPacket]));
}

#[test]
fn hosts_exchange_data_in_super_frames_that_travel_tagged() {
    in_namespace(|| exchange(Some(Tci(10)), [Driver::AfPacket; 2]));
}

/// The far side of a wire is a host of its own: what leaves here is segmented and finished by the kernel alone.
#[test]
fn a_host_behind_the_wire_that_takes_no_super_frames_gets_right_segments() {
    in_namespace(|| {
        const LEN: usize = 4 << 20;
        let data: Vec<u8> = (0..LEN)
            .map(|i| u8::try_from((i / 3 + i / 5003) % 256).unwrap())
            .collect();
        ip("link add v0 type veth peer name v1");
        for feature in ["tso", "gso", "tx", "sg"] {
            let _ = Command::new("ethtool")
                .args(["-K", "v0", feature, "off"])
                .output();
        }
        let mut uplink = uplink("v0");
        let mut tap = Tap::open(&tap_spec("t0", "10.9.0.1/24")).unwrap();
        let (tell, told) = mpsc::channel();
        let (moved, wait) = mpsc::channel::<()>();
        let expected = data.clone();
        let far = thread::spawn(move || {
            leave_namespace();
            tell.send(thread_id()).unwrap();
            wait.recv().unwrap();
            ip("addr add 10.9.0.2/24 dev v1");
            ip("link set v1 up");
            let listener = TcpListener::bind("10.9.0.2:5000").unwrap();
            tell.send(0).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = vec![0; LEN];
            stream.read_exact(&mut got).unwrap();
            assert!(got == expected, "the data arrive whole");
            stream.write_all(b"thanks").unwrap();
        });
        ip(&format!("link set v1 netns {}", told.recv().unwrap()));
        moved.send(()).unwrap();
        told.recv().unwrap();
        until("both are up", || {
            has_link(&mut uplink) && has_link(&mut tap)
        });
        let near = thread::spawn(move || {
            let mut stream = TcpStream::connect("10.9.0.2:5000").unwrap();
            stream.write_all(&data).unwrap();
            stream.read_exact(&mut [0; 6]).unwrap();
        });
        let (mut drops, mut longest) = (Drops::default(), 0);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !near.is_finished() {
            assert!(Instant::now() < deadline, "{longest} {drops:?}");
            longest = longest.max(carry(&mut tap, &mut uplink, None, &mut drops));
            carry(&mut uplink, &mut tap, None, &mut drops);
        }
        near.join().unwrap();
        far.join().unwrap();
        assert!(longest > 9000, "the host sent super-frames: {longest}");
    });
}

/// Another network namespace, which ends with its process.
struct Elsewhere(std::process::Child);

impl Elsewhere {
    fn new() -> Self {
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let child = Command::new("unshare")
            .args(["-n", "sleep", "600"])
            .spawn()
            .unwrap();
        let path = format!("/proc/{}/ns/net", child.id());
        until("the namespace is there", || {
            std::fs::read_link(&path).is_ok_and(|its| its != own)
        });
        Self(child)
    }

    fn run(&self, command: &str) {
        let status = Command::new("nsenter")
            .args(["-t", &self.0.id().to_string(), "-n", "sh", "-c", command])
            .status()
            .unwrap();
        assert!(status.success(), "{command}");
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a guest is told by the sockets of a NAT, without its Ethernet header.
fn answer(nat: &mut Sockets, inside: &Inside, now: Now, frame: Vec<u8>) -> Vec<u8> {
    // What cannot be sent may be told of all the same.
    let _ = nat.send_owned(frame, VirtioNetHeader::default(), inside, now);
    let mut answer = Vec::new();
    until("the guest is told", || {
        let mut burst = Burst::default();
        nat.receive(&mut burst, inside, now);
        if let Some(frame) = burst.frames().first() {
            burst.copy_frame(frame, TagAction::Keep, &mut answer);
        }
        burst.clear();
        nat.release();
        !answer.is_empty()
    });
    answer.split_off(14)
}

#[test]
fn a_guest_behind_a_nat_traces_its_route_and_learns_what_passes() {
    in_namespace(|| {
        let (router, far) = (Elsewhere::new(), Elsewhere::new());
        let (router_id, far_id) = (router.0.id(), far.0.id());
        ip(&format!(
            "link add a0 type veth peer name b0 netns {router_id}"
        ));
        ip("link set lo up");
        ip("addr add 10.77.1.1/24 dev a0");
        ip("link set a0 up");
        ip("route add default via 10.77.1.2");
        router.run(&format!(
            "ip link set b0 up && ip addr add 10.77.1.2/24 dev b0 \
             && ip link add b1 mtu 1300 type veth peer name c0 mtu 1300 netns {far_id} \
             && ip link set b1 up && ip addr add 10.77.2.2/24 dev b1 \
             && echo 1 > /proc/sys/net/ipv4/ip_forward \
             && echo 0 > /proc/sys/net/ipv4/icmp_ratelimit"
        ));
        far.run(
            "ip link set c0 up && ip addr add 10.77.2.1/24 dev c0 \
             && ip route add default via 10.77.2.2 \
             && echo 0 > /proc/sys/net/ipv4/icmp_ratelimit",
        );
        let spec = sockets::Spec {
            nat: nat::Spec {
                gateways: nat::Gateways {
                    v4: Some((
                        Ipv4Addr::new(192, 168, 81, 2),
                        "192.168.81.0/24".parse().unwrap(),
                    )),
                    ..nat::Gateways::default()
                },
                outside: nat::Outside::Host,
                forwards: Vec::new(),
                filtering: nat::Filtering::default(),
                timeouts: nat::Timeouts::default(),
                limits: nat::Limits::default(),
                closed: Vec::new(),
                map_host_loopback: false,
                ftp: false,
                log: false,
            },
            mac: OTHER,
            mtu: 1500,
            transit: true,
            streams: false,
            seed: 1,
        };
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::now(),
        };
        let inside = Inside::default();
        let (guest, there) = (
            Ipv4Addr::new(192, 168, 81, 128),
            Ipv4Addr::new(10, 77, 2, 1),
        );
        let frame = |protocol: u8, hops: u8, payload: &[u8]| {
            let mut packet = ipv4::emit(guest, there, protocol, payload).unwrap();
            packet[8] = hops;
            packet[10..12].fill(0);
            let sum = checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            ethernet::emit(OTHER, MAC, 0x0800, &packet)
        };
        let probe = udp::emit((guest, 40_000), (there, 33_434), &[7; 32]).unwrap();
        let mut echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1, 7, 7];
        let sum = checksum(&echo);
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        let own = [192, 168, 81, 2];
        let (near, end) = ([10, 77, 1, 2], [10, 77, 2, 1]);
        // Protocol, hops, payload; who answers, and what.
        let hops = [
            (17, 1, &probe, own, [11, 0]),
            (17, 2, &probe, near, [11, 0]),
            (17, 3, &probe, end, [3, 3]),
            (1, 1, &echo, own, [11, 0]),
            (1, 2, &echo, near, [11, 0]),
            (1, 3, &echo, end, [0, 0]),
        ];
        // By a raw socket, and by ping sockets.
        let mut ways = ["1 0", "0 0"].map(|groups| {
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", groups).unwrap();
            let mut nat = Sockets::open(&spec, now).unwrap();
            let echo = frame(1, 64, &echo);
            assert_eq!(answer(&mut nat, &inside, now, echo)[20..22], [0, 0]);
            nat
        });
        let probes = (0..ways.len()).flat_map(|way| hops.map(|hop| (way, hop)));
        for (way, (protocol, hops, payload, from, kind)) in probes {
            let told = answer(&mut ways[way], &inside, now, frame(protocol, hops, payload));
            assert_eq!(told[12..16], from, "{protocol} {hops}");
            assert_eq!(told[16..20], guest.octets());
            assert_eq!(told[20..22], kind, "{protocol} {hops}");
            if kind == [0, 0] {
                assert_eq!(told[24..30], echo[4..]);
                continue;
            }
            let about = &told[28..];
            assert_eq!(about[9], protocol);
            assert_eq!(about[12..16], guest.octets());
            assert_eq!(about[16..20], there.octets());
            let ports = if protocol == 1 { 24..28 } else { 20..24 };
            let at = ports.start - 20;
            assert_eq!(about[ports], payload[at..at + 4], "{protocol} {hops}");
        }
        let large = udp::emit((guest, 40_000), (there, 33_434), &[7; 1400]).unwrap();
        for _ in 0..2 {
            // The second time the host knows it by itself.
            let told = answer(&mut ways[0], &inside, now, frame(17, 64, &large));
            assert_eq!(told[20..22], [3, 4]);
            assert_eq!(told[26..28], 1300u16.to_be_bytes());
        }
    });
}

struct Forgetful;

impl Journal for Forgetful {
    fn append(&mut self, _network: &str, _ticket: u64, _record: Record) -> bool {
        false
    }
}

fn forward(protocol: nat::Protocol, port: u16) -> Forward {
    Forward {
        protocol,
        ip: Ipv4Addr::new(10, 99, 0, 1).into(),
        first: 0,
        last: 0,
        targets: vec![Target {
            host: Host::Vm {
                name: "guest".to_owned(),
                mac: MAC,
            },
            port,
        }],
        balance: Balance::default(),
        health: None,
    }
}

/// A NAT network onto the host's sockets whose guest is behind the TAP device t0.
fn behind_nat(forward: Forward, log: bool) -> engine::Spec {
    let (gateway, net) = (
        Ipv4Addr::new(192, 168, 81, 2),
        "192.168.81.0/24".parse().unwrap(),
    );
    let nat = nat::Spec {
        gateways: nat::Gateways {
            v4: Some((gateway, net)),
            ..nat::Gateways::default()
        },
        outside: nat::Outside::Host,
        forwards: vec![forward],
        filtering: nat::Filtering::default(),
        timeouts: nat::Timeouts::default(),
        limits: nat::Limits::default(),
        closed: Vec::new(),
        map_host_loopback: false,
        ftp: false,
        log,
    };
    let network = NetworkSpec {
        name: "nat".to_owned(),
        mtu: 1500,
        gateway: Some(gateway::Spec {
            mac: OTHER,
            services: vec![gateway::ServiceSpec::Address(address::Spec {
                ip: gateway,
                v6: None,
                link_local: None,
            })],
            inside: inside::Spec {
                vms: vec![("guest".to_owned(), MAC)],
                reservations: Vec::new(),
            },
            nat: Some(nat),
        }),
        ports: vec![NetworkPort {
            name: "guest".to_owned(),
            port_group: None,
            member: Member {
                mac: Some(MAC),
                ..Member::default()
            },
            follow_uplinks: false,
            port: PortSpec::Tap(tap_spec("t0", "192.168.81.128/24")),
        }],
        ..NetworkSpec::default()
    };
    engine::Spec {
        networks: vec![network],
    }
}

#[test]
fn a_guest_reaches_the_host_through_its_gateway_and_is_reached_by_forwarded_ports() {
    const SERVER: &str = "10.99.0.1:7000";
    in_namespace(|| {
        ip("link set lo up");
        ip("addr add 10.99.0.1/32 dev lo");
        let spec = behind_nat(forward(nat::Protocol::Udp, 6000), true);
        let durable = Durable::new().unwrap();
        let engine = Engine::start(spec, Box::new(Forgetful), &durable).unwrap();
        let (told, tell) = (mpsc::channel(), mpsc::channel());
        let guest = thread::spawn(move || {
            leave_namespace();
            told.0.send(thread_id()).unwrap();
            tell.1.recv().unwrap();
            ip("link set lo up");
            ip("addr add 192.168.81.128/24 dev t0");
            ip("link set t0 up");
            ip("route add default via 192.168.81.2");
            let socket = UdpSocket::bind("0.0.0.0:6000").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let mut buffer = vec![0; 9000];
            // In parts, there and back.
            for len in [1, 1400, 5000] {
                let payload = vec![u8::try_from(len % 251).unwrap(); len];
                // The first frames may come before the adapter is up.
                until("it is answered", || {
                    socket.send_to(&payload, SERVER).is_ok()
                });
                let (got, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(
                    (&buffer[..got], from),
                    (&payload[..], SERVER.parse().unwrap())
                );
            }
            told.0.send(0).unwrap();
            // Somebody calls, and is answered.
            let (got, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..got], from).unwrap();
            let (got, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..got], from).unwrap();
        });
        let server = UdpSocket::bind(SERVER).unwrap();
        server
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        ip(&format!("link set t0 netns {}", told.1.recv().unwrap()));
        tell.0.send(()).unwrap();
        let mut buffer = vec![0; 9000];
        for _ in 0..3 {
            let (len, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..len], from).unwrap();
        }
        told.1.recv().unwrap();
        let view = || engine.snapshot().unwrap().networks.remove(0).nat.unwrap();
        assert_eq!((view().created, view().sent), (1, 6401));
        let added = engine
            .add_forward("nat", forward(nat::Protocol::Udp, 6000))
            .unwrap();
        let listens = [view().forwards[0].listen, added.listen];
        for listen in listens {
            let client = UdpSocket::bind("10.99.0.1:0").unwrap();
            client
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            client.send_to(b"hello", listen).unwrap();
            let (len, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"hello"[..], listen));
        }
        guest.join().unwrap();
        assert_eq!(engine.flows("nat").unwrap().len(), 3);
        let remove = |listen| engine.remove_forward("nat", nat::Protocol::Udp, listen);
        remove(added.listen).unwrap();
        let error = remove(added.listen).unwrap_err().to_string();
        assert!(error.contains("forwards no udp port"), "{error}");
        assert_eq!(engine.flows("nat").unwrap().len(), 2);
        assert!(engine.flows("lan").is_none());
        engine.stop();
    });
}

/// Sends `len` bytes and then the end, and reads until the other's end; tells whether what came is the same.
fn exchange_streams(stream: &TcpStream, len: usize) -> bool {
    let pattern: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let timeout = Some(Duration::from_secs(30));
    stream.set_read_timeout(timeout).unwrap();
    stream.set_write_timeout(timeout).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = stream;
            writer.write_all(&pattern).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        let mut reader = stream;
        reader.read_to_end(&mut got).unwrap();
        got == pattern
    })
}

#[test]
fn the_streams_of_a_guest_are_carried_on_by_sockets_and_forwarded_ports_lead_to_it() {
    const SERVER: &str = "10.99.0.1:7000";
    const LEN: usize = 24 << 20;
    in_namespace(|| {
        ip("link set lo up");
        ip("addr add 10.99.0.1/32 dev lo");
        let spec = behind_nat(forward(nat::Protocol::Tcp, 6000), false);
        let durable = Durable::new().unwrap();
        let engine = Engine::start(spec, Box::new(Forgetful), &durable).unwrap();
        let server = TcpListener::bind(SERVER).unwrap();
        let (told, tell) = (mpsc::channel(), mpsc::channel());
        let guest = thread::spawn(move || {
            leave_namespace();
            told.0.send(thread_id()).unwrap();
            tell.1.recv().unwrap();
            ip("link set lo up");
            ip("addr add 192.168.81.128/24 dev t0");
            ip("link set t0 up");
            ip("route add default via 192.168.81.2");
            let listener = TcpListener::bind("0.0.0.0:6000").unwrap();
            let mut stream = None;
            until("it is connected", || {
                stream = TcpStream::connect(SERVER).ok();
                stream.is_some()
            });
            assert!(
                exchange_streams(&stream.unwrap(), LEN),
                "what the server sent"
            );
            let refused = TcpStream::connect("10.99.0.1:7999").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
            told.0.send(0).unwrap();
            let (stream, _) = listener.accept().unwrap();
            assert!(exchange_streams(&stream, LEN), "what the client sent");
        });
        ip(&format!("link set t0 netns {}", told.1.recv().unwrap()));
        tell.0.send(()).unwrap();
        let (stream, _) = server.accept().unwrap();
        assert!(exchange_streams(&stream, LEN), "what the guest sent");
        told.1.recv().unwrap();
        let view = || engine.snapshot().unwrap().networks.remove(0).nat.unwrap();
        let listen = view().forwards[0].listen;
        let client = TcpStream::connect(listen).unwrap();
        assert!(exchange_streams(&client, LEN), "what the guest answered");
        guest.join().unwrap();
        drop((stream, client));
        until("nothing is left", || view().flows == [0, 0, 0]);
        let moved = 2 * u64::try_from(LEN).unwrap();
        assert_eq!((view().sent, view().received), (moved, moved));
        engine.stop();
    });
}

/// Whether a port passes the kernel's stack by.
fn has_lane(port: &Packet) -> bool {
    port.driver().is_some_and(|driver| driver.name == "af_xdp")
}

/// Waits until a port that is never asked to look by itself has a lane and a link.
fn until_lane(port: &mut Packet, epoll: &Epoll) {
    until_told("the lane is there", port, epoll, |port| {
        has_lane(port) && port.is_up()
    });
}

/// Receives until so many frames are there.
fn arrivals(port: &mut dyn Port, count: usize) -> Vec<Vec<u8>> {
    let mut arrived = Vec::new();
    until("the frames arrive", || {
        arrived.extend(bytes_received(port));
        arrived.len() >= count
    });
    arrived
}

/// A pair of adapters that are up, of this MTU.
fn wire(mtu: u16) {
    ip(&format!(
        "link add v0 mtu {mtu} type veth peer name v1 mtu {mtu}"
    ));
    ip("link set v0 up");
    ip("link set v1 up");
}

#[test]
fn frames_of_every_length_pass_by_lanes_at_either_end_and_at_both() {
    for drivers in [
        [Driver::AfXdp, Driver::AfPacket],
        [Driver::AfPacket, Driver::AfXdp],
        [Driver::AfXdp, Driver::AfXdp],
    ] {
        in_namespace(move || {
            wire(1500);
            let (mut a, mut b) = open_pair(drivers);
            for (port, driver) in [(&a, drivers[0]), (&b, drivers[1])] {
                assert_eq!(has_lane(port), driver == Driver::AfXdp);
            }
            let lengths = (14..=1514).step_by(50).chain([127, 128, 129, 1514]);
            let frames: Vec<_> = lengths.map(frame).collect();
            let bytes: usize = frames.iter().map(Vec::len).sum();
            for _ in 0..100 {
                let (sent, drops) = send_plain(&mut b, &frames);
                assert_eq!(
                    (sent.frames, sent.bytes),
                    (frames.len() as u64, bytes as u64)
                );
                assert_eq!(drops, []);
                assert_eq!(arrivals(&mut a, frames.len()), frames);
                let (sent, drops) = send_plain(&mut a, &frames);
                assert_eq!((sent.frames, drops), (frames.len() as u64, vec![]));
                assert_eq!(arrivals(&mut b, frames.len()), frames);
            }
            assert_eq!(bytes_received(&mut a), Vec::<Vec<u8>>::new());
        });
    }
}

#[test]
fn jumbo_frames_pass_by_a_lane_in_pieces() {
    in_namespace(|| {
        wire(9000);
        let (mut a, mut b) = open_pair([Driver::AfXdp, Driver::AfPacket]);
        assert!(has_lane(&a));
        let lengths = [60, 3839, 3840, 3841, 4095, 4096, 4097, 8192, 8193, 9014];
        let frames: Vec<_> = lengths.map(frame).into();
        for _ in 0..100 {
            let (sent, drops) = send_plain(&mut a, &frames);
            assert_eq!((sent.frames, drops), (10, vec![]));
            assert_eq!(arrivals(&mut b, 10), frames);
            send_plain(&mut b, &frames);
            assert_eq!(arrivals(&mut a, 10), frames);
        }
        let (sent, drops) = send_plain(&mut a, &[frame(9015), frame(60)]);
        assert_eq!((sent.frames, drops), (1, vec![(DropReason::TooBig, 1)]));
    });
}

#[test]
fn tags_pass_a_lane_where_they_are() {
    in_namespace(|| {
        wire(1500);
        let (mut a, mut b) = open_pair([Driver::AfXdp, Driver::AfPacket]);
        let mut tagged = Vec::new();
        for tags in [
            &[0x81, 0, 0x60, 0x0a][..],
            &[0x88, 0xa8, 0, 7],
            &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9],
        ] {
            let mut frame = frame(1500);
            frame.splice(12..12, tags.iter().copied());
            tagged.push(frame);
        }
        send_plain(&mut b, &tagged);
        assert_eq!(arrivals(&mut a, 3), tagged);
        send_plain(&mut a, &tagged);
        assert_eq!(arrivals(&mut b, 3), tagged);
        let (full, tag) = (frame(1514), TagAction::Insert(Tci(0x600a)));
        let (sent, drops) = send(&mut a, &[full], VirtioNetHeader::default(), tag);
        assert_eq!((sent.frames, drops), (1, vec![]));
        assert_eq!(arrivals(&mut b, 1)[0].len(), 1518);
    });
}

#[test]
fn what_a_lane_refuses_is_counted_and_what_follows_is_sent() {
    in_namespace(|| {
        wire(1500);
        let (mut a, mut b) = open_pair([Driver::AfXdp, Driver::AfPacket]);
        let frames = [100, 3000, 100, 1515, 100].map(frame);
        let (sent, drops) = send_plain(&mut a, &frames);
        assert_eq!((sent.frames, sent.bytes), (3, 300));
        assert_eq!(drops, [(DropReason::TooBig, 2)]);
        assert_eq!(arrivals(&mut b, 3), vec![frame(100); 3]);
        let nonsense = VirtioNetHeader {
            flags: NEEDS_CSUM,
            csum_start: 5000,
            csum_offset: 6,
            ..VirtioNetHeader::default()
        };
        for _ in 0..3000 {
            let (sent, drops) = send(&mut a, &[frame(100)], nonsense, TagAction::Keep);
            assert_eq!((sent.frames, drops), (0, vec![(DropReason::BadOffload, 1)]));
        }
        send_plain(&mut a, &[frame(60)]);
        assert_eq!(arrivals(&mut b, 1), [frame(60)]);
    });
}

#[test]
fn more_than_a_lane_holds_is_dropped_and_it_goes_on() {
    in_namespace(|| {
        wire(1500);
        let (mut a, mut b) = open_pair([Driver::AfXdp, Driver::AfPacket]);
        send_plain(&mut b, &vec![frame(1000); 5000]);
        let arrived = bytes_received(&mut a);
        assert!(arrived.len() >= 1000, "{}", arrived.len());
        assert!(arrived.iter().all(|one| *one == frame(1000)));
        send_plain(&mut b, &[frame(61)]);
        assert_eq!(arrivals(&mut a, 1), [frame(61)]);

        let (sent, drops) = send_plain(&mut a, &vec![frame(1000); 5000]);
        let dropped: u64 = drops.iter().map(|(_, count)| count).sum();
        assert_eq!(sent.frames + dropped, 5000);
        assert!(sent.frames > 1000, "{drops:?}");
        bytes_received(&mut b);
        send_plain(&mut a, &[frame(62)]);
        assert_eq!(arrivals(&mut b, 1), [frame(62)]);
    });
}

#[test]
fn a_lane_takes_the_frames_of_every_queue() {
    in_namespace(|| {
        let queues = "numrxqueues 4 numtxqueues 4";
        ip(&format!(
            "link add v0 {queues} type veth peer name v1 {queues}"
        ));
        ip("link set v0 up");
        ip("link set v1 up");
        let (mut a, mut b) = open_pair([Driver::AfXdp, Driver::AfPacket]);
        let mut eye = uplink("v0");
        until("the host looks", || has_link(&mut eye));
        let src = Ipv4Addr::new(10, 9, 0, 1);
        let mut frames: Vec<_> = (1..=200)
            .map(|host| udp_frame(OTHER, src, Ipv4Addr::new(10, 9, 1, host), 5, &[1; 30]).0)
            .collect();
        send_plain(&mut b, &frames);
        let mut arrived = arrivals(&mut a, frames.len());
        arrived.sort_unstable();
        frames.sort_unstable();
        assert!(arrived == frames);
        assert!(
            bytes_received(&mut eye).is_empty(),
            "no queue was left to the host"
        );
    });
}

/// Makes the far end of a wire a host of its own, which is there as long as its work takes.
fn host_behind_a_wire(work: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    let (tell, told) = mpsc::channel();
    let (there, is_there) = mpsc::channel::<()>();
    let far = thread::spawn(move || {
        leave_namespace();
        tell.send(thread_id()).unwrap();
        is_there.recv().unwrap();
        ip("link set lo up");
        ip("addr add 10.9.0.2/24 dev v1");
        ip("link set v1 up");
        work();
    });
    let id = told.recv().unwrap();
    ip(&format!("link add v0 type veth peer name v1 netns {id}"));
    there.send(()).unwrap();
    far
}

#[test]
fn a_lane_leaves_the_host_its_traffic() {
    in_namespace(|| {
        const LEN: usize = 1 << 20;
        let (listening, is_listening) = mpsc::channel();
        let (done, is_done) = mpsc::channel::<()>();
        let far = host_behind_a_wire(move || {
            let listener = TcpListener::bind("10.9.0.2:5000").unwrap();
            listening.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut data = vec![0; LEN];
            stream.read_exact(&mut data).unwrap();
            stream.write_all(&data).unwrap();
            is_done.recv().unwrap();
        });
        is_listening.recv().unwrap();
        let mut a = uplink_by(Driver::AfXdp, "v0");
        until("the link is up", || has_link(&mut a));
        ip("addr add 10.9.0.1/24 dev v0");
        let near = thread::spawn(|| {
            let mut stream = TcpStream::connect("10.9.0.2:5000").unwrap();
            let data: Vec<u8> = (0..LEN).map(|i| u8::try_from(i % 253).unwrap()).collect();
            stream.write_all(&data).unwrap();
            let mut back = vec![0; LEN];
            stream.read_exact(&mut back).unwrap();
            assert!(back == data);
        });
        let mut seen = Vec::new();
        until("the host has its answer", || {
            seen.extend(bytes_received(&mut a));
            near.is_finished()
        });
        near.join().unwrap();
        assert!(has_lane(&a));
        let own = a.adapter().unwrap().mac;
        done.send(()).unwrap();
        far.join().unwrap();
        assert!(
            seen.iter().any(|frame| frame[..6] == own.0),
            "what is for the host is seen, as it always was"
        );
    });
}

#[test]
fn what_is_for_groups_goes_to_the_host_and_to_the_port_and_what_is_for_others_to_the_port_alone() {
    in_namespace(|| {
        wire(1500);
        let (mut a, mut b) = open_pair([Driver::AfXdp, Driver::AfPacket]);
        let mut eye = uplink("v0");
        until("the host looks", || has_link(&mut eye));
        let to = |destination: MacAddr| {
            let mut frame = frame(60);
            frame[..6].copy_from_slice(&destination.0);
            frame
        };
        let own = to(a.adapter().unwrap().mac);
        let broadcast = to(MacAddr::BROADCAST);
        let lldp = to(MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]));
        send_plain(
            &mut b,
            &[frame(60), broadcast.clone(), lldp.clone(), own.clone()],
        );
        let mut arrived = arrivals(&mut a, 4);
        arrived.sort_unstable();
        let mut expected = [frame(60), broadcast.clone(), lldp.clone(), own.clone()];
        expected.sort_unstable();
        assert_eq!(arrived, expected);
        assert_eq!(arrivals(&mut eye, 3), [broadcast, lldp, own]);

        let epoll = Epoll::new();
        a.watch(epoll.watcher()).unwrap();
        ip(&format!("link set v0 address {OTHER}"));
        until_told("its address changed", &mut a, &epoll, |a| {
            a.adapter().unwrap().mac == OTHER
        });
        until_lane(&mut a, &epoll);
        send_plain(&mut b, &[frame(61)]);
        assert_eq!(arrivals(&mut eye, 1), [frame(61)], "it is the host's now");
        assert_eq!(arrivals(&mut a, 1), [frame(61)]);
    });
}

#[test]
fn a_checksum_that_a_host_on_the_same_machine_left_undone_is_noticed() {
    in_namespace(|| {
        let (go, wait) = mpsc::channel::<()>();
        let far = host_behind_a_wire(move || {
            wait.recv().unwrap();
            ip(&format!("neigh add 10.9.0.7 lladdr {OTHER} dev v1"));
            let socket = UdpSocket::bind("10.9.0.2:4000").unwrap();
            socket.send_to(&[7; 300], "10.9.0.7:4001").unwrap();
        });
        let mut a = uplink_by(Driver::AfXdp, "v0");
        until("the link is up", || has_link(&mut a));
        go.send(()).unwrap();
        let mut arrived = Vec::new();
        until("the datagram arrives", || {
            let frames = received(&mut a, &mut Drops::default());
            arrived.extend(
                frames
                    .into_iter()
                    .filter(|(frame, _)| frame[..6] == OTHER.0),
            );
            !arrived.is_empty()
        });
        far.join().unwrap();
        let (mut frame, header) = arrived.remove(0);
        assert!(header.needs_checksum());
        assert_eq!((header.csum_start, header.csum_offset), (34, 6));
        offload::complete_checksum(&mut frame, header).unwrap();
        let len = u16::try_from(frame.len() - 34).unwrap();
        let sum = Sum::default()
            .over(&frame[26..34])
            .add_word(17)
            .add_word(len)
            .over(&frame[34..]);
        assert_eq!(sum.finish(), 0, "it is right");
    });
}

#[test]
fn a_checksum_is_completed_before_a_lane_carries_it() {
    in_namespace(|| {
        wire(1500);
        let mut a = uplink_by(Driver::AfXdp, "v0");
        let mut b = uplink("v1");
        until("the pair is up", || has_link(&mut a) && has_link(&mut b));
        let (src, dst) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2));
        let (frame, header) = udp_frame(OTHER, src, dst, 4001, &[9; 1001]);
        let mut whole = frame.clone();
        offload::complete_checksum(&mut whole, header).unwrap();
        send(&mut a, &[frame], header, TagAction::Keep);
        let mut arrived = Vec::new();
        until("the datagram arrives", || {
            arrived.extend(received(&mut b, &mut Drops::default()));
            !arrived.is_empty()
        });
        assert!(!arrived[0].1.needs_checksum());
        assert_eq!(arrived[0].0, whole);
    });
}

#[test]
fn a_lane_follows_an_adapter_that_is_deleted_and_made_again() {
    in_namespace(|| {
        wire(1500);
        let mut a = uplink_by(Driver::AfXdp, "v0");
        let epoll = Epoll::new();
        a.watch(epoll.watcher()).unwrap();
        until_lane(&mut a, &epoll);
        for index in [1000, 1000, 1001] {
            ip("link del v0");
            until_told("the adapter is gone", &mut a, &epoll, |a| !a.is_up());
            assert_eq!((a.adapter(), a.driver()), (None, None));
            ip(&format!("link add v0 index {index} type veth peer name v1"));
            ip("link set v1 up");
            until_lane(&mut a, &epoll);
            let mut b = uplink("v1");
            until("the far side is up", || has_link(&mut b));
            bytes_received(&mut a);
            epoll.reported();
            send_plain(&mut b, &[frame(77)]);
            until("its sockets are watched", || epoll.reported());
            assert_eq!(arrivals(&mut a, 1), [frame(77)]);
            send_plain(&mut a, &[frame(78)]);
            assert_eq!(arrivals(&mut b, 1), [frame(78)]);
        }
    });
}

#[test]
fn a_lane_is_gone_while_its_link_is_down_for_nobody_but_frames() {
    in_namespace(|| {
        wire(1500);
        let (mut a, mut b) = open_pair([Driver::AfXdp, Driver::AfPacket]);
        ip("link set v0 down");
        assert!(a.is_up(), "nobody has looked yet");
        let (sent, drops) = send_plain(&mut a, &vec![frame(60); 40]);
        assert_eq!((sent.frames, drops), (0, vec![(DropReason::PortDown, 40)]));
        assert!(!a.is_up());
        ip("link set v0 up");
        until("the link is up", || has_link(&mut a) && has_link(&mut b));
        bytes_received(&mut b);
        send_plain(&mut a, &[frame(61)]);
        until("frames flow again", || {
            bytes_received(&mut b).contains(&frame(61))
        });
    });
}

/// Whether a program runs at the adapter.
fn has_program(adapter: &str) -> bool {
    ip(&format!("-o -d link show dev {adapter}")).contains("xdp")
}

#[test]
fn the_program_goes_with_the_port() {
    in_namespace(|| {
        wire(1500);
        let a = uplink_by(Driver::AfXdp, "v0");
        assert!(has_program("v0"));
        drop(a);
        until("the program is gone", || !has_program("v0"));
        until("it can be taken again", || {
            Packet::open(&uplink_spec(Driver::AfXdp, "v0")).is_ok()
        });
    });
}

/// The other half of the test below: in a process of its own, it holds an adapter until it is killed.
#[test]
fn an_adapter_is_held_until_the_process_is_killed() {
    let Ok(interface) = std::env::var("HELD_ADAPTER") else {
        return;
    };
    let _held = uplink_by(Driver::AfXdp, &interface);
    loop {
        thread::park();
    }
}

#[test]
fn the_program_goes_with_a_process_that_is_killed() {
    in_namespace(|| {
        wire(1500);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "an_adapter_is_held_until_the_process_is_killed"])
            .env("HELD_ADAPTER", "v0")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("the program is there", || has_program("v0"));
        process.kill().unwrap();
        process.wait().unwrap();
        until("the program is gone", || !has_program("v0"));
    });
}

#[test]
fn two_uplinks_by_lanes_do_not_share_an_adapter() {
    in_namespace(|| {
        wire(1500);
        let _a = uplink_by(Driver::AfXdp, "v0");
        let error = Packet::open(&uplink_spec(Driver::AfXdp, "v0"))
            .err()
            .unwrap();
        assert_eq!(
            error.to_string(),
            "cannot use AF_XDP for the uplink \"v0\": cannot bind a socket to a queue of it: another socket of AF_XDP has \
             it; two uplinks cannot share an adapter"
        );
    });
}

#[test]
fn an_adapter_without_zero_copy_has_no_lane_unless_it_is_asked_for() {
    in_namespace(|| {
        wire(1500);
        let (mut a, mut b) = open_pair([Driver::Auto, Driver::AfPacket]);
        let driver = a.driver().unwrap();
        assert_eq!(driver.name, "af_packet");
        assert_eq!(
            driver.why,
            "AF_XDP cannot bind a socket to a queue of it: its driver has no zero copy"
        );
        assert!(a.advisories().is_empty());
        assert!(!has_program("v0"));
        send_plain(&mut b, &[frame(60)]);
        assert_eq!(arrivals(&mut a, 1), [frame(60)]);
    });
}

/// Takes every privilege from this thread but `CAP_NET_RAW`.
#[expect(unsafe_code, reason = "std does not know capabilities")]
fn keep_only_raw_sockets() {
    const CAP_NET_RAW: u32 = 13;
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let kept = 1 << CAP_NET_RAW;
    let sets: [u32; 6] = [kept, kept, 0, 0, 0, 0];
    // SAFETY: the header and the sets are as long as the version says, and the kernel only reads them.
    let answer = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn who_may_not_load_programs_has_no_lane_and_is_told_why() {
    in_namespace(|| {
        wire(1500);
        keep_only_raw_sockets();
        let error = Packet::open(&uplink_spec(Driver::AfXdp, "v0"))
            .err()
            .unwrap();
        assert!(matches!(error, OpenError::Permission { .. }), "{error}");
        for word in ["\"v0\"", "AF_XDP", "CAP_BPF", "setcap", "af_packet"] {
            assert!(error.to_string().contains(word), "{error}");
        }
        let a = uplink_by(Driver::Auto, "v0");
        let driver = a.driver().unwrap();
        assert_eq!(driver.name, "af_packet");
        assert!(driver.why.contains("not permitted"), "{}", driver.why);
    });
}

#[test]
fn an_adapter_whose_driver_runs_no_programs_has_a_lane_in_the_stack() {
    in_namespace(|| {
        wire(1500);
        ip("link add br0 type bridge");
        ip("link set v0 master br0");
        let (mut a, mut b) = (uplink_by(Driver::AfXdp, "br0"), uplink("v1"));
        until("both are up", || has_link(&mut a) && has_link(&mut b));
        assert!(a.driver().unwrap().why.contains("in its stack"));
        let frames = [60, 128, 1000, 1514].map(frame);
        // The bridge learns where who is, and hands itself what is for nobody that it knows.
        send_plain(&mut b, &frames);
        assert_eq!(arrivals(&mut a, 4), frames);
        send_plain(&mut a, &frames);
        assert_eq!(arrivals(&mut b, 4), frames);
    });
}

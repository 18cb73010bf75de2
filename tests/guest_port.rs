//! A guest port from the other side: frames, offloads, connections that come and go, and guests that misbehave.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::*;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vm_memory::{Bytes, GuestAddress};
use vmlan::net::drops::DropReason;
use vmlan::ports::PortState;
use vmlan::ports::guest::{self, Guest, Role};
use vmlan::wire::arp::{Arp, REVERSE_REQUEST};
use vmlan::wire::checksum::Sum;
use vmlan::wire::virtio_net::{GSO_TCPV4, NEEDS_CSUM, VirtioNetHeader};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

#[test]
fn frames_of_every_size_arrive_as_they_were_sent() {
    for (from, to) in [(PLAIN, PLAIN), (PACKED, PLAIN), (PLAIN, PACKED)] {
        let lan = Lan::new(2);
        let (mut a, mut b) = (lan.guest(1, from), lan.guest(2, to));
        for len in [60, 61, 64, 127, 128, 129, 142, 590, 1513, 1514] {
            b.offer_buffers(1, 2048);
            a.send(&frame(1, 2, len));
            assert_eq!(b.receive(), frame(1, 2, len), "{len} bytes");
        }
        let (sent, got) = (lan.port(1), lan.port(2));
        assert_eq!((sent.ingress.frames, got.egress.frames), (10, 10));
        assert_eq!(sent.ingress.bytes, got.egress.bytes);
    }
}

#[test]
fn a_ring_of_every_legal_size_works_round_after_round() {
    for size in [2, 4, 64, 256, 1024, 32768] {
        let lan = Lan::new(2);
        let mut b = lan.guest(2, PLAIN);
        let mut a = Vm::over(UnixStream::connect(lan.socket(1)).unwrap(), size);
        a.start(PLAIN);
        for _ in 0..10 {
            b.offer_buffers(1, 2048);
            a.send(&frame(1, 2, 100));
            assert_eq!(b.receive(), frame(1, 2, 100), "ring of {size}");
        }
    }
}

#[test]
fn a_packed_ring_of_any_size_works_round_after_round() {
    for (size, features) in [
        (1, PACKED),
        (5, PACKED),
        (6, PACKED | IN_ORDER),
        (256, PACKED),
        (4096, PACKED),
    ] {
        let lan = Lan::new(2);
        let connect = |number| {
            let mut vm = Vm::over(UnixStream::connect(lan.socket(number)).unwrap(), size);
            vm.start(features);
            vm
        };
        let (mut a, mut b) = (connect(1), connect(2));
        lan.wait_for_state(2, PortState::Up);
        for round in 0..20 {
            let len = 60 + round * 40;
            b.offer_buffers(1, 2048);
            a.send(&frame(1, 2, len));
            assert_eq!(b.receive(), frame(1, 2, len), "ring of {size}");
        }
    }
}

#[test]
fn one_used_descriptor_of_a_packed_ring_stands_for_all_of_a_burst_in_order() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (
        lan.guest(1, PACKED | IN_ORDER),
        lan.guest(2, PACKED | IN_ORDER),
    );
    b.offer_buffers(200, 2048);
    for round in 0..20 {
        for slot in 0..10u16 {
            let (at, len) = a.place(
                slot,
                VirtioNetHeader::default(),
                &frame(1, 2, 60 + usize::from(slot)),
            );
            a.write_descriptor(a.rings[TX].descriptors(), slot, at, len, 0, 0);
            a.offer(TX, slot);
        }
        for slot in 0..10 {
            let used = eventually("the frame is taken", || a.used(TX));
            assert_eq!(used.0, slot, "round {round}");
            assert_eq!(b.receive(), frame(1, 2, 60 + usize::from(slot)));
        }
        b.offer_buffers(10, 2048);
    }
}

#[test]
fn a_frame_that_needs_several_buffers_gets_them_and_says_so() {
    for to in [PLAIN, PACKED, PACKED | IN_ORDER] {
        let lan = Lan::with(2, Role::Server, 9000);
        let (mut a, mut b) = (lan.guest(1, PLAIN), lan.guest(2, to));
        b.offer_buffers(8, 1526);
        a.send(&frame(1, 2, 5000));
        let (_, count, bytes) = b.receive_with();
        assert_eq!(count, 4);
        assert_eq!(bytes, frame(1, 2, 5000));
    }
}

#[test]
fn without_mergeable_buffers_a_frame_must_fit_one_chain() {
    let lan = Lan::new(2);
    let mut a = lan.guest(1, PLAIN);
    let mut b = lan.guest(2, PROTOCOL_FEATURES | VERSION_1);
    // A header descriptor of its own, as older drivers lay it out.
    let table = b.rings[RX].descriptors();
    b.write_descriptor(table, 0, 0x20_0000, 12, WRITE | NEXT, 1);
    b.write_descriptor(table, 1, 0x20_1000, 700, WRITE | NEXT, 2);
    b.write_descriptor(table, 2, 0x20_2000, 900, WRITE, 0);
    b.offer(RX, 0);
    a.send(&frame(1, 2, 1700));
    a.send(&frame(1, 2, 1514));
    assert_eq!(b.receive(), frame(1, 2, 1514));
    assert_eq!(lan.drops(1, "too_big"), 1);

    b.write_descriptor(table, 3, 0x20_4000, 512, WRITE, 0);
    b.offer(RX, 3);
    a.send(&frame(1, 2, 1000));
    eventually("the drop is counted", || {
        (lan.drops(2, "buffer_too_small") == 1).then_some(())
    });
    a.send(&frame(1, 2, 400));
    assert_eq!(
        b.receive(),
        frame(1, 2, 400),
        "the buffer was kept for a frame that fits"
    );
}

#[test]
fn a_legacy_driver_has_a_header_of_ten_bytes() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (
        lan.guest(1, PROTOCOL_FEATURES),
        lan.guest(2, PROTOCOL_FEATURES),
    );
    assert_eq!((a.header_len, b.header_len), (10, 10));
    b.offer_buffers(1, 2048);
    a.send(&frame(1, 2, 300));
    assert_eq!(b.receive(), frame(1, 2, 300));
}

#[test]
fn a_chain_may_be_split_at_any_byte_direct_or_indirect() {
    for features in [PLAIN | INDIRECT_DESC, PACKED | INDIRECT_DESC] {
        let lan = Lan::new(2);
        let (a, b) = (lan.guest(1, features), lan.guest(2, PLAIN));
        chains_split_at_any_byte(a, b);
    }
}

fn chains_split_at_any_byte(mut a: Vm, mut b: Vm) {
    let table = a.rings[TX].descriptors();
    for split in [1, 9, 10, 11, 12, 13, 25, 26, 100, 139, 140, 141, 200] {
        for indirect in [false, true] {
            let (at, len) = a.place(0, VirtioNetHeader::default(), &frame(1, 2, 400));
            let chain = if indirect {
                GuestAddress(0x7f_0000)
            } else {
                table
            };
            a.write_descriptor(chain, 0, at, split, NEXT, 1);
            a.write_descriptor(chain, 1, at + u64::from(split), 3, NEXT, 2);
            a.write_descriptor(chain, 2, at + u64::from(split) + 3, len - split - 3, 0, 0);
            if indirect {
                a.write_descriptor(table, 7, chain.0, 48, INDIRECT, 0);
            }
            b.offer_buffers(1, 2048);
            a.offer(TX, if indirect { 7 } else { 0 });
            assert_eq!(
                b.receive(),
                frame(1, 2, 400),
                "split at {split}, indirect: {indirect}"
            );
        }
    }
}

#[test]
fn the_driver_is_notified_when_it_asked_for_it_and_only_then() {
    for features in [PLAIN, PLAIN | EVENT_IDX] {
        let lan = Lan::new(2);
        let (mut a, mut b) = (lan.guest(1, PLAIN), lan.guest(2, features));
        // One notification follows every start.
        let _ = b.rings[RX].call.read();
        let available = b.rings[RX].available_ring();
        let event_at = 4 + u64::from(b.rings[RX].size) * 2;
        b.write(1u16, available, 0);
        b.write(100u16, available, event_at);
        b.offer_buffers(2, 2048);
        a.send(&frame(1, 2, 60));
        b.receive();
        b.write(0u16, available, 0);
        b.write(1u16, available, event_at);
        a.send(&frame(1, 2, 60));
        b.receive();
        let calls = eventually("a notification", || b.rings[RX].call.read().ok());
        assert_eq!(calls, 1, "event index: {}", features & EVENT_IDX != 0);
    }
}

/// A TCP super-frame from guest 1 to guest 2 with a partial checksum.
fn super_frame(payload: usize) -> (Vec<u8>, VirtioNetHeader) {
    let mut bytes = frame(1, 2, 14 + 20 + 20 + payload);
    let total = u16::try_from(bytes.len() - 14).unwrap();
    bytes[14..34].copy_from_slice(&[
        0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    bytes[16..18].copy_from_slice(&total.to_be_bytes());
    let sum = Sum::default().over(&bytes[14..34]).finish();
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes[34..54].copy_from_slice(&[
        0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
    ]);
    let pseudo = Sum::default()
        .over(&bytes[26..34])
        .add_word(6)
        .add_word(total - 20)
        .fold();
    bytes[50..52].copy_from_slice(&pseudo.to_be_bytes());
    let header = VirtioNetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
    };
    (bytes, header)
}

#[test]
fn a_super_frame_passes_whole_to_a_guest_that_takes_it() {
    let lan = Lan::new(2);
    let offloads = PLAIN | CSUM | HOST_TSO4;
    let (mut a, mut b) = (
        lan.guest(1, offloads),
        lan.guest(2, PLAIN | GUEST_CSUM | GUEST_TSO4),
    );
    let (bytes, header) = super_frame(64_000);
    b.offer_buffers(64, 2048);
    a.send_with(header, &bytes);
    let (got, count, received) = b.receive_with();
    assert_eq!((got, count), (header, 32));
    assert_eq!(received, bytes);
}

#[test]
fn a_guest_without_offloads_gets_whole_segments_with_right_checksums() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (lan.guest(1, PLAIN | CSUM | HOST_TSO4), lan.guest(2, PLAIN));
    let (bytes, header) = super_frame(10_000);
    b.offer_buffers(16, 2048);
    a.send_with(header, &bytes);
    let mut payload = Vec::new();
    while payload.len() < 10_000 {
        let (got, _, segment) = b.receive_with();
        assert_eq!(got, VirtioNetHeader::default());
        assert!(segment.len() <= 1514);
        let len = u16::try_from(segment.len() - 34).unwrap();
        assert_eq!(
            Sum::default()
                .over(&segment[26..34])
                .add_word(6)
                .add_word(len)
                .over(&segment[34..])
                .finish(),
            0
        );
        payload.extend_from_slice(&segment[54..]);
    }
    assert_eq!(payload, bytes[54..]);
}

#[test]
fn a_header_that_lies_costs_its_sender_the_frame_and_nobody_anything_else() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (lan.guest(1, PLAIN | CSUM | HOST_TSO4), lan.guest(2, PLAIN));
    b.offer_buffers(4, 2048);
    let (bytes, header) = super_frame(3000);
    a.send_with(
        VirtioNetHeader {
            csum_start: 60_000,
            ..header
        },
        &bytes,
    );
    a.send_with(
        VirtioNetHeader {
            gso_size: 0,
            ..header
        },
        &bytes,
    );
    a.send_with(
        VirtioNetHeader {
            gso_type: 3,
            ..header
        },
        &bytes,
    );
    assert_eq!(lan.drops(1, "bad_offload"), 3);
    a.send(&frame(1, 2, 60));
    assert_eq!(b.receive(), frame(1, 2, 60));
}

#[test]
fn a_receiver_without_buffers_loses_frames_and_delays_nobody() {
    let lan = Lan::new(3);
    let (mut a, mut b, mut c) = (
        lan.guest(1, PLAIN),
        lan.guest(2, PLAIN),
        lan.guest(3, PLAIN),
    );
    c.offer_buffers(1, 2048);
    for _ in 0..5 {
        a.send(&frame(1, 2, 60));
    }
    a.send(&frame(1, 3, 60));
    assert_eq!(c.receive(), frame(1, 3, 60));
    assert_eq!(lan.drops(2, "no_buffer"), 5);
    b.offer_buffers(1, 2048);
    a.send(&frame(1, 2, 60));
    assert_eq!(b.receive(), frame(1, 2, 60));
}

#[test]
fn a_guest_that_leaves_and_comes_back_goes_on_where_its_ring_was() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (lan.guest(1, PLAIN), lan.guest(2, PLAIN));
    for _ in 0..3 {
        b.offer_buffers(1, 2048);
        a.send(&frame(1, 2, 60));
        b.receive();
    }
    // The VMM's connection breaks; guest memory and rings stay, with one more frame waiting in them.
    let Vm {
        memory,
        rings,
        frontend,
        features,
        ..
    } = a;
    drop(frontend);
    lan.wait_for_state(1, PortState::Waiting);
    let mut a = Vm::connect(&lan.socket(1));
    a.memory = memory;
    a.rings = rings;
    let head = a.rings[TX].available % a.rings[TX].size;
    let (at, len) = a.place(head, VirtioNetHeader::default(), &frame(1, 2, 99));
    a.write_descriptor(a.rings[TX].descriptors(), head, at, len, 0, 0);
    b.offer_buffers(1, 2048);
    a.offer(TX, head);
    // The base that some VMMs send after a reconnect is the available index, and would lose the frame.
    let seen = a.rings[TX].seen;
    a.rings[TX].seen = a.rings[TX].available;
    a.start(features);
    a.rings[TX].seen = seen;
    assert_eq!(b.receive(), frame(1, 2, 99));
}

#[test]
fn a_stopped_ring_reports_where_it_stopped() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (lan.guest(1, PLAIN), lan.guest(2, PLAIN));
    b.offer_buffers(5, 2048);
    for _ in 0..3 {
        a.send(&frame(1, 2, 60));
        b.receive();
    }
    assert_eq!(a.frontend.get_vring_base(TX).unwrap(), 3);
    assert_eq!(
        b.frontend.get_vring_base(RX).unwrap(),
        3,
        "buffers that were not used are not taken"
    );
    lan.wait_for_state(1, PortState::Connected);
    a.start_ring(TX);
    b.start_ring(RX);
    a.send(&frame(1, 2, 61));
    assert_eq!(b.receive(), frame(1, 2, 61));
}

#[test]
fn a_packed_ring_reports_and_is_told_both_of_its_positions_and_goes_on_after_a_stop() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (lan.guest(1, PACKED), lan.guest(2, PACKED));
    b.offer_buffers(5, 2048);
    for _ in 0..3 {
        a.send(&frame(1, 2, 60));
        b.receive();
    }
    let both = |(slot, wrap)| {
        let position = u32::from(PackedState::bits((slot, wrap)));
        position | position << 16
    };
    assert_eq!(a.frontend.get_vring_base(TX).unwrap(), both((3, true)));
    assert_eq!(b.frontend.get_vring_base(RX).unwrap(), both((3, true)));
    lan.wait_for_state(1, PortState::Connected);
    a.start_ring(TX);
    b.start_ring(RX);
    a.send(&frame(1, 2, 61));
    assert_eq!(b.receive(), frame(1, 2, 61));
}

/// Leaves a guest as a VMM does whose daemon is gone, and brings what is left of it up at another.
fn resume(vm: Vm, socket: &Path) -> Vm {
    let Vm {
        memory,
        rings,
        frontend,
        features,
        ..
    } = vm;
    drop(frontend);
    let mut vm = Vm::connect(socket);
    vm.memory = memory;
    vm.rings = rings;
    vm.start(features);
    vm
}

#[test]
fn packed_rings_go_on_where_they_were_when_another_daemon_serves_them() {
    for features in [PACKED, PACKED | IN_ORDER, PACKED | EVENT_IDX] {
        let mut lan = Lan::new(2);
        let (mut a, mut b) = (lan.guest(1, features), lan.guest(2, features));
        b.offer_buffers(256, 2048);
        // As many as do not come out even with the rings' rounds.
        for daemon in 0..4 {
            for _ in 0..150 {
                a.send(&frame(1, 2, 60));
                assert_eq!(b.receive(), frame(1, 2, 60));
                b.offer_buffers(1, 2048);
            }
            // One more waits in the ring while nobody is there.
            let next = Lan::new(2);
            drop(std::mem::replace(&mut lan, next));
            let head = a.rings[TX].available % a.rings[TX].size;
            let (at, len) = a.place(head, VirtioNetHeader::default(), &frame(1, 2, 99));
            a.write_descriptor(a.rings[TX].descriptors(), head, at, len, 0, 0);
            a.offer(TX, head);
            b = resume(b, &lan.socket(2));
            lan.wait_for_state(2, PortState::Up);
            a = resume(a, &lan.socket(1));
            assert_eq!(b.receive(), frame(1, 2, 99), "daemon {daemon}");
            eventually("the frame is taken", || a.used(TX));
            b.offer_buffers(1, 2048);
        }
    }
}

#[test]
fn packed_rings_that_make_no_sense_stop_their_own_port_only() {
    let descriptor = |address, len, flags| {
        move |vm: &mut Vm| {
            vm.write_descriptor(vm.rings[TX].descriptors(), 0, address, len, flags, 0);
            vm.offer(TX, 0);
        }
    };
    let harm = |what, harm: &dyn Fn(&mut Vm)| survives(what, PACKED | INDIRECT_DESC, harm);
    harm("a chain without end", &descriptor(0x50_0000, 100, NEXT));
    harm(
        "an address outside of memory",
        &descriptor(0x4000_0000, 100, 0),
    );
    harm("an address that wraps", &descriptor(u64::MAX - 10, 100, 0));
    harm("an empty buffer", &descriptor(0x50_0000, 0, 0));
    harm(
        "a buffer of the wrong direction",
        &descriptor(0x50_0000, 100, WRITE),
    );
    harm(
        "an indirect table of an odd length",
        &descriptor(0x50_0000, 17, INDIRECT),
    );
}

#[test]
fn a_second_connection_waits_for_the_first_and_disturbs_nobody() {
    let lan = Lan::new(2);
    let (mut first, mut b) = (lan.guest(1, PLAIN), lan.guest(2, PLAIN));
    let mut second = Vm::connect(&lan.socket(1));
    second.start(PLAIN);
    b.offer_buffers(4, 2048);
    first.send(&frame(1, 2, 60));
    assert_eq!(b.receive(), frame(1, 2, 60));

    let head = second.rings[TX].available;
    let (at, len) = second.place(head, VirtioNetHeader::default(), &frame(1, 2, 70));
    second.write_descriptor(second.rings[TX].descriptors(), head, at, len, 0, 0);
    second.offer(TX, head);
    first.send(&frame(1, 2, 61));
    assert_eq!(b.receive(), frame(1, 2, 61), "the second one's frame waits");
    assert_eq!(second.used_index(TX), 0);

    first.frontend.get_vring_base(RX).unwrap();
    first.frontend.get_vring_base(TX).unwrap();
    assert_eq!(
        b.receive(),
        frame(1, 2, 70),
        "its turn came when the first had let go"
    );
    drop(first);
    let (at, len) = second.place(1, VirtioNetHeader::default(), &frame(1, 2, 71));
    second.write_descriptor(second.rings[TX].descriptors(), 1, at, len, 0, 0);
    second.offer(TX, 1);
    assert_eq!(b.receive(), frame(1, 2, 71));
}

#[test]
fn the_vmm_may_listen_and_is_found_again() {
    let directory_of = Lan::with(1, Role::Client, 1500);
    let listener = UnixListener::bind(directory_of.socket(1)).unwrap();
    for _ in 0..2 {
        let (stream, _) = listener.accept().unwrap();
        let mut vm = Vm::over(stream, 256);
        vm.start(PLAIN);
        directory_of.wait_for_state(1, PortState::Up);
    }
}

/// Breaks guest 1 by `harm`; its port must stop with its rings, the others must not notice, and it must work again
/// once its rings are set up anew.
fn survives(what: &str, features: u64, harm: impl FnOnce(&mut Vm)) {
    let lan = Lan::new(3);
    let (mut a, mut b, mut c) = (
        lan.guest(1, features),
        lan.guest(2, PLAIN),
        lan.guest(3, PLAIN),
    );
    c.offer_buffers(8, 2048);
    harm(&mut a);
    lan.wait_for_state(1, PortState::Connected);
    b.send(&frame(2, 3, 60));
    assert_eq!(c.receive(), frame(2, 3, 60), "{what}: the others go on");

    for ring in [RX, TX] {
        a.frontend.get_vring_base(ring).unwrap();
        let zeros = vec![0; 0x8_0000];
        a.memory
            .write_slice(&zeros, a.rings[ring].descriptors())
            .unwrap();
        (a.rings[ring].available, a.rings[ring].seen) = (0, 0);
        a.rings[ring].packed = PackedState::default();
    }
    a.start_ring(RX);
    a.start_ring(TX);
    lan.wait_for_state(1, PortState::Up);
    a.send(&frame(1, 3, 60));
    assert_eq!(c.receive(), frame(1, 3, 60), "{what}: a reset heals it");
}

#[test]
fn rings_that_make_no_sense_stop_their_own_port_only() {
    let survives = |what: &str, harm: fn(&mut Vm)| survives(what, PLAIN | INDIRECT_DESC, harm);
    survives("an available index that jumps", |vm| {
        vm.rings[TX].available = 1000;
        vm.publish(TX);
    });
    survives("a head that does not exist", |vm| vm.offer(TX, 256));
    survives("a chain that loops", |vm| {
        let table = vm.rings[TX].descriptors();
        vm.write_descriptor(table, 0, 0x50_0000, 100, NEXT, 1);
        vm.write_descriptor(table, 1, 0x50_0000, 100, NEXT, 0);
        vm.offer(TX, 0);
    });
    survives("a next descriptor that does not exist", |vm| {
        vm.write_descriptor(vm.rings[TX].descriptors(), 0, 0x50_0000, 100, NEXT, 300);
        vm.offer(TX, 0);
    });
    survives("an address outside of memory", |vm| {
        vm.write_descriptor(vm.rings[TX].descriptors(), 0, 0x4000_0000, 100, 0, 0);
        vm.offer(TX, 0);
    });
    survives("a buffer that is empty", |vm| {
        let table = vm.rings[TX].descriptors();
        vm.write_descriptor(table, 0, 0x50_0000, 0, 0, 0);
        vm.offer(TX, 0);
    });
    survives("an address that wraps", |vm| {
        vm.write_descriptor(vm.rings[TX].descriptors(), 0, u64::MAX - 10, 100, 0, 0);
        vm.offer(TX, 0);
    });
    survives("a buffer to be written in the transmit queue", |vm| {
        vm.write_descriptor(vm.rings[TX].descriptors(), 0, 0x50_0000, 100, WRITE, 0);
        vm.offer(TX, 0);
    });
    survives("an indirect table of an odd length", |vm| {
        vm.write_descriptor(vm.rings[TX].descriptors(), 0, 0x50_0000, 17, INDIRECT, 0);
        vm.offer(TX, 0);
    });
    survives("an indirect table in an indirect table", |vm| {
        vm.write_descriptor(GuestAddress(0x7f_0000), 0, 0x7f_0000, 16, INDIRECT, 0);
        vm.write_descriptor(vm.rings[TX].descriptors(), 0, 0x7f_0000, 16, INDIRECT, 0);
        vm.offer(TX, 0);
    });
}

#[test]
fn a_receive_ring_that_makes_no_sense_stops_its_own_port_only() {
    let lan = Lan::new(3);
    let (mut a, mut b, mut c) = (
        lan.guest(1, PLAIN),
        lan.guest(2, PLAIN),
        lan.guest(3, PLAIN),
    );
    c.offer_buffers(2, 2048);
    a.write_descriptor(a.rings[RX].descriptors(), 0, 0x20_0000, 2048, 0, 0);
    a.offer(RX, 0);
    b.send(&frame(2, 1, 60));
    lan.wait_for_state(1, PortState::Connected);
    b.send(&frame(2, 3, 60));
    assert_eq!(c.receive(), frame(2, 3, 60));
}

#[test]
fn frames_that_are_none_are_dropped_and_their_buffers_given_back() {
    let lan = Lan::new(2);
    let mut a = lan.guest(1, PLAIN);
    let table = a.rings[TX].descriptors();
    for (head, len) in [(0, 1), (1, 5), (2, 12), (3, 25)] {
        a.write_descriptor(table, head, 0x50_0000, len, 0, 0);
        a.offer(TX, head);
        eventually("the buffer comes back", || a.used(TX));
    }
    assert_eq!(lan.drops(1, "runt"), 4);
    a.write_descriptor(table, 4, 0x20_0000, 0x2_0000, 0, 0);
    a.offer(TX, 4);
    eventually("the buffer comes back", || a.used(TX));
    assert_eq!(lan.drops(1, "too_big"), 1);
    assert_eq!(lan.port(1).state, PortState::Up);
}

/// A message as it is on the wire: request, flags (version 1, and 8 to have it acknowledged), payload of numbers.
fn message(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap();
    [
        &request.to_ne_bytes(),
        &(1 | flags).to_ne_bytes(),
        &size.to_ne_bytes(),
        payload,
    ]
    .concat()
}

fn reply(stream: &mut UnixStream) -> (u32, u64) {
    let mut bytes = [0; 20];
    stream.read_exact(&mut bytes).unwrap();
    (
        u32::from_ne_bytes(bytes[..4].try_into().unwrap()),
        u64::from_ne_bytes(bytes[12..].try_into().unwrap()),
    )
}

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const SEND_RARP: u32 = 19;
const NET_SET_MTU: u32 = 20;
const ACK: u32 = 8;

fn ring_enable(index: u32, enable: u32) -> Vec<u8> {
    [index.to_ne_bytes(), enable.to_ne_bytes()].concat()
}

/// Says what QEMU says before a driver is there: rings are enabled long before features are acknowledged.
fn qemu_start(stream: &mut UnixStream) {
    stream.write_all(&message(GET_FEATURES, 0, &[])).unwrap();
    assert_ne!(reply(stream).1 & PROTOCOL_FEATURES, 0);
    stream
        .write_all(&message(GET_PROTOCOL_FEATURES, 0, &[]))
        .unwrap();
    let protocol = reply(stream).1;
    assert_eq!(
        protocol & (1 << 2 | 1 << 3 | 1 << 4),
        1 << 2 | 1 << 3 | 1 << 4,
        "RARP, REPLY_ACK and MTU"
    );
    assert_eq!(
        protocol & 1 << 9,
        0,
        "QEMU has a configuration space of its own"
    );
    stream
        .write_all(&message(SET_PROTOCOL_FEATURES, 0, &protocol.to_ne_bytes()))
        .unwrap();
    stream.write_all(&message(SET_OWNER, 0, &[])).unwrap();
    for ring in [0, 1] {
        stream
            .write_all(&message(SET_VRING_ENABLE, 0, &ring_enable(ring, 1)))
            .unwrap();
    }
}

#[test]
fn rings_that_qemu_enables_early_run_once_features_are_there() {
    let lan = Lan::new(2);
    let mut stream = UnixStream::connect(lan.socket(1)).unwrap();
    qemu_start(&mut stream);
    stream
        .write_all(&message(SET_FEATURES, ACK, &PLAIN.to_ne_bytes()))
        .unwrap();
    assert_eq!(reply(&mut stream), (SET_FEATURES, 0));
    // The rest of the session by a frontend that does not enable the rings again.
    let mut vm = Vm::over(stream, 256);
    vm.share_memory();
    vm.start_ring_without_enabling(RX);
    vm.start_ring_without_enabling(TX);
    lan.wait_for_state(1, PortState::Up);
    let mut b = lan.guest(2, PLAIN);
    b.offer_buffers(1, 2048);
    vm.send(&frame(1, 2, 60));
    assert_eq!(b.receive(), frame(1, 2, 60));
}

#[test]
fn a_guest_that_moved_here_is_announced_even_before_its_memory_is_known() {
    let lan = Lan::new(2);
    let mut b = lan.guest(2, PLAIN);
    b.offer_buffers(1, 2048);
    let mut stream = UnixStream::connect(lan.socket(1)).unwrap();
    qemu_start(&mut stream);
    let mut payload = mac(1).0.to_vec();
    payload.extend([0, 0]);
    stream
        .write_all(&message(SEND_RARP, ACK, &payload))
        .unwrap();
    assert_eq!(reply(&mut stream), (SEND_RARP, 0));
    let announcement = Arp::parse(&b.receive()[14..]).unwrap();
    assert_eq!(
        (announcement.operation, announcement.sender_mac),
        (REVERSE_REQUEST, mac(1))
    );
}

#[test]
fn an_mtu_that_the_network_carries_is_accepted_and_a_larger_one_is_not() {
    let lan = Lan::new(1);
    let mut stream = UnixStream::connect(lan.socket(1)).unwrap();
    qemu_start(&mut stream);
    for (mtu, refused) in [(1500u64, 0), (1501, 1), (9000, 1), (1400, 0), (0, 1)] {
        stream
            .write_all(&message(NET_SET_MTU, ACK, &mtu.to_ne_bytes()))
            .unwrap();
        assert_eq!(reply(&mut stream), (NET_SET_MTU, refused), "{mtu}");
    }
}

#[test]
fn a_connection_that_breaks_the_protocol_is_closed_and_the_next_one_works() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let table = [
        &1u32.to_ne_bytes()[..],
        &[0; 4],
        &[0; 8],
        &4096u64.to_ne_bytes(),
        &[0; 16],
    ]
    .concat();
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("an unknown request", message(10_000, 0, &[]), false),
        (
            "a payload that is too large",
            [200u32, 1, 100_000]
                .into_iter()
                .flat_map(u32::to_ne_bytes)
                .collect(),
            false,
        ),
        (
            "a wrong version",
            [1u32, 2, 0]
                .into_iter()
                .flat_map(u32::to_ne_bytes)
                .collect(),
            false,
        ),
        (
            "a ring that is not there",
            message(SET_VRING_ENABLE, 0, &ring_enable(2, 1)),
            false,
        ),
        (
            "features that were not offered",
            message(SET_FEATURES, 0, &u64::MAX.to_ne_bytes()),
            false,
        ),
        ("a memory table without files", message(5, 0, &table), false),
        (
            "a memory table with a file that is none",
            message(5, 0, &table),
            true,
        ),
        (
            "a kick that is no eventfd",
            message(12, 0, &0u64.to_ne_bytes()),
            true,
        ),
        ("a ring before any memory", message(9, 0, &[0; 40]), false),
        (
            "an announcement of nobody",
            message(SEND_RARP, 0, &[0; 8]),
            false,
        ),
    ];
    let lan = Lan::new(2);
    for (what, bytes, with_file) in cases {
        let mut stream = UnixStream::connect(lan.socket(1)).unwrap();
        let files = if with_file {
            vec![null.as_raw_fd()]
        } else {
            Vec::new()
        };
        stream.send_with_fds(&[bytes.as_slice()], &files).unwrap();
        let mut rest = Vec::new();
        // Closed with bytes unread, a socket reports a reset.
        let closed = stream
            .read_to_end(&mut rest)
            .map_or(true, |count| count == 0);
        assert!(closed, "{what}: the connection is closed");
    }
    let (mut a, mut b) = (lan.guest(1, PLAIN), lan.guest(2, PLAIN));
    b.offer_buffers(1, 2048);
    a.send(&frame(1, 2, 60));
    assert_eq!(b.receive(), frame(1, 2, 60));
}

#[test]
fn cloud_hypervisor_starts_a_guest_in_its_own_order_and_without_every_interrupt() {
    let lan = Lan::new(2);
    let mut vm = Vm::connect(&lan.socket(1));
    vm.negotiate(PLAIN | EVENT_IDX);
    vm.share_memory();
    for ring in [RX, TX] {
        vm.set_ring_size(ring);
    }
    for ring in [RX, TX] {
        vm.set_ring_addresses(ring);
        vm.frontend.set_vring_base(ring, 0).unwrap();
        // The transmit queue's interrupt is off: there is no call descriptor for it.
        if ring == RX {
            vm.frontend
                .set_vring_call(ring, &vm.rings[ring].call)
                .unwrap();
        }
        vm.frontend
            .set_vring_kick(ring, &vm.rings[ring].kick)
            .unwrap();
    }
    for _ in 0..2 {
        for ring in [RX, TX] {
            vm.frontend.set_vring_enable(ring, true).unwrap();
        }
    }
    lan.wait_for_state(1, PortState::Up);
    let mut b = lan.guest(2, PLAIN);
    b.offer_buffers(1, 2048);
    vm.send(&frame(1, 2, 60));
    assert_eq!(b.receive(), frame(1, 2, 60));
}

#[test]
fn a_frontend_that_asks_finds_address_and_mtu_in_the_configuration_space() {
    let lan = Lan::new(1);
    let mut vm = Vm::connect(&lan.socket(1));
    vm.frontend.set_owner().unwrap();
    vm.frontend.get_features().unwrap();
    let offered = vm.frontend.get_protocol_features().unwrap();
    assert!(offered.contains(VhostUserProtocolFeatures::CONFIG));
    vm.frontend
        .set_protocol_features(VhostUserProtocolFeatures::CONFIG)
        .unwrap();
    let (_, config) = vm
        .frontend
        .get_config(0, 12, VhostUserConfigFlags::empty(), &[0; 12])
        .unwrap();
    assert_eq!(config[..6], mac(1).0);
    assert_eq!(config[10..12], 1500u16.to_le_bytes());
}

#[test]
fn a_guest_disabled_by_its_vmm_is_silent_until_it_is_enabled_again() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (lan.guest(1, PLAIN), lan.guest(2, PLAIN));
    b.offer_buffers(2, 2048);
    a.frontend.set_vring_enable(TX, false).unwrap();
    let (at, len) = a.place(0, VirtioNetHeader::default(), &frame(1, 2, 60));
    a.write_descriptor(a.rings[TX].descriptors(), 0, at, len, 0, 0);
    a.offer(TX, 0);
    assert_eq!(lan.port(1).state, PortState::Connected);
    assert_eq!(a.used_index(TX), 0);
    a.frontend.set_vring_enable(TX, true).unwrap();
    assert_eq!(b.receive(), frame(1, 2, 60));
}

#[test]
fn memory_that_comes_and_goes_under_running_rings_is_used_and_let_go_of() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (lan.guest(1, PLAIN), lan.guest(2, PLAIN));
    a.share_memory();
    b.offer_buffers(2, 2048);
    a.send(&frame(1, 2, 60));
    assert_eq!(b.receive(), frame(1, 2, 60));
    a.share_memory();
    a.send(&frame(1, 2, 61));
    assert_eq!(b.receive(), frame(1, 2, 61));
}

#[test]
fn an_interrupt_that_moves_while_the_ring_runs_is_followed() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (lan.guest(1, PLAIN), lan.guest(2, PLAIN));
    b.rings[RX].call = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    b.frontend.set_vring_call(RX, &b.rings[RX].call).unwrap();
    b.offer_buffers(1, 2048);
    a.send(&frame(1, 2, 60));
    b.receive();
    eventually("a notification at the new place", || {
        b.rings[RX].call.read().ok()
    });
}

#[test]
fn memory_that_is_taken_away_stops_its_own_port_only() {
    let lan = Lan::new(3);
    let (mut b, mut c) = (lan.guest(2, PLAIN), lan.guest(3, PLAIN));
    c.offer_buffers(8, 2048);
    for round in 0..3 {
        let stream = UnixStream::connect(lan.socket(1)).unwrap();
        let file = memfd();
        file.set_len(MEMORY as u64).unwrap();
        let mut a = Vm::with_memory(stream, 256, file.try_clone().unwrap());
        a.start(PLAIN);
        lan.wait_for_state(1, PortState::Up);
        a.offer_buffers(1, 2048);
        let kick = a.rings[TX].kick.try_clone().unwrap();
        file.set_len(0).unwrap();
        // Whichever ring is looked at first: the guest's own, for a kick, or the one that others send to.
        if round == 0 {
            kick.write(1).unwrap();
        } else {
            b.send(&frame(2, 1, 60));
        }
        lan.wait_for_state(1, PortState::Connected);
        b.send(&frame(2, 3, 60));
        assert_eq!(c.receive(), frame(2, 3, 60));
        // The guest's own view of its memory is gone too; it must not be looked at again.
        drop(a);
        lan.wait_for_state(1, PortState::Waiting);
    }
    let mut a = lan.guest(1, PLAIN);
    a.send(&frame(1, 3, 60));
    assert_eq!(c.receive(), frame(1, 3, 60));
}

#[test]
fn an_interrupt_that_was_nowhere_is_made_up_for_when_it_comes() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (
        lan.guest(1, PLAIN | EVENT_IDX),
        lan.guest(2, PLAIN | EVENT_IDX),
    );
    b.offer_buffers(4, 2048);
    b.frontend.get_vring_base(RX).unwrap();
    // As after a pause: the ring runs from its kick on, and the call comes last.
    b.set_ring_addresses(RX);
    b.frontend.set_vring_kick(RX, &b.rings[RX].kick).unwrap();
    lan.wait_for_state(2, PortState::Up);
    a.send(&frame(1, 2, 60));
    b.receive();
    let _ = b.rings[RX].call.read();
    b.frontend.set_vring_call(RX, &b.rings[RX].call).unwrap();
    eventually("the interrupt that was missed", || {
        b.rings[RX].call.read().ok()
    });
}

#[test]
fn a_receive_buffer_below_a_header_is_a_fault_and_not_endless_work() {
    let lan = Lan::new(2);
    let (mut a, mut b) = (lan.guest(1, PLAIN), lan.guest(2, PLAIN));
    b.offer_buffers(4, 11);
    a.send(&frame(1, 2, 60));
    lan.wait_for_state(2, PortState::Connected);
}

#[test]
fn a_vmm_that_talks_without_end_does_not_keep_the_port_from_closing() {
    let lan = Lan::new(1);
    let mut stream = UnixStream::connect(lan.socket(1)).unwrap();
    let (begun, begin) = std::sync::mpsc::channel();
    let flood = std::thread::spawn(move || {
        qemu_start(&mut stream);
        let mut payload = mac(1).0.to_vec();
        payload.extend([0, 0]);
        let messages = message(SEND_RARP, 0, &payload).repeat(1000);
        while stream.write_all(&messages).is_ok() {
            let _ = begun.send(());
        }
    });
    begin.recv().unwrap();
    drop(lan);
    flood.join().unwrap();
}

/// A port by itself, and the directory of its socket.
fn port(role: Role) -> (Worker, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let guest = Guest::open(&guest::Spec {
        name: "g1".to_owned(),
        socket: directory.path().join("socket"),
        role,
        mac: mac(1),
        mtu: 1500,
    });
    (Worker::new(guest.unwrap()), directory)
}

/// Connects, and keeps another hand on the connection.
fn connect(socket: &Path) -> (Vm, UnixStream) {
    let stream = eventually("the port's socket", || UnixStream::connect(socket).ok());
    let hand = stream.try_clone().unwrap();
    (Vm::over(stream, 256), hand)
}

/// Waits until the connection is closed from the other side.
fn closed(mut hand: &UnixStream) {
    hand.set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    match hand.read(&mut [0]) {
        Ok(len) => assert_eq!(len, 0, "nothing was asked for"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

fn is_refused(socket: &Path) -> bool {
    let error = UnixStream::connect(socket).err();
    error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Carries a frame each way.
fn frames_flow(worker: &Worker, vm: &mut Vm) {
    vm.send(&frame(1, 2, 200));
    assert_eq!(worker.receive(), frame(1, 2, 200));
    vm.offer_buffers(1, 2048);
    eventually("the buffer is seen", || {
        worker.send(frame(2, 1, 300)).is_none().then_some(())
    });
    assert_eq!(vm.receive(), frame(2, 1, 300));
}

#[test]
fn a_guest_whose_link_is_set_down_is_disconnected_and_refused_until_it_is_up() {
    let (worker, directory) = port(Role::Server);
    let socket = directory.path().join("socket");
    for _ in 0..3 {
        let (mut vm, hand) = connect(&socket);
        vm.start_as_qemu(PLAIN);
        worker.wait_for_state(PortState::Up);
        frames_flow(&worker, &mut vm);

        vm.offer_buffers(1, 2048);
        worker.with(|port| port.set_link(false));
        assert_eq!(worker.state(), PortState::Down);
        assert_eq!(worker.send(frame(2, 1, 60)), Some(DropReason::PortDown));
        closed(&hand);
        // The entrance was closed before the connection was.
        assert!(is_refused(&socket));
        worker.with(|port| port.set_link(false));
        assert!(is_refused(&socket));
        assert_eq!(worker.state(), PortState::Down);

        worker.with(|port| {
            port.set_link(true);
            port.set_link(true);
        });
        worker.wait_for_state(PortState::Waiting);
    }
    let (mut vm, _hand) = connect(&socket);
    vm.start_as_qemu(PLAIN);
    worker.wait_for_state(PortState::Up);
    frames_flow(&worker, &mut vm);
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660, "as it was at the start");
    drop(worker);
    assert!(!socket.exists());
}

#[test]
fn a_link_that_is_down_for_a_moment_only_is_shown_all_the_same() {
    let (worker, directory) = port(Role::Server);
    let socket = directory.path().join("socket");
    let (mut vm, hand) = connect(&socket);
    vm.start_as_qemu(PLAIN);
    worker.wait_for_state(PortState::Up);
    worker.with(|port| {
        port.set_link(false);
        port.set_link(true);
    });
    closed(&hand);
    let (mut vm, _hand) = connect(&socket);
    vm.start_as_qemu(PLAIN);
    worker.wait_for_state(PortState::Up);
    frames_flow(&worker, &mut vm);
}

#[test]
fn a_vmm_that_cannot_show_the_link_keeps_its_connection_and_loses_its_frames() {
    let (worker, directory) = port(Role::Server);
    let (mut vm, _hand) = connect(&directory.path().join("socket"));
    vm.start(PLAIN);
    worker.wait_for_state(PortState::Up);
    frames_flow(&worker, &mut vm);
    vm.offer_buffers(1, 2048);
    worker.with(|port| port.set_link(false));
    assert_eq!(worker.state(), PortState::Down);
    assert_eq!(worker.send(frame(2, 1, 60)), Some(DropReason::PortDown));
    // It is taken, for the switch to drop: a guest that waits for its transmit queue would be worse off.
    vm.send(&frame(1, 2, 70));
    assert_eq!(worker.receive(), frame(1, 2, 70));
    vm.frontend.get_features().unwrap();

    worker.with(|port| port.set_link(true));
    assert_eq!(worker.state(), PortState::Up, "at once");
    assert_eq!(worker.send(frame(2, 1, 80)), None);
    assert_eq!(vm.receive(), frame(2, 1, 80));
    frames_flow(&worker, &mut vm);
}

#[test]
fn a_vmm_may_start_while_the_link_is_down_and_is_cut_off_once_its_rings_run() {
    let (worker, directory) = port(Role::Server);
    let socket = directory.path().join("socket");
    worker.with(|port| port.set_link(false));
    assert_eq!(worker.state(), PortState::Down);
    let (mut vm, hand) = connect(&socket);
    vm.start_as_qemu(PLAIN);
    assert_eq!(worker.state(), PortState::Down);
    vm.offer_buffers(1, 2048);
    assert_eq!(worker.send(frame(2, 1, 60)), Some(DropReason::PortDown));
    closed(&hand);
    assert!(is_refused(&socket));
    worker.with(|port| port.set_link(true));
    let (mut vm, _hand) = connect(&socket);
    vm.start_as_qemu(PLAIN);
    worker.wait_for_state(PortState::Up);
    frames_flow(&worker, &mut vm);
}

/// The socket for the process below.
const SOCKET: &str = "VMLAN_TEST_SOCKET";

/// Not a test but the process of a VMM, which the next test starts.
#[test]
fn vmm_process() {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return;
    };
    let (mut vm, hand) = connect(Path::new(&socket));
    vm.start_as_qemu(PLAIN);
    closed(&hand);
    std::fs::write(Path::new(&socket).with_file_name("cut off"), "").unwrap();
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_vm_that_is_started_anew_while_its_link_is_down_is_let_in() {
    let (worker, directory) = port(Role::Server);
    let socket = directory.path().join("socket");
    worker.with(|port| port.set_link(false));
    let mut vmm = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "vmm_process"])
        .env(SOCKET, &socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let cut_off = directory.path().join("cut off");
    eventually("it is cut off", || cut_off.exists().then_some(()));
    assert!(
        is_refused(&socket),
        "it still runs, and would connect again"
    );
    drop(vmm.stdin.take());
    assert!(vmm.wait().unwrap().success());
    let (mut vm, hand) = connect(&socket);
    vm.start_as_qemu(PLAIN);
    assert_eq!(worker.state(), PortState::Down);
    closed(&hand);
}

#[test]
fn a_vmm_that_listens_is_left_alone_while_the_link_is_down() {
    let (worker, directory) = port(Role::Client);
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    for _ in 0..2 {
        listener.set_nonblocking(false).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let hand = stream.try_clone().unwrap();
        let mut vm = Vm::over(stream, 256);
        vm.start_as_qemu(PLAIN);
        worker.wait_for_state(PortState::Up);
        frames_flow(&worker, &mut vm);
        worker.with(|port| port.set_link(false));
        closed(&hand);
        assert_eq!(worker.state(), PortState::Down);
        listener.set_nonblocking(true).unwrap();
        let nobody = listener.accept().unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
        worker.with(|port| port.set_link(true));
    }
}

#[test]
fn a_port_closes_while_its_link_is_down() {
    for role in [Role::Server, Role::Client] {
        let (worker, directory) = port(role);
        worker.with(|port| port.set_link(false));
        drop(worker);
        assert!(!directory.path().join("socket").exists());
    }
}

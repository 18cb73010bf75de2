//! The ring walk: a burst from one guest's transmit queue into another's receive queue, as the worker carries it,
//! without the guests' own work.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::*;
use vmlan::net::drops::Drops;
use vmlan::net::outbox::Egress;
use vmlan::net::vlan::TagAction;
use vmlan::ports::burst::Burst;
use vmlan::ports::guest::Role;
use vmlan::ports::{Port, PortSpec, guest};

const BURST: u16 = 32;

/// Opens a port and brings a guest up on it; the port is worked meanwhile, as a worker would.
fn up(directory: &std::path::Path, number: u8) -> (Box<dyn Port>, Vm) {
    let socket = directory.join(format!("g{number}.sock"));
    let spec = guest::Spec {
        name: format!("g{number}"),
        socket: socket.clone(),
        role: Role::Server,
        mac: mac(number),
        mtu: 9000,
    };
    let mut port = PortSpec::Guest(spec)
        .open()
        .expect("the socket can be made");
    let starting = std::thread::spawn(move || {
        let mut vm = Vm::connect(&socket);
        vm.start(PLAIN);
        vm
    });
    let (mut burst, mut drops) = (Burst::default(), Drops::default());
    while !starting.is_finished() {
        port.receive(&mut burst, &mut drops)
            .expect("the guest is well-behaved");
        port.release(&mut burst);
    }
    (port, starting.join().expect("the guest starts"))
}

fn walk(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring walk");
    group.throughput(Throughput::Elements(u64::from(BURST)));
    let directory = tempfile::tempdir().expect("a directory for the sockets");
    let (mut from, mut sender) = up(directory.path(), 1);
    let (mut to, mut receiver) = up(directory.path(), 2);
    let (mut burst, mut drops) = (Burst::default(), Drops::default());
    let batch: Vec<Egress> = (0..BURST)
        .map(|frame| Egress {
            frame,
            action: TagAction::Keep,
        })
        .collect();
    for len in [64, 256, 1514] {
        group.bench_function(BenchmarkId::from_parameter(len), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    for slot in 0..BURST {
                        let (at, size) = sender.place(slot, Default::default(), &frame(1, 2, len));
                        sender.write_descriptor(
                            sender.rings[TX].descriptors(),
                            slot,
                            at,
                            size,
                            0,
                            0,
                        );
                        sender.offer(TX, slot);
                    }
                    receiver.offer_buffers(BURST, 2048);
                    let start = Instant::now();
                    from.receive(&mut burst, &mut drops)
                        .expect("the ring is sound");
                    let sent = to
                        .transmit(&burst, &batch, &mut drops)
                        .expect("the ring is sound");
                    from.release(&mut burst);
                    spent += start.elapsed();
                    assert_eq!(sent.frames, u64::from(BURST));
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, walk);
criterion_main!(benches);

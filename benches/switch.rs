//! The pure switch: what one decision costs, for few and for many stations.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::num::NonZeroU32;
use std::time::Duration;
use vmlan::net::fdb::Fdb;
use vmlan::net::frame::Head;
use vmlan::net::guard::Guards;
use vmlan::net::member::Member;
use vmlan::net::neighbours;
use vmlan::net::offload;
use vmlan::net::outbox::Outbox;
use vmlan::net::port::{OwnFrames, PortId};
use vmlan::net::security::Security;
use vmlan::net::switch::{Spec, Switch};
use vmlan::net::team::{self, Detection, LoadBalancing, Team};
use vmlan::net::vlan::{PortVlan, TagAction, VlanId};
use vmlan::wire::ethernet::Tci;
use vmlan::wire::ethernet::{ETHERTYPE_IPV4, MacAddr, emit};
use vmlan::wire::virtio_net::VirtioNetHeader;

const BURST: u16 = 32;

fn station(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

fn switch(ports: u16, vlan: PortVlan) -> (Switch, Outbox) {
    let mut switch = Switch::new(Spec::default(), Instant::now());
    let mut outbox = Outbox::default();
    for port in (0..ports).map(PortId) {
        switch.add(
            port,
            Member {
                vlan: vlan.clone(),
                uplink: false,
                ..Member::default()
            },
        );
        switch.set_up(port, true, None, &mut OwnFrames::default());
        outbox.reserve(port);
    }
    (switch, outbox)
}

fn head(src: MacAddr, dst: MacAddr) -> Head {
    let mut head = Head::default();
    head.fill(
        &emit(dst, src, ETHERTYPE_IPV4, &[0; 50]),
        VirtioNetHeader::default(),
    );
    head
}

fn run(switch: &mut Switch, outbox: &mut Outbox, heads: &mut [Head], ingress: PortId) {
    switch.set_now(Instant::now());
    for (index, head) in (0..).zip(heads) {
        let passed = offload::check(head, 1500)
            .and_then(|()| head.parse())
            .and_then(|parsed| switch.forward(ingress, index, head, &parsed, outbox));
        let _ = black_box(passed);
    }
    outbox.drain(|port, batch| {
        black_box((port, batch));
    });
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("switch");
    group.throughput(Throughput::Elements(u64::from(BURST)));
    for stations in [2, 1000, 100_000] {
        let (mut switch, mut outbox) =
            switch(64, PortVlan::Access(VlanId::new(10).expect("10 is a VLAN")));
        let share = Fdb::PORT_LIMIT;
        for number in 0..stations {
            let port = PortId(u16::try_from(number / share + 1).expect("64 ports are enough"));
            let head = head(station(number), MacAddr::BROADCAST);
            let parsed = head.parse().expect("a whole header");
            let _ = switch.forward(port, 0, &head, &parsed, &mut outbox);
            outbox.drain(|_, _| {});
        }
        let source = station(u32::MAX);
        let mut next = 0;
        group.bench_function(
            BenchmarkId::new("unicast among stations", stations),
            |bencher| {
                let mut heads: Vec<Head> = (0..BURST)
                    .map(|_| head(source, MacAddr::BROADCAST))
                    .collect();
                bencher.iter(|| {
                    for head in &mut heads {
                        next = (next + 7919) % stations;
                        head.buffer()[..6].copy_from_slice(&station(next).0);
                    }
                    run(&mut switch, &mut outbox, &mut heads, PortId(0));
                });
            },
        );
    }
    for ports in [2, 9, 200] {
        let (mut switch, mut outbox) = switch(ports, PortVlan::Untagged);
        let mut heads: Vec<Head> = (0..BURST)
            .map(|_| head(station(1), MacAddr::BROADCAST))
            .collect();
        group.bench_function(
            BenchmarkId::new("broadcast among ports", ports),
            |bencher| {
                bencher.iter(|| run(&mut switch, &mut outbox, &mut heads, PortId(0)));
            },
        );
    }
    group.finish();
}

/// A guest and one or two uplinks: as plain as can be, and with all that a port group can ask for.
fn bridged(policies: bool) -> (Switch, Outbox) {
    let now = Instant::now();
    let names = if policies {
        &["eth1", "eth2"][..]
    } else {
        &["eth1"]
    };
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let spec = team::Spec {
        name: "lan".to_owned(),
        policies: vec![team::Policy {
            port_group: None,
            active: names.clone(),
            standby: Vec::new(),
            load_balancing: LoadBalancing::PortId,
            detection: Detection::Link,
            notify_switches: false,
            failback: true,
            reverse_filter: true,
        }],
        up_delay: Duration::ZERO,
        down_delay: Duration::ZERO,
        lacp: None,
        discovery: neighbours::Spec {
            advertise: false,
            listen: false,
            chassis: station(0),
            host: String::new(),
            description: String::new(),
        },
    };
    let mut switch = Switch::new(
        Spec {
            team: Some(Team::new(spec, 0, now)),
            snooping: policies,
            ..Spec::default()
        },
        now,
    );
    let mut guest = Member {
        mac: Some(station(1)),
        ..Member::default()
    };
    if policies {
        guest.vlan = PortVlan::Access(VlanId::new(10).expect("10 is a VLAN"));
        guest.guards = Guards {
            dhcp_server: true,
            router_advertisement: true,
        };
        guest.storm.unknown_unicast = NonZeroU32::new(u32::MAX);
    } else {
        guest.security = Security::LEGACY;
    }
    let mut outbox = Outbox::default();
    let mut own = OwnFrames::default();
    switch.add(PortId(0), guest);
    outbox.reserve(PortId(0));
    switch.set_up(PortId(0), true, None, &mut own);
    for (port, name) in (1..).map(PortId).zip(&names) {
        switch.add(
            port,
            Member {
                vlan: PortVlan::All,
                uplink: true,
                service_tags: true,
                ..Member::default()
            },
        );
        outbox.reserve(port);
        let team = switch.team_mut().expect("it has one");
        team.add_uplink(port, name, now);
        switch.set_up(port, true, None, &mut own);
    }
    (switch, outbox)
}

fn uplinks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("uplinks");
    group.throughput(Throughput::Elements(u64::from(BURST)));
    for (name, policies) in [("one", false), ("two, with a VLAN and every policy", true)] {
        let (mut switch, mut outbox) = bridged(policies);
        let mut heads: Vec<Head> = (0..BURST).map(|_| head(station(1), station(9))).collect();
        group.bench_function(BenchmarkId::new("to the outside", name), |bencher| {
            bencher.iter(|| run(&mut switch, &mut outbox, &mut heads, PortId(0)));
        });
        let mut heads: Vec<Head> = (0..BURST).map(|_| head(station(9), station(1))).collect();
        if policies {
            for head in &mut heads {
                let tagged = head.with_tag(TagAction::Insert(Tci(10))).bytes().to_vec();
                head.fill(&tagged, VirtioNetHeader::default());
            }
        }
        group.bench_function(BenchmarkId::new("from the outside", name), |bencher| {
            bencher.iter(|| run(&mut switch, &mut outbox, &mut heads, PortId(1)));
        });
    }
    group.finish();
}

criterion_group!(benches, decisions, uplinks);
criterion_main!(benches);

//! The translator on frames: what it costs to translate one, for one and for many flows.
//!
//! A burst is made ready, and then timed: first all of it is prefetched, then translated, as the engine does. Frames are of 64 bytes,
//! tables are warm, and the flows take turns in an order that no prefetcher of the processor guesses.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant, SystemTime};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vmlan::net::Now;
use vmlan::net::frame::{Head, Parsed};
use vmlan::net::inside::Inside;
use vmlan::net::napt::{Napt, Routed, Side, Verdict};
use vmlan::net::nat::{
    Addressing4, Addressing6, Filtering, Gateways, Limits, NetworkOutside, Outside, Spec, Timeouts,
};
use vmlan::wire::arp::{Arp, REPLY};
use vmlan::wire::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddr, emit};
use vmlan::wire::virtio_net::VirtioNetHeader;

const BURST: usize = 32;
const INSIDE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OUTSIDE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const UDP: u8 = 17;
const TCP: u8 = 6;

fn own6() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 5)
}

/// One flow: a guest, whom it talks with, and what the guest is outside.
#[derive(Clone, Copy)]
struct Flow {
    guest: (IpAddr, u16),
    remote: (IpAddr, u16),
    port: u16,
}

fn flow(number: u32, v6: bool) -> Flow {
    // 64 guests with up to 782 ports each, no two with the same, that talk with two servers.
    let (mapping, guests) = (number / 2, 64);
    let guest = mapping % guests;
    let port = u16::try_from(2000 + mapping).unwrap_or(u16::MAX);
    let [.., guest] = guest.to_be_bytes();
    let [.., server] = (number % 2).to_be_bytes();
    let remote = if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, u16::from(server) + 1).into()
    } else {
        Ipv4Addr::new(198, 51, 100, server + 1).into()
    };
    let guest = if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(guest) + 16).into()
    } else {
        Ipv4Addr::new(10, 0, 0, guest + 16).into()
    };
    Flow {
        guest: (guest, port),
        remote: (remote, 53_000),
        port,
    }
}

fn mac_of(guest: IpAddr) -> MacAddr {
    let last = match guest {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    MacAddr([2, 0, 0, 0, 1, last])
}

fn frame(
    protocol: u8,
    (to, from): (MacAddr, MacAddr),
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
) -> Vec<u8> {
    let mut transport = vec![0; if protocol == TCP { 20 } else { 26 }];
    transport[..2].copy_from_slice(&src.1.to_be_bytes());
    transport[2..4].copy_from_slice(&dst.1.to_be_bytes());
    if protocol == TCP {
        transport[12..14].copy_from_slice(&[0x50, 0x10]);
    } else {
        transport[5] = 26;
        transport[6] = 1;
    }
    let (ethertype, packet) = match (src.0, dst.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let packet = vmlan::wire::ipv4::emit(src, dst, protocol, &transport);
            (ETHERTYPE_IPV4, packet)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let packet = vmlan::wire::ipv6::Ipv6 {
                src,
                dst,
                next_header: protocol,
                hop_limit: 64,
                payload: &transport,
            };
            (ETHERTYPE_IPV6, packet.emit())
        }
        _ => panic!("two families"),
    };
    emit(to, from, ethertype, &packet.expect("it fits"))
}

struct Bench {
    napt: Napt,
    inside: Inside,
    now: Now,
    protocol: u8,
    v6: bool,
}

impl Bench {
    fn new(flows: u32, protocol: u8, v6: bool) -> Self {
        let now = Now {
            instant: Instant::now(),
            wall: SystemTime::now(),
        };
        let outside = NetworkOutside {
            mac: OUTSIDE,
            v4: Addressing4::Static {
                ip: OWN,
                net: "203.0.113.0/24".parse().expect("a net"),
                router: Some(Ipv4Addr::new(203, 0, 113, 1)),
            },
            v6: Addressing6::Static {
                ip: own6(),
                net: "2001:db8:1::/64".parse().expect("a net"),
                router: Some(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)),
            },
            ports: 1024..=65535,
            hostname: "bench".to_owned(),
        };
        let spec = Spec {
            gateways: Gateways {
                v4: Some((
                    Ipv4Addr::new(10, 0, 0, 2),
                    "10.0.0.0/24".parse().expect("a net"),
                )),
                v6: Some((
                    "fd00::2".parse().expect("an address"),
                    "fd00::/64".parse().expect("a net"),
                )),
                link_local: None,
            },
            outside: Outside::Network(outside.clone()),
            forwards: Vec::new(),
            filtering: Filtering::default(),
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            closed: Vec::new(),
            map_host_loopback: false,
            ftp: false,
            log: false,
        };
        let mut bench = Self {
            napt: Napt::new(&spec, INSIDE, &outside, 7, now),
            inside: Inside::default(),
            now,
            protocol,
            v6,
        };
        let mut out = Routed::default();
        // Until the addresses outside are known to be nobody else's.
        for _ in 0..30 {
            bench.now.instant += Duration::from_secs(1);
            bench.napt.handle_timeout(bench.now, &mut out);
        }
        bench.meet_router(&mut out);
        for number in 0..flows {
            // Twice each way: a TCP connection is established by then.
            for side in [Side::Inside, Side::Outside].repeat(2) {
                let mut head = bench.head(side, number);
                let parsed = head.parse().expect("a frame");
                let verdict = bench.translate(side, &mut head, &parsed);
                assert_eq!(verdict, Verdict::Forward, "{number}");
            }
        }
        bench
    }

    fn meet_router(&mut self, out: &mut Routed) {
        let head = self.head(Side::Inside, 0);
        let bytes = head.bytes().to_vec();
        let header = VirtioNetHeader::default();
        let ask = |bench: &mut Self, side, bytes: &[u8], out: &mut Routed| {
            bench
                .napt
                .handle_frame(side, bytes, header, &bench.inside, bench.now, out);
        };
        ask(self, Side::Inside, &bytes, out);
        let arp = Arp {
            operation: REPLY,
            sender_mac: ROUTER,
            sender_ip: Ipv4Addr::new(203, 0, 113, 1),
            target_mac: OUTSIDE,
            target_ip: OWN,
        };
        ask(self, Side::Outside, &arp.emit(OUTSIDE), out);
        let (src, dst) = (Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1), own6());
        let mut message = vec![136, 0, 0, 0, 0xe0, 0, 0, 0];
        message.extend(src.octets());
        message.extend([2, 1]);
        message.extend(ROUTER.0);
        let sum = vmlan::wire::ipv6::pseudo_header(src, dst, 58, 32).over(&message);
        message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
        let packet = vmlan::wire::ipv6::Ipv6 {
            src,
            dst,
            next_header: 58,
            hop_limit: 255,
            payload: &message,
        };
        let packet = packet.emit().expect("it fits");
        ask(
            self,
            Side::Outside,
            &emit(OUTSIDE, ROUTER, ETHERTYPE_IPV6, &packet),
            out,
        );
    }

    fn head(&self, side: Side, number: u32) -> Head {
        let Flow {
            guest,
            remote,
            port,
        } = flow(number, self.v6);
        let own = if self.v6 { own6().into() } else { OWN.into() };
        let bytes = match side {
            Side::Inside => frame(self.protocol, (INSIDE, mac_of(guest.0)), guest, remote),
            Side::Outside => frame(self.protocol, (OUTSIDE, ROUTER), remote, (own, port)),
        };
        let mut head = Head::default();
        head.fill(&bytes, VirtioNetHeader::default());
        head
    }

    #[inline]
    fn translate(&mut self, side: Side, head: &mut Head, parsed: &Parsed) -> Verdict {
        self.napt
            .translate(side, head, parsed, &self.inside, self.now.instant)
    }
}

fn translations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("napt");
    group.throughput(Throughput::Elements(BURST as u64));
    group.measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(500));
    for (name, protocol, v6) in [
        ("udp", UDP, false),
        ("tcp", TCP, false),
        ("udp over IPv6", UDP, true),
    ] {
        for flows in [1, 1000, 100_000] {
            let mut bench = Bench::new(flows, protocol, v6);
            for side in [Side::Inside, Side::Outside] {
                let templates: Vec<Vec<u8>> = (0..flows)
                    .map(|number| bench.head(side, number).bytes().to_vec())
                    .collect();
                let mut heads: Vec<Head> = (0..BURST).map(|_| bench.head(side, 0)).collect();
                let parsed = heads.iter().map(|head| head.parse().expect("a frame"));
                let mut parsed: Vec<Parsed> = parsed.collect();
                let mut next = 0u32;
                let name = format!("{name}, from {side:?}");
                group.bench_function(BenchmarkId::new(name, flows), |bencher| {
                    bencher.iter_custom(|rounds| {
                        let mut time = Duration::ZERO;
                        for _ in 0..rounds {
                            for (head, parsed) in heads.iter_mut().zip(&mut parsed) {
                                next = (next + 7919) % flows;
                                let template = &templates[next as usize];
                                head.buffer()[..template.len()].copy_from_slice(template);
                                *parsed = head.parse().expect("a frame");
                            }
                            let start = Instant::now();
                            for (head, parsed) in heads.iter().zip(&parsed) {
                                bench.napt.prefetch(side, head, parsed);
                            }
                            for (head, parsed) in heads.iter_mut().zip(&parsed) {
                                let verdict = bench.translate(side, head, parsed);
                                assert!(black_box(verdict) == Verdict::Forward);
                            }
                            time += start.elapsed();
                        }
                        time
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, translations);
criterion_main!(benches);

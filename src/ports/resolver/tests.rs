//! Tests of the resolver, against servers on the loopback interface.

use std::fs;
use std::net::{TcpListener, UdpSocket};

use super::*;
use crate::wire::dns::{Name, Writer, flag};

/// How long a test waits for the kernel, in milliseconds.
const PATIENCE: i32 = 10_000;

fn resolver(servers: &[SocketAddr]) -> Resolver {
    Resolver::open(&Upstream {
        servers: Servers::Listed(servers.into()),
        own: Vec::new(),
    })
    .unwrap()
}

fn question(id: u16, name: &str) -> Vec<u8> {
    let name = Name::new(name).unwrap();
    let question = [name.as_bytes(), &[0, 1, 0, 1]].concat();
    Writer::new(id, flag::RD, &question).finish()
}

fn answer_to(question: &[u8]) -> Vec<u8> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer
}

fn ask(ticket: u64, server: usize, stream: bool, now: Instant) -> Ask {
    Ask {
        ticket,
        server,
        stream,
        message: question(u16::try_from(ticket).unwrap(), "example.com"),
        until: now + Duration::from_secs(4),
    }
}

/// Waits for what becomes of an ask.
fn outcome(resolver: &mut Resolver) -> Outcome {
    loop {
        let mut outcomes = resolver.receive();
        if let Some(outcome) = outcomes.pop() {
            assert!(outcomes.is_empty(), "one after the other");
            return outcome;
        }
        let mut events = [Event::new(Events::empty(), 0)];
        let count = epoll::wait(resolver.epoll.0, PATIENCE, &mut events).unwrap();
        assert!(count > 0, "nothing has come");
        assert!(resolver.is_ready());
    }
}

#[test]
fn a_datagram_is_answered_and_what_does_not_answer_it_is_passed_over() {
    let now = Instant::now();
    for local in ["127.0.0.1:0", "[::1]:0"] {
        let server = UdpSocket::bind(local).unwrap();
        let mut resolver = resolver(&[server.local_addr().unwrap()]);
        assert!(!resolver.is_ready());
        resolver.ask(ask(7, 0, false, now));
        let mut buffer = [0; 512];
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        let asked = &buffer[..len];
        assert_eq!(asked, question(7, "example.com"));
        let answer = answer_to(asked);
        let other = answer_to(&question(7, "example.org"));
        for datagram in [&answer_to(&question(8, "example.com")), &other, &answer] {
            server.send_to(datagram, from).unwrap();
        }
        assert_eq!(outcome(&mut resolver), (7, Ok(answer)));
        assert_eq!(
            (resolver.exchanges.len(), resolver.poll_timeout()),
            (0, None)
        );
    }
}

#[test]
fn questions_have_ports_of_their_own() {
    let now = Instant::now();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut resolver = resolver(&[server.local_addr().unwrap()]);
    let mut ports = BTreeSet::new();
    for ticket in 0..8 {
        resolver.ask(ask(ticket, 0, false, now));
        let (_, from) = server.recv_from(&mut [0; 512]).unwrap();
        ports.insert(from.port());
    }
    assert_eq!(ports.len(), 8);
}

#[test]
fn a_server_that_is_not_there_is_told_at_once() {
    let now = Instant::now();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let servers = [socket.local_addr().unwrap(), listener.local_addr().unwrap()];
    drop((socket, listener));
    let mut resolver = resolver(&servers);
    resolver.ask(ask(1, 0, false, now));
    assert_eq!(outcome(&mut resolver), (1, Err(AskError::Unreachable)));
    resolver.ask(ask(2, 1, true, now));
    assert_eq!(outcome(&mut resolver), (2, Err(AskError::Unreachable)));
    resolver.ask(ask(3, 2, false, now));
    assert!(resolver.is_ready());
    assert_eq!(outcome(&mut resolver), (3, Err(AskError::NoServer)));
}

#[test]
fn a_long_answer_comes_over_tcp_in_pieces() {
    let now = Instant::now();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut resolver = resolver(&[listener.local_addr().unwrap()]);
    resolver.ask(ask(7, 0, true, now));
    let (mut stream, _) = listener.accept().unwrap();
    assert!(resolver.receive().is_empty());
    let mut asked = vec![0; 2 + question(7, "example.com").len()];
    stream.read_exact(&mut asked).unwrap();
    let mut answer = answer_to(&asked[2..]);
    answer.resize(40_000, 0);
    let len = u16::try_from(answer.len()).unwrap();
    for piece in [&len.to_be_bytes()[..1], &len.to_be_bytes()[1..], &answer] {
        stream.write_all(piece).unwrap();
        stream.flush().unwrap();
    }
    assert_eq!(outcome(&mut resolver), (7, Ok(answer)));
}

#[test]
fn a_stream_that_ends_early_or_answers_something_else_has_failed() {
    let now = Instant::now();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut resolver = resolver(&[listener.local_addr().unwrap()]);
    let other = answer_to(&question(9, "example.com"));
    let other = [&[0, u8::try_from(other.len()).unwrap()], &other[..]].concat();
    for said in [&[0, 100, 1][..], &other] {
        resolver.ask(ask(7, 0, true, now));
        let (mut stream, _) = listener.accept().unwrap();
        assert!(resolver.receive().is_empty());
        let mut asked = vec![0; 2 + question(7, "example.com").len()];
        stream.read_exact(&mut asked).unwrap();
        stream.write_all(said).unwrap();
        drop(stream);
        assert_eq!(outcome(&mut resolver), (7, Err(AskError::Unreachable)));
    }
}

#[test]
fn sockets_are_closed_when_nobody_waits_and_there_are_only_so_many() {
    let now = Instant::now();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut resolver = resolver(&[server.local_addr().unwrap()]);
    resolver.limit = 16;
    for ticket in 0..16 {
        resolver.ask(ask(ticket, 0, false, now));
    }
    assert!(resolver.receive().is_empty());
    resolver.ask(ask(9999, 0, false, now));
    assert_eq!(resolver.receive(), [(9999, Err(AskError::Busy))]);
    let until = now + Duration::from_secs(4);
    assert_eq!(resolver.poll_timeout(), Some(until));
    resolver.handle_timeout(until);
    assert_eq!(
        (resolver.exchanges.len(), resolver.poll_timeout()),
        (0, None)
    );
}

#[test]
fn the_file_is_followed_but_not_looked_at_all_the_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    fs::write(&path, "nameserver 192.0.2.1\nnameserver 192.168.88.2\n").unwrap();
    let mut resolver = Resolver::open(&Upstream {
        servers: Servers::Host(path.clone()),
        own: vec!["192.168.88.2".parse().unwrap()],
    })
    .unwrap();
    let now = Instant::now();
    assert_eq!(resolver.servers, ["192.0.2.1:53".parse().unwrap()]);
    assert!(!resolver.follow(now));

    fs::write(&path, "nameserver 192.0.2.1\nnameserver 192.0.2.20\n").unwrap();
    assert!(!resolver.follow(now + LOOK - Duration::from_millis(1)));
    assert!(resolver.follow(now + LOOK));
    assert_eq!(resolver.servers(), 2);
    assert!(!resolver.follow(now + 2 * LOOK));

    fs::remove_file(&path).unwrap();
    assert!(resolver.follow(now + 3 * LOOK));
    assert_eq!(resolver.servers(), 0);
    fs::write(&path, "nameserver 192.0.2.3\n").unwrap();
    assert!(resolver.follow(now + 4 * LOOK));
    assert_eq!(resolver.servers(), 1);
}

#[test]
fn one_descriptor_tells_of_all_answers_each_time_they_come() {
    let now = Instant::now();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut resolver = resolver(&[server.local_addr().unwrap()]);
    let outer = Epoll(epoll::create(true).unwrap());
    resolver.watch(Watcher::new(outer.0, 5)).unwrap();
    for ticket in 1..=3 {
        resolver.ask(ask(ticket, 0, false, now));
        let mut buffer = [0; 512];
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        let answer = answer_to(&buffer[..len]);
        server.send_to(&answer, from).unwrap();
        let mut events = [Event::new(Events::empty(), 0)];
        let count = epoll::wait(outer.0, PATIENCE, &mut events).unwrap();
        assert_eq!((count, { events[0].data }), (1, 5));
        assert_eq!(outcome(&mut resolver), (ticket, Ok(answer)));
    }
}

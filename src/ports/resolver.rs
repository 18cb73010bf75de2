//! Questions to the host's name servers: the sockets of [`crate::net::dns`].
//!
//! # Theory of operation
//!
//! Each question has a socket of its own, connected to the server, whose port the kernel picks at random: whoever wants
//! to answer in the server's place has to guess the port as well as the identifier. A datagram that does not answer the
//! question is passed over, and the socket goes on waiting. A server that is not there says so by ICMP, and the question
//! has failed at once. Over TCP a connection is made for each question, without waiting for it.
//!
//! All sockets are watched by an epoll instance of their own, so that the worker has one descriptor to watch however many
//! questions there are. A socket is closed when its answer is there, or nobody waits for that any more.
//!
//! The file that lists the servers is looked at when something is asked, but no more often than every two seconds.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use epoll::{ControlOptions, Event, Events};
use socket2::{Domain, Protocol, Socket, Type};

use self::conf::Stamp;
use crate::net::dns::{Ask, AskError, Servers, Upstream, answers};
use crate::ports::Watcher;

mod conf;

/// How many questions are on their way at most.
const EXCHANGES: usize = 2048;
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Room for a datagram or a message of TCP with its length.
const BUFFER: usize = 65_537;
/// How many events are taken at once.
const EVENTS: usize = 64;

struct Epoll(RawFd);

impl Drop for Epoll {
    fn drop(&mut self) {
        // Nothing is left to be done about a descriptor that cannot be closed.
        let _ = epoll::close(self.0);
    }
}

enum Channel {
    Datagram(UdpSocket),
    Stream {
        stream: TcpStream,
        /// What is still to be sent.
        unsent: Vec<u8>,
        received: Vec<u8>,
    },
}

struct Exchange {
    ask: Ask,
    channel: Channel,
}

/// What became of an ask: its ticket, and the answer or why there is none.
pub type Outcome = (u64, Result<Vec<u8>, AskError>);

/// Asks name servers.
pub struct Resolver {
    epoll: Epoll,
    path: Option<PathBuf>,
    /// Addresses that lead back here.
    own: Vec<IpAddr>,
    stamp: Option<Stamp>,
    looked: Option<Instant>,
    servers: Vec<SocketAddr>,
    exchanges: HashMap<u64, Exchange>,
    timers: BTreeSet<(Instant, u64)>,
    done: Vec<Outcome>,
    next: u64,
    limit: usize,
    buffer: Box<[u8]>,
}

impl Resolver {
    /// Reads which servers there are.
    ///
    /// # Errors
    ///
    /// The kernel has no descriptor left. A file that cannot be read lists no servers.
    pub fn open(upstream: &Upstream) -> io::Result<Self> {
        let mut resolver = Self {
            epoll: Epoll(epoll::create(true)?),
            path: None,
            own: upstream.own.clone(),
            stamp: None,
            looked: None,
            servers: Vec::new(),
            exchanges: HashMap::new(),
            timers: BTreeSet::new(),
            done: Vec::new(),
            next: 0,
            limit: EXCHANGES,
            buffer: vec![0; BUFFER].into(),
        };
        match &upstream.servers {
            Servers::Host(path) => {
                resolver.path = Some(path.clone());
                resolver.read();
            }
            Servers::Listed(servers) => {
                resolver.servers.clone_from(servers);
                resolver.servers.truncate(conf::SERVERS);
            }
        }
        Ok(resolver)
    }

    /// Has the worker woken when there are answers.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn watch(&self, watcher: Watcher) -> io::Result<()> {
        watcher.add(self.epoll.0)
    }

    /// Returns how many servers there are.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Looks at the file if that is due; tells whether there are other servers than before.
    pub fn follow(&mut self, now: Instant) -> bool {
        let fresh = |at: Instant| now.saturating_duration_since(at) < LOOK;
        if self.path.is_none() || self.looked.is_some_and(fresh) {
            return false;
        }
        self.looked = Some(now);
        self.read()
    }

    fn read(&mut self) -> bool {
        let Some(path) = &self.path else {
            return false;
        };
        let stamp = conf::stamp(path).ok();
        if stamp == self.stamp {
            return false;
        }
        let mut servers = match &stamp {
            Some(_) => conf::read(path).unwrap_or_default(),
            None => Vec::new(),
        };
        servers.retain(|server| !self.own.contains(&server.ip()));
        self.stamp = stamp;
        let changed = servers != self.servers;
        self.servers = servers;
        changed
    }

    /// Asks a server. What becomes of it is told by [`Resolver::receive`], also where it fails at once.
    pub fn ask(&mut self, ask: Ask) {
        let ticket = ask.ticket;
        if let Err(error) = self.begin(ask) {
            self.done.push((ticket, Err(error)));
        }
    }

    fn begin(&mut self, ask: Ask) -> Result<(), AskError> {
        let server = *self.servers.get(ask.server).ok_or(AskError::NoServer)?;
        if self.exchanges.len() >= self.limit {
            return Err(AskError::Busy);
        }
        let opened = if ask.stream {
            connect(server, &ask.message)
        } else {
            send(server, &ask.message)
        };
        let channel = opened.map_err(|_| AskError::Unreachable)?;
        let events = match &channel {
            Channel::Datagram(_) => Events::EPOLLIN,
            Channel::Stream { .. } => Events::EPOLLIN | Events::EPOLLOUT,
        };
        let token = self.next;
        self.next += 1;
        self.control(&channel, ControlOptions::EPOLL_CTL_ADD, events, token)
            .map_err(|_| AskError::Busy)?;
        self.timers.insert((ask.until, token));
        self.exchanges.insert(token, Exchange { ask, channel });
        Ok(())
    }

    fn control(
        &self,
        channel: &Channel,
        option: ControlOptions,
        events: Events,
        token: u64,
    ) -> io::Result<()> {
        let descriptor = match channel {
            Channel::Datagram(socket) => socket.as_raw_fd(),
            Channel::Stream { stream, .. } => stream.as_raw_fd(),
        };
        epoll::ctl(self.epoll.0, option, descriptor, Event::new(events, token))
    }

    /// Whether [`Resolver::receive`] may have something to tell.
    pub fn is_ready(&self) -> bool {
        let mut events = [Event::new(Events::empty(), 0)];
        let waits = !self.exchanges.is_empty()
            && epoll::wait(self.epoll.0, 0, &mut events).is_ok_and(|count| count > 0);
        waits || !self.done.is_empty()
    }

    /// Returns what has become of what was asked.
    pub fn receive(&mut self) -> Vec<Outcome> {
        let mut events = [Event::new(Events::empty(), 0); EVENTS];
        while !self.exchanges.is_empty() {
            let count = epoll::wait(self.epoll.0, 0, &mut events).unwrap_or(0);
            for event in &events[..count] {
                self.handle(event.data);
            }
            if count < EVENTS {
                break;
            }
        }
        std::mem::take(&mut self.done)
    }

    fn handle(&mut self, token: u64) {
        let Some(exchange) = self.exchanges.get_mut(&token) else {
            return;
        };
        let (outcome, sent) = match &mut exchange.channel {
            Channel::Datagram(socket) => {
                let answer = receive(socket, &exchange.ask.message, &mut self.buffer);
                (answer.transpose(), false)
            }
            Channel::Stream {
                stream,
                unsent,
                received,
            } => {
                let sending = !unsent.is_empty();
                let done = exchange_over(stream, unsent, received, &mut self.buffer);
                let done = done.transpose().map(|answer| {
                    answer.and_then(|answer| {
                        let fits = answers(&exchange.ask.message, &answer);
                        fits.then_some(answer)
                            .ok_or_else(|| io::ErrorKind::InvalidData.into())
                    })
                });
                (done, sending && unsent.is_empty())
            }
        };
        if let Some(outcome) = outcome {
            let ticket = exchange.ask.ticket;
            self.close(token);
            let outcome = outcome.map_err(|_| AskError::Unreachable);
            self.done.push((ticket, outcome));
        } else if sent && let Some(exchange) = self.exchanges.get(&token) {
            let modify = ControlOptions::EPOLL_CTL_MOD;
            // If the kernel refused, the socket would be looked at more often than need be.
            let _ = self.control(&exchange.channel, modify, Events::EPOLLIN, token);
        }
    }

    fn close(&mut self, token: u64) {
        if let Some(exchange) = self.exchanges.remove(&token) {
            self.timers.remove(&(exchange.ask.until, token));
        }
    }

    /// The next time at which nobody waits any more for an answer.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(until, _)| *until)
    }

    /// Closes the sockets whose answers nobody waits for any more.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((until, token)) = self.timers.first().copied()
            && until <= now
        {
            self.close(token);
        }
    }
}

/// Sends a question in a datagram.
fn send(server: SocketAddr, message: &[u8]) -> io::Result<Channel> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(message)?;
    Ok(Channel::Datagram(socket))
}

/// Begins a connection, over which the question is to go.
fn connect(server: SocketAddr, message: &[u8]) -> io::Result<Channel> {
    let socket = Socket::new(
        Domain::for_address(server),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let len = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(Channel::Stream {
        stream: socket.into(),
        unsent: [&len.to_be_bytes(), message].concat(),
        received: Vec::new(),
    })
}

/// Takes datagrams until one answers the question, or none is left.
fn receive(socket: &UdpSocket, question: &[u8], buffer: &mut [u8]) -> io::Result<Option<Vec<u8>>> {
    loop {
        match socket.recv(buffer) {
            Ok(len) => {
                let datagram = buffer.get(..len).unwrap_or_default();
                if answers(question, datagram) {
                    return Ok(Some(datagram.to_vec()));
                }
            }
            Err(error) => return later(error),
        }
    }
}

/// Sends and receives what can be at once, and returns the message once it is there.
fn exchange_over(
    stream: &mut TcpStream,
    unsent: &mut Vec<u8>,
    received: &mut Vec<u8>,
    buffer: &mut [u8],
) -> io::Result<Option<Vec<u8>>> {
    while !unsent.is_empty() {
        match stream.write(unsent) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => drop(unsent.drain(..len)),
            Err(error) => return later(error),
        }
    }
    loop {
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => received.extend_from_slice(buffer.get(..len).unwrap_or_default()),
            Err(error) => return later(error),
        }
        if let Some((len, rest)) = received.split_first_chunk::<2>()
            && let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*len)))
        {
            return Ok(Some(message.to_vec()));
        }
    }
}

/// What cannot be done at once is done later; everything else has failed.
fn later<T>(error: io::Error) -> io::Result<Option<T>> {
    let is_later = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind());
    if is_later { Ok(None) } else { Err(error) }
}

#[cfg(test)]
mod tests;

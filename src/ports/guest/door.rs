//! The front door of a guest port: its socket, and the connections of VMMs.
//!
//! # Theory of operation
//!
//! One thread a port accepts connections (or makes them, where the VMM listens) and serves them in turn, without waiting for
//! any; what is said there is the affair of each (`connection`).
//!
//! While the link of the port is set down, the door closes connections of VMMs that show that to their guests, and lets
//! none in again: see the port's own theory of operation.
//!
//! A connection that breaks the protocol is closed with one line in the log; the VMM may connect again. Connections
//! beyond [`MAX_CONNECTIONS`] are closed at once. A message that stays incomplete for some seconds ends its connection.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::bell::{Bell, Order};
use super::connection::{Connection, End};
use super::entrance::Entrance;
use super::link::Link;
use super::peer::Peer;
use super::session::Session;
use super::{Role, Spec};

/// How many connections a port serves at once: one that owns it, and some that negotiate.
const MAX_CONNECTIONS: usize = 4;
/// How often the thread looks after half messages and broken connections, in milliseconds.
const TICK_MS: i32 = 1000;
/// How long a port's thread rests after a connection ended or could not be had.
const REST: Duration = Duration::from_millis(10);

const BELL: u64 = 0;
const LISTENER: u64 = 1;
/// Tokens of connections: twice their number, and one more for the private side.
const FIRST_CONNECTION: u64 = 1;

/// What a port's thread works with.
pub(super) struct Door {
    spec: Spec,
    link: Arc<Link>,
    /// Where VMMs connect; none where they listen.
    entrance: Option<Entrance>,
    bell: Arc<Bell>,
    /// What the worker ordered last.
    order: Order,
    /// Whose connections were closed since the link was set down.
    cut_off: Vec<Peer>,
    /// Whether it was said that the entrance cannot be opened again.
    complained: bool,
    epoll: Epoll,
    connections: BTreeMap<u64, Connection>,
}

impl Door {
    /// Prepares the door. `bell` rings when the worker wants something of it.
    pub(super) fn new(
        spec: Spec,
        link: Arc<Link>,
        entrance: Option<Entrance>,
        bell: Arc<Bell>,
    ) -> io::Result<Self> {
        let epoll = Epoll(epoll::create(true)?);
        epoll.add(bell.as_raw_fd(), BELL)?;
        if let Some(listener) = entrance.as_ref().and_then(Entrance::listener) {
            epoll.add(listener.as_raw_fd(), LISTENER)?;
        }
        Ok(Self {
            spec,
            link,
            entrance,
            bell,
            order: Order::default(),
            cut_off: Vec::new(),
            complained: false,
            epoll,
            connections: BTreeMap::new(),
        })
    }

    /// Serves the port until it is stopped.
    pub(super) fn run(mut self) {
        let mut events = [epoll::Event::new(epoll::Events::empty(), 0); 16];
        self.reach_out();
        'serve: loop {
            let count = match epoll::wait(self.epoll.0, TICK_MS, &mut events) {
                Ok(0) => {
                    self.tick();
                    self.reach_out();
                    continue;
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(port = self.spec.name, %error, "the port's thread ends: epoll failed");
                    break;
                }
            };
            for event in &events[..count] {
                match event.data {
                    BELL => {
                        if self.bell.answer() {
                            break 'serve;
                        }
                        self.follow_order();
                    }
                    LISTENER => self.accept(),
                    token => self.serve((token - FIRST_CONNECTION) / 2),
                }
            }
        }
        for number in self.connections.keys().copied().collect::<Vec<_>>() {
            self.close(number, Ok(()));
        }
    }

    /// Connects to a VMM that listens; tried once a tick, but not while the link is set down.
    fn reach_out(&mut self) {
        if self.spec.role == Role::Server || self.order.is_down() || !self.connections.is_empty() {
            return;
        }
        match UnixStream::connect(&self.spec.socket) {
            Ok(stream) => self.open(stream),
            Err(error) => {
                tracing::trace!(port = self.spec.name, %error, "the VMM does not listen yet")
            }
        }
    }

    fn accept(&mut self) {
        let listener = self.entrance.as_ref().and_then(Entrance::listener);
        match listener.map(UnixListener::accept) {
            Some(Ok((stream, _))) => self.open(stream),
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                tracing::debug!(port = self.spec.name, %error, "a connection cannot be accepted");
                thread::sleep(REST);
            }
            Some(Err(_)) | None => {}
        }
    }

    /// Follows what the worker ordered meanwhile.
    fn follow_order(&mut self) {
        let before = self.order;
        self.order = self.bell.order();
        // The guest is to see that the link was down, even if it is up again by now.
        if self.order.downs() != before.downs() {
            self.cut_off();
        }
        self.let_in();
        self.reach_out();
    }

    /// Closes the connections of VMMs that show it to their guests, once their rings run. While the link is down,
    /// nobody is let in from then on.
    fn cut_off(&mut self) {
        let shown = |number: u64, connection: &Connection| {
            connection.shows_link() && self.link.runs(number)
        };
        let numbers: Vec<u64> = self
            .connections
            .iter()
            .filter_map(|(number, connection)| shown(*number, connection).then_some(*number))
            .collect();
        for number in numbers {
            if self.order.is_down()
                && let Some(entrance) = &mut self.entrance
                && let Some(connection) = self.connections.get(&number)
            {
                entrance.close();
                self.cut_off.push(connection.peer());
            }
            self.close(number, Err(End::LinkDown));
        }
    }

    /// Opens the entrance again where it is closed for no reason any more.
    fn let_in(&mut self) {
        if self.order.is_down() && !self.cut_off.iter().all(Peer::has_ended) {
            return;
        }
        self.cut_off.clear();
        let Some(entrance) = &mut self.entrance else {
            return;
        };
        if entrance.listener().is_some() {
            return;
        }
        let watched = match entrance.reopen() {
            Ok(listener) => {
                let added = self.epoll.add(listener.as_raw_fd(), LISTENER);
                added.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = &watched
            && !self.complained
        {
            tracing::error!(port = self.spec.name, reason, "no VMM can connect");
        }
        if watched.is_err() {
            entrance.close();
        }
        self.complained = watched.is_err();
    }

    fn open(&mut self, stream: UnixStream) {
        let name = &self.spec.name;
        if self.connections.len() >= MAX_CONNECTIONS {
            tracing::debug!(
                port = name,
                "closed a connection: the port has {MAX_CONNECTIONS} already"
            );
            return;
        }
        let number = self.link.connect();
        let session = Session::new(Arc::clone(&self.link), number, self.spec.mac, self.spec.mtu);
        match Connection::open(stream, session, &self.epoll, FIRST_CONNECTION + number * 2) {
            Ok(connection) => {
                tracing::debug!(port = name, number, "a VMM connected");
                self.connections.insert(number, connection);
            }
            Err(error) => {
                self.link.disconnect(number);
                tracing::warn!(port = name, %error, "cannot serve a connection");
            }
        }
    }

    fn serve(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        if let Err(end) = connection.serve(&self.spec, &self.link) {
            self.close(number, Err(end));
        }
    }

    fn tick(&mut self) {
        let late: Vec<u64> = self
            .connections
            .iter_mut()
            .filter_map(|(number, connection)| connection.tick().then_some(*number))
            .collect();
        for number in late {
            self.close(
                number,
                Err(End::Broken("a message began and did not end".to_owned())),
            );
        }
        if self.order.is_down() {
            self.cut_off();
        }
        self.let_in();
    }

    /// Ends a connection: first the session, then the rings, then the memory.
    fn close(&mut self, number: u64, end: Result<(), End>) {
        let Some(mut connection) = self.connections.remove(&number) else {
            return;
        };
        let session = connection.hang_up();
        self.link.disconnect(number);
        drop(connection);
        thread::sleep(REST);
        let name = &self.spec.name;
        match (end, session) {
            (Ok(()) | Err(End::Closed), _) => {
                tracing::debug!(port = name, number, "the VMM disconnected")
            }
            (Err(End::LinkDown), _) => {
                tracing::debug!(
                    port = name,
                    number,
                    "closed a connection: the link was set down"
                )
            }
            (Err(End::Broken(reason)), _) => tracing::warn!(
                port = name,
                reason,
                "closed a connection that broke the vhost-user protocol"
            ),
            (Err(End::Refused), Err(error)) => {
                tracing::warn!(port = name, reason = %error, "closed a connection that broke the vhost-user protocol");
            }
            (Err(End::Refused), Ok(())) => {
                tracing::debug!(port = name, number, "the session ended")
            }
        }
    }
}

/// An epoll instance.
pub(super) struct Epoll(RawFd);

impl Epoll {
    /// Starts to watch a descriptor for as long as it is open.
    pub(super) fn add(&self, descriptor: RawFd, token: u64) -> io::Result<()> {
        let event = epoll::Event::new(epoll::Events::EPOLLIN | epoll::Events::EPOLLRDHUP, token);
        epoll::ctl(
            self.0,
            epoll::ControlOptions::EPOLL_CTL_ADD,
            descriptor,
            event,
        )
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        // Nothing is left to be done about a descriptor that cannot be closed.
        let _ = epoll::close(self.0);
    }
}

//! The front door of a guest port: its socket, and the connections of VMMs.
//!
//! # Theory of operation
//!
//! One thread a port accepts connections (or makes them, where the VMM listens) and serves them in turn, without waiting for
//! any; what is said there is the affair of each (`connection`).
//!
//! A connection that breaks the protocol is closed with one line in the log; the VMM may connect again. Connections
//! beyond [`MAX_CONNECTIONS`] are closed at once. A message that stays incomplete for some seconds ends its connection.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::connection::{Connection, End};
use super::link::Link;
use super::session::Session;
use super::{Role, Spec};
use crate::ports::OpenError;

/// How many connections a port serves at once: one that owns it, and some that negotiate.
const MAX_CONNECTIONS: usize = 4;
/// How often the thread looks after half messages and broken connections, in milliseconds.
const TICK_MS: i32 = 1000;
/// How long a port's thread rests after a connection ended or could not be had.
const REST: Duration = Duration::from_millis(10);

const STOP: u64 = 0;
const LISTENER: u64 = 1;
/// Tokens of connections: twice their number, and one more for the private side.
const FIRST_CONNECTION: u64 = 1;

/// Binds the socket of a port whose VMM connects.
pub(super) fn listen(path: &Path) -> Result<UnixListener, OpenError> {
    let refuse = |reason: String| OpenError::Socket {
        path: path.display().to_string(),
        reason,
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(refuse(
                "something that is not a socket is there; remove it or choose another path"
                    .to_owned(),
            ));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(refuse(
                "another process listens there; stop it or choose another path".to_owned(),
            ));
        }
        Ok(_) => fs::remove_file(path)
            .map_err(|error| refuse(format!("a stale socket cannot be removed: {error}")))?,
        Err(_) => {}
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other kinds are said in the system's words")]
    let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refuse("its directory does not exist; create it".to_owned()),
        io::ErrorKind::PermissionDenied => refuse(
            "permission denied; run as a user who may write to its directory, or choose another runtime_dir".to_owned(),
        ),
        _ => refuse(error.to_string()),
    })?;
    let prepared = fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .and_then(|()| listener.set_nonblocking(true));
    prepared.map_err(|error| refuse(error.to_string()))?;
    Ok(listener)
}

/// What a port's thread works with.
pub(super) struct Door {
    spec: Spec,
    link: Arc<Link>,
    listener: Option<UnixListener>,
    /// Readable when the port closes; kept open for epoll.
    _stop: EventFd,
    epoll: Epoll,
    connections: BTreeMap<u64, Connection>,
}

impl Door {
    /// Prepares the door. `stop` becomes readable when the port is to close.
    pub(super) fn new(
        spec: Spec,
        link: Arc<Link>,
        listener: Option<UnixListener>,
        stop: EventFd,
    ) -> io::Result<Self> {
        let epoll = Epoll(epoll::create(true)?);
        epoll.add(stop.as_raw_fd(), STOP)?;
        if let Some(listener) = &listener {
            epoll.add(listener.as_raw_fd(), LISTENER)?;
        }
        Ok(Self {
            spec,
            link,
            listener,
            _stop: stop,
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
                    STOP => break 'serve,
                    LISTENER => self.accept(),
                    token => self.serve((token - FIRST_CONNECTION) / 2),
                }
            }
        }
        for number in self.connections.keys().copied().collect::<Vec<_>>() {
            self.close(number, Ok(()));
        }
    }

    /// Connects to a VMM that listens; tried once a tick.
    fn reach_out(&mut self) {
        if self.spec.role == Role::Server || !self.connections.is_empty() {
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
        match self.listener.as_ref().map(UnixListener::accept) {
            Some(Ok((stream, _))) => self.open(stream),
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                tracing::debug!(port = self.spec.name, %error, "a connection cannot be accepted");
                thread::sleep(REST);
            }
            Some(Err(_)) | None => {}
        }
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

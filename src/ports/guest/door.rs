//! The front door of a guest port: its socket, and what VMMs say there before the framework hears it.
//!
//! # Theory of operation
//!
//! One thread a port accepts connections (or makes them, where the VMM listens) and reads whole messages from them,
//! without waiting for any. Each connection has a framework session of its own behind a private socket; two thirds of
//! the messages are simply passed on. The door
//!
//! * checks what no feature negotiation covers: sizes, descriptors and what they are, memory regions and their order;
//! * remembers `SET_VRING_ENABLE` where it comes before `SET_FEATURES`, as QEMU sends it, and says it again afterwards;
//!   the framework would end the session;
//! * answers `SEND_RARP` and `NET_SET_MTU`, which the framework does not know, and offers their features;
//! * keeps the configuration space from QEMU, which has its own and would warn about ours.
//!
//! A connection that breaks the protocol is closed with one line in the log; the VMM may connect again. Connections
//! beyond [`MAX_CONNECTIONS`] are closed at once. A message that stays incomplete for some seconds ends its connection.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::link::Link;
use super::message::{Inbox, Message, ReadError, check_event, check_memory};
use super::session::{Backend, QUEUES, Session, making_rings};
use super::{Role, Spec};
use crate::ports::OpenError;
use crate::wire::ethernet::MacAddr;

/// The protocol features that the door itself serves: `RARP` and `MTU`.
const OWN_FEATURES: u64 = 1 << 2 | 1 << 4;
/// How many connections a port serves at once: one that owns it, and some that negotiate.
const MAX_CONNECTIONS: usize = 4;
/// How often the thread looks after half messages and broken connections, in milliseconds.
const TICK_MS: i32 = 1000;
/// After how many ticks without its rest a half message ends its connection.
const PATIENCE: u8 = 5;

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
        'serve: loop {
            if self.spec.role == Role::Client && self.connections.is_empty() {
                self.reach_out();
            }
            let count = match epoll::wait(self.epoll.0, TICK_MS, &mut events) {
                Ok(0) => {
                    self.tick();
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

    fn reach_out(&mut self) {
        match UnixStream::connect(&self.spec.socket) {
            Ok(stream) => self.open(stream),
            Err(error) => {
                tracing::trace!(port = self.spec.name, %error, "the VMM does not listen yet")
            }
        }
    }

    fn accept(&mut self) {
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) {
            self.open(stream);
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
        let stalled = |connection: &mut Connection| {
            connection.waited = if connection.public_inbox.is_partial() {
                connection.waited + 1
            } else {
                0
            };
            connection.waited >= PATIENCE
        };
        let late: Vec<u64> = self
            .connections
            .iter_mut()
            .filter_map(|(number, c)| stalled(c).then_some(*number))
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
        connection.hang_up();
        let session = connection.daemon.wait();
        self.link.disconnect(number);
        drop(connection);
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

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The VMM hung up.
    Closed,
    /// The VMM did what it must not.
    Broken(String),
    /// The framework ended the session.
    Refused,
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Closed => Self::Closed,
            ReadError::System(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Self::Closed
            }
            error @ (ReadError::Header { .. } | ReadError::Descriptors | ReadError::System(_)) => {
                Self::Broken(error.to_string())
            }
        }
    }
}

struct Connection {
    public: UnixStream,
    public_inbox: Inbox,
    private: UnixStream,
    private_inbox: Inbox,
    daemon: VhostUserDaemon<Backend>,
    /// The features that the VMM acknowledged, once it has.
    features: Option<u64>,
    /// Rings enabled or disabled before that.
    early: BTreeMap<u32, u32>,
    /// Whether the VMM asked for features before it claimed the device, as QEMU does.
    asked_first: bool,
    owned: bool,
    acknowledges: bool,
    waited: u8,
}

impl Connection {
    fn open(
        public: UnixStream,
        session: Arc<Session>,
        epoll: &Epoll,
        token: u64,
    ) -> io::Result<Self> {
        public.set_nonblocking(true)?;
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let name = "session".to_owned();
        let daemon = making_rings(&session, || {
            VhostUserDaemon::new(name, Backend(Arc::clone(&session)), memory)
        });
        let mut daemon = daemon.map_err(|error| io::Error::other(error.to_string()))?;
        let private = private_socket(|path| {
            daemon
                .start_client(path)
                .map_err(|error| io::Error::other(error.to_string()))
        })?;
        private.set_nonblocking(true)?;
        epoll.add(public.as_raw_fd(), token)?;
        epoll.add(private.as_raw_fd(), token + 1)?;
        Ok(Self {
            public,
            public_inbox: Inbox::default(),
            private,
            private_inbox: Inbox::default(),
            daemon,
            features: None,
            early: BTreeMap::new(),
            asked_first: false,
            owned: false,
            acknowledges: false,
            waited: 0,
        })
    }

    fn hang_up(&mut self) {
        // Either may have gone already.
        let _ = self.public.shutdown(std::net::Shutdown::Both);
        let _ = self.private.shutdown(std::net::Shutdown::Both);
    }

    /// Passes on what came from either side.
    fn serve(&mut self, spec: &Spec, link: &Link) -> Result<(), End> {
        loop {
            match self.private_inbox.read(&self.private) {
                Ok(Some(message)) => self.answer(message)?,
                Ok(None) => break,
                Err(_) => return Err(End::Refused),
            }
        }
        while let Some(message) = self.public_inbox.read(&self.public)? {
            self.waited = 0;
            self.hear(message, spec, link)?;
        }
        Ok(())
    }

    /// Passes a reply of the framework to the VMM.
    fn answer(&mut self, mut message: Message) -> Result<(), End> {
        if message.code == FrontendReq::GET_PROTOCOL_FEATURES as u32
            && message.is_reply()
            && let Some(offered) = message.u64_at(0)
        {
            let mut offered = offered | OWN_FEATURES;
            if self.asked_first {
                offered &= !VhostUserProtocolFeatures::CONFIG.bits();
            }
            message.payload = offered.to_ne_bytes().to_vec();
        }
        self.reply(&message)
    }

    fn reply(&self, message: &Message) -> Result<(), End> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        message.send(&self.public).map_err(|error| {
            if matches!(error.kind(), BrokenPipe | ConnectionReset) {
                End::Closed
            } else {
                End::Broken(format!("a reply cannot be sent: {error}"))
            }
        })
    }

    fn acknowledge(&self, message: &Message, accepted: bool) -> Result<(), End> {
        if self.acknowledges && message.needs_reply() {
            return self.reply(&Message::reply(message.code, u64::from(!accepted)));
        }
        Ok(())
    }

    fn pass_on(&self, message: &Message) -> Result<(), End> {
        message.send(&self.private).map_err(|_| End::Refused)
    }

    /// Takes a message of the VMM.
    fn hear(&mut self, mut message: Message, spec: &Spec, link: &Link) -> Result<(), End> {
        let broken = |reason: String| Err(End::Broken(reason));
        let Ok(request) = FrontendReq::try_from(message.code) else {
            return broken(format!("request {} is unknown", message.code));
        };
        let value = message.u64_at(0);
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "all others are passed on as they are"
        )]
        match request {
            FrontendReq::SET_OWNER => self.owned = true,
            FrontendReq::GET_FEATURES => self.asked_first |= !self.owned,
            FrontendReq::SET_FEATURES => {
                self.features = value;
                self.pass_on(&message)?;
                return self.enable_early();
            }
            FrontendReq::SET_PROTOCOL_FEATURES => {
                let Some(accepted) = value else {
                    return broken("SET_PROTOCOL_FEATURES without features".to_owned());
                };
                self.acknowledges = accepted & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0;
                message.payload = (accepted & !OWN_FEATURES).to_ne_bytes().to_vec();
            }
            FrontendReq::SET_VRING_ENABLE => {
                let (Some(index), Some(enable)) = (message.u32_at(0), message.u32_at(4)) else {
                    return broken("SET_VRING_ENABLE without a ring".to_owned());
                };
                if index as usize >= QUEUES {
                    return broken(format!(
                        "ring {index} was enabled, but the port has one queue pair: start the VMM with queues=1"
                    ));
                }
                match self.features {
                    None => {
                        self.early.insert(index, enable);
                        return self.acknowledge(&message, true);
                    }
                    // Without protocol features the rings have been enabled all along.
                    Some(features)
                        if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 =>
                    {
                        return self.acknowledge(&message, true);
                    }
                    Some(_) => {}
                }
            }
            FrontendReq::SEND_RARP => {
                let station = MacAddr::from_slice(&message.payload).filter(|mac| mac.is_station());
                let Some(mac) = station else {
                    return broken("SEND_RARP without a station's address".to_owned());
                };
                link.announce(mac);
                return self.acknowledge(&message, true);
            }
            FrontendReq::NET_SET_MTU => {
                let fits = value.is_some_and(|mtu| (68..=u64::from(spec.mtu)).contains(&mtu));
                if !fits {
                    tracing::warn!(
                        port = spec.name,
                        mtu = value,
                        network_mtu = spec.mtu,
                        "refused the VMM's MTU: set host_mtu to the network's at most"
                    );
                }
                return self.acknowledge(&message, fits);
            }
            FrontendReq::SET_VRING_KICK
            | FrontendReq::SET_VRING_CALL
            | FrontendReq::SET_VRING_ERR => {
                if let Some(reason) = message
                    .descriptors
                    .iter()
                    .find_map(|event| check_event(event).err())
                {
                    return broken(reason);
                }
            }
            FrontendReq::SET_MEM_TABLE => sort_regions(&mut message).map_err(End::Broken)?,
            FrontendReq::ADD_MEM_REG => check_region(&mut message).map_err(End::Broken)?,
            _ => {}
        }
        self.pass_on(&message)
    }

    /// Says again what was said about rings before features were negotiated.
    fn enable_early(&mut self) -> Result<(), End> {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if self
            .features
            .is_none_or(|features| features & protocol == 0)
        {
            return Ok(());
        }
        for (index, enable) in std::mem::take(&mut self.early) {
            let payload = [index.to_ne_bytes(), enable.to_ne_bytes()].concat();
            self.pass_on(&Message::request(
                FrontendReq::SET_VRING_ENABLE as u32,
                payload,
            ))?;
        }
        Ok(())
    }
}

const REGION_LEN: usize = 32;

/// Checks the regions of a memory table against their files, and puts them into the order of their addresses, which
/// the framework insists on.
fn sort_regions(message: &mut Message) -> Result<(), String> {
    let count = message.u32_at(0).unwrap_or(0) as usize;
    if count == 0
        || message.payload.len() != 8 + count * REGION_LEN
        || message.descriptors.len() != count
    {
        return Err("a memory table does not match its length or its files".to_owned());
    }
    let mut regions: Vec<(Vec<u8>, OwnedFd)> = message.payload[8..]
        .chunks(REGION_LEN)
        .map(<[u8]>::to_vec)
        .zip(message.descriptors.drain(..))
        .collect();
    regions.sort_by_key(|(region, _)| {
        region
            .first_chunk()
            .map_or(0, |start| u64::from_ne_bytes(*start))
    });
    message.payload.truncate(8);
    for (region, file) in regions {
        message
            .descriptors
            .push(check_memory(file, region_end(&region)?)?);
        message.payload.extend_from_slice(&region);
    }
    Ok(())
}

/// Checks the one region of an `ADD_MEM_REG`.
fn check_region(message: &mut Message) -> Result<(), String> {
    let (Some(region), 1) = (
        message.payload.get(8..8 + REGION_LEN),
        message.descriptors.len(),
    ) else {
        return Err("a memory region came without its file".to_owned());
    };
    let end = region_end(region)?;
    let file = message.descriptors.remove(0);
    message.descriptors.push(check_memory(file, end)?);
    Ok(())
}

/// Up to where a region (guest address, size, user address, offset) needs its file.
fn region_end(region: &[u8]) -> Result<u64, String> {
    let field = |at: usize| {
        region
            .get(at..at + 8)
            .and_then(|field| field.try_into().ok())
            .map_or(0, u64::from_ne_bytes)
    };
    let (start, size, user, offset) = (field(0), field(8), field(16), field(24));
    let wraps = start.checked_add(size).is_none() || user.checked_add(size).is_none();
    match offset.checked_add(size) {
        Some(end) if !wraps && size > 0 => Ok(end),
        _ => Err("a memory region is empty or wraps around".to_owned()),
    }
}

/// Makes a pair of sockets of which `connect` gets one by its path. Nobody else can connect to it.
fn private_socket(connect: impl FnOnce(&str) -> io::Result<()>) -> io::Result<UnixStream> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("vmlan-{}-{number}", std::process::id()));
    // A directory left by another process of the same number is in the way; it is ours to remove if it can be removed.
    let _ = fs::remove_dir_all(&directory);
    DirBuilder::new().mode(0o700).create(&directory)?;
    let path = directory.join("session");
    let made = UnixListener::bind(&path).and_then(|listener| {
        let path = path
            .to_str()
            .ok_or_else(|| io::Error::other("the temporary directory's name is not UTF-8"))?;
        connect(path)?;
        listener.accept().map(|(stream, _)| stream)
    });
    fs::remove_dir_all(&directory)?;
    made
}

/// An epoll instance.
struct Epoll(RawFd);

impl Epoll {
    fn add(&self, descriptor: RawFd, token: u64) -> io::Result<()> {
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

//! One connection of a VMM, before the framework hears it.
//!
//! # Theory of operation
//!
//! Whole messages are read, without waiting for any. Each connection has a framework session of its own behind a
//! private socket; two thirds of the messages are simply passed on, and the replies come back the same way. Besides, a
//! connection
//!
//! * checks what no feature negotiation covers: sizes, descriptors and what they are, memory regions and their order;
//! * remembers `SET_VRING_ENABLE` where it comes before `SET_FEATURES`, as QEMU sends it, and says it again afterwards;
//!   the framework would end the session;
//! * answers `SEND_RARP` and `NET_SET_MTU`, which the framework does not know, and offers their features;
//! * keeps the configuration space from QEMU, which has its own and would warn about ours;
//! * says of a packed ring both where it takes and where it uses the next descriptor, which is the same place; the
//!   framework knows of one number only.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::VhostUserDaemon;
use virtio_bindings::virtio_config::VIRTIO_F_RING_PACKED;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use super::Spec;
use super::door::Epoll;
use super::link::Link;
use super::message::{Inbox, Message, ReadError, check_event};
use super::peer::Peer;
use super::regions::Regions;
use super::session::{Backend, QUEUES, Session, making_rings};
use crate::wire::ethernet::MacAddr;

/// The protocol features that are served here: `RARP` and `MTU`.
const OWN_FEATURES: u64 = 1 << 2 | 1 << 4;
/// How many messages of a connection are heard before others have their turn.
const MESSAGES: usize = 16;
/// What is wrong where a VMM places rings but shares no memory.
const UNSHARED: &str = "the guest's memory is not shared: start QEMU with -object memory-backend-memfd,id=mem0,share=on,size=… \
                        and -machine memory-backend=mem0, cloud-hypervisor with --memory shared=on";
/// After how many ticks without its rest a half message ends its connection.
const PATIENCE: u8 = 5;

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// The VMM hung up.
    Closed,
    /// The VMM did what it must not.
    Broken(String),
    /// The framework ended the session.
    Refused,
    /// The link of the port was set down.
    LinkDown,
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

/// A VMM's connection and the session behind it.
pub(super) struct Connection {
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
    /// The protocol features that were offered.
    offered: u64,
    regions: Regions,
    /// Whether an MTU has been refused already.
    mtu_refused: bool,
    waited: u8,
}

impl Connection {
    /// Starts a session for a VMM, and has both sides watched: under `token`, and under the next.
    pub(super) fn open(
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
            offered: 0,
            regions: Regions::default(),
            mtu_refused: false,
            waited: 0,
        })
    }

    /// Ends the session. When this returns, nobody speaks for the VMM any more; what came of it is the answer.
    pub(super) fn hang_up(&mut self) -> Result<(), vhost_user_backend::Error> {
        // Either may have gone already.
        let _ = self.public.shutdown(std::net::Shutdown::Both);
        let _ = self.private.shutdown(std::net::Shutdown::Both);
        self.daemon.wait()
    }

    /// Whether the VMM shows its guest that the connection ended, as QEMU does.
    pub(super) const fn shows_link(&self) -> bool {
        self.asked_first
    }

    /// The process of the VMM.
    pub(super) fn peer(&self) -> Peer {
        Peer::of(&self.public)
    }

    /// Notes that a tick has passed; tells whether a message began too long ago and has not ended.
    pub(super) fn tick(&mut self) -> bool {
        self.waited = if self.public_inbox.is_partial() {
            self.waited + 1
        } else {
            0
        };
        self.waited >= PATIENCE
    }

    /// Passes on what came from either side.
    pub(super) fn serve(&mut self, spec: &Spec, link: &Link) -> Result<(), End> {
        loop {
            match self.private_inbox.read(&self.private) {
                Ok(Some(message)) => self.answer(message)?,
                Ok(None) => break,
                Err(_) => return Err(End::Refused),
            }
        }
        for _ in 0..MESSAGES {
            let Some(message) = self.public_inbox.read(&self.public)? else {
                break;
            };
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
            self.offered = offered;
            if self.asked_first {
                offered &= !VhostUserProtocolFeatures::CONFIG.bits();
            }
            message.payload = offered.to_ne_bytes().to_vec();
        }
        if message.code == FrontendReq::GET_VRING_BASE as u32
            && self
                .features
                .is_some_and(|features| features & 1 << VIRTIO_F_RING_PACKED != 0)
            && let (Some(index), Some(base)) = (message.u32_at(0), message.u32_at(4))
        {
            let both = base & 0xffff | base << 16;
            message.payload = [index.to_ne_bytes(), both.to_ne_bytes()].concat();
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
                if accepted & !self.offered != 0 {
                    return broken(
                        "protocol features were accepted that were not offered".to_owned(),
                    );
                }
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
                if !fits && !self.mtu_refused {
                    self.mtu_refused = true;
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
            FrontendReq::SET_MEM_TABLE => {
                self.regions.replace(&mut message).map_err(End::Broken)?
            }
            FrontendReq::ADD_MEM_REG => self.regions.add(&mut message).map_err(End::Broken)?,
            FrontendReq::REM_MEM_REG => self.regions.remove(&message),
            FrontendReq::SET_VRING_ADDR if self.regions.is_empty() => {
                return broken(UNSHARED.to_owned());
            }
            // The framework forgets the features too.
            FrontendReq::RESET_OWNER | FrontendReq::RESET_DEVICE => self.features = None,
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

/// Makes a pair of sockets of which `connect` gets one by its path. Nobody else can connect to it.
fn private_socket(connect: impl FnOnce(&str) -> io::Result<()>) -> io::Result<UnixStream> {
    // A name that nobody can guess, so that nobody can take it first.
    let name = RandomState::new().hash_one(std::process::id());
    let directory = std::env::temp_dir().join(format!("vmlan-{name:016x}"));
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

//! The epoll instance of a network's sockets: one descriptor that the worker watches in place of thousands.
//!
//! Readiness is told again until it is dealt with, unless the interest says that it is told once each time it arises.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use epoll::{ControlOptions, Event, Events};

/// How many sockets are looked at in one go.
const BATCH: usize = 64;

/// Whose socket it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A UDP socket of a guest.
    Udp,
    /// A ping socket of a guest.
    Echo,
    /// A TCP connection of a guest.
    Tcp,
    /// A port that is forwarded.
    Listener,
    /// The inner end of a local stream.
    Stream,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Udp,
        Self::Echo,
        Self::Tcp,
        Self::Listener,
        Self::Stream,
    ];
}

/// A socket by its kind and number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Token {
    /// Whose it is.
    pub(super) kind: Kind,
    /// Which of them.
    pub(super) id: u32,
}

impl Token {
    const fn to_bits(self) -> u64 {
        (self.kind as u64) << 32 | self.id as u64
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let kind = Kind::ALL.get(usize::try_from(bits >> 32).ok()?)?;
        let id = u32::try_from(bits & u64::from(u32::MAX)).ok()?;
        Some(Self { kind: *kind, id })
    }
}

/// What of a socket is to be told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Interest {
    /// That there is something to read.
    pub(super) read: bool,
    /// That there is room to write.
    pub(super) write: bool,
    /// Each of it once, when it arises.
    pub(super) edge: bool,
}

impl Interest {
    /// Whatever there is to read, until it was read.
    pub(super) const READ: Self = Self {
        read: true,
        write: false,
        edge: false,
    };
    /// Whatever there is to read, and room to write.
    pub(super) const BOTH: Self = Self {
        read: true,
        write: true,
        edge: false,
    };

    fn events(self) -> Events {
        let mut events = Events::empty();
        if self.read {
            events |= Events::EPOLLIN | Events::EPOLLRDHUP;
        }
        if self.write {
            events |= Events::EPOLLOUT;
        }
        if self.edge {
            events |= Events::EPOLLET;
        }
        events
    }
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Ready {
    /// There is something to read, be it the end.
    pub(super) read: bool,
    /// There is room to write.
    pub(super) write: bool,
    /// There is an error to be asked for.
    pub(super) error: bool,
    /// Both directions have ended.
    pub(super) hung_up: bool,
    /// The other end writes no more.
    pub(super) ended: bool,
}

impl Ready {
    fn of(bits: u32) -> Self {
        let events = Events::from_bits_truncate(bits);
        Self {
            read: events.contains(Events::EPOLLIN),
            write: events.contains(Events::EPOLLOUT),
            error: events.contains(Events::EPOLLERR),
            hung_up: events.contains(Events::EPOLLHUP),
            ended: events.contains(Events::EPOLLRDHUP),
        }
    }
}

/// An epoll instance.
#[derive(Debug)]
pub(super) struct Poll(RawFd);

impl Poll {
    /// Opens one that watches nothing.
    pub(super) fn open() -> io::Result<Self> {
        epoll::create(true).map(Self)
    }

    /// Starts to watch a socket.
    pub(super) fn add(
        &self,
        socket: BorrowedFd<'_>,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.control(
            ControlOptions::EPOLL_CTL_ADD,
            socket.as_raw_fd(),
            token,
            interest,
        )
    }

    /// Watches a socket for something else from now on.
    pub(super) fn modify(
        &self,
        socket: BorrowedFd<'_>,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.control(
            ControlOptions::EPOLL_CTL_MOD,
            socket.as_raw_fd(),
            token,
            interest,
        )
    }

    /// Stops watching a socket. One that is closed, and that nobody else holds, is not watched any more anyway.
    pub(super) fn remove(&self, socket: BorrowedFd<'_>) {
        let event = Event::new(Events::empty(), 0);
        // A socket that is not watched needs no more.
        let _ = epoll::ctl(
            self.0,
            ControlOptions::EPOLL_CTL_DEL,
            socket.as_raw_fd(),
            event,
        );
    }

    fn control(
        &self,
        operation: ControlOptions,
        socket: RawFd,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        let event = Event::new(interest.events(), token.to_bits());
        epoll::ctl(self.0, operation, socket, event)
    }

    /// Replaces `ready` by what is ready now, without waiting.
    pub(super) fn collect(&self, ready: &mut Vec<(Token, Ready)>) {
        ready.clear();
        let mut events = [Event::new(Events::empty(), 0); BATCH];
        // A signal that came in between is answered by the next look.
        let count = epoll::wait(self.0, 0, &mut events).unwrap_or(0);
        ready.extend(
            events
                .iter()
                .take(count)
                .filter_map(|event| Some((Token::from_bits(event.data)?, Ready::of(event.events)))),
        );
    }
}

impl AsRawFd for Poll {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        // Nothing is left to be done about a descriptor that cannot be closed.
        let _ = epoll::close(self.0);
    }
}

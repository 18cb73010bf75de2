//! What the kernel tells of network adapters as it happens (`man 7 rtnetlink`).
//!
//! # Theory of operation
//!
//! A socket that joined the kernel's group of links hears of every adapter of its network namespace: of each change the
//! whole state afterwards. Of a message the index and the name are read first; those that concern other adapters cost no
//! more. The attributes are picked one by one, since a newer kernel may send some that nobody here can take apart.
//! Messages of address families are skipped: a bridge says in the same group that a port was deleted when it only
//! left the bridge.
//!
//! What does not fit the socket is dropped by the kernel, which says so once. Whoever listens then has to look.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkFlags as Flags, LinkHeader};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::adapter::{AdapterName, LinkFlags};
use crate::wire::ethernet::MacAddr;

/// Room for one message; what is known of adapters takes a few KiB.
const BUFFER: usize = 16 << 10;
/// The length of a message's fixed part, `struct ifinfomsg`.
const HEADER: usize = 16;
/// Attributes, from `linux/if_link.h`.
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_CARRIER: u16 = 33;

/// What the kernel told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ports) enum Event {
    /// Something that was lost.
    Lost,
    /// The adapter that was asked for by its index was deleted, or moved to another network namespace.
    Gone,
    /// An adapter is there, was changed, or has another name.
    There(State),
}

/// The state of an adapter after a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ports) struct State {
    /// The number that the kernel gave the adapter.
    pub(in crate::ports) index: i32,
    /// Whether it has the name that was asked for.
    pub(in crate::ports) named: bool,
    /// What it says of its link.
    pub(in crate::ports) flags: LinkFlags,
    /// Whether there is a carrier. It is lost before `flags` say so.
    pub(in crate::ports) carrier: bool,
    /// Its hardware address, where it is one of Ethernet's.
    pub(in crate::ports) mac: Option<MacAddr>,
    /// Its largest packet.
    pub(in crate::ports) mtu: Option<u32>,
}

impl State {
    /// Tells whether frames can pass.
    pub(in crate::ports) const fn has_link(&self) -> bool {
        self.flags.up && self.flags.running && self.carrier
    }
}

/// Hears of changes of one adapter.
pub(in crate::ports) struct Monitor {
    name: AdapterName,
    socket: Socket,
    buffer: Box<[u8]>,
}

impl Monitor {
    /// Listens from now on.
    pub(in crate::ports) fn open(name: AdapterName) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(libc::RTNLGRP_LINK)?;
        Ok(Self {
            name,
            socket,
            buffer: vec![0; BUFFER].into(),
        })
    }

    /// Takes the next event that concerns the adapter of this index or of the monitor's name.
    pub(in crate::ports) fn next(&mut self, index: Option<i32>) -> Option<Event> {
        loop {
            let (len, from) = match self
                .socket
                .recv_from(&mut &mut self.buffer[..], libc::MSG_TRUNC)
            {
                Ok(received) => received,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::ENOBUFS) => return Some(Event::Lost),
                    // Nothing is left, or nothing will ever come: ports look at intervals, too.
                    _ => return None,
                },
            };
            // Others than the kernel may send, too.
            if from.port_number() != 0 {
                continue;
            }
            let Some(message) = self.buffer.get(..len) else {
                return Some(Event::Lost);
            };
            if let Some(event) = read(message, self.name, index) {
                return Some(event);
            }
        }
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Returns what a message says of the adapter of this index or name. The kernel puts one message into each datagram.
fn read(datagram: &[u8], name: AdapterName, index: Option<i32>) -> Option<Event> {
    let message = NetlinkBuffer::new_checked(datagram).ok()?;
    let gone = match message.message_type() {
        libc::RTM_NEWLINK => false,
        libc::RTM_DELLINK => true,
        _ => return None,
    };
    let payload = message.payload();
    let header = LinkHeader::parse(payload).ok()?;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let number = i32::try_from(header.index).ok()?;
    let known = index == Some(number);
    if gone {
        return known.then_some(Event::Gone);
    }
    let attributes = payload.get(HEADER..)?;
    let named = attribute(attributes, IFLA_IFNAME).is_some_and(|nla| name.is(nla.value()));
    if !known && !named {
        return None;
    }
    let carrier = attribute(attributes, IFLA_CARRIER).is_none_or(|nla| nla.value() != [0]);
    Some(Event::There(State {
        index: number,
        named,
        flags: LinkFlags {
            up: header.flags.contains(Flags::Up),
            running: header.flags.contains(Flags::Running),
        },
        carrier: carrier && header.flags.contains(Flags::LowerUp),
        mac: attribute(attributes, IFLA_ADDRESS)
            .and_then(|nla| nla.value().try_into().ok())
            .map(MacAddr),
        mtu: attribute(attributes, IFLA_MTU)
            .and_then(|nla| nla.value().try_into().ok())
            .map(u32::from_ne_bytes),
    }))
}

/// Returns the first attribute of this kind.
fn attribute(attributes: &[u8], kind: u16) -> Option<NlaBuffer<&[u8]>> {
    NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|nla| nla.kind() == kind)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UP: u32 = 1;
    const RUNNING: u32 = 1 << 6;
    const LOWER_UP: u32 = 1 << 16;

    fn name() -> AdapterName {
        AdapterName::new("eth0").unwrap()
    }

    /// A message of an address family about adapter 5.
    fn message(kind: u16, family: u8, flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut payload = vec![family, 0, 1, 0];
        for field in [5, flags, 0] {
            payload.extend(u32::to_ne_bytes(field));
        }
        for (kind, value) in attributes {
            let len = u16::try_from(4 + value.len()).unwrap();
            payload.extend(len.to_ne_bytes());
            payload.extend(kind.to_ne_bytes());
            payload.extend(*value);
            payload.resize(payload.len().next_multiple_of(4), 0);
        }
        let len = u32::try_from(16 + payload.len()).unwrap();
        let mut message = Vec::from(len.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(payload);
        message
    }

    fn there(flags: u32, attributes: &[(u16, &[u8])]) -> Option<State> {
        let message = message(libc::RTM_NEWLINK, 0, flags, attributes);
        match read(&message, name(), Some(5))? {
            Event::There(state) => Some(state),
            Event::Lost | Event::Gone => None,
        }
    }

    #[test]
    fn a_message_concerns_the_adapter_of_the_index_or_of_the_name() {
        let event = |kind, called: &[u8], index| {
            read(
                &message(kind, 0, UP, &[(IFLA_IFNAME, called)]),
                name(),
                index,
            )
        };
        let named = |called, index| match event(libc::RTM_NEWLINK, called, index) {
            Some(Event::There(state)) => Some((state.index, state.named)),
            other => {
                assert_eq!(other, None);
                None
            }
        };
        assert_eq!(named(b"eth0\0", None), Some((5, true)));
        assert_eq!(named(b"eth0\0", Some(4)), Some((5, true)));
        assert_eq!(named(b"eth1\0", Some(5)), Some((5, false)));
        assert_eq!(named(b"eth1\0", Some(4)), None);
        assert_eq!(
            event(libc::RTM_DELLINK, b"eth1\0", Some(5)),
            Some(Event::Gone)
        );
        assert_eq!(event(libc::RTM_DELLINK, b"eth0\0", Some(4)), None);
        assert_eq!(event(libc::RTM_GETLINK, b"eth0\0", Some(5)), None);
    }

    #[test]
    fn a_bridge_that_tells_of_its_ports_is_not_heard() {
        const BRIDGE: u8 = 7;
        for kind in [libc::RTM_NEWLINK, libc::RTM_DELLINK] {
            let message = message(kind, BRIDGE, UP, &[(IFLA_IFNAME, b"eth0\0")]);
            assert_eq!(read(&message, name(), Some(5)), None);
        }
    }

    #[test]
    fn a_link_is_there_when_nothing_says_otherwise() {
        let all = UP | RUNNING | LOWER_UP;
        let has_link = |flags, attributes: &[_]| there(flags, attributes).unwrap().has_link();
        assert!(has_link(all, &[]));
        assert!(has_link(all, &[(IFLA_CARRIER, &[1])]));
        assert!(!has_link(all, &[(IFLA_CARRIER, &[0])]));
        for missing in [UP, RUNNING, LOWER_UP] {
            assert!(!has_link(all & !missing, &[(IFLA_CARRIER, &[1])]));
        }
    }

    #[test]
    fn an_address_has_six_bytes() {
        let mac = |value: &[u8]| {
            there(UP, &[(9, &[1; 7]), (IFLA_ADDRESS, value)])
                .unwrap()
                .mac
        };
        assert_eq!(mac(&[2, 0, 0, 0, 0, 1]), Some(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!(mac(&[2; 20]), None);
        assert_eq!(mac(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_skipped(bytes: Vec<u8>, index: Option<i32>) {
            read(&bytes, name(), index);
        }

        #[test]
        fn any_attributes_are_read_or_skipped(bytes: Vec<u8>) {
            let mut message = message(libc::RTM_NEWLINK, 0, UP, &[]);
            message.extend(bytes);
            let len = u32::try_from(message.len()).unwrap();
            message[..4].copy_from_slice(&len.to_ne_bytes());
            prop_assert!(read(&message, name(), Some(5)).is_some());
        }
    }
}

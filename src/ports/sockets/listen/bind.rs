//! The sockets of port forwards: one for each port, and why one cannot be had.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use socket2::{Domain, Socket, Type};

use super::super::system;
use super::super::udp::WAITING;
use crate::net::nat::Protocol;
use crate::net::nat::forward::{Forward, ForwardError};

/// How many ports a forward has at most: each is a socket.
const PORTS: u16 = 4096;
/// How many connections wait in the kernel for being accepted.
const BACKLOG: i32 = 1024;

/// Opens a socket for each port of a forward, with the port it has.
pub(super) fn bind_all(forward: &Forward) -> Result<Vec<(OwnedFd, u16)>, ForwardError> {
    let listen = SocketAddr::new(forward.ip, forward.first);
    let count = forward.last.saturating_sub(forward.first);
    if count >= PORTS {
        return Err(ForwardError::Other {
            protocol: forward.protocol.name(),
            listen,
            reason: format!("a range has {PORTS} ports at most; split it"),
        });
    }
    let last = forward.last.max(forward.first);
    let last = if forward.first == 0 { 0 } else { last };
    let bound = (forward.first..=last).map(|port| {
        let listen = SocketAddr::new(forward.ip, port);
        bind(forward.protocol, listen).map_err(|error| refusal(forward.protocol, listen, &error))
    });
    bound.collect()
}

fn bind(protocol: Protocol, listen: SocketAddr) -> io::Result<(OwnedFd, u16)> {
    let (kind, number) = match protocol {
        Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
        Protocol::Udp | Protocol::Icmp => (Type::DGRAM, socket2::Protocol::UDP),
    };
    let domain = Domain::for_address(listen);
    let socket = Socket::new(domain, kind.nonblocking(), Some(number))?;
    if listen.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections that have ended lately do not keep the port. Another listener does, also with this.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&listen.into())?;
    let local = socket.local_addr()?.as_socket();
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    let socket = OwnedFd::from(socket);
    if protocol != Protocol::Tcp {
        system::report_destinations(socket.as_fd(), listen.is_ipv6())?;
        system::let_wait(socket.as_fd(), WAITING);
    }
    Ok((socket, local.unwrap_or(listen).port()))
}

pub(super) fn refusal(protocol: Protocol, listen: SocketAddr, error: &io::Error) -> ForwardError {
    let protocol = protocol.name();
    let other = |reason: String| ForwardError::Other {
        protocol,
        listen,
        reason,
    };
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => ForwardError::Taken {
            protocol,
            listen,
            by: "a program of this host listens there already".to_owned(),
        },
        Some(libc::EACCES | libc::EPERM) => ForwardError::Permission { protocol, listen },
        Some(libc::EADDRNOTAVAIL) => other(format!(
            "the host has no address {}; `ip address` lists those it has",
            listen.ip()
        )),
        _ => other(error.to_string()),
    }
}

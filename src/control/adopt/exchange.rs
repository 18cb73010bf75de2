//! A question to the kernel over netlink and its answers (`man 7 netlink`), each over a socket of its own.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enumerations are the kernel's, and grow with it"
)]

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::host::ReadError;

/// How many answers of the kernel are read before it is given up.
const ANSWERS: usize = 1 << 16;

/// Asks for all there is of something, and hands over the answers.
///
/// # Errors
///
/// The kernel refuses, or whoever takes the answers does.
pub(in crate::control) fn dump(
    message: RouteNetlinkMessage,
    take: impl FnMut(RouteNetlinkMessage) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    exchange(message, NLM_F_DUMP, take)
}

/// Sends a message, and hands over the answers up to the one that ends them.
///
/// # Errors
///
/// The kernel refuses, or whoever takes the answers does.
pub(super) fn exchange(
    message: RouteNetlinkMessage,
    flags: u16,
    mut take: impl FnMut(RouteNetlinkMessage) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Lets the kernel leave out what is not asked for; an older one sends everything.
    let _ = socket.set_netlink_get_strict_chk(true);
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | flags;
    request.header.sequence_number = 1;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let ends = flags & (NLM_F_DUMP | NLM_F_ACK) != 0;
    for _ in 0..ANSWERS {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::other(format!("it is not understood: {error}")))?;
            let length = usize::try_from(answer.header.length).unwrap_or(rest.len());
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                NetlinkPayload::InnerMessage(message) => take(message)?,
                _ => {}
            }
            if !ends {
                return Ok(());
            }
        }
    }
    Err(io::Error::other("it does not end").into())
}

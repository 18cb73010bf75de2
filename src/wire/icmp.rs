//! ICMP echo over IPv4 (RFC 792).

use super::checksum::checksum;

/// Builds the reply to an echo request; `None` for anything else, or a request whose checksum is wrong.
pub fn echo_reply(request: &[u8], partial: bool) -> Option<Vec<u8>> {
    if request.len() < 8 || request[..2] != [8, 0] || (!partial && checksum(request) != 0) {
        return None;
    }
    let mut reply = request.to_vec();
    reply[..4].fill(0);
    let sum = checksum(&reply);
    reply[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_answered_with_its_payload_and_a_right_checksum() {
        let mut request = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1, b'v', b'm'];
        let sum = checksum(&request);
        request[2..4].copy_from_slice(&sum.to_be_bytes());
        let reply = echo_reply(&request, false).unwrap();
        assert_eq!((reply[0], &reply[4..]), (0, &request[4..]));
        assert_eq!(checksum(&reply), 0);
        assert_eq!(echo_reply(&reply, false), None, "a reply is not answered");
        request[9] ^= 1;
        assert_eq!(
            echo_reply(&request, false),
            None,
            "a damaged request is not answered"
        );
    }
}

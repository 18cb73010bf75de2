//! A line of the lease file: `network ip state mac client-id hostname ends`, with `-` for what is unknown.
//!
//! The end is in seconds since 1970, rounded up: a lease is never shorter after a restart than it was promised.

use std::time::{Duration, SystemTime};

use crate::control::value::{Hex, Name, hex};
use crate::net::dhcp::{Record, State};

/// The first line of the file.
pub const HEADER: &str = "vmlan leases 1";

/// What the first line begins with in every version.
pub const KIND: &str = "vmlan leases ";

/// The furthest end that is believed, in seconds since 1970: the end of the year 9999.
const LAST: u64 = 253_402_300_799;

const STATES: [(State, &str); 3] = [
    (State::Bound, "bound"),
    (State::Released, "released"),
    (State::Declined, "declined"),
];

/// Writes a record as a line, its end included.
pub fn render(network: &str, record: &Record) -> String {
    let state = STATES
        .iter()
        .find(|(state, _)| *state == record.state)
        .map_or("", |(_, word)| word);
    let client_id = record
        .client_id
        .as_deref()
        .filter(|id| !id.is_empty())
        .map_or_else(|| "-".to_owned(), hex);
    let hostname = record
        .hostname
        .as_deref()
        .filter(|name| is_plain(name))
        .unwrap_or("-");
    let ends = record
        .ends
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let ends = (ends.as_secs() + u64::from(ends.subsec_nanos() > 0)).min(LAST);
    format!(
        "{network} {} {state} {} {client_id} {hostname} {ends}\n",
        record.ip, record.mac
    )
}

/// Reads a line, without its end.
pub fn parse(line: &str) -> Option<(String, Record)> {
    let mut words = line.split(' ');
    let Name(network) = words.next()?.parse().ok()?;
    let ip = words.next()?.parse().ok()?;
    let state = words.next()?;
    let (state, _) = STATES.into_iter().find(|(_, word)| *word == state)?;
    let mac = words.next()?.parse().ok()?;
    let client_id = match words.next()? {
        "-" => None,
        digits => Some(digits.parse::<Hex>().ok()?.0),
    };
    let hostname = match words.next()? {
        "-" => None,
        name => Some(is_plain(name).then(|| name.to_owned())?),
    };
    let ends = words.next()?.parse().ok().filter(|ends| *ends <= LAST)?;
    let record = Record {
        ip,
        state,
        mac,
        client_id,
        hostname,
        ends: SystemTime::UNIX_EPOCH + Duration::from_secs(ends),
    };
    words.next().is_none().then_some((network, record))
}

/// A name that stays one word; `-` alone would read as none.
fn is_plain(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name != "-" && name.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ethernet::MacAddr;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_what_the_head_of_this_file_says() {
        let line = "vmnet1 192.168.81.128 bound 52:54:00:12:34:56 01:52:54 web1 1700000000";
        let (network, record) = parse(line).unwrap();
        assert_eq!(
            (network.as_str(), record.hostname.as_deref()),
            ("vmnet1", Some("web1"))
        );
        assert_eq!(render(&network, &record), format!("{line}\n"));
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for line in [
            "",
            "vmnet1",
            "vmnet1 192.168.81.128 bound 52:54:00:12:34:56 - - ",
            "vmnet1 192.168.81.128 bound 52:54:00:12:34:56 - - 99999999999999",
            "vmnet1 192.168.81.128 bound 52:54:00:12:34:56 - - 1 1",
            "vmnet1 192.168.81.128 taken 52:54:00:12:34:56 - - 1",
            "a/b 192.168.81.128 bound 52:54:00:12:34:56 - - 1",
        ] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn any_record_is_read_back(
            ip in any::<[u8; 4]>(), mac in any::<[u8; 6]>(), state in 0..3_usize,
            client_id in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..255)),
            hostname in proptest::option::of("[!-~]{2,63}"), ends in 0..=LAST,
        ) {
            let record = Record { ip: ip.into(), state: STATES[state].0, mac: MacAddr(mac), client_id, hostname, ends: SystemTime::UNIX_EPOCH + Duration::from_secs(ends) };
            let line = render("net-1.x", &record);
            prop_assert_eq!(parse(line.strip_suffix('\n').unwrap()), Some(("net-1.x".to_owned(), record)));
        }
    }
}

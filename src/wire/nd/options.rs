//! The options of neighbour discovery (RFC 4861, section 4.6): a type, a length in units of 8 bytes, and what it is about.

use crate::wire::ethernet::MacAddr;

/// The sender's hardware address.
pub(super) const SOURCE_MAC: u8 = 1;
/// The hardware address of what an advertisement is about.
pub(super) const TARGET_MAC: u8 = 2;
/// A prefix.
pub(super) const PREFIX: u8 = 3;
/// The largest packet.
pub(super) const MTU: u8 = 5;
/// Name servers (RFC 8106, section 5.1).
pub(super) const DNS: u8 = 25;
/// Domains to search (RFC 8106, section 5.2).
pub(super) const SEARCH: u8 = 31;

const UNIT: usize = 8;

/// Options one after the other, each with its type and its bytes from the type on; `None` in place of one whose length is
/// wrong, after which there are no more.
pub(super) struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    pub(super) const fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Option<(u8, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        let kind = *self.0.first()?;
        let units = self.0.get(1).copied().map_or(0, usize::from);
        let option = self.0.split_at_checked(units * UNIT);
        let Some((option, rest)) = option.filter(|(option, _)| !option.is_empty()) else {
            self.0 = &[];
            return Some(None);
        };
        self.0 = rest;
        Some(Some((kind, option)))
    }
}

/// Reads an option that is a hardware address of one station.
pub(super) fn mac(option: &[u8]) -> Option<MacAddr> {
    if option.len() != UNIT {
        return None;
    }
    MacAddr::from_slice(&option[2..]).filter(|mac| mac.is_station())
}

/// Adds an option, filled up with zeros to whole units. A body longer than an option holds is left out.
pub(super) fn push(bytes: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let units = (body.len() + 2).div_ceil(UNIT);
    if let Ok(len) = u8::try_from(units) {
        bytes.extend_from_slice(&[kind, len]);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len() + units * UNIT - 2 - body.len(), 0);
    }
}

//! Who is at the other end of an uplink: LLDP sent and received (IEEE 802.1AB-2016, clause 9.2), CDP received.
//!
//! # Theory of operation
//!
//! A port speaks while its link is up: at once, [`FAST_FRAMES`] times [`FAST_INTERVAL`] apart, then every [`INTERVAL`].
//! A neighbour that is new starts this anew, so that it need not wait to hear of us; but no port sends more often than
//! every [`FAST_INTERVAL`], whatever links and neighbours do. What is said holds for [`TTL`], which is four intervals
//! and a second, as the standard has it. [`Neighbours::shutdown`] takes it back.
//!
//! A neighbour is who it says it is: protocol, chassis and port together name it, and what it says replaces what it
//! said before. It is forgotten when the time that it gave runs out, when it gave none, when the link goes down, and
//! when a port has more than [`PORT_LIMIT`], the one that was silent longest first. What our own chassis said is no
//! neighbour: it came back from a loop, or from another of our uplinks. Neighbours are not authenticated, and what they
//! say is only shown, so all texts are made fit for a terminal and are at most [`MAX_TEXT`] bytes long.
//!
//! Not handled: SNMP's notifications, LLDP to groups other than the nearest bridge (it is received from them), and
//! sending CDP.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::net::port::{OwnFrames, PortId};
use crate::net::vlan::VlanId;
use crate::wire::cdp::{self, Cdp};
use crate::wire::ethernet::{Ethernet, MacAddr};
use crate::wire::lldp::{self, Capabilities, Id, Lldp, MAX_TEXT};

/// How often a port says who it is.
pub const INTERVAL: Duration = Duration::from_secs(30);
/// How often it does so at first, and how often at most.
pub const FAST_INTERVAL: Duration = Duration::from_secs(1);
/// How many times it does so at first.
pub const FAST_FRAMES: u8 = 4;
/// For how many seconds that holds.
pub const TTL: u16 = 121;
/// How many neighbours a port has at most.
pub const PORT_LIMIT: usize = 8;

/// What is said of this host, and whether it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spec {
    /// Whether LLDP is sent.
    pub advertise: bool,
    /// Whether neighbours are kept.
    pub listen: bool,
    /// What identifies this host, the same on all its ports.
    pub chassis: MacAddr,
    /// The host's name; empty to say none.
    pub host: String,
    /// The host, or the program, in words; empty to say none.
    pub description: String,
}

/// How a neighbour made itself known.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// The Link Layer Discovery Protocol.
    Lldp,
    /// The Cisco Discovery Protocol.
    Cdp,
}

/// What a neighbour says of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Neighbour {
    /// How it said so.
    pub protocol: Protocol,
    /// What identifies it; of CDP, its device identifier.
    pub chassis: String,
    /// What identifies its port.
    pub port: String,
    /// Its port in words.
    pub port_description: Option<String>,
    /// Its name.
    pub system: Option<String>,
    /// It in words; of CDP, its platform.
    pub system_description: Option<String>,
    /// Where it is managed.
    pub address: Option<String>,
    /// The VLAN of its port's untagged frames.
    pub vlan: Option<u16>,
    /// The largest that its port takes: of LLDP a frame, header and frame check sequence included; of CDP a packet.
    pub mtu: Option<u16>,
    /// When it last said so.
    pub seen: Instant,
    /// Until when that holds.
    pub expires: Instant,
}

impl Neighbour {
    fn is_same(&self, other: &Self) -> bool {
        (self.protocol, &self.chassis, &self.port) == (other.protocol, &other.chassis, &other.port)
    }

    fn from_lldp(unit: &Lldp<'_>, now: Instant) -> Self {
        Self {
            protocol: Protocol::Lldp,
            chassis: id_text(&unit.chassis),
            port: id_text(&unit.port),
            port_description: unit.port_description.and_then(said),
            system: unit.system.and_then(said),
            system_description: unit.system_description.and_then(said),
            address: unit.address.as_ref().map(IpAddr::to_string),
            vlan: vlan(unit.port_vlan),
            mtu: unit.max_frame.filter(|size| *size > 0),
            seen: now,
            expires: now + Duration::from_secs(unit.ttl.into()),
        }
    }

    fn from_cdp(message: &Cdp<'_>, now: Instant) -> Self {
        Self {
            protocol: Protocol::Cdp,
            chassis: text(message.device),
            port: text(message.port),
            port_description: None,
            system: message.system.and_then(said),
            system_description: message.platform.and_then(said),
            address: message.address.as_ref().map(IpAddr::to_string),
            vlan: vlan(message.native_vlan),
            mtu: message.mtu.and_then(|mtu| u16::try_from(mtu).ok()),
            seen: now,
            expires: now + Duration::from_secs(message.ttl.into()),
        }
    }
}

/// What a port does while its link is up.
#[derive(Debug)]
struct Link {
    mac: MacAddr,
    /// When to send next.
    due: Instant,
    /// How many frames are still to be sent in quick succession.
    fast: u8,
    /// Whether anything was sent, and is to be taken back.
    advertised: bool,
}

#[derive(Debug)]
struct Port {
    name: String,
    /// `None` while it is down.
    link: Option<Link>,
    /// When it last sent, whatever became of the link since.
    sent: Option<Instant>,
    /// Newest first.
    neighbours: Vec<Neighbour>,
}

impl Port {
    /// The next time at which it may send.
    fn earliest(&self, now: Instant) -> Instant {
        self.sent.map_or(now, |sent| now.max(sent + FAST_INTERVAL))
    }

    /// Takes note of what a neighbour says.
    fn hear(&mut self, neighbour: Neighbour) {
        let known = self.neighbours.len();
        self.neighbours.retain(|other| !other.is_same(&neighbour));
        let is_new = self.neighbours.len() == known;
        if neighbour.expires == neighbour.seen {
            return;
        }
        let due = self.earliest(neighbour.seen);
        if is_new
            && neighbour.protocol == Protocol::Lldp
            && let Some(link) = &mut self.link
            && link.fast == 0
        {
            link.fast = FAST_FRAMES;
            link.due = due;
        }
        self.neighbours.insert(0, neighbour);
        self.neighbours.truncate(PORT_LIMIT);
    }
}

/// The neighbours at all uplinks.
#[derive(Debug)]
pub struct Neighbours {
    spec: Spec,
    ports: BTreeMap<PortId, Port>,
}

impl Neighbours {
    /// Starts without ports.
    pub fn new(spec: Spec) -> Self {
        Self {
            spec,
            ports: BTreeMap::new(),
        }
    }

    /// Adds an uplink, whose link is down for now. `name` is the adapter's, and identifies the port.
    pub fn add(&mut self, port: PortId, name: &str) {
        let state = Port {
            name: name.to_owned(),
            link: None,
            sent: None,
            neighbours: Vec::new(),
        };
        self.ports.insert(port, state);
    }

    /// Removes an uplink, and forgets its neighbours.
    pub fn remove(&mut self, port: PortId) {
        self.ports.remove(&port);
    }

    /// Says whether a port's link is up, and what the adapter's own address is.
    ///
    /// A link that comes up is due at once; one that goes down has no neighbours.
    pub fn set_link(&mut self, port: PortId, up: bool, mac: MacAddr, now: Instant) {
        let Some(port) = self.ports.get_mut(&port) else {
            return;
        };
        if !up {
            port.link = None;
            port.neighbours.clear();
            return;
        }
        let due = port.earliest(now);
        let link = port.link.get_or_insert(Link {
            mac,
            due,
            fast: FAST_FRAMES,
            advertised: false,
        });
        link.mac = mac;
    }

    /// Looks at a whole, untagged frame, and tells whether it was LLDP or CDP, readable or not.
    pub fn handle_frame(&mut self, port: PortId, frame: &[u8], now: Instant) -> bool {
        let Some(frame) = Ethernet::parse(frame) else {
            return false;
        };
        let heard = if lldp::is_lldp(&frame) {
            Lldp::parse(frame.payload)
                .filter(|unit| unit.chassis != Id::Mac(self.spec.chassis))
                .map(|unit| Neighbour::from_lldp(&unit, now))
        } else if cdp::is_cdp(&frame) {
            Cdp::parse(&frame).map(|message| Neighbour::from_cdp(&message, now))
        } else {
            return false;
        };
        if self.spec.listen
            && let Some(neighbour) = heard
            && let Some(port) = self.ports.get_mut(&port)
            && port.link.is_some()
        {
            port.hear(neighbour);
        }
        true
    }

    /// The next time at which `handle_timeout` has work to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ports = self.ports.values();
        let due = ports
            .clone()
            .filter_map(|port| port.link.as_ref())
            .filter(|_| self.spec.advertise)
            .map(|link| link.due);
        let expires = ports
            .flat_map(|port| &port.neighbours)
            .map(|neighbour| neighbour.expires);
        due.chain(expires).min()
    }

    /// Sends what is due, and forgets whose time is over. Safe to call early or late.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut OwnFrames) {
        for (id, port) in &mut self.ports {
            port.neighbours.retain(|neighbour| neighbour.expires > now);
            let Some(link) = &mut port.link else {
                continue;
            };
            if !self.spec.advertise || link.due > now {
                continue;
            }
            out.send(*id, advertisement(&self.spec, &port.name, link.mac));
            link.advertised = true;
            link.fast = link.fast.saturating_sub(1);
            link.due = now
                + match link.fast {
                    0 => INTERVAL,
                    _ => FAST_INTERVAL,
                };
            port.sent = Some(now);
        }
    }

    /// The neighbours at a port, newest first.
    pub fn neighbours(&self, port: PortId) -> impl Iterator<Item = &Neighbour> {
        self.ports
            .get(&port)
            .into_iter()
            .flat_map(|port| &port.neighbours)
    }

    /// Takes back what was said, at every port whose link is still up, and says no more until a link comes up anew.
    pub fn shutdown(&mut self, out: &mut OwnFrames) {
        for (id, port) in &mut self.ports {
            if let Some(link) = port.link.take()
                && link.advertised
            {
                let chassis = Id::Mac(self.spec.chassis);
                let unit = Lldp::new(chassis, Id::Interface(port.name.as_bytes()), 0);
                out.send(*id, unit.emit(link.mac));
            }
            port.neighbours.clear();
        }
    }
}

fn advertisement(spec: &Spec, name: &str, mac: MacAddr) -> Vec<u8> {
    let port_description = format!("uplink {name}");
    let unit = Lldp {
        port_description: sayable(&port_description),
        system: sayable(&spec.host),
        system_description: sayable(&spec.description),
        capabilities: Some(Capabilities {
            system: Capabilities::BRIDGE,
            enabled: Capabilities::BRIDGE,
        }),
        ..Lldp::new(Id::Mac(spec.chassis), Id::Interface(name.as_bytes()), TTL)
    };
    unit.emit(mac)
}

/// Returns the text, cut between characters where it is too long; `None` for an empty one.
fn sayable(text: &str) -> Option<&[u8]> {
    let text = &text[..text.floor_char_boundary(MAX_TEXT)];
    (!text.is_empty()).then_some(text.as_bytes())
}

fn vlan(number: Option<u16>) -> Option<u16> {
    number.and_then(VlanId::new).map(VlanId::number)
}

/// Returns an identifier as text; as hexadecimal digits where it is none, so that it stays different from others.
fn id_text(id: &Id<'_>) -> String {
    match *id {
        Id::Mac(mac) => mac.to_string(),
        Id::Address(address) => address.to_string(),
        Id::Interface(name) => text(name),
        Id::Other { id, .. } if is_text(id) => text(id),
        Id::Other { id, .. } => {
            let shown = id.len().min((MAX_TEXT + 1) / 3);
            let digits: Vec<String> = id[..shown].iter().map(|b| format!("{b:02x}")).collect();
            digits.join(":")
        }
    }
}

fn is_text(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(|found| {
        let shown = found.trim_end_matches('\0');
        !shown.trim().is_empty() && shown.chars().all(is_harmless)
    })
}

/// Returns what a neighbour says as text, unless that is nothing.
fn said(bytes: &[u8]) -> Option<String> {
    Some(text(bytes)).filter(|text| !text.is_empty())
}

/// Makes text of what a neighbour says, to be shown on a terminal in one line.
///
/// White space becomes one space, and what could move the cursor, or hide or turn around other text, a replacement
/// character. Zeros at the end, which some devices send, are cut off.
fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for found in String::from_utf8_lossy(bytes)
        .trim_end_matches('\0')
        .chars()
    {
        let shown = match found {
            _ if found.is_whitespace() => ' ',
            _ if is_harmless(found) => found,
            _ => char::REPLACEMENT_CHARACTER,
        };
        if text.len() + shown.len_utf8() > MAX_TEXT {
            break;
        }
        if shown != ' ' || !text.is_empty() && !text.ends_with(' ') {
            text.push(shown);
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Tells whether a character shows as itself: neither a control character nor one that formats without being seen.
fn is_harmless(found: char) -> bool {
    let hidden = matches!(
        found,
        '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}'
    );
    !found.is_control() && !hidden
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::checksum::checksum;

    const A: PortId = PortId(1);
    const B: PortId = PortId(2);
    const CHASSIS: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xaa]);
    const ADAPTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const SWITCH: MacAddr = MacAddr([2, 0, 0, 0, 1, 0]);
    const SECOND: Duration = Duration::from_secs(1);

    fn spec() -> Spec {
        Spec {
            advertise: true,
            listen: true,
            chassis: CHASSIS,
            host: "host".to_owned(),
            description: "vmlan".to_owned(),
        }
    }

    /// Two uplinks whose links are down, and a clock that only the test moves.
    struct Lab {
        neighbours: Neighbours,
        start: Instant,
        now: Instant,
    }

    impl Lab {
        fn new(spec: Spec) -> Self {
            let now = Instant::now();
            let mut neighbours = Neighbours::new(spec);
            neighbours.add(A, "eno1");
            neighbours.add(B, "eno2");
            Self {
                neighbours,
                start: now,
                now,
            }
        }

        fn up(spec: Spec) -> Self {
            let mut lab = Self::new(spec);
            lab.link(A, true);
            lab.link(B, true);
            lab
        }

        fn link(&mut self, port: PortId, up: bool) {
            self.neighbours.set_link(port, up, ADAPTER, self.now);
        }

        fn hear(&mut self, frame: &[u8]) -> bool {
            self.neighbours.handle_frame(A, frame, self.now)
        }

        fn due(&mut self) -> Vec<(PortId, Vec<u8>)> {
            let mut out = OwnFrames::default();
            self.neighbours.handle_timeout(self.now, &mut out);
            out.frames
        }

        /// Lets time pass, waking whenever asked; returns after how many seconds each frame left.
        fn pass(&mut self, seconds: u32) -> Vec<(u64, PortId)> {
            let end = self.now + seconds * SECOND;
            let mut sent = Vec::new();
            loop {
                let at = (self.now - self.start).as_secs();
                sent.extend(self.due().into_iter().map(|(port, _)| (at, port)));
                match self.neighbours.poll_timeout().filter(|next| *next <= end) {
                    Some(next) => {
                        assert!(next > self.now, "what is due is done");
                        self.now = next;
                    }
                    None => break,
                }
            }
            self.now = end;
            sent
        }

        fn sent_by(&mut self, port: PortId, seconds: u32) -> Vec<u64> {
            let sent = self.pass(seconds).into_iter();
            sent.filter(|(_, by)| *by == port)
                .map(|(at, _)| at)
                .collect()
        }

        fn chassis(&self) -> Vec<&str> {
            let known = self.neighbours.neighbours(A);
            known.map(|neighbour| neighbour.chassis.as_str()).collect()
        }

        fn only(&self) -> &Neighbour {
            let known: Vec<_> = self.neighbours.neighbours(A).collect();
            assert_eq!(known.len(), 1);
            known[0]
        }
    }

    fn switch(number: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 1, number])
    }

    fn lldp(number: u8, ttl: u16) -> Vec<u8> {
        Lldp::new(Id::Mac(switch(number)), Id::Interface(b"Gi1"), ttl).emit(SWITCH)
    }

    fn cdp(ttl: u8, tlvs: &[u8]) -> Vec<u8> {
        let mut message = [&[2, ttl, 0, 0], tlvs].concat();
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let len = u16::try_from(message.len() + 8).unwrap();
        [
            &[0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcc][..],
            &SWITCH.0,
            &len.to_be_bytes(),
            &[0xaa, 0xaa, 0x03, 0x00, 0x00, 0x0c, 0x20, 0x00],
            &message,
        ]
        .concat()
    }

    const CDP_NAMES: &[u8] = b"\0\x01\0\x06sw\0\x03\0\x06Gi";

    #[test]
    fn what_is_sent_is_what_the_standard_says_byte_for_byte() {
        let mut lab = Lab::new(spec());
        lab.link(A, true);
        let expected = [
            &[0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc][..],
            &[0x02, 7, 4, 2, 0, 0, 0, 0, 0xaa],
            &[0x04, 5, 5],
            b"eno1",
            &[0x06, 2, 0, 121],
            &[0x08, 11],
            b"uplink eno1",
            &[0x0a, 4],
            b"host",
            &[0x0c, 5],
            b"vmlan",
            &[0x0e, 4, 0, 4, 0, 4],
            &[0, 0],
        ]
        .concat();
        assert_eq!(lab.due(), [(A, expected)]);
    }

    #[test]
    fn what_is_sent_is_heard_by_another_host() {
        let (mut lab, mut other) = (
            Lab::up(spec()),
            Lab::up(Spec {
                chassis: SWITCH,
                ..spec()
            }),
        );
        let frames = lab.due();
        assert!(other.hear(&frames[1].1));
        let expected = Neighbour {
            protocol: Protocol::Lldp,
            chassis: "02:00:00:00:00:aa".to_owned(),
            port: "eno2".to_owned(),
            port_description: Some("uplink eno2".to_owned()),
            system: Some("host".to_owned()),
            system_description: Some("vmlan".to_owned()),
            address: None,
            vlan: None,
            mtu: None,
            seen: other.now,
            expires: other.now + Duration::from_secs(121),
        };
        assert_eq!(*other.only(), expected);
    }

    #[test]
    fn a_port_speaks_four_times_quickly_and_then_every_half_minute() {
        let mut lab = Lab::new(spec());
        assert_eq!(lab.pass(100), [], "a link that is down says nothing");
        lab.start = lab.now;
        lab.link(A, true);
        assert_eq!(lab.sent_by(A, 95), [0, 1, 2, 3, 33, 63, 93]);
        lab.link(B, true);
        assert_eq!(lab.sent_by(B, 10), [95, 96, 97, 98]);
    }

    #[test]
    fn a_link_that_flaps_says_no_more_than_one_frame_a_second() {
        let mut lab = Lab::new(spec());
        let mut sent = 0;
        for _ in 0..100 {
            lab.link(A, true);
            sent += lab.due().len();
            lab.link(A, false);
            lab.now += SECOND / 10;
        }
        assert_eq!(sent, 10);
    }

    #[test]
    fn a_link_that_is_up_already_goes_on_with_the_new_address() {
        let mut lab = Lab::up(spec());
        lab.pass(10);
        lab.neighbours.set_link(A, true, SWITCH, lab.now);
        assert!(lab.due().is_empty());
        lab.now += INTERVAL;
        let frames = lab.due();
        assert_eq!(frames[0].1[6..12], SWITCH.0);
        assert_eq!(frames[1].1[6..12], ADAPTER.0);
    }

    #[test]
    fn a_new_neighbour_is_answered_quickly_and_a_known_one_is_not() {
        let mut lab = Lab::up(spec());
        lab.pass(40);
        lab.hear(&lldp(1, 120));
        assert_eq!(lab.sent_by(A, 20), [40, 41, 42, 43]);
        lab.hear(&lldp(1, 120));
        lab.hear(&cdp(180, CDP_NAMES));
        assert_eq!(lab.sent_by(A, 20), [73]);
    }

    #[test]
    fn a_flood_of_neighbours_is_kept_to_the_limit_and_answered_once_a_second() {
        let mut lab = Lab::up(spec());
        lab.pass(40);
        let mut sent = 0;
        for number in 0..200 {
            lab.hear(&lldp(number, 120));
            sent += lab.due().iter().filter(|(port, _)| *port == A).count();
            lab.now += SECOND / 10;
            assert!(lab.chassis().len() <= PORT_LIMIT);
        }
        assert_eq!(sent, 20);
    }

    #[test]
    fn the_neighbour_that_was_silent_longest_makes_room() {
        let mut lab = Lab::up(spec());
        for number in 0..8 {
            lab.hear(&lldp(number, 120));
            lab.now += SECOND;
        }
        lab.hear(&lldp(0, 120));
        lab.hear(&lldp(8, 120));
        let left = [8, 0, 7, 6, 5, 4, 3, 2].map(|number| switch(number).to_string());
        assert_eq!(lab.chassis(), left, "newest first");
    }

    #[test]
    fn a_neighbour_is_forgotten_when_its_time_is_over() {
        let quiet = Spec {
            advertise: false,
            ..spec()
        };
        let mut lab = Lab::up(quiet);
        lab.hear(&lldp(1, 120));
        lab.hear(&cdp(180, CDP_NAMES));
        assert_eq!(lab.neighbours.poll_timeout(), Some(lab.now + 120 * SECOND));
        lab.pass(119);
        assert_eq!(lab.chassis(), ["sw", "02:00:00:00:01:01"]);
        lab.pass(1);
        assert_eq!(lab.chassis(), ["sw"]);
        lab.hear(&cdp(180, CDP_NAMES));
        lab.pass(179);
        assert_eq!(lab.chassis(), ["sw"], "what is said again holds longer");
        lab.pass(1);
        assert!(lab.chassis().is_empty());
        assert_eq!(lab.neighbours.poll_timeout(), None);
    }

    #[test]
    fn a_time_to_live_of_zero_forgets_at_once() {
        let mut lab = Lab::up(spec());
        lab.hear(&lldp(1, 120));
        lab.hear(&lldp(2, 120));
        lab.hear(&cdp(180, CDP_NAMES));
        lab.hear(&lldp(1, 0));
        lab.hear(&cdp(0, CDP_NAMES));
        assert_eq!(lab.chassis(), ["02:00:00:00:01:02"]);
        lab.hear(&lldp(9, 0));
        assert_eq!(lab.chassis(), ["02:00:00:00:01:02"]);
    }

    #[test]
    fn a_link_that_goes_down_has_no_neighbours_and_hears_none() {
        let mut lab = Lab::up(spec());
        lab.hear(&lldp(1, 120));
        lab.neighbours.handle_frame(B, &lldp(2, 120), lab.now);
        lab.link(A, false);
        assert!(lab.chassis().is_empty());
        assert_eq!(lab.neighbours.neighbours(B).count(), 1);
        assert!(lab.hear(&lldp(1, 120)));
        assert!(lab.chassis().is_empty());
        lab.link(A, true);
        assert!(lab.hear(&lldp(1, 120)));
        lab.neighbours.remove(A);
        assert!(lab.chassis().is_empty());
        assert!(lab.hear(&lldp(1, 120)), "it is LLDP all the same");
        assert!(lab.chassis().is_empty());
        lab.link(A, true);
        assert!(lab.pass(100).iter().all(|(_, port)| *port == B));
    }

    #[test]
    fn what_our_own_chassis_said_is_no_neighbour() {
        let mut lab = Lab::up(spec());
        for (_, frame) in lab.due() {
            assert!(lab.hear(&frame));
        }
        assert!(lab.chassis().is_empty());
    }

    #[test]
    fn who_does_not_listen_keeps_nobody_and_who_does_not_advertise_is_silent() {
        let mut deaf = Lab::up(Spec {
            listen: false,
            ..spec()
        });
        assert!(deaf.hear(&lldp(1, 120)));
        assert!(deaf.hear(&cdp(180, CDP_NAMES)));
        assert!(deaf.chassis().is_empty());
        assert!(!deaf.pass(100).is_empty());

        let mut mute = Lab::up(Spec {
            advertise: false,
            ..spec()
        });
        assert_eq!(mute.neighbours.poll_timeout(), None);
        mute.hear(&lldp(1, 65535));
        assert_eq!(mute.chassis(), ["02:00:00:00:01:01"]);
        assert!(mute.pass(100).is_empty());
        let mut out = OwnFrames::default();
        mute.neighbours.shutdown(&mut out);
        assert!(out.frames.is_empty());
    }

    #[test]
    fn shutdown_takes_back_what_was_said_where_it_was_said() {
        let mut lab = Lab::new(spec());
        lab.link(A, true);
        lab.due();
        lab.link(B, true);
        let mut out = OwnFrames::default();
        lab.neighbours.shutdown(&mut out);
        let mut expected = [
            &[0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1, 0x88, 0xcc][..],
            &[0x02, 7, 4, 2, 0, 0, 0, 0, 0xaa],
            &[0x04, 5, 5],
            b"eno1",
            &[0x06, 2, 0, 0, 0, 0],
        ]
        .concat();
        expected.resize(60, 0);
        assert_eq!(out.frames, [(A, expected)]);
        assert!(lab.pass(100).is_empty());
        lab.neighbours.shutdown(&mut out);
        assert_eq!(out.frames.len(), 1, "once is enough");
    }

    #[test]
    fn a_link_that_went_down_has_nothing_to_take_back() {
        let mut lab = Lab::up(spec());
        lab.due();
        lab.link(A, false);
        lab.link(A, true);
        lab.link(B, false);
        let mut out = OwnFrames::default();
        lab.neighbours.shutdown(&mut out);
        assert!(out.frames.is_empty());
    }

    #[test]
    fn all_that_lldp_says_is_shown() {
        let mut lab = Lab::up(spec());
        let unit = Lldp {
            port_description: Some(b""),
            system: Some(b"sw-a"),
            system_description: Some(b"Switch OS,\r\n version 1\0"),
            address: Some("2001:db8::1".parse().unwrap()),
            port_vlan: Some(10),
            max_frame: Some(9216),
            ..Lldp::new(
                Id::Address("192.0.2.1".parse().unwrap()),
                Id::Other {
                    subtype: 7,
                    id: b"12",
                },
                120,
            )
        };
        lab.hear(&unit.emit(SWITCH));
        let expected = Neighbour {
            protocol: Protocol::Lldp,
            chassis: "192.0.2.1".to_owned(),
            port: "12".to_owned(),
            port_description: None,
            system: Some("sw-a".to_owned()),
            system_description: Some("Switch OS, version 1".to_owned()),
            address: Some("2001:db8::1".to_owned()),
            vlan: Some(10),
            mtu: Some(9216),
            seen: lab.now,
            expires: lab.now + 120 * SECOND,
        };
        assert_eq!(*lab.only(), expected);
    }

    #[test]
    fn all_that_cdp_says_is_shown() {
        let mut lab = Lab::up(spec());
        let rest = b"\0\x06\0\x08WS-C\0\x0a\0\x06\0\x63\0\x11\0\x08\0\0\x05\xdc\0\x14\0\x08sw-a\
            \0\x02\0\x11\0\0\0\x01\x01\x01\xcc\0\x04\xc0\0\x02\x01";
        assert!(lab.hear(&cdp(180, &[CDP_NAMES, rest].concat())));
        let expected = Neighbour {
            protocol: Protocol::Cdp,
            chassis: "sw".to_owned(),
            port: "Gi".to_owned(),
            port_description: None,
            system: Some("sw-a".to_owned()),
            system_description: Some("WS-C".to_owned()),
            address: Some("192.0.2.1".to_owned()),
            vlan: Some(99),
            mtu: Some(1500),
            seen: lab.now,
            expires: lab.now + 180 * SECOND,
        };
        assert_eq!(*lab.only(), expected);
    }

    #[test]
    fn numbers_that_name_no_vlan_or_size_are_not_shown() {
        for vlan in [0, 4095, 65535] {
            let mut lab = Lab::up(spec());
            let unit = Lldp {
                port_vlan: Some(vlan),
                max_frame: Some(0),
                ..Lldp::new(Id::Mac(SWITCH), Id::Mac(SWITCH), 120)
            };
            lab.hear(&unit.emit(SWITCH));
            assert_eq!((lab.only().vlan, lab.only().mtu), (None, None), "{vlan}");
        }
        let mut lab = Lab::up(spec());
        lab.hear(&cdp(180, &[CDP_NAMES, b"\0\x11\0\x08\0\x01\0\0"].concat()));
        assert_eq!(lab.only().mtu, None);
    }

    #[test]
    fn unreadable_messages_are_claimed_and_others_are_not() {
        let mut lab = Lab::up(spec());
        let (mut broken_lldp, mut broken_cdp) = (lldp(1, 120), cdp(180, CDP_NAMES));
        broken_lldp[14] = 0xff;
        broken_cdp[26] ^= 1;
        assert!(lab.hear(&broken_lldp));
        assert!(lab.hear(&broken_cdp));
        assert!(lab.chassis().is_empty());
        let mut foreign = lldp(1, 120);
        foreign[5] = 2;
        assert!(!lab.hear(&foreign));
        assert!(!lab.hear(&foreign[..13]));
        assert!(!lab.hear(&[]));
    }

    #[test]
    fn texts_are_made_fit_for_a_terminal() {
        for (said, shown) in [
            (&b"sw-1"[..], "sw-1"),
            ("Büro 東".as_bytes(), "Büro 東"),
            (b"\x1b[31mred\x07", "\u{fffd}[31mred\u{fffd}"),
            (b"a\xffb\xc3", "a\u{fffd}b\u{fffd}"),
            (
                "a\u{202e}b\u{200b}c\u{9b}d".as_bytes(),
                "a\u{fffd}b\u{fffd}c\u{fffd}d",
            ),
            (b"  a\r\n\tb \n", "a b"),
            (b"a\0b\0\0", "a\u{fffd}b"),
            (b"\0", ""),
        ] {
            assert_eq!(text(said), shown);
        }
        assert_eq!(text(&[b'x'; 300]), "x".repeat(255));
        assert_eq!(
            text(&[0xff; 300]).len(),
            255,
            "replacements have three bytes"
        );
        assert_eq!(text("ä".repeat(200).as_bytes()), "ä".repeat(127));
    }

    #[test]
    fn identifiers_that_are_no_text_are_shown_as_digits() {
        let other = |id| id_text(&Id::Other { subtype: 7, id });
        assert_eq!(other(b"rack 4\0"), "rack 4");
        assert_eq!(other(&[0xde, 0x11]), "de:11");
        assert_eq!(other(b"a\x1b"), "61:1b");
        assert_eq!(other(&[0, 0]), "00:00");
        assert_eq!(other(b" "), "20");
        assert_eq!(other(&[0xff; 255]).len(), 254);
        assert_eq!(id_text(&Id::Interface(b"e\x1b")), "e\u{fffd}");
    }

    #[test]
    fn long_names_of_our_own_are_cut_between_characters() {
        let mut lab = Lab::up(Spec {
            host: "ä".repeat(200),
            description: String::new(),
            ..spec()
        });
        let frames = lab.due();
        let unit = Lldp::parse(&frames[0].1[14..]).unwrap();
        assert_eq!(unit.system, Some("ä".repeat(127).as_bytes()));
        assert_eq!(unit.system_description, None);
    }

    /// Frames that are LLDP or CDP, of whatever content.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..300);
        (any::<bool>(), 0..3u8, 0..12u8, 0..3u16, bytes).prop_map(
            |(is_cdp, kind, number, ttl, bytes)| match (is_cdp, kind) {
                (true, 0) => cdp(1, &bytes),
                (true, _) => cdp(u8::try_from(ttl).unwrap(), &[CDP_NAMES, &bytes].concat()),
                (false, 0) => {
                    let mut frame = lldp(number, ttl);
                    frame.splice(14.., bytes);
                    frame
                }
                (false, 1) => {
                    let mut frame = lldp(number, ttl);
                    frame.splice(32.., bytes);
                    frame
                }
                (false, _) => {
                    let unit = Lldp {
                        system: Some(&bytes),
                        ..Lldp::new(Id::Interface(&bytes), Id::Mac(switch(number)), ttl)
                    };
                    unit.emit(SWITCH)
                }
            },
        )
    }

    proptest! {
        #[test]
        fn whatever_is_heard_limits_hold_and_texts_are_harmless(
            heard in proptest::collection::vec((frames(), 0..2000u64), 0..40),
        ) {
            let mut lab = Lab::up(spec());
            for (frame, wait) in heard {
                prop_assert!(lab.hear(&frame));
                lab.now += Duration::from_millis(wait);
                let before = lab.now;
                lab.due();
                prop_assert!(lab.neighbours.poll_timeout().is_some_and(|next| next > before));
                let known: Vec<_> = lab.neighbours.neighbours(A).collect();
                prop_assert!(known.len() <= PORT_LIMIT);
                prop_assert!(known.is_sorted_by(|a, b| a.seen >= b.seen));
                for (index, neighbour) in known.iter().enumerate() {
                    prop_assert!(neighbour.expires > lab.now);
                    prop_assert!(!known[..index].iter().any(|other| other.is_same(neighbour)));
                    let texts = [
                        Some(&neighbour.chassis),
                        Some(&neighbour.port),
                        neighbour.port_description.as_ref(),
                        neighbour.system.as_ref(),
                        neighbour.system_description.as_ref(),
                    ];
                    for text in texts.into_iter().flatten() {
                        prop_assert!(text.len() <= MAX_TEXT);
                        prop_assert!(text.chars().all(is_harmless));
                    }
                }
            }
        }

        #[test]
        fn any_bytes_are_heard_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            Lab::up(spec()).hear(&bytes);
        }
    }
}

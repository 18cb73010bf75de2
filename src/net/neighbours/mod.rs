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
mod tests;

//! LACP: which members of a team its partner, and so the wire, can be trusted with (IEEE 802.1AX-2014, clause 6).
//!
//! # Theory of operation
//!
//! Each member has the standard's machines (`member.rs`): *receive* knows the partner and for how long, *periodic* says
//! when to speak, *mux* takes the link into use step by step, *transmit* keeps to three LACPDUs a second. This file has
//! what they share, the *selection*: at most one group of members carries frames, for a team has one aggregator.
//!
//! Members are a group if they have the same partner (system and key) and the same speed; a partner that does not want
//! its link aggregated is a group of one. The group with the most members wins, then the one with the most bandwidth,
//! then the one that is in use, then the one with the lowest port. Only members count whose partner is heard: when all
//! of a group have expired, another takes over at once. Where the partner is the higher of the two systems, its choice
//! is followed: its members count only while it has them in sync, and for 3 s after it was first heard. So two ends
//! that see the same groups in different order cannot insist on different ones.
//!
//! A selected member is attached at once if its partner is in sync already, or if it is known of every member with a
//! link who is behind it, for then nobody is about to join together with it. Else it waits, for 2 s at most. (The
//! standard's wait is the full 2 s.)
//!
//! What was heard is good for 3 s or 90 s, as the rate says. Then the member stops to collect and to distribute, and
//! after 3 s more its partner is forgotten; whenever the partner speaks again, the member comes back. A member without
//! a partner carries nothing: as an individual link, which the standard would make of it, it could be a second way
//! into the same network. With `fallback`, while no member has a partner, the first one that is sure to have none
//! carries frames as if there were no LACP.
//!
//! A LACPDU of our own system means a loop; its member is not selected and is no fallback either.
//!
//! Nothing that a partner says makes a table grow: there is one entry a member, and members come from the
//! configuration. Not handled: churn detection, conversations (version 2), our own markers, administration of keys.

use std::cmp::Reverse;
use std::time::Instant;

use self::member::{Group, Member};
use crate::net::port::{OwnFrames, PortId};
use crate::wire::ethernet::MacAddr;
use crate::wire::lacp::{Lacpdu, Marker, Participant};

pub use self::member::{Counters, Mux, Receive};

mod member;
#[cfg(test)]
mod tests;

/// Who speaks first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// We speak whether the partner does or not.
    Active,
    /// We speak only to a partner that does.
    Passive,
}

/// How often the partner is asked to speak, and so after what silence it is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rate {
    /// Every second; gone after 3 s.
    Fast,
    /// Every 30 s; gone after 90 s.
    Slow,
}

/// How a team speaks LACP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Spec {
    /// Who speaks first.
    pub mode: Mode,
    /// How often the partner is to speak.
    pub rate: Rate,
    /// Whether a team without any partner uses one member.
    pub fallback: bool,
    /// The name of the team towards partners, of no other team: what shares it could be aggregated.
    pub system: MacAddr,
    /// Which of two systems decides: that with the lower number.
    pub system_priority: u16,
}

/// Whether a member is to be part of the aggregate, or why not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Selection {
    /// It is.
    Selected,
    /// It has no link.
    NoLink,
    /// Nobody is heard.
    NoPartner,
    /// What is heard is this team itself.
    Loop,
    /// Another group is the better one.
    OtherGroup,
}

impl Selection {
    /// Returns the words with which the selection is shown.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Selected => "selected",
            Self::NoLink => "no link",
            Self::NoPartner => "no partner",
            Self::Loop => "looped to this system",
            Self::OtherGroup => "another partner or speed is in use",
        }
    }
}

/// A member as it is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Status {
    /// The state of its receive machine.
    pub receive: Receive,
    /// The state of its mux machine.
    pub mux: Mux,
    /// Whether it is to be part of the aggregate.
    pub selection: Selection,
    /// Whether it carries frames because nobody has a partner.
    pub fallback: bool,
    /// Our end.
    pub actor: Participant,
    /// The partner's, if there is one.
    pub partner: Option<Participant>,
    /// Its PDUs.
    pub counters: Counters,
}

/// LACP of one team.
#[derive(Debug)]
pub struct Lacp {
    spec: Spec,
    /// In the order of their addition.
    members: Vec<Member>,
    /// The group in use.
    group: Option<Group>,
    /// The member that carries frames without a partner.
    fallback: Option<PortId>,
}

impl Lacp {
    /// Starts without members.
    pub const fn new(spec: Spec) -> Self {
        Self {
            spec,
            members: Vec::new(),
            group: None,
            fallback: None,
        }
    }

    /// Adds a member, its link down.
    pub fn add(&mut self, port: PortId) {
        if self.member(port).is_none() {
            self.members.push(Member::new(port));
        }
    }

    /// Takes a member out. Its partner hears no more of it.
    pub fn remove(&mut self, port: PortId, now: Instant) {
        self.members.retain(|member| member.port != port);
        self.run(now);
    }

    /// Follows a member's link: its state, the adapter's own address, from which LACPDUs are sent, and its speed in
    /// bits a second. What is to be said now is said by [`Self::handle_timeout`], which is due at once.
    pub fn set_link(
        &mut self,
        port: PortId,
        up: bool,
        mac: MacAddr,
        speed: Option<u64>,
        now: Instant,
    ) {
        if let Some(member) = self.member_mut(port) {
            member.set_link(up, mac, speed, now);
            self.run(now);
        }
    }

    /// Takes in what follows the EtherType of a Slow Protocols frame.
    pub fn handle_pdu(&mut self, port: PortId, payload: &[u8], now: Instant, out: &mut OwnFrames) {
        let spec = self.spec;
        let Some(member) = self.member_mut(port) else {
            return;
        };
        let link = member.receive != Receive::Disabled;
        let lacpdu = Lacpdu::parse(payload).filter(|pdu| link && pdu.actor.system.is_station());
        let marker = Marker::parse(payload).filter(|_| link);
        match (lacpdu, marker) {
            (Some(pdu), _) => {
                member.handle_lacpdu(&spec, &pdu, now);
                self.handle_timeout(now, out);
            }
            (None, Some(marker)) => member.handle_marker(&marker, now, out),
            (None, None) => member.counters.ignored += 1,
        }
    }

    /// Returns when [`Self::handle_timeout`] has something to do next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.members.iter().filter_map(Member::poll_timeout).min()
    }

    /// Does what is due. Safe to call early or late.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut OwnFrames) {
        self.run(now);
        for member in &mut self.members {
            member.transmit(&self.spec, now, out);
        }
    }

    /// Tells whether frames may be sent through a member.
    pub fn may_send(&self, port: PortId) -> bool {
        self.fallback == Some(port) || self.member(port).is_some_and(Member::may_send)
    }

    /// Tells whether frames that come from a member are taken.
    pub fn may_receive(&self, port: PortId) -> bool {
        self.fallback == Some(port)
            || self
                .member(port)
                .is_some_and(|member| matches!(member.mux, Mux::Collecting | Mux::Distributing))
    }

    /// Returns a member as it is shown.
    pub fn status(&self, port: PortId) -> Option<Status> {
        self.member(port).map(|member| Status {
            receive: member.receive,
            mux: member.mux,
            selection: member.selection,
            fallback: self.fallback == Some(port),
            actor: member.actor(&self.spec),
            partner: member.partner,
            counters: member.counters,
        })
    }

    fn member(&self, port: PortId) -> Option<&Member> {
        self.members.iter().find(|member| member.port == port)
    }

    fn member_mut(&mut self, port: PortId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.port == port)
    }

    /// Brings all machines to where they stay until something happens.
    fn run(&mut self, now: Instant) {
        for member in &mut self.members {
            member.run_receive(now);
        }
        self.group = self.best();
        // Only those who have a link and have not been heard since can still join together with others.
        let settled = !self.members.iter().any(Member::is_unheard);
        for member in &mut self.members {
            member.selection = select(member, &self.spec, self.group);
            member.run_mux(settled, now);
            member.run_periodic(self.spec.mode, now);
        }
        self.fallback = self.fallback();
    }

    /// Returns the best group, if any member has a partner.
    fn best(&self) -> Option<Group> {
        let groups = self.members.iter().filter_map(|it| it.group(&self.spec));
        groups.max_by_key(|group| self.rank(group))
    }

    /// Returns what makes a group better than others: members, bandwidth, being in use, the lowest port.
    fn rank(&self, group: &Group) -> (usize, u64, bool, Reverse<Option<PortId>>) {
        let follows = group.outranks(&self.spec);
        let of_group = || {
            self.members
                .iter()
                .filter(|it| it.group(&self.spec).as_ref() == Some(group))
        };
        let good = || of_group().filter(|it| it.is_current() && (!follows || it.is_promising()));
        let bandwidth = good().fold(0, |sum: u64, it| {
            sum.saturating_add(it.speed.unwrap_or_default())
        });
        let in_use = self.group.as_ref() == Some(group);
        let lowest = of_group().map(|it| it.port).min();
        (good().count(), bandwidth, in_use, Reverse(lowest))
    }

    /// Returns the member that carries frames if nobody has a partner.
    fn fallback(&self) -> Option<PortId> {
        let partnered = |it: &Member| it.group(&self.spec).is_some();
        if !self.spec.fallback || self.members.iter().any(partnered) {
            return None;
        }
        let mut alone = self.members.iter();
        let first = alone.find(|it| it.receive == Receive::Defaulted)?;
        Some(first.port)
    }
}

/// Returns whether a member is part of the group in use, or why not.
fn select(member: &Member, spec: &Spec, group: Option<Group>) -> Selection {
    match (member.receive, member.group(spec)) {
        (Receive::Disabled, _) => Selection::NoLink,
        (_, Some(own)) if group == Some(own) => Selection::Selected,
        (_, Some(_)) => Selection::OtherGroup,
        (_, None) if member.is_loop(spec) => Selection::Loop,
        (_, None) => Selection::NoPartner,
    }
}

//! An uplink of a team: its link as it counts, after the team's delays, and what is known of it.

use std::time::{Duration, Instant};

use crate::net::port::PortId;
use crate::net::vlan::VlanSet;
use crate::wire::ethernet::MacAddr;

/// An uplink of a team.
#[derive(Debug)]
pub(super) struct Uplink {
    pub(super) port: PortId,
    pub(super) name: String,
    /// The VLANs whose frames came in.
    pub(super) vlans: VlanSet,
    /// Since when the link counts as it does.
    pub(super) since: Instant,
    /// The link itself.
    carrier: bool,
    /// What it counts as.
    link: bool,
    /// Whether it had a link and lost it.
    has_failed: bool,
    /// When it is to count as what it is.
    change_at: Option<Instant>,
    mac: MacAddr,
    speed: Option<u64>,
}

impl Uplink {
    /// Takes in an uplink without a link.
    pub(super) fn new(port: PortId, name: &str, now: Instant) -> Self {
        Self {
            port,
            name: name.to_owned(),
            vlans: VlanSet::default(),
            since: now,
            carrier: false,
            link: false,
            has_failed: false,
            change_at: None,
            mac: MacAddr::ZERO,
            speed: None,
        }
    }

    /// Notes what the adapter says of itself.
    pub(super) fn follow(&mut self, adapter: Option<(MacAddr, Option<u64>)>) {
        if let Some((mac, speed)) = adapter {
            self.mac = mac;
            self.speed = speed;
        }
    }

    /// Notes that there is a link or none, which counts after a delay.
    pub(super) fn set_link(
        &mut self,
        up: bool,
        up_delay: Duration,
        down_delay: Duration,
        now: Instant,
    ) {
        if self.carrier == up {
            return;
        }
        self.carrier = up;
        let delay = if up { up_delay } else { down_delay };
        // What is back before it counted as gone never was.
        self.change_at = (self.link != up).then_some(now + delay);
        self.handle_timeout(now);
    }

    /// Whether it counts as having a link.
    pub(super) const fn has_link(&self) -> bool {
        self.link
    }

    /// Whether it once had a link and lost it: one that only comes up late has not failed.
    pub(super) const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether the link is about to count as something else.
    pub(super) const fn is_delayed(&self) -> bool {
        self.change_at.is_some()
    }

    /// The adapter's own address.
    pub(super) const fn mac(&self) -> MacAddr {
        self.mac
    }

    /// The speed in bits a second, where known.
    pub(super) const fn speed(&self) -> Option<u64> {
        self.speed
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.change_at
    }

    /// Has a link count at once that is waited for.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.carrier && self.change_at.is_some() {
            self.change_at = Some(now);
            self.handle_timeout(now);
        }
    }

    /// Lets a link count that was waited for; tells whether it does now.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let due = self.change_at.is_some_and(|at| at <= now);
        if due {
            self.change_at = None;
            self.has_failed |= self.link && !self.carrier;
            self.link = self.carrier;
            self.since = now;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Duration = Duration::from_secs(10);
    const DOWN: Duration = Duration::from_secs(2);

    #[test]
    fn a_link_counts_after_its_delay_and_a_short_gap_does_not_count() {
        let start = Instant::now();
        let mut uplink = Uplink::new(PortId(1), "eth1", start);
        uplink.set_link(true, UP, DOWN, start);
        assert!(!uplink.has_link() && uplink.is_delayed());
        assert!(!uplink.handle_timeout(start + UP - Duration::from_nanos(1)));
        assert!(uplink.handle_timeout(start + UP) && uplink.has_link());
        let gap = start + UP * 2;
        uplink.set_link(false, UP, DOWN, gap);
        uplink.set_link(true, UP, DOWN, gap + Duration::from_secs(1));
        assert_eq!(uplink.poll_timeout(), None);
        assert!(uplink.has_link());
        uplink.set_link(false, UP, DOWN, gap);
        assert!(uplink.handle_timeout(gap + DOWN) && !uplink.has_link());
    }

    #[test]
    fn without_delays_a_link_counts_at_once() {
        let now = Instant::now();
        let mut uplink = Uplink::new(PortId(1), "eth1", now);
        uplink.set_link(true, Duration::ZERO, Duration::ZERO, now);
        assert!(uplink.has_link());
        uplink.set_link(false, Duration::ZERO, Duration::ZERO, now);
        assert!(!uplink.has_link() && !uplink.is_delayed());
    }
}

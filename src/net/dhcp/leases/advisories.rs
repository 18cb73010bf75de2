//! What an operator should know about the addresses of a network.

use std::collections::BTreeSet;

use super::Leases;
use crate::net::Now;
use crate::net::dhcp::Reservation;

/// How many advisories are worth reading.
const ADVISORY_LIMIT: usize = 16;

impl Leases {
    /// Returns what an operator should know.
    pub(in crate::net::dhcp) fn advisories(&self, now: Now) -> Vec<String> {
        let mut advisories: Vec<_> = self.exhausted(now).into_iter().collect();
        if let Some((mac, _)) = self.usurper.filter(|(_, until)| *until > now.instant) {
            let server = self.server;
            advisories.push(format!(
                "address conflict: {server} is the gateway's own, but {mac} uses it"
            ));
        }
        let shunned = self.quarantine.iter(now.wall);
        advisories.extend(shunned.map(|(ip, mark)| {
            let minutes = mark
                .until
                .duration_since(now.wall)
                .unwrap_or_default()
                .as_secs()
                .div_ceil(60);
            let mac = mark.mac;
            format!(
                "address conflict: {ip} is in use according to {mac}; not leased for {minutes} min"
            )
        }));
        advisories.extend(self.seen.iter(now.instant).filter_map(|(ip, seen)| {
            let holder = self
                .bindings
                .get(&ip)
                .filter(|binding| binding.active(now.wall))?;
            let (owner, other) = (holder.record.mac, seen.mac);
            Some(format!(
                "address conflict: {ip} is leased to {owner}, but {other} uses it"
            ))
        }));
        advisories.extend(
            self.reserved
                .values()
                .filter_map(|Reservation { mac, ip, .. }| {
                    let holder = self
                        .bindings
                        .get(ip)
                        .filter(|binding| binding.active(now.wall))?;
                    let other = holder.record.mac;
                    (other != *mac).then(|| {
                        format!("{ip} is reserved for {mac}, but leased to {other} until it renews")
                    })
                }),
        );
        if advisories.len() > ADVISORY_LIMIT {
            let more = advisories.len() - ADVISORY_LIMIT;
            advisories.truncate(ADVISORY_LIMIT);
            advisories.push(format!("and {more} more address conflicts"));
        }
        advisories
    }

    fn exhausted(&self, now: Now) -> Option<String> {
        if !self.refused || !self.fresh.is_empty() || self.first_idle(now.wall).is_some() {
            return None;
        }
        let (first, last) = (self.pool.start(), self.pool.end());
        let kept = self
            .reserved
            .keys()
            .filter(|ip| self.in_pool(**ip) && !self.is_own(**ip));
        let kept = kept.count();
        let own = BTreeSet::from([self.subnet.network(), self.subnet.broadcast(), self.server]);
        let own = own
            .into_iter()
            .filter(|ip| self.in_pool(*ip) && self.is_own(*ip))
            .count();
        let size =
            usize::try_from(last.to_bits().saturating_sub(first.to_bits())).unwrap_or(usize::MAX);
        let size = size.saturating_add(1).saturating_sub(kept + own);
        let leased = self.bindings.iter().filter(|(ip, binding)| {
            let assignable = self.in_pool(**ip) && !self.reserved.contains_key(ip);
            assignable && binding.active(now.wall)
        });
        let leased = leased.count();
        Some(format!(
            "pool exhausted: {first} to {last}, {leased} of {size} addresses leased"
        ))
    }
}

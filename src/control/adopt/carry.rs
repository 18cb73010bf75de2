//! The move itself: what is done in which order, undone where it fails, and told to the neighbours.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use super::host::{Change, Host};
use super::record::{Adoption, Baggage};

/// How many neighbours are told at most.
const GREETED: usize = 256;
/// The level at which an adapter answers ARP for its own addresses alone.
pub(super) const OWN_ALONE: u8 = 1;

/// Why nothing was taken.
pub(super) struct Failure {
    /// What failed.
    pub(super) reason: String,
    /// What could not be undone.
    pub(super) left: Vec<String>,
}

/// The steps of an adoption. Done in order they take it, undone in reverse they give it back: either way each thing is
/// on the one adapter before it goes from the other.
///
/// The step at an index and that at the same distance from the end are about the same thing.
fn steps(adoption: &Adoption) -> Vec<Change> {
    let (from, to) = (&adoption.interface, &adoption.host_adapter);
    let Baggage { addresses, routes } = &adoption.baggage;
    let mut steps = Vec::new();
    for address in addresses {
        steps.push(Change::AddAddress(to.clone(), address.clone()));
    }
    for route in routes {
        steps.push(Change::AddRoute(to.clone(), route.clone()));
    }
    // In the middle, since it has no twin.
    if let Some(was) = adoption.arp_ignore {
        steps.push(Change::ArpIgnore(from.clone(), was, OWN_ALONE));
    }
    for route in routes.iter().rev() {
        steps.push(Change::RemoveRoute(from.clone(), route.clone()));
    }
    for address in addresses.iter().rev() {
        steps.push(Change::RemoveAddress(from.clone(), address.clone()));
    }
    steps
}

/// Says what the kernel refused, and where it can be known what to do.
fn refusal(change: &Change, error: &io::Error) -> String {
    let hint = match change {
        _ if error.kind() != io::ErrorKind::PermissionDenied => "",
        Change::AddAddress(_, address) if address.net.addr().is_ipv6() => {
            "; the daemon needs CAP_NET_ADMIN, and the adapter IPv6 (disable_ipv6 = 0)"
        }
        Change::AddAddress(..)
        | Change::RemoveAddress(..)
        | Change::AddRoute(..)
        | Change::RemoveRoute(..)
        | Change::ArpIgnore(..) => "; the daemon needs CAP_NET_ADMIN",
    };
    format!("cannot {change}: {error}{hint}")
}

/// Moves what an adoption has to the host adapter, or nothing.
pub(super) fn take(
    host: &mut dyn Host,
    adoption: &Adoption,
    now: SystemTime,
) -> Result<(), Failure> {
    let (from, to) = (&*adoption.interface, &*adoption.host_adapter);
    let mut neighbours = host.neighbours(from);
    let mut done: Vec<Change> = Vec::new();
    for change in steps(adoption) {
        match host.change(&change, now) {
            Ok(true) => done.push(change),
            Ok(false) => {}
            Err(error) if matches!(change, Change::ArpIgnore(..)) => {
                tracing::warn!(interface = from, %error, "the adapter may answer ARP for the addresses that left it");
            }
            Err(error) => {
                let mut left = Vec::new();
                for change in done.iter().rev().map(Change::opposite) {
                    if let Err(error) = host.change(&change, now) {
                        left.push(refusal(&change, &error));
                    }
                }
                let reason = refusal(&change, &error);
                return Err(Failure { reason, left });
            }
        }
    }
    neighbours.extend(host.neighbours(to));
    announce(host, to, &adoption.baggage, neighbours);
    Ok(())
}

/// Gives the adapter back what it had, as far as possible; returns what was not.
pub(super) fn give_back(
    host: &mut dyn Host,
    adoption: &mut Adoption,
    now: SystemTime,
) -> Vec<String> {
    if let Ok(current) = host.read(&adoption.host_adapter, now) {
        adoption.baggage.refresh(&current);
    }
    let ended = adoption.baggage.expire(now);
    let mut neighbours = host.neighbours(&adoption.host_adapter);
    let mut problems = Vec::new();
    let mut missing = BTreeSet::new();
    let steps = steps(adoption);
    // In reverse, the adapter gets everything before the host adapter loses it.
    for (index, change) in steps.iter().enumerate().rev() {
        let twin = steps.len() - 1 - index;
        let change = change.opposite();
        let removes = matches!(change, Change::RemoveAddress(..) | Change::RemoveRoute(..));
        if removes && missing.contains(&twin) {
            continue;
        }
        if let Err(error) = host.change(&change, now) {
            if matches!(change, Change::ArpIgnore(..)) {
                tracing::warn!(interface = adoption.interface, %error, "arp_ignore stays as it is");
                continue;
            }
            missing.insert(index);
            if ended && matches!(change, Change::AddRoute(..)) {
                // It may have led through the subnet of an address that is no more.
                tracing::warn!("{}", refusal(&change, &error));
                continue;
            }
            problems.push(refusal(&change, &error));
        }
    }
    neighbours.extend(host.neighbours(&adoption.interface));
    announce(host, &adoption.interface, &adoption.baggage, neighbours);
    problems
}

/// Has the neighbours hear from the addresses where they are now.
fn announce(host: &mut dyn Host, adapter: &str, baggage: &Baggage, neighbours: Vec<IpAddr>) {
    let mut asked: BTreeSet<IpAddr> = baggage.addresses.iter().map(|one| one.net.addr()).collect();
    for address in &baggage.addresses {
        if let IpNet::V4(net) = address.net {
            // One that was asked for is known, and would not be asked for by broadcast again.
            let free = net.hosts().map(IpAddr::V4).find(|ip| !asked.contains(ip));
            if let Some(neighbour) = free {
                asked.insert(neighbour);
                host.greet(adapter, Some(address.net.addr()), neighbour);
            }
        }
    }
    let gateways = baggage.routes.iter().filter_map(|route| route.gateway);
    let known: BTreeSet<IpAddr> = gateways
        .chain(neighbours)
        .filter(|ip| !asked.contains(ip))
        .collect();
    for neighbour in known.into_iter().take(GREETED) {
        host.greet(adapter, None, neighbour);
    }
}

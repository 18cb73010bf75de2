//! What a network of each mode needs, and what it cannot have.

use crate::control::config;
use crate::control::config::network::Mode;
use crate::control::config::{dhcp, dns, ipv6};
use crate::control::problem::{Problems, join};

/// Checks that a network has what its mode needs, and nothing that it cannot have.
pub(super) fn check(
    network: &config::network::Network,
    path: &str,
    problems: &mut Problems,
) -> Option<Mode> {
    let key = |key| join(path, key);
    let Some(mode) = network.mode else {
        if !problems.has(&key("mode")) {
            problems.error(
                key("mode"),
                "is missing: write \"host-only\", \"nat\", \"bridged\" or \"isolated\"",
            );
        }
        return None;
    };
    match mode {
        Mode::Bridged => {
            uplinks(network, path, problems);
            for (key, written, owner) in [
                (
                    "subnet",
                    network.subnet.is_some(),
                    "has the addresses of the LAN behind its uplink; leave the key out",
                ),
                (
                    "dhcp",
                    matches!(network.dhcp, dhcp::Dhcp::On(_)),
                    "is served by the DHCP server of the LAN behind its uplink; leave it out",
                ),
                (
                    "dns",
                    matches!(network.dns, dns::Dns::On(_)),
                    "is served by the name servers of the LAN behind its uplink; leave it out",
                ),
                (
                    "ipv6",
                    matches!(network.ipv6, ipv6::Ipv6::On(_)),
                    "has the routers of the LAN behind its uplink; leave it out",
                ),
            ] {
                if written {
                    problems.error(join(path, key), format!("a bridged network {owner}"));
                }
            }
        }
        Mode::HostOnly | Mode::Isolated | Mode::Nat => {
            if network.team.is_some() {
                let remedy = match mode {
                    Mode::Nat => "name a bridged network in nat.outside, and leave this out",
                    Mode::HostOnly | Mode::Isolated | Mode::Bridged => "use mode = \"bridged\"",
                };
                let mode = mode.name();
                let text = format!("a network that is {mode} has no uplink; {remedy}");
                problems.error(key("team"), text);
            }
            subnet(network, mode, path, problems);
        }
    }
    if mode != Mode::Nat {
        for (key, written) in [
            ("nat", network.nat.is_some()),
            ("forward", !network.forwards.is_empty()),
        ] {
            if written {
                let instead = match mode {
                    Mode::Bridged => "its guests are reached directly; leave it out",
                    Mode::HostOnly | Mode::Isolated | Mode::Nat => "use mode = \"nat\"",
                };
                let mode = mode.name();
                let text = format!("a network that is {mode} is not translated; {instead}");
                problems.error(join(path, key), text);
            }
        }
    }
    Some(mode)
}

/// Checks that there is a subnet where one is needed.
fn subnet(network: &config::network::Network, mode: Mode, path: &str, problems: &mut Problems) {
    let key = join(path, "subnet");
    if network.subnet.is_some() || problems.has(&key) {
        return;
    }
    match mode {
        Mode::HostOnly => problems.error(
            key,
            "is missing: a host-only network needs one, as in subnet = \"192.168.81.0/24\"",
        ),
        Mode::Nat => problems.error(
            key,
            "is missing: a NAT network needs one, as in subnet = \"192.168.88.0/24\"",
        ),
        Mode::Isolated | Mode::Bridged => {
            for (key, served) in [
                ("dhcp", matches!(network.dhcp, dhcp::Dhcp::On(_))),
                ("dns", matches!(network.dns, dns::Dns::On(_))),
                ("ipv6", matches!(network.ipv6, ipv6::Ipv6::On(_))),
            ] {
                if served {
                    let text = "needs a subnet to serve, as in subnet = \"192.168.81.0/24\"";
                    problems.error(join(path, key), text);
                }
            }
        }
    }
}

/// Checks that a bridged network has an uplink.
fn uplinks(network: &config::network::Network, path: &str, problems: &mut Problems) {
    let team = join(path, "team");
    let key = join(&team, "active");
    let policy = network.team.as_ref().map(|team| &team.policy);
    let active = policy.and_then(|policy| policy.active.as_deref());
    let standby = policy.and_then(|policy| policy.standby.as_deref());
    match active {
        Some([_, ..]) => {}
        _ if problems.has(&team) || problems.has(&key) || problems.has(&format!("{key}[0]")) => {}
        _ if standby.is_some_and(|standby| !standby.is_empty()) => problems.error(
            join(&team, "standby"),
            "a standby uplink takes the place of an active one; name one in `active`",
        ),
        None => problems.error(
            key,
            "is missing: a bridged network needs an uplink, as in active = [\"eth1\"]",
        ),
        Some([]) => problems.error(
            key,
            "is empty: a bridged network needs an uplink, as in active = [\"eth1\"]",
        ),
    }
}

//! What a port may do with addresses: what the VM, its port group and its network say, key by key.

use crate::control::config::security::{self, Preset};
use crate::net::guard::Guards;
use crate::net::security::Security;

/// Returns the policy and the guards of a port.
///
/// `layers` are what was said, the nearest to the port first. `served` tells whether the network has a DHCP server of its
/// own, `advertised` whether it has a router of its own: where it has, nobody else is to be one.
pub(super) fn resolve(
    layers: [security::Security; 3],
    served: bool,
    advertised: bool,
) -> (Security, Guards) {
    let mut said = security::Security::default();
    for layer in layers {
        // A preset says all three at once, so it hides what is further away.
        let preset = layer.preset.map(|preset| match preset {
            Preset::Reject => Security::default(),
            Preset::Legacy => Security::LEGACY,
        });
        let key =
            |said: Option<bool>, own: Option<bool>, preset: Option<bool>| said.or(own).or(preset);
        said.promiscuous = key(
            said.promiscuous,
            layer.promiscuous,
            preset.map(|preset| preset.promiscuous),
        );
        said.mac_changes = key(
            said.mac_changes,
            layer.mac_changes,
            preset.map(|preset| preset.mac_changes),
        );
        said.forged_transmits = key(
            said.forged_transmits,
            layer.forged_transmits,
            preset.map(|preset| preset.forged_transmits),
        );
        said.dhcp_guard = said.dhcp_guard.or(layer.dhcp_guard);
        said.ra_guard = said.ra_guard.or(layer.ra_guard);
    }
    let security = Security {
        promiscuous: said.promiscuous.unwrap_or_default(),
        mac_changes: said.mac_changes.unwrap_or_default(),
        forged_transmits: said.forged_transmits.unwrap_or_default(),
    };
    let guards = Guards {
        dhcp_server: said.dhcp_guard.unwrap_or(served),
        router_advertisement: said.ra_guard.unwrap_or(served || advertised),
    };
    (security, guards)
}

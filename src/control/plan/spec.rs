//! From the plan to what the engine is told.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use crate::control::config::team::Discovery;
use crate::control::identity::Macs;
use crate::control::plan::nat::Outside;
use crate::control::plan::port_group::PortGroup;
use crate::control::plan::team::{Team, Uplink};
use crate::control::plan::{Network, Plan, Vm, services};
use crate::control::prefixes::Prefixes;
use crate::engine::{NetworkPort, NetworkSpec, OutsidePort, Spec};
use crate::net::dhcp::Record;
use crate::net::member::Member;
use crate::net::security::Security;
use crate::net::team::lacp;
use crate::net::vlan::PortVlan;
use crate::net::{neighbours, team};
use crate::ports::{PortSpec, guest, packet, tap};
use crate::wire::ethernet::MacAddr;

/// Where the kernel says what the host is called.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

impl Plan {
    /// Returns what the engine is to be, with the leases from before a restart by network.
    pub fn spec(
        &self,
        macs: &Macs,
        prefixes: &Prefixes,
        restored: &BTreeMap<String, Vec<Record>>,
    ) -> Spec {
        let host = hostname();
        let networks = self.networks.iter().map(|network| NetworkSpec {
            name: network.name.clone(),
            mtu: network.mtu,
            gateway: services::gateway(
                self,
                network,
                macs,
                prefixes,
                restored.get(&network.name).map_or(&[], Vec::as_slice),
            ),
            outside: self.outside(network, macs),
            ports: self.ports(network, macs),
            team: network
                .team
                .as_ref()
                .map(|team| team.spec(&network.name, macs.team(&network.name), &host)),
            private_vlans: network.private_vlans.clone(),
            snooping: network.igmp_snooping,
        });
        Spec {
            networks: networks.collect(),
        }
    }

    /// Returns what a network's NAT is in the network that it leads to.
    fn outside(&self, network: &Network, macs: &Macs) -> Option<OutsidePort> {
        let Outside::Network(station) = &network.nat.as_ref()?.outside else {
            return None;
        };
        let outside = self.find_network(&station.network)?;
        let name = station.port_group.as_ref();
        let groups = &outside.port_groups;
        let group = name.and_then(|name| groups.iter().find(|group| group.name == *name));
        let member = Member {
            mac: Some(macs.nat(&network.name)),
            ..Member::default()
        };
        Some(OutsidePort {
            network: station.network.clone(),
            member: match group {
                None => member,
                Some(group) => Member {
                    vlan: group.vlan.clone(),
                    isolated: group.isolated,
                    policy: group.policy,
                    ..member
                },
            },
            port_group: station.port_group.clone(),
        })
    }

    fn ports(&self, network: &Network, macs: &Macs) -> Vec<NetworkPort> {
        let uplinks = network.team.iter().flat_map(|team| &team.uplinks);
        let mut ports: Vec<NetworkPort> = uplinks.map(uplink).collect();
        if let Some(adapter) = &network.host_adapter {
            let address = network
                .subnet
                .and_then(|subnet| Ipv4Net::new(subnet.host?, subnet.net.prefix_len()).ok());
            let tap = tap::Spec {
                name: adapter.clone(),
                mac: macs.host(&network.name),
                address,
                mtu: network.mtu,
            };
            ports.push(host_adapter(tap, None));
        }
        for group in &network.port_groups {
            if let Some(adapter) = &group.host_adapter {
                let tap = tap::Spec {
                    name: adapter.clone(),
                    mac: macs.host_in(&network.name, &group.name),
                    address: None,
                    mtu: network.mtu,
                };
                ports.push(host_adapter(tap, Some(group)));
            }
        }
        let vms = self.vms.iter().filter(|vm| vm.network == network.name);
        ports.extend(vms.map(|vm| guest(vm, network, macs.vm(&vm.name))));
        ports
    }
}

impl Team {
    fn spec(&self, network: &str, mac: MacAddr, host: &str) -> team::Spec {
        let (advertise, listen) = match self.discovery {
            Discovery::Both => (true, true),
            Discovery::Advertise => (true, false),
            Discovery::Listen => (false, true),
            Discovery::Off => (false, false),
        };
        team::Spec {
            name: network.to_owned(),
            policies: self.policies.clone(),
            up_delay: self.up_delay,
            down_delay: self.down_delay,
            lacp: self.lacp.map(|lacp| lacp::Spec {
                mode: lacp.mode,
                rate: lacp.rate,
                fallback: lacp.fallback,
                system: mac,
                system_priority: lacp.system_priority,
            }),
            discovery: neighbours::Spec {
                advertise,
                listen,
                chassis: mac,
                host: host.to_owned(),
                description: format!("vmlan {}", env!("CARGO_PKG_VERSION")),
            },
        }
    }
}

fn uplink(uplink: &Uplink) -> NetworkPort {
    NetworkPort {
        name: uplink.name.clone(),
        port_group: None,
        member: Member {
            vlan: PortVlan::All,
            uplink: true,
            service_tags: true,
            ..Member::default()
        },
        follow_uplinks: false,
        port: PortSpec::Packet(packet::Spec {
            interface: uplink.name.clone(),
            optional: uplink.optional,
            speed: uplink.speed,
            driver: uplink.driver,
        }),
    }
}

/// The host is trusted: none of what keeps guests in check applies to it.
fn host_adapter(tap: tap::Spec, group: Option<&PortGroup>) -> NetworkPort {
    let member = Member {
        mac: Some(tap.mac),
        security: Security::LEGACY,
        ..Member::default()
    };
    NetworkPort {
        name: tap.name.clone(),
        port_group: group.map(|group| group.name.clone()),
        member: match group {
            None => member,
            Some(group) => Member {
                vlan: group.vlan.clone(),
                service_tags: group.service_tags,
                policy: group.policy,
                ..member
            },
        },
        follow_uplinks: false,
        port: PortSpec::Tap(tap),
    }
}

fn guest(vm: &Vm, network: &Network, mac: MacAddr) -> NetworkPort {
    let member = Member {
        mac: Some(mac),
        takes_first: vm.mac.is_none(),
        security: vm.security,
        guards: vm.guards,
        ..Member::default()
    };
    let name = vm.port_group.as_deref();
    let groups = &network.port_groups;
    let group = name.and_then(|name| groups.iter().find(|group| group.name == name));
    NetworkPort {
        name: vm.name.clone(),
        port_group: vm.port_group.clone(),
        follow_uplinks: group.is_some_and(|group| group.follow_uplinks),
        member: match group {
            None => member,
            Some(group) => Member {
                vlan: group.vlan.clone(),
                storm: group.storm,
                isolated: group.isolated,
                service_tags: group.service_tags,
                policy: group.policy,
                ..member
            },
        },
        port: PortSpec::Guest(guest::Spec {
            name: vm.name.clone(),
            socket: vm.socket.clone(),
            role: vm.role,
            mac,
            mtu: network.mtu,
        }),
    }
}

/// What the host is called, as neighbours are told.
pub(super) fn hostname() -> String {
    let name = std::fs::read_to_string(HOSTNAME).unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

//! From the plan to what the engine is told.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use crate::control::identity::Macs;
use crate::control::plan::dhcp::Client;
use crate::control::plan::{Network, Plan};
use crate::engine::{NetworkPort, NetworkSpec, Spec};
use crate::net::dhcp::Record;
use crate::net::member::Member;
use crate::net::security::Security;
use crate::net::vlan::{PortVlan, PrivateVlans};
use crate::net::{address, dhcp, gateway};
use crate::ports::{PortSpec, guest, packet, tap};

impl Plan {
    /// Returns what the engine is to be, with the leases from before a restart by network.
    pub fn spec(&self, macs: &Macs, restored: &BTreeMap<String, Vec<Record>>) -> Spec {
        let networks = self.networks.iter().map(|network| NetworkSpec {
            name: network.name.clone(),
            mtu: network.mtu,
            gateway: gateway(
                network,
                macs,
                restored.get(&network.name).map_or(&[], Vec::as_slice),
            ),
            ports: self.ports(network, macs),
            team: None,
            private_vlans: PrivateVlans::default(),
            snooping: false,
        });
        Spec {
            networks: networks.collect(),
        }
    }

    fn ports(&self, network: &Network, macs: &Macs) -> Vec<NetworkPort> {
        let mut ports = Vec::new();
        if let Some(uplink) = &network.uplink {
            ports.push(NetworkPort {
                name: uplink.clone(),
                port_group: None,
                member: Member {
                    vlan: PortVlan::All,
                    uplink: true,
                    ..Member::default()
                },
                follow_uplinks: false,
                speed: None,
                port: PortSpec::Packet(packet::Spec {
                    interface: uplink.clone(),
                    optional: false,
                }),
            });
        }
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
            ports.push(NetworkPort {
                name: adapter.clone(),
                port_group: None,
                member: Member {
                    mac: Some(tap.mac),
                    security: Security::LEGACY,
                    ..Member::default()
                },
                follow_uplinks: false,
                speed: None,
                port: PortSpec::Tap(tap),
            });
        }
        for vm in self.vms.iter().filter(|vm| vm.network == network.name) {
            let guest = guest::Spec {
                name: vm.name.clone(),
                socket: vm.socket.clone(),
                role: vm.role,
                mac: macs.vm(&vm.name),
                mtu: network.mtu,
            };
            ports.push(NetworkPort {
                name: vm.name.clone(),
                port_group: vm.port_group.clone(),
                member: Member {
                    vlan: vm.vlan.clone(),
                    mac: Some(guest.mac),
                    security: Security::LEGACY,
                    service_tags: vm.vlan == PortVlan::All,
                    ..Member::default()
                },
                follow_uplinks: false,
                speed: None,
                port: PortSpec::Guest(guest),
            });
        }
        ports
    }
}

fn gateway(network: &Network, macs: &Macs, restored: &[Record]) -> Option<gateway::Spec> {
    let subnet = network.subnet?;
    let mut services = Vec::new();
    if let Some(planned) = &network.dhcp {
        let mut spec = planned.spec.clone();
        spec.reservations = planned
            .reservations
            .iter()
            .map(|reservation| dhcp::Reservation {
                mac: match &reservation.client {
                    Client::Vm(vm) => macs.vm(vm),
                    Client::Mac(mac) => *mac,
                },
                ip: reservation.ip,
                hostname: reservation.hostname.clone(),
            })
            .collect();
        spec.restored = restored
            .iter()
            .filter(|record| subnet.refuses(record.ip).is_none())
            .cloned()
            .collect();
        // First, so that it overhears the ARP traffic that the next service claims.
        services.push(gateway::ServiceSpec::Dhcp(Box::new(spec)));
    }
    services.push(gateway::ServiceSpec::Address(address::Spec {
        ip: subnet.gateway,
    }));
    Some(gateway::Spec {
        mac: macs.gateway(&network.name),
        services,
    })
}

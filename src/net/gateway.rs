//! The gateway of a network: its own address, and the services that answer frames sent to it.
//!
//! The gateway is reached like any guest, through a port of the switch. A frame is offered to the services in
//! their order until one claims it.

use crate::net::dhcp::{self, Dhcp};
use crate::net::{Now, address};
use crate::wire::ethernet::MacAddr;

/// What a service answers with.
#[derive(Debug, Default)]
pub struct Replies {
    /// Frames that may leave at once.
    pub frames: Vec<Vec<u8>>,
    /// Lease records that must be on disk, each with the frame that may only leave once it is.
    pub durable: Vec<(dhcp::Record, Option<Vec<u8>>)>,
}

impl Replies {
    /// Sends a frame at once.
    pub fn send(&mut self, frame: Vec<u8>) {
        self.frames.push(frame);
    }

    /// Has `record` written, and then sends the frame.
    pub fn send_after(&mut self, record: dhcp::Record, frame: Option<Vec<u8>>) {
        self.durable.push((record, frame));
    }
}

/// Whether a service took a frame for its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// The frame was this service's; nobody else is asked.
    Taken,
    /// The next service may look at it.
    Passed,
}

/// A whole frame as the gateway gets it: untagged, in memory of our own.
#[derive(Clone, Copy, Debug)]
pub struct GatewayFrame<'a> {
    /// The bytes from the destination address on.
    pub bytes: &'a [u8],
    /// The transport checksum was left to be completed, and must not be verified.
    pub partial_checksum: bool,
}

/// A network function behind the gateway port.
///
/// A service never reads a clock, opens a socket or spawns a thread. It answers frames and says
/// when it next wants to be woken.
pub trait Service: Send {
    /// Offers a frame. A claimed frame is not offered to later services.
    fn handle_frame(&mut self, frame: GatewayFrame<'_>, now: Now, out: &mut Replies) -> Claim;

    /// The next time at which `handle_timeout` has work to do.
    fn poll_timeout(&self) -> Option<std::time::Instant> {
        None
    }

    /// Does what is due. Safe to call early or late.
    fn handle_timeout(&mut self, _now: Now, _out: &mut Replies) {}

    /// The leases this service has given out.
    fn leases(&self, _now: Now) -> Vec<dhcp::Lease> {
        Vec::new()
    }

    /// What an operator should know, one sentence each.
    fn advisories(&self, _now: Now) -> Vec<String> {
        Vec::new()
    }
}

/// What a gateway is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The gateway's own hardware address.
    pub mac: MacAddr,
    /// The services, in the order in which frames are offered to them.
    pub services: Vec<ServiceSpec>,
}

/// Every kind of service. Adding one is a variant and an arm here, and a file beside this one.
#[derive(Clone, Debug)]
pub enum ServiceSpec {
    /// ARP and ICMP echo for the gateway's address.
    Address(address::Spec),
    /// The DHCP server.
    Dhcp(Box<dhcp::Spec>),
}

impl ServiceSpec {
    fn build(self, mac: MacAddr, mtu: u16, now: Now) -> Box<dyn Service> {
        match self {
            Self::Address(spec) => Box::new(address::Address::new(spec, mac)),
            Self::Dhcp(spec) => Box::new(Dhcp::new(*spec, mac, mtu, now)),
        }
    }
}

/// The gateway of one network.
pub struct Gateway {
    services: Vec<Box<dyn Service>>,
}

impl Gateway {
    /// Builds the gateway and its services, for a network whose largest packet has `mtu` bytes.
    pub fn new(spec: Spec, mtu: u16, now: Now) -> Self {
        let services = spec
            .services
            .into_iter()
            .map(|service| service.build(spec.mac, mtu, now));
        Self {
            services: services.collect(),
        }
    }

    /// Offers a frame to the services in their order.
    pub fn handle_frame(&mut self, frame: GatewayFrame<'_>, now: Now, out: &mut Replies) {
        for service in &mut self.services {
            if service.handle_frame(frame, now, out) == Claim::Taken {
                return;
            }
        }
    }

    /// The next time at which `handle_timeout` has work to do.
    pub fn poll_timeout(&self) -> Option<std::time::Instant> {
        self.services
            .iter()
            .filter_map(|service| service.poll_timeout())
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Replies) {
        for service in &mut self.services {
            service.handle_timeout(now, out);
        }
    }

    /// All leases of all services.
    pub fn leases(&self, now: Now) -> Vec<dhcp::Lease> {
        self.services
            .iter()
            .flat_map(|service| service.leases(now))
            .collect()
    }

    /// All advisories of all services.
    pub fn advisories(&self, now: Now) -> Vec<String> {
        self.services
            .iter()
            .flat_map(|service| service.advisories(now))
            .collect()
    }
}

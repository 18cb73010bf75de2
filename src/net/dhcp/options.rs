//! The options that a network's clients are told, as the configuration has them.
//!
//! A client gets what its parameter request list (55) names, in the order of the list, or everything if it sends
//! none. It gets the subnet mask, and the raw options of the configuration, in any case: whoever writes down a raw
//! option wants it delivered, and boot ROMs rarely ask for what they understand. A raw option takes the place of a
//! computed one; those that the protocol itself needs cannot be replaced.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::Spec;
use crate::wire::dhcp::{Message, Options, code};

/// Codes whose values belong to the exchange and not to the configuration.
const PROTOCOL: [u8; 14] = [
    code::PAD,
    code::REQUESTED_ADDRESS,
    code::LEASE_TIME,
    code::OVERLOAD,
    code::MESSAGE_TYPE,
    code::SERVER_IDENTIFIER,
    code::PARAMETER_REQUEST_LIST,
    code::MESSAGE,
    code::MAXIMUM_MESSAGE_SIZE,
    code::RENEWAL_TIME,
    code::REBINDING_TIME,
    code::CLIENT_IDENTIFIER,
    code::RELAY_AGENT_INFORMATION,
    code::END,
];

/// What clients are told about their network, ready to be sent.
#[derive(Debug)]
pub(super) struct Parameters {
    computed: BTreeMap<u8, Vec<u8>>,
    raw: BTreeMap<u8, Vec<u8>>,
    siaddr: Ipv4Addr,
    sname: Vec<u8>,
    file: Vec<u8>,
}

impl Parameters {
    /// Works out the options once for all clients.
    pub(super) fn new(spec: &Spec) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
        let mtu = spec
            .mtu
            .map(|mtu| mtu.to_be_bytes().to_vec())
            .unwrap_or_default();
        let mut computed = BTreeMap::from([
            (code::SUBNET_MASK, spec.subnet.netmask().octets().to_vec()),
            (code::ROUTERS, addresses(&spec.routers)),
            (code::DNS_SERVERS, addresses(&spec.dns)),
            (code::DOMAIN_NAME, text(&spec.domain)),
            (code::INTERFACE_MTU, mtu),
            (
                code::BROADCAST_ADDRESS,
                spec.subnet.broadcast().octets().to_vec(),
            ),
            (code::NTP_SERVERS, addresses(&spec.ntp)),
            (
                code::VENDOR_SPECIFIC,
                spec.vendor.clone().unwrap_or_default(),
            ),
            (code::TFTP_SERVER_NAME, text(&spec.tftp_server)),
            (code::BOOT_FILE_NAME, text(&spec.boot_file)),
            (code::DOMAIN_SEARCH, search_list(&spec.search)),
            (code::CLASSLESS_ROUTES, routes(&spec.routes, &spec.routers)),
        ]);
        computed.retain(|_, value| !value.is_empty());
        let raw = spec
            .options
            .iter()
            .filter(|(code, _)| !PROTOCOL.contains(code))
            .cloned();
        let tftp_address = spec
            .tftp_server
            .as_ref()
            .and_then(|server| server.parse().ok());
        Self {
            computed,
            raw: raw.collect(),
            siaddr: spec
                .next_server
                .or(tftp_address)
                .unwrap_or(Ipv4Addr::UNSPECIFIED),
            sname: fitting(text(&spec.tftp_server), 63),
            file: fitting(text(&spec.boot_file), 127),
        }
    }

    /// Adds to a reply what a client asks for, and from where it boots.
    pub(super) fn fill(&self, reply: &mut Message, requested: Option<&[u8]>, name: Option<&str>) {
        reply.siaddr = self.siaddr;
        reply.sname.clone_from(&self.sname);
        reply.file.clone_from(&self.file);
        let mut set = |code: u8| {
            let named = name.filter(|_| code == code::HOST_NAME).map(str::as_bytes);
            let computed = || named.or_else(|| self.computed.get(&code).map(Vec::as_slice));
            if let Some(value) = self.raw.get(&code).map(Vec::as_slice).or_else(computed) {
                reply.options.set(code, value);
            }
        };
        set(code::SUBNET_MASK);
        match requested {
            Some(codes) => codes
                .iter()
                .filter(|code| !PROTOCOL.contains(code))
                .for_each(|code| set(*code)),
            None => {
                set(code::HOST_NAME);
                self.computed.keys().for_each(|code| set(*code));
            }
        }
        self.raw.keys().for_each(|code| set(*code));
    }
}

/// Adds the options that tell how long a lease lasts, in seconds.
pub(super) fn set_times(options: &mut Options, lease: u32, renew: u32, rebind: u32) {
    options.set(code::LEASE_TIME, lease.to_be_bytes());
    options.set(code::RENEWAL_TIME, renew.to_be_bytes());
    options.set(code::REBINDING_TIME, rebind.to_be_bytes());
}

/// Returns a text for a field of fixed size; nothing rather than a part of it.
fn fitting(text: Vec<u8>, limit: usize) -> Vec<u8> {
    if text.len() > limit { Vec::new() } else { text }
}

fn addresses(list: &[Ipv4Addr]) -> Vec<u8> {
    list.iter().flat_map(|ip| ip.octets()).collect()
}

/// Writes names as labels, without compression (RFC 3397). Names that DNS cannot hold are left out.
fn search_list(names: &[String]) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names {
        let labels = || name.trim_end_matches('.').split('.');
        if name.len() > 253 || labels().any(|label| !(1..=63).contains(&label.len())) {
            continue;
        }
        for label in labels() {
            list.extend(u8::try_from(label.len()));
            list.extend_from_slice(label.as_bytes());
        }
        list.push(0);
    }
    list
}

/// Writes routes as prefix length, the bytes of the prefix that count, and router (RFC 3442).
///
/// Clients that read this option ignore option 3, so the default route is repeated here.
fn routes(routes: &[(Ipv4Net, Ipv4Addr)], routers: &[Ipv4Addr]) -> Vec<u8> {
    if routes.is_empty() {
        return Vec::new();
    }
    let default = routers
        .first()
        .filter(|_| routes.iter().all(|(net, _)| net.prefix_len() != 0));
    let default = default.map(|router| (Ipv4Net::default(), *router));
    let mut list = Vec::new();
    for (net, router) in routes.iter().copied().chain(default) {
        let significant = usize::from(net.prefix_len().div_ceil(8));
        list.push(net.prefix_len());
        list.extend(net.network().octets().iter().take(significant));
        list.extend_from_slice(&router.octets());
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_written_as_in_rfc_3442_with_the_default_route_last() {
        let router = Ipv4Addr::new(10, 0, 0, 1);
        let nets = ["10.17.0.0/16", "10.27.129.0/25"].map(|net| (net.parse().unwrap(), router));
        let expected = [
            &[16, 10, 17, 10, 0, 0, 1][..],
            &[25, 10, 27, 129, 0, 10, 0, 0, 1],
            &[0, 10, 0, 0, 1],
        ];
        assert_eq!(routes(&nets, &[router]), expected.concat());
        assert_eq!(routes(&nets, &[]), expected[..2].concat());
        assert!(routes(&[], &[router]).is_empty(), "option 3 says it all");
    }

    #[test]
    fn a_search_list_is_written_as_labels_without_names_that_dns_cannot_hold() {
        let names = ["eng.example.", "a..b", "", "x"].map(str::to_owned);
        assert_eq!(search_list(&names), b"\x03eng\x07example\x00\x01x\x00");
        assert!(search_list(&["l".repeat(64)]).is_empty());
    }
}

//! The host's name servers, as `/etc/resolv.conf` lists them (`man 5 resolv.conf`). Options and search lists are the
//! guests' own business.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use crate::net::dns::PORT;

/// How many servers are used at most.
pub(super) const SERVERS: usize = 8;
/// How much of the file is read.
const LONGEST: u64 = 64 << 10;

/// By what a file is told from what it was before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    modified: SystemTime,
    len: u64,
    inode: u64,
}

/// Returns the stamp of a file.
pub(super) fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    // To read anything else could take for ever.
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(Stamp {
        modified: metadata.modified()?,
        len: metadata.len(),
        inode: metadata.ino(),
    })
}

/// Reads the servers that a file lists.
pub(super) fn read(path: &Path) -> io::Result<Vec<SocketAddr>> {
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST).read_to_end(&mut text)?;
    Ok(parse(&String::from_utf8_lossy(&text), interface))
}

/// Returns the number of a network interface.
fn interface(name: &str) -> Option<u32> {
    if name.contains('/') || name.starts_with('.') {
        return None;
    }
    let text = fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?;
    text.trim().parse().ok()
}

fn parse(text: &str, interface: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(server) = words.next().and_then(|word| server(word, &interface))
            && !servers.contains(&server)
            && servers.len() < SERVERS
        {
            servers.push(server);
        }
    }
    servers
}

/// Reads an address, which has a scope where it is one of a link.
fn server(text: &str, interface: &impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let Some((address, scope)) = text.split_once('%') else {
        let ip: IpAddr = text.parse().ok()?;
        let usable = !ip.is_unspecified() && !ip.is_multicast();
        return usable.then(|| SocketAddr::new(ip, PORT));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = scope.parse().ok().or_else(|| interface(scope))?;
    Some(SocketAddrV6::new(address, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_in_their_order_and_everything_else_is_not() {
        let text = "# nameserver 192.0.2.1\n\
                    search lan\n\
                    nameserver\t192.0.2.2 # the first\n\
                    nameserver fe80::1%eth0\n\
                    nameserver fe80::1%7\n\
                    nameserver fe80::1%gone\n\
                    nameserver example.com\n\
                    ;nameserver 192.0.2.3\n\
                    nameserver 192.0.2.2\n\
                    nameserver 0.0.0.0\n\
                    nameserver\n\
                    nameserver 2001:db8::1";
        let servers = parse(text, |name| (name == "eth0").then_some(3));
        let texts: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "192.0.2.2:53",
                "[fe80::1%3]:53",
                "[fe80::1%7]:53",
                "[2001:db8::1]:53"
            ]
        );
    }

    #[test]
    fn no_more_servers_are_used_than_there_may_be() {
        let text: String = (1..=20)
            .map(|n| format!("nameserver 192.0.2.{n}\n"))
            .collect();
        assert_eq!(parse(&text, |_| None).len(), SERVERS);
    }
}

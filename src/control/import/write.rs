//! Drafts as TOML, as people would write it: short, with comments where they help.
//!
//! The keys are few and in a fixed order, so they are written one by one; only values are left to the `toml` crate, which
//! knows how to quote. A serializer of whole tables knows no comments.

use std::fmt::{Display, Write};
use std::net::SocketAddrV4;

use toml::Value;

use super::dhcp::Dhcp;
use super::draft::{Draft, Mode, Nat, Served};
use super::nat_conf::{Forward, Protocol};
use super::report::printable;
use crate::control::problem::join;

/// A text that grows by lines.
struct Lines(String);

impl Lines {
    fn line(&mut self, line: impl Display) {
        // Writing to a text cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn table(&mut self, path: &str) {
        self.line(format_args!("\n[{path}]"));
    }

    fn key(&mut self, key: &str, value: impl Into<Value>) {
        self.line(format_args!("{key} = {}", value.into()));
    }

    fn text(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.key(key, value.to_string());
        }
    }

    fn list(&mut self, key: &str, values: &[impl Display]) {
        if !values.is_empty() {
            self.key(key, list(values));
        }
    }
}

fn list(values: &[impl Display]) -> Value {
    let values = values.iter().map(|value| Value::from(value.to_string()));
    Value::Array(values.collect())
}

/// Writes the configuration that was made of these files.
pub fn write(drafts: &[Draft], files: &[String]) -> String {
    let mut lines = Lines(String::new());
    lines.line("# Imported by `vmlan import` from");
    for file in files {
        lines.line(format_args!("#   {}", printable(file)));
    }
    lines.line(
        "# What became different, and what has no equivalent, is in the report that came with it.",
    );
    for draft in drafts {
        let path = join("network", &draft.name);
        lines.table(&path);
        match &draft.mode {
            Mode::Bridged(uplinks) => {
                lines.key("mode", "bridged");
                lines.key("team.active", list(uplinks));
            }
            Mode::Served(served) => network(&draft.name, &path, served, &mut lines),
        }
    }
    lines.0
}

fn network(name: &str, path: &str, served: &Served, lines: &mut Lines) {
    let addresses = served.addresses;
    let mode = if served.nat.is_some() {
        "nat"
    } else {
        "host-only"
    };
    lines.key("mode", mode);
    let subnet = Value::from(addresses.net.to_string());
    let gateway = addresses.gateway;
    lines.line(format_args!("subnet = {subnet} # the gateway is {gateway}"));
    if let Some(host) = addresses.host {
        let adapter = Value::from(name);
        lines.line(format_args!(
            "host_adapter = {adapter} # the host takes part as {host}, which needs some privilege"
        ));
    }
    if served.dhcp.is_none() {
        lines.key("dhcp", false);
    }
    if let Some(nat) = &served.nat {
        nat_tables(path, nat, lines);
    }
    if let Some(dhcp) = &served.dhcp {
        dhcp_tables(path, dhcp, lines);
    }
    for forward in served.nat.iter().flat_map(|nat| &nat.forwards) {
        forward_table(path, forward, lines);
    }
}

fn nat_tables(path: &str, nat: &Nat, lines: &mut Lines) {
    if nat.ipv6 == Some(None) {
        lines.line("ipv6 = false # as it was; without this line guests have IPv6 too");
    }
    lines.table(&join(path, "nat"));
    lines.line("outside = \"host\" # the daemon's own sockets: needs no privilege");
    lines.text("udp_timeout", nat.udp_timeout);
    if nat.ftp {
        lines.key("ftp", true);
    }
    if !nat.name_servers.is_empty() {
        lines.table(&join(path, "dns"));
        lines.list("servers", &nat.name_servers);
    }
    if let Some(Some(prefix)) = nat.ipv6 {
        lines.table(&join(path, "ipv6"));
        lines.text("prefix", Some(prefix));
    }
}

fn dhcp_tables(path: &str, dhcp: &Dhcp, lines: &mut Lines) {
    let path = join(path, "dhcp");
    let mut keys = Lines(String::new());
    keys.text("pool", dhcp.pool);
    keys.text("lease", dhcp.lease);
    keys.text("max_lease", dhcp.max_lease);
    keys.list("router", &dhcp.router);
    keys.list("dns", &dhcp.dns);
    keys.list("ntp", &dhcp.ntp);
    keys.text("domain", dhcp.domain.as_ref());
    keys.list("search", &dhcp.search);
    if let Some(mtu) = dhcp.mtu {
        keys.key("mtu", i64::try_from(mtu).unwrap_or(i64::MAX));
    }
    keys.text("next_server", dhcp.next_server);
    keys.text("tftp_server", dhcp.tftp_server.as_ref());
    keys.text("boot_file", dhcp.boot_file.as_ref());
    for (code, addresses) in &dhcp.options {
        keys.key(&format!("options.{code}"), list(addresses));
    }
    if !keys.0.is_empty() {
        lines.table(&path);
        lines.0 += &keys.0;
    }
    for reservation in &dhcp.reservations {
        lines.line(format_args!("\n[[{path}.reservation]]"));
        lines.text("mac", Some(reservation.mac));
        lines.text("ip", Some(reservation.ip));
        lines.text("hostname", reservation.hostname.as_ref());
    }
}

fn forward_table(path: &str, forward: &Forward, lines: &mut Lines) {
    lines.line(format_args!("\n[[{path}.forward]]"));
    if forward.protocol == Protocol::Udp {
        lines.key("protocol", forward.protocol.name());
    }
    lines.key("listen", format!("0.0.0.0:{}", forward.port));
    let to: SocketAddrV4 = forward.to;
    lines.text("to", Some(to));
}

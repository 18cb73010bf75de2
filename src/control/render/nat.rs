//! Network address translation as tables.

use crate::control::render::{count, finished, or_dash, right, span, table};
use crate::control::show::nat::{Flow, Forward, Target, Translation, Translator};

/// Draws the translators, their forwards and the flows.
pub fn translation(translation: &Translation) -> String {
    if translation.networks.is_empty() {
        return "no network is translated".to_owned();
    }
    let mut parts = vec![translators(&translation.networks)];
    let all = translation.networks.iter();
    let all: Vec<_> = all.flat_map(|network| network.forwards.clone()).collect();
    if !all.is_empty() {
        parts.push(forwards(&all));
    }
    if !translation.flows.is_empty() {
        parts.push(flows(&translation.flows));
    }
    match translation.left_out {
        0 => {}
        1 => parts.push("and one more flow; --limit says how many are shown".to_owned()),
        more => parts.push(format!(
            "and {more} more flows; --limit says how many are shown"
        )),
    }
    parts.join("\n\n")
}

/// Draws where networks lead to, in a few words.
pub fn glance(networks: &[Translator]) -> String {
    let mut table = table(&["NAT OF", "OUTSIDE", "FLOWS", "FORWARDS", "ADDRESSES"]);
    for network in networks {
        let flows = network.flows;
        table.add_row([
            network.network.clone(),
            network.outside.clone(),
            (flows.tcp + flows.udp + flows.icmp).to_string(),
            network.forwards.len().to_string(),
            addresses(network),
        ]);
    }
    right(&mut table, &[2, 3]);
    finished(&table)
}

fn addresses(network: &Translator) -> String {
    match network.addresses.as_slice() {
        [] => "-".to_owned(),
        addresses => addresses.join(", "),
    }
}

fn translators(networks: &[Translator]) -> String {
    let mut table = table(&[
        "NETWORK",
        "OUTSIDE",
        "TCP",
        "UDP",
        "ICMP",
        "LIMIT",
        "REFUSED",
        "SENT",
        "RECEIVED",
        "ADDRESSES",
    ]);
    for network in networks {
        table.add_row([
            network.network.clone(),
            network.outside.clone(),
            network.flows.tcp.to_string(),
            network.flows.udp.to_string(),
            network.flows.icmp.to_string(),
            network.max_flows.to_string(),
            network.refused.to_string(),
            count(network.sent_bytes),
            count(network.received_bytes),
            addresses(network),
        ]);
    }
    right(&mut table, &[2, 3, 4, 5, 6, 7, 8]);
    finished(&table)
}

/// Draws port forwards; each target has a line.
pub fn forwards(forwards: &[Forward]) -> String {
    let mut table = table(&["FORWARD OF", "LISTENS ON", "TO", "STATE", "CONNECTIONS"]);
    for forward in forwards {
        let mut heading = [forward.network.clone(), listen(forward)];
        for target in &forward.to {
            let [network, listen] = std::mem::take(&mut heading);
            table.add_row([
                network,
                listen,
                to(forward, target),
                state(forward, target).to_owned(),
                target.connections.to_string(),
            ]);
        }
    }
    right(&mut table, &[4]);
    let mut text = finished(&table);
    for forward in forwards {
        if let Some(error) = &forward.error {
            text += &format!("\n  {error}");
        }
    }
    text
}

/// Writes where a forward listens, as in `tcp 127.0.0.1:2222`.
pub fn listen(forward: &Forward) -> String {
    let last = forward
        .last_port
        .map_or_else(String::new, |last| format!("-{last}"));
    format!("{} {}{last}", forward.protocol, forward.listen)
}

/// Writes a target, as in `web1:22`, with the address that it has now.
pub fn to(forward: &Forward, target: &Target) -> String {
    let host = if target.host.contains(':') {
        format!("[{}]", target.host)
    } else {
        target.host.clone()
    };
    let first: Option<u16> = forward
        .listen
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    let more = forward
        .last_port
        .zip(first)
        .map(|(last, first)| last - first);
    let last = more
        .and_then(|more| target.port.checked_add(more))
        .map_or_else(String::new, |last| format!("-{last}"));
    let ip = match &target.ip {
        Some(ip) if *ip != target.host => format!(" ({ip})"),
        Some(_) | None => String::new(),
    };
    format!("{host}:{}{last}{ip}", target.port)
}

const fn state(forward: &Forward, target: &Target) -> &'static str {
    match (&forward.error, target.up, &target.ip) {
        (Some(_), ..) => "does not work",
        (None, Some(false), _) => "down",
        (None, Some(true), _) => "up",
        (None, None, Some(_)) => "-",
        (None, None, None) => "no address yet",
    }
}

fn flows(flows: &[Flow]) -> String {
    let mut table = table(&[
        "NETWORK", "PROTO", "GUEST", "INSIDE", "REMOTE", "STATE", "AGE", "IDLE", "SENT", "RECEIVED",
    ]);
    for flow in flows {
        let guest = flow.vm.as_deref().or(flow.mac.as_deref());
        let direction = match flow.originator.as_str() {
            "forward" => "← ",
            _ => "",
        };
        table.add_row([
            flow.network.clone(),
            flow.protocol.clone(),
            or_dash(guest),
            flow.inside.clone(),
            format!("{direction}{}", or_dash(flow.remote.as_deref())),
            flow.state.clone(),
            span(flow.age_s),
            span(flow.idle_s),
            count(flow.sent_bytes),
            count(flow.received_bytes),
        ]);
    }
    right(&mut table, &[6, 7, 8, 9]);
    finished(&table)
}

#[cfg(test)]
pub(in crate::control) mod tests {
    use super::*;
    use crate::control::show::nat::Counts;

    pub(in crate::control) fn forward() -> Forward {
        let target = |host: &str, ip: Option<&str>, up, connections| Target {
            host: host.to_owned(),
            port: 80,
            ip: ip.map(str::to_owned),
            up,
            connections,
        };
        Forward {
            network: "vmnet8".to_owned(),
            protocol: "tcp".to_owned(),
            listen: "0.0.0.0:8080".to_owned(),
            last_port: Some(8081),
            to: vec![
                target("web1", Some("192.168.88.128"), Some(true), 3),
                target("192.168.88.9", Some("192.168.88.9"), Some(false), 0),
                target("web3", None, None, 0),
            ],
            balance: "round-robin".to_owned(),
            error: None,
        }
    }

    fn flow(vm: Option<&str>, originator: &str, remote: Option<&str>) -> Flow {
        Flow {
            network: "vmnet8".to_owned(),
            protocol: "tcp".to_owned(),
            originator: originator.to_owned(),
            vm: vm.map(str::to_owned),
            mac: Some("52:54:00:12:34:56".to_owned()),
            inside: "192.168.88.128:40000".to_owned(),
            outside: None,
            remote: remote.map(str::to_owned),
            state: "established".to_owned(),
            age_s: 125,
            idle_s: 3,
            expires_s: 7_437,
            sent_bytes: 12_345,
            received_bytes: 123,
        }
    }

    #[test]
    fn a_translator_its_forwards_and_flows_are_read_at_a_glance() {
        let network = Translator {
            network: "vmnet8".to_owned(),
            outside: "vmnet0".to_owned(),
            addresses: vec!["203.0.113.5".to_owned(), "2001:db8::5".to_owned()],
            filtering: "address-and-port".to_owned(),
            flows: Counts {
                tcp: 2,
                udp: 1,
                icmp: 0,
            },
            max_flows: 262_144,
            max_flows_per_guest: 131_072,
            created: 10,
            refused: 0,
            sent_bytes: 12_345_678,
            received_bytes: 123,
            forwards: vec![forward()],
        };
        let all = Translation {
            networks: vec![network],
            flows: vec![
                flow(Some("web1"), "guest", Some("198.51.100.1:443")),
                flow(None, "forward", None),
            ],
            left_out: 7,
        };
        let text = translation(&all);
        let expected = "\
NETWORK  OUTSIDE  TCP  UDP  ICMP   LIMIT  REFUSED   SENT  RECEIVED  ADDRESSES
vmnet8   vmnet0     2    1     0  262144        0  12.3M       123  203.0.113.5, 2001:db8::5

FORWARD OF  LISTENS ON             TO                           STATE           CONNECTIONS
vmnet8      tcp 0.0.0.0:8080-8081  web1:80-81 (192.168.88.128)  up                        3
                                   192.168.88.9:80-81           down                      0
                                   web3:80-81                   no address yet            0

NETWORK  PROTO  GUEST              INSIDE                REMOTE            STATE          AGE  IDLE   SENT  RECEIVED
vmnet8   tcp    web1               192.168.88.128:40000  198.51.100.1:443  established  2 min   3 s  12.3k       123
vmnet8   tcp    52:54:00:12:34:56  192.168.88.128:40000  ← -               established  2 min   3 s  12.3k       123

and 7 more flows; --limit says how many are shown";
        assert_eq!(text, expected, "\n{text}");
        assert_eq!(
            translation(&Translation::default()),
            "no network is translated"
        );
    }

    #[test]
    fn a_forward_that_does_not_work_says_why() {
        let mut broken = forward();
        broken.to.truncate(1);
        broken.error = Some("cannot forward tcp port 0.0.0.0:8080: permission denied".to_owned());
        let text = forwards(&[broken]);
        assert!(text.contains("does not work"), "{text}");
        assert!(
            text.ends_with("\n  cannot forward tcp port 0.0.0.0:8080: permission denied"),
            "{text}"
        );
    }
}

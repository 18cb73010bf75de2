//! Metrics in the text format of OpenMetrics, which Prometheus scrapes: what the engine counts, by network and port.
//!
//! They are served at `/metrics` of the address that `daemon.metrics` names, to whoever asks, and of the control socket. Names are those of
//! `vmlan status --json`; `ingress` is into the switch, `egress` out of it.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::control::api::{Source, refuse};
use crate::engine::Snapshot;
use crate::net::nat::Protocol;

/// Where the metrics are, on the control socket as on an address of their own.
pub const PATH: &str = "/metrics";

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An address at which metrics are served.
#[derive(Debug)]
pub struct Exporter(TcpListener);

impl Exporter {
    /// Listens there.
    ///
    /// # Errors
    ///
    /// The system refuses: somebody has the port, or the address is not one of this machine.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// Answers for as long as it is polled.
    ///
    /// # Errors
    ///
    /// The system refuses.
    pub async fn serve(self, source: Arc<Source>) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.0)?;
        axum::serve(listener, router().with_state(source)).await
    }
}

/// The endpoint.
pub(super) fn router() -> Router<Arc<Source>> {
    Router::new().route(PATH, get(answer))
}

async fn answer(State(source): State<Arc<Source>>) -> Response {
    // The worker answers at once, or is stuck: then signals must still be heard.
    let asked = tokio::task::spawn_blocking(move || source.engine.snapshot().and_then(text));
    match asked.await.ok().flatten() {
        Some(text) => (StatusCode::OK, [(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        None => refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "the worker does not answer; restart the daemon",
        ),
    }
}

/// Writes a snapshot in the text format.
fn text(snapshot: Snapshot) -> Option<String> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Counted(snapshot)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).ok()?;
    Some(text)
}

/// A snapshot, to be collected.
#[derive(Debug)]
struct Counted(Snapshot);

/// A value, and the labels that tell it from others of its name.
type Values<'a, const LABELS: usize> = Vec<([(&'static str, &'a str); LABELS], u64)>;

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let networks = &self.0.networks;
        let ports = || {
            let pairs = networks.iter().map(|network| (network, &network.ports));
            pairs.flat_map(|(network, ports)| ports.iter().map(move |port| (&*network.name, port)))
        };
        let of_ports = |value: fn(&crate::engine::PortSnapshot) -> u64| -> Values<'_, 2> {
            ports()
                .map(|(network, port)| ([("network", network), ("port", &*port.name)], value(port)))
                .collect()
        };
        let counter = MetricType::Counter;
        let gauge = MetricType::Gauge;
        let frames_in = of_ports(|port| port.ingress.frames);
        let bytes_in = of_ports(|port| port.ingress.bytes);
        let frames_out = of_ports(|port| port.egress.frames);
        let bytes_out = of_ports(|port| port.egress.bytes);
        let drops: Values<'_, 3> = ports()
            .flat_map(|(network, port)| {
                port.drops.iter().map(move |(reason, count)| {
                    let labels = [
                        ("network", network),
                        ("port", &*port.name),
                        ("reason", *reason),
                    ];
                    (labels, *count)
                })
            })
            .collect();
        let leases: Values<'_, 1> = networks
            .iter()
            .map(|network| ([("network", &*network.name)], network.leases.len() as u64))
            .collect();
        let uplinks: Values<'_, 2> = networks
            .iter()
            .filter_map(|network| Some((network, network.team.as_ref()?)))
            .flat_map(|(network, team)| {
                team.uplinks.iter().map(|uplink| {
                    let labels = [("network", &*network.name), ("uplink", &*uplink.name)];
                    (labels, u64::from(uplink.link))
                })
            })
            .collect();
        let nats = || {
            let nats = networks.iter();
            nats.filter_map(|network| Some((&*network.name, network.nat.as_ref()?)))
        };
        let flows: Values<'_, 2> = nats()
            .flat_map(|(network, nat)| {
                Protocol::ALL
                    .into_iter()
                    .zip(nat.flows)
                    .map(move |(protocol, flows)| {
                        let labels = [("network", network), ("protocol", protocol.name())];
                        (labels, flows as u64)
                    })
            })
            .collect();
        let of_nats = |value: fn(&crate::net::nat::View) -> u64| -> Values<'_, 1> {
            nats()
                .map(|(network, nat)| ([("network", network)], value(nat)))
                .collect()
        };
        let created = of_nats(|nat| nat.created);
        let refused = of_nats(|nat| nat.refused);
        let sent = of_nats(|nat| nat.sent);
        let received = of_nats(|nat| nat.received);
        let mut put = Put(&mut encoder);
        put.all(
            "vmlan_port_ingress_frames",
            "Frames into the switch",
            counter,
            &frames_in,
        )?;
        put.all(
            "vmlan_port_ingress_bytes",
            "Bytes into the switch",
            counter,
            &bytes_in,
        )?;
        put.all(
            "vmlan_port_egress_frames",
            "Frames out of the switch",
            counter,
            &frames_out,
        )?;
        put.all(
            "vmlan_port_egress_bytes",
            "Bytes out of the switch",
            counter,
            &bytes_out,
        )?;
        put.all(
            "vmlan_port_drops",
            "Frames dropped at the port, by reason",
            counter,
            &drops,
        )?;
        put.all("vmlan_dhcp_leases", "Leases of DHCP", gauge, &leases)?;
        put.all(
            "vmlan_uplink_up",
            "Whether the uplink has a link",
            gauge,
            &uplinks,
        )?;
        put.all(
            "vmlan_nat_flows",
            "Flows that are translated",
            gauge,
            &flows,
        )?;
        put.all(
            "vmlan_nat_flows_created",
            "Flows that were begun",
            counter,
            &created,
        )?;
        put.all(
            "vmlan_nat_flows_refused",
            "Flows beyond a limit",
            counter,
            &refused,
        )?;
        put.all(
            "vmlan_nat_sent_bytes",
            "Payload from guests",
            counter,
            &sent,
        )?;
        put.all(
            "vmlan_nat_received_bytes",
            "Payload to guests",
            counter,
            &received,
        )
    }
}

/// Writes one metric after the other.
struct Put<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Put<'_, '_> {
    fn all<const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: &Values<'_, LABELS>,
    ) -> fmt::Result
    where
        for<'l> [(&'static str, &'l str); LABELS]: EncodeLabelSet,
    {
        let counts = matches!(kind, MetricType::Counter);
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            let mut metric = metric.encode_family(labels)?;
            if counts {
                metric.encode_counter::<NoLabelSet, _, u64>(value, None)?;
            } else {
                metric.encode_gauge(value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NetworkSnapshot;
    use crate::net::nat::View;

    #[test]
    fn what_is_counted_is_written_with_its_labels() {
        let network = NetworkSnapshot {
            name: "vm\"net8".to_owned(),
            advisories: Vec::new(),
            ports: Vec::new(),
            leases: Vec::new(),
            fdb: Vec::new(),
            team: None,
            groups: Vec::new(),
            nat: Some(View {
                flows: [3, 2, 1],
                created: 9,
                ..View::default()
            }),
        };
        let text = text(Snapshot {
            networks: vec![network],
        })
        .unwrap();
        for line in [
            "# TYPE vmlan_nat_flows gauge",
            "vmlan_nat_flows{network=\"vm\\\"net8\",protocol=\"udp\"} 2",
            "# TYPE vmlan_nat_flows_created counter",
            "vmlan_nat_flows_created_total{network=\"vm\\\"net8\"} 9",
            "vmlan_dhcp_leases{network=\"vm\\\"net8\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}

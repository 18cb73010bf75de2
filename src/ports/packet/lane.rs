//! The fast lane of an uplink: when it is opened, when it is closed, and what is said of it.
//!
//! It is opened at once when the port is. Later a thread does that, for each adapter that is taken and when one changes what a
//! lane depends on; frames take the packet socket meanwhile.

use std::io;

use super::{Driver, Packet, short};
use crate::ports::xdp::{Lane, Refusal, Wanted};
use crate::ports::{DriverFacts, OpenError};
use crate::wire::ethernet::MacAddr;

impl Packet {
    /// Returns what lane there is to be, if any.
    fn wanted(&self) -> Option<Wanted> {
        Some(Wanted {
            name: self.name,
            index: self.bound?,
            mac: self.facts?.mac,
            mtu: self.mtu,
            zero_copy: match self.driver {
                Driver::Auto => true,
                Driver::AfXdp => false,
                Driver::AfPacket => return None,
            },
        })
    }

    /// Opens the lane at once, where there is to be one. Without AF_XDP there is no port where it was asked for by name.
    pub(super) fn open_lane(&mut self) -> Result<(), OpenError> {
        let Some(wanted) = self.wanted() else {
            return Ok(());
        };
        match Lane::open(&wanted) {
            Err(refusal) if self.driver == Driver::AfXdp => {
                let attempt = format!("use AF_XDP for the uplink {:?}", self.interface);
                Err(lane_refused(attempt, &refusal))
            }
            answer => {
                self.follow_lane(answer);
                Ok(())
            }
        }
    }

    /// Has the lane opened, anew if there is one; frames take the packet socket until it is there.
    pub(super) fn wish_for_lane(&mut self) {
        self.close_lane();
        if let (Some(wanted), Some(opener)) = (self.wanted(), &mut self.opener) {
            opener.open(wanted);
        }
    }

    /// Closes the lane, if there is one, and forgets the wish for one.
    pub(super) fn close_lane(&mut self) {
        self.refusal = None;
        let mut lane = self.lane.take();
        if let (Some(watcher), Some(lane)) = (self.watcher, &lane) {
            for descriptor in lane.descriptors() {
                watcher.remove(descriptor);
            }
        }
        if lane.as_ref().is_some_and(Lane::is_held) {
            self.retired = lane.take();
        }
        if let Some(opener) = &mut self.opener {
            opener.close(lane);
        }
    }

    /// Takes in the lane that was wished for, or why there is none.
    pub(super) fn follow_lane(&mut self, answer: Result<Lane, Refusal>) {
        let device = &self.interface;
        let watched = answer.and_then(|lane| {
            if let Some(watcher) = self.watcher {
                for descriptor in lane.descriptors() {
                    watcher.add(descriptor).map_err(|source| Refusal {
                        attempt: "watch a socket of it",
                        source,
                    })?;
                }
            }
            Ok(lane)
        });
        match watched {
            Ok(lane) => {
                tracing::info!(device, "the uplink uses AF_XDP: {}", lane.words());
                self.lane = Some(lane);
            }
            Err(refusal) => {
                match self.driver {
                    Driver::AfXdp => {
                        tracing::warn!(device, %refusal, "the uplink uses AF_PACKET instead of AF_XDP");
                    }
                    Driver::Auto | Driver::AfPacket => {
                        tracing::info!(device, %refusal, "the uplink uses AF_PACKET");
                    }
                }
                self.refusal = Some(refusal);
            }
        }
    }

    /// Follows a change of what a lane depends on.
    pub(super) fn follow_adapter(&mut self, mac: Option<MacAddr>, mtu: Option<u32>) {
        let Some(facts) = &mut self.facts else {
            return;
        };
        let (mac, mtu) = (mac.unwrap_or(facts.mac), mtu.map_or(self.mtu, short));
        if (facts.mac, self.mtu) != (mac, mtu) {
            facts.mac = mac;
            self.mtu = mtu;
            self.wish_for_lane();
        }
    }

    /// Says by what means frames come and go, and why.
    pub(super) fn driver_facts(&self) -> Option<DriverFacts> {
        self.bound?;
        let (name, why) = match (&self.lane, &self.refusal) {
            (Some(lane), _) => ("af_xdp", lane.words().to_owned()),
            (None, Some(refusal)) => ("af_packet", format!("AF_XDP {refusal}")),
            (None, None) if self.driver == Driver::AfPacket => {
                ("af_packet", "as configured".to_owned())
            }
            (None, None) => ("af_packet", "until AF_XDP is ready".to_owned()),
        };
        Some(DriverFacts { name, why })
    }
}

fn lane_refused(attempt: String, refusal: &Refusal) -> OpenError {
    let kind = refusal.source.kind();
    if kind == io::ErrorKind::PermissionDenied {
        return OpenError::Permission {
            attempt,
            remedy: "AF_XDP needs CAP_BPF and CAP_NET_ADMIN besides CAP_NET_RAW: run as root, grant them: \
                     setcap cap_net_raw,cap_net_admin,cap_bpf+ep /path/to/vmlan, or use driver = \"af_packet\"",
        };
    }
    let source = io::Error::new(kind, refusal.to_string());
    OpenError::System { attempt, source }
}

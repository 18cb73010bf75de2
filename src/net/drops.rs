//! Why a frame did not pass: one reason a frame, one counter a port and reason.

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than an Ethernet header, or a tag that is cut off.
    Runt,
    /// Larger than the network's MTU allows.
    TooBig,
    /// The source is a group address or zero.
    BadSource,
    /// The source is the fixed address of another port.
    SourceConflict,
    /// A frame of this side came back from an uplink.
    Reflected,
    /// The port does not carry the frame's VLAN.
    VlanNotAllowed,
    /// From an uplink, to an address that is not on this side.
    UnknownUnicast,
    /// The destination is the port that the frame came from.
    SamePort,
    /// The source is not the port's own address, and the port may use no other.
    ForgedSource,
    /// The destination is one that no bridge passes on (IEEE 802.1Q, table 8-1).
    ReservedAddress,
    /// From an uplink that does not carry the receiver.
    ReverseFilter,
    /// To the outside, and no uplink can carry it.
    NoUplink,
    /// Between ports that are isolated from each other, or by the rules of a private VLAN.
    Isolated,
    /// More broadcast, multicast or unknown unicast than the port may send.
    StormControl,
    /// From a DHCP server at a port that may not be one.
    DhcpGuard,
    /// A router advertisement from a port that may not be a router (RFC 6105).
    RaGuard,
    /// It has passed too many routers.
    Loop,
    /// The offload fields do not describe the frame.
    BadOffload,
    /// The receiver had no buffer free.
    NoBuffer,
    /// The receiver's buffers are smaller than the frame.
    BufferTooSmall,
    /// The receiver is not up.
    PortDown,
    /// The kernel refused or did not take the frame.
    DeviceBusy,
    /// To be passed on by the gateway, and its packet makes no sense.
    BadPacket,
    /// To somewhere that the gateway does not lead to.
    Unreachable,
    /// It would begin a flow, and there are as many as there may be.
    NatLimit,
    /// From outside, and no guest has asked for it.
    NatFiltered,
    /// It has passed as many routers as it may.
    HopLimit,
}

impl DropReason {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 27] = [
        Self::Runt,
        Self::TooBig,
        Self::BadSource,
        Self::SourceConflict,
        Self::Reflected,
        Self::VlanNotAllowed,
        Self::UnknownUnicast,
        Self::SamePort,
        Self::ForgedSource,
        Self::ReservedAddress,
        Self::ReverseFilter,
        Self::NoUplink,
        Self::Isolated,
        Self::StormControl,
        Self::DhcpGuard,
        Self::RaGuard,
        Self::Loop,
        Self::BadOffload,
        Self::NoBuffer,
        Self::BufferTooSmall,
        Self::PortDown,
        Self::DeviceBusy,
        Self::BadPacket,
        Self::Unreachable,
        Self::NatLimit,
        Self::NatFiltered,
        Self::HopLimit,
    ];

    /// Returns the name under which the reason is counted and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Runt => "runt",
            Self::TooBig => "too_big",
            Self::BadSource => "bad_source",
            Self::SourceConflict => "source_conflict",
            Self::Reflected => "reflected",
            Self::VlanNotAllowed => "vlan_not_allowed",
            Self::UnknownUnicast => "unknown_unicast",
            Self::SamePort => "same_port",
            Self::ForgedSource => "forged_source",
            Self::ReservedAddress => "reserved_address",
            Self::ReverseFilter => "reverse_filter",
            Self::NoUplink => "no_uplink",
            Self::Isolated => "isolated",
            Self::StormControl => "storm_control",
            Self::DhcpGuard => "dhcp_guard",
            Self::RaGuard => "ra_guard",
            Self::Loop => "loop",
            Self::BadOffload => "bad_offload",
            Self::NoBuffer => "no_buffer",
            Self::BufferTooSmall => "buffer_too_small",
            Self::PortDown => "port_down",
            Self::DeviceBusy => "device_busy",
            Self::BadPacket => "bad_packet",
            Self::Unreachable => "unreachable",
            Self::NatLimit => "nat_limit",
            Self::NatFiltered => "nat_filtered",
            Self::HopLimit => "hop_limit",
        }
    }
}

/// Frames dropped at a port, by reason.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Counts one frame.
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// Counts `frames` frames at once.
    pub fn count_many(&mut self, reason: DropReason, frames: u64) {
        self.0[reason as usize] += frames;
    }

    /// Returns all reasons with their counts.
    pub fn all(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().zip(self.0)
    }

    /// Returns the reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        self.all().filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason:?} stands at its place");
            assert_eq!(
                DropReason::ALL
                    .iter()
                    .filter(|other| other.name() == reason.name())
                    .count(),
                1
            );
            let mut drops = Drops::default();
            drops.count(reason);
            assert_eq!(drops.iter().collect::<Vec<_>>(), [(reason, 1)]);
        }
    }
}

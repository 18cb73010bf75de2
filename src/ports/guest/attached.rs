//! A ring that the worker serves, of either kind: which it is, is asked once a burst.

use std::sync::Arc;

use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_RING_PACKED};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::Negotiated;
use super::memory::Memory;
use super::packed::{PackedRing, Wishes};
use super::queues;
use super::ring::{Direction, Layout, RingFault, Virtqueue};
use super::virtq::SplitRing;
use crate::net::drops::Drops;
use crate::net::outbox::Egress;
use crate::ports::Sent;
use crate::ports::burst::Burst;
use crate::ports::egress::{Scratch, send_batch};

/// The negotiated features that make a difference to a ring.
const RING_FEATURES: u64 =
    1 << VIRTIO_F_RING_PACKED | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_F_IN_ORDER;

/// What a ring is read and written as.
#[derive(Debug)]
enum Kind {
    Split(SplitRing),
    Packed(PackedRing),
}

/// One attached ring.
#[derive(Debug)]
pub(super) struct AttachedRing {
    kind: Kind,
    features: u64,
}

impl AttachedRing {
    /// Attaches to a ring of the negotiated kind, and resumes where it stopped.
    ///
    /// `base` is where the frontend says that it stopped.
    ///
    /// # Errors
    ///
    /// The ring's size is none, or a part of it is not where it is said to be.
    pub(super) fn attach(
        memory: Arc<Memory>,
        layout: Layout,
        direction: Direction,
        features: u64,
        base: u16,
    ) -> Result<Self, RingFault> {
        let has = |bit: u32| features & 1 << bit != 0;
        let event_idx = has(VIRTIO_RING_F_EVENT_IDX);
        let kind = if has(VIRTIO_F_RING_PACKED) {
            let wishes = Wishes {
                event_idx,
                in_order: has(VIRTIO_F_IN_ORDER),
            };
            Kind::Packed(PackedRing::attach(memory, layout, direction, wishes, base)?)
        } else {
            Kind::Split(SplitRing::attach(memory, layout, direction, event_idx)?)
        };
        Ok(Self {
            kind,
            features: features & RING_FEATURES,
        })
    }

    /// Whether it would be attached alike with other features.
    pub(super) const fn fits(&self, features: u64) -> bool {
        self.features == features & RING_FEATURES
    }

    /// The ring, where it does not matter what it is.
    pub(super) fn any(&self) -> &dyn Virtqueue {
        match &self.kind {
            Kind::Split(ring) => ring,
            Kind::Packed(ring) => ring,
        }
    }

    /// The ring, where it does not matter what it is.
    pub(super) fn any_mut(&mut self) -> &mut dyn Virtqueue {
        match &mut self.kind {
            Kind::Split(ring) => ring,
            Kind::Packed(ring) => ring,
        }
    }

    /// Fills the burst from the ring.
    #[inline]
    pub(super) fn receive(
        &mut self,
        work: &mut queues::Ingress,
        header_len: usize,
        burst: &mut Burst,
        drops: &mut Drops,
    ) -> Result<(), RingFault> {
        match &mut self.kind {
            Kind::Split(ring) => work.receive(ring, header_len, burst, drops),
            Kind::Packed(ring) => work.receive(ring, header_len, burst, drops),
        }
    }

    /// Gives the buffers of the burst back to the guest.
    #[inline]
    pub(super) fn release(&mut self, work: &mut queues::Ingress) {
        match &mut self.kind {
            Kind::Split(ring) => work.release(ring),
            Kind::Packed(ring) => work.release(ring),
        }
    }

    /// Writes a batch to the ring.
    #[inline]
    pub(super) fn transmit(
        &mut self,
        work: &mut queues::Egress,
        negotiated: Negotiated,
        burst: &Burst,
        batch: &[Egress],
        scratch: &mut Scratch,
        drops: &mut Drops,
    ) -> Result<Sent, RingFault> {
        match &mut self.kind {
            Kind::Split(ring) => write(ring, work, negotiated, burst, batch, scratch, drops),
            Kind::Packed(ring) => write(ring, work, negotiated, burst, batch, scratch, drops),
        }
    }
}

#[inline]
fn write(
    ring: &mut impl Virtqueue,
    work: &mut queues::Egress,
    negotiated: Negotiated,
    burst: &Burst,
    batch: &[Egress],
    scratch: &mut Scratch,
    drops: &mut Drops,
) -> Result<Sent, RingFault> {
    let mut sink = work.open(ring, negotiated, batch.len())?;
    let sent = send_batch(&mut sink, burst, batch, scratch, drops);
    sink.close()?;
    Ok(sent)
}

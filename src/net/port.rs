//! Ports by number, and the frames that a network sends of itself.

/// A port of the engine, whatever its network.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortId(pub u16);

impl PortId {
    /// Returns the number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Frames that nobody asked for by sending one, each with the port it is to leave through: announcements, probes, what
/// protocols between switches say.
#[derive(Debug, Default)]
pub struct OwnFrames {
    /// The frames in the order in which they are to leave.
    pub frames: Vec<(PortId, Vec<u8>)>,
}

impl OwnFrames {
    /// Has a frame sent, from its destination address on.
    pub fn send(&mut self, port: PortId, frame: Vec<u8>) {
        self.frames.push((port, frame));
    }
}

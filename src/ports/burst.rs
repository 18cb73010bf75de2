//! Bursts of frames.
/// A burst.
#[derive(Debug)]
pub struct Burst {}

//! Teams: several uplinks that serve as one.

pub mod lacp;

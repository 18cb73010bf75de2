#![doc = include_str!("architecture.md")]

pub mod control;
pub mod engine;
pub mod net;
pub mod ports;
pub mod wire;

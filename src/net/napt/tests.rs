//! The translator between scripted guests and a scripted outside, packet by packet.

mod behaviour;
mod errors;
mod ftp;
mod hostile;
mod identity;
mod lab;
mod parts;

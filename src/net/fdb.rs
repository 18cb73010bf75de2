//! The forwarding table.

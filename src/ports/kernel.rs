//! Calls to the kernel.

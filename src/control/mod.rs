//! Configuration, plan, state on disk, API and command line.

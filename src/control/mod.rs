//! Configuration, plan, state on disk, API and command line.
//!
//! This layer alone knows TOML, JSON, HTTP and clap. What was typed ([`config::File`]) becomes what it means
//! ([`plan::Plan`]), with every problem reported at once; the plan becomes the engine's specification.

pub mod adopt;
pub mod api;
pub mod args;
pub mod change;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod directory;
pub mod duration;
pub mod flow_log;
pub mod flows;
pub mod forwards;
pub mod host;
pub mod identity;
pub mod import;
pub mod journal;
pub mod manual;
pub mod metrics;
pub mod options;
pub mod plan;
pub mod prefixes;
pub mod problem;
pub mod render;
pub mod section;
pub mod show;
pub mod syntax;
pub mod timestamp;
pub mod uplinks;
pub mod value;

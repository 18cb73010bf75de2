//! `vmlan import`: VMware Workstation's network configuration as one of vmlan's, and a report of what is not in it.
//!
//! Read are `nat.conf` ([`nat_conf`]), `dhcpd.conf` ([`statements`], [`dhcpd_conf`]) and `networking` ([`networking`]),
//! of Workstation on Linux and Windows and of Fusion. Nothing else is looked at, and nothing of Workstation is changed.
//!
//! # Theory of operation
//!
//! Files are [found](sources) and read, each by its own grammar; what they say is [put together](gather) by network;
//! each network becomes a [draft](mod@draft) of ours; drafts are [written](mod@write) as TOML. Every setting on that way is
//! carried over as it was, or is in the [`report`] with its file and line. A file that makes no sense stops the import, with all that
//! makes no sense told at once: half a network is worse than none. Last of all, what was written is read back and
//! planned as `vmlan check` does, so what comes out can be run.

use crate::control::config::File;
use crate::control::directory;
use crate::control::plan::Plan;
use crate::control::problem::{Problems, join};

use self::draft::Draft;
use self::gather::{Contents, Source};
use self::report::{Place, Report};

pub mod command;
pub mod dhcp;
pub mod dhcpd_conf;
pub mod draft;
pub mod gather;
pub mod nat_conf;
pub mod networking;
pub mod report;
pub mod sources;
pub mod statements;
pub mod write;

/// A file to import.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Input {
    /// What it is called.
    pub name: String,
    /// The network that its path names.
    pub network: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// What is in it.
    pub text: String,
}

/// What a file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `nat.conf`.
    Nat,
    /// `dhcpd.conf`.
    Dhcp,
    /// `networking`.
    Networking,
}

/// What was imported.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Imported {
    /// A configuration that passes vmlan's own check.
    pub text: String,
    /// How many networks are in it.
    pub networks: usize,
}

/// Imports files; what is to be said about it is noted. There is nothing where something made no sense.
pub fn import(inputs: &[Input], report: &mut Report) -> Option<Imported> {
    let drafts = drafts(inputs, report);
    let names: Vec<_> = inputs.iter().map(|input| input.name.clone()).collect();
    let text = write::write(&drafts, &names);
    if !report.makes_sense() {
        return None;
    }
    if drafts.is_empty() {
        report.mistake(None, "nothing in these files describes a network");
        return None;
    }
    check(&text, &drafts, report);
    report.makes_sense().then_some(Imported {
        text,
        networks: drafts.len(),
    })
}

fn drafts(inputs: &[Input], report: &mut Report) -> Vec<Draft> {
    let read = |(file, input): (usize, &Input)| {
        let text = input.text.as_str();
        let contents = match input.kind {
            Kind::Nat => Contents::Nat(Box::new(nat_conf::read(text, file, report))),
            Kind::Dhcp => Contents::Dhcp(dhcpd_conf::read(text, file, report)),
            Kind::Networking => Contents::Networking(networking::read(text, file, report)),
        };
        Source {
            file,
            network: input.network.clone(),
            contents,
        }
    };
    let sources: Vec<_> = inputs.iter().enumerate().map(read).collect();
    draft::drafts(&gather::gather(sources, report), report)
}

/// Reads back what was written, and notes what `vmlan check` would refuse.
fn check(text: &str, drafts: &[Draft], report: &mut Report) {
    let mut problems = Problems::default();
    let file = File::read(text, &mut problems);
    let (runtime, state) = (directory::default_runtime(), directory::default_state());
    Plan::new(&file, &runtime, &state, &mut problems);
    for problem in problems.errors() {
        let about = |draft: &&Draft| {
            let path = join("network", &draft.name);
            let rest = problem.path.strip_prefix(&path);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let place: Option<Place> = drafts.iter().find(about).map(|draft| draft.place);
        report.mistake(place, format!("vmlan cannot have this as it is: {problem}"));
    }
}

#[cfg(test)]
mod tests;

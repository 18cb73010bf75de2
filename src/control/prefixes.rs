//! IPv6 prefixes that nobody typed: derived, then kept for good.
//!
//! A prefix is a unique local one (RFC 4193): after `fd` come 40 bits that are a hash of the machine and of the daemon
//! (its state directory), and 16 bits that are a hash of the network's name. So it is the same before the daemon ever ran, and
//! different on another machine. Once the daemon has run it is in `prefixes.json`, and what is there counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use crate::control::directory;
use crate::control::identity::{hash, machine};
use crate::control::plan::Plan;

/// Why the kept prefixes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrefixError {
    /// The file cannot be read.
    #[error(
        "cannot read the IPv6 prefixes in {path}: {source}; run this as the user of the daemon"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file makes no sense.
    #[error(
        "cannot read the IPv6 prefixes in {path}: {reason}; mend the file, or remove it to have them derived again"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file cannot be written.
    #[error(
        "cannot keep the IPv6 prefixes in {path}: {source}; free space or make the directory writable, or set daemon.state_dir to another"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The prefixes of all networks of a plan that have IPv6.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Prefixes {
    typed: BTreeMap<String, Ipv6Net>,
    kept: BTreeMap<String, Ipv6Net>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    prefixes: BTreeMap<String, Ipv6Net>,
}

impl Prefixes {
    /// Finds the prefix of every network in the plan: typed, kept or derived.
    ///
    /// # Errors
    ///
    /// The kept prefixes cannot be read.
    pub fn load(plan: &Plan) -> Result<Self, PrefixError> {
        let path = file(plan);
        let kept = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::default()),
            Err(source) => return Err(PrefixError::Read { path, source }),
        };
        let odd = |kept: &Kept| {
            let mut kept = kept.prefixes.values();
            let odd = kept.find(|net| net.prefix_len() != 64 || net.trunc() != **net)?;
            Some(format!("{odd} is not a prefix of 64 bits"))
        };
        match kept.and_then(|kept| odd(&kept).map_or(Ok(kept), Err)) {
            Ok(kept) => Ok(Self::assign(plan, kept.prefixes, &machine())),
            Err(reason) => Err(PrefixError::Format { path, reason }),
        }
    }

    /// Keeps the prefixes, if there are any.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, plan: &Plan) -> Result<(), PrefixError> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let path = file(plan);
        let kept = Kept {
            prefixes: self.kept.clone(),
        };
        directory::keep(&path, &kept).map_err(|source| PrefixError::Write { path, source })
    }

    /// Returns the prefix of a network, if it has IPv6.
    pub fn of(&self, network: &str) -> Option<Ipv6Net> {
        let typed = self.typed.get(network);
        typed.or_else(|| self.kept.get(network)).copied()
    }

    fn assign(plan: &Plan, kept: BTreeMap<String, Ipv6Net>, machine: &str) -> Self {
        let networks = || {
            let networks = plan.networks.iter();
            networks.filter_map(|network| Some((&network.name, network.ipv6?)))
        };
        let typed: BTreeMap<_, _> = networks()
            .filter_map(|(name, ipv6)| Some((name.clone(), ipv6.prefix?)))
            .collect();
        let mut taken: BTreeSet<_> = typed.values().chain(kept.values()).copied().collect();
        let mut prefixes = Self { typed, kept };
        let daemon = plan.state_dir.to_string_lossy();
        let global = hash(&[machine, &daemon]);
        for (name, _) in networks().filter(|(_, ipv6)| ipv6.prefix.is_none()) {
            if prefixes.kept.contains_key(name) {
                continue;
            }
            let free = (0..=u32::from(u16::MAX))
                .map(|attempt| derive(global, &[name, &attempt.to_string()]))
                .find(|prefix| !taken.contains(prefix));
            // There are as many as there are numbers of subnets, and hardly as many networks.
            let Some(prefix) = free else { continue };
            taken.insert(prefix);
            prefixes.kept.insert(name.clone(), prefix);
        }
        prefixes
    }
}

/// Makes a prefix of the hash that all of a daemon have in common, and of the parts that tell them apart.
fn derive(global: u64, parts: &[&str]) -> Ipv6Net {
    let global = global ^ (global >> 40);
    let subnet = hash(parts);
    let subnet = subnet ^ (subnet >> 16) ^ (subnet >> 32) ^ (subnet >> 48);
    let [_, _, _, a, b, c, d, e] = global.to_be_bytes();
    let [.., f, g] = subnet.to_be_bytes();
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&[0xfd, a, b, c, d, e, f, g]);
    Ipv6Net::new_assert(Ipv6Addr::from(octets), 64)
}

fn file(plan: &Plan) -> PathBuf {
    plan.state_dir.join("prefixes.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::File;
    use crate::control::problem::Problems;
    use std::path::Path;

    fn plan(text: &str, state: &Path) -> Plan {
        let mut problems = Problems::default();
        let file = File::read(text, &mut problems);
        let plan = Plan::new(&file, Path::new("/run/vmlan"), state, &mut problems);
        assert!(problems.is_empty(), "{:?}", problems.errors());
        plan
    }

    const TWO: &str = "[network.a]\nmode = \"nat\"\nsubnet = \"10.0.0.0/24\"\n[network.b]\nmode = \"nat\"\nsubnet = \"10.0.1.0/24\"\n";

    fn of(text: &str, state: &str, machine: &str) -> [Option<Ipv6Net>; 2] {
        let prefixes = Prefixes::assign(&plan(text, Path::new(state)), BTreeMap::new(), machine);
        [prefixes.of("a"), prefixes.of("b")]
    }

    #[test]
    fn the_derivation_never_changes() {
        let [a, b] = of(TWO, "/var/lib/vmlan", "machine").map(|net| net.unwrap().to_string());
        assert_eq!(
            (a.as_str(), b.as_str()),
            ("fd1d:8c66:727f:ff1e::/64", "fd1d:8c66:727f:63e5::/64")
        );
    }

    #[test]
    fn networks_of_a_daemon_share_48_bits_and_those_of_others_do_not() {
        let global = |net: Option<Ipv6Net>| net.unwrap().network().to_bits() >> 80;
        let [a, b] = of(TWO, "/s", "one");
        assert_ne!(a, b);
        assert_eq!(global(a), global(b));
        assert_eq!(a.unwrap().network().octets()[0], 0xfd);
        for (state, machine) in [("/t", "one"), ("/s", "two")] {
            assert_ne!(global(of(TWO, state, machine)[0]), global(a));
        }
    }

    #[test]
    fn a_typed_prefix_is_the_networks_and_no_other_gets_it() {
        let [_, derived] = of(TWO, "/s", "one");
        let derived = derived.unwrap();
        let text = TWO.replacen(
            "[network.b]",
            &format!("ipv6.prefix = \"{derived}\"\n[network.b]"),
            1,
        );
        let [a, b] = of(&text, "/s", "one");
        assert_eq!(a, Some(derived));
        assert!(b.is_some_and(|b| b != derived));
    }

    #[test]
    fn a_network_without_ipv6_has_none() {
        let text = format!("{TWO}ipv6 = false\n");
        assert_eq!(of(&text, "/s", "one")[1], None);
    }

    #[test]
    fn what_was_kept_counts() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(TWO, dir.path());
        let before = Prefixes::load(&plan).unwrap();
        before.save(&plan).unwrap();
        assert_eq!(Prefixes::load(&plan).unwrap(), before);
        let text = "{\"prefixes\":{\"a\":\"fd00::/64\"}}";
        std::fs::write(dir.path().join("prefixes.json"), text).unwrap();
        let kept = Prefixes::load(&plan).unwrap();
        assert_eq!(kept.of("a"), Some("fd00::/64".parse().unwrap()));
    }

    #[test]
    fn a_broken_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["{", "{\"prefixes\":{\"a\":\"fd00::/48\"}}"] {
            std::fs::write(dir.path().join("prefixes.json"), text).unwrap();
            let loaded = Prefixes::load(&plan(TWO, dir.path()));
            assert!(matches!(loaded, Err(PrefixError::Format { .. })), "{text}");
        }
    }
}

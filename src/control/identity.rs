//! Hardware addresses that nobody typed: derived, then kept for good.
//!
//! An address is a hash of the machine, of the daemon (its state directory) and of the port's name, with the bit
//! set that says it is locally administered. So it is the same before the daemon ever ran, and different on
//! another machine of the same LAN. Once the daemon has run it is in `macs.json`, and what is there counts: not
//! even another version, or the state on another machine, changes it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::control::directory;
use crate::control::plan::Plan;
use crate::control::plan::nat::Outside;
use crate::wire::ethernet::MacAddr;

/// Where a machine says who it is, the best first.
const MACHINE: [&str; 3] = [
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/proc/sys/kernel/hostname",
];

/// Why the kept addresses cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error(
        "cannot read the MAC addresses in {path}: {source}; run this as the user of the daemon"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file makes no sense.
    #[error(
        "cannot read the MAC addresses in {path}: {source}; mend the file, or remove it to have them derived again"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file cannot be written.
    #[error(
        "cannot keep the MAC addresses in {path}: {source}; free space or make the directory writable, or set daemon.state_dir to another"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An address was typed for one port and is kept for another.
    #[error(
        "cannot give {mac} to {kept}: the file gives it to another VM; change one, or remove the line from {path}"
    )]
    Taken {
        /// The address.
        mac: MacAddr,
        /// The port it is kept for.
        kept: String,
        /// The file.
        path: PathBuf,
    },
}

/// The addresses of all ports of a plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Macs {
    typed: BTreeMap<String, MacAddr>,
    kept: BTreeMap<String, MacAddr>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    macs: BTreeMap<String, MacAddr>,
}

impl Macs {
    /// Finds the address of every port in the plan: typed, kept or derived.
    ///
    /// # Errors
    ///
    /// The kept addresses cannot be read, or contradict the plan.
    pub fn load(plan: &Plan) -> Result<Self, IdentityError> {
        let path = file(plan);
        let kept = match std::fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| IdentityError::Format {
                    path: path.clone(),
                    source,
                })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(source) => return Err(IdentityError::Read { path, source }),
        };
        Self::assign(plan, kept.macs, &machine())
    }

    /// Keeps the addresses.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn save(&self, plan: &Plan) -> Result<(), IdentityError> {
        let path = file(plan);
        let kept = Kept {
            macs: self.kept.clone(),
        };
        directory::keep(&path, &kept).map_err(|source| IdentityError::Write { path, source })
    }

    /// Returns the address of a VM of the plan.
    pub fn vm(&self, name: &str) -> MacAddr {
        let typed = self.typed.get(name).copied();
        typed.unwrap_or_else(|| self.find(&key("vm", name)))
    }

    /// Returns the address of a network's gateway.
    pub fn gateway(&self, network: &str) -> MacAddr {
        self.find(&key("gateway", network))
    }

    /// Returns the address of a network's host adapter.
    pub fn host(&self, network: &str) -> MacAddr {
        self.find(&key("host", network))
    }

    /// Returns the address of the host adapter in a port group of a network.
    pub fn host_in(&self, network: &str, port_group: &str) -> MacAddr {
        self.find(&key("host", &format!("{network}/{port_group}")))
    }

    /// Returns the address by which a network's team is known to its neighbours.
    pub fn team(&self, network: &str) -> MacAddr {
        self.find(&key("team", network))
    }

    /// Returns the address by which a network's NAT is known in the network that it leads to.
    pub fn nat(&self, network: &str) -> MacAddr {
        self.find(&key("nat", network))
    }

    fn find(&self, key: &str) -> MacAddr {
        self.kept.get(key).copied().unwrap_or_default()
    }

    fn assign(
        plan: &Plan,
        kept: BTreeMap<String, MacAddr>,
        machine: &str,
    ) -> Result<Self, IdentityError> {
        let typed: BTreeMap<_, _> = plan
            .vms
            .iter()
            .filter_map(|vm| Some((vm.name.clone(), vm.mac?)))
            .collect();
        let derived = plan
            .vms
            .iter()
            .filter(|vm| vm.mac.is_none())
            .map(|vm| key("vm", &vm.name));
        let gateways = plan
            .networks
            .iter()
            .filter(|network| network.subnet.is_some())
            .map(|network| key("gateway", &network.name));
        let hosts = plan
            .networks
            .iter()
            .filter(|network| network.host_adapter.is_some())
            .map(|network| key("host", &network.name));
        let hosts_in = plan.networks.iter().flat_map(|network| {
            let groups = network.port_groups.iter();
            groups
                .filter(|group| group.host_adapter.is_some())
                .map(|group| key("host", &format!("{}/{}", network.name, group.name)))
        });
        let teams = plan
            .networks
            .iter()
            .filter(|network| network.team.is_some())
            .map(|network| key("team", &network.name));
        let nats = plan.networks.iter().filter(|network| {
            let nat = network.nat.as_ref();
            nat.is_some_and(|nat| matches!(nat.outside, Outside::Network(_)))
        });
        let nats = nats.map(|network| key("nat", &network.name));
        let others = gateways.chain(hosts).chain(hosts_in).chain(teams);
        let others = others.chain(nats);
        let wanted: Vec<_> = derived.chain(others).collect();
        let mut taken: BTreeSet<_> = typed.values().copied().collect();
        if let Some((kept, mac)) = wanted
            .iter()
            .filter_map(|key| kept.get_key_value(key))
            .find(|(_, mac)| taken.contains(mac))
        {
            return Err(IdentityError::Taken {
                mac: *mac,
                kept: kept.clone(),
                path: file(plan),
            });
        }
        taken.extend(kept.values().copied());
        let mut macs = Self { typed, kept };
        for key in wanted {
            if macs.kept.contains_key(&key) {
                continue;
            }
            let daemon = plan.state_dir.to_string_lossy();
            let free = (0..u32::MAX)
                .map(|attempt| derive(&[machine, &daemon, &key, &attempt.to_string()]))
                .find(|mac| !taken.contains(mac));
            let mac = free.expect("there are more addresses than names");
            taken.insert(mac);
            macs.kept.insert(key, mac);
        }
        Ok(macs)
    }
}

fn key(kind: &str, name: &str) -> String {
    format!("{kind}/{name}")
}

fn file(plan: &Plan) -> PathBuf {
    plan.state_dir.join("macs.json")
}

/// Returns what the machine calls itself.
pub(in crate::control) fn machine() -> String {
    let read = |path: &&str| {
        std::fs::read_to_string(Path::new(path))
            .ok()
            .map(|text| text.trim().to_owned())
    };
    MACHINE
        .iter()
        .filter_map(read)
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

/// Hashes the parts: FNV-1a with 64 bits.
pub(in crate::control) fn hash(parts: &[&str]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// Hashes the parts to a locally administered address: folded to 40 bits, behind 02.
fn derive(parts: &[&str]) -> MacAddr {
    let hash = hash(parts);
    let folded = hash ^ (hash >> 40);
    let [_, _, _, a, b, c, d, e] = folded.to_be_bytes();
    MacAddr([0x02, a, b, c, d, e])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config::File;
    use crate::control::problem::Problems;

    fn plan(text: &str, state: &Path) -> Plan {
        let mut problems = Problems::default();
        let file = File::read(text, &mut problems);
        let plan = Plan::new(&file, Path::new("/run/vmlan"), state, &mut problems);
        assert!(problems.is_empty(), "{:?}", problems.errors());
        plan
    }

    const TWO: &str = "[network.a]\nmode = \"isolated\"\nsubnet = \"10.0.0.0/24\"\n[vm.x]\nnetwork = \"a\"\n[vm.y]\nnetwork = \"a\"\n";

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(
            derive(&["machine", "/var/lib/vmlan", "vm/web1", "0"]).to_string(),
            "02:bf:c6:35:b5:9d"
        );
        assert_eq!(derive(&[]).to_string(), "02:e4:84:e9:d1:b9");
    }

    #[test]
    fn addresses_differ_between_ports_machines_and_daemons() {
        let one = Macs::assign(&plan(TWO, Path::new("/s")), BTreeMap::new(), "one").unwrap();
        let two = Macs::assign(&plan(TWO, Path::new("/s")), BTreeMap::new(), "two").unwrap();
        let other = Macs::assign(&plan(TWO, Path::new("/t")), BTreeMap::new(), "one").unwrap();
        let all: BTreeSet<_> = [&one, &two, &other]
            .iter()
            .flat_map(|macs| [macs.vm("x"), macs.vm("y"), macs.gateway("a")])
            .collect();
        assert_eq!(all.len(), 9);
        assert!(all.iter().all(|mac| mac.is_station() && mac.0[0] == 2));
    }

    #[test]
    fn teams_and_the_host_in_port_groups_have_addresses_of_their_own() {
        let text = "[network.a]\nmode = \"bridged\"\nteam.active = [\"e\"]\nhost_adapter = \"vmk0\"\nport_group.g.host_adapter = \"vmk1\"\n";
        let plan = plan(text, Path::new("/s"));
        let macs = Macs::assign(&plan, BTreeMap::new(), "m").unwrap();
        let keys: Vec<_> = macs.kept.keys().map(String::as_str).collect();
        assert_eq!(keys, ["host/a", "host/a/g", "team/a"]);
        let all = BTreeSet::from([macs.host("a"), macs.host_in("a", "g"), macs.team("a")]);
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|mac| mac.is_station()));
    }

    #[test]
    fn what_was_kept_counts_and_a_derived_address_stays_once_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(TWO, dir.path());
        let before = Macs::load(&plan).unwrap();
        before.save(&plan).unwrap();
        assert_eq!(Macs::load(&plan).unwrap(), before);
        let kept = BTreeMap::from([(key("vm", "x"), MacAddr([2, 0, 0, 0, 0, 9]))]);
        assert_eq!(
            Macs::assign(&plan, kept, "elsewhere").unwrap().vm("x"),
            MacAddr([2, 0, 0, 0, 0, 9])
        );
    }

    #[test]
    fn a_typed_address_is_not_given_to_another() {
        let text = format!("{TWO}mac = \"02:00:00:00:00:09\"\n");
        let kept = BTreeMap::from([(key("vm", "x"), MacAddr([2, 0, 0, 0, 0, 9]))]);
        let error = Macs::assign(&plan(&text, Path::new("/s")), kept, "m").unwrap_err();
        assert!(matches!(error, IdentityError::Taken { .. }), "{error}");
    }

    #[test]
    fn a_directory_that_takes_no_file_is_an_error_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("macs.json.new")).unwrap();
        let plan = plan(TWO, dir.path());
        let error = Macs::load(&plan).unwrap().save(&plan).unwrap_err();
        assert!(
            error.to_string().contains("set daemon.state_dir"),
            "{error}"
        );
    }

    #[test]
    fn a_broken_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("macs.json"), "{").unwrap();
        assert!(matches!(
            Macs::load(&plan(TWO, dir.path())),
            Err(IdentityError::Format { .. })
        ));
    }
}

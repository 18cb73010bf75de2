//! Adoption on a host that is made up, and that fails wherever a test wants it to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use proptest::prelude::*;
use tempfile::TempDir;

use super::carry::OWN_ALONE;
use super::host::{Change, Host, Link, ReadError};
use super::record::{Address, Adoption, Baggage, Record, Route, Stage};
use super::request::{Request, planned_uplinks};
use super::{AdoptError, Adopter, RETRY, WATCH};
use crate::control::config::File;
use crate::control::plan::Plan;
use crate::control::problem::Problems;
use crate::net::Now;

const START: u64 = 1_800_000_000;

/// An adapter: what it has, and what it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Adapter {
    down: bool,
    addresses: BTreeMap<String, Address>,
    routes: BTreeMap<String, Route>,
    arp_ignore: u8,
    index: u32,
}

/// The host, which follows the kernel's rules that matter here.
#[derive(Clone, Default)]
struct World {
    adapters: BTreeMap<String, Adapter>,
    /// How many changes were asked for.
    asked: usize,
    /// Which of them fail.
    failing: BTreeSet<usize>,
    /// Whether all do from the first of these on.
    for_good: bool,
    greeted: Vec<(String, Option<IpAddr>, IpAddr)>,
}

impl World {
    fn addresses(&self) -> BTreeSet<String> {
        let adapters = self.adapters.values();
        adapters
            .flat_map(|one| one.addresses.keys().cloned())
            .collect()
    }

    fn change(&mut self, change: &Change) -> io::Result<bool> {
        let index = self.asked;
        self.asked += 1;
        let first = self.failing.first().copied().unwrap_or(usize::MAX);
        if self.failing.contains(&index) || self.for_good && index >= first {
            return Err(io::Error::other("injected"));
        }
        let (Change::AddAddress(name, _)
        | Change::RemoveAddress(name, _)
        | Change::AddRoute(name, _)
        | Change::RemoveRoute(name, _)
        | Change::ArpIgnore(name, _, _)) = change;
        let Some(adapter) = self.adapters.get_mut(name) else {
            return match change {
                Change::RemoveAddress(..) | Change::RemoveRoute(..) => Ok(false),
                Change::AddAddress(..) | Change::AddRoute(..) | Change::ArpIgnore(..) => {
                    Err(io::ErrorKind::NotFound.into())
                }
            };
        };
        let key = |address: &Address| address.net.to_string();
        Ok(match change {
            Change::AddAddress(_, address) => {
                let known = adapter.addresses.contains_key(&key(address));
                if !known {
                    adapter.addresses.insert(key(address), address.clone());
                }
                !known
            }
            Change::RemoveAddress(_, address) => {
                let removed = adapter.addresses.remove(&key(address)).is_some();
                // With the last IPv4 address go all IPv4 routes.
                if !adapter
                    .addresses
                    .values()
                    .any(|one| one.net.addr().is_ipv4())
                {
                    adapter
                        .routes
                        .retain(|_, route| route.destination.addr().is_ipv6());
                }
                removed
            }
            Change::AddRoute(_, route) => {
                let family = route.destination.addr().is_ipv4();
                let reaches = |one: &Address| one.net.addr().is_ipv4() == family;
                if !adapter.addresses.values().any(reaches) {
                    return Err(io::ErrorKind::NetworkUnreachable.into());
                }
                adapter
                    .routes
                    .insert(route.to_string(), route.clone())
                    .is_none()
            }
            Change::RemoveRoute(_, route) => adapter.routes.remove(&route.to_string()).is_some(),
            Change::ArpIgnore(_, _, level) => {
                adapter.arp_ignore = *level;
                true
            }
        })
    }
}

/// The host, as the adopter and the test share it.
#[derive(Clone)]
struct Simulated(Arc<Mutex<World>>);

impl Simulated {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }
}

impl Host for Simulated {
    fn link(&mut self, adapter: &str) -> io::Result<Option<Link>> {
        Ok(self.world().adapters.get(adapter).map(|one| Link {
            index: one.index,
            up: !one.down,
        }))
    }

    fn read(&mut self, adapter: &str, _now: SystemTime) -> Result<Baggage, ReadError> {
        let world = self.world();
        let adapter = world.adapters.get(adapter);
        let adapter = adapter.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        if let Some(route) = adapter.routes.get("strange") {
            return Err(ReadError::Route {
                route: route.to_string(),
                reason: "is strange",
            });
        }
        let mut baggage = Baggage {
            addresses: adapter.addresses.values().cloned().collect(),
            routes: adapter.routes.values().cloned().collect(),
        };
        baggage.sort();
        Ok(baggage)
    }

    fn neighbours(&mut self, _adapter: &str) -> Vec<IpAddr> {
        vec!["fe80::7".parse().unwrap()]
    }

    fn arp_ignore(&mut self, adapter: &str) -> Option<u8> {
        Some(self.world().adapters.get(adapter)?.arp_ignore)
    }

    fn change(&mut self, change: &Change, _now: SystemTime) -> io::Result<bool> {
        let mut world = self.world();
        let before = world.addresses();
        let changed = world.change(change);
        assert!(
            before.is_subset(&world.addresses()) || !world.adapters.contains_key("vmnet0"),
            "the host loses an address: {change}"
        );
        changed
    }

    fn greet(&mut self, adapter: &str, source: Option<IpAddr>, neighbour: IpAddr) {
        let greeted = (adapter.to_owned(), source, neighbour);
        self.world().greeted.push(greeted);
    }
}

fn address(net: &str) -> Address {
    Address {
        net: net.parse().unwrap(),
        peer: None,
        broadcast: None,
        flags: 0,
        metric: None,
        valid_until: None,
        preferred_until: None,
    }
}

fn route(destination: &str, gateway: Option<&str>) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        table: 254,
        tos: 0,
        protocol: 3,
        scope: 0,
        gateway: gateway.map(|ip| ip.parse().unwrap()),
        onlink: false,
        source: None,
        metric: Some(100),
        preference: None,
        metrics: BTreeMap::new(),
        until: None,
    }
}

fn plan() -> Plan {
    let text = "
        [network.lan]
        mode = \"bridged\"
        team.active = [\"eth1\"]
        host_adapter = \"vmnet0\"
        [network.bare]
        mode = \"bridged\"
        team.active = [\"eth2\"]
        [network.lab]
        mode = \"isolated\"
    ";
    planned(text)
}

fn planned(text: &str) -> Plan {
    let mut problems = Problems::default();
    let file = File::read(text, &mut problems);
    let (runtime, state) = (Path::new("/run/vmlan"), Path::new("/var/lib/vmlan"));
    let plan = Plan::new(&file, runtime, state, &mut problems);
    assert_eq!(problems.errors(), []);
    plan
}

fn request() -> Request {
    Request {
        interface: "eth1".to_owned(),
        network: "lan".to_owned(),
        port_group: None,
        timeout_s: Some(60),
    }
}

/// A host with an uplink and a host adapter, a daemon's state, and a clock.
struct Site {
    host: Simulated,
    adopter: Adopter,
    state: TempDir,
    start: Instant,
    seconds: u64,
}

impl Site {
    fn new() -> Self {
        let mut eth1 = Adapter::default();
        for net in ["10.0.0.5/24", "10.0.0.6/24", "fd00::5/64"] {
            eth1.addresses.insert(net.to_owned(), address(net));
        }
        for route in [
            route("0.0.0.0/0", Some("10.0.0.1")),
            route("192.0.2.0/24", None),
            route("::/0", Some("fe80::1")),
        ] {
            eth1.routes.insert(route.to_string(), route);
        }
        let adapters = [
            ("eth1", eth1),
            ("vmnet0", Adapter::default()),
            ("eth2", Adapter::default()),
        ];
        let world = World {
            adapters: adapters
                .map(|(name, adapter)| (name.to_owned(), adapter))
                .into(),
            ..World::default()
        };
        let host = Simulated(Arc::new(Mutex::new(world)));
        let state = tempfile::tempdir().unwrap();
        Self {
            adopter: Adopter::open(Box::new(host.clone()), state.path()).unwrap(),
            host,
            state,
            start: Instant::now(),
            seconds: 0,
        }
    }

    fn now(&self) -> Now {
        Now {
            instant: self.start + Duration::from_secs(self.seconds),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(START + self.seconds),
        }
    }

    fn adopt(&mut self) -> Result<Adoption, AdoptError> {
        let now = self.now();
        self.adopter.adopt(&plan(), &["eth1"], &request(), now)
    }

    fn confirm(&mut self) -> Result<Adoption, AdoptError> {
        let now = self.now();
        self.adopter.confirm(now)
    }

    fn advance(&mut self, seconds: u64) {
        self.seconds += seconds;
        let now = self.now();
        self.adopter.handle_timeout(now);
    }

    /// Starts another daemon; `killed` took its host adapter with it.
    fn restart(&mut self, killed: bool) {
        let now = self.now();
        if !killed {
            self.adopter.rest_all(now);
        }
        self.host.world().adapters.remove("vmnet0");
        self.host.world().failing.clear();
        self.adopter = Adopter::open(Box::new(self.host.clone()), self.state.path()).unwrap();
        self.adopter.rest_all(now);
        let mut world = self.host.world();
        world
            .adapters
            .insert("vmnet0".to_owned(), Adapter::default());
    }

    fn resume(&mut self, plan: &Plan) {
        let now = self.now();
        self.adopter.resume(plan, now);
    }

    fn fail(&self, at: impl IntoIterator<Item = usize>, for_good: bool) {
        let mut world = self.host.world();
        world.asked = 0;
        world.failing = at.into_iter().collect();
        world.for_good = for_good;
    }

    fn heal(&self) {
        self.fail([], false);
    }

    fn adapters(&self) -> BTreeMap<String, Adapter> {
        self.host.world().adapters.clone()
    }

    fn adapter(&self, name: &str) -> Adapter {
        self.adapters()[name].clone()
    }

    fn stages(&self) -> Vec<Stage> {
        self.adopter
            .adoptions()
            .iter()
            .map(|one| one.stage)
            .collect()
    }

    fn record(&self) -> Vec<Adoption> {
        Record::new(self.state.path()).load().unwrap()
    }
}

/// How many changes a whole adoption is: three addresses and three routes on two adapters, and ARP.
const STEPS: usize = 13;

#[test]
fn everything_moves_and_the_neighbours_are_told() {
    let mut site = Site::new();
    let before = site.adapters();
    let adoption = site.adopt().unwrap();
    assert_eq!(
        (adoption.stage, adoption.until),
        (Stage::Pending, Some(START + 60))
    );
    let (eth1, vmnet0) = (site.adapter("eth1"), site.adapter("vmnet0"));
    assert_eq!(vmnet0.addresses, before["eth1"].addresses);
    assert_eq!(vmnet0.routes, before["eth1"].routes);
    assert!(eth1.addresses.is_empty() && eth1.routes.is_empty());
    assert_eq!((eth1.arp_ignore, vmnet0.arp_ignore), (OWN_ALONE, 0));
    assert_eq!(site.host.world().asked, STEPS);
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let greeted = site.host.world().greeted.clone();
    let expected = [
        (Some(ip("10.0.0.5")), ip("10.0.0.1")),
        (Some(ip("10.0.0.6")), ip("10.0.0.2")),
        (None, ip("fe80::1")),
        (None, ip("fe80::7")),
    ];
    assert_eq!(
        greeted,
        expected.map(|(source, to)| ("vmnet0".to_owned(), source, to))
    );
}

#[test]
fn a_move_that_fails_at_any_step_leaves_the_host_as_it_was() {
    for step in 0..STEPS {
        let mut site = Site::new();
        let before = site.adapters();
        site.fail([step], false);
        let result = site.adopt();
        if step == STEPS / 2 {
            assert!(
                result.is_ok(),
                "an adapter may answer ARP for others, if it must"
            );
            continue;
        }
        let error = result.unwrap_err().to_string();
        assert!(
            error.ends_with(": injected; everything is as it was"),
            "{error}"
        );
        assert_eq!(site.adapters(), before, "step {step}");
        assert_eq!(site.stages(), []);
        assert_eq!(site.record().len(), 0);
    }
}

#[test]
fn a_move_that_can_neither_go_on_nor_back_is_tried_to_be_undone_until_it_is() {
    for step in 0..STEPS {
        let mut site = Site::new();
        let before = site.adapters();
        site.fail([step], true);
        let result = site.adopt();
        if step == 0 {
            assert!(result.is_err() && site.stages().is_empty());
            continue;
        }
        let error = result.unwrap_err().to_string();
        assert!(error.contains("not everything could be undone"), "{error}");
        assert_eq!(site.stages(), [Stage::Returning]);
        let busy = site.adopt().unwrap_err().to_string();
        assert!(busy.contains("still being undone"), "{busy}");
        assert!(site.confirm().is_err());
        site.advance(RETRY.as_secs());
        assert_eq!(site.stages(), [Stage::Returning], "and fails again");
        site.heal();
        site.advance(RETRY.as_secs());
        assert_eq!(site.adapters(), before, "step {step}");
        assert_eq!((site.stages(), site.record().len()), (Vec::new(), 0));
    }
}

#[test]
fn what_is_not_confirmed_in_time_goes_back_and_not_before() {
    let mut site = Site::new();
    let before = site.adapters();
    site.adopt().unwrap();
    assert_eq!(
        site.adopter.poll_timeout(),
        Some(site.start + Duration::from_secs(60))
    );
    site.advance(59);
    assert_eq!(site.stages(), [Stage::Pending]);
    site.advance(1);
    assert_eq!(site.adapters(), before);
    assert_eq!((site.stages(), site.record().len()), (Vec::new(), 0));
    assert_eq!(site.adopter.poll_timeout(), None);
    let error = site.confirm().unwrap_err().to_string();
    assert!(error.contains("none is pending"), "{error}");
}

#[test]
fn a_way_back_that_fails_at_any_step_puts_back_the_rest_and_then_that() {
    for step in 0..STEPS {
        let mut site = Site::new();
        let before = site.adapters();
        site.adopt().unwrap();
        site.fail([step], false);
        let now = site.now();
        let undone = site.adopter.undo(None, now);
        if step == STEPS / 2 {
            assert!(undone.is_ok(), "arp_ignore is left as it is, if it must");
            continue;
        }
        let error = undone.unwrap_err().to_string();
        assert!(
            error.contains("injected") && error.ends_with("; it is tried again every 5 seconds"),
            "{error}"
        );
        assert_eq!(site.record()[0].stage, Stage::Returning);
        site.advance(RETRY.as_secs());
        assert_eq!(site.adapters(), before, "step {step}");
        assert_eq!((site.stages(), site.record().len()), (Vec::new(), 0));
    }
}

#[test]
fn what_is_confirmed_stays_and_moves_with_the_daemon() {
    let mut site = Site::new();
    let before = site.adapters();
    site.adopt().unwrap();
    assert_eq!(site.confirm().unwrap().stage, Stage::Confirmed);
    site.advance(3600);
    let adopted = site.adapters();
    assert_eq!(site.adapter("vmnet0").addresses, before["eth1"].addresses);

    site.restart(false);
    assert_eq!(site.adapters(), before);
    assert_eq!(site.record()[0].stage, Stage::Resting);
    site.resume(&plan());
    assert_eq!(site.adapters(), adopted);
    assert_eq!(site.record()[0].stage, Stage::Confirmed);

    site.restart(true);
    assert_eq!(site.adapters(), before, "they went with the host adapter");
    site.resume(&plan());
    assert_eq!(site.adapters(), adopted);

    let now = site.now();
    assert!(site.adopter.undo(Some("eth2"), now).is_err());
    site.adopter.undo(Some("eth1"), now).unwrap();
    assert_eq!(site.adapters(), before);
    let error = site.adopter.undo(None, now).unwrap_err().to_string();
    assert!(error.contains("nothing is adopted"), "{error}");
}

#[test]
fn what_a_killed_daemon_left_at_any_step_is_made_anew_from_the_record() {
    for step in 1..STEPS {
        let mut site = Site::new();
        let before = site.adapters();
        site.fail([step], true);
        site.adopt().unwrap_err();
        // The record says what it said before the first step.
        site.restart(true);
        site.resume(&plan());
        assert_eq!(site.adapters(), before, "step {step}");
        assert_eq!((site.stages(), site.record().len()), (Vec::new(), 0));
    }
}

#[test]
fn what_cannot_be_taken_again_stays_at_the_adapter_and_is_taken_the_next_time() {
    for step in 0..STEPS {
        let mut site = Site::new();
        let before = site.adapters();
        site.adopt().unwrap();
        site.confirm().unwrap();
        let adopted = site.adapters();
        site.restart(false);
        site.fail([step], false);
        site.resume(&plan());
        if step == STEPS / 2 {
            continue;
        }
        assert_eq!(site.adapters(), before, "step {step}");
        assert_eq!(site.stages(), [Stage::Resting]);
        site.restart(false);
        site.resume(&plan());
        assert_eq!(site.adapters(), adopted);
    }
}

#[test]
fn an_address_that_was_changed_while_no_daemon_ran_is_the_one_that_is_taken() {
    let mut site = Site::new();
    site.adopt().unwrap();
    site.confirm().unwrap();
    let now = site.now();
    site.adopter.rest_all(now);
    {
        let mut world = site.host.world();
        let eth1 = world.adapters.get_mut("eth1").unwrap();
        eth1.addresses.remove("10.0.0.5/24");
        eth1.addresses
            .insert("10.0.0.9/24".to_owned(), address("10.0.0.9/24"));
    }
    let changed = site.adapter("eth1");
    site.restart(true);
    assert_eq!(site.adapter("eth1"), changed);
    site.resume(&plan());
    let taken: Vec<_> = site.adapter("vmnet0").addresses.into_keys().collect();
    assert_eq!(taken, ["10.0.0.6/24", "10.0.0.9/24", "fd00::5/64"]);
}

#[test]
fn an_adapter_that_has_lost_its_addresses_while_the_machine_was_off_gets_them_back_first() {
    let mut site = Site::new();
    let before = site.adapter("eth1");
    site.adopt().unwrap();
    site.confirm().unwrap();
    let now = site.now();
    site.adopter.rest_all(now);
    {
        let mut world = site.host.world();
        world.adapters.insert("eth1".to_owned(), Adapter::default());
    }
    site.restart(true);
    assert_eq!(site.adapter("eth1"), before);
}

#[test]
fn what_was_confirmed_is_taken_from_the_record_where_the_adapter_cannot_have_it() {
    let mut site = Site::new();
    site.adopt().unwrap();
    site.confirm().unwrap();
    let adopted = site.adapter("vmnet0");
    let eth1 = site.host.world().adapters.remove("eth1").unwrap();
    site.restart(true);
    assert_eq!(site.stages(), [Stage::Confirmed]);
    site.resume(&plan());
    assert_eq!(site.adapter("vmnet0"), adopted);
    site.host.world().adapters.insert("eth1".to_owned(), eth1);
    let now = site.now();
    site.adopter.undo(None, now).unwrap();
    assert_eq!(site.adapter("eth1").addresses, adopted.addresses);
}

#[test]
fn an_adoption_that_the_configuration_has_no_place_for_is_undone() {
    let mut site = Site::new();
    let before = site.adapters();
    site.adopt().unwrap();
    site.confirm().unwrap();
    let other = planned("[network.lan]\nmode = \"bridged\"\nteam.active = [\"eth1\"]\n");
    site.restart(true);
    site.resume(&other);
    assert_eq!(site.adapters(), before);
    assert_eq!(site.record().len(), 0);
}

#[test]
fn an_address_that_ended_is_not_made_again_and_one_that_was_prolonged_is() {
    let mut site = Site::new();
    let lease = |until| Address {
        valid_until: Some(START + until),
        preferred_until: Some(START + until),
        ..address("10.0.0.6/24")
    };
    let set = |site: &Site, adapter: &str, lease: Option<Address>| {
        let mut world = site.host.world();
        let adapter = world.adapters.get_mut(adapter).unwrap();
        adapter.addresses.remove("10.0.0.6/24");
        let lease = lease.map(|lease| ("10.0.0.6/24".to_owned(), lease));
        adapter.addresses.extend(lease);
    };
    for prolonged in [false, true] {
        set(&site, "eth1", Some(lease(100)));
        site.seconds = 0;
        site.adopt().unwrap();
        site.confirm().unwrap();
        site.seconds = 200;
        set(&site, "vmnet0", prolonged.then(|| lease(300)));
        let now = site.now();
        site.adopter.undo(None, now).unwrap();
        let found = site.adapter("eth1").addresses.get("10.0.0.6/24").cloned();
        assert_eq!(found, prolonged.then(|| lease(300)));
    }
}

#[test]
fn nothing_is_touched_where_it_cannot_be_noted() {
    let mut site = Site::new();
    let before = site.adapters();
    let state = site.state.path().to_owned();
    std::fs::create_dir(state.join("adopted.json.new")).unwrap();
    let error = site.adopt().unwrap_err().to_string();
    assert!(error.contains("cannot note in"), "{error}");
    assert_eq!((site.adapters(), site.host.world().asked), (before, 0));
    std::fs::remove_dir(state.join("adopted.json.new")).unwrap();
    site.adopt().unwrap();
    std::fs::create_dir(state.join("adopted.json.new")).unwrap();
    site.confirm().unwrap_err();
    assert_eq!(site.stages(), [Stage::Pending], "and goes back in time");
}

#[test]
fn a_request_that_cannot_be_met_is_refused_before_anything_is_touched() {
    type Twist = fn(&mut Request, &mut World);
    let cases: [(Twist, &str, bool); 12] = [
        (
            |request, _| request.network = "wan".into(),
            "there is no such network; there is bare, lab, lan",
            true,
        ),
        (
            |request, _| request.network = "lab".into(),
            "the network is isolated",
            true,
        ),
        (
            |request, _| request.network = "bare".into(),
            "it is no uplink of the network; its team has eth2",
            true,
        ),
        (
            |request, _| (request.interface, request.network) = ("eth2".into(), "bare".into()),
            "has no host adapter to take the addresses",
            true,
        ),
        (
            |request, _| request.port_group = Some("x".into()),
            "there is no port group \"x\"; the network has none",
            true,
        ),
        (
            |request, _| request.timeout_s = Some(4),
            "the timeout is 4s; choose one from 5s to 1h",
            true,
        ),
        (
            |request, _| request.timeout_s = Some(u64::MAX),
            "choose one from 5s to 1h",
            true,
        ),
        (
            |_, world| world.adapters.get_mut("vmnet0").unwrap().down = true,
            "vmnet0 is down",
            false,
        ),
        (
            |_, world| drop(world.adapters.remove("vmnet0")),
            "there is no adapter vmnet0",
            false,
        ),
        (
            |_, world| world.adapters.get_mut("eth1").unwrap().addresses.clear(),
            "nothing to adopt",
            false,
        ),
        (
            |_, world| {
                let strange = route("192.0.3.0/24", None);
                let routes = &mut world.adapters.get_mut("eth1").unwrap().routes;
                routes.insert("strange".to_owned(), strange);
            },
            "192.0.3.0/24 metric 100 is strange",
            false,
        ),
        (
            |_, world| {
                let routes = &mut world.adapters.get_mut("eth1").unwrap().routes;
                for number in 0..super::MOST {
                    routes.insert(number.to_string(), route("192.0.3.0/24", None));
                }
            },
            "at most 1024 are moved",
            false,
        ),
    ];
    for (twist, words, is_wrong) in cases {
        let mut site = Site::new();
        let mut request = request();
        twist(&mut request, &mut site.host.world());
        let now = site.now();
        let plan = plan();
        let uplinks = planned_uplinks(&plan, &request.network);
        let result = site.adopter.adopt(&plan, &uplinks, &request, now);
        let error = result.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(
            matches!(error, AdoptError::Request { .. }),
            is_wrong,
            "{error}"
        );
        assert_eq!((site.host.world().asked, site.record().len()), (0, 0));
    }
}

#[test]
fn one_adoption_is_pending_at_a_time_and_an_adapter_is_adopted_once() {
    let mut site = Site::new();
    site.adopt().unwrap();
    let pending = site.adopt().unwrap_err();
    assert!(matches!(pending, AdoptError::State { .. }));
    assert!(
        pending.to_string().contains("is pending; first"),
        "{pending}"
    );
    site.confirm().unwrap();
    let adopted = site.adopt().unwrap_err().to_string();
    assert!(adopted.contains("it is adopted already"), "{adopted}");
}

#[test]
fn an_adapter_gets_its_addresses_back_when_the_host_adapter_vanishes() {
    let mut site = Site::new();
    let before = site.adapter("eth1");
    site.adopt().unwrap();
    site.confirm().unwrap();
    let adopted = site.adapter("vmnet0");
    site.advance(WATCH.as_secs());
    assert_eq!(site.stages(), [Stage::Confirmed]);
    let eth1 = {
        let mut world = site.host.world();
        world.adapters.remove("vmnet0");
        world.adapters.remove("eth1").unwrap()
    };
    site.advance(WATCH.as_secs());
    assert_eq!(site.stages(), [Stage::Confirmed], "it has no place to go");
    site.host.world().adapters.insert("eth1".to_owned(), eth1);
    site.advance(WATCH.as_secs());
    assert_eq!(site.stages(), [Stage::Resting]);
    assert_eq!(site.adapter("eth1"), before);
    site.advance(WATCH.as_secs());
    assert_eq!(site.adapter("eth1"), before);
    let another = Adapter {
        index: 7,
        ..Adapter::default()
    };
    for down in [true, false] {
        let vmnet0 = Adapter {
            down,
            ..another.clone()
        };
        let mut world = site.host.world();
        world.adapters.insert("vmnet0".to_owned(), vmnet0);
        drop(world);
        site.advance(WATCH.as_secs());
    }
    assert_eq!(site.stages(), [Stage::Confirmed]);
    assert_eq!(site.adapter("vmnet0").addresses, adopted.addresses);
}

#[test]
fn another_host_adapter_of_the_same_name_is_given_what_went_with_the_first() {
    let mut site = Site::new();
    site.adopt().unwrap();
    site.confirm().unwrap();
    let adopted = site.adapter("vmnet0");
    let another = Adapter {
        index: 7,
        ..Adapter::default()
    };
    let mut world = site.host.world();
    world.adapters.insert("vmnet0".to_owned(), another);
    drop(world);
    site.advance(WATCH.as_secs());
    assert_eq!(site.adapter("vmnet0").addresses, adopted.addresses);
    assert_eq!(site.adapter("vmnet0").routes, adopted.routes);
    assert_eq!(site.adapter("eth1").addresses, BTreeMap::new());
}

#[test]
fn an_uplink_is_one_that_the_network_has_now() {
    let mut site = Site::new();
    let now = site.now();
    let mut adopt = |uplinks: &[&str]| site.adopter.adopt(&plan(), uplinks, &request(), now);
    for (uplinks, words) in [(&["eth7"][..], "has eth7"), (&[], "has none")] {
        let error = adopt(uplinks).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    adopt(&["eth7", "eth1"]).unwrap();
}

#[test]
fn what_the_host_adapter_had_already_stays_there_when_a_move_fails() {
    let mut site = Site::new();
    let own = address("10.0.0.5/24");
    let vmnet0 = |world: &mut World| world.adapters["vmnet0"].clone();
    {
        let mut world = site.host.world();
        let adapter = world.adapters.get_mut("vmnet0").unwrap();
        adapter.addresses.insert(own.net.to_string(), own);
    }
    let before = vmnet0(&mut site.host.world());
    site.fail([5], false);
    site.adopt().unwrap_err();
    assert_eq!(vmnet0(&mut site.host.world()), before);
}

fn any_address() -> impl Strategy<Value = Address> {
    (
        any::<IpAddr>(),
        0..=32_u8,
        any::<[Option<u64>; 2]>(),
        any::<u32>(),
    )
        .prop_map(
            |(ip, prefix, [valid_until, preferred_until], flags)| Address {
                net: IpNet::new(ip, prefix).unwrap(),
                valid_until,
                preferred_until,
                flags,
                ..address("10.0.0.5/24")
            },
        )
}

proptest! {
    #[test]
    fn any_record_is_read_back(
        addresses in proptest::collection::vec(any_address(), 0..4),
        until in any::<Option<u64>>(), metrics in any::<BTreeMap<u16, u32>>(), gateway in any::<Option<IpAddr>>(),
    ) {
        let state = tempfile::tempdir().unwrap();
        let record = Record::new(state.path());
        let routes = vec![Route { gateway, until, metrics, ..route("192.0.2.0/24", None) }];
        let baggage = Baggage { addresses, routes };
        let adoption = Adoption {
            interface: "eth1".to_owned(),
            network: "lan".to_owned(),
            port_group: None,
            host_adapter: "vmnet0".to_owned(),
            stage: Stage::Pending,
            until,
            arp_ignore: None,
            baggage: baggage.clone(),
            deadline: None,
            index: None,
        };
        let _ = super::endpoints::Adopted::from(&adoption);
        record.save(&[adoption]).unwrap();
        prop_assert_eq!(&record.load().unwrap()[0].baggage, &baggage);
    }

    #[test]
    fn any_record_is_understood_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("adopted.json"), &bytes).unwrap();
        let _ = Record::new(state.path()).load();
    }
}

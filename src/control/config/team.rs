//! A team as it was typed: a network's, and what a port group has otherwise.
//!
//! Keys and values can also be written as ESXi writes them, in its API or on its command line.

use std::time::Duration;

use super::word;
use crate::control::duration::Span;
use crate::control::problem::Problems;
use crate::control::section::Section;
use crate::control::value::Adapter;
use crate::net::team::lacp::{Mode, Rate};
use crate::net::team::{Detection, Hash, LoadBalancing};

/// The longest delay before a change of link counts.
const LONGEST_DELAY: Duration = Duration::from_secs(300);

/// A network's team.
#[derive(Debug, Default)]
pub struct Team {
    /// How ports are spread over which uplinks.
    pub policy: Policy,
    /// How long an uplink must have a link before it is used.
    pub up_delay: Duration,
    /// How long an uplink may be without a link before it is given up.
    pub down_delay: Duration,
    /// What is said to and heard from neighbours.
    pub discovery: Discovery,
    /// How it speaks LACP, where it was said.
    pub lacp: Option<Lacp>,
}

/// Uplinks, each with its place in the list as it was typed.
pub type Uplinks = Vec<(usize, Adapter)>;

/// How ports are spread over which uplinks. What was not said is the network's, or the usual.
#[derive(Debug, Default)]
pub struct Policy {
    /// The uplinks that are used.
    pub active: Option<Uplinks>,
    /// Those that take the place of one that fails.
    pub standby: Option<Uplinks>,
    /// Those that are not used.
    pub unused: Option<Uplinks>,
    /// By what ports or frames are spread; LACP's hash is said elsewhere.
    pub load_balancing: Option<LoadBalancing>,
    /// How an uplink is found to have failed.
    pub detection: Option<Detection>,
    /// Whether the switches outside are told of changes.
    pub notify_switches: Option<bool>,
    /// Whether an uplink that works again is used at once.
    pub failback: Option<bool>,
    /// Whether ports hear those uplinks only that carry them.
    pub reverse_filter: Option<bool>,
}

/// What is said to and heard from neighbours.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Discovery {
    /// Everything.
    #[default]
    Both,
    /// They are heard.
    Listen,
    /// They are told.
    Advertise,
    /// Nothing.
    Off,
}

/// How a team speaks LACP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lacp {
    /// Who begins.
    pub mode: Mode,
    /// How often the partner is to speak.
    pub rate: Rate,
    /// Whether one uplink is used while no partner speaks.
    pub fallback: bool,
    /// What of a frame chooses the uplink.
    pub hash: Hash,
    /// The team's priority.
    pub system_priority: u16,
}

impl Default for Lacp {
    fn default() -> Self {
        Self {
            mode: Mode::Active,
            rate: Rate::Fast,
            fallback: true,
            hash: Hash::default(),
            system_priority: 32_768,
        }
    }
}

const BALANCING: [(&str, LoadBalancing); 6] = [
    ("port-id", LoadBalancing::PortId),
    ("source-mac", LoadBalancing::SourceMac),
    ("ip-hash", LoadBalancing::IpHash),
    ("explicit", LoadBalancing::Explicit),
    ("load-based", LoadBalancing::LoadBased),
    ("lacp", LoadBalancing::Lacp(Hash::Layer34)),
];

const BALANCING_OF_ESXI: [(&str, LoadBalancing); 8] = [
    ("loadbalance_srcid", LoadBalancing::PortId),
    ("portid", LoadBalancing::PortId),
    ("loadbalance_srcmac", LoadBalancing::SourceMac),
    ("mac", LoadBalancing::SourceMac),
    ("loadbalance_ip", LoadBalancing::IpHash),
    ("iphash", LoadBalancing::IpHash),
    ("failover_explicit", LoadBalancing::Explicit),
    ("loadbalance_loadbased", LoadBalancing::LoadBased),
];

const DETECTION: [(&str, Detection); 2] =
    [("link", Detection::Link), ("beacon", Detection::Beacon)];

const DETECTION_OF_ESXI: [(&str, Detection); 3] = [
    ("link_status", Detection::Link),
    ("link status only", Detection::Link),
    ("beacon_probing", Detection::Beacon),
];

const DISCOVERY: [(&str, Discovery); 4] = [
    ("both", Discovery::Both),
    ("listen", Discovery::Listen),
    ("advertise", Discovery::Advertise),
    ("off", Discovery::Off),
];

impl Team {
    pub(super) fn read(mut section: Section, problems: &mut Problems) -> Self {
        let lacp = section
            .section("lacp", problems)
            .map(|section| Lacp::read(section, problems));
        let team = Self {
            policy: Policy::read(&mut section, problems),
            up_delay: delay(&mut section, "up_delay", problems),
            down_delay: delay(&mut section, "down_delay", problems),
            discovery: word(&mut section, "discovery", &DISCOVERY, &[], &[], problems)
                .unwrap_or_default(),
            lacp,
        };
        section.finish(problems);
        team
    }
}

impl Policy {
    /// Reads what a port group has otherwise than the network `network`.
    pub(super) fn read_override(
        mut section: Section,
        network: &str,
        problems: &mut Problems,
    ) -> Self {
        let policy = Self::read(&mut section, problems);
        for key in ["up_delay", "down_delay", "discovery", "lacp"] {
            let text = format!("is the same for all port groups; write it in [{network}.team]");
            section.refuse(key, &text, problems);
        }
        section.finish(problems);
        policy
    }

    fn read(section: &mut Section, problems: &mut Problems) -> Self {
        for (key, others) in [
            (
                "active",
                &["activeNic", "active_uplinks", "active-uplinks"][..],
            ),
            (
                "standby",
                &["standbyNic", "standby_uplinks", "standby-uplinks"],
            ),
            ("notify_switches", &["notifySwitches"]),
            ("reverse_filter", &["reversePolicy"]),
        ] {
            section.alias(key, others, problems);
        }
        // "Rolling" is the order that an uplink does not come back to its place in.
        let rolling = section.alias("failback", &["rollingOrder"], problems);
        Self {
            active: section.placed("active", problems),
            standby: section.placed("standby", problems),
            unused: section.placed("unused", problems),
            load_balancing: word(
                section,
                "load_balancing",
                &BALANCING,
                &BALANCING_OF_ESXI,
                &[],
                problems,
            ),
            detection: word(
                section,
                "failure_detection",
                &DETECTION,
                &DETECTION_OF_ESXI,
                &[],
                problems,
            ),
            notify_switches: section.flag("notify_switches", problems),
            failback: section
                .flag("failback", problems)
                .map(|failback| failback != rolling.is_some()),
            reverse_filter: section.flag("reverse_filter", problems),
        }
    }

    /// Returns the lists of uplinks, each with its key.
    pub fn lists(&self) -> [(&'static str, Option<&Uplinks>); 3] {
        [
            ("active", self.active.as_ref()),
            ("standby", self.standby.as_ref()),
            ("unused", self.unused.as_ref()),
        ]
    }
}

impl Lacp {
    fn read(mut section: Section, problems: &mut Problems) -> Self {
        let usual = Self::default();
        let modes = [("active", Mode::Active), ("passive", Mode::Passive)];
        let rates = [("fast", Rate::Fast), ("slow", Rate::Slow)];
        let hashes = [
            ("layer2", Hash::Layer2),
            ("layer2+3", Hash::Layer23),
            ("layer3+4", Hash::Layer34),
        ];
        let lacp = Self {
            mode: word(&mut section, "mode", &modes, &[], &[], problems).unwrap_or(usual.mode),
            rate: word(&mut section, "rate", &rates, &[], &[], problems).unwrap_or(usual.rate),
            fallback: section.flag("fallback", problems).unwrap_or(usual.fallback),
            hash: word(&mut section, "hash", &hashes, &[], &[], problems).unwrap_or(usual.hash),
            system_priority: section
                .number("system_priority", 0..=u16::MAX, problems)
                .unwrap_or(usual.system_priority),
        };
        section.finish(problems);
        lacp
    }
}

fn delay(section: &mut Section, key: &'static str, problems: &mut Problems) -> Duration {
    let Some(Span(delay)) = section.parsed(key, problems) else {
        return Duration::ZERO;
    };
    if delay > LONGEST_DELAY {
        let text = format!("{} is longer than {}", Span(delay), Span(LONGEST_DELAY));
        problems.error(section.path(key), text);
    }
    delay
}

//! The VLANs of a port group as they were typed: a number, a word, a list or a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Value;

use crate::control::problem::Problems;
use crate::control::section::{Section, kind, parse};
use crate::control::value::Vlans;
use crate::net::vlan::{Domain, PortVlan, PrivatePort, PrivateRole, Trunk, VlanId, VlanSet};

const FORMS: &str =
    "write 0 for none, a number from 1 to 4094, \"all\", or a list such as [\"20-29\", 40]";

/// The keys that make a private VLAN of a table.
const PRIVATE: [&str; 4] = ["primary", "promiscuous", "isolated", "community"];

/// Takes the key `vlan`; without it, and where it is wrong, the port is untagged.
pub(super) fn read(section: &mut Section, problems: &mut Problems) -> PortVlan {
    let path = section.path("vlan");
    let vlan = match section.value("vlan") {
        None | Some(Value::Integer(0)) => Some(PortVlan::Untagged),
        Some(Value::Integer(4095)) => Some(PortVlan::All),
        Some(Value::String(word)) if word == "all" => Some(PortVlan::All),
        Some(Value::Integer(number)) => {
            let vlan = u16::try_from(number).ok().and_then(VlanId::new);
            if vlan.is_none() {
                problems.error(path, format!("{number} is not a VLAN; {FORMS}"));
            }
            vlan.map(PortVlan::Access)
        }
        Some(Value::Array(list)) => trunk(Some(list), &path, None, &path, problems),
        Some(Value::Table(table)) if PRIVATE.iter().any(|key| table.contains_key(*key)) => {
            private(Section::new(path, table), problems)
        }
        Some(Value::Table(table)) => hybrid(Section::new(path, table), problems),
        Some(value) => {
            problems.error(path, format!("{value} is not a VLAN; {FORMS}"));
            None
        }
    };
    vlan.unwrap_or_default()
}

fn hybrid(mut section: Section, problems: &mut Problems) -> Option<PortVlan> {
    let (tagged, untagged) = (section.path("tagged"), section.path("untagged"));
    let list = section.value("tagged").map(|value| match value.as_array() {
        Some(list) => list.clone(),
        None => vec![value],
    });
    let own = section.own_path().to_owned();
    let has_untagged = section.has("untagged");
    let number = section.number("untagged", 0..=4094_u16, problems);
    section.finish(problems);
    if has_untagged && number.is_none() {
        return None;
    }
    let path = if list.is_some() { tagged } else { own };
    trunk(
        list,
        &path,
        number.map(|number| (number, untagged.as_str())),
        &path,
        problems,
    )
}

/// Puts a trunk together from the tagged VLANs, which are at `list_path`, and the untagged one, which is at its own.
fn trunk(
    list: Option<Vec<Value>>,
    list_path: &str,
    untagged: Option<(u16, &str)>,
    path: &str,
    problems: &mut Problems,
) -> Option<PortVlan> {
    let mut tagged = VlanSet::default();
    let mut listed: BTreeMap<VlanId, Vlans> = BTreeMap::new();
    let mut wrong = false;
    for (index, value) in list.into_iter().flatten().enumerate() {
        let path = format!("{list_path}[{index}]");
        let Some(vlans) = vlans(&value, &path, problems) else {
            wrong = true;
            continue;
        };
        let mut again = None;
        for vlan in (vlans.first.number()..=vlans.last.number()).filter_map(VlanId::new) {
            tagged.insert(vlan);
            if let Some(earlier) = listed.insert(vlan, vlans) {
                again = again.or(Some((vlan, earlier)));
            }
        }
        if let Some((vlan, earlier)) = again {
            problems.error(
                path,
                format!("VLAN {} is listed already, in {earlier}", vlan.number()),
            );
            wrong = true;
        }
    }
    if wrong {
        return None;
    }
    let Some((untagged, untagged_path)) = untagged else {
        if tagged.is_empty() {
            let text = "lists no VLAN: write some, as in [\"20-29\", 40], or an untagged one";
            problems.error(path, text);
            return None;
        }
        return Some(PortVlan::Trunk(Arc::new(Trunk {
            tagged,
            untagged: None,
        })));
    };
    let vlan = VlanId::new(untagged);
    if let Some(earlier) = vlan.and_then(|vlan| listed.get(&vlan)) {
        problems.error(
            untagged_path,
            format!(
                "VLAN {untagged} is tagged already, in {earlier}; it travels one way or the other"
            ),
        );
        return None;
    }
    Some(match vlan {
        None if tagged.is_empty() => PortVlan::Untagged,
        Some(vlan) if tagged.is_empty() => PortVlan::Access(vlan),
        vlan => PortVlan::Trunk(Arc::new(Trunk {
            tagged,
            untagged: Some(vlan.map_or(Domain::UNTAGGED, Domain::from)),
        })),
    })
}

fn vlans(value: &Value, path: &str, problems: &mut Problems) -> Option<Vlans> {
    if let Some(text) = value.as_str() {
        return parse(text, path, problems);
    }
    let Some(number) = value.as_integer() else {
        let text = format!("must be a number or a range, not {}", kind(value));
        problems.error(path, text);
        return None;
    };
    Vlans::one(number)
        .map_err(|error| problems.error(path, error.to_string()))
        .ok()
}

fn private(mut section: Section, problems: &mut Problems) -> Option<PortVlan> {
    for key in ["tagged", "untagged"] {
        let text = "a port of a private VLAN has no other VLANs; leave the key out";
        section.refuse(key, text, problems);
    }
    let written = PRIVATE.iter().filter(|key| section.has(key)).count();
    let has_primary = section.has("primary");
    if !has_primary {
        let text = "is missing: name the primary VLAN, as in { primary = 100, isolated = 101 }";
        problems.error(section.path("primary"), text);
    } else if written != 2 {
        let text =
            "needs one of promiscuous = true, isolated = VLAN and community = VLAN beside primary";
        problems.error(section.path("primary"), text);
    }
    let primary = vlan_id(&mut section, "primary", problems);
    let promiscuous = section.flag("promiscuous", problems);
    if promiscuous == Some(false) {
        let text = "must be true; other ports are isolated = VLAN or community = VLAN";
        problems.error(section.path("promiscuous"), text);
    }
    let promiscuous = promiscuous.map(|_| PrivateRole::Promiscuous);
    let isolated = vlan_id(&mut section, "isolated", problems).map(PrivateRole::Isolated);
    let community = vlan_id(&mut section, "community", problems).map(PrivateRole::Community);
    section.finish(problems);
    let role = promiscuous.or(isolated).or(community)?;
    let primary = primary.filter(|_| written == 2)?;
    Some(PortVlan::Private(PrivatePort { primary, role }))
}

fn vlan_id(section: &mut Section, key: &'static str, problems: &mut Problems) -> Option<VlanId> {
    VlanId::new(section.number(key, 1..=4094_u16, problems)?)
}

//! A security policy as it was typed: for a network, a port group or a VM, key by key.

use toml::Value;

use super::word;
use crate::control::problem::{Problems, did_you_mean};
use crate::control::section::{Section, kind};

/// What was said about security in one place; what was not is said by the place around it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Security {
    /// Whether the port gets every frame of its VLANs.
    pub promiscuous: Option<bool>,
    /// Whether other addresses are learned behind it.
    pub mac_changes: Option<bool>,
    /// Whether it may send from other addresses.
    pub forged_transmits: Option<bool>,
    /// Whether it is kept from answering as a DHCP server.
    pub dhcp_guard: Option<bool>,
    /// Whether it is kept from advertising a router.
    pub ra_guard: Option<bool>,
    /// What the first three are where they are not said.
    pub preset: Option<Preset>,
}

/// A policy with a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Preset {
    /// Nothing is allowed.
    Reject,
    /// What ESXi allowed up to version 6.7.
    Legacy,
}

const PRESETS: [(&str, Preset); 2] = [("reject", Preset::Reject), ("legacy", Preset::Legacy)];

impl Security {
    /// Takes the key `security`: a table, or the name of a preset.
    pub(super) fn read(section: &mut Section, problems: &mut Problems) -> Self {
        let path = section.path("security");
        match section.value("security") {
            None => Self::default(),
            Some(Value::Table(table)) => Self::read_table(Section::new(path, table), problems),
            Some(Value::String(name)) => {
                let preset = PRESETS.iter().find(|(preset, _)| *preset == name);
                if preset.is_none() {
                    let hint = did_you_mean(&name, PRESETS.map(|(preset, _)| preset));
                    problems.error(
                        path,
                        format!("{name:?} is not one of \"reject\", \"legacy\"{hint}"),
                    );
                }
                Self {
                    preset: preset.map(|(_, preset)| *preset),
                    ..Self::default()
                }
            }
            Some(value) => {
                let text = format!("must be a table or \"legacy\", not {}", kind(&value));
                problems.error(path, text);
                Self::default()
            }
        }
    }

    fn read_table(mut section: Section, problems: &mut Problems) -> Self {
        for (key, others) in [
            ("promiscuous", ["allowPromiscuous", "allow_promiscuous"]),
            ("mac_changes", ["macChanges", "allow_mac_change"]),
            (
                "forged_transmits",
                ["forgedTransmits", "allow_forged_transmits"],
            ),
        ] {
            section.alias(key, &others, problems);
        }
        let security = Self {
            promiscuous: permission(&mut section, "promiscuous", problems),
            mac_changes: permission(&mut section, "mac_changes", problems),
            forged_transmits: permission(&mut section, "forged_transmits", problems),
            dhcp_guard: section.flag("dhcp_guard", problems),
            ra_guard: section.flag("ra_guard", problems),
            preset: word(&mut section, "preset", &PRESETS, &[], &[], problems),
        };
        section.finish(problems);
        security
    }
}

/// Takes true or false, or ESXi's words for them.
fn permission(section: &mut Section, key: &'static str, problems: &mut Problems) -> Option<bool> {
    let value = section.value(key)?;
    let permission = match value.as_str() {
        Some("accept") => Some(true),
        Some("reject") => Some(false),
        Some(_) | None => value.as_bool(),
    };
    if permission.is_none() {
        let written = value
            .as_str()
            .map_or_else(|| kind(&value).to_owned(), |word| format!("{word:?}"));
        problems.error(
            section.path(key),
            format!("must be true or \"accept\", false or \"reject\", not {written}"),
        );
    }
    permission
}

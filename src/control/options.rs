//! DHCP options by code: `options = { "252" = "http://…", "150" = ["10.0.0.1"], "224" = "hex:0102" }`.

use toml::Value;

use crate::control::problem::{Problems, join};
use crate::control::section::{Section, parse};
use crate::control::value::{Address, Hex, OPTION, Text};

/// Options that the server writes itself (RFC 2132), and by which key they are set, if by one.
const OWN: [(u8, &str); 26] = [
    (0, ""),
    (1, "subnet"),
    (3, "router"),
    (6, "dns"),
    (12, "hostname"),
    (15, "domain"),
    (26, "mtu"),
    (42, "ntp"),
    (43, "vendor"),
    (50, ""),
    (51, "lease"),
    (52, ""),
    (53, ""),
    (54, ""),
    (55, ""),
    (56, ""),
    (57, ""),
    (58, "renew"),
    (59, "rebind"),
    (61, ""),
    (66, "tftp_server"),
    (67, "boot_file"),
    (82, ""),
    (119, "search"),
    (121, "routes"),
    (255, ""),
];

/// The most addresses of one option.
const ADDRESSES: usize = OPTION / 4;

/// Takes the table of further options, in the order of their codes.
pub fn read(section: &mut Section, problems: &mut Problems) -> Vec<(u8, Vec<u8>)> {
    let path = section.path("options");
    let table = match section.value("options") {
        None => return Vec::new(),
        Some(Value::Table(table)) => table,
        Some(_) => {
            problems.error(
                path,
                "must be a table of options by their code, as in { \"252\" = \"text\" }",
            );
            return Vec::new();
        }
    };
    let mut options = Vec::new();
    for (code, value) in table {
        let path = join(&path, &code);
        let code = match code.parse::<u8>() {
            Ok(number) if number.to_string() == code => number,
            _ => {
                problems.error(
                    path,
                    "is not the code of an option: write a number from 1 to 254",
                );
                continue;
            }
        };
        match OWN.iter().find(|(own, _)| *own == code) {
            None => options.extend(payload(value, &path, problems).map(|payload| (code, payload))),
            Some((_, "")) => problems.error(path, "is an option that the server sets itself"),
            Some((_, key)) => problems.error(path, format!("is set by the key `{key}`")),
        }
    }
    options.sort();
    options
}

fn payload(value: Value, path: &str, problems: &mut Problems) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => match text.strip_prefix("hex:") {
            Some(digits) => parse(digits, path, problems).map(|Hex(bytes)| bytes),
            None => parse(&text, path, problems).map(|Text(text)| text.into_bytes()),
        },
        Value::Array(values) if (1..=ADDRESSES).contains(&values.len()) => {
            let texts: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
            let Some(texts) = texts else {
                problems.error(path, "must be a list of IPv4 addresses, each a string");
                return None;
            };
            let read =
                |(index, text): (usize, &&str)| parse(text, &format!("{path}[{index}]"), problems);
            let addresses: Vec<Option<Address>> = texts.iter().enumerate().map(read).collect();
            addresses
                .into_iter()
                .collect::<Option<Vec<_>>>()
                .map(|addresses| {
                    addresses
                        .iter()
                        .flat_map(|Address(ip)| ip.octets())
                        .collect()
                })
        }
        Value::Array(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_)
        | Value::Table(_) => {
            problems.error(
                path,
                format!("must be \"text\", \"hex:0102\" or a list of up to {ADDRESSES} addresses"),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> (Vec<(u8, Vec<u8>)>, Vec<String>) {
        let mut problems = Problems::default();
        let mut section = Section::new(String::new(), text.parse().unwrap());
        let options = read(&mut section, &mut problems);
        (
            options,
            problems.errors().iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn text_bytes_and_addresses_are_options() {
        let (options, problems) = options(
            "options = { \"252\" = \"x y\", \"150\" = [\"10.0.0.1\", \"10.0.0.2\"], \"224\" = \"hex:0aff\" }",
        );
        assert_eq!(problems, [""; 0]);
        assert_eq!(
            options,
            [
                (150, vec![10, 0, 0, 1, 10, 0, 0, 2]),
                (224, vec![10, 255]),
                (252, b"x y".to_vec())
            ]
        );
    }

    #[test]
    fn a_list_of_addresses_may_be_longer_than_one_part_of_an_option() {
        let list = |count: usize| {
            let addresses = vec!["\"10.0.0.1\""; count].join(", ");
            options(&format!("options = {{ \"150\" = [{addresses}] }}"))
        };
        assert_eq!(list(ADDRESSES).0[0].1.len(), OPTION);
        assert_eq!(list(ADDRESSES + 1).1.len(), 1);
    }

    #[test]
    fn options_of_the_server_and_nonsense_are_refused() {
        let (options, problems) = options(
            "options = { \"3\" = [\"10.0.0.1\"], \"53\" = \"x\", \"56\" = \"x\", \"x\" = \"x\", \"256\" = \"\", \"99\" = 1, \"98\" = \"hex:0\", \"97\" = [1] }",
        );
        assert!(options.is_empty());
        assert_eq!(problems.len(), 8, "{problems:#?}");
        assert!(
            problems.contains(&"options.3: is set by the key `router`".to_owned()),
            "{problems:#?}"
        );
    }
}

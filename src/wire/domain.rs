//! Domain names as they are on the wire: labels with their lengths, not compressed (RFC 1035, section 3.1).
//!
//! For lists of names in DHCP options, in DHCPv6 options and in router advertisements. Compression, which none of them
//! allows, is refused; so are names that are not letters, digits, hyphens and underscores, which no resolver would ask for.

/// How long a name may be on the wire (RFC 1035, section 2.3.4).
const MAX_LEN: usize = 255;
/// How long a label may be.
const MAX_LABEL: usize = 63;
/// How many names of a list are read.
const NAMES: usize = 16;

/// Adds a name to `bytes`, and tells whether it is one that fits.
pub fn push(bytes: &mut Vec<u8>, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let labels = || name.split('.');
    if name.len() + 2 > MAX_LEN || labels().any(|label| !is_label(label.as_bytes())) {
        return false;
    }
    for label in labels() {
        bytes.extend(u8::try_from(label.len()));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    true
}

/// Returns names one after the other; those that are none are left out.
pub fn list(names: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        push(&mut bytes, name);
    }
    bytes
}

/// Reads a name, and returns it with how many bytes it takes. A name that ends with the slice is taken for one where
/// `partial` allows it (RFC 4704, section 4.2).
pub fn read(bytes: &[u8], partial: bool) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = 0;
    loop {
        let len = match bytes.get(at) {
            Some(0) => return (!name.is_empty()).then_some((name, at + 1)),
            Some(len) => usize::from(*len),
            None if partial && !name.is_empty() => return Some((name, at)),
            None => return None,
        };
        let label = bytes.get(at + 1..at + 1 + len)?;
        if !is_label(label) || at + 1 + len >= MAX_LEN {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(*byte)));
        at += 1 + len;
    }
}

/// Reads names one after the other up to the end, or to padding with zeros; what follows one that cannot be read is lost.
pub fn read_list(bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut at = 0;
    while names.len() < NAMES
        && let Some((name, len)) = bytes.get(at..).and_then(|rest| read(rest, false))
    {
        names.push(name);
        at += len;
    }
    names
}

fn is_label(label: &[u8]) -> bool {
    let fits = (1..=MAX_LABEL).contains(&label.len());
    fits && label
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_written_as_labels_and_read_back() {
        let names = ["lan.example".to_owned(), "a".to_owned()];
        let bytes = list(&names);
        assert_eq!(bytes, b"\x03lan\x07example\x00\x01a\x00");
        assert_eq!(read_list(&bytes), names);
        assert_eq!(
            list(&["lan.".to_owned()]),
            b"\x03lan\x00",
            "the root is implied"
        );
        let padded = [&bytes[..], &[0; 7]].concat();
        assert_eq!(read_list(&padded), names, "padding ends the list");
    }

    #[test]
    fn what_is_no_name_is_left_out() {
        let label = "x".repeat(63);
        let long = [label.as_str(); 4].join(".");
        for name in ["", ".", "a..b", "a b", "ü", &"x".repeat(64), &long] {
            assert!(!push(&mut Vec::new(), name), "{name}");
        }
        let fits = [label.as_str(), &label, &label, &"x".repeat(61)].join(".");
        let mut bytes = Vec::new();
        assert!(push(&mut bytes, &fits));
        assert_eq!(bytes.len(), 255);
        assert_eq!(read(&bytes, false), Some((fits, 255)));
        for bytes in [
            &b""[..],
            b"\x00",
            b"\x03ab",
            b"\x03lan",
            b"\xc0\x00",
            b"\x01 \x00",
        ] {
            assert_eq!(read(bytes, false), None, "{bytes:?}");
        }
        assert_eq!(read(b"\x03lan", true), Some(("lan".to_owned(), 4)));
    }

    #[test]
    fn only_so_many_names_of_a_list_are_read() {
        assert_eq!(read_list(&b"\x01a\x00".repeat(1000)).len(), NAMES);
    }

    proptest! {
        #[test]
        fn any_bytes_are_names_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300), partial: bool) {
            if let Some((name, len)) = read(&bytes, partial) {
                prop_assert!(len <= bytes.len());
                let mut again = Vec::new();
                prop_assert!(push(&mut again, &name));
                prop_assert_eq!(again.strip_prefix(&bytes[..len]).map(<[u8]>::len), Some(again.len() - len));
            }
            read_list(&bytes);
        }
    }
}

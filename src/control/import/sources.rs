//! Which files there are, what kind each is, and which network its path names.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::dhcpd_conf::network_name;
use super::report::Report;
use super::{Input, Kind};

/// Where Workstation keeps its files on Linux.
pub const HOME: &str = "/etc/vmware";
/// How long a file may be in bytes.
const LONGEST: u64 = 1 << 20;

/// What is looked for in a directory: of Workstation on Linux, on Windows, and of Fusion.
const FILES: [&str; 7] = [
    "networking",
    "vmnetnat.conf",
    "vmnetdhcp.conf",
    "nat/nat.conf",
    "nat.conf",
    "dhcpd/dhcpd.conf",
    "dhcpd.conf",
];

/// Reads the files at these paths and within these directories, each once; notes what cannot be read.
pub fn read(paths: &[PathBuf], report: &mut Report) -> Vec<Input> {
    let mut inputs = Vec::new();
    let mut seen = BTreeSet::new();
    for path in paths {
        let files = if path.is_dir() {
            within(path)
        } else {
            Ok(vec![path.clone()])
        };
        match files {
            Ok(files) if files.is_empty() => {
                let text = format!(
                    "there is nothing to import in {}: no networking, and no nat.conf or dhcpd.conf in it or its directories vmnet*",
                    path.display()
                );
                report.mistake(None, text);
            }
            Ok(files) => {
                let new = files.iter().filter(|file| seen.insert(absolute(file)));
                inputs.extend(new.filter_map(|file| one(file, report)));
            }
            Err(error) => unreadable(path, &error, report),
        }
    }
    inputs
}

/// Returns the files in a directory, in a fixed order.
fn within(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut networks = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(network) = name.and_then(network_name)
            && path.is_dir()
        {
            networks.push((network.len(), network, path));
        }
    }
    networks.sort();
    let directories = networks.iter().map(|(_, _, path)| path.as_path());
    let files = std::iter::once(directory)
        .chain(directories)
        .flat_map(|directory| FILES.map(|file| directory.join(file)));
    Ok(files.filter(|file| file.is_file()).collect())
}

fn one(path: &Path, report: &mut Report) -> Option<Input> {
    let text = match text(path) {
        Ok(text) => text,
        Err(error) => {
            unreadable(path, &error, report);
            return None;
        }
    };
    let Some(kind) = kind(path, &text) else {
        let text = format!(
            "{} is neither a nat.conf nor a dhcpd.conf nor Workstation's networking, by its name or by what is in it",
            path.display()
        );
        report.mistake(None, text);
        return None;
    };
    Some(Input {
        name: path.display().to_string(),
        network: network(path),
        kind,
        text,
    })
}

/// Reads a text; comments in it may be in any encoding.
fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path)?;
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other(
            "it has more than 1 MiB, and is hardly one of Workstation's files",
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unreadable(path: &Path, error: &io::Error, report: &mut Report) {
    let kind = error.kind();
    let hint = if kind == io::ErrorKind::PermissionDenied {
        "; run this as a user who may"
    } else if kind == io::ErrorKind::NotFound && path == Path::new(HOME) {
        "; name the files, or the directory that they are in"
    } else {
        ""
    };
    let text = format!("cannot read {}: {error}{hint}", path.display());
    report.mistake(None, text);
}

/// Tells what a file is by its name, or else by what is in it.
fn kind(path: &Path, text: &str) -> Option<Kind> {
    let name = path.file_name().and_then(|name| name.to_str());
    match name.unwrap_or_default().to_ascii_lowercase().as_str() {
        "nat.conf" | "vmnetnat.conf" => return Some(Kind::Nat),
        "dhcpd.conf" | "vmnetdhcp.conf" => return Some(Kind::Dhcp),
        "networking" => return Some(Kind::Networking),
        _ => {}
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with(['#', ';']))?;
    let begins = |words: &[&str]| words.iter().any(|word| line.starts_with(word));
    if begins(&["VERSION=", "answer ", "add_"]) {
        Some(Kind::Networking)
    } else if begins(&["["]) {
        Some(Kind::Nat)
    } else if text.contains(';') || text.contains('{') {
        Some(Kind::Dhcp)
    } else {
        None
    }
}

/// Returns a path from the root, for one that begins in a network's own directory names the network too.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns the network that a path names: the last directory that is called as one.
fn network(path: &Path) -> Option<String> {
    let path = absolute(path);
    let directories = path.parent()?.components().rev();
    let mut names = directories.filter_map(|part| part.as_os_str().to_str());
    names.find_map(network_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names_or_by_what_is_in_them() {
        let of = |path: &str, text: &str| kind(Path::new(path), text);
        assert_eq!(of("/x/nat.conf", ""), Some(Kind::Nat));
        assert_eq!(of("vmnetdhcp.conf", "[host]"), Some(Kind::Dhcp));
        assert_eq!(of("networking", ""), Some(Kind::Networking));
        assert_eq!(of("a.txt", "# x\n\n[host]\n"), Some(Kind::Nat));
        assert_eq!(of("a.txt", "VERSION=1,0\n"), Some(Kind::Networking));
        assert_eq!(of("a.txt", "allow unknown-clients;\n"), Some(Kind::Dhcp));
        assert_eq!(of("a.txt", "hello\n"), None);
        assert_eq!(of("a.txt", ""), None);
    }

    #[test]
    fn the_last_directory_that_is_called_as_a_network_names_it() {
        let of = |path: &str| network(Path::new(path));
        let named = Some("vmnet8".to_owned());
        assert_eq!(of("/etc/vmware/vmnet8/nat/nat.conf"), named);
        assert_eq!(of("/backup/vmnet1/VMnet8/nat.conf"), named);
        assert_eq!(of("/etc/vmware/networking"), None);
        assert_eq!(of("vmnet8"), None);
    }

    #[test]
    fn a_directory_has_the_files_of_its_networks_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "networking",
            "vmnet1/dhcpd/dhcpd.conf",
            "vmnet8/nat/nat.conf",
            "vmnet8/dhcpd/dhcpd.conf",
            "vmnet10/nat.conf",
        ];
        let others = ["vmnet8/nat/nat.mac", "ssl/nat.conf", "vmnet9"];
        for file in files.iter().chain(&others) {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "[host]\n").unwrap();
        }
        let found = within(dir.path()).unwrap();
        let names = found
            .iter()
            .map(|path| path.strip_prefix(dir.path()).unwrap());
        let names: Vec<_> = names.map(|path| path.to_str().unwrap()).collect();
        assert_eq!(names, files);
        assert_eq!(within(&dir.path().join("vmnet8")).unwrap().len(), 2);
    }

    #[test]
    fn a_file_that_is_named_twice_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("networking");
        fs::write(&file, "VERSION=1,0\n").unwrap();
        let mut report = Report::default();
        let paths = [file.clone(), dir.path().to_owned(), file];
        assert_eq!(read(&paths, &mut report).len(), 1);
        assert!(report.makes_sense());
    }

    #[test]
    fn what_cannot_be_read_is_told_of_all_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("nat.conf");
        fs::write(&long, vec![b'#'; (1 << 20) + 1]).unwrap();
        let odd = dir.path().join("odd");
        fs::write(&odd, "hello").unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let mut report = Report::default();
        let paths = [long, odd, empty, dir.path().join("gone")];
        assert!(read(&paths, &mut report).is_empty());
        let told: Vec<_> = report.mistakes().into_iter().map(|one| one.text).collect();
        for (told, expected) in told.iter().zip([
            "1 MiB",
            "neither a nat.conf",
            "nothing to import",
            "cannot read",
        ]) {
            assert!(told.contains(expected), "{told}");
        }
        assert_eq!(told.len(), 4, "{told:?}");
    }

    #[test]
    fn comments_may_be_in_any_encoding() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nat.conf");
        fs::write(&path, b"# \xe9\n[host]\n").unwrap();
        assert!(text(&path).unwrap().ends_with("\n[host]\n"));
    }
}

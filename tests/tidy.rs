//! The repository against its own rules: layers, clocks, unsafe code, comments, and documents that tell the truth.
//!
//! Every rule is a function from files to violations, and every test a rule over the list of files; so a new file is
//! held to all of them. What cannot be seen in the text (lints, links in documentation) is the compiler's business.

#![allow(
    clippy::unwrap_used,
    reason = "a file that cannot be read is a failure"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use vmlan::control::config::File;
use vmlan::control::plan::Plan;
use vmlan::control::problem::Problems;

/// The layers, from the bottom up: each may name itself and those before it.
const LAYERS: [&str; 5] = ["wire", "net", "ports", "engine", "control"];

/// Every file that holds unsafe code. All are in `ports/`, but for tests and benches that enter namespaces or make guest
/// memory.
const UNSAFE: [&str; 23] = [
    "benches/tap_guest.rs",
    "src/ports/burst.rs",
    "src/ports/guest/message.rs",
    "src/ports/guest/packed.rs",
    "src/ports/guest/peer.rs",
    "src/ports/guest/queues.rs",
    "src/ports/guest/regions.rs",
    "src/ports/guest/ring.rs",
    "src/ports/guest/virtq.rs",
    "src/ports/kernel/adapter.rs",
    "src/ports/kernel/mod.rs",
    "src/ports/kernel/receive.rs",
    "src/ports/kernel/send.rs",
    "src/ports/sigbus.rs",
    "src/ports/sockets/system.rs",
    "src/ports/sockets/tcp/calls.rs",
    "src/ports/unread.rs",
    "src/ports/xdp/bpf.rs",
    "src/ports/xdp/memory.rs",
    "src/ports/xdp/socket.rs",
    "tests/adopt.rs",
    "tests/kernel_ports.rs",
    "tests/support/mod.rs",
];

/// Marks of unfinished work.
const FORBIDDEN: [&str; 4] = [
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
];

/// How many lines a file may have, its tests aside.
const LINES: usize = 600;

/// Documents whose paths must exist.
const DOCUMENTS: [&str; 3] = ["README.md", "CHANGELOG.md", "src/architecture.md"];

/// Where the repository keeps things that documents name.
const PLACES: [&str; 5] = ["src/", "tests/", "benches/", "qemu-scripts/", ".ci/"];

/// A Rust file of the repository.
struct Source {
    /// Its path from the root.
    path: String,
    text: String,
}

impl Source {
    /// Whether it is nothing but tests.
    fn is_test(&self) -> bool {
        let path = &self.path;
        path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/")
    }

    /// Returns the lines with their indexes, without those of tests.
    fn lines(&self) -> Vec<(usize, &str)> {
        let mut lines = Vec::new();
        let mut in_test = self.is_test();
        for (index, line) in self.text.lines().enumerate() {
            in_test |= line == "#[cfg(test)]";
            if !in_test {
                lines.push((index, line));
            }
            // An item of tests ends with its brace, or at once.
            let ends = line == "}" || line.starts_with("mod ") && line.ends_with(';');
            in_test &= self.is_test() || !ends;
        }
        lines
    }

    /// Returns the layer it is in.
    fn layer(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        inside.split_once('/').map(|(layer, _)| layer)
    }

    fn at(&self, index: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, index + 1)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut directories = ["src", "tests", "benches"]
        .map(|name| root().join(name))
        .to_vec();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(Source {
                    path: path.strip_prefix(root()).unwrap().display().to_string(),
                    text: fs::read_to_string(&path).unwrap(),
                });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 50, "the files are found");
    sources
}

/// Holds every file to a rule, and tells all violations at once.
fn every_file(rule: impl Fn(&Source) -> Vec<String>) {
    none(sources().iter().flat_map(rule).collect());
}

fn none(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// Returns the words that follow `prefix` in a line.
fn following<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(prefix).map(move |(at, _)| {
        let rest = &line[at + prefix.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

/// Whether a line has this as code, not in a comment or a text, and as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let code: Vec<&str> = line.split('"').step_by(2).collect();
    let code = code.join("\"\"");
    let code = code.split("//").next().unwrap_or_default();
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

#[test]
fn layers_point_downwards() {
    every_file(|source| {
        let Some(layer) = source.layer() else {
            return Vec::new();
        };
        let Some(height) = LAYERS.iter().position(|name| *name == layer) else {
            return vec![format!("{}: {layer} is not a layer", source.path)];
        };
        let mut violations = Vec::new();
        for (index, line) in source.text.lines().enumerate() {
            for named in following(line, "crate::") {
                match LAYERS.iter().position(|name| *name == named) {
                    Some(other) if other <= height => {}
                    Some(_) => violations
                        .push(source.at(index, &format!("{layer} names {named}, which is above"))),
                    None => violations
                        .push(source.at(index, "name one layer after crate::, and only one")),
                }
            }
        }
        violations
    });
}

#[test]
fn every_file_says_what_it_is() {
    every_file(|source| {
        // The library's words are architecture.md.
        let begins = source.text.starts_with("//! ")
            || source
                .text
                .starts_with("#![doc = include_str!(\"architecture.md\")]");
        if begins {
            Vec::new()
        } else {
            vec![source.at(0, "does not begin with //!")]
        }
    });
}

#[test]
fn only_engine_and_control_read_a_clock() {
    every_file(|source| {
        if matches!(source.layer(), Some("engine" | "control")) {
            return Vec::new();
        }
        let lines = source.lines().into_iter();
        lines
            .filter(|(_, line)| {
                ["Instant", "SystemTime"]
                    .iter()
                    .any(|clock| following(line, &format!("{clock}::")).any(|word| word == "now"))
            })
            .filter(|_| !source.path.starts_with("benches/"))
            .map(|(index, _)| source.at(index, "reads a clock; let the time be an argument"))
            .collect()
    });
}

#[test]
fn unsafe_code_is_where_it_is_listed() {
    let found: BTreeSet<String> = sources()
        .into_iter()
        .filter(|source| source.text.lines().any(|line| has_word(line, "unsafe")))
        .map(|source| source.path)
        .collect();
    let listed: BTreeSet<String> = UNSAFE.map(str::to_owned).into();
    let unlisted = found.difference(&listed);
    let gone = listed.difference(&found);
    none(
        unlisted
            .map(|path| format!("{path}: has unsafe code and is not listed"))
            .chain(gone.map(|path| format!("{path}: is listed and has no unsafe code")))
            .collect(),
    );
    let outside = |path: &&str| {
        !["src/ports/", "tests/", "benches/"]
            .iter()
            .any(|place| path.starts_with(place))
    };
    none(
        UNSAFE
            .iter()
            .filter(|path| outside(path))
            .map(|path| format!("{path}: is not in ports/"))
            .collect(),
    );
}

#[test]
fn unsafe_code_defends_itself() {
    every_file(|source| {
        let lines: Vec<&str> = source.text.lines().collect();
        let unsafe_lines = (0..lines.len()).filter(|index| has_word(lines[*index], "unsafe"));
        unsafe_lines
            .filter(|index| {
                let defence = if has_word(lines[*index], "fn") {
                    "# Safety"
                } else {
                    "// SAFETY:"
                };
                !comment_before(&lines[..*index]).contains(defence)
            })
            .map(|index| source.at(index, "unsafe code without a word on why it is sound"))
            .collect()
    });
}

/// Returns the comment before what the next line is a part of: a statement may have begun some lines earlier.
fn comment_before(lines: &[&str]) -> String {
    let is_comment = |line: &&&str| line.trim_start().starts_with("//");
    let is_part = |line: &&&str| !is_comment(line) && !line.ends_with([';', '{', '}']);
    let mut before = lines.iter().rev().skip_while(is_part).peekable();
    let mut comment: Vec<&str> = Vec::new();
    while let Some(line) = before.next_if(is_comment) {
        comment.push(line);
    }
    comment.join("\n")
}

#[test]
fn bodies_are_promised_by_ports_alone() {
    every_file(|source| {
        if source.layer() == Some("ports") {
            return Vec::new();
        }
        let lines = source.text.lines().enumerate();
        lines
            .filter(|(_, line)| {
                following(line, concat!("Segment", "::")).any(|word| matches!(word, "new" | "of"))
            })
            .map(|(index, _)| source.at(index, "only ports can promise that a segment is readable"))
            .collect()
    });
}

#[test]
fn no_file_becomes_a_world() {
    every_file(|source| match source.lines().len() {
        count if count > LINES => {
            vec![format!("{}: {count} lines; split it by ideas", source.path)]
        }
        _ => Vec::new(),
    });
}

#[test]
fn nothing_is_left_for_later() {
    every_file(|source| {
        let lines = source.text.lines().enumerate();
        lines
            .filter_map(|(index, line)| {
                let word = FORBIDDEN.iter().find(|word| line.contains(**word))?;
                Some(source.at(index, word))
            })
            .collect()
    });
}

#[test]
fn documents_name_what_is_there() {
    let mut violations = Vec::new();
    let mut named = 0;
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for (index, line) in text.lines().enumerate() {
            for path in paths(line) {
                named += 1;
                if !root().join(path).exists() {
                    violations.push(format!("{document}:{}: {path} is not there", index + 1));
                }
            }
        }
    }
    assert!(named > 30, "the paths are found: {named}");
    none(violations);
}

/// Returns what looks like a path of the repository: in one of its directories, or a source or document at its root.
fn paths(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && !"./-_".contains(c))
        .map(|word| {
            word.strip_prefix("./")
                .unwrap_or(word)
                .trim_end_matches(['.', '/'])
        })
        .filter(|word| {
            PLACES.iter().any(|place| word.starts_with(place))
                || [".rs", ".md"].iter().any(|end| word.ends_with(end)) && !word.contains('/')
                || *word == "LICENSE"
        })
}

/// Returns what is wrong with a configuration.
fn problems(text: &str) -> Vec<String> {
    let mut problems = Problems::default();
    let file = File::read(text, &mut problems);
    let (runtime, state) = (Path::new("/run/vmlan"), Path::new("/var/lib/vmlan"));
    Plan::new(&file, runtime, state, &mut problems);
    problems.errors().iter().map(ToString::to_string).collect()
}

#[test]
fn examples_in_documents_are_in_order() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut violations = Vec::new();
    let mut count = 0;
    for block in readme.split("\n```toml\n").skip(1) {
        let (text, _) = block.split_once("\n```\n").unwrap();
        count += 1;
        for problem in problems(text) {
            violations.push(format!("README.md, example {count}: {problem}\n{text}\n"));
        }
    }
    assert!(count >= 3, "the examples are found: {count}");
    none(violations);
}

#[test]
fn configurations_of_the_tests_are_in_order_unless_they_say_otherwise() {
    let tests: Vec<PathBuf> = fs::read_dir(root().join("tests/configs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let embedded = root().join("src/control/default.toml");
    let mut violations = Vec::new();
    for path in tests.iter().chain([&embedded]) {
        let problems = problems(&fs::read_to_string(path).unwrap());
        let wrong = path.ends_with("wrong.toml");
        if problems.is_empty() == wrong {
            let expected = if wrong { "is refused" } else { "is in order" };
            violations.push(format!(
                "{}: not true that it {expected}: {problems:?}",
                path.display()
            ));
        }
    }
    assert!(tests.len() > 1, "the configurations are found");
    none(violations);
}

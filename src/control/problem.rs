//! What is wrong with a configuration: every problem with its key path, and where in the file it is.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// One thing that is wrong, or looks wrong, in a configuration.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// The key path, such as `network.vmnet1.dhcp.pool`; empty for the file as a whole.
    pub path: String,
    /// The line of the file, counted from 1, where there is one.
    pub line: Option<usize>,
    /// What is wrong, and where it helps what to write instead.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.text),
            path => write!(f, "{path}: {}", self.text),
        }
    }
}

/// The problems that were found so far, and on which line each key was.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    lines: BTreeMap<String, usize>,
    /// Paths of keys that were written by another of their names, with that path.
    renamed: BTreeMap<String, String>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Problems {
    /// Remembers the line on which the key at `path` was written.
    pub fn locate(&mut self, path: String, line: usize) {
        self.lines.insert(path, line);
    }

    /// Remembers that the key at `path` was written as the one at `written`, by which people know it.
    pub fn rename(&mut self, path: String, written: String) {
        self.renamed.insert(path, written);
    }

    /// Returns the path as it was written.
    pub fn written(&self, path: &str) -> String {
        let mut key = path;
        loop {
            if let Some(written) = self.renamed.get(key) {
                return format!("{written}{}", &path[key.len()..]);
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return path.to_owned(),
            }
        }
    }

    /// Notes that what is written at `path`, or missing there, is wrong.
    pub fn error(&mut self, path: impl Into<String>, text: impl Into<String>) {
        let problem = self.problem(&path.into(), text.into());
        self.errors.push(problem);
    }

    /// Notes that what is written at `path` may be a mistake.
    pub fn warn(&mut self, path: impl Into<String>, text: impl Into<String>) {
        let problem = self.problem(&path.into(), text.into());
        self.warnings.push(problem);
    }

    /// Notes that the file cannot be read as TOML at this line.
    pub fn syntax(&mut self, line: usize, text: String) {
        self.errors.push(Problem {
            path: String::new(),
            line: Some(line),
            text,
        });
    }

    /// Tells whether something is wrong with what is written at `path`, so that nothing is to be concluded from it.
    pub fn has(&self, path: &str) -> bool {
        let path = self.written(path);
        self.errors.iter().any(|problem| problem.path == path)
    }

    /// Returns what is wrong, in the order of the file.
    pub fn errors(&self) -> Vec<Problem> {
        in_order(&self.errors)
    }

    /// Returns what may be a mistake, in the order of the file.
    pub fn warnings(&self) -> Vec<Problem> {
        in_order(&self.warnings)
    }

    /// Tells whether nothing is wrong; warnings do not count.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    fn problem(&self, path: &str, text: String) -> Problem {
        let path = self.written(path);
        let line = self.line(&path);
        Problem { path, line, text }
    }

    /// The line of the key, or of the nearest table around it when the key is missing.
    fn line(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

fn in_order(problems: &[Problem]) -> Vec<Problem> {
    let mut problems = problems.to_vec();
    problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
    problems
}

/// Appends a key to a path, quoted where TOML would want it quoted.
pub fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let key = if bare {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}

/// Returns `; did you mean …?` for the candidate that is nearest to what was typed, or nothing if none is near.
pub fn did_you_mean<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates
        .into_iter()
        .map(|candidate| (distance(typed, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(typed.len()) / 4)
        .min()
        .map_or_else(String::new, |(_, candidate)| {
            format!("; did you mean {candidate:?}?")
        })
}

/// The number of letters to insert, delete, replace or swap with their neighbour to get from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (
        a.to_lowercase().chars().collect(),
        b.to_lowercase().chars().collect(),
    );
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_and_a_distant_one_is_not() {
        assert_eq!(
            did_you_mean("subnt", ["mode", "subnet", "mtu"]),
            "; did you mean \"subnet\"?"
        );
        assert_eq!(
            did_you_mean("vmnte1", ["vmnet1", "vmnet8"]),
            "; did you mean \"vmnet1\"?"
        );
        assert_eq!(did_you_mean("colour", ["mode", "subnet", "mtu"]), "");
        assert_eq!(did_you_mean("x", []), "");
    }

    #[test]
    fn a_missing_key_is_on_the_line_of_its_table() {
        let mut problems = Problems::default();
        problems.locate("network.vmnet1".into(), 7);
        problems.error("network.vmnet1.dhcp.reservation[0].ip", "is missing");
        problems.error("vm.web1", "is odd");
        assert_eq!(
            problems.errors().iter().map(|p| p.line).collect::<Vec<_>>(),
            [Some(7), None]
        );
    }

    #[test]
    fn a_key_is_known_by_the_name_that_was_written() {
        let mut problems = Problems::default();
        problems.rename("team.active".into(), "team.activeNic".into());
        problems.locate("team.activeNic".into(), 3);
        problems.error("team.active[1]", "is odd");
        problems.error("team.actively", "is odd");
        let found: Vec<_> = problems
            .errors()
            .into_iter()
            .map(|problem| (problem.path, problem.line))
            .collect();
        assert_eq!(
            found,
            [
                ("team.activeNic[1]".to_owned(), Some(3)),
                ("team.actively".to_owned(), None)
            ]
        );
        assert!(problems.has("team.active[1]") && !problems.has("team.active"));
    }

    #[test]
    fn keys_that_are_not_bare_are_quoted() {
        assert_eq!(join("vm", "web1"), "vm.web1");
        assert_eq!(join("vm", "web.1"), "vm.\"web.1\"");
        assert_eq!(join("", "vm"), "vm");
    }
}

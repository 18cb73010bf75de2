//! TOML to tables, and on which line each key was.

use toml::Table;
use toml::de::{DeTable, DeValue};

use crate::control::problem::{Problems, join};
use crate::control::section::Section;

/// Reads a file as TOML. All mistakes of syntax are noted; a file that has any is not looked into.
pub fn read(text: &str, problems: &mut Problems) -> Option<Section> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let lines = Lines::new(text);
    for error in &errors {
        let (line, column) = lines.position(error.span().map_or(0, |span| span.start));
        let message = error.message().replace('\n', " ");
        problems.syntax(line, format!("column {column}: {message}"));
    }
    if !errors.is_empty() {
        return None;
    }
    locate("", document.get_ref(), &lines, problems);
    match text.parse::<Table>() {
        Ok(table) => Some(Section::new(String::new(), table)),
        Err(error) => {
            problems.syntax(
                lines.position(error.span().map_or(0, |span| span.start)).0,
                error.message().to_owned(),
            );
            None
        }
    }
}

fn locate(path: &str, table: &DeTable<'_>, lines: &Lines<'_>, problems: &mut Problems) {
    for (key, value) in table {
        let path = join(path, key.get_ref());
        problems.locate(path.clone(), lines.position(key.span().start).0);
        locate_value(&path, value.get_ref(), lines, problems);
    }
}

fn locate_value(path: &str, value: &DeValue<'_>, lines: &Lines<'_>, problems: &mut Problems) {
    match value {
        DeValue::Table(table) => locate(path, table, lines, problems),
        DeValue::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                let path = format!("{path}[{index}]");
                problems.locate(path.clone(), lines.position(value.span().start).0);
                locate_value(&path, value.get_ref(), lines, problems);
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

/// A text with the places at which its lines begin.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(ends).collect(),
        }
    }

    /// The line and column of a byte, both counted from 1.
    fn position(&self, at: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= at);
        let start = self.starts.get(line - 1).copied().unwrap_or_default();
        let before = self.text.get(start..at).unwrap_or_default();
        (line, before.chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_mistake_of_syntax_is_noted_with_its_line_and_column() {
        let mut problems = Problems::default();
        assert!(read("a = 1\nb = \nc = \"x\n", &mut problems).is_none());
        let lines: Vec<_> = problems
            .errors()
            .iter()
            .map(|problem| problem.line)
            .collect();
        assert_eq!(lines, [Some(2), Some(3)], "{:?}", problems.errors());
        assert!(
            problems.errors()[0].text.starts_with("column 5"),
            "{:?}",
            problems.errors()
        );
    }

    #[test]
    fn keys_in_tables_and_arrays_are_found_on_their_lines() {
        let mut problems = Problems::default();
        assert!(
            read(
                "[a.b]\nc = 1\n[[a.d]]\ne = 1\n[[a.d]]\ne = 2\n",
                &mut problems
            )
            .is_some()
        );
        problems.error("a.b.c", "");
        problems.error("a.d[1].e", "");
        assert_eq!(
            problems
                .errors()
                .iter()
                .map(|problem| problem.line)
                .collect::<Vec<_>>(),
            [Some(2), Some(6)]
        );
    }

    #[test]
    fn the_first_and_the_last_byte_of_a_line_are_in_it() {
        let lines = Lines::new("é1\n\nb");
        let positions = [0, 2, 3, 4, 5, 6].map(|at| lines.position(at));
        assert_eq!(positions, [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (3, 2)]);
    }

    #[test]
    fn a_file_of_many_keys_is_read_in_one_go() {
        // Counting the lines again for every key would be quadratic, which is felt here.
        let mut text: String = (0..100_000).map(|n| format!("key{n} = {n}\n")).collect();
        text += "last = 1\n";
        let mut problems = Problems::default();
        assert!(read(&text, &mut problems).is_some());
        problems.error("last", "");
        assert_eq!(problems.errors()[0].line, Some(100_001));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\]a-b.=\"\n{}0-9é#]{0,40}") {
            let mut problems = Problems::default();
            let read = read(&text, &mut problems).is_some();
            prop_assert_eq!(read, problems.is_empty());
        }
    }
}

//! TOML to tables, and on which line each key was.

use toml::Table;
use toml::de::{DeTable, DeValue};

use crate::control::problem::{Problems, join};
use crate::control::section::Section;

/// Reads a file as TOML. All mistakes of syntax are noted; a file that has any is not looked into.
pub fn read(text: &str, problems: &mut Problems) -> Option<Section> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        let message = error.message().replace('\n', " ");
        problems.syntax(line, format!("column {column}: {message}"));
    }
    if !errors.is_empty() {
        return None;
    }
    locate("", document.get_ref(), text, problems);
    match text.parse::<Table>() {
        Ok(table) => Some(Section::new(String::new(), table)),
        Err(error) => {
            problems.syntax(
                position(text, error.span().map_or(0, |span| span.start)).0,
                error.message().to_owned(),
            );
            None
        }
    }
}

fn locate(path: &str, table: &DeTable<'_>, text: &str, problems: &mut Problems) {
    for (key, value) in table {
        let path = join(path, key.get_ref());
        problems.locate(path.clone(), position(text, key.span().start).0);
        locate_value(&path, value.get_ref(), text, problems);
    }
}

fn locate_value(path: &str, value: &DeValue<'_>, text: &str, problems: &mut Problems) {
    match value {
        DeValue::Table(table) => locate(path, table, text, problems),
        DeValue::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                let path = format!("{path}[{index}]");
                problems.locate(path.clone(), position(text, value.span().start).0);
                locate_value(&path, value.get_ref(), text, problems);
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

/// The line and column of a byte, both counted from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line, column)
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

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\]a-b.=\"\n{}0-9é#]{0,40}") {
            let mut problems = Problems::default();
            let read = read(&text, &mut problems).is_some();
            prop_assert_eq!(read, problems.is_empty());
        }
    }
}

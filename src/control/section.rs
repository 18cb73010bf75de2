//! One table of the configuration file, read key by key.
//!
//! Derived deserializers stop at the first mistake; people want to hear of all of them at once. So a table is taken
//! apart by hand: each key that is asked for is taken out and checked for its type, every mistake is noted with its
//! path, and what is left over at the end is unknown.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use toml::{Table, Value};

use crate::control::problem::{Problems, did_you_mean, join};

/// A table on its way to being understood.
#[derive(Debug)]
pub struct Section {
    path: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    /// Begins to read the table at `path`.
    pub fn new(path: String, table: Table) -> Self {
        Self {
            path,
            table,
            known: Vec::new(),
        }
    }

    /// Returns the path of the table.
    pub fn own_path(&self) -> &str {
        &self.path
    }

    /// Returns the path of the key in this table.
    pub fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Tells whether the key was written.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Lets a key be written by other names too; returns the one by which it was.
    pub fn alias(
        &mut self,
        key: &'static str,
        others: &[&'static str],
        problems: &mut Problems,
    ) -> Option<&'static str> {
        let mut written = self.has(key).then_some(key);
        for other in others {
            self.known.push(other);
            let Some(value) = self.table.remove(*other) else {
                continue;
            };
            let Some(first) = written else {
                self.table.insert(key.to_owned(), value);
                problems.rename(self.path(key), self.path(other));
                written = Some(other);
                continue;
            };
            let text = if first == key {
                format!("is another name of `{key}`, which is written too: keep one of them")
            } else {
                format!("is another name of `{key}`, and so is `{first}`: keep one of them")
            };
            problems.error(self.path(other), text);
        }
        written.filter(|written| *written != key)
    }

    /// Takes whatever was written.
    pub fn value(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// Takes a string.
    pub fn text(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        self.take(key, "a string", problems, |value| {
            value.as_str().map(str::to_owned)
        })
    }

    /// Takes true or false.
    pub fn flag(&mut self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        self.take(key, "true or false", problems, Value::as_bool)
    }

    /// Takes a string that means something.
    pub fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<T> {
        let text = self.text(key, problems)?;
        parse(&text, &self.path(key), problems)
    }

    /// Takes a whole number from a range.
    pub fn number<T: TryFrom<i64> + PartialOrd + Display>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
        problems: &mut Problems,
    ) -> Option<T> {
        let number = self.take(key, "a whole number", problems, |value| value.as_integer())?;
        let fitting = T::try_from(number)
            .ok()
            .filter(|number| range.contains(number));
        if fitting.is_none() {
            problems.error(
                self.path(key),
                format!(
                    "{number} is not between {} and {}",
                    range.start(),
                    range.end()
                ),
            );
        }
        fitting
    }

    /// Takes a list of strings that mean something; a single string is a list of one.
    pub fn list<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Vec<T>> {
        let list = self.placed(key, problems)?;
        Some(list.into_iter().map(|(_, value)| value).collect())
    }

    /// Takes such a list, each value with its place in what was written, which not all of them need be fit for.
    pub fn placed<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Option<Vec<(usize, T)>> {
        let value = self.value(key)?;
        let values = match value.as_array() {
            Some(values) => values.clone(),
            None => vec![value],
        };
        let path = self.path(key);
        let mut list = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            if let Value::String(text) = &value {
                list.extend(parse(text, &path, problems).map(|value| (index, value)));
            } else {
                problems.error(path, format!("must be a string, not {}", kind(&value)));
            }
        }
        Some(list)
    }

    /// Takes a table.
    pub fn section(&mut self, key: &'static str, problems: &mut Problems) -> Option<Self> {
        let table = self.take(key, "a table", problems, |value| value.as_table().cloned())?;
        Some(Self::new(self.path(key), table))
    }

    /// Takes a table of tables, each with its name.
    pub fn named(&mut self, key: &'static str, problems: &mut Problems) -> Vec<(String, Self)> {
        let Some(section) = self.section(key, problems) else {
            return Vec::new();
        };
        let mut named = Vec::new();
        for (name, value) in section.table {
            let path = join(&section.path, &name);
            if let Value::Table(table) = value {
                named.push((name, Self::new(path, table)));
            } else {
                problems.error(path, format!("must be a table, not {}", kind(&value)));
            }
        }
        named
    }

    /// Takes an array of tables.
    pub fn array(&mut self, key: &'static str, problems: &mut Problems) -> Vec<Self> {
        let values = self.take(key, "an array of tables", problems, |value| {
            value.as_array().cloned()
        });
        let path = self.path(key);
        let mut sections = Vec::new();
        for (index, value) in values.unwrap_or_default().into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            if let Value::Table(table) = value {
                sections.push(Self::new(path, table));
            } else {
                problems.error(path, format!("must be a table, not {}", kind(&value)));
            }
        }
        sections
    }

    /// Refuses a key that this version does not have yet.
    pub fn unavailable(&mut self, key: &'static str, instead: &str, problems: &mut Problems) {
        self.refuse(key, &not_available(instead), problems);
    }

    /// Refuses a key that has no place here.
    pub fn refuse(&mut self, key: &'static str, text: &str, problems: &mut Problems) {
        if self.table.remove(key).is_some() {
            problems.error(self.path(key), text);
        }
    }

    /// Refuses all that was not asked for.
    pub fn finish(self, problems: &mut Problems) {
        for key in self.table.keys() {
            let hint = did_you_mean(key, self.known.iter().copied());
            problems.error(
                join(&self.path, key),
                format!("is not a key that vmlan knows{hint}"),
            );
        }
    }

    fn take<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        problems: &mut Problems,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let taken = read(&value);
        if taken.is_none() {
            problems.error(
                self.path(key),
                format!("must be {wanted}, not {}", kind(&value)),
            );
        }
        taken
    }
}

/// The sentence for what does not exist yet.
pub fn not_available(instead: &str) -> String {
    format!("is not available in this version; {instead}")
}

/// Reads a string that means something, and notes if it does not.
pub fn parse<T: FromStr<Err: Display>>(
    text: &str,
    path: &str,
    problems: &mut Problems,
) -> Option<T> {
    text.parse()
        .map_err(|error: T::Err| problems.error(path, error.to_string()))
        .ok()
}

/// Returns the words for the type of a value.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_another_name_of_it_are_not_both_written() {
        let read = |text: &str| {
            let mut problems = Problems::default();
            let mut section = Section::new("t".to_owned(), text.parse().unwrap());
            let written = section.alias("key", &["kEy", "clef"], &mut problems);
            let value = section.flag("key", &mut problems);
            section.finish(&mut problems);
            let problems: Vec<_> = problems.errors().iter().map(ToString::to_string).collect();
            (written, value, problems.join("\n"))
        };
        let none = String::new;
        assert_eq!(read(""), (None, None, none()));
        assert_eq!(read("key = true"), (None, Some(true), none()));
        assert_eq!(read("clef = false"), (Some("clef"), Some(false), none()));
        let mistaken = "t.clef: must be true or false, not a whole number";
        assert_eq!(read("clef = 1"), (Some("clef"), None, mistaken.to_owned()));
        let both = "t.clef: is another name of `key`, which is written too: keep one of them";
        assert_eq!(
            read("clef = false\nkey = true"),
            (None, Some(true), both.to_owned())
        );
        let others = "t.clef: is another name of `key`, and so is `kEy`: keep one of them";
        assert_eq!(
            read("clef = false\nkEy = true"),
            (Some("kEy"), Some(true), others.to_owned())
        );
    }
}

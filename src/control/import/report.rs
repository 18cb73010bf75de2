//! What has to be said about an import: what was carried over differently, what was not, what makes no sense.

use std::fmt;

use serde::Serialize;

/// The most that is said of one import, and that is wrong with it: enough for files that people write.
const MOST: usize = 10_000;

/// Where something was said: the file, by its place among those that were read, and the line, counted from 1.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Which file.
    pub file: usize,
    /// Which line.
    pub line: usize,
}

/// Something that was said, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Said<T> {
    /// What.
    pub value: T,
    /// Where.
    pub place: Place,
}

impl<T> Said<T> {
    /// Remembers where a value was said.
    pub const fn new(value: T, place: Place) -> Self {
        Self { value, place }
    }
}

/// What became of a setting.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is there, with another meaning or value.
    Different,
    /// It is not there.
    Ignored,
    /// Somebody has to decide.
    Decide,
}

impl Fate {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Different => "different",
            Self::Ignored => "ignored",
            Self::Decide => "decide",
        }
    }
}

/// What is said of one setting.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// Where it is.
    pub place: Place,
    /// The setting as it was written, more or less.
    pub setting: String,
    /// What became of it.
    pub fate: Fate,
    /// Why.
    pub why: String,
    /// What to do.
    pub action: String,
}

/// Something that makes no sense.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mistake {
    /// Where it is; nowhere in particular for what is wrong with a file or all of them.
    pub place: Option<Place>,
    /// What is wrong, and what to do.
    pub text: String,
}

/// What was noted so far.
#[derive(Debug, Default)]
pub struct Report {
    notes: Vec<Note>,
    mistakes: Vec<Mistake>,
}

impl Report {
    /// Notes that a setting was carried over differently.
    pub fn different(&mut self, place: Place, setting: impl Into<String>, why: &str, action: &str) {
        self.note(place, setting.into(), Fate::Different, why, action);
    }

    /// Notes that a setting was not carried over.
    pub fn ignored(&mut self, place: Place, setting: impl Into<String>, why: &str, action: &str) {
        self.note(place, setting.into(), Fate::Ignored, why, action);
    }

    /// Notes that somebody has to decide about a setting.
    pub fn decide(&mut self, place: Place, setting: impl Into<String>, why: &str, action: &str) {
        self.note(place, setting.into(), Fate::Decide, why, action);
    }

    /// Notes that what is written here makes no sense.
    pub fn mistake(&mut self, place: impl Into<Option<Place>>, text: impl Into<String>) {
        let (place, text) = (place.into(), text.into());
        if self.mistakes.len() < MOST {
            self.mistakes.push(Mistake { place, text });
        }
    }

    /// Returns what was noted, in the order of the files.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes = self.notes.clone();
        notes.sort_by_key(|note| note.place);
        notes
    }

    /// Returns what makes no sense, in the order of the files.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = self.mistakes.clone();
        mistakes.sort_by_key(|mistake| mistake.place);
        mistakes
    }

    /// Tells whether everything makes sense.
    pub fn makes_sense(&self) -> bool {
        self.mistakes.is_empty()
    }

    fn note(&mut self, place: Place, setting: String, fate: Fate, why: &str, action: &str) {
        if self.notes.len() >= MOST {
            return;
        }
        self.notes.push(Note {
            place,
            setting: printable(&setting),
            fate,
            why: printable(why),
            action: printable(action),
        });
    }
}

/// What was written, in one line and with nothing in it that a terminal obeys.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 400;
    let mut printable: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        printable.push('…');
    }
    printable
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fate = self.fate.name();
        write!(f, "{fate}: {}: {}; {}", self.setting, self.why, self.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_in_the_order_of_the_files_and_in_one_line_each() {
        let mut report = Report::default();
        let at = |file, line| Place { file, line };
        report.ignored(at(1, 1), "c", "it is last", "do nothing");
        report.decide(at(0, 9), "b\n\u{1b}[31m", "it is odd", "decide");
        report.different(at(0, 2), "a", "it is first", "look");
        let notes: Vec<_> = report.notes().iter().map(ToString::to_string).collect();
        assert_eq!(
            notes,
            [
                "different: a: it is first; look",
                "decide: b\u{fffd}\u{fffd}[31m: it is odd; decide",
                "ignored: c: it is last; do nothing"
            ]
        );
        assert!(report.makes_sense());
        report.mistake(at(1, 1), "is wrong");
        report.mistake(None, "all is wrong");
        assert_eq!(report.mistakes()[0].text, "all is wrong");
        assert!(!report.makes_sense());
    }

    #[test]
    fn what_is_long_is_cut() {
        let cut = printable(&"é".repeat(1000));
        assert_eq!((cut.chars().count(), cut.ends_with("é…")), (401, true));
    }
}

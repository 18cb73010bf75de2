//! The grammar of ISC's DHCP server, version 2: statements of words, each ended by a semicolon or a block of more.
//!
//! What the statements mean is not known here. Refused, each with its line: a text without its second quotation mark, a
//! statement without its end, a brace without its other, and blocks that are more than [`DEEPEST`] deep within one
//! another, so that nobody who walks them runs out of stack.

use super::report::{Place, Report};

/// How deep blocks may be within one another.
const DEEPEST: usize = 16;

/// One statement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statement {
    /// Where it begins.
    pub place: Place,
    /// Its words; there may be none before a block.
    pub words: Vec<Word>,
    /// Its block, if it has one.
    pub block: Option<Vec<Self>>,
}

/// One word of a statement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Word {
    /// What it is; a comma is a word too.
    pub text: String,
    /// Whether it was in quotation marks.
    pub quoted: bool,
}

impl Statement {
    /// Returns the text of a word, nothing where there is none.
    pub fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", |word| &word.text)
    }

    /// Returns the words from one on, commas aside.
    pub fn values(&self, from: usize) -> Vec<&str> {
        let words = self.words.iter().skip(from);
        words
            .filter(|word| word.quoted || word.text != ",")
            .map(|word| word.text.as_str())
            .collect()
    }

    /// Returns the statement as it was written, without its block.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for word in &self.words {
            let comma = !word.quoted && word.text == ",";
            if !text.is_empty() && !comma {
                text.push(' ');
            }
            if word.quoted {
                text += &format!("\"{}\"", word.text);
            } else {
                text += &word.text;
            }
        }
        text
    }
}

enum Token {
    Word(Word),
    Semicolon,
    Open,
    Close,
}

/// A block that is not closed yet.
struct Level {
    /// The statement that it belongs to.
    head: Statement,
    block: Vec<Statement>,
}

/// Reads the statements of a file; those that are whole come back whatever is wrong with others.
pub fn read(text: &str, file: usize, report: &mut Report) -> Vec<Statement> {
    let mut tokens = Tokens::new(text, file);
    let mut levels: Vec<Level> = Vec::new();
    let mut block = Vec::new();
    let mut pending: Option<Statement> = None;
    while let Some((place, token)) = tokens.next(report) {
        match token {
            Token::Word(word) => pending
                .get_or_insert_with(|| Statement::empty(place))
                .words
                .push(word),
            Token::Semicolon => block.extend(pending.take()),
            Token::Open => {
                if levels.len() == DEEPEST {
                    let text = format!("blocks are more than {DEEPEST} deep within one another");
                    report.mistake(place, text);
                    return Vec::new();
                }
                let head = pending.take();
                levels.push(Level {
                    head: head.unwrap_or_else(|| Statement::empty(place)),
                    block: std::mem::take(&mut block),
                });
            }
            Token::Close => {
                unended(pending.take(), report);
                let Some(mut level) = levels.pop() else {
                    report.mistake(place, "there is a } without its {; remove it");
                    continue;
                };
                level.head.block = Some(std::mem::replace(&mut block, level.block));
                block.push(level.head);
            }
        }
    }
    unended(pending, report);
    for level in levels.into_iter().rev() {
        let text = format!("{:?} has a {{ without its }}", level.head.text());
        report.mistake(level.head.place, text);
        block = level.block;
    }
    block
}

impl Statement {
    const fn empty(place: Place) -> Self {
        Self {
            place,
            words: Vec::new(),
            block: None,
        }
    }
}

fn unended(statement: Option<Statement>, report: &mut Report) {
    if let Some(statement) = statement {
        let text = format!("{:?} is not ended by a semicolon", statement.text());
        report.mistake(statement.place, text);
    }
}

/// A text on its way to being tokens.
struct Tokens<'a> {
    rest: &'a str,
    place: Place,
}

impl<'a> Tokens<'a> {
    const fn new(text: &'a str, file: usize) -> Self {
        Self {
            rest: text,
            place: Place { file, line: 1 },
        }
    }

    fn next(&mut self, report: &mut Report) -> Option<(Place, Token)> {
        loop {
            let first = self.rest.chars().next()?;
            let place = self.place;
            match first {
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.take(end);
                }
                '{' | '}' | ';' | ',' => {
                    let text = self.take(1);
                    let token = match text {
                        "{" => Token::Open,
                        "}" => Token::Close,
                        ";" => Token::Semicolon,
                        _ => word(text, false),
                    };
                    return Some((place, token));
                }
                '"' => {
                    self.take(1);
                    let end = self.rest.find(['"', '\n']);
                    let text = self.take(end.unwrap_or(self.rest.len()));
                    if self.rest.starts_with('"') {
                        self.take(1);
                    } else {
                        let why = format!("\"{text} has no second quotation mark");
                        report.mistake(place, why);
                    }
                    return Some((place, word(text, true)));
                }
                space if space.is_whitespace() || space == '\u{feff}' => {
                    self.take(space.len_utf8());
                }
                _ => {
                    let ends = |c: char| c.is_whitespace() || "{};,\"#".contains(c);
                    let end = self.rest.find(ends).unwrap_or(self.rest.len());
                    return Some((place, word(self.take(end), false)));
                }
            }
        }
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (text, rest) = self.rest.split_at(length);
        self.place.line += text.matches('\n').count();
        self.rest = rest;
        text
    }
}

fn word(text: &str, quoted: bool) -> Token {
    Token::Word(Word {
        text: text.to_owned(),
        quoted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mistakes(text: &str) -> Vec<String> {
        let mut report = Report::default();
        read(text, 0, &mut report);
        let mistakes = report.mistakes().into_iter();
        mistakes
            .map(|mistake| format!("{}: {}", mistake.place.unwrap().line, mistake.text))
            .collect()
    }

    #[test]
    fn statements_have_words_texts_and_blocks_and_know_their_lines() {
        let text = "# a comment; with { signs\nallow unknown-clients;\nsubnet 10.0.0.0 # more\n  netmask 255.0.0.0 {\n\toption domain-name \"a; b\";\r\n  option routers 10.0.0.1,10.0.0.2; ;\n}\n";
        let mut report = Report::default();
        let statements = read(text, 3, &mut report);
        assert!(report.makes_sense(), "{report:?}");
        assert_eq!(statements.len(), 2);
        assert_eq!(statements[0].text(), "allow unknown-clients");
        assert_eq!(statements[1].place, Place { file: 3, line: 3 });
        let block = statements[1].block.as_ref().unwrap();
        let texts: Vec<_> = block
            .iter()
            .map(|one| (one.place.line, one.text()))
            .collect();
        assert_eq!(
            texts,
            [
                (5, "option domain-name \"a; b\"".to_owned()),
                (6, "option routers 10.0.0.1, 10.0.0.2".to_owned())
            ]
        );
        assert_eq!(block[1].values(2), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!((block[1].word(1), block[1].word(9)), ("routers", ""));
    }

    #[test]
    fn every_mistake_of_grammar_is_told_with_its_line() {
        let text = "}\nrange 1\nsubnet {\n option x \"y\n;\n }\nhost a {\n group {\n";
        assert_eq!(
            mistakes(text),
            [
                "1: there is a } without its {; remove it",
                "4: \"y has no second quotation mark",
                "7: \"host a\" has a { without its }",
                "8: \"group\" has a { without its }",
            ]
        );
        assert_eq!(
            mistakes("a {\n b\n}\nc"),
            [
                "2: \"b\" is not ended by a semicolon",
                "4: \"c\" is not ended by a semicolon"
            ]
        );
    }

    #[test]
    fn blocks_are_not_deep() {
        let blocks = |depth: usize| mistakes(&("a {".repeat(depth) + &"}".repeat(depth)));
        assert_eq!(blocks(DEEPEST), [""; 0]);
        assert_eq!(blocks(DEEPEST + 1).len(), 1);
        assert_eq!(blocks(1_000_000).len(), 1);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-b{};,\"#\n é]{0,60}") {
            mistakes(&text);
        }
    }
}

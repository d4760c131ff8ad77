//! Errors and warnings of a configuration file: where, what was found, what is allowed.

use std::{
    fmt::{self, Write as _},
    path::PathBuf,
};

use serde::Serialize;

/// Errors beyond this many are not collected: nobody reads them, and a hostile file has millions.
const MOST: usize = 1000;

/// A place in the file. Both numbers count from 1, columns in characters; 0:0 is the file as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Position {
    pub(super) const START: Self = Self { line: 1, column: 1 };
    pub(super) const WHOLE_FILE: Self = Self { line: 0, column: 0 };
}

/// One error or warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// From 1; 0 if the file could not be read at all.
    pub line: usize,
    /// In characters from 1; 0 if the file could not be read at all.
    pub column: usize,
    /// Such as `services[0].backends[2].weight`; empty for the file as a whole.
    pub path: String,
    pub message: String,
}

impl Finding {
    pub(super) fn new(at: Position, path: &str, message: impl Into<String>) -> Self {
        Self { line: at.line, column: at.column, path: path.to_owned(), message: message.into() }
    }
}

impl fmt::Display for Finding {
    /// `line:column: path: message`, without what is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with one file, in file order; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    pub file: PathBuf,
    pub errors: Vec<Finding>,
}

impl fmt::Display for ConfigErrors {
    /// One line each: `file:line:column: path: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_char('\n')?;
            }
            write!(f, "{}:", self.file.display())?;
            if error.line == 0 {
                f.write_char(' ')?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects errors while the file is walked.
#[derive(Debug, Default)]
pub(super) struct Errors {
    found: Vec<Finding>,
}

impl Errors {
    pub(super) fn add(&mut self, at: Position, path: &str, message: impl Into<String>) {
        if !self.full() {
            self.found.push(Finding::new(at, path, message));
        }
    }

    pub(super) fn push(&mut self, finding: Finding) {
        self.found.push(finding);
    }

    /// True once further errors would not be kept, so that nobody need look for them.
    pub(super) fn full(&self) -> bool {
        self.found.len() >= MOST
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// In file order.
    pub(super) fn into_sorted(mut self) -> Vec<Finding> {
        let full = self.full();
        self.found.sort_by(|a, b| {
            (a.line, a.column, &a.path, &a.message).cmp(&(b.line, b.column, &b.path, &b.message))
        });
        self.found.dedup();
        if full {
            let message = format!("more than {MOST} errors; the rest is not shown");
            self.found.push(Finding::new(Position::WHOLE_FILE, "", message));
        }
        self.found
    }
}

/// `path.key`, with a key that could confuse a reader quoted and cut.
pub(super) fn key_path(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let key = if !key.is_empty() && key.len() <= 63 && key.chars().all(plain) {
        key.to_owned()
    } else {
        quote(key)
    };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// `path[index]`.
pub(super) fn item_path(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Text from the file as an error shows it: escaped, and cut after 60 characters.
pub(super) fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        shown.push_str("...");
    }
    format!("\"{shown}\"")
}

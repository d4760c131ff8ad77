//! The file as a tree that knows where everything stands, built within fixed limits.
//!
//! YAML is richer than a configuration needs: several documents, tags and merge keys are refused.
//! Anchors and aliases work, as far as what they expand to stays small.

use std::{collections::HashMap, rc::Rc};

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::error::{Finding, Position};

/// Largest file in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Lists and mappings inside each other. The deepest key of the contract is at 7.
pub(super) const MAX_DEPTH: usize = 32;
/// Values of a file whose aliases are replaced by what they stand for. The largest configuration
/// within the limits (16,384 backends written one by one) has about 100,000.
pub(super) const MAX_VALUES: usize = 150_000;

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) kind: Kind,
    /// Values in it, itself included, aliases expanded.
    values: usize,
    /// Containers inside each other, itself included, aliases expanded.
    depth: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    Scalar(Scalar),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Position,
    pub(super) value: Rc<Node>,
}

#[derive(Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Written without quotes, so that it may mean a number, a truth value or nothing.
    pub(super) plain: bool,
}

/// What a scalar means by the core schema of YAML 1.2 (§10.3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meaning {
    Nothing,
    Truth(bool),
    /// A decimal integer; `None` if it is any other number.
    Number(Option<i64>),
    Text,
}

impl Scalar {
    pub(super) fn meaning(&self) -> Meaning {
        if !self.plain {
            return Meaning::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => return Meaning::Nothing,
            "true" | "True" | "TRUE" => return Meaning::Truth(true),
            "false" | "False" | "FALSE" => return Meaning::Truth(false),
            ".nan" | ".NaN" | ".NAN" => return Meaning::Number(None),
            _ => {}
        }
        let unsigned = self.text.strip_prefix(['-', '+']).unwrap_or(&self.text);
        let all = |text: &str, ok: fn(char) -> bool| !text.is_empty() && text.chars().all(ok);
        if all(unsigned, |c| c.is_ascii_digit()) {
            let canonical = unsigned == "0" || !unsigned.starts_with('0');
            let value = if canonical { self.text.parse().ok() } else { None };
            return Meaning::Number(value);
        }
        let radix = |prefix: &str, ok| self.text.strip_prefix(prefix).is_some_and(|d| all(d, ok));
        if radix("0x", |c| c.is_ascii_hexdigit())
            || radix("0o", |c| ('0'..='7').contains(&c))
            || matches!(unsigned, ".inf" | ".Inf" | ".INF")
            || (unsigned.starts_with(|c: char| c == '.' || c.is_ascii_digit())
                && unsigned.parse::<f64>().is_ok())
        {
            return Meaning::Number(None);
        }
        Meaning::Text
    }
}

impl Node {
    pub(super) fn new(at: Position, kind: Kind) -> Self {
        let (values, depth) = match &kind {
            Kind::Scalar(_) => (1, 0),
            Kind::List(items) => sum(items.iter()),
            Kind::Map(entries) => sum(entries.iter().map(|e| &e.value)),
        };
        Self { at, kind, values, depth }
    }

    /// The value of a key, if this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &*e.value),
            Kind::List(_) | Kind::Scalar(_) => None,
        }
    }

    /// An element, if this is a list that has it.
    pub(super) fn item(&self, index: usize) -> Option<&Self> {
        match &self.kind {
            Kind::List(items) => items.get(index).map(|i| &**i),
            Kind::Map(_) | Kind::Scalar(_) => None,
        }
    }

    /// True for `key:` without a value, and for null.
    pub(super) fn is_nothing(&self) -> bool {
        match &self.kind {
            Kind::Scalar(scalar) => scalar.meaning() == Meaning::Nothing,
            Kind::List(_) | Kind::Map(_) => false,
        }
    }

    pub(super) fn is_list(&self) -> bool {
        match self.kind {
            Kind::List(_) => true,
            Kind::Map(_) | Kind::Scalar(_) => false,
        }
    }
}

fn sum<'a>(children: impl Iterator<Item = &'a Rc<Node>>) -> (usize, usize) {
    children.fold((1, 1), |(values, depth), child| {
        (values.saturating_add(child.values), depth.max(child.depth + 1))
    })
}

/// A container whose end has not been read yet.
struct Open {
    at: Position,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>, Option<(String, Position)>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
}

/// Reads one document.
///
/// # Errors
/// The first thing that is no YAML, is a kind of YAML that a configuration does not need, or breaks
/// a limit.
pub(super) fn parse(text: &str) -> Result<Rc<Node>, Finding> {
    refuse_control_characters(text)?;
    let root = read_events(text).map_err(|mut error| {
        if error.line.checked_sub(1).and_then(|i| text.lines().nth(i)).is_some_and(has_bare_ipv6) {
            error
                .message
                .push_str("; an IPv6 address with a port needs quotes: \"[2001:db8::1]:5060\"");
        }
        error
    })?;
    root.filter(|root| !root.is_nothing()).ok_or_else(|| {
        let message = "the file is empty; at least interfaces and services are needed";
        Finding::new(Position::START, "", message)
    })
}

fn read_events(text: &str) -> Result<Option<Rc<Node>>, Finding> {
    let mut builder = Builder::default();
    for (count, event) in Parser::new_from_str(text).enumerate() {
        let (event, span) = event.map_err(|e| {
            let at = Position { line: e.marker().line(), column: e.marker().col() + 1 };
            // The scanner looks ahead, so that its own limit of 255 can come first.
            if e.info() == "recursion limit exceeded" {
                return too_deep(at);
            }
            Finding::new(at, "", format!("this is not YAML: {}", e.info()))
        })?;
        let at = position(&span);
        if count > 2 * MAX_VALUES {
            return too_many(at);
        }
        builder.take(event, at)?;
    }
    Ok(builder.root)
}

/// `[2001:db8::1]:5060` without quotes is a list for YAML.
fn has_bare_ipv6(line: &str) -> bool {
    line.split("]:").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn position(span: &Span) -> Position {
    Position { line: span.start.line().max(1), column: span.start.col() + 1 }
}

fn refuse_control_characters(text: &str) -> Result<(), Finding> {
    let bad = |c: char| (c.is_control() && !matches!(c, '\t' | '\n' | '\r')) || c == '\u{feff}';
    let Some(offset) = text.find(bad) else { return Ok(()) };
    let (before, after) = text.split_at(offset);
    let found = u32::from(after.chars().next().unwrap_or_default());
    let message = format!(
        "found the control character U+{found:04X}, allowed is text; is this a configuration file?"
    );
    Err(Finding::new(end_of(before), "", message))
}

/// The position after `text`.
pub(super) fn end_of(text: &str) -> Position {
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Position { line, column }
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: Position) -> Result<(), Finding> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                if self.root.is_some() {
                    return refuse(at, "found a second document, allowed is one in a file");
                }
                Ok(())
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    let node = Rc::clone(node);
                    self.put(at, node)
                }
                None => refuse(at, "an alias stands inside the value that it names"),
            },
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(at, tag.is_some())?;
                let plain = style == ScalarStyle::Plain;
                let scalar = Scalar { text: text.into_owned(), plain };
                self.close(Node::new(at, Kind::Scalar(scalar)), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(at, tag.is_some())?;
                self.open(Open { at, anchor, kind: OpenKind::List(Vec::new()) })
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(at, tag.is_some())?;
                self.open(Open { at, anchor, kind: OpenKind::Map(Vec::new(), None) })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { at, anchor, kind: OpenKind::List(items) }) => {
                    self.close(Node::new(at, Kind::List(items)), anchor)
                }
                Some(Open { at, anchor, kind: OpenKind::Map(entries, _) }) => {
                    self.close(Node::new(at, Kind::Map(entries)), anchor)
                }
                None => refuse(at, "this is not YAML: an end without a start"),
            },
        }
    }

    fn open(&mut self, open: Open) -> Result<(), Finding> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(open.at));
        }
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self, node: Node, anchor: usize) -> Result<(), Finding> {
        let at = node.at;
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.put(at, node)
    }

    /// Gives a complete value to the container around it.
    fn put(&mut self, at: Position, node: Rc<Node>) -> Result<(), Finding> {
        if node.values > MAX_VALUES {
            return too_many(at);
        }
        if self.open.len() + node.depth > MAX_DEPTH {
            return Err(too_deep(at));
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(node),
            Some(OpenKind::List(items)) => items.push(node),
            Some(OpenKind::Map(entries, pending)) => match pending.take() {
                Some((key, key_at)) => entries.push(Entry { key, key_at, value: node }),
                None => match &node.kind {
                    Kind::Scalar(scalar) => *pending = Some((scalar.text.clone(), at)),
                    Kind::List(_) => return refuse(at, "found a list as a key, allowed is text"),
                    Kind::Map(_) => return refuse(at, "found a mapping as a key, allowed is text"),
                },
            },
        }
        Ok(())
    }
}

fn refuse<T>(at: Position, message: &str) -> Result<T, Finding> {
    Err(Finding::new(at, "", message))
}

fn refuse_tag(at: Position, tagged: bool) -> Result<(), Finding> {
    if tagged { refuse(at, "found a tag (!...), allowed are values without tags") } else { Ok(()) }
}

fn too_many<T>(at: Position) -> Result<T, Finding> {
    let message = format!(
        "found more than {MAX_VALUES} values, counting what aliases stand for; allowed are fewer"
    );
    refuse(at, &message)
}

fn too_deep(at: Position) -> Finding {
    let message =
        format!("found lists and mappings nested more than {MAX_DEPTH} deep; allowed are fewer");
    Finding::new(at, "", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_the_core_schema_says() {
        let cases = [
            ("", Meaning::Nothing),
            ("~", Meaning::Nothing),
            ("null", Meaning::Nothing),
            ("nULL", Meaning::Text),
            ("true", Meaning::Truth(true)),
            ("FALSE", Meaning::Truth(false)),
            ("off", Meaning::Text),
            ("no", Meaning::Text),
            ("0", Meaning::Number(Some(0))),
            ("+5", Meaning::Number(Some(5))),
            ("-5", Meaning::Number(Some(-5))),
            ("05", Meaning::Number(None)),
            ("0x1F", Meaning::Number(None)),
            ("0o17", Meaning::Number(None)),
            ("0o18", Meaning::Text),
            ("1.5", Meaning::Number(None)),
            (".5", Meaning::Number(None)),
            ("1e3", Meaning::Number(None)),
            ("-.inf", Meaning::Number(None)),
            (".nan", Meaning::Number(None)),
            ("99999999999999999999", Meaning::Number(None)),
            ("2s", Meaning::Text),
            ("10.0.0.1", Meaning::Text),
            ("10.0.0.1:5060", Meaning::Text),
            ("-", Meaning::Text),
            ("inf", Meaning::Text),
            ("2xx", Meaning::Text),
        ];
        for (text, meaning) in cases {
            let scalar = Scalar { text: text.to_owned(), plain: true };
            assert_eq!(scalar.meaning(), meaning, "{text}");
            let quoted = Scalar { text: text.to_owned(), plain: false };
            assert_eq!(quoted.meaning(), Meaning::Text, "quoted {text}");
        }
    }

    #[test]
    fn positions_count_characters_from_one() {
        let tree = parse("ä: 1\nb:\n  - ü\n  -   x: y\n").unwrap();
        let at = |node: &Node| (node.at.line, node.at.column);
        assert_eq!(at(tree.get("ä").unwrap()), (1, 4));
        let list = tree.get("b").unwrap();
        assert_eq!(at(list.item(0).unwrap()), (3, 5));
        assert_eq!(at(list.item(1).unwrap().get("x").unwrap()), (4, 10));
    }
}

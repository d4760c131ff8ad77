//! Structural check: a tree against the shape that it must have, every error in one walk.
//!
//! The result is a value that holds only what is right, with defaults filled in. What is wrong
//! becomes null in it, so that the rules between keys can still be checked around the gap.

use std::{collections::HashSet, time::Duration};

use serde_yaml::{Mapping, Value};

use super::{
    error::{Errors, Position, item_path, key_path, quote},
    tree::{Kind, Meaning, Node, Scalar},
    values,
};

/// What a value must look like.
pub(super) enum Shape {
    /// Text in a small language of its own.
    Text(&'static Text),
    Int {
        min: u64,
        max: u64,
    },
    /// A duration with a unit.
    Span {
        min: Duration,
        max: Duration,
    },
    /// One of these words.
    Choice(&'static [Word]),
    List {
        of: &'static Self,
        most: usize,
        /// A single element may be written without brackets.
        or_one: bool,
    },
    Map(&'static [Field]),
    /// The word `off`, or what is inside.
    OrOff(&'static Self),
    /// Status codes, classes, or the word `any`.
    Answers,
}

/// A kind of text.
pub(super) struct Text {
    /// Says what is allowed if the text is not.
    pub(super) check: fn(&str) -> Result<(), String>,
    /// The same, as a regular expression for the JSON Schema; it may allow more.
    pub(super) pattern: &'static str,
}

/// A word of a [`Shape::Choice`].
pub(super) struct Word {
    pub(super) text: &'static str,
    /// False for words of later versions.
    pub(super) works: bool,
}

/// A key of a mapping.
pub(super) struct Field {
    pub(super) key: &'static str,
    pub(super) need: Need,
    pub(super) shape: &'static Shape,
    /// What it is for; the description in the JSON Schema.
    pub(super) about: &'static str,
}

pub(super) enum Need {
    Required,
    /// May be absent.
    Optional,
    /// May be absent and is then this, in YAML (`{}` or a plain scalar).
    Default(&'static str),
    /// A key of later versions.
    Later,
    /// Not here but there.
    Elsewhere(&'static str),
}

impl Field {
    /// True for keys that may be written.
    pub(super) fn works(&self) -> bool {
        match self.need {
            Need::Required | Need::Optional | Need::Default(_) => true,
            Need::Later | Need::Elsewhere(_) => false,
        }
    }
}

/// Checks `node` and returns what of it can be used; nothing once there are too many errors.
pub(super) fn check(node: &Node, shape: &Shape, path: &str, errors: &mut Errors) -> Value {
    if errors.full() {
        return Value::Null;
    }
    let spot = Spot { node, path };
    match shape {
        Shape::Map(fields) => match &node.kind {
            Kind::Map(_) => spot.mapping(fields, errors),
            Kind::List(_) | Kind::Scalar(_) => {
                let keys: Vec<_> = works(fields).map(|f| f.key).collect();
                spot.refuse(&format!("allowed is a mapping with {}", keys.join(", ")), errors)
            }
        },
        Shape::List { of, most, or_one } => match &node.kind {
            Kind::List(items) => {
                if items.is_empty() {
                    return spot.refuse("allowed is at least one", errors);
                }
                if items.len() > *most {
                    let message =
                        format!("found {} of them, allowed are at most {most}", items.len());
                    errors.add(node.at, path, message);
                }
                let check_item = |(i, item): (usize, &std::rc::Rc<Node>)| {
                    check(item, of, &item_path(path, i), errors)
                };
                Value::Sequence(items.iter().enumerate().map(check_item).collect())
            }
            Kind::Map(_) | Kind::Scalar(_) if *or_one => {
                Value::Sequence(vec![check(node, of, path, errors)])
            }
            Kind::Map(_) | Kind::Scalar(_) => {
                spot.refuse("allowed is a list: [a, b], or lines that start with a dash", errors)
            }
        },
        Shape::OrOff(inside) => match spot.scalar() {
            Some(scalar) if is_off(scalar) => Value::from("off"),
            Some(_) => spot.refuse("allowed is off or a mapping", errors),
            None => check(node, inside, path, errors),
        },
        Shape::Answers => spot.answers(errors),
        Shape::Text(_) | Shape::Int { .. } | Shape::Span { .. } | Shape::Choice(_) => {
            match scalar(spot.scalar(), shape) {
                Ok(value) => value,
                Err(allowed) => spot.refuse(&allowed, errors),
            }
        }
    }
}

fn works(fields: &'static [Field]) -> impl Iterator<Item = &'static Field> {
    fields.iter().filter(|f| f.works())
}

/// A value of the file and its key path.
struct Spot<'a> {
    node: &'a Node,
    path: &'a str,
}

impl<'a> Spot<'a> {
    fn scalar(&self) -> Option<&'a Scalar> {
        match &self.node.kind {
            Kind::Scalar(scalar) => Some(scalar),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// Records that this value is not what is allowed.
    fn refuse(&self, allowed: &str, errors: &mut Errors) -> Value {
        errors.add(self.node.at, self.path, format!("found {}, {allowed}", found(self.node)));
        Value::Null
    }

    fn mapping(&self, fields: &'static [Field], errors: &mut Errors) -> Value {
        let Kind::Map(entries) = &self.node.kind else { return Value::Null };
        let mut seen = HashSet::new();
        let mut value = Mapping::new();
        for entry in entries {
            if errors.full() {
                break;
            }
            let path = key_path(self.path, &entry.key);
            if !seen.insert(&entry.key) {
                let first =
                    entries.iter().find(|e| e.key == entry.key).map_or(0, |e| e.key_at.line);
                let message = format!("found this key twice, allowed is once; see line {first}");
                errors.add(entry.key_at, &path, message);
                continue;
            }
            let Some(field) = fields.iter().find(|f| f.key == entry.key) else {
                errors.add(entry.key_at, &path, unknown(&entry.key, fields));
                continue;
            };
            match field.need {
                Need::Later => {
                    errors.add(entry.key_at, &path, "this key is not supported yet; remove it")
                }
                Need::Elsewhere(place) => {
                    errors.add(
                        entry.key_at,
                        &path,
                        format!("this key is not allowed here; {place}"),
                    );
                }
                Need::Required | Need::Optional | Need::Default(_) if entry.value.is_nothing() => {
                    let message = "found nothing; write a value or remove the key";
                    errors.add(entry.key_at, &path, message);
                    value.insert(field.key.into(), Value::Null);
                }
                Need::Required | Need::Optional | Need::Default(_) => {
                    let checked = check(&entry.value, field.shape, &path, errors);
                    value.insert(field.key.into(), checked);
                }
            }
        }
        for field in fields.iter().filter(|f| !seen.iter().any(|s| *s == f.key)) {
            match field.need {
                Need::Required => {
                    let path = key_path(self.path, field.key);
                    errors.add(
                        self.node.at,
                        &path,
                        format!("this key is missing: {}", field.about),
                    );
                }
                Need::Default(text) => {
                    value.insert(field.key.into(), default(text, field.shape));
                }
                Need::Optional | Need::Later | Need::Elsewhere(_) => {}
            }
        }
        Value::Mapping(value)
    }

    /// `any`, or a list of codes and classes, or one of them.
    fn answers(&self, errors: &mut Errors) -> Value {
        const ALLOWED: &str = "allowed is any, a status code from 100 to 699, a class such as 2xx, \
                               or a list of codes and classes";
        let code = |node: &Node| -> Option<Value> {
            let Kind::Scalar(scalar) = &node.kind else { return None };
            match scalar.meaning() {
                Meaning::Number(Some(code)) if (100..=699).contains(&code) => Some(code.into()),
                Meaning::Text => {
                    values::status_class(&scalar.text).map(|_| scalar.text.as_str().into())
                }
                Meaning::Number(_) | Meaning::Nothing | Meaning::Truth(_) => None,
            }
        };
        match &self.node.kind {
            Kind::Scalar(scalar) if scalar.text == "any" => Value::from("any"),
            Kind::List(items) if !items.is_empty() => {
                let mut codes = Vec::new();
                for (i, item) in items.iter().enumerate() {
                    let path = item_path(self.path, i);
                    codes.push(code(item).unwrap_or_else(|| {
                        Spot { node: item, path: &path }.refuse(ALLOWED, errors)
                    }));
                }
                Value::Sequence(codes)
            }
            Kind::Scalar(_) | Kind::List(_) | Kind::Map(_) => match code(self.node) {
                Some(code) => Value::Sequence(vec![code]),
                None => self.refuse(ALLOWED, errors),
            },
        }
    }
}

/// A scalar against a scalar shape; the error says what is allowed.
fn scalar(scalar: Option<&Scalar>, shape: &Shape) -> Result<Value, String> {
    let text = |scalar: &Scalar| (scalar.meaning() == Meaning::Text).then(|| scalar.text.clone());
    match shape {
        Shape::Text(kind) => match scalar {
            None => Err("allowed is text".to_owned()),
            Some(scalar) => match text(scalar) {
                Some(text) => (kind.check)(&text).map(|()| text.into()),
                None => Err("allowed is text; put it in quotes".to_owned()),
            },
        },
        Shape::Int { min, max } => {
            let range = || format!("allowed is a whole number from {min} to {max}");
            match scalar.map(|s| (s, s.meaning())) {
                Some((_, Meaning::Number(Some(n)))) => u64::try_from(n)
                    .ok()
                    .filter(|n| (min..=max).contains(&n))
                    .map(Value::from)
                    .ok_or_else(range),
                Some((s, Meaning::Text)) if s.text.parse::<u64>().is_ok() => {
                    Err(format!("{}; remove the quotes", range()))
                }
                Some((s, Meaning::Number(None))) if s.text.bytes().all(|b| b.is_ascii_digit()) => {
                    Err(format!("{}, without leading zeros", range()))
                }
                Some(_) | None => Err(range()),
            }
        }
        Shape::Span { min, max } => {
            let shown = [*min, *max].map(values::show_duration);
            let range = || {
                format!(
                    "allowed is a duration from {} to {} such as 500ms, 2s or 3h",
                    shown[0], shown[1]
                )
            };
            match scalar.map(|s| (s, s.meaning())) {
                Some((s, Meaning::Text)) => values::duration(&s.text)
                    .filter(|d| (min..=max).contains(&d))
                    .map(|_| s.text.as_str().into())
                    .ok_or_else(range),
                Some((s, Meaning::Number(Some(_)))) => {
                    Err(format!("{}; the unit is missing: {}s", range(), s.text))
                }
                Some((_, Meaning::Number(None) | Meaning::Nothing | Meaning::Truth(_))) | None => {
                    Err(range())
                }
            }
        }
        Shape::Choice(words) => {
            let text = match scalar {
                Some(scalar) if is_off(scalar) => Some("off".to_owned()),
                Some(scalar) => text(scalar),
                None => None,
            };
            match words.iter().find(|w| Some(w.text) == text.as_deref()) {
                Some(word) if word.works => Ok(word.text.into()),
                Some(_) => Err(format!("which is not supported yet; {}", choices(words))),
                None => Err(choices(words)),
            }
        }
        Shape::List { .. } | Shape::Map(_) | Shape::OrOff(_) | Shape::Answers => {
            Err("allowed is no scalar".to_owned())
        }
    }
}

fn choices(words: &[Word]) -> String {
    let works: Vec<_> = words.iter().filter(|w| w.works).map(|w| w.text).collect();
    format!("allowed is {}", works.join(", "))
}

/// YAML 1.1 reads an unquoted `off` as false, and so do tools that write YAML.
fn is_off(scalar: &Scalar) -> bool {
    scalar.text == "off" || scalar.meaning() == Meaning::Truth(false)
}

/// The value of an absent key.
fn default(text: &'static str, shape: &Shape) -> Value {
    let mut errors = Errors::default();
    let node = match text {
        "{}" => Node::new(Position::START, Kind::Map(Vec::new())),
        text => {
            let scalar = Scalar { text: text.to_owned(), plain: true };
            Node::new(Position::START, Kind::Scalar(scalar))
        }
    };
    let value = check(&node, shape, "", &mut errors);
    debug_assert!(errors.is_empty(), "the default {text} does not pass its own check: {errors:?}");
    value
}

/// What an error says was found.
fn found(node: &Node) -> String {
    match &node.kind {
        Kind::List(items) => match items.len() {
            0 => "an empty list".to_owned(),
            n => format!("a list of {n}"),
        },
        Kind::Map(_) => "a mapping".to_owned(),
        Kind::Scalar(scalar) => match scalar.meaning() {
            Meaning::Nothing => "nothing".to_owned(),
            Meaning::Truth(truth) => truth.to_string(),
            Meaning::Number(_) => format!("the number {}", quote(&scalar.text).trim_matches('"')),
            Meaning::Text => values::show_text(&scalar.text),
        },
    }
}

fn unknown(key: &str, fields: &'static [Field]) -> String {
    if key == "<<" {
        return "found a merge key, allowed are keys written out".to_owned();
    }
    let keys: Vec<_> = works(fields).map(|f| f.key).collect();
    let near = |candidate: &&&str| {
        key.len() <= 40
            && strsim::damerau_levenshtein(key, candidate) <= candidate.len().div_ceil(3)
    };
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(key, candidate);
    let hint = match keys.iter().filter(near).min_by_key(distance) {
        Some(near) => format!("did you mean {near}? "),
        None => String::new(),
    };
    format!("unknown key; {hint}allowed are {}", keys.join(", "))
}

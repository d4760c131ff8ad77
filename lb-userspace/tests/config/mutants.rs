//! Valid files with one thing changed.

use std::{fs, path::Path};

use lb_userspace::config;
use proptest::prelude::*;
use serde_yaml::Value;

use super::{parse, valid_texts};

/// A step into a value.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Key(String),
    Item(usize),
}

/// Every value below `value`, with the way to it.
fn walk(value: &Value, way: &mut Vec<Step>, visit: &mut impl FnMut(&[Step], &Value)) {
    visit(way, value);
    match value {
        Value::Mapping(map) => {
            for (key, inner) in map {
                way.push(Step::Key(key.as_str().unwrap().to_owned()));
                walk(inner, way, visit);
                way.pop();
            }
        }
        Value::Sequence(items) => {
            for (i, inner) in items.iter().enumerate() {
                way.push(Step::Item(i));
                walk(inner, way, visit);
                way.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Tagged(_) => {}
    }
}

fn at<'a>(value: &'a mut Value, way: &[Step]) -> &'a mut Value {
    way.iter().fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key.as_str()).unwrap(),
        Step::Item(i) => value.get_mut(*i).unwrap(),
    })
}

fn shown(way: &[Step]) -> String {
    let mut path = String::new();
    for step in way {
        match step {
            Step::Key(key) if path.is_empty() => path.push_str(key),
            Step::Key(key) => path.push_str(&format!(".{key}")),
            Step::Item(i) => path.push_str(&format!("[{i}]")),
        }
    }
    path
}

pub(crate) fn ways(value: &Value) -> Vec<(Vec<Step>, Value)> {
    let mut ways = Vec::new();
    walk(value, &mut Vec::new(), &mut |way, value| ways.push((way.to_vec(), value.clone())));
    ways
}

#[test]
fn an_unknown_key_is_refused_in_every_mapping_of_every_valid_file() {
    let mut tried = 0;
    let schema = jsonschema::validator_for(&config::json_schema()).unwrap();
    for (file, text) in valid_texts() {
        let original: Value = serde_yaml::from_str(&text).unwrap();
        for (way, _) in ways(&original).iter().filter(|(_, value)| value.is_mapping()) {
            let mut mutated = original.clone();
            let map = at(&mut mutated, way).as_mapping_mut().unwrap();
            map.insert("zebra".into(), 1.into());
            let text = serde_yaml::to_string(&mutated).unwrap();
            let errors = parse(&text).expect_err(&text).errors;
            let place = format!("{} of {}", shown(way), file.display());
            assert_eq!(errors.len(), 1, "{place}: {errors:?}");
            let mut path = way.clone();
            path.push(Step::Key("zebra".to_owned()));
            assert_eq!(errors[0].path, shown(&path), "{place}");
            let line = text.lines().position(|l| l.contains("zebra")).unwrap();
            assert_eq!(errors[0].line, line + 1, "{place}");
            let column = text.lines().nth(line).unwrap().find("zebra").unwrap();
            assert_eq!(errors[0].column, column + 1, "{place}");
            assert!(errors[0].message.starts_with("unknown key; "), "{place}");
            assert!(!schema.is_valid(&serde_json::to_value(&mutated).unwrap()), "{place}");
            tried += 1;
        }
    }
    assert!(tried > 60, "only {tried} mappings");
}

#[test]
fn a_value_of_another_type_is_refused_at_every_place_of_every_valid_file() {
    let mut tried = 0;
    let schema = jsonschema::validator_for(&config::json_schema()).unwrap();
    for (file, text) in valid_texts() {
        let original: Value = serde_yaml::from_str(&text).unwrap();
        for (way, value) in ways(&original) {
            let wrong: Value = match value {
                Value::Mapping(_) | Value::Sequence(_) => Value::from(-1),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Tagged(_) => serde_yaml::from_str("{ zebra: 1 }").unwrap(),
            };
            let mut mutated = original.clone();
            *at(&mut mutated, &way) = wrong;
            let errors = parse(&serde_yaml::to_string(&mutated).unwrap()).unwrap_err().errors;
            let path = shown(&way);
            let place = format!("{path} of {}: {errors:?}", file.display());
            assert!(errors.iter().any(|e| e.path.starts_with(&path)), "{place}");
            assert!(!schema.is_valid(&serde_json::to_value(&mutated).unwrap()), "{place}");
            tried += 1;
        }
    }
    assert!(tried > 250, "only {tried} values");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bytes.yaml");
        fs::write(&file, bytes).unwrap();
        prop_assert!(config::load(&file).is_err());
    }

    #[test]
    fn text_like_yaml_never_panics(text in "([a-z\\[\\]{}:,&*!|>'\"%@#?\n\t -]|: |- |\n  |interfaces|services|é){0,80}") {
        prop_assert!(parse(&text).is_err());
    }

    #[test]
    fn a_damaged_file_never_panics(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        length in 0usize..8,
        insert in "[a-z0-9\\[\\]{}:,&*!|>'\"%@#?\n\t -]{0,6}",
    ) {
        let texts = valid_texts();
        let chars: Vec<char> = texts[which.index(texts.len())].1.chars().collect();
        let at = at.index(chars.len());
        let end = (at + length).min(chars.len());
        let damaged: String = chars[..at].iter().copied().chain(insert.chars()).chain(chars[end..].iter().copied()).collect();
        match parse(&damaged) {
            Ok(loaded) => prop_assert!(!loaded.config.services.is_empty()),
            Err(errors) => prop_assert!(!errors.errors.is_empty()),
        }
    }
}

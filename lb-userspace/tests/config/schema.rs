//! The JSON Schema says of every file what the program says, and the examples use all of it.

use std::fs;

use lb_userspace::config;

use super::{
    example, fixtures,
    mutants::{Step, ways},
    valid_texts,
};

#[test]
fn the_json_schema_accepts_every_valid_file() {
    let schema = config::json_schema();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (file, text) in valid_texts() {
        let value: serde_json::Value = serde_yaml::from_str(&text).unwrap();
        let errors: Vec<_> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", file.display());
    }
}

#[test]
fn the_json_schema_refuses_what_is_wrong_in_structure() {
    let validator = jsonschema::validator_for(&config::json_schema()).unwrap();
    let names = [
        "addresses",
        "many-errors",
        "missing",
        "missing-in-a-service",
        "not-a-mapping",
        "not-yet",
        "nothing-written",
        "panic-at-a-backend",
        "socket-and-lost",
        "spelling",
        "wrong-types",
    ];
    for name in names {
        let file = fixtures("invalid").join(name).with_extension("yaml");
        let value: serde_json::Value =
            serde_yaml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        assert!(!validator.is_valid(&value), "{name}");
    }
}

/// Every key of the schema, as paths without indices.
fn schema_keys(schema: &serde_json::Value, path: &str, keys: &mut Vec<String>) {
    for inner in schema["anyOf"].as_array().into_iter().flatten().chain(schema.get("items")) {
        schema_keys(inner, path, keys);
    }
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        schema_keys(inner, &path, keys);
        keys.push(path);
    }
}

#[test]
fn two_valid_files_use_every_key_of_the_schema() {
    let mut keys = Vec::new();
    schema_keys(&config::json_schema(), "", &mut keys);
    // Only one of the two may be written; another fixture has the file.
    keys.retain(|key| key != ".hash_key_file");
    // A backend of a rule is one like any other.
    let plain = |key: &str| {
        key.replace(".domains.backends", ".backends").replace(".methods.backends", ".backends")
    };
    keys = keys.iter().map(|key| plain(key)).collect();
    keys.sort();
    keys.dedup();
    assert!(keys.len() > 50, "only {} keys", keys.len());
    let mut used = Vec::new();
    for file in ["everything.yaml", "sets.yaml"] {
        let text = fs::read_to_string(fixtures("valid").join(file)).unwrap();
        for (way, _) in ways(&serde_yaml::from_str(&text).unwrap()) {
            let step = |step: &Step| match step {
                Step::Key(key) => format!(".{key}"),
                Step::Item(_) => String::new(),
            };
            used.push(plain(&way.iter().map(step).collect::<String>()));
        }
    }
    let unused: Vec<_> = keys.iter().filter(|key| !used.contains(key)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

#[test]
fn the_example_names_every_key_of_the_schema() {
    let mut keys = Vec::new();
    schema_keys(&config::json_schema(), "", &mut keys);
    let text = fs::read_to_string(example()).unwrap();
    let named: Vec<_> = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let missing: Vec<_> =
        keys.iter().filter(|key| !named.contains(&key.rsplit('.').next().unwrap())).collect();
    assert!(keys.len() > 50 && missing.is_empty(), "{missing:?}");
}

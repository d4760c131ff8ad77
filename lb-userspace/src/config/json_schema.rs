//! The JSON Schema of the configuration, for editors and for whoever generates it.
//!
//! It describes the structure. Rules between keys, such as unique names, are only known to
//! [`super::load`].

use serde_json::{Map, Value, json};

use super::{
    schema::ROOT,
    shape::{Field, Need, Shape},
    values::show_duration,
};

/// A JSON Schema (draft 2020-12) that accepts every valid configuration.
#[must_use]
pub fn json_schema() -> Value {
    let mut schema = object(&ROOT);
    schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("title".to_owned(), "sip-lb configuration".into());
    schema.into()
}

fn object(shape: &Shape) -> Map<String, Value> {
    let value = match shape {
        Shape::Text(kind) => json!({ "type": "string", "pattern": kind.pattern }),
        Shape::Int { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Shape::Span { min, max } => json!({
            "type": "string",
            "pattern": "^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$",
            "$comment": format!("from {} to {}", show_duration(*min), show_duration(*max)),
        }),
        Shape::Choice(words) => {
            let works = words.iter().filter(|w| w.works).map(|w| w.text);
            let mut allowed: Vec<Value> = works.map(Value::from).collect();
            // What a reader of YAML 1.1 makes of an unquoted `off`.
            if allowed.iter().any(|a| a == "off") {
                allowed.push(false.into());
            }
            json!({ "enum": allowed })
        }
        Shape::List { of, most, or_one } => {
            let items = object(of);
            let list = json!({ "type": "array", "minItems": 1, "maxItems": most, "items": items });
            if *or_one { json!({ "anyOf": [items, list] }) } else { list }
        }
        Shape::Map(fields) => mapping(fields),
        Shape::OrOff(inside) => json!({ "anyOf": [{ "enum": ["off", false] }, object(inside)] }),
        Shape::Answers => {
            let code = json!({ "anyOf": [
                { "type": "integer", "minimum": 100, "maximum": 699 },
                { "type": "string", "pattern": "^[1-6](xx|XX)$" },
            ] });
            let list = json!({ "type": "array", "minItems": 1, "items": code });
            json!({ "anyOf": [{ "const": "any" }, code, list] })
        }
    };
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}

fn mapping(fields: &[Field]) -> Value {
    let works = || fields.iter().filter(|f| f.works());
    let properties: Map<String, Value> = works()
        .map(|field| {
            let mut property = object(field.shape);
            property.insert("description".to_owned(), field.about.into());
            if let Need::Default(text) = field.need {
                property.insert("default".to_owned(), default(text, field.shape));
            }
            (field.key.to_owned(), property.into())
        })
        .collect();
    let required: Vec<_> =
        works().filter(|f| matches!(f.need, Need::Required)).map(|f| f.key).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn default(text: &str, shape: &Shape) -> Value {
    match shape {
        Shape::Map(_) => Value::Object(Map::new()),
        Shape::Int { .. } => text.parse::<u64>().map_or(Value::Null, Value::from),
        Shape::Text(_)
        | Shape::Span { .. }
        | Shape::Choice(_)
        | Shape::List { .. }
        | Shape::OrOff(_)
        | Shape::Answers => text.into(),
    }
}

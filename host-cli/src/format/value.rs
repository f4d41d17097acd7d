//! Conversion of objects to template values, and back to JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::{TemplateError, Value};
use serde_json::Map;

use crate::output;

/// Field of a row that docker has as a method: `{{.Label "key"}}`.
const LABEL: &str = "Label";
/// Replacement of a line end in a value that is part of one line. Noncharacters are not legal in any text, so values
/// contain none; [`shown`] prints them as escapes, and [`json`] as the original characters.
const LINE_END: char = '\u{10fffe}';
/// Replacement of a tab, in the same way as [`LINE_END`].
const TAB: char = '\u{10ffff}';

/// Number of lines that a value may occupy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// Line ends and tabs in values become escapes: an object is one line, and the user alone decides its columns.
    One,
    /// Line ends and tabs in values stay.
    Several,
}

/// Converts an object to a template's data. A map of labels by the name [`LABEL`] becomes that method.
pub(super) fn of_object(object: &serde_json::Value, lines: Lines) -> Value {
    let serde_json::Value::Object(fields) = object else {
        return of_json(object, lines);
    };
    let field = |(name, value): (&String, &serde_json::Value)| {
        let value = match value {
            serde_json::Value::Object(labels) if name == LABEL => method(labels, lines),
            value => of_json(value, lines),
        };
        (Arc::from(name.as_str()), value)
    };
    Value::Map(Arc::new(fields.iter().map(field).collect()))
}

/// Creates docker's method: it returns the value of a label, and nothing for an absent key.
fn method(labels: &Map<String, serde_json::Value>, lines: Lines) -> Value {
    let labels: BTreeMap<String, Value> = labels
        .iter()
        .map(|(key, value)| (key.clone(), of_json(value, lines)))
        .collect();
    Value::Function(Arc::new(move |arguments| match arguments {
        [Value::String(key)] => Ok(labels.get(&**key).cloned().unwrap_or_else(|| Value::String("".into()))),
        _ => Err(TemplateError::Exec("Label takes the key of a label".into())),
    }))
}

fn of_json(json: &serde_json::Value, lines: Lines) -> Value {
    match json {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(truth) => Value::Bool(*truth),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::Uint(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::String(marked(text, lines).into()),
        serde_json::Value::Array(items) => Value::List(items.iter().map(|item| of_json(item, lines)).collect()),
        serde_json::Value::Object(fields) => Value::Map(Arc::new(
            fields
                .iter()
                .map(|(name, value)| (marked(name, lines).into(), of_json(value, lines)))
                .collect(),
        )),
    }
}

fn marked(text: &str, lines: Lines) -> String {
    let mark = |c| match c {
        LINE_END | TAB => char::REPLACEMENT_CHARACTER,
        '\n' if lines == Lines::One => LINE_END,
        '\t' if lines == Lines::One => TAB,
        c => c,
    };
    text.chars().map(mark).collect()
}

/// Formats a value in Go's way, safe for a terminal.
pub(super) fn shown(value: &Value) -> String {
    let text = match value {
        Value::Nil => "<no value>".into(),
        Value::String(text) => text.to_string(),
        value => value.to_string(),
    };
    output::lines(&text.replace(LINE_END, "\\n").replace(TAB, "\\t"))
}

/// Formats a value as JSON, exact and safe for a terminal. Methods are not part of it.
pub(super) fn json(value: &Value) -> String {
    output::escape_json(&to_json(value).to_string())
}

fn to_json(value: &Value) -> serde_json::Value {
    let exact = |text: &str| text.replace(LINE_END, "\n").replace(TAB, "\t");
    match value {
        Value::Nil | Value::Function(_) => serde_json::Value::Null,
        Value::Bool(truth) => (*truth).into(),
        Value::Int(number) => (*number).into(),
        Value::Uint(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => exact(text).into(),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(fields) => fields
            .iter()
            .filter(|(_, value)| !matches!(value, Value::Function(_)))
            .map(|(name, value)| (exact(name), to_json(value)))
            .collect(),
    }
}

//! Functions of templates: docker's, Go functions that docker's objects need in another form, and those that `rewrite`
//! inserts.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::{FuncMap, TemplateError, Value};

use super::value::{json, shown};

type Result = std::result::Result<Value, TemplateError>;
type Function = fn(&[Value]) -> Result;

/// Name of the function that finds fields. No user can write it: `-` is not allowed in a name.
pub(super) const FIELD: &str = "field-of";
/// Name of the function that ends every action. No user can write it either.
pub(super) const SHOWN: &str = "harmless-text";

/// Fields that are maps in docker's objects: their keys are the user's or the image's.
const MAPS: [&str; 10] = [
    "Attributes",
    "Containers",
    "ExposedPorts",
    "Labels",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "Sysctls",
    "Volumes",
];

/// Fields that are lists in docker's objects, and may be null in JSON: Go prints such a list as one without entries.
const LISTS: [&str; 11] = [
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "Dns",
    "Entrypoint",
    "Env",
    "GroupAdd",
    "OnBuild",
    "SecurityOpt",
    "Shell",
];

/// Returns the functions for the text of an object.
pub(super) fn body() -> FuncMap {
    let mut functions = common();
    let more: [(&str, Function); 8] = [
        ("json", |arguments| {
            one("json", arguments).map(|value| text(json(value)))
        }),
        ("join", join),
        ("split", split),
        ("title", |arguments| change("title", arguments, title)),
        ("lower", |arguments| change("lower", arguments, str::to_lowercase)),
        ("upper", |arguments| change("upper", arguments, str::to_uppercase)),
        ("pad", pad),
        ("truncate", truncate),
    ];
    functions.extend(more.map(|(name, function)| (name.to_owned(), Arc::new(function) as _)));
    functions
}

/// Returns the functions for the header of a table. As in docker, they leave headers unchanged.
pub(super) fn header() -> FuncMap {
    let mut functions = common();
    for name in ["json", "join", "split", "title", "lower", "upper", "pad", "truncate"] {
        let same = |arguments: &[Value]| Ok(arguments.first().cloned().unwrap_or(Value::Nil));
        functions.insert(name.to_owned(), Arc::new(same));
    }
    functions
}

fn common() -> FuncMap {
    let functions: [(&str, Function); 4] = [(FIELD, field), (SHOWN, harmless), ("index", index), ("len", len)];
    FuncMap::from(functions.map(|(name, function)| (name.to_owned(), Arc::new(function) as _)))
}

fn text(text: impl Into<Arc<str>>) -> Value {
    Value::String(text.into())
}

fn wrong(message: impl Into<String>) -> TemplateError {
    TemplateError::Exec(message.into())
}

fn one<'a>(name: &str, arguments: &'a [Value]) -> std::result::Result<&'a Value, TemplateError> {
    match arguments {
        [argument] => Ok(argument),
        _ => Err(wrong(format!("{name} takes one argument, not {}", arguments.len()))),
    }
}

fn change(name: &str, arguments: &[Value], change: impl Fn(&str) -> String) -> Result {
    match one(name, arguments)? {
        Value::String(words) => Ok(text(change(words))),
        other => Err(wrong(format!("{name} takes a text, not a {}", other.type_name()))),
    }
}

/// Formats a value that is printed as the field of this name, made safe for a terminal.
fn harmless(arguments: &[Value]) -> Result {
    match arguments {
        [Value::String(name), Value::Nil] if LISTS.contains(&&**name) => Ok(text("[]")),
        [_, value] => Ok(text(shown(value))),
        _ => Err(wrong("nothing to print")),
    }
}

/// Returns a field of a field of a value. A missing key of a map is no value; a wrong name elsewhere is an error with
/// the path.
fn field(arguments: &[Value]) -> Result {
    let [value, names @ ..] = arguments else {
        return Err(wrong("a field of nothing"));
    };
    let mut value = value.clone();
    let mut path = String::new();
    let mut is_map = false;
    for name in names {
        let Value::String(name) = name else {
            return Err(wrong("the name of a field is no text"));
        };
        path = format!("{path}.{name}");
        value = match &value {
            Value::Map(fields) => match fields.get(name) {
                Some(found) => found.clone(),
                None if is_map => Value::Nil,
                None => return Err(TemplateError::MissingKey { key: path }),
            },
            Value::Nil => return Err(TemplateError::MissingKey { key: path }),
            other => return Err(wrong(format!("{path}: a {} has no fields", other.type_name()))),
        };
        is_map = MAPS.contains(&&**name);
    }
    Ok(value)
}

/// Implements Go's `index`. As in Go, a missing key of a map of texts is an empty text, and of a map of lists an empty
/// list.
fn index(arguments: &[Value]) -> Result {
    let [value, keys @ ..] = arguments else {
        return Err(wrong("index takes a list or a map, and where"));
    };
    let mut value = value.clone();
    for key in keys {
        value = match (&value, key) {
            (Value::Map(map), Value::String(key)) => map.get(key).cloned().unwrap_or_else(|| zero(map)),
            (value, key) => value.index(key)?,
        };
    }
    Ok(value)
}

fn zero(map: &BTreeMap<Arc<str>, Value>) -> Value {
    match map.values().next() {
        None | Some(Value::String(_)) => text(""),
        Some(Value::List(_)) => Value::List(Arc::new([])),
        Some(_) => Value::Nil,
    }
}

/// Implements Go's `len`; a list or map that is null has no entries.
fn len(arguments: &[Value]) -> Result {
    let value = one("len", arguments)?;
    let length = match value {
        Value::Nil => Some(0),
        value => value.len(),
    };
    let length = length.and_then(|length| i64::try_from(length).ok());
    length
        .map(Value::Int)
        .ok_or_else(|| wrong(format!("a {} has no length", value.type_name())))
}

fn join(arguments: &[Value]) -> Result {
    let words = |items: &mut dyn Iterator<Item = &Value>| items.map(ToString::to_string).collect::<Vec<_>>();
    match arguments {
        [Value::List(items), Value::String(between)] => Ok(text(words(&mut items.iter()).join(between))),
        [Value::Map(map), Value::String(between)] => Ok(text(words(&mut map.values()).join(between))),
        [Value::Nil, Value::String(_)] => Ok(text("")),
        _ => Err(wrong("join takes a list and a text")),
    }
}

fn split(arguments: &[Value]) -> Result {
    match arguments {
        [Value::String(whole), Value::String(between)] if between.is_empty() => {
            Ok(Value::List(whole.chars().map(|c| text(c.to_string())).collect()))
        }
        [Value::String(whole), Value::String(between)] => Ok(Value::List(whole.split(&**between).map(text).collect())),
        _ => Err(wrong("split takes two texts")),
    }
}

/// Converts the first letter of every word to upper case.
fn title(words: &str) -> String {
    let mut is_inside = false;
    let mut titled = String::with_capacity(words.len());
    for c in words.chars() {
        match is_inside {
            true => titled.push(c),
            false => titled.extend(c.to_uppercase()),
        }
        is_inside = c.is_alphanumeric() || c == '_' || c == '\'';
    }
    titled
}

/// Adds spaces before and after a text that is not empty.
fn pad(arguments: &[Value]) -> Result {
    match arguments {
        [Value::String(words), _, _] if words.is_empty() => Ok(text("")),
        [Value::String(words), Value::Int(before), Value::Int(after)] => {
            let spaces = |count: i64| " ".repeat(usize::from(u16::try_from(count).unwrap_or(0)));
            Ok(text(format!("{}{words}{}", spaces(*before), spaces(*after))))
        }
        _ => Err(wrong("pad takes a text and two numbers")),
    }
}

fn truncate(arguments: &[Value]) -> Result {
    match arguments {
        [Value::String(words), Value::Int(length)] => {
            let length = usize::try_from(*length).map_err(|_| wrong("truncate takes a length of at least 0"))?;
            Ok(text(words.chars().take(length).collect::<String>()))
        }
        _ => Err(wrong("truncate takes a text and a length")),
    }
}

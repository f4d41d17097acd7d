//! Strict JSON: a document that two parsers could read in two ways is refused.
//!
//! A duplicate key means one thing to a scanner that keeps the first value and another to a runtime that keeps the last
//! one.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::limits::{JSON_DEPTH_MAX, JSON_VALUES_MAX};
use crate::text::printable;

/// Reason why a JSON document is refused.
#[derive(Debug, thiserror::Error)]
#[error("invalid JSON: {reason}")]
pub struct JsonError {
    reason: String,
}

/// Parses all of `bytes`; refuses duplicate keys, deep nesting, too many values and trailing bytes.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    let refuse = |error: serde_json::Error| JsonError {
        reason: printable(error.to_string().as_bytes(), 300),
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict {
        depth_left: JSON_DEPTH_MAX,
        values_left: &Cell::new(JSON_VALUES_MAX),
    }
    .deserialize(&mut deserializer)
    .map_err(refuse)?;
    deserializer.end().map_err(refuse)?;
    serde_json::from_value(value).map_err(refuse)
}

/// Builds a [`Value`], and refuses what [`parse`] refuses.
#[derive(Clone, Copy)]
struct Strict<'a> {
    depth_left: usize,
    /// Number of values that the rest of the document may have: `[{},{},...]` takes a hundred times its length in
    /// memory.
    values_left: &'a Cell<usize>,
}

impl Strict<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth_left = self.depth_left.checked_sub(1);
        depth_left
            .map(|depth_left| Self { depth_left, ..self })
            .ok_or_else(|| E::custom("nested too deeply"))
    }

    fn count<E: serde::de::Error>(self) -> Result<(), E> {
        let left = self.values_left.get().checked_sub(1);
        self.values_left
            .set(left.ok_or_else(|| E::custom(format!("more than {JSON_VALUES_MAX} values")))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(inside)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let value = members.next_value_seed(inside)?;
            if map.insert(key.clone(), value).is_some() {
                return Err(A::Error::custom(format!("duplicate key {key:?}")));
            }
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguity_is_refused() {
        assert!(parse::<Value>(br#"{"a": [{"b": 1, "c": null}], "d": -1.5e3}"#).is_ok());
        let duplicate = parse::<Value>(br#"{"a": [{"b": 1, "b": 2}]}"#).unwrap_err();
        assert!(duplicate.to_string().contains("duplicate key \"b\""), "{duplicate}");
        // The same key, once escaped.
        assert!(parse::<Value>(br#"{"a": 1, "\u0061": 2}"#).is_err());
        assert!(parse::<Value>(b"{} {}").is_err());
        let deep = [b"[".repeat(JSON_DEPTH_MAX + 1), b"]".repeat(JSON_DEPTH_MAX + 1)].concat();
        assert!(parse::<Value>(&deep).is_err());
    }

    #[test]
    fn values_are_counted() {
        let list = |count: usize| format!("[{}0]", "{},".repeat(count - 2)).into_bytes();
        assert!(parse::<Value>(&list(JSON_VALUES_MAX)).is_ok());
        let error = parse::<Value>(&list(JSON_VALUES_MAX + 1)).unwrap_err();
        assert!(error.to_string().contains("more than 65536 values"), "{error}");
    }
}

//! Header lines of tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gotmpl::{TemplateError, Value};

/// docker's headers of fields that are not their names in upper case.
const HEADERS: [(&str, &str); 12] = [
    ("BlockIO", "BLOCK I/O"),
    ("CPUPerc", "CPU %"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("HostOwn", "HOST OWN"),
    ("HostResident", "HOST RESIDENT"),
    ("HostShared", "HOST SHARED"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("MemPerc", "MEM %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("NetIO", "NET I/O"),
    ("RunningFor", "CREATED"),
];

/// Builds an object with a header for each of these fields: a verb's own, or docker's.
pub(super) fn of_fields(fields: &BTreeSet<Vec<String>>, columns: &[(&str, &str)]) -> Value {
    let mut object = Object::default();
    for path in fields {
        let Some(name) = path.last() else { continue };
        let known = columns.iter().chain(&HEADERS).find(|(field, _)| field == name);
        let header = known.map_or_else(|| name.to_uppercase(), |(_, header)| (*header).to_owned());
        object.insert(path, header);
    }
    object.value()
}

/// Headers by name, with those of the fields below.
#[derive(Default)]
struct Object {
    header: String,
    fields: BTreeMap<String, Object>,
}

impl Object {
    fn insert(&mut self, path: &[String], header: String) {
        match path {
            [] => self.header = header,
            [name, below @ ..] => self.fields.entry(name.clone()).or_default().insert(below, header),
        }
    }

    fn value(&self) -> Value {
        if self.fields.is_empty() {
            return Value::String(self.header.as_str().into());
        }
        let value = |(name, object): (&String, &Self)| {
            let value = match name.as_str() {
                "Label" if object.fields.is_empty() => Value::Function(Arc::new(label)),
                _ => object.value(),
            };
            (Arc::from(name.as_str()), value)
        };
        Value::Map(Arc::new(self.fields.iter().map(value).collect()))
    }
}

/// Returns docker's header of `{{.Label "com.example.a-key"}}`: `a key`.
fn label(arguments: &[Value]) -> Result<Value, TemplateError> {
    match arguments {
        [Value::String(key)] => {
            let name = key.rsplit('.').next().unwrap_or_default();
            Ok(Value::String(name.replace(['-', '_'], " ").into()))
        }
        _ => Err(TemplateError::Exec("Label takes the key of a label".into())),
    }
}

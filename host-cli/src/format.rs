//! `--format`: the part of Go's templates that docker's users write.
//!
//! `{{.Field}}`, `{{.Outer.Inner}}`, `{{json .}}`, `{{json .Field}}`; everything else of a template is refused by name.

use serde_json::Value;

use crate::output;

/// A parsed template.
#[derive(Debug, PartialEq)]
pub(crate) struct Template {
    parts: Vec<Part>,
    /// `table ` was before it: a header line, and columns.
    pub table: bool,
}

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    /// A path into the object, and whether its JSON is wanted.
    Field {
        path: Vec<String>,
        json: bool,
    },
}

/// What is wrong with a template.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("the format ends inside {{{{ }}}}")]
    Open,
    #[error("{{{{{0}}}}} is not supported in a format: write {{{{.Field}}}} or {{{{json .Field}}}}")]
    Action(String),
    #[error("there is no field {0} to format")]
    Field(String),
}

impl Template {
    /// Reads a template; `json` alone stands for `{{json .}}`.
    pub(crate) fn parse(text: &str) -> Result<Self, FormatError> {
        if text == "json" {
            return Self::parse("{{json .}}");
        }
        let (table, text) = match text.strip_prefix("table") {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text),
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find("{{") {
            parts.push(Part::Text(unescape(&rest[..at])));
            let (action, after) = rest[at + 2..].split_once("}}").ok_or(FormatError::Open)?;
            parts.push(field(action.trim())?);
            rest = after;
        }
        parts.push(Part::Text(unescape(rest)));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Self { parts, table })
    }

    /// The text for one object. `show` makes fields that are text harmless to a terminal ([`output::line`] or
    /// [`output::lines`]); `{{json .Field}}` gives their exact value.
    pub(crate) fn render(&self, object: &Value, show: fn(&str) -> String) -> Result<String, FormatError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(words) => text.push_str(words),
                Part::Field { path, json } => {
                    let value = find(object, path)?;
                    match value {
                        Value::String(words) if !json => text.push_str(&show(words)),
                        Value::Null if !json => text.push_str("<no value>"),
                        value => text.push_str(&output::escape_json(&value.to_string())),
                    }
                }
            }
        }
        Ok(text)
    }

    /// The header line of a table.
    pub(crate) fn header(&self) -> String {
        let word = |part: &Part| match part {
            Part::Text(words) => words.clone(),
            Part::Field { path, .. } => header_of(path.last().map_or("", String::as_str)),
        };
        self.parts.iter().map(word).collect()
    }
}

/// docker's column names.
fn header_of(field: &str) -> String {
    match field {
        "ID" => "CONTAINER ID".into(),
        "CreatedAt" => "CREATED AT".into(),
        "RunningFor" => "CREATED".into(),
        "CPUPerc" => "CPU %".into(),
        "MemUsage" => "MEM USAGE / LIMIT".into(),
        "MemPerc" => "MEM %".into(),
        "BlockIO" => "BLOCK I/O".into(),
        other => other.to_uppercase(),
    }
}

fn field(action: &str) -> Result<Part, FormatError> {
    let (json, path) = match action.strip_prefix("json ") {
        Some(rest) => (true, rest.trim()),
        None => (false, action),
    };
    let wrong = || FormatError::Action(action.into());
    let names = path.strip_prefix('.').ok_or_else(wrong)?;
    if names.is_empty() {
        return if json {
            Ok(Part::Field { path: Vec::new(), json })
        } else {
            Err(wrong())
        };
    }
    let path: Vec<String> = names.split('.').map(str::to_owned).collect();
    if path
        .iter()
        .any(|name| name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    {
        return Err(wrong());
    }
    Ok(Part::Field { path, json })
}

fn find<'a>(object: &'a Value, path: &[String]) -> Result<&'a Value, FormatError> {
    let mut value = object;
    for name in path {
        value = value
            .get(name)
            .ok_or_else(|| FormatError::Field(format!(".{}", path.join("."))))?;
    }
    Ok(value)
}

/// `\t` and `\n` as shells pass them on.
fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_filled_in() {
        let object = json!({"ID": "ab", "State": {"Status": "running", "Pid": 3}});
        let render = |text: &str| Template::parse(text).unwrap().render(&object, output::line).unwrap();
        assert_eq!(render("{{.ID}}\\t{{ .State.Status }}!"), "ab\trunning!");
        assert_eq!(render("{{.State.Pid}} {{json .ID}}"), "3 \"ab\"");
        assert_eq!(serde_json::from_str::<Value>(&render("json")).unwrap(), object);
        let table = Template::parse("table {{.ID}}\\t{{.State.Status}}").unwrap();
        assert_eq!((table.table, table.header()), (true, "CONTAINER ID\tSTATUS".into()));
    }

    #[test]
    fn fields_do_not_control_the_terminal_and_the_users_words_may() {
        let object = json!({"Label": "a\u{202e}\x1b\nb", "All": ["\u{9b}"]});
        let render = |text: &str, show| Template::parse(text).unwrap().render(&object, show).unwrap();
        assert_eq!(
            render("\x1b[1m{{.Label}}", output::line),
            "\x1b[1ma\\u{202e}\\u{1b}\\nb"
        );
        assert_eq!(render("{{.Label}}", output::lines), "a\\u{202e}\\u{1b}\nb");
        assert_eq!(
            render("{{.All}} {{json .Label}}", output::line),
            r#"["\u009b"] "a\u202e\u001b\nb""#
        );
    }

    #[test]
    fn what_is_not_supported_is_named() {
        assert_eq!(Template::parse("{{.ID"), Err(FormatError::Open));
        assert!(matches!(
            Template::parse("{{range .Mounts}}"),
            Err(FormatError::Action(_))
        ));
        let object = json!({});
        let missing = Template::parse("{{.Nope}}").unwrap().render(&object, output::line);
        assert_eq!(missing, Err(FormatError::Field(".Nope".into())));
    }
}

//! `--format`: Go's templates with docker's functions and methods.
//!
//! ```text
//! text ─► gotmpl's tree ─► rewrite (fields as of docker's structs, every action's text harmless) ─► render(object)
//! ```
//! The template is the user's; the values in an object quote images, containers and registries, and are hostile.

mod functions;
mod header;
mod rewrite;
mod value;

use std::collections::BTreeSet;

use gotmpl::TemplateError;
use gotmpl::parse::{DefineNode, ListNode, Node, Parser};
use serde_json::Value;

use rewrite::Rewrite;
pub(crate) use value::Lines;

/// Name of the tree of the whole text, which no `{{define}}` is likely to use.
const MAIN: &str = "--format";
/// Most rounds of all loops together. An object has thousands of entries at most.
const LOOPS_MAX: u64 = 1 << 20;
/// End mark behind the text while it is parsed. No text has this noncharacter.
const END: char = '\u{10fffe}';

/// Parsed template.
pub(crate) struct Template {
    body: gotmpl::Template,
    /// Header line of `table TEMPLATE`.
    header: Option<gotmpl::Template>,
    /// Fields of the object that the text names, as paths.
    fields: BTreeSet<Vec<String>>,
    lines: Lines,
    /// Whether the text is `table` and nothing else: the verb's own columns.
    is_plain_table: bool,
}

/// Error of a template, or of a field that it asks for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormatError {
    #[error("invalid format")]
    Syntax(#[source] TemplateError),
    #[error(
        "invalid format: write one {{{{end}}}} for each {{{{if}}}}, {{{{range}}}}, {{{{with}}}}, {{{{block}}}} and {{{{define}}}}"
    )]
    Blocks,
    #[error("invalid format: an action has no }}}} at its end")]
    Open,
    #[error("there is no field {0} to format")]
    Field(String),
    #[error("cannot format an object")]
    Render(#[source] TemplateError),
}

impl Template {
    /// Parses the format of a verb that prints a line for each object: `\t` and `\n` stand for a tab and a line end,
    /// `table` before the template asks for a header line and columns. `json` alone stands for `{{json .}}`.
    pub(crate) fn of_lines(text: &str) -> Result<Self, FormatError> {
        let table = text.strip_prefix("table").map(|rest| rest.trim_matches(' '));
        Self::parse(table.unwrap_or(text), Lines::One, table.is_some())
    }

    /// Parses the format of a verb that prints whole objects, in which text may have several lines.
    pub(crate) fn of_objects(text: &str) -> Result<Self, FormatError> {
        Self::parse(text, Lines::Several, false)
    }

    fn parse(text: &str, lines: Lines, is_table: bool) -> Result<Self, FormatError> {
        let text = if text == "json" { "{{json .}}" } else { text };
        let (mut tree, mut defines) = parse(text)?;
        let mut rewrite = Rewrite::new(lines);
        rewrite.list(&mut tree);
        defines.iter_mut().for_each(|define| rewrite.list(&mut define.body));
        let build = |functions: fn() -> gotmpl::FuncMap| {
            let template = gotmpl::Template::new(MAIN)
                .funcs(functions())
                .max_range_iters(LOOPS_MAX);
            defines
                .iter()
                .map(|define| (define.name.as_str(), &define.body))
                .chain([(MAIN, &tree)])
                .fold(template, |template, (name, tree)| {
                    template.add_parse_tree(name, tree.clone())
                })
        };
        Ok(Self {
            body: build(functions::body),
            header: is_table.then(|| build(functions::header)),
            is_plain_table: is_table && text.is_empty(),
            fields: rewrite.into_fields(),
            lines,
        })
    }

    /// Whether the format asks for the verb's own columns.
    pub(crate) fn is_plain_table(&self) -> bool {
        self.is_plain_table
    }

    /// Whether lines are columns below a header.
    pub(crate) fn is_table(&self) -> bool {
        self.header.is_some()
    }

    /// Whether the text names a field at the top of the object, or the whole object, which includes it.
    pub(crate) fn names(&self, field: &str) -> bool {
        self.fields
            .iter()
            .any(|path| path.first().is_none_or(|first| first == field))
    }

    /// Renders one object as text that is safe for a terminal; `{{json .Field}}` gives a field's exact value.
    pub(crate) fn render(&self, object: &Value) -> Result<String, FormatError> {
        execute(&self.body, &value::of_object(object, self.lines))
    }

    /// Renders the header line of a table, with a verb's own headers for the fields that it names.
    pub(crate) fn header(&self, columns: &[(&str, &str)]) -> Result<String, FormatError> {
        let Some(header) = &self.header else {
            return Ok(String::new());
        };
        execute(header, &header::of_fields(&self.fields, columns))
    }
}

/// Parses a text into its tree, and those of its definitions. The parser accepts a block without an end, and ignores
/// what follows an end without a block: in both cases the end mark is not in its place, which is an error.
fn parse(text: &str) -> Result<(ListNode, Vec<DefineNode>), FormatError> {
    let parser = Parser::new(&format!("{text}{END}"), "{{", "}}").and_then(Parser::parse);
    let (mut tree, defines) = parser.map_err(|error| {
        // The parser met the end mark inside of an action.
        let is_open = error.to_string().contains(&END.escape_default().to_string());
        if is_open {
            FormatError::Open
        } else {
            FormatError::Syntax(error)
        }
    })?;
    match tree.nodes.last_mut() {
        Some(Node::Text(last)) if last.text.ends_with(END) => last.text = last.text.trim_end_matches(END).into(),
        _ => return Err(FormatError::Blocks),
    }
    Ok((tree, defines))
}

fn execute(template: &gotmpl::Template, data: &gotmpl::Value) -> Result<String, FormatError> {
    let text = template.execute_template_to_string(MAIN, data);
    text.map_err(|error| match error {
        TemplateError::MissingKey { key } => FormatError::Field(key),
        error => FormatError::Render(error),
    })
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template")
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

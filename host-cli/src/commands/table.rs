//! Output in columns, and of objects in the form of `--format`.

use comfy_table::{Cell, Table, presets};
use serde_json::Value;

use crate::format::Template;
use crate::output;

/// Prints objects in the form of `--format`, else these fields of them below these headers.
pub(super) fn print_rows(rows: &[Value], template: Option<&Template>, columns: &[(&str, &str)]) -> anyhow::Result<()> {
    let Some(template) = template.filter(|template| !template.is_plain_table()) else {
        let headers = columns.iter().map(|(_, header)| *header);
        print(
            headers,
            rows.iter().map(|row| columns.iter().map(|(field, _)| text(row, field))),
        );
        return Ok(());
    };
    let lines = render(rows, template)?;
    if template.is_table() {
        let header = template.header(columns)?;
        print(header.split('\t'), lines.iter().map(|line| line.split('\t')));
    } else {
        lines.iter().for_each(|line| output::rendered(line));
    }
    Ok(())
}

/// Prints whole objects in the form of `--format`, else as a JSON array.
pub(super) fn print_objects(objects: &[Value], template: Option<&Template>) -> anyhow::Result<()> {
    match template {
        None => println!("{}", output::pretty_json(&objects)?),
        Some(template) => render(objects, template)?
            .iter()
            .for_each(|text| output::rendered(text)),
    }
    Ok(())
}

/// Prints a header line and the rows below it, with docker's three spaces between columns.
pub(super) fn print<H, R>(headers: H, rows: R)
where
    H: IntoIterator<Item: AsRef<str>>,
    R: IntoIterator<Item: IntoIterator<Item: AsRef<str>>>,
{
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headers.into_iter().map(cell).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.into_iter().map(cell).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    println!("{}", table.trim_fmt());
}

fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new(output::line(text.as_ref()))
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}

fn render(objects: &[Value], template: &Template) -> anyhow::Result<Vec<String>> {
    Ok(objects
        .iter()
        .map(|object| template.render(object))
        .collect::<Result<_, _>>()?)
}

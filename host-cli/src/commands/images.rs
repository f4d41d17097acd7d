//! `capsid images`.

use std::time::{SystemTime, UNIX_EPOCH};

use capsid_image::{Image, Reference};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::json;

use super::Context;
use crate::cli::ImagesArgs;
use crate::plan::size;

/// One line per name of an image; `<none>` for one without.
pub(crate) fn run(context: Context, args: &ImagesArgs) -> anyhow::Result<u8> {
    let (_, store) = context.store()?;
    let wanted: Option<Reference> = args.image.as_deref().map(str::parse).transpose()?;
    let tagged = args
        .image
        .as_deref()
        .is_some_and(|name| name.rsplit('/').next().unwrap_or_default().contains(':'));
    let mut rows = Vec::new();
    for image in store.list()? {
        for name in shown_names(&image) {
            if matches(name, wanted.as_ref(), tagged) {
                rows.push((name.cloned(), image.clone()));
            }
        }
    }
    if args.json {
        let objects: Vec<_> = rows
            .iter()
            .map(|(name, image)| describe(name.as_ref(), image))
            .collect();
        println!("{}", serde_json::to_string_pretty(&objects)?);
    } else if args.quiet {
        rows.iter()
            .for_each(|(_, image)| println!("{}", shown_id(image, args.no_trunc)));
    } else {
        print_table(&rows, args);
    }
    Ok(0)
}

/// The tags, and digests in repositories without a tag; `None` for an image without a name.
fn shown_names(image: &Image) -> Vec<Option<&Reference>> {
    let tags = || image.references.iter().filter(|name| name.tag().is_some());
    let untagged = image
        .references
        .iter()
        .filter(|name| name.digest().is_some() && !tags().any(|tag| same_repository(tag, name)));
    let names: Vec<_> = tags().chain(untagged).map(Some).collect();
    if names.is_empty() { vec![None] } else { names }
}

/// What registries know the image by in the repository of this name: an index's digest, or a manifest's.
fn repository_digests(name: Option<&Reference>, image: &Image) -> Vec<String> {
    let Some(name) = name else { return Vec::new() };
    if let Some(digest) = name.digest() {
        return vec![digest.to_string()];
    }
    let same = image.references.iter().filter(|other| same_repository(name, other));
    same.filter_map(Reference::digest)
        .map(|digest| digest.to_string())
        .collect()
}

fn same_repository(one: &Reference, other: &Reference) -> bool {
    (one.registry(), one.repository()) == (other.registry(), other.repository())
}

fn matches(name: Option<&Reference>, wanted: Option<&Reference>, tagged: bool) -> bool {
    match (name, wanted) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(name), Some(wanted)) => name.repository() == wanted.repository() && (!tagged || name == wanted),
    }
}

fn print_table(rows: &[(Option<Reference>, Image)], args: &ImagesArgs) {
    let mut table = Table::new();
    table.load_style(NOTHING);
    let mut header = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if args.digests {
        header.insert(2, "DIGEST");
    }
    table.set_header(header);
    for (name, image) in rows {
        let (repository, tag) = match name {
            Some(name) => (name.familiar_name(), name.tag().unwrap_or("<none>").to_string()),
            None => ("<none>".into(), "<none>".into()),
        };
        let mut cells = vec![
            repository,
            tag,
            shown_id(image, args.no_trunc),
            age(image.config.created.as_deref()),
            size::human(image.size_bytes),
        ];
        if args.digests {
            cells.insert(2, "<none>".into());
        }
        let digests = repository_digests(name.as_ref(), image);
        if !args.digests || digests.is_empty() {
            table.add_row(cells);
            continue;
        }
        for digest in digests {
            cells[2] = digest;
            table.add_row(cells.clone());
        }
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    println!("{}", table.trim_fmt());
}

fn describe(name: Option<&Reference>, image: &Image) -> serde_json::Value {
    json!({
        "Repository": name.map(Reference::familiar_name),
        "Tag": name.and_then(Reference::tag),
        "ID": image.id.to_string(),
        "Digest": repository_digests(name, image).first(),
        "Created": image.config.created,
        "Size": image.size_bytes,
    })
}

fn shown_id(image: &Image, whole: bool) -> String {
    if whole {
        image.id.to_string()
    } else {
        image.id.hex().chars().take(12).collect()
    }
}

/// How long ago, in docker's words.
fn age(created: Option<&str>) -> String {
    let Some(created) = created.and_then(seconds_since_1970) else {
        return "N/A".into();
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    ago(now.saturating_sub(created))
}

/// An RFC 3339 time as image configs have it, to the second; offsets are ignored as they do not show in an age.
fn seconds_since_1970(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    // Days before a civil date, counted in years that begin in March (H. Hinnant, "chrono-compatible low-level date
    // algorithms").
    let shifted_year = if month > 2 { year } else { year - 1 };
    let year_days = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let days = shifted_year * 365 + shifted_year / 4 - shifted_year / 100 + shifted_year / 400 + year_days - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn ago(seconds: u64) -> String {
    const STEPS: [(u64, u64, &str); 6] = [
        (60, 1, "second"),
        (3600, 60, "minute"),
        (86_400, 3600, "hour"),
        (14 * 86_400, 86_400, "day"),
        (60 * 86_400, 7 * 86_400, "week"),
        (730 * 86_400, 30 * 86_400, "month"),
    ];
    let (unit, name) = STEPS
        .iter()
        .find(|(below, ..)| seconds < *below)
        .map_or((365 * 86_400, "year"), |(_, unit, name)| (*unit, *name));
    let count = seconds / unit;
    format!("{count} {name}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::{ago, seconds_since_1970};

    #[test]
    fn dates_are_counted_from_1970() {
        assert_eq!(seconds_since_1970("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds_since_1970("2024-02-29T12:30:05.123Z"), Some(1_709_209_805));
        assert_eq!(seconds_since_1970("yesterday"), None);
    }

    #[test]
    fn ages_are_dockers() {
        assert_eq!(ago(1), "1 second ago");
        assert_eq!(ago(7200), "2 hours ago");
        assert_eq!(ago(3 * 86_400), "3 days ago");
        assert_eq!(ago(800 * 86_400), "2 years ago");
    }
}

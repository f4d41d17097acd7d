//! Verb `capsid images`.

use capsid_image::{Image, Reference};
use serde_json::{Value, json};

use super::image_filter::{ImageFilter, ImageFilters, ReferencePattern};
use super::table;
use crate::app::Context;
use crate::cli::ImagesArgs;
use crate::format::Template;
use crate::plan::size;
use crate::{clock, output};

const COLUMNS: [(&str, &str); 5] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
];
const DIGEST: (&str, &str) = ("Digest", "DIGEST");

/// Prints one line per name of an image; `<none>` for an image without one.
pub(crate) fn run(context: Context, args: &ImagesArgs) -> anyhow::Result<u8> {
    let template = args.format.as_deref().map(Template::of_lines).transpose()?;
    let filters = args.filter.iter().map(|text| ImageFilter::parse(text));
    let filters = filters.collect::<Result<Vec<_>, _>>()?;
    let wanted = args.image.as_deref().map(Wanted::parse).transpose()?;
    let (_, store) = context.store()?;
    let filters = ImageFilters::new(filters, &store)?;
    let mut rows = Vec::new();
    for image in store.list()? {
        for name in shown_names(&image) {
            let is_wanted = wanted
                .as_ref()
                .is_none_or(|wanted| name.is_some_and(|name| wanted.takes(name)));
            if is_wanted && filters.take(name, &image) {
                rows.push((name.cloned(), image.clone()));
            }
        }
    }
    if args.json {
        let objects: Vec<_> = rows
            .iter()
            .map(|(name, image)| describe(name.as_ref(), image))
            .collect();
        println!("{}", output::pretty_json(&objects)?);
    } else if args.quiet {
        rows.iter()
            .for_each(|(_, image)| println!("{}", shown_id(image, args.no_trunc)));
    } else {
        print_rows(&rows, args, template.as_ref())?;
    }
    Ok(0)
}

/// Returns the tags, and digests in repositories without a tag; `None` for an image without a name.
fn shown_names(image: &Image) -> Vec<Option<&Reference>> {
    let tags = || image.references.iter().filter(|name| name.tag().is_some());
    let untagged = image
        .references
        .iter()
        .filter(|name| name.digest().is_some() && !tags().any(|tag| same_repository(tag, name)));
    let names: Vec<_> = tags().chain(untagged).map(Some).collect();
    if names.is_empty() { vec![None] } else { names }
}

/// Returns the digests by which registries identify the image in the repository of this name: an index's, or a
/// manifest's.
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

/// Images that are requested by name.
enum Wanted {
    /// Name in any spelling; without a tag, all tags.
    Name {
        name: Reference,
        is_tagged: bool,
    },
    Pattern(ReferencePattern),
}

impl Wanted {
    fn parse(text: &str) -> anyhow::Result<Self> {
        if text.contains(['*', '?', '[']) {
            return Ok(Self::Pattern(ReferencePattern::parse(text)?));
        }
        Ok(Self::Name {
            name: text.parse()?,
            is_tagged: text.rsplit('/').next().unwrap_or_default().contains([':', '@']),
        })
    }

    fn takes(&self, name: &Reference) -> bool {
        match self {
            Self::Name {
                name: wanted,
                is_tagged,
            } if *is_tagged => name == wanted,
            Self::Name { name: wanted, .. } => same_repository(name, wanted),
            Self::Pattern(pattern) => pattern.takes(name),
        }
    }
}

fn print_rows(
    rows: &[(Option<Reference>, Image)],
    args: &ImagesArgs,
    template: Option<&Template>,
) -> anyhow::Result<()> {
    let mut columns = COLUMNS.to_vec();
    if args.digests {
        columns.insert(2, DIGEST);
    }
    // As in docker: one line per digest when digests are requested.
    let each_digest = args.digests || template.is_some_and(|template| template.names(DIGEST.0));
    let lines: Vec<Value> = rows
        .iter()
        .flat_map(|(name, image)| lines(name.as_ref(), image, args.no_trunc, each_digest))
        .collect();
    table::print_rows(&lines, template, &columns)
}

/// Returns docker's fields of `--format`, once or for each digest.
fn lines(name: Option<&Reference>, image: &Image, whole: bool, each_digest: bool) -> Vec<Value> {
    let none = || String::from("<none>");
    let created_ns = image.config.created.as_deref().and_then(clock::parse);
    let mut digests = repository_digests(name, image);
    digests.truncate(if each_digest { usize::MAX } else { 1 });
    if digests.is_empty() {
        digests.push(none());
    }
    let line = |digest: String| {
        json!({
            "Repository": name.map_or_else(none, Reference::familiar_name),
            "Tag": name.and_then(Reference::tag).map_or_else(none, Into::into),
            "ID": shown_id(image, whole),
            "Digest": digest,
            "CreatedSince": created_ns.map_or_else(|| "N/A".into(), clock::ago),
            "CreatedAt": created_ns.map_or_else(|| "N/A".into(), clock::go_words),
            "Size": size::human(image.size_bytes),
            "Containers": "N/A",
            "SharedSize": "N/A",
            "UniqueSize": "N/A",
        })
    };
    digests.into_iter().map(line).collect()
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

//! `capsid images`.

use capsid_image::{Image, Reference};
use serde_json::json;

use super::{Context, table};
use crate::cli::ImagesArgs;
use crate::clock;
use crate::output;
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
        println!("{}", output::pretty_json(&objects)?);
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
    let mut headers = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if args.digests {
        headers.insert(2, "DIGEST");
    }
    table::print(
        headers,
        rows.iter().flat_map(|(name, image)| lines(name.as_ref(), image, args)),
    );
}

/// A line for an image, or one for each of its digests when they are asked for.
fn lines(name: Option<&Reference>, image: &Image, args: &ImagesArgs) -> Vec<Vec<String>> {
    let (repository, tag) = match name {
        Some(name) => (name.familiar_name(), name.tag().unwrap_or("<none>").to_string()),
        None => ("<none>".into(), "<none>".into()),
    };
    let cells = vec![
        repository,
        tag,
        shown_id(image, args.no_trunc),
        age(image.config.created.as_deref()),
        size::human(image.size_bytes),
    ];
    if !args.digests {
        return vec![cells];
    }
    let mut digests = repository_digests(name, image);
    if digests.is_empty() {
        digests.push("<none>".into());
    }
    let with_digest = |digest: String| [&cells[..2], &[digest], &cells[2..]].concat();
    digests.into_iter().map(with_digest).collect()
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
    match created.and_then(clock::parse) {
        Some(created_ns) => clock::ago(created_ns),
        None => "N/A".into(),
    }
}

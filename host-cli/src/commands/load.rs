//! `capsid load`.

use std::io::IsTerminal;

use anyhow::bail;
use capsid_image::LoadSource;

use super::Context;
use crate::cli::LoadArgs;
use crate::progress::Bars;

/// Loads every image of an archive or folder and prints their names.
pub(crate) fn run(context: Context, args: LoadArgs) -> anyhow::Result<u8> {
    let source = match args.input {
        Some(path) => LoadSource::Path(path),
        None if std::io::stdin().is_terminal() => {
            bail!("stdin is a terminal: give the archive with -i FILE, or through a pipe")
        }
        None => LoadSource::Reader(Box::new(std::io::stdin())),
    };
    let (_, store) = context.store()?;
    let images = capsid_image::load(&store, source, &Bars::new(args.quiet))?;
    for image in images {
        match image.references.as_slice() {
            [] => println!("Loaded image ID: {}", image.id),
            references => references
                .iter()
                .for_each(|reference| println!("Loaded image: {reference}")),
        }
    }
    Ok(0)
}

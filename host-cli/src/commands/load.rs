//! Verb `capsid load`.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use capsid_image::LoadSource;

use crate::app::{Context, unless_interrupted};
use crate::cli::LoadArgs;
use crate::confinement;
use crate::model::exit_code;
use crate::progress::Bars;
use crate::signals::Signals;

/// Loads every image of an archive or folder and prints their names.
pub(crate) async fn run(context: Context, args: LoadArgs) -> anyhow::Result<u8> {
    let source = match args.input {
        Some(path) => LoadSource::Path(path),
        None if std::io::stdin().is_terminal() => {
            bail!("stdin is a terminal: give the archive with -i FILE, or through a pipe")
        }
        None => LoadSource::Stream(File::from(std::io::stdin().as_fd().try_clone_to_owned()?)),
    };
    confinement::check(&[confinement::Process::Converter])?;
    let (_, store) = context.store()?;
    let (mut signals, bars) = (Signals::listen_to_ending()?, Arc::new(Bars::new(args.quiet)));
    let loading = tokio::task::spawn_blocking({
        let (store, bars) = (store.clone(), Arc::clone(&bars));
        move || capsid_image::load(&store, source, &*bars)
    });
    let images = match unless_interrupted(&store, &mut signals, &bars, loading).await {
        Ok(loaded) => loaded.context("the load broke off")??,
        Err(number) => return Ok(exit_code::of_signal(number.unsigned_abs())),
    };
    for loaded in images {
        if loaded.references.is_empty() {
            println!("Loaded image ID: {}", loaded.image.id);
        }
        for reference in &loaded.references {
            println!("Loaded image: {reference}");
        }
    }
    Ok(0)
}

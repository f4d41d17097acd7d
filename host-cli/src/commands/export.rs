//! Verb `capsid export`.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, bail};
use capsid_protocol::spec::Unit;
use capsid_protocol::spec::task::Kind;

use super::cp;
use super::cp::local::{self, Resolver};
use crate::app::{AppContext, Context};
use crate::cli::ExportArgs;
use crate::output;

/// Writes a container's whole root as a tar archive, without volumes and other mounts.
pub(crate) async fn run(context: Context, args: ExportArgs) -> anyhow::Result<u8> {
    let kind = Kind::Export(Unit {});
    let app = AppContext::open(context)?;
    let Some(path) = &args.output else {
        if output::is_terminal() {
            bail!("cowardly refusing to save to a terminal: use -o or redirect the output");
        }
        cp::stream_to_stdout(&app, &args.container, kind).await?;
        return Ok(0);
    };
    // Checked before the file is created, or an old one truncated.
    app.state.find(&args.container)?;
    let failed = || format!("cannot write {}", path.display());
    let file = create(&app, path).with_context(failed)?;
    let written = cp::stream_out(&app, &args.container, kind, file).await;
    if written.is_err() {
        // An incomplete archive is useless.
        let _ = std::fs::remove_file(path);
    }
    written?;
    Ok(0)
}

/// Creates an archive's file, through no link that a container may have made.
fn create(app: &AppContext, path: &Path) -> anyhow::Result<File> {
    // No folder there is ever shared, and links there may lead to files without a path, as /dev/stdout does.
    if path.starts_with("/dev") || path.starts_with("/proc") {
        return Ok(File::create(path)?);
    }
    let real = Resolver::new(&app.state)?.resolve(path, true)?;
    Ok(local::create(&real)?.into())
}

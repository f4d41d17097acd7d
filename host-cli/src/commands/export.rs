//! `capsid export`.

use std::fs::File;
use std::io;

use anyhow::{Context as _, bail};
use capsid_protocol::spec::Unit;
use capsid_protocol::spec::task::Kind;

use super::{Context, Scene, cp};
use crate::cli::ExportArgs;

/// Writes a container's whole root as a tar archive, without volumes and what else is mounted over it.
pub(crate) async fn run(context: Context, args: ExportArgs) -> anyhow::Result<u8> {
    let kind = Kind::Export(Unit {});
    let scene = Scene::set(context)?;
    let Some(path) = &args.output else {
        if rustix::termios::isatty(io::stdout()) {
            bail!("cowardly refusing to save to a terminal: use -o or redirect the output");
        }
        cp::stream_out(&scene, &args.container, kind, io::stdout()).await?;
        return Ok(0);
    };
    // Known before the file is made, or an old one emptied.
    scene.state.find(&args.container)?;
    let failed = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(failed)?;
    let written = cp::stream_out(&scene, &args.container, kind, file).await;
    if written.is_err() {
        // Half an archive is none.
        let _ = std::fs::remove_file(path);
    }
    written?;
    Ok(0)
}

//! Verb `capsid diff`.

use std::fmt::Write;
use std::io::Read;

use anyhow::bail;
use capsid_protocol::spec::Unit;
use capsid_protocol::spec::task::Kind;

use crate::app::{AppContext, Context};
use crate::cli::NameArgs;
use crate::file_task::FileTask;

/// Maximum size of all changes in bytes: a million paths of ordinary length. The agent's own limit is a count.
const CHANGES_BYTES_MAX: u64 = 256 << 20;

/// Shows what a container has changed in its image's files.
pub(crate) async fn run(context: Context, args: NameArgs) -> anyhow::Result<u8> {
    let app = AppContext::open(context)?;
    let (_, stdout, rest) = FileTask::start(&app, &args.container, Kind::Compare(Unit {}))
        .await?
        .split();
    let read = tokio::task::spawn_blocking(move || {
        let mut changes = Vec::new();
        stdout
            .take(CHANGES_BYTES_MAX)
            .read_to_end(&mut changes)
            .map(|_| changes)
    });
    let (changes, ended) = tokio::join!(read, rest.finish());
    ended?;
    let changes = changes??;
    let mut shown = String::new();
    for change in changes.split(|byte| *byte == 0).filter(|change| !change.is_empty()) {
        let (Some((letter @ (b'A' | b'C' | b'D'), path)), true) = (change.split_first(), change.len() > 1) else {
            bail!("the agent sent something else than changes");
        };
        writeln!(
            shown,
            "{} {}",
            char::from(*letter),
            capsid_image::printable(path, usize::MAX)
        )?;
    }
    print!("{shown}");
    Ok(0)
}

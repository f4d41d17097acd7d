//! `capsid diff`.

use std::io::{self, Read, Write};

use anyhow::bail;
use capsid_protocol::spec::Unit;
use capsid_protocol::spec::task::Kind;

use super::{Context, Scene};
use crate::cli::NameArgs;
use crate::work::Work;

/// Bytes of all changes: a million paths of ordinary length. The agent's own bound is by count.
const CHANGES_BYTES_MAX: u64 = 256 << 20;

/// Shows what a container has changed of its image's files.
pub(crate) async fn run(context: Context, args: NameArgs) -> anyhow::Result<u8> {
    let scene = Scene::set(context)?;
    let (_, stdout, rest) = Work::start(&scene, &args.container, Kind::Compare(Unit {}))
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
    let mut output = io::BufWriter::new(io::stdout().lock());
    for change in changes.split(|byte| *byte == 0).filter(|change| !change.is_empty()) {
        let (Some((letter @ (b'A' | b'C' | b'D'), path)), true) = (change.split_first(), change.len() > 1) else {
            bail!("the agent sent something else than changes");
        };
        writeln!(output, "{} {}", char::from(*letter), escaped(path))?;
    }
    output.flush()?;
    Ok(0)
}

/// A hostile name on one line of its own.
fn escaped(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_a_line() {
        assert_eq!(escaped(b"/a\nD /etc\x1b[2J"), "/a\\nD /etc\\u{1b}[2J");
        assert_eq!(escaped("/ä b".as_bytes()), "/ä b");
    }
}

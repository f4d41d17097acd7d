//! Verb `capsid logs`.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::timeout;

use crate::app::Context;
use crate::cli::LogsArgs;
use crate::clock;
use crate::control::{self, Answer, Request};
use crate::log::{Entry, LogReader, LogStream, Selection};
use crate::{container_lock, output, store_folder};

/// Interval of reading a followed log: short for a user, and negligible for the processor.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Prints a container's output: its stdout on this process's stdout, its stderr on stderr.
pub(crate) async fn run(context: Context, args: &LogsArgs) -> anyhow::Result<u8> {
    let (folders, state) = context.state()?;
    let container = state.find(&args.container)?;
    if !container.config.log.keep {
        bail!(
            "container {} keeps no log: it was made with --log-driver none",
            container.name
        );
    }
    let selection = Selection {
        since_ns: args.since.as_deref().map(clock::moment).transpose()?,
        until_ns: args.until.as_deref().map(clock::moment).transpose()?,
        tail: tail(&args.tail)?,
    };
    let path = store_folder::log(&folders.data, &container.id);
    let mut reader = LogReader::open(&path, selection);
    let printer = Printer {
        timestamps: args.timestamps,
    };
    checked(reader.existing(|entry| printer.print(&entry)))?;
    if !args.follow || output::has_failed() {
        return Ok(0);
    }
    // The connection is held until the supervisor reports the container's end: no polling is needed.
    let mut connection = control::connect(&container_lock::folder(&folders.run, &container.id)).ok();
    if let Some(supervisor) = &connection
        && supervisor.writer.send(&Request::Wait).await.is_err()
    {
        connection = None;
    }
    loop {
        let ended = match &mut connection {
            None => true,
            Some(supervisor) => timeout(LOOK_EVERY, supervisor.reader.receive::<Answer>()).await.is_ok(),
        };
        // Checked before the last read: nothing written until then is missed.
        let past = selection.until_ns.is_some_and(|until| clock::now_ns() > until);
        checked(reader.more(|entry| printer.print(&entry)))?;
        if ended || past || output::has_failed() {
            return Ok(0);
        }
    }
}

/// Returns the error of a log that cannot be read; a failure of stdout is reported when the command ends.
fn checked(read: io::Result<()>) -> anyhow::Result<()> {
    match read {
        Err(_) if output::has_failed() => Ok(()),
        read => read.context("cannot read the log"),
    }
}

struct Printer {
    timestamps: bool,
}

impl Printer {
    /// Prints an entry. An error ends the reading of the log, whose further lines nobody would see.
    fn print(&self, entry: &Entry) -> io::Result<()> {
        let bytes = entry.bytes();
        let line = if self.timestamps {
            [entry.time.as_bytes(), b" ", &bytes[..]].concat()
        } else {
            bytes
        };
        match entry.stream {
            LogStream::Stdout => output::write_stdout(&line),
            LogStream::Stderr => output::write_stderr(&line),
        }
        if output::has_failed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

fn tail(text: &str) -> anyhow::Result<Option<usize>> {
    if text == "all" {
        return Ok(None);
    }
    let number: i64 = text
        .parse()
        .with_context(|| format!("--tail {text:?} is not a number or all"))?;
    // In docker, a negative number stands for the whole log.
    Ok(usize::try_from(number).ok())
}

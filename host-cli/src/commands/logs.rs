//! `capsid logs`.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::timeout;

use super::Context;
use crate::cli::LogsArgs;
use crate::clock;
use crate::control::{self, Answer, Request};
use crate::log::{Entry, LogReader, LogStream, Selection};
use crate::{hold, store_folder};

/// How often a followed log is looked at: quick to the eye, nothing to the processor.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Prints what a container has printed: its stdout on ours, its stderr on ours.
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
    let mut printer = Printer {
        timestamps: args.timestamps,
    };
    reader
        .existing(|entry| printer.print(&entry))
        .context("cannot read the log")?;
    printer.flush()?;
    if !args.follow {
        return Ok(0);
    }
    // Held until the container's end, which it tells: nobody is asked again and again.
    let mut connection = control::connect(&hold::folder(&folders.run, &container.id)).ok();
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
        // Known before the last look: what was written until then is seen.
        let past = selection.until_ns.is_some_and(|until| clock::now_ns() > until);
        reader
            .more(|entry| printer.print(&entry))
            .context("cannot read the log")?;
        printer.flush()?;
        if ended || past {
            return Ok(0);
        }
    }
}

struct Printer {
    timestamps: bool,
}

impl Printer {
    fn print(&mut self, entry: &Entry) -> io::Result<()> {
        let bytes = entry.bytes();
        match entry.stream {
            LogStream::Stdout => self.print_to(&mut io::stdout().lock(), entry, &bytes),
            LogStream::Stderr => self.print_to(&mut io::stderr().lock(), entry, &bytes),
        }
    }

    fn print_to(&self, to: &mut impl Write, entry: &Entry, bytes: &[u8]) -> io::Result<()> {
        if self.timestamps {
            write!(to, "{} ", entry.time)?;
        }
        to.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

fn tail(text: &str) -> anyhow::Result<Option<usize>> {
    if text == "all" {
        return Ok(None);
    }
    let number: i64 = text
        .parse()
        .with_context(|| format!("--tail {text:?} is not a number or all"))?;
    // docker: a negative number is the whole log.
    Ok(usize::try_from(number).ok())
}

//! `capsid logs`.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::Context;
use crate::cli::LogsArgs;
use crate::clock;
use crate::control;
use crate::log::{Entry, LogReader, LogStream, Selection};
use crate::{hold, store_folder};

/// How often a followed log is looked at: quick to the eye, nothing to the processor.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Prints what a container has printed: its stdout on ours, its stderr on ours.
pub(crate) fn run(context: Context, args: &LogsArgs) -> anyhow::Result<u8> {
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
    let run_folder = hold::folder(&folders.run, &container.id);
    loop {
        // Asked before the last look: what was written until then is seen.
        let runs = control::connect(&run_folder).is_ok();
        let past = selection.until_ns.is_some_and(|until| clock::now_ns() > until);
        reader
            .more(|entry| printer.print(&entry))
            .context("cannot read the log")?;
        printer.flush()?;
        if !runs || past {
            return Ok(0);
        }
        std::thread::sleep(LOOK_EVERY);
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
    match text {
        "all" | "-1" => Ok(None),
        number => {
            Ok(Some(number.parse().with_context(|| {
                format!("--tail {number:?} is not a number or all")
            })?))
        }
    }
}

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
        since_ns: args.since.as_deref().map(moment).transpose()?,
        until_ns: args.until.as_deref().map(moment).transpose()?,
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
    let run_folder = hold::folder(&folders.run, &container.id);
    if !args.follow {
        return Ok(0);
    }
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

/// A time, or how long ago.
fn moment(text: &str) -> anyhow::Result<i64> {
    if let Some(ago) = duration(text) {
        return Ok(clock::now_ns() - ago);
    }
    clock::parse(text)
        .with_context(|| format!("{text:?} is no time: write 2026-02-03T04:05:06, seconds since 1970, or 10m (ago)"))
}

/// Go's durations, as `1h30m`: nanoseconds.
fn duration(text: &str) -> Option<i64> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let units = [
            ("ms", 1e6),
            ("us", 1e3),
            ("ns", 1.0),
            ("h", 3.6e12),
            ("m", 6e10),
            ("s", 1e9),
        ];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total += number * factor;
        rest = rest.get(unit.len()..)?;
    }
    (!text.is_empty()).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(duration("1.5s"), Some(1_500_000_000));
        assert_eq!(duration("200ms"), Some(200_000_000));
        assert_eq!(duration("10"), None);
        assert_eq!(duration("2026-01-01"), None);
    }
}

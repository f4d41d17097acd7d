//! One recipe per verb.

pub(crate) mod attach;
pub(crate) mod completion;
pub(crate) mod doctor;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod lifecycle;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod stats;
pub(crate) mod supervise;
pub(crate) mod top;
pub(crate) mod version;
pub(crate) mod volume;

use std::path::PathBuf;
use std::time::Duration;

use capsid_image::{Converter, Credentials, Platform, PullOptions, Store};

use crate::cli::RegistryArgs;
use crate::folders::Folders;
use crate::format::Template;
use crate::progress::Bars;
use crate::settings::Settings;
use crate::signals::Signals;
use crate::state::{self, State};

/// What every verb starts from.
#[derive(Debug)]
pub(crate) struct Context {
    pub data: Option<PathBuf>,
    pub run: Option<PathBuf>,
}

impl Context {
    /// Makes the folders.
    pub(crate) fn folders(self) -> anyhow::Result<Folders> {
        Ok(Folders::prepare(self.data, self.run)?)
    }

    /// Opens the state and cleans up after killed processes.
    pub(crate) fn state(self) -> anyhow::Result<(Folders, State)> {
        let folders = self.folders()?;
        let state = State::open(&folders.data)?;
        state::recover(&state, &folders)?;
        Ok((folders, state))
    }

    /// Opens the image store as well.
    pub(crate) fn store(self) -> anyhow::Result<(Folders, Store)> {
        let folders = self.folders()?;
        let store = open_store(&folders)?;
        Ok((folders, store))
    }
}

/// Opens the images of the data folder.
pub(crate) fn open_store(folders: &Folders) -> anyhow::Result<Store> {
    let converter = Converter {
        program: std::env::current_exe()?,
        arguments: vec![capsid_image::CONVERTER_COMMAND.into()],
    };
    Ok(Store::open(&folders.data, converter)?)
}

/// What a pull needs of flags and settings; the platform is this machine's unless one is named.
pub(crate) fn pull_options(platform: Option<Platform>, registry: &RegistryArgs, settings: &Settings) -> PullOptions {
    PullOptions {
        platform: platform.unwrap_or_else(Platform::host),
        insecure_registries: [&registry.insecure_registry[..], &settings.insecure_registries].concat(),
        credentials: Credentials::DockerConfig,
    }
}

/// How long work that was told to end may take to give back what it holds. Only what the kernel does not interrupt, as
/// the opening of a named pipe that nobody writes, takes longer, and leaves nothing.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

/// Awaits work in the store. When the user interrupts, the work ends and cleans up first; then `Err` is the signal.
pub(crate) async fn unless_interrupted<T>(
    store: &Store,
    signals: &mut Signals,
    bars: &Bars,
    work: impl Future<Output = T>,
) -> Result<T, i32> {
    tokio::pin!(work);
    let number = tokio::select! {
        done = &mut work => return Ok(done),
        number = signals.interruption() => number,
    };
    store.cancel();
    // Whoever interrupts again does not want to wait.
    tokio::select! {
        _ = tokio::time::timeout(CANCEL_PATIENCE, work) => {}
        _ = signals.interruption() => {}
    }
    bars.clear();
    Err(number)
}

/// The exit code that tells of a signal: a shell's, and docker's.
fn signal_exit_code(number: i32) -> u8 {
    128u8.saturating_add(number.clamp(0, 127) as u8)
}

/// Longest error that is told, bytes: a few lines of a terminal; what is cut off is the cause of causes.
const ERROR_BYTES_MAX: usize = 4096;

/// An error and its causes on one line, each said once. They may quote an image, a registry or the user: nothing in them
/// reaches the terminal raw.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if words.last().is_none_or(|before| !before.contains(&text)) {
            words.push(text);
        }
    }
    capsid_image::printable(words.join(": ").as_bytes(), ERROR_BYTES_MAX)
}

/// Prints objects as `--format` says, or as `otherwise` does.
fn print_rows(rows: &[serde_json::Value], template: Option<&Template>, otherwise: impl FnOnce()) -> anyhow::Result<()> {
    let Some(template) = template else {
        otherwise();
        return Ok(());
    };
    let lines = rows
        .iter()
        .map(|row| template.render(row))
        .collect::<Result<Vec<_>, _>>()?;
    if !template.table {
        lines.iter().for_each(|line| println!("{line}"));
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(template.header().split('\t'));
    for line in &lines {
        table.add_row(line.split('\t'));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    println!("{}", table.trim_fmt());
    Ok(())
}

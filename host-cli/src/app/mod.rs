//! Surroundings of every verb: the folders that flags name, the open state and store, and the end of interrupted work.

mod app_context;

use std::path::PathBuf;
use std::time::Duration;

use capsid_image::{Converter, Credentials, Platform, PullOptions, Store};

pub(crate) use app_context::{AppContext, end_unasked, stop_limit};

use crate::cli::RegistryArgs;
use crate::folders::Folders;
use crate::progress::Bars;
use crate::recovery;
use crate::settings::Settings;
use crate::signals::{Deadline, Signals};
use crate::state::State;

/// Context that every verb starts from: folders given by flags.
#[derive(Debug)]
pub(crate) struct Context {
    pub data: Option<PathBuf>,
    pub run: Option<PathBuf>,
}

impl Context {
    /// Creates the folders.
    pub(crate) fn folders(self) -> anyhow::Result<Folders> {
        Ok(Folders::prepare(self.data, self.run)?)
    }

    /// Opens the state and cleans up after killed processes.
    pub(crate) fn state(self) -> anyhow::Result<(Folders, State)> {
        let folders = self.folders()?;
        let state = State::open(&folders.data)?;
        recovery::recover(&state, &folders)?;
        Ok((folders, state))
    }

    /// Prepares the folders and opens the image store.
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

/// Combines flags and settings to a pull's options; the platform is this machine's unless one is named.
pub(crate) fn pull_options(platform: Option<Platform>, registry: &RegistryArgs, settings: &Settings) -> PullOptions {
    PullOptions {
        platform: platform.unwrap_or_else(Platform::host),
        insecure_registries: [&registry.insecure_registry[..], &settings.insecure_registries].concat(),
        token_realms: settings.token_realms(),
        credentials: Credentials::DockerConfig,
    }
}

/// Time limit for cancelled work to release what it holds. With the deadline the total is one second.
const CANCEL_PATIENCE: Duration = Duration::from_millis(800);

/// Awaits work in the store. When the user interrupts, the work is cancelled and cleans up; then `Err` is the signal.
pub(crate) async fn unless_interrupted<T>(
    store: &Store,
    signals: &mut Signals,
    bars: &Bars,
    work: impl Future<Output = T>,
) -> Result<T, i32> {
    // If no deadline can be set, only work that the kernel does not interrupt takes longer.
    let _deadline = Deadline::set();
    tokio::pin!(work);
    let number = tokio::select! {
        done = &mut work => return Ok(done),
        number = signals.interruption() => number,
    };
    store.cancel();
    // A user who interrupts again does not want to wait.
    tokio::select! {
        _ = tokio::time::timeout(CANCEL_PATIENCE, work) => {}
        _ = signals.interruption() => {}
    }
    bars.clear();
    Err(number)
}

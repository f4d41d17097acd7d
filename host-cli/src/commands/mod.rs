//! One recipe per verb.

mod app_context;
pub(crate) mod attach;
pub(crate) mod completion;
pub(crate) mod cp;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod export;
mod filter;
mod image_filter;
pub(crate) mod images;
pub(crate) mod inspect;
mod inspect_fields;
pub(crate) mod lifecycle;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod man;
mod name_pattern;
pub(crate) mod network;
mod network_connect;
mod network_fields;
pub(crate) mod pod;
pub(crate) mod port;
pub(crate) mod ps;
mod ps_filter;
pub(crate) mod pull;
mod recover;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod stats;
pub(crate) mod supervise;
pub(crate) mod system;
mod table;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod volume;

use std::path::PathBuf;
use std::time::Duration;

use capsid_image::{Converter, Credentials, Platform, PullOptions, Store};

pub(crate) use app_context::AppContext;

use crate::cli::RegistryArgs;
use crate::folders::Folders;
use crate::progress::Bars;
use crate::settings::Settings;
use crate::signals::{Deadline, Signals};
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
        token_realms: settings.token_realms(),
        credentials: Credentials::DockerConfig,
    }
}

/// How long work that was told to end may take to give back what it holds. With the deadline it is a second in all.
const CANCEL_PATIENCE: Duration = Duration::from_millis(800);

/// Awaits work in the store. When the user interrupts, the work ends and cleans up first; then `Err` is the signal.
pub(crate) async fn unless_interrupted<T>(
    store: &Store,
    signals: &mut Signals,
    bars: &Bars,
    work: impl Future<Output = T>,
) -> Result<T, i32> {
    // Without one, only what the kernel does not interrupt takes longer.
    let _deadline = Deadline::set();
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

//! One recipe per verb.

pub(crate) mod completion;
pub(crate) mod doctor;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod load;
pub(crate) mod man;
pub(crate) mod pull;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod version;

use std::path::PathBuf;

use capsid_image::{Converter, Credentials, Platform, PullOptions, Store};

use crate::cli::RegistryArgs;
use crate::folders::Folders;
use crate::registration;
use crate::settings::Settings;

/// What every verb starts from.
#[derive(Debug)]
pub(crate) struct Context {
    pub data: Option<PathBuf>,
    pub run: Option<PathBuf>,
}

impl Context {
    /// Makes the folders and cleans up after killed supervisors.
    pub(crate) fn folders(self) -> anyhow::Result<Folders> {
        let folders = Folders::prepare(self.data, self.run)?;
        registration::sweep(&folders.run)?;
        Ok(folders)
    }

    /// Opens the image store as well.
    pub(crate) fn store(self) -> anyhow::Result<(Folders, Store)> {
        let folders = self.folders()?;
        let store = open_store(&folders)?;
        Ok((folders, store))
    }
}

fn open_store(folders: &Folders) -> anyhow::Result<Store> {
    let converter = Converter {
        program: std::env::current_exe()?,
        arguments: vec![capsid_image::CONVERTER_COMMAND.into()],
    };
    Ok(Store::open(&folders.data, converter)?)
}

/// What a pull needs of flags and settings; the platform is this machine's unless one is named.
fn pull_options(platform: Option<Platform>, registry: &RegistryArgs, settings: &Settings) -> PullOptions {
    PullOptions {
        platform: platform.unwrap_or_else(Platform::host),
        insecure_registries: [&registry.insecure_registry[..], &settings.insecure_registries].concat(),
        credentials: Credentials::DockerConfig,
    }
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

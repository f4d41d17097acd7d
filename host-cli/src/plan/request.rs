//! Requests: the flags of `run`, `create` and `pod create`, each parsed once, and checked as far as that needs nothing but
//! the flags. Whoever has a request need not look at the words any more.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use capsid_image::Platform;
use capsid_protocol::spec::{GuestDevice, Rlimit};

use super::choice::{self, Choice};
use super::volumes::Wanted;
use super::{
    Bind, PlanError, SecurityOptions, capability, check_labels, check_name, devices, limits, logging, mounts, pod,
    security, signal, user, volumes,
};
use crate::cli::{PodCreateArgs, RunArgs};
use crate::model::{LogOptions, RestartPolicy};

/// Request of `run` or `create`.
#[derive(Debug)]
pub(crate) struct RunRequest {
    /// Flags whose values are what they say.
    pub flags: RunArgs,
    /// Image as the user wrote it.
    pub image: String,
    pub command: Vec<Vec<u8>>,
    pub platform: Option<Platform>,
    pub security: SecurityOptions,
    /// Containers of `--volumes-from`, each with whether its mounts become read-only.
    pub volumes_from: Vec<(String, bool)>,
    /// Networks; nothing when there is no network at all.
    pub(super) networks: Option<Choice>,
    pub(super) mounts: Vec<Wanted>,
    pub(super) capabilities: u64,
    pub(super) rlimits: Vec<Rlimit>,
    pub(super) devices: Vec<GuestDevice>,
    /// Stop signal; the image's when absent.
    pub(super) stop_signal: Option<u32>,
    pub(super) log: LogOptions,
}

/// Request of `pod create`.
#[derive(Debug)]
pub(crate) struct PodCreateRequest {
    /// Flags whose values are what they say.
    pub flags: PodCreateArgs,
    /// Networks; nothing when there is no network at all.
    pub(super) networks: Option<Choice>,
    pub(super) mounts: Vec<Wanted>,
}

impl RunRequest {
    /// Parses the flags.
    pub(crate) fn parse(flags: RunArgs) -> Result<Self, PlanError> {
        let (image, command) = image_and_command(&flags.image_and_command)?;
        flags.name.as_deref().map_or(Ok(()), check_name)?;
        check_labels(&flags.label)?;
        user::check(flags.user.as_deref().unwrap_or_default())?;
        flags.group_add.iter().try_for_each(|group| user::check_group(group))?;
        if flags.rm && flags.restart != RestartPolicy::No {
            return Err(PlanError::RemovedAndRestarted);
        }
        let volumes_from = flags.volumes_from.iter().map(|flag| {
            let (name, readonly) = volumes::parse_from(flag)?;
            Ok((name.to_owned(), readonly))
        });
        let devices = flags.device.iter().map(|flag| devices::parse(flag));
        Ok(Self {
            image,
            command,
            platform: flags.platform.as_deref().map(platform).transpose()?,
            security: security::parse(&flags.security_opt, flags.privileged)?,
            volumes_from: volumes_from
                .collect::<Result<_, volumes::VolumeError>>()
                .map_err(mounts::MountError::from)?,
            networks: choice::choice(&flags.network)?,
            mounts: mounts::wanted(&flags.tmpfs, &flags.volume, &flags.mount)?,
            capabilities: capability::resolve(flags.privileged, &flags.cap_add, &flags.cap_drop)?,
            rlimits: limits::ulimits(&flags.ulimit)?,
            devices: devices.collect::<Result<_, _>>()?,
            stop_signal: flags.stop_signal.as_deref().map(signal::parse).transpose()?,
            log: logging::options(&flags.log_driver, &flags.log_opt)?,
            flags,
        })
    }

    /// Selects the bind mounts, so that the caller can find their sources.
    pub(crate) fn binds(&self) -> Vec<Bind> {
        mounts::binds(&self.mounts)
    }

    /// Lists the names and ids of user-defined networks, so that the caller can find them.
    pub(crate) fn user_networks(&self) -> Vec<&str> {
        user_networks(self.networks.as_ref())
    }

    /// Whether the machine gets a network device.
    pub(crate) fn has_network(&self) -> bool {
        self.networks.is_some()
    }
}

impl PodCreateRequest {
    /// Parses the flags.
    pub(crate) fn parse(flags: PodCreateArgs) -> Result<Self, PlanError> {
        Ok(Self {
            networks: choice::choice(&flags.network)?,
            mounts: pod::wanted(&flags)?,
            flags,
        })
    }

    /// Selects the bind mounts, so that the caller can find their sources.
    pub(crate) fn binds(&self) -> Vec<Bind> {
        mounts::binds(&self.mounts)
    }

    /// Lists the names and ids of user-defined networks, so that the caller can find them.
    pub(crate) fn user_networks(&self) -> Vec<&str> {
        user_networks(self.networks.as_ref())
    }

    /// Whether the machine gets a network device.
    pub(crate) fn has_network(&self) -> bool {
        self.networks.is_some()
    }
}

fn user_networks(choice: Option<&Choice>) -> Vec<&str> {
    let users = choice.map_or(&[][..], |choice| &choice.users);
    users.iter().map(|request| request.network.as_str()).collect()
}

/// Splits the words: the first one is the image, the others are the command.
fn image_and_command(words: &[OsString]) -> Result<(String, Vec<Vec<u8>>), PlanError> {
    let (image, command) = words.split_first().ok_or(PlanError::NoImage)?;
    let name = image.to_str().ok_or_else(|| PlanError::Image(image.clone()))?;
    let command = command.iter().map(|word| word.as_bytes().to_vec());
    Ok((name.into(), command.collect()))
}

/// Parses a platform, which must be one that this machine runs.
fn platform(text: &str) -> Result<Platform, PlanError> {
    let (wanted, here): (Platform, Platform) = (text.parse()?, Platform::host());
    if here.accepts(&wanted) {
        Ok(wanted)
    } else {
        Err(PlanError::ForeignPlatform {
            wanted: wanted.to_string(),
            here: here.to_string(),
        })
    }
}

//! Volumes and shares of a container: `-v`, `--mount`, `--volumes-from` and the image's `VOLUME`s.

use std::collections::BTreeSet;

use capsid_protocol::spec::mount::Source;
use capsid_protocol::spec::{Mount, Tmpfs, Volume};

use super::binds::{self, Bind, FoundSource};
use super::mounts::Percent;
use super::size;
use crate::cli::parse_bool;
use crate::model::{ShareMount, VolumeMount};

/// Most volumes of one container: each is a device of the machine. The VMM has interrupt lines for 16 disks, root and
/// scratch disk are two, and the rest is left to the other containers of a pod. An accelerator may have room for fewer.
pub(crate) const VOLUMES_MAX: usize = 8;

/// Prefix of the serial of each volume's disk; with a number behind it, the serial stays below virtio-blk's 20 bytes.
const SERIAL: &str = "capsid-vol-";

/// Reason why a volume is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum VolumeError {
    #[error("invalid source {0:?}: write a path of the host's as /path or ./path, or a volume's name without a slash")]
    Path(String),
    #[error("invalid volume {0:?}: write NAME:/path[:ro|rw|nocopy], /host/path:/path[:ro|rw] or /path")]
    Form(String),
    #[error("invalid volume name {0:?}: use two or more letters, digits, and after the first one _ . -")]
    Name(String),
    #[error("invalid place {0:?} of a mount: it must be absolute, below / and without ..")]
    Target(String),
    #[error("invalid volume {flag:?}: unknown option {option:?}")]
    Option { flag: String, option: String },
    #[error("invalid --mount {flag:?}: unknown or wrong field {field:?}")]
    Field { flag: String, field: String },
    #[error("invalid --mount {flag:?}: there is no type {kind:?}, only bind, volume and tmpfs")]
    Type { flag: String, kind: String },
    #[error("invalid --mount {0:?}: source=/PATH is missing")]
    NoSource(String),
    #[error("invalid --mount {0:?}: target=PATH is missing")]
    NoTarget(String),
    #[error("two mounts have the same place {0}")]
    Duplicate(String),
    #[error("{count} volumes and bind mounts are wanted, and there can be {max} here at the most")]
    TooMany { count: usize, max: usize },
    #[error("invalid --volumes-from {0:?}: write CONTAINER[:ro|rw]")]
    From(String),
}

/// Mount that one flag asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wanted {
    Volume {
        /// Name of the volume; none for an anonymous one.
        name: Option<String>,
        target: String,
        readonly: bool,
        populate: bool,
    },
    Bind(Bind),
    /// tmpfs, with its size where that is a percentage of the machine's memory.
    Tmpfs(Mount, Option<Percent>),
}

impl Wanted {
    pub(super) fn target(&self) -> &str {
        match self {
            Self::Volume { target, .. } => target,
            Self::Bind(bind) => &bind.target,
            Self::Tmpfs(mount, _) => &mount.target,
        }
    }
}

/// Normalizes a path in a container: removes empty and `.` components.
pub(super) fn clean(path: &str) -> Result<String, VolumeError> {
    let wrong = || VolumeError::Target(path.into());
    let rest = path.strip_prefix('/').ok_or_else(wrong)?;
    let names: Vec<&str> = rest.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    if names.is_empty() || names.contains(&"..") || path.contains('\0') {
        return Err(wrong());
    }
    Ok(format!("/{}", names.join("/")))
}

/// Normalizes the path of an image's volume in docker's way: always a path below the root, whatever the image has; none
/// for the root itself.
fn image_target(path: &str) -> Option<String> {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    (!names.is_empty()).then(|| format!("/{}", names.join("/")))
}

fn check_name(name: &str) -> Result<(), VolumeError> {
    super::check_name(name).map_err(|_| VolumeError::Name(name.into()))
}

/// Whether a source looks like a path of the host, but is not written as one.
fn is_odd_path(source: &str) -> bool {
    source.starts_with(['.', '~']) || source.contains('/')
}

/// Parses `-v NAME:/path[:OPTION,...]`, `-v /host/path:/path[:OPTION,...]` or `-v /path`.
pub(super) fn parse_volume(flag: &str) -> Result<Wanted, VolumeError> {
    let form = || VolumeError::Form(flag.into());
    let parts: Vec<&str> = flag.split(':').collect();
    let (name, target, options) = match parts[..] {
        [target] if target.starts_with('/') => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return Err(form()),
    };
    if !target.starts_with('/') {
        return Err(form());
    }
    match name {
        Some(source) if binds::is_path(source) => {
            return binds::parse_volume(flag, source, target, options).map(Wanted::Bind);
        }
        Some(source) if is_odd_path(source) => return Err(VolumeError::Path(source.into())),
        Some(name) => check_name(name)?,
        None => {}
    }
    let (mut readonly, mut populate) = (false, true);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => readonly = true,
            "rw" => readonly = false,
            "nocopy" => populate = false,
            _ => {
                return Err(VolumeError::Option {
                    flag: flag.into(),
                    option: option.into(),
                });
            }
        }
    }
    Ok(Wanted::Volume {
        name: name.map(Into::into),
        target: clean(target)?,
        readonly,
        populate,
    })
}

/// Parses `--mount type=bind|volume|tmpfs,target=PATH,...`.
pub(super) fn parse_mount(flag: &str) -> Result<Wanted, VolumeError> {
    let is_bind = |field: &str| {
        field
            .split_once('=')
            .is_some_and(|(name, value)| name.eq_ignore_ascii_case("type") && value.eq_ignore_ascii_case("bind"))
    };
    if flag.split(',').any(is_bind) {
        return binds::parse_mount(flag).map(Wanted::Bind);
    }
    let (mut kind, mut source, mut target) = ("volume".to_owned(), None, None);
    let (mut readonly, mut nocopy) = (None, None);
    let mut memory = Tmpfs {
        mode: 0o1777,
        ..Tmpfs::default()
    };
    let mut fields_of_tmpfs = None;
    for field in flag.split(',') {
        let wrong = || VolumeError::Field {
            flag: flag.into(),
            field: field.into(),
        };
        let (name, value) = key_and_value(field);
        match name.as_str() {
            "type" => kind = value.to_ascii_lowercase(),
            "source" | "src" if !value.is_empty() => source = Some(value),
            "target" | "dst" | "destination" => target = Some(value),
            "readonly" | "ro" => readonly = Some(truth(field).ok_or_else(wrong)?),
            "volume-nocopy" => nocopy = Some((truth(field).ok_or_else(wrong)?, field)),
            "tmpfs-size" => {
                memory.size_bytes = size::parse(value).map_err(|_| wrong())?;
                fields_of_tmpfs = Some(field);
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                memory.mode = mode.ok_or_else(wrong)?;
                fields_of_tmpfs = Some(field);
            }
            _ => return Err(wrong()),
        }
    }
    let misplaced = |field: &str| VolumeError::Field {
        flag: flag.into(),
        field: field.into(),
    };
    let target = clean(target.ok_or_else(|| VolumeError::NoTarget(flag.into()))?)?;
    match (kind.as_str(), source, fields_of_tmpfs, nocopy) {
        ("volume", _, Some(field), _) => Err(misplaced(field)),
        ("volume", Some(source), ..) if is_odd_path(source) => Err(VolumeError::Path(source.into())),
        ("volume", source, None, nocopy) => {
            source.map_or(Ok(()), check_name)?;
            Ok(Wanted::Volume {
                name: source.map(Into::into),
                target,
                readonly: readonly.unwrap_or(false),
                populate: !nocopy.is_some_and(|(nocopy, _)| nocopy),
            })
        }
        ("tmpfs", Some(source), ..) => Err(misplaced(&format!("source={source}"))),
        ("tmpfs", None, _, Some((_, field))) => Err(misplaced(field)),
        ("tmpfs", None, _, None) => {
            let mount = Mount {
                target,
                source: Some(Source::Tmpfs(memory)),
                readonly: readonly.unwrap_or(false),
                noexec: true,
                nosuid: true,
                nodev: true,
            };
            Ok(Wanted::Tmpfs(mount, None))
        }
        (kind, ..) => Err(VolumeError::Type {
            flag: flag.into(),
            kind: kind.into(),
        }),
    }
}

/// Splits one field of `--mount` into key and value; docker's keys may be in upper or lower case.
pub(super) fn key_and_value(field: &str) -> (String, &str) {
    let (key, value) = field.split_once('=').unwrap_or((field, ""));
    (key.to_ascii_lowercase(), value)
}

/// Parses the boolean of a field of `--mount`; a key alone is true.
pub(super) fn truth(field: &str) -> Option<bool> {
    field.split_once('=').map_or(Some(true), |(_, value)| parse_bool(value))
}

/// Parses `--volumes-from CONTAINER[:ro|rw]`: the container's name, and whether all of its volumes are read-only here.
pub(crate) fn parse_from(flag: &str) -> Result<(&str, bool), VolumeError> {
    let (name, readonly) = match flag.split_once(':') {
        None | Some((_, "rw")) => (flag.split(':').next().unwrap_or_default(), false),
        Some((name, "ro")) => (name, true),
        Some(_) => return Err(VolumeError::From(flag.into())),
    };
    if name.is_empty() {
        return Err(VolumeError::From(flag.into()));
    }
    Ok((name, readonly))
}

/// Sources of volumes and shares beside the flags.
#[derive(Debug, Clone, Default)]
pub(crate) struct VolumeSources {
    /// Volumes of the containers of `--volumes-from`.
    pub from: Vec<VolumeMount>,
    /// Names for anonymous volumes: as many as a container can have.
    pub new_names: Vec<String>,
    /// Shares of the containers of `--volumes-from`.
    pub shares_from: Vec<ShareMount>,
    /// Volumes and shares that the pod gives all its containers.
    pub of_pod: (Vec<VolumeMount>, Vec<ShareMount>),
    /// Sources of the bind mounts, one for each in the order of the request's binds.
    pub found: Vec<FoundSource>,
    /// Id of the container.
    pub container: String,
    /// Most volumes and shares that the machine has room for.
    pub room: usize,
}

/// Computes the container's volumes and shares. docker's precedence for a path: flags, then `--volumes-from`, then the
/// image; a pod's come after the flags.
pub(super) fn resolve(
    wanted: &[Wanted],
    image: &[String],
    sources: VolumeSources,
) -> Result<(Vec<VolumeMount>, Vec<ShareMount>), VolumeError> {
    let mut taken = BTreeSet::new();
    for one in wanted {
        if !taken.insert(one.target().to_owned()) {
            return Err(VolumeError::Duplicate(one.target().into()));
        }
    }
    let mut new_names = sources.new_names.into_iter();
    let mut volumes: Vec<VolumeMount> = Vec::new();
    let mut add = |name: Option<String>, target: String, readonly, populate| {
        let anonymous = name.is_none();
        // When no name is left, the volumes exceed the limit anyway.
        let volume = name.or_else(|| new_names.next()).unwrap_or_else(|| target.clone());
        volumes.push(VolumeMount {
            volume,
            target,
            readonly,
            populate,
            anonymous,
            serial: String::new(),
        });
    };
    for one in wanted {
        if let Wanted::Volume {
            name,
            target,
            readonly,
            populate,
        } = one
        {
            add(name.clone(), target.clone(), *readonly, *populate);
        }
    }
    let mut found = sources.found.into_iter();
    let mut shares: Vec<ShareMount> = Vec::new();
    for one in wanted {
        // There is one found source for each wanted one.
        if let Wanted::Bind(bind) = one
            && let Some(source) = found.next()
        {
            shares.push(ShareMount {
                source: source.path,
                target: bind.target.clone(),
                readonly: bind.readonly,
                is_file: source.is_file,
                tag: String::new(),
            });
        }
    }
    let (volumes_of_pod, mut shares_of_pod) = sources.of_pod;
    shares_of_pod.retain(|share| taken.insert(share.target.clone()));
    let inherited: Vec<VolumeMount> = volumes_of_pod
        .into_iter()
        .chain(sources.from)
        .filter(|mount| taken.insert(mount.target.clone()))
        .collect();
    for share in sources.shares_from {
        if taken.insert(share.target.clone()) {
            shares.push(share);
        }
    }
    for (index, share) in shares.iter_mut().enumerate() {
        share.tag = binds::tag(&sources.container, index);
    }
    for target in image.iter().filter_map(|path| image_target(path)) {
        if taken.insert(target.clone()) {
            add(None, target, false, true);
        }
    }
    volumes.extend(inherited);
    let disks = number(&mut volumes);
    let (count, max) = (disks + shares.len(), sources.room.min(VOLUMES_MAX));
    if count > max {
        return Err(VolumeError::TooMany { count, max });
    }
    // Their devices are the pod's, and exist already.
    shares.extend(shares_of_pod);
    Ok((volumes, shares))
}

/// Gives each volume a serial, and returns the number of disks: a volume that is mounted at several paths is one disk.
fn number(volumes: &mut [VolumeMount]) -> usize {
    let mut names: Vec<String> = Vec::new();
    for mount in volumes {
        let index = names.iter().position(|name| *name == mount.volume).unwrap_or_else(|| {
            names.push(mount.volume.clone());
            names.len() - 1
        });
        mount.serial = format!("{SERIAL}{index}");
    }
    names.len()
}

/// Converts a volume to the agent's mount.
pub(super) fn mount(volume: &VolumeMount) -> Mount {
    Mount {
        target: volume.target.clone(),
        source: Some(Source::Volume(Volume {
            serial: volume.serial.clone(),
            populate: volume.populate,
        })),
        readonly: volume.readonly,
        noexec: false,
        nosuid: false,
        nodev: true,
    }
}

#[cfg(test)]
mod tests;

//! Bind mounts, `-v /host:/path` and `--mount type=bind`: the folders and files of the host that a container has.

use capsid_protocol::spec::mount::Source;
use capsid_protocol::spec::{Mount, Share};

use super::volumes::{VolumeError, clean, key_and_value, truth};
use crate::model::ShareMount;

/// Folder or file of the host that a flag asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    /// Path of the source, as the user wrote it.
    pub source: String,
    pub target: String,
    pub readonly: bool,
    /// Whether an absent source becomes an empty folder (`-v`, as docker does).
    pub create: bool,
}

/// Source as it was found on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundSource {
    /// Absolute path without links.
    pub path: String,
    pub is_file: bool,
}

/// Whether the source of `-v` is a path of the host, and not a volume's name.
pub(super) fn is_path(source: &str) -> bool {
    source.starts_with('/') || matches!(source, "." | "..") || source.starts_with("./") || source.starts_with("../")
}

/// Parses the parts of `-v SOURCE:/path[:OPTION,...]`.
pub(super) fn parse_volume(flag: &str, source: &str, target: &str, options: &str) -> Result<Bind, VolumeError> {
    let mut readonly = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => readonly = true,
            "rw" => readonly = false,
            // Labels, caches and propagation are for docker's other platforms and for mounts within one kernel: there
            // is nothing to do for them here.
            "z" | "Z" | "cached" | "consistent" | "delegated" | "private" | "rprivate" => {}
            _ => {
                return Err(VolumeError::Option {
                    flag: flag.into(),
                    option: option.into(),
                });
            }
        }
    }
    Ok(Bind {
        source: source.into(),
        target: clean(target)?,
        readonly,
        create: true,
    })
}

/// Parses `--mount type=bind,source=PATH,target=PATH[,readonly]`.
pub(super) fn parse_mount(flag: &str) -> Result<Bind, VolumeError> {
    let (mut source, mut target, mut readonly) = (None, None, false);
    for field in flag.split(',') {
        let wrong = || VolumeError::Field {
            flag: flag.into(),
            field: field.into(),
        };
        let (name, value) = key_and_value(field);
        match name.as_str() {
            "type" => {}
            "source" | "src" if is_path(value) => source = Some(value),
            "target" | "dst" | "destination" => target = Some(value),
            "readonly" | "ro" => readonly = truth(field).ok_or_else(wrong)?,
            "bind-propagation" if matches!(value, "private" | "rprivate") => {}
            "consistency" => {}
            _ => return Err(wrong()),
        }
    }
    Ok(Bind {
        source: source.ok_or_else(|| VolumeError::NoSource(flag.into()))?.into(),
        target: clean(target.ok_or_else(|| VolumeError::NoTarget(flag.into()))?)?,
        readonly,
        create: false,
    })
}

/// Returns the tag of a container's `index`th share: containers of one machine have different ones.
pub(super) fn tag(container: &str, index: usize) -> String {
    let short = container.get(..12).unwrap_or(container);
    format!("share-{short}-{index}")
}

/// Converts a share to the agent's mount. Set-user-id bits and device nodes of the host's files have no effect in the
/// guest: otherwise whoever may write to the share on the host would be root in the container.
pub(super) fn mount(share: &ShareMount) -> Mount {
    Mount {
        target: share.target.clone(),
        source: Some(Source::Share(Share {
            tag: share.tag.clone(),
            is_file: share.is_file,
        })),
        readonly: share.readonly,
        noexec: false,
        nosuid: true,
        nodev: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_mount_flag_is_read() {
        let expected = |source: &str, readonly, create| Bind {
            source: source.into(),
            target: "/d".into(),
            readonly,
            create,
        };
        let parsed = parse_mount("type=bind,source=/h,target=/d/,readonly,bind-propagation=rprivate").unwrap();
        assert_eq!(parsed, expected("/h", true, false));
        assert_eq!(
            parse_mount("type=bind,src=.,dst=/d,ro=false").unwrap(),
            expected(".", false, false)
        );
        assert_eq!(
            parse_mount("Type=BIND,SOURCE=/H,Target=/d,ReadOnly=T").unwrap(),
            expected("/H", true, false)
        );
        for wrong in [
            "type=bind",
            "type=bind,source=/h",
            "type=bind,target=/d",
            "type=bind,source=h,target=/d",
            "type=bind,source=,target=/d",
            "type=bind,source=/h,target=d",
            "type=bind,source=/h,target=/",
            "type=bind,source=/h,target=/d,readonly=maybe",
            "type=bind,source=/h,target=/d,bind-propagation=shared",
            "type=bind,source=/h,target=/d,volume-nocopy",
        ] {
            assert!(parse_mount(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn tags_fit_the_device() {
        let tag = tag(&"f".repeat(64), 15);
        assert_eq!(tag, "share-ffffffffffff-15");
        assert!(tag.len() <= 36);
    }
}

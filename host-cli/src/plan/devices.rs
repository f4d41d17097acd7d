//! Device nodes: those of `--device`, which names devices of the guest, and those that every container has.

use capsid_protocol::spec::{Device, GuestDevice};

/// Reason why a device is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum DeviceError {
    #[error(
        "invalid --device {0:?}: write DEVICE[:PATH][:PERMISSIONS], for example /dev/fuse or /dev/net/tun:/dev/tun:rw"
    )]
    Form(String),
    #[error("invalid --device {flag:?}: {path:?} is not below /dev: it names a device of the microVM")]
    Source { flag: String, path: String },
    #[error("invalid --device {flag:?}: bad mode specified: {mode:?} is not of r, w and m")]
    Mode { flag: String, mode: String },
}

/// Parses `DEVICE[:PATH][:PERMISSIONS]` as docker does.
pub(super) fn parse(flag: &str) -> Result<GuestDevice, DeviceError> {
    let form = || DeviceError::Form(flag.into());
    let (source, target, mode) = match *flag.split(':').collect::<Vec<_>>() {
        [source] => (source, source, "rwm"),
        [source, mode] if is_mode(mode) => (source, source, mode),
        [source, target] => (source, target, "rwm"),
        [source, target, mode] => (source, target, mode),
        _ => return Err(form()),
    };
    if !is_mode(mode) {
        return Err(DeviceError::Mode {
            flag: flag.into(),
            mode: mode.into(),
        });
    }
    let is_plain = |path: &str| path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    if !source.starts_with("/dev/") || !is_plain(source) {
        return Err(DeviceError::Source {
            flag: flag.into(),
            path: source.into(),
        });
    }
    if !target.starts_with('/') || !is_plain(target) {
        return Err(form());
    }
    Ok(GuestDevice {
        source: source.into(),
        target: target.into(),
        no_read: !mode.contains('r'),
        no_write: !mode.contains('w'),
    })
}

/// Whether a text consists of `r`, `w` and `m`, each at most once.
fn is_mode(text: &str) -> bool {
    let once = |c: char| "rwm".contains(c) && text.matches(c).count() == 1;
    !text.is_empty() && text.chars().all(once)
}

/// Returns the device nodes that every container has; the agent adds those of terminals itself.
pub(super) fn usual() -> Vec<Device> {
    const NODES: [(&str, u32); 6] = [
        ("null", 3),
        ("zero", 5),
        ("full", 7),
        ("random", 8),
        ("urandom", 9),
        ("tty", 0),
    ];
    NODES
        .iter()
        .map(|(name, minor)| Device {
            path: format!("/dev/{name}"),
            kind: 0,
            major: if *name == "tty" { 5 } else { 1 },
            minor: *minor,
            mode: 0o666,
            ..Device::default()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_flag_is_read_as_docker_does() {
        let expected = |target: &str, no_read, no_write| GuestDevice {
            source: "/dev/fuse".into(),
            target: target.into(),
            no_read,
            no_write,
        };
        for (flag, device) in [
            ("/dev/fuse", expected("/dev/fuse", false, false)),
            ("/dev/fuse:/dev/f", expected("/dev/f", false, false)),
            ("/dev/fuse:r", expected("/dev/fuse", false, true)),
            ("/dev/fuse:/f:wm", expected("/f", true, false)),
        ] {
            assert_eq!(parse(flag), Ok(device), "{flag}");
        }
        for wrong in [
            "",
            "fuse",
            "/etc/passwd",
            "/dev",
            "/dev/",
            "/dev/../etc",
            "/dev/fuse:f",
            "/dev/fuse:/f:x",
            "/dev/fuse:/f:rr",
            "/dev/fuse:/f:",
            "/dev/fuse:/f:r:w",
            "vendor.com/class=name",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}

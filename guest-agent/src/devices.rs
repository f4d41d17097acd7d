//! Devices of the guest that a container asks for by name, or all of them: the nodes that the kernel made in the
//! agent's own `/dev`.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use capsid_protocol::ContainerSpec;
use capsid_protocol::spec::{Device, DeviceType, GuestDevice};

use crate::limits::{DEVICE_DEPTH_MAX, ENTRIES_MAX};

/// Directory in which the kernel makes device nodes (devtmpfs).
const FOLDER: &str = "/dev";

/// Nodes that a container has of its own instead: its console and its own pseudo terminals.
const OWN: [&str; 3] = ["/dev/console", "/dev/ptmx", "/dev/pts"];

/// Number of loop devices that a container finds, as on a host. The kernel makes each on demand, after the nodes of a
/// container were made.
const LOOP_DEVICES: u32 = 8;
/// Major number of loop devices (Documentation/admin-guide/devices.txt).
const LOOP_MAJOR: u32 = 7;

/// Error of giving a device to a container.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum DeviceError {
    /// The guest has no device of that name.
    #[error("the microVM has no device {path}; the host's are not given to it. It has {present}")]
    Missing { path: String, present: String },
    /// The nodes cannot be listed.
    #[error("cannot read {path}")]
    Read { path: PathBuf, kind: ErrorKind },
}

/// Returns `spec` with all device nodes that it asks for among its own.
pub(crate) fn resolve(spec: &ContainerSpec) -> Result<ContainerSpec, DeviceError> {
    let mut spec = spec.clone();
    if !spec.all_devices && spec.guest_devices.is_empty() {
        return Ok(spec);
    }
    let nodes = nodes()?;
    let mut added = Vec::new();
    if spec.all_devices {
        let is_new = |node: &&Device| spec.devices.iter().all(|own| own.path != node.path);
        added.extend(nodes.iter().filter(is_new).cloned());
    }
    for wanted in &spec.guest_devices {
        added.extend(find(&nodes, wanted)?);
    }
    spec.devices.extend(added);
    spec.guest_devices.clear();
    Ok(spec)
}

/// Finds the node that `wanted` names, or all nodes below the folder that it names.
fn find(nodes: &[Device], wanted: &GuestDevice) -> Result<Vec<Device>, DeviceError> {
    let source = Path::new(&wanted.source);
    let found = nodes.iter().filter_map(|node| {
        let below = Path::new(&node.path).strip_prefix(source).ok()?;
        let path = if below.as_os_str().is_empty() {
            wanted.target.clone()
        } else {
            Path::new(&wanted.target).join(below).to_str()?.to_owned()
        };
        Some(Device {
            path,
            no_read: wanted.no_read,
            no_write: wanted.no_write,
            ..node.clone()
        })
    });
    let found: Vec<Device> = found.collect();
    if found.is_empty() {
        let present: Vec<&str> = nodes.iter().map(|node| node.path.as_str()).collect();
        return Err(DeviceError::Missing {
            path: wanted.source.clone(),
            present: present.join(", "),
        });
    }
    Ok(found)
}

/// Returns every device node of the guest, sorted by path.
fn nodes() -> Result<Vec<Device>, DeviceError> {
    let mut nodes = Vec::new();
    collect(Path::new(FOLDER), DEVICE_DEPTH_MAX, &mut nodes)?;
    let has = |path: &str| nodes.iter().any(|node| node.path == path);
    if has("/dev/loop-control") {
        let loops = (0..LOOP_DEVICES).map(|minor| Device {
            path: format!("/dev/loop{minor}"),
            kind: DeviceType::Block as i32,
            major: LOOP_MAJOR,
            minor,
            mode: 0o660,
            ..Device::default()
        });
        let missing: Vec<Device> = loops.filter(|device| !has(&device.path)).collect();
        nodes.extend(missing);
    }
    nodes.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(nodes)
}

/// Adds the nodes below `folder`. Other entries, links included, are no devices.
fn collect(folder: &Path, depth_left: usize, nodes: &mut Vec<Device>) -> Result<(), DeviceError> {
    let failed = |e: std::io::Error| DeviceError::Read {
        path: folder.to_owned(),
        kind: e.kind(),
    };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Some(path) = entry.path().to_str().map(str::to_owned) else {
            continue;
        };
        // Metadata of the link itself.
        let metadata = entry.metadata().map_err(failed)?;
        let kind = metadata.file_type();
        if OWN.contains(&path.as_str()) || nodes.len() >= ENTRIES_MAX {
            continue;
        }
        if kind.is_dir() && depth_left > 0 {
            collect(Path::new(&path), depth_left - 1, nodes)?;
        }
        if kind.is_char_device() || kind.is_block_device() {
            nodes.push(Device {
                path,
                kind: if kind.is_block_device() {
                    DeviceType::Block as i32
                } else {
                    DeviceType::Character as i32
                },
                major: rustix::fs::major(metadata.rdev()),
                minor: rustix::fs::minor(metadata.rdev()),
                mode: metadata.mode() & 0o777,
                ..Device::default()
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &str, minor: u32) -> Device {
        Device {
            path: path.into(),
            major: 10,
            minor,
            mode: 0o600,
            ..Device::default()
        }
    }

    fn wanted(source: &str, target: &str) -> GuestDevice {
        GuestDevice {
            source: source.into(),
            target: target.into(),
            ..GuestDevice::default()
        }
    }

    #[test]
    fn a_device_is_found_by_name_and_a_folder_gives_all_below() {
        let nodes = [node("/dev/fuse", 229), node("/dev/net/tun", 200)];
        let found = find(&nodes, &wanted("/dev/fuse", "/dev/f")).unwrap();
        assert_eq!(found, [node("/dev/f", 229)]);
        let found = find(&nodes, &wanted("/dev/net", "/dev/vpn")).unwrap();
        assert_eq!(found, [node("/dev/vpn/tun", 200)]);
        let read_only = GuestDevice {
            no_write: true,
            ..wanted("/dev/fuse", "/dev/fuse")
        };
        assert!(find(&nodes, &read_only).unwrap().iter().all(|device| device.no_write));
    }

    #[test]
    fn a_missing_device_is_named_with_those_that_are_there() {
        let error = find(&[node("/dev/fuse", 229)], &wanted("/dev/kvm", "/dev/kvm")).unwrap_err();
        let expected = "the microVM has no device /dev/kvm; the host's are not given to it. It has /dev/fuse";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn the_nodes_of_this_system_are_listed_once() {
        let nodes = nodes().unwrap();
        assert!(nodes.iter().any(|node| node.path == "/dev/null" && node.minor == 3));
        assert!(nodes.windows(2).all(|pair| pair[0].path < pair[1].path));
        assert!(nodes.iter().all(|node| !node.path.starts_with("/dev/pts")));
    }
}

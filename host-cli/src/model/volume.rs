//! Volumes and the places where containers mount them, and bind mounts, as plain data.

use serde::{Deserialize, Serialize};

/// Volume: a disk that outlives the containers that use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub name: String,
    /// Time of the creation in nanoseconds since 1970.
    pub created_ns: i64,
    /// Labels, `KEY[=VALUE]` each.
    pub labels: Vec<String>,
    /// Whether the volume is unnamed: `volume prune` removes it when no container uses it.
    pub anonymous: bool,
    /// Whether a container that may write to the volume has used it: it has its initial content, and no `lost+found`.
    pub prepared: bool,
}

/// Volume mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeMount {
    pub volume: String,
    /// Path in the container.
    pub target: String,
    pub readonly: bool,
    /// Whether the volume is filled from the image's folder while it is empty.
    pub populate: bool,
    /// Whether the volume was created for the container: `rm -v` and `--rm` remove it.
    pub anonymous: bool,
    /// Serial of the volume's disk; the same for the same volume at another path.
    pub serial: String,
}

/// Folder or file of the host, shared with a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShareMount {
    /// Path on the host: absolute, and without links when the container was created.
    pub source: String,
    /// Path in the container.
    pub target: String,
    pub readonly: bool,
    pub is_file: bool,
    /// Tag of the share's virtio-fs device.
    pub tag: String,
}

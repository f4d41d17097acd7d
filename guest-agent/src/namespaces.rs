//! Contents of new namespaces: host name, loopback interface, network, kernel parameters.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use capsid_protocol::ContainerSpec;
use rustix::io::Errno;

use crate::network::{Device, NetworkError};
use crate::sys;

/// Error of setting up namespaces.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// The host name cannot be set.
    #[error("cannot set the host name")]
    Hostname(#[source] Errno),
    /// The loopback interface cannot be brought up.
    #[error("cannot bring the loopback interface up")]
    Loopback(#[source] Errno),
    /// The network cannot be set up.
    #[error("cannot give the container its network")]
    Network(#[source] NetworkError),
    /// A kernel parameter cannot be set.
    #[error("cannot set the kernel parameter {name}")]
    Sysctl { name: String, source: std::io::Error },
}

/// Sets up the calling thread's new namespaces as a container expects. `device` belongs to its former network
/// namespace.
pub(crate) fn set_up(spec: &ContainerSpec, device: Option<Device>) -> Result<(), NamespaceError> {
    rustix::system::sethostname(spec.hostname.as_bytes()).map_err(NamespaceError::Hostname)?;
    loopback_up().map_err(NamespaceError::Loopback)?;
    if let (Some(device), Some(network)) = (device, &spec.network) {
        device.bring(network).map_err(NamespaceError::Network)?;
    }
    for sysctl in &spec.sysctls {
        let path = Path::new("/proc/sys").join(sysctl.name.replace('.', "/"));
        fs::write(path, &sysctl.value).map_err(|source| NamespaceError::Sysctl {
            name: sysctl.name.clone(),
            source,
        })?;
    }
    Ok(())
}

fn loopback_up() -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sys::bring_loopback_up(socket.as_fd())
}

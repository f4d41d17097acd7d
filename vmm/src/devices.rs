//! Devices, made from their configs and inherited fds: those of a machine in the order of their windows, and the same ones
//! one by one for QEMU.

use vm_memory::GuestMemoryMmap;

use crate::config::{DiskConfig, DiskSlotsConfig, FdNumber, MachineConfig, NetConfig, ShareConfig, VsockConfig};
use crate::inherited::{Inherited, InheritedError};
use crate::virtio::balloon::BalloonDevice;
use crate::virtio::block::{BlockDevice, Disk, DiskError};
use crate::virtio::device::Device;
use crate::virtio::net::{NetDevice, NetError};
use crate::virtio::rng::RngDevice;
use crate::virtio::share::{ShareDevice, ShareError};
use crate::virtio::vsock::{VsockDevice, VsockError};

/// Reason why a device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// An fd of the device is unusable.
    #[error("cannot take an fd of {device} from the supervisor")]
    Inherited {
        /// Name of the device.
        device: String,
        /// Cause.
        #[source]
        source: InheritedError,
    },
    /// The disk cannot be made of its files.
    #[error("cannot make {device} of its files")]
    Disk {
        /// Name of the disk.
        device: String,
        /// Cause.
        #[source]
        source: DiskError,
    },
    /// The file system device cannot be made of its socket.
    #[error("cannot make {device} of its socket")]
    Share {
        /// Name of the file system device.
        device: String,
        /// Cause.
        #[source]
        source: ShareError,
    },
    /// The network device cannot be made.
    #[error("cannot make the network device")]
    Net(#[source] NetError),
    /// The socket device cannot be made.
    #[error("cannot make the socket device")]
    Vsock(#[source] VsockError),
}

/// Device and its name in log lines.
pub(crate) struct NamedDevice {
    pub(crate) name: String,
    pub(crate) device: Box<dyn Device>,
}

/// Makes all devices of a machine. Disks come first, so that the guest names them in this order; then the disk slots,
/// shares, network, sockets, entropy, and the balloon.
pub(crate) fn of_machine(
    config: &MachineConfig,
    inherited: &mut Inherited,
    memory: &GuestMemoryMmap,
) -> Result<Vec<NamedDevice>, DeviceError> {
    let mut devices = Vec::with_capacity(config.disks.len() + config.shares.len() + 5);
    for (index, disk) in config.disks.iter().enumerate() {
        let name = format!("disk {index}");
        let device = Box::new(block(&name, disk, inherited)?);
        devices.push(NamedDevice { name, device });
    }
    if let Some(config) = &config.disk_slots {
        let device = Box::new(disk_slots(config, inherited)?);
        devices.push(NamedDevice {
            name: "disk slots".to_owned(),
            device,
        });
    }
    for (index, config) in config.shares.iter().enumerate() {
        let name = format!("share {index}");
        let device = Box::new(share(&name, config, inherited, memory)?);
        devices.push(NamedDevice { name, device });
    }
    if let Some(config) = &config.net {
        let device = Box::new(net(config, inherited)?);
        devices.push(NamedDevice {
            name: "net".to_owned(),
            device,
        });
    }
    let device = Box::new(vsock(&config.vsock, inherited)?);
    devices.push(NamedDevice {
        name: "vsock".to_owned(),
        device,
    });
    devices.push(NamedDevice {
        name: "rng".to_owned(),
        device: Box::new(RngDevice::new()),
    });
    devices.push(NamedDevice {
        name: "balloon".to_owned(),
        device: Box::new(BalloonDevice::new()),
    });
    Ok(devices)
}

/// Makes a disk.
pub(crate) fn block(name: &str, config: &DiskConfig, inherited: &mut Inherited) -> Result<BlockDevice, DeviceError> {
    let take = |fd: &FdNumber| inherited.take_file(*fd);
    let files: Result<Vec<_>, _> = config.extent_fds.iter().map(take).collect();
    let files = files.map_err(|source| DeviceError::Inherited {
        device: name.to_owned(),
        source,
    })?;
    let disk = Disk::new(files, config.readonly);
    let disk = disk.map_err(|source| DeviceError::Disk {
        device: name.to_owned(),
        source,
    })?;
    Ok(BlockDevice::new(disk, &config.serial, config.ignore_flush))
}

/// Makes the disk slots.
pub(crate) fn disk_slots(config: &DiskSlotsConfig, inherited: &mut Inherited) -> Result<BlockDevice, DeviceError> {
    let control = inherited.take(config.control_fd);
    let control = control.map_err(|source| DeviceError::Inherited {
        device: "the disk slots".to_owned(),
        source,
    })?;
    Ok(BlockDevice::with_disk_slots(control, &config.serial))
}

fn share(
    name: &str,
    config: &ShareConfig,
    inherited: &mut Inherited,
    memory: &GuestMemoryMmap,
) -> Result<ShareDevice, DeviceError> {
    let socket = inherited.take(config.socket_fd);
    let socket = socket.map_err(|source| DeviceError::Inherited {
        device: name.to_owned(),
        source,
    })?;
    ShareDevice::connect(&config.tag, socket.into(), memory).map_err(|source| DeviceError::Share {
        device: name.to_owned(),
        source,
    })
}

/// Makes the network device.
pub(crate) fn net(config: &NetConfig, inherited: &mut Inherited) -> Result<NetDevice, DeviceError> {
    let control = inherited.take(config.control_fd);
    let control = control.map_err(|source| DeviceError::Inherited {
        device: "the network device".to_owned(),
        source,
    })?;
    NetDevice::new(config.mac, config.resolver, control, config.bytes_per_second).map_err(DeviceError::Net)
}

/// Makes the socket device.
pub(crate) fn vsock(config: &VsockConfig, inherited: &mut Inherited) -> Result<VsockDevice, DeviceError> {
    let mut take = |fd| {
        let fail = |source| DeviceError::Inherited {
            device: "the socket device".to_owned(),
            source,
        };
        inherited.take(fd).map_err(fail)
    };
    let (session, control) = (take(config.session_fd)?, take(config.control_fd)?);
    VsockDevice::new(config.guest_cid, config.session_port, session, control).map_err(DeviceError::Vsock)
}

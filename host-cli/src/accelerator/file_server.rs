//! File server process, which serves one share to a machine.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use capsid_protocol::spec::SHARED_FILE;

use super::StartError;
use crate::install_paths;
use crate::model::ShareMount;
use crate::process::{HandedFiles, Sidecar};

/// Share in the form that a machine is given.
#[derive(Debug)]
pub(crate) struct Share {
    /// Tag of the virtio-fs device.
    pub tag: String,
    /// Socket that is connected to the file server, which speaks vhost-user.
    pub socket: UnixStream,
}

/// Starts a file server for `source`, which is the file with this device and inode number. `listener` has one
/// connection waiting.
pub(crate) fn serve_files(
    share: &ShareMount,
    source: &Path,
    identity: (u64, u64),
    listener: UnixListener,
) -> Result<Sidecar, StartError> {
    let mut files = HandedFiles::default();
    let socket = files.add(listener).to_string();
    let source = source.display().to_string();
    let identity = format!("{}:{}", identity.0, identity.1);
    let mut arguments: Vec<String> = ["--socket-fd", &socket, "--source", &source, "--identity", &identity]
        .map(String::from)
        .to_vec();
    if share.is_file {
        arguments.extend(["--file", SHARED_FILE].map(String::from));
    }
    if share.readonly {
        arguments.push("--readonly".into());
    }
    let name = format!("the file server of {source}");
    Ok(Sidecar::start(
        &name,
        &install_paths::file_server()?,
        &arguments,
        files,
    )?)
}

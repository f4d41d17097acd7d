//! Protocol between this crate and its converter processes: one request with open files, one reply. Between them, the
//! catalog of a folder asks for files.
//!
//! A converter is this program, started anew with a socket as its standard input. The request arrives there in one
//! record, together with its files (`SCM_RIGHTS`), so that the converter opens nothing by name and no fd leaks into
//! siblings. The reply is hostile, because the converter has read the image. It is bounded, typed, and its text made
//! printable again on arrival.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv,
    recvmsg, send, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::layer::convert::ConvertedLayer;
use crate::layer::fault::LayerFault;
use crate::limits::{CONVERTER_REPLY_BYTES_MAX, LAYERS_MAX};
use crate::load::ArchiveFault;
use crate::rootfs::Stack;

/// Largest number of files of a request: the indexes of all layers and the file to write.
const FILES_MAX: usize = LAYERS_MAX + 1;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum JobRequest {
    /// Converts a layer. Files: the layer's bytes (a pipe), the data blob, the index.
    Layer {
        /// Number of bytes that the layer may expand to.
        expanded_bytes_max: u64,
    },
    /// Merges layers. Files: the metadata image, then the index of each layer.
    Merge(Stack),
    /// Expands an archive. Files: the archive's bytes (a pipe), the file for the expanded bytes.
    Expand,
    /// Catalogs an archive. Files: the file for the catalog, then the archive: a tar of this length.
    CatalogTar { bytes: u64 },
    /// Catalogs a folder. Files: the file for the catalog. The converter asks for the files of the archive's folder.
    CatalogFolder,
    /// Answers [`Reply::Open`]. Files: the requested one, of this length, or none.
    Opened { bytes: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Layer {
        diff_id: Digest,
        expanded_bytes: u64,
        data_bytes: u64,
        entries: u64,
    },
    Merged {
        bytes: u64,
    },
    /// Reports a layer, by its number in the stack, that does not fit on those below it.
    MergeFault {
        layer: usize,
        fault: LayerFault,
    },
    Expanded {
        bytes: u64,
    },
    Catalogued {
        bytes: u64,
    },
    /// Asks for a file of the archive's folder; not the last reply.
    Open {
        name: String,
    },
    Fault(LayerFault),
    ArchiveFault(ArchiveFault),
    /// Reports a step that failed with an error number of the kernel.
    Failed {
        step: FailedStep,
        errno: i32,
    },
    /// Reports that the converter could not confine itself; it touched nothing.
    Unconfined {
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FailedStep {
    WriteData,
    WriteIndex,
    ReadIndex,
    WriteRootfs,
    WriteArchive,
    WriteCatalog,
}

impl From<ConvertedLayer> for Reply {
    fn from(layer: ConvertedLayer) -> Self {
        let ConvertedLayer {
            diff_id,
            expanded_bytes,
            data_bytes,
            entries,
        } = layer;
        Self::Layer {
            diff_id,
            expanded_bytes,
            data_bytes,
            entries,
        }
    }
}

/// Sends a request and its files.
pub(crate) fn send_request(socket: impl AsFd, request: &JobRequest, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(request)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a request and its files.
pub(crate) fn receive_request(socket: impl AsFd) -> io::Result<(JobRequest, Vec<File>)> {
    let mut bytes = vec![0; CONVERTER_REPLY_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut files = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            files.extend(fds.map(File::from));
        }
    }
    Ok((serde_json::from_slice(&bytes[..message.bytes])?, files))
}

pub(crate) fn send_reply(socket: impl AsFd, reply: &Reply) -> io::Result<()> {
    send(socket, &serde_json::to_vec(reply)?, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives the reply; `None` if the converter ended without one.
pub(crate) fn receive_reply(socket: &OwnedFd) -> io::Result<Option<Reply>> {
    let mut bytes = vec![0; CONVERTER_REPLY_BYTES_MAX];
    let (length, whole) = match recv(socket, &mut bytes[..], RecvFlags::TRUNC) {
        Ok((filled, whole)) => (filled, whole),
        Err(rustix::io::Errno::CONNRESET) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    if whole == 0 || whole > length {
        return Ok(None);
    }
    Ok(serde_json::from_slice(&bytes[..length]).ok())
}

//! Converter processes, from the side of the process that starts them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::cancellation::{Cancellation, Waited, cancelled_error};
use crate::job::{FailedStep, JobRequest, Reply, receive_reply, send_request};
use crate::layer::convert::ConvertedLayer;
use crate::layer::fault::LayerFault;
use crate::limits::{CATALOG_FILES_MAX, CONVERTER_REPLY_SECONDS_MAX};
use crate::load::{ArchiveFault, OpenNamed};
use crate::rootfs::Stack;
use crate::text::printable;

/// First argument that tells a program with this crate that it was started as a converter. The program must then call
/// [`convert_main`](crate::convert_main) at once.
pub const CONVERTER_COMMAND: &str = "__convert-image";

/// Number of bytes per write into the pipe; also the pipe's size, which an unprivileged user may raise to 1 MiB.
const PIPE_BYTES: usize = 1 << 20;

/// Command that starts a converter: usually `/proc/self/exe` with [`CONVERTER_COMMAND`].
///
/// Each converter runs alone in empty namespaces, without capabilities, under a system call filter, and opens no file
/// by name. The program must ignore `SIGPIPE`, as Rust programs do.
#[derive(Debug, Clone)]
pub struct Converter {
    /// Program to start.
    pub program: PathBuf,
    /// Arguments of the program.
    pub arguments: Vec<OsString>,
}

/// Reason why a converter gave no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The process did not start.
    #[error("cannot start the converter {}", program.display())]
    Start {
        /// Path of the program.
        program: PathBuf,
        /// Cause of the error.
        #[source]
        source: io::Error,
    },
    /// The request could not be sent, or the reply could not be received.
    #[error("cannot talk to the converter")]
    Talk(#[source] io::Error),
    /// The bytes to convert could not be read.
    #[error("cannot read the bytes to convert")]
    Source(#[source] io::Error),
    /// The image is at fault.
    #[error(transparent)]
    Fault(#[from] LayerFault),
    /// A layer does not fit on those below it.
    #[error("layer {layer} of the stack is at fault")]
    Merge {
        /// Number of the layer in the stack, the bottom one is 0.
        layer: usize,
        /// Fault of the layer.
        source: LayerFault,
    },
    /// The archive is at fault.
    #[error(transparent)]
    Archive(#[from] ArchiveFault),
    /// The converter could not write its output.
    #[error("cannot write {what}")]
    Write {
        /// Name of the output.
        what: &'static str,
        /// Cause of the error.
        #[source]
        source: io::Error,
    },
    /// This host does not let the converter confine itself.
    #[error("the converter cannot be confined: {reason}")]
    Unconfined {
        /// Step that failed, and its cause.
        reason: String,
    },
    /// The converter ended without a valid reply: it crashed, or was subverted.
    #[error("the converter failed ({status}){}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Died {
        /// Exit status of the process.
        status: String,
        /// Output of the process on standard error.
        message: String,
    },
    /// The converter did not reply after the end of its input.
    #[error("the converter did not answer within {CONVERTER_REPLY_SECONDS_MAX} s")]
    Silent,
    /// The user cancelled the operation.
    #[error("cancelled")]
    Cancelled,
}

impl ConvertError {
    /// True when the disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

impl Default for Converter {
    /// Starts this very program as its own converter.
    fn default() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            arguments: vec![CONVERTER_COMMAND.into()],
        }
    }
}

impl Converter {
    /// Converts the layer that `source` yields, which may expand to `expanded_bytes_max`; `data` and `index` are empty
    /// files.
    pub(crate) fn convert_layer(
        &self,
        source: &mut dyn Read,
        data: &File,
        index: &File,
        expanded_bytes_max: u64,
        cancellation: &Cancellation,
    ) -> Result<ConvertedLayer, ConvertError> {
        let request = JobRequest::Layer { expanded_bytes_max };
        match self.feed(&request, source, &[data.as_fd(), index.as_fd()], cancellation)? {
            Reply::Layer {
                diff_id,
                expanded_bytes,
                data_bytes,
                entries,
            } => Ok(ConvertedLayer {
                diff_id,
                expanded_bytes,
                data_bytes,
                entries,
            }),
            other => Err(unexpected(other)),
        }
    }

    /// Expands the archive that `source` yields into the empty file `out`.
    pub(crate) fn expand(
        &self,
        source: &mut dyn Read,
        out: &File,
        cancellation: &Cancellation,
    ) -> Result<u64, ConvertError> {
        match self.feed(&JobRequest::Expand, source, &[out.as_fd()], cancellation)? {
            Reply::Expanded { bytes } => Ok(bytes),
            other => Err(unexpected(other)),
        }
    }

    /// Writes the catalog of the archive `tar`, which is `bytes` bytes long, into the empty file `out`.
    pub(crate) fn catalog_tar(
        &self,
        tar: &File,
        bytes: u64,
        out: &File,
        cancellation: &Cancellation,
    ) -> Result<u64, ConvertError> {
        let process = Process::start(self)?;
        let request = JobRequest::CatalogTar { bytes };
        send_request(&process.socket, &request, &[out.as_fd(), tar.as_fd()]).map_err(ConvertError::Talk)?;
        process.catalogued(&|_| Ok(None), cancellation)
    }

    /// Writes the catalog of a layout's folder into the empty file `out`. `open` opens files of the folder.
    pub(crate) fn catalog_folder(
        &self,
        open: &OpenNamed<'_>,
        out: &File,
        cancellation: &Cancellation,
    ) -> Result<u64, ConvertError> {
        let process = Process::start(self)?;
        send_request(&process.socket, &JobRequest::CatalogFolder, &[out.as_fd()]).map_err(ConvertError::Talk)?;
        process.catalogued(open, cancellation)
    }

    /// Writes the metadata image of a stack of layers into the empty file `out`.
    pub(crate) fn merge(
        &self,
        stack: Stack,
        indexes: &[File],
        out: &File,
        cancellation: &Cancellation,
    ) -> Result<u64, ConvertError> {
        let mut process = Process::start(self)?;
        let mut files = vec![out.as_fd()];
        files.extend(indexes.iter().map(AsFd::as_fd));
        send_request(&process.socket, &JobRequest::Merge(stack), &files).map_err(ConvertError::Talk)?;
        match process.reply(cancellation)? {
            Reply::Merged { bytes } => Ok(bytes),
            Reply::MergeFault { layer, fault } if layer < indexes.len() => {
                Err(ConvertError::Merge { layer, source: fault })
            }
            other => Err(unexpected(other)),
        }
    }

    fn feed(
        &self,
        request: &JobRequest,
        source: &mut dyn Read,
        files: &[BorrowedFd<'_>],
        cancellation: &Cancellation,
    ) -> Result<Reply, ConvertError> {
        let mut process = Process::start(self)?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| ConvertError::Talk(errno.into()))?;
        // A smaller pipe is only slower.
        let _ = fcntl_setpipe_size(&writer, PIPE_BYTES);
        // This end alone is non-blocking: a converter that stops reading must not delay a cancellation.
        fcntl_setfl(&writer, OFlags::NONBLOCK).map_err(|errno| ConvertError::Talk(errno.into()))?;
        let all: Vec<_> = std::iter::once(reader.as_fd()).chain(files.iter().copied()).collect();
        send_request(&process.socket, request, &all).map_err(ConvertError::Talk)?;
        drop(reader);
        pump(source, File::from(writer), cancellation)?;
        process.reply(cancellation)
    }
}

/// Writes all of `source` into the pipe and closes it. Ends early if the reader has closed its end: the reply has the
/// reason.
fn pump(source: &mut dyn Read, mut pipe: File, cancellation: &Cancellation) -> Result<(), ConvertError> {
    let mut buffer = vec![0; PIPE_BYTES / 4];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) if cancellation.is_cancelled() => return Err(ConvertError::Cancelled),
            Err(error) => return Err(ConvertError::Source(error)),
        };
        match write_all(&mut pipe, &buffer[..count], cancellation) {
            Ok(()) => {}
            Err(_) if cancellation.is_cancelled() => return Err(ConvertError::Cancelled),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(ConvertError::Talk(error)),
        }
    }
}

/// Writes all bytes into a non-blocking pipe.
fn write_all(pipe: &mut File, mut bytes: &[u8], cancellation: &Cancellation) -> io::Result<()> {
    while !bytes.is_empty() {
        if cancellation.wait(&*pipe, PollFlags::OUT, None)? == Waited::Cancelled {
            return Err(cancelled_error());
        }
        match pipe.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Running converter; killed and reaped when dropped.
struct Process {
    child: Child,
    socket: OwnedFd,
}

impl Process {
    fn start(converter: &Converter) -> Result<Self, ConvertError> {
        let start_error = |source| ConvertError::Start {
            program: converter.program.clone(),
            source,
        };
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| start_error(errno.into()))?;
        let child = Command::new(&converter.program)
            .args(&converter.arguments)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C is handled by this process, which ends the converter itself.
            .process_group(0)
            .spawn()
            .map_err(start_error)?;
        Ok(Self { child, socket: ours })
    }

    fn reply(&mut self, cancellation: &Cancellation) -> Result<Reply, ConvertError> {
        let most = Duration::from_secs(CONVERTER_REPLY_SECONDS_MAX);
        let waited = cancellation.wait(&self.socket, PollFlags::IN, Some(most));
        match waited.map_err(ConvertError::Talk)? {
            Waited::Ready => {}
            Waited::Cancelled => return Err(ConvertError::Cancelled),
            Waited::TimedOut => return Err(ConvertError::Silent),
        }
        match receive_reply(&self.socket).map_err(ConvertError::Talk)? {
            Some(reply) => Ok(reply),
            None => Err(self.end()),
        }
    }

    /// Opens the files that the converter asks for until it has written the catalog; returns the catalog's length.
    fn catalogued(mut self, open: &OpenNamed<'_>, cancellation: &Cancellation) -> Result<u64, ConvertError> {
        for _ in 0..=CATALOG_FILES_MAX {
            let name = match self.reply(cancellation)? {
                Reply::Open { name } => name,
                Reply::Catalogued { bytes } => return Ok(bytes),
                other => return Err(unexpected(other)),
            };
            let opened = open(&name).map_err(ConvertError::Source)?;
            let bytes = opened.as_ref().map_or(0, |(_, bytes)| *bytes);
            let files: Vec<_> = opened.iter().map(|(file, _)| file.as_fd()).collect();
            send_request(&self.socket, &JobRequest::Opened { bytes }, &files).map_err(ConvertError::Talk)?;
        }
        Err(ConvertError::Archive(ArchiveFault::LongCatalog))
    }

    /// Reaps the process, which has closed its socket without a valid reply.
    fn end(&mut self) -> ConvertError {
        let _ = self.child.kill();
        let status = self
            .child
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        let mut message = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(4096).read_to_end(&mut message);
        }
        ConvertError::Died {
            status,
            message: printable(message.trim_ascii_end(), 1024),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Error in a reply that is not the expected result.
fn unexpected(reply: Reply) -> ConvertError {
    match reply {
        Reply::Fault(LayerFault::Read { reason }) => LayerFault::Read {
            reason: printable(reason.as_bytes(), 300),
        }
        .into(),
        Reply::Fault(fault) => fault.into(),
        Reply::ArchiveFault(fault) => fault.into(),
        Reply::Failed { step, errno } => {
            let what = match step {
                FailedStep::WriteData => "the layer's data",
                FailedStep::WriteIndex => "the layer's index",
                FailedStep::ReadIndex => return LayerFault::Index.into(),
                FailedStep::WriteRootfs => "the rootfs metadata",
                FailedStep::WriteArchive => "the expanded archive",
                FailedStep::WriteCatalog => "the catalog of the archive",
            };
            ConvertError::Write {
                what,
                source: io::Error::from_raw_os_error(errno),
            }
        }
        Reply::Unconfined { reason } => ConvertError::Unconfined {
            reason: printable(reason.as_bytes(), 300),
        },
        Reply::Layer { .. }
        | Reply::Merged { .. }
        | Reply::MergeFault { .. }
        | Reply::Expanded { .. }
        | Reply::Catalogued { .. }
        | Reply::Open { .. } => ConvertError::Died {
            status: "answered another question".into(),
            message: String::new(),
        },
    }
}

//! The converter process itself: receives its files, gives up everything else, does one job and replies.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;

use capsid_jail::{Condition, Jail, Resource, Rlimit, Rule, SyscallFilter, abort_on_panic, panic_rules};

use crate::job::{FailedStep, JobRequest, Reply, receive_request, send_reply};
use crate::layer::convert::{ConvertLayerError, convert_layer};
use crate::layer::expand::Expanded;
use crate::layer::fault::LayerFault;
use crate::limits::{
    ARCHIVE_BYTES_MAX, CONVERTER_CPU_SECONDS_MAX, CONVERTER_FILE_BYTES_MAX, CONVERTER_MEMORY_BYTES_MAX, LAYERS_MAX,
    PATH_BYTES_MAX,
};
use crate::load::catalog::{CatalogError, CatalogSource, write_catalog};
use crate::rootfs::{MergeError, merge};
use crate::text::chain;

/// Runs a converter process from start to end. Must be called first in `main`, with one thread running, if the first
/// argument is [`CONVERTER_COMMAND`](crate::CONVERTER_COMMAND).
pub fn convert_main() -> ExitCode {
    abort_on_panic();
    let socket = io::stdin();
    let Ok((request, files)) = receive_request(&socket) else {
        eprintln!("this command is for internal use");
        return ExitCode::from(125);
    };
    let reply = match confine(&files) {
        Ok(()) => work(request, files),
        Err(reason) => Reply::Unconfined { reason },
    };
    match send_reply(&socket, &reply) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn work(request: JobRequest, files: Vec<File>) -> Reply {
    let mut files = files.into_iter();
    let mut next = || files.next();
    match request {
        JobRequest::Layer { expanded_bytes_max } => match (next(), next(), next()) {
            (Some(input), Some(data), Some(index)) => match convert_layer(input, data, index, expanded_bytes_max) {
                Ok(layer) => layer.into(),
                Err(ConvertLayerError::Fault(fault)) => Reply::Fault(fault),
                Err(ConvertLayerError::WriteData(error)) => failed(FailedStep::WriteData, &error),
                Err(ConvertLayerError::WriteIndex(error)) => failed(FailedStep::WriteIndex, &error),
            },
            _ => Reply::Fault(LayerFault::Index),
        },
        JobRequest::Merge(stack) => match next() {
            Some(out) => match merge(&stack, files.collect(), &out) {
                Ok(bytes) => Reply::Merged { bytes },
                Err(MergeError::Fault { layer, fault }) => Reply::MergeFault { layer, fault },
                Err(MergeError::ReadIndex(error)) => failed(FailedStep::ReadIndex, &error),
                Err(MergeError::Write(error)) => failed(FailedStep::WriteRootfs, &error),
            },
            None => Reply::Fault(LayerFault::Index),
        },
        JobRequest::Expand => match (next(), next()) {
            (Some(input), Some(out)) => expand(input, out),
            _ => Reply::Fault(LayerFault::Index),
        },
        JobRequest::CatalogTar { bytes } => match (next(), next()) {
            (Some(out), Some(file)) => catalog(CatalogSource::Tar { file, bytes }, out),
            _ => Reply::Fault(LayerFault::Index),
        },
        JobRequest::CatalogFolder => match next() {
            Some(out) => catalog(CatalogSource::Folder(&ask_for), out),
            None => Reply::Fault(LayerFault::Index),
        },
        // An answer without a question.
        JobRequest::Opened { .. } => Reply::Fault(LayerFault::Index),
    }
}

fn catalog(source: CatalogSource<'_>, out: File) -> Reply {
    match write_catalog(source, out) {
        Ok(bytes) => Reply::Catalogued { bytes },
        Err(CatalogError::Fault(fault)) => Reply::ArchiveFault(fault),
        Err(CatalogError::Write(error)) => failed(FailedStep::WriteCatalog, &error),
    }
}

/// Asks the process that started this one for a file of the archive's folder.
fn ask_for(name: &str) -> io::Result<Option<(File, u64)>> {
    if name.len() > PATH_BYTES_MAX {
        return Ok(None);
    }
    let socket = io::stdin();
    send_reply(&socket, &Reply::Open { name: name.to_owned() })?;
    match receive_request(&socket)? {
        (JobRequest::Opened { bytes }, files) => Ok(files.into_iter().next().map(|file| (file, bytes))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn expand(input: File, mut out: File) -> Reply {
    let mut expanded = match Expanded::new(input, ARCHIVE_BYTES_MAX) {
        Ok(expanded) => expanded,
        Err(fault) => return Reply::Fault(fault),
    };
    let watch = expanded.watch();
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        match expanded.read(&mut buffer) {
            Ok(0) => return Reply::Expanded { bytes },
            Ok(count) => match out.write_all(&buffer[..count]) {
                Ok(()) => bytes += count as u64,
                Err(error) => return failed(FailedStep::WriteArchive, &error),
            },
            Err(error) => return Reply::Fault(watch.fault(error)),
        }
    }
}

fn failed(step: FailedStep, error: &io::Error) -> Reply {
    Reply::Failed {
        step,
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Takes everything from this process but the given files, the socket and standard error.
fn confine(files: &[File]) -> Result<(), String> {
    let mut keep_fds: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
    keep_fds.extend([0, 2]);
    let limit = |resource, most| Rlimit { resource, most };
    let rlimits = vec![
        limit(Resource::RLIMIT_FSIZE, CONVERTER_FILE_BYTES_MAX),
        limit(Resource::RLIMIT_AS, CONVERTER_MEMORY_BYTES_MAX),
        limit(Resource::RLIMIT_CPU, CONVERTER_CPU_SECONDS_MAX),
        // Enough for the files of a merge; from here on only the jail itself opens files.
        limit(Resource::RLIMIT_NOFILE, LAYERS_MAX as u64 + 16),
    ];
    let jail = Jail {
        keep_fds,
        rlimits,
        pid_namespace: true,
    };
    jail.enter().map_err(|error| chain(&error))?;
    let filter = SyscallFilter::new(&rules()).map_err(|error| chain(&error))?;
    filter.apply_to_thread().map_err(|error| chain(&error))
}

fn rules() -> Vec<Rule> {
    let mut rules = panic_rules();
    rules.extend([
        Rule::always(libc::SYS_read, "input pipe, indexes"),
        Rule::always(
            libc::SYS_pread64,
            "rootfs: its first block, for a checksum; catalog: documents",
        ),
        Rule::always(libc::SYS_write, "index, rootfs, expanded archive"),
        Rule::always(libc::SYS_pwrite64, "data blob, superblock"),
        Rule::always(libc::SYS_lseek, "read an index again; catalog: from header to header"),
        Rule::always(libc::SYS_ftruncate, "data blob: a hole at its end"),
        Rule::when(
            libc::SYS_sendto,
            vec![Condition::equals(0, 0)],
            "the reply, on the socket",
        ),
        Rule::when(
            libc::SYS_recvmsg,
            vec![Condition::equals(0, 0)],
            "catalog of a folder: its files, on the socket",
        ),
        Rule::when(
            libc::SYS_fcntl,
            vec![Condition::equals(1, libc::F_GETFD as u64)],
            "debug builds: the standard library checks an fd before it closes it",
        ),
        Rule::always(libc::SYS_close, "files that are done with"),
    ]);
    rules
}

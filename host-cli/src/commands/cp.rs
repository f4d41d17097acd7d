//! Verb `capsid cp`: copies files between this machine and a container, as tar archives that the agent creates and
//! unpacks.
//!
//! Data from a container is hostile, whoever asked for it: it is unpacked by `capsid_archive`, beneath the folder that
//! the user named, without following links. The container may run; a stopped one gets a machine for the moment.

pub(super) mod local;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use capsid_archive::{
    Copied, Destination, Found, Packer, ReadTarError, TarReader, UnpackError, Unpacked, Unpacking, destination,
};
use capsid_image::Compression;
use capsid_protocol::spec::task::Kind;
use capsid_protocol::spec::{Pack, Unpack};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::app::{AppContext, Context};
use crate::cli::CpArgs;
use crate::file_task::{FileTask, Rest};
use crate::output;
use crate::plan::size;
use local::Resolver;

/// Source or destination of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Container {
        name: String,
        path: Vec<u8>,
    },
    Local(PathBuf),
    /// Archive on a standard stream.
    Stream,
}

impl End {
    /// Parses an argument as docker does: a path that begins with `/` or `.` is local, whatever colons it has.
    fn parse(word: &OsStr) -> anyhow::Result<Self> {
        let bytes = word.as_bytes();
        if bytes == b"-" {
            return Ok(Self::Stream);
        }
        let colon = bytes.iter().position(|byte| *byte == b':');
        let Some(colon) = colon.filter(|_| !bytes.starts_with(b"/") && !bytes.starts_with(b".")) else {
            return Ok(Self::Local(word.into()));
        };
        let (name, path) = (&bytes[..colon], &bytes[colon + 1..]);
        let Ok(name) = std::str::from_utf8(name) else {
            bail!("the container's name is not text");
        };
        if path.is_empty() {
            bail!("no path is given: write CONTAINER:/PATH");
        }
        // Relative paths are relative to the root, as in docker.
        let path = if path.starts_with(b"/") {
            path.to_vec()
        } else {
            [b"/", path].concat()
        };
        Ok(Self::Container {
            name: name.into(),
            path,
        })
    }
}

/// Copies files as the arguments say.
pub(crate) async fn run(context: Context, args: CpArgs) -> anyhow::Result<u8> {
    let (source, target) = (End::parse(&args.source)?, End::parse(&args.destination)?);
    let app = AppContext::open(context)?;
    let (copied, to) = match (source, target) {
        (End::Container { name, path }, End::Stream) => {
            if output::is_terminal() {
                bail!("cowardly refusing to write an archive to a terminal: redirect it, or name a file");
            }
            stream_to_stdout(&app, &name, Kind::Pack(pack(path, &args))).await?;
            return Ok(0);
        }
        (End::Container { name, path }, End::Local(to)) => {
            let shown = to.display().to_string();
            (copy_out(&app, &name, pack(path, &args), to, args.archive).await?, shown)
        }
        (End::Local(from), End::Container { name, path }) => {
            let shown = format!("{name}:{}", String::from_utf8_lossy(&path));
            (copy_in(&app, &name, from, path, &args).await?, shown)
        }
        (End::Stream, End::Container { name, path }) => {
            stream_in(&app, &name, path).await?;
            return Ok(0);
        }
        (End::Container { .. }, End::Container { .. }) => bail!("copying between containers is not supported"),
        _ => bail!("must specify at least one container source"),
    };
    if !args.quiet {
        eprintln!("Successfully copied {} to {to}", size::human(copied));
    }
    Ok(0)
}

fn pack(path: Vec<u8>, args: &CpArgs) -> Pack {
    Pack {
        path,
        follow: args.follow_link,
    }
}

/// Writes an archive of the agent to a file, byte for byte.
pub(super) async fn stream_out(app: &AppContext, name: &str, kind: Kind, to: File) -> anyhow::Result<()> {
    let (copied, ended) = copy_stream(app, name, kind, to).await?;
    // A file that cannot be written is not the agent's fault.
    copied.context("cannot write the archive")?;
    ended
}

/// Writes an archive of the agent to stdout. A failure to write is reported when the command ends.
pub(super) async fn stream_to_stdout(app: &AppContext, name: &str, kind: Kind) -> anyhow::Result<()> {
    let (copied, ended) = copy_stream(app, name, kind, output::stdout_file()?).await?;
    if copied.is_ok() {
        return ended;
    }
    output::record(copied);
    Ok(())
}

/// Copies an archive of the agent. Returns the results of the copying and of the agent's task.
async fn copy_stream(
    app: &AppContext,
    name: &str,
    kind: Kind,
    mut to: File,
) -> anyhow::Result<(io::Result<()>, anyhow::Result<()>)> {
    let (_, mut stdout, rest) = FileTask::start(app, name, kind).await?.split();
    let copied = tokio::task::spawn_blocking(move || io::copy(&mut stdout, &mut to).map(drop)).await?;
    Ok((copied, rest.finish().await))
}

/// Copies files from a container into a folder of the host.
async fn copy_out(app: &AppContext, name: &str, pack: Pack, to: PathBuf, archive: bool) -> anyhow::Result<u64> {
    let asked = Asked::of(&pack.path);
    let resolver = Resolver::new(&app.state)?;
    let (_, stdout, rest) = FileTask::start(app, name, Kind::Pack(pack)).await?.split();
    let unpacked = tokio::task::spawn_blocking(move || unpack(stdout, &asked, &resolver, &to, archive)).await?;
    let done = conclude(unpacked, rest).await?;
    if done.devices_left_out > 0 {
        eprintln!(
            "capsid: warning: {} device nodes were left out: nothing of a container becomes a device here",
            done.devices_left_out
        );
    }
    if done.privileges_left_out > 0 {
        eprintln!(
            "capsid: warning: set-user-id and set-group-id bits and file capabilities of {} files were left out: \
             `capsid cp CONTAINER:PATH - | tar xp` keeps those bits",
            done.privileges_left_out
        );
    }
    Ok(done.bytes)
}

/// Combines the results of the unpacking and of the agent's task: the agent's own error explains an archive that ends
/// early.
async fn conclude(unpacked: anyhow::Result<Unpacked>, rest: Rest) -> anyhow::Result<Unpacked> {
    let is_cut_off = |error: &anyhow::Error| {
        let truncated = |cause: &UnpackError| matches!(cause, UnpackError::Archive(ReadTarError::Truncated));
        error.downcast_ref::<UnpackError>().is_some_and(truncated) || error.downcast_ref::<NothingCame>().is_some()
    };
    match unpacked {
        Err(error) if !is_cut_off(&error) => Err(error),
        unpacked => {
            rest.finish().await?;
            unpacked
        }
    }
}

/// Path that was requested of a container.
struct Asked {
    /// First component of the archive's names; empty for `.`.
    top: Vec<u8>,
}

impl Asked {
    fn of(path: &[u8]) -> Self {
        let is_content = path.ends_with(b"/") || path.ends_with(b"/.");
        let name = Path::new(OsStr::from_bytes(path)).file_name().filter(|_| !is_content);
        Self {
            top: name.map(|name| name.as_bytes().to_vec()).unwrap_or_default(),
        }
    }
}

/// Error when the container sent an empty archive.
#[derive(Debug, thiserror::Error)]
#[error("the container sent nothing")]
struct NothingCame;

fn unpack(input: UnixStream, asked: &Asked, resolver: &Resolver, to: &Path, archive: bool) -> anyhow::Result<Unpacked> {
    let is_root = rustix::process::geteuid().is_root();
    // The first member tells whether a folder arrives, which determines the destination.
    let mut recorder = Recorder {
        input,
        bytes: Vec::new(),
    };
    let first = TarReader::new(&mut recorder)
        .next_member()
        .map_err(UnpackError::Archive)?;
    let is_folder = first.ok_or(NothingCame)?.kind == b'5';
    let Recorder { input, bytes } = recorder;
    let copied = Copied {
        top: &asked.top,
        is_folder,
        is_foreign: false,
    };
    let (folder, placing) = local_target(resolver, to, copied)?;
    let unpacking = Unpacking {
        placing,
        keep_owners: archive && is_root,
        // Whoever the owner is: no program of a container becomes one that others run with somebody's privileges.
        keep_privileges: false,
        make_devices: false,
    };
    Ok(unpacking.unpack(Cursor::new(bytes).chain(input), folder)?)
}

/// Reader that keeps what is read.
struct Recorder<R> {
    input: R,
    bytes: Vec<u8>,
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.bytes.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

fn ends_as_folder(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes == b"."
}

/// Opens the host's folder that a copy is written to. Links of the user's own in the path are followed, and a link's
/// target is overwritten, not the link.
fn local_target(
    resolver: &Resolver,
    to: &Path,
    copied: Copied<'_>,
) -> anyhow::Result<(OwnedFd, capsid_archive::Placing)> {
    let shown = || to.display().to_string();
    let real = resolver.resolve(to, true)?;
    let (found, opened) = match local::open(&real, OFlags::PATH | OFlags::NOFOLLOW) {
        Err(Errno::NOENT) => (Found::Nothing, None),
        opened => {
            let opened = opened.with_context(shown)?;
            let found = match file_type(&opened).with_context(shown)? {
                FileType::Directory => Found::Folder,
                _ => Found::File,
            };
            (found, Some(opened))
        }
    };
    let decided = destination(found, ends_as_folder(to), real.file_name(), copied).with_context(shown)?;
    match (decided, opened) {
        (Destination::Inside(placing), Some(folder)) => Ok((folder, placing)),
        (Destination::Inside(placing) | Destination::Beside(placing), _) => {
            let parent = real.parent().unwrap_or(Path::new("/"));
            let folder = local::open(parent, OFlags::PATH | OFlags::DIRECTORY).with_context(shown)?;
            Ok((folder, placing))
        }
    }
}

fn file_type(file: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode))
}

/// File or folder of the host that is about to be packed.
struct Source {
    top: Vec<u8>,
    what: What,
    is_folder: bool,
}

enum What {
    /// Open file or folder.
    Opened(OwnedFd),
    /// Name in a folder: a link itself.
    Named(OwnedFd, OsString),
}

/// Opens the source of a copy. As in docker, a link is copied as a link, unless it is to be followed or the path ends
/// in `/`.
fn local_source(resolver: &Resolver, path: &Path, follow: bool) -> anyhow::Result<Source> {
    let shown = || path.display().to_string();
    let bytes = path.as_os_str().as_bytes();
    let content_only = bytes.ends_with(b"/.") || bytes == b".";
    let real = resolver.resolve(path, follow || ends_as_folder(path))?;
    let kind = local::open(&real, OFlags::PATH | OFlags::NOFOLLOW).and_then(|file| file_type(&file));
    let kind = kind.with_context(shown)?;
    if ends_as_folder(path) && kind != FileType::Directory {
        bail!("{}: not a directory", shown());
    }
    // A path that ends in `..` has a name once it is resolved.
    let name = path.file_name().or(real.file_name());
    let top = name.map_or_else(|| b"root".to_vec(), |name| name.as_bytes().to_vec());
    let what = if matches!(kind, FileType::RegularFile | FileType::Directory) {
        // NONBLOCK: a file that became a FIFO meanwhile must not block.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        What::Opened(local::open(&real, flags).with_context(shown)?)
    } else {
        let (parent, name) = real.parent().zip(real.file_name()).with_context(shown)?;
        let folder = local::open(parent, OFlags::RDONLY | OFlags::DIRECTORY).with_context(shown)?;
        What::Named(folder, name.to_owned())
    };
    let is_folder = match &what {
        What::Opened(file) => file_type(file).with_context(shown)? == FileType::Directory,
        What::Named(..) => false,
    };
    Ok(Source {
        top: if content_only { Vec::new() } else { top },
        what,
        is_folder,
    })
}

/// Copies files from the host into a container.
async fn copy_in(app: &AppContext, name: &str, from: PathBuf, path: Vec<u8>, args: &CpArgs) -> anyhow::Result<u64> {
    let source = local_source(&Resolver::new(&app.state)?, &from, args.follow_link)?;
    let unpack = Unpack {
        path,
        top: source.top.clone(),
        is_folder: source.is_folder,
        is_foreign: false,
        keep_owners: args.archive,
    };
    feed(app, name, unpack, move |to| {
        let mut packer = Packer::new(io::BufWriter::new(Counted { to, bytes: 0 }));
        let top = if source.top.is_empty() { b"." } else { &source.top[..] };
        match source.what {
            What::Opened(file) => packer.add_opened(file, top)?,
            What::Named(folder, name) => packer.add(folder, &name, top)?,
        }
        let counted = packer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(counted.bytes)
    })
    .await
}

/// Copies an archive on stdin into a container.
async fn stream_in(app: &AppContext, name: &str, path: Vec<u8>) -> anyhow::Result<()> {
    let unpack = Unpack {
        path,
        is_folder: true,
        is_foreign: true,
        keep_owners: true,
        ..Unpack::default()
    };
    let copied = feed(app, name, unpack, |mut to| {
        let mut archive = expanded(io::stdin().lock()).context("cannot read the archive")?;
        io::copy(&mut archive, &mut to).context("cannot pass the archive on")
    });
    copied.await.map(drop)
}

/// Decompresses the archive in `input`, if it is compressed.
fn expanded(mut input: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut magic = Vec::with_capacity(Compression::MAGIC_BYTES);
    input
        .by_ref()
        .take(Compression::MAGIC_BYTES as u64)
        .read_to_end(&mut magic)?;
    let compression = magic.as_slice().try_into().ok().and_then(Compression::of);
    let whole = io::BufReader::new(Cursor::new(magic).chain(input));
    match compression {
        Some(compression) => compression.reader(whole),
        None => Ok(Box::new(whole)),
    }
}

/// Sends the agent an archive that `write` writes, for it to unpack.
async fn feed(
    app: &AppContext,
    name: &str,
    unpack: Unpack,
    write: impl FnOnce(UnixStream) -> anyhow::Result<u64> + Send + 'static,
) -> anyhow::Result<u64> {
    let (stdin, _stdout, rest) = FileTask::start(app, name, Kind::Unpack(unpack)).await?.split();
    let stdin = stdin.context("the pod's supervisor handed over no input")?;
    let end = stdin.try_clone()?;
    let written = tokio::task::spawn_blocking(move || {
        let written = write(stdin);
        // Fails when the agent has closed it already.
        let _ = end.shutdown(Shutdown::Write);
        written
    });
    let (written, ended) = tokio::join!(written, rest.finish());
    // The agent's error explains a stream that it broke off.
    ended?;
    written?
}

/// Writer that counts bytes.
struct Counted<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_split_as_docker_splits_them() {
        let parse = |word: &str| End::parse(OsStr::new(word));
        let container = |name: &str, path: &str| End::Container {
            name: name.into(),
            path: path.into(),
        };
        assert_eq!(parse("web:/etc").unwrap(), container("web", "/etc"));
        assert_eq!(parse("web:etc/").unwrap(), container("web", "/etc/"));
        assert_eq!(parse("./web:/etc").unwrap(), End::Local("./web:/etc".into()));
        assert_eq!(parse("/a:b").unwrap(), End::Local("/a:b".into()));
        assert_eq!(parse("file").unwrap(), End::Local("file".into()));
        assert_eq!(parse("-").unwrap(), End::Stream);
        assert!(parse("web:").is_err());
    }
}

//! Files of the share, served to an untrusted guest: a filter in front of the library's pass-through file system
//! refuses what only a hostile guest asks for.
//!
//! | asked for | answered |
//! |---|---|
//! | the name `.` or `..` | refused: Linux's client walks up by itself |
//! | set-user-id, set-group-id bits on a file | left out: nobody on the host becomes another user by a guest's file |
//! | a device node | refused |
//! | unusual open flags | left out: only those that ordinary programs need, see [`OPEN_FLAGS`] |
//! | extended attributes | not there: capabilities of files are among them, and each write would ask for them first |
//! | locks | not there: the guest's kernel keeps them, so they do not reach from one machine to another |
//!
//! This code does not enforce that nothing outside of the share can be named and that nothing in a read-only share is
//! changed: [`capsid_jail::Share`] does.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use capsid_jail::Owners;
use fuse_backend_rs::abi::fuse_abi::{CreateIn, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, OpenOptions, SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};

use crate::limits;

/// Time for which the guest may cache folders. Folders change seldom, so a path is not walked anew for each of its
/// files. Files are asked for each time, so that a change on the host, or in another machine, is seen at once.
const FOLDERS_KNOWN_FOR: Duration = Duration::from_secs(1);

/// Flags with which a guest may open a file. Not `O_PATH`, `O_TMPFILE` or `O_ASYNC`, which mean something else than
/// reading and writing; not `O_NOATIME`, which is for owners; not `O_DIRECT`, because its alignment depends on the
/// host.
const OPEN_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_TRUNC
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW;

/// Flags permitted besides [`OPEN_FLAGS`] when a file is created.
const CREATE_FLAGS: i32 = libc::O_CREAT | libc::O_EXCL;

/// Mode bits that let whoever executes a file become another user or group.
const SET_ID_BITS: u32 = libc::S_ISUID | libc::S_ISGID;

/// Files of the share behind the filter.
pub(crate) struct Files<F = PassthroughFs> {
    inner: F,
    owners: Owners,
}

impl Files {
    /// Serves the files below `/`, which is opened when the guest mounts them. `/proc/self` is needed now.
    pub(crate) fn new() -> io::Result<Self> {
        let config = Config {
            root_dir: "/".into(),
            cache_policy: CachePolicy::Auto,
            entry_timeout: Duration::ZERO,
            attr_timeout: Duration::ZERO,
            dir_entry_timeout: Some(FOLDERS_KNOWN_FOR),
            dir_attr_timeout: Some(FOLDERS_KNOWN_FOR),
            // Without this, the library remembers every inode it has seen for good.
            use_host_ino: true,
            allow_direct_io: false,
            ..Config::default()
        };
        Ok(Self {
            inner: PassthroughFs::new(config)?,
            owners: Owners::OneUser,
        })
    }

    /// Sets the owners that this process can create files for.
    pub(crate) fn owned_by(self, owners: Owners) -> Self {
        Self { owners, ..self }
    }
}

impl<F> Files<F> {
    /// Puts the filter in front of another file system.
    #[cfg(fuzzing)]
    pub(crate) fn over(inner: F) -> Self {
        Self {
            inner,
            owners: Owners::OneUser,
        }
    }

    /// Returns the mode bits that a guest may give to a new file or, if `is_folder`, to a new folder.
    fn permitted_mode(mode: u32, is_folder: bool) -> u32 {
        // On a folder the group bit only selects the group of new files.
        let refused = if is_folder { libc::S_ISUID } else { SET_ID_BITS };
        mode & !refused
    }
}

/// Returns the permitted flags for a file that is already open: its access mode does not change.
fn open_flags(flags: u32) -> u32 {
    flags & OPEN_FLAGS as u32
}

fn refuse(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl<F: FileSystem<Inode = u64, Handle = u64>> FileSystem for Files<F> {
    type Inode = u64;
    type Handle = u64;

    /// Maps the user of a request to root where only one user is mapped: no file can be created for an unmapped user.
    fn id_remap(&self, context: &mut Context) -> io::Result<()> {
        if self.owners == Owners::OneUser {
            (context.uid, context.gid) = (0, 0);
        }
        Ok(())
    }

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        let mut options = self.inner.init(capable)?;
        // No file is mapped into the guest's memory.
        options.remove(FsOptions::PERFILE_DAX);
        options |= FsOptions::ASYNC_READ
            | FsOptions::ASYNC_DIO
            | FsOptions::ATOMIC_O_TRUNC
            | FsOptions::AUTO_INVAL_DATA
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::PARALLEL_DIROPS
            // The host's kernel takes set-user-id bits and capabilities from a file that is written to: this process
            // has no right to keep them (CAP_FSETID).
            | FsOptions::HANDLE_KILLPRIV;
        Ok(options)
    }

    fn destroy(&self) {
        self.inner.destroy();
    }

    fn statfs(&self, context: &Context, inode: u64) -> io::Result<statvfs64> {
        self.inner.statfs(context, inode)
    }

    fn lookup(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        if matches!(name.to_bytes(), b"" | b"." | b"..") {
            return Err(refuse(libc::EINVAL));
        }
        self.inner.lookup(context, parent, name)
    }

    fn forget(&self, context: &Context, inode: u64, count: u64) {
        self.inner.forget(context, inode, count);
    }

    fn batch_forget(&self, context: &Context, requests: Vec<(u64, u64)>) {
        self.inner.batch_forget(context, requests);
    }

    fn getattr(&self, context: &Context, inode: u64, handle: Option<u64>) -> io::Result<(stat64, Duration)> {
        self.inner.getattr(context, inode, handle)
    }

    fn setattr(
        &self,
        context: &Context,
        inode: u64,
        mut attributes: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        if valid.contains(SetattrValid::MODE) {
            let (known, _) = self.inner.getattr(context, inode, None)?;
            let is_folder = known.st_mode & libc::S_IFMT == libc::S_IFDIR;
            attributes.st_mode = Self::permitted_mode(attributes.st_mode, is_folder);
        }
        let set = self.inner.setattr(context, inode, attributes, handle, valid);
        set.map_err(|error| match error.raw_os_error() {
            // An owner without a name in this process's user namespace.
            Some(libc::EINVAL) if valid.intersects(SetattrValid::UID | SetattrValid::GID) => refuse(libc::EPERM),
            _ => error,
        })
    }

    fn readlink(&self, context: &Context, inode: u64) -> io::Result<Vec<u8>> {
        self.inner.readlink(context, inode)
    }

    fn symlink(&self, context: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.inner.symlink(context, target, parent, name)
    }

    fn mknod(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _device: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        match mode & libc::S_IFMT {
            0 | libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK => {
                let mode = Self::permitted_mode(mode, false);
                self.inner.mknod(context, parent, name, mode, 0, umask)
            }
            _ => Err(refuse(libc::EPERM)),
        }
    }

    fn mkdir(&self, context: &Context, parent: u64, name: &CStr, mode: u32, umask: u32) -> io::Result<Entry> {
        self.inner
            .mkdir(context, parent, name, Self::permitted_mode(mode, true), umask)
    }

    fn unlink(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.inner.unlink(context, parent, name)
    }

    fn rmdir(&self, context: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.inner.rmdir(context, parent, name)
    }

    fn rename(
        &self,
        context: &Context,
        from: u64,
        old_name: &CStr,
        to: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        // A whiteout is a device node.
        if flags & libc::RENAME_WHITEOUT != 0 {
            return Err(refuse(libc::EINVAL));
        }
        self.inner.rename(context, from, old_name, to, new_name, flags)
    }

    fn link(&self, context: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        let linked = self.inner.link(context, inode, parent, name);
        linked.map_err(|error| match error.raw_os_error() {
            // Before Linux 6.10 only capabilities in the host's own user namespace permit it (linkat(2),
            // AT_EMPTY_PATH), and a kernel that does not says that there is no such file. Programs copy where links are
            // not permitted.
            Some(libc::ENOENT)
                if self
                    .inner
                    .getattr(context, inode, None)
                    .is_ok_and(|(known, _)| known.st_nlink > 0) =>
            {
                refuse(libc::EPERM)
            }
            _ => error,
        })
    }

    fn open(
        &self,
        context: &Context,
        inode: u64,
        flags: u32,
        _fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        self.inner.open(context, inode, open_flags(flags), 0)
    }

    fn create(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        arguments: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let arguments = CreateIn {
            flags: arguments.flags & (OPEN_FLAGS | CREATE_FLAGS) as u32,
            mode: Self::permitted_mode(arguments.mode, false),
            fuse_flags: 0,
            ..arguments
        };
        self.inner.create(context, parent, name, arguments)
    }

    fn read(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        writer: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let flags = open_flags(flags);
        self.inner
            .read(context, inode, handle, writer, size, offset, lock_owner, flags)
    }

    fn write(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        reader: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed: bool,
        flags: u32,
        _fuse_flags: u32,
    ) -> io::Result<usize> {
        let flags = open_flags(flags);
        self.inner.write(
            context, inode, handle, reader, size, offset, lock_owner, delayed, flags, 0,
        )
    }

    fn flush(&self, context: &Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()> {
        self.inner.flush(context, inode, handle, lock_owner)
    }

    fn fsync(&self, context: &Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        self.inner.fsync(context, inode, data_only, handle)
    }

    fn fallocate(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.inner.fallocate(context, inode, handle, mode, offset, length)
    }

    fn release(
        &self,
        context: &Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.inner
            .release(context, inode, flags, handle, flush, flock_release, lock_owner)
    }

    fn opendir(&self, context: &Context, inode: u64, flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        self.inner.opendir(context, inode, open_flags(flags))
    }

    fn readdir(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let size = size.min(limits::LISTING_BYTES);
        self.inner.readdir(context, inode, handle, size, offset, add_entry)
    }

    fn readdirplus(
        &self,
        context: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let size = size.min(limits::LISTING_BYTES);
        self.inner.readdirplus(context, inode, handle, size, offset, add_entry)
    }

    fn fsyncdir(&self, context: &Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        self.inner.fsyncdir(context, inode, data_only, handle)
    }

    fn releasedir(&self, context: &Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        self.inner.releasedir(context, inode, flags, handle)
    }

    fn access(&self, context: &Context, inode: u64, mask: u32) -> io::Result<()> {
        self.inner.access(context, inode, mask)
    }

    fn lseek(&self, context: &Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        self.inner.lseek(context, inode, handle, offset, whence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_becomes_another_user_by_a_guests_file() {
        assert_eq!(<Files>::permitted_mode(0o107_755, false), 0o101_755);
        assert_eq!(<Files>::permitted_mode(0o47_755, true), 0o43_755);
    }

    #[test]
    fn open_flags_are_those_of_ordinary_programs() {
        let odd = libc::O_PATH | libc::O_TMPFILE | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME | libc::O_CREAT;
        let asked = (libc::O_RDWR | libc::O_APPEND | odd) as u32;
        // O_TMPFILE has O_DIRECTORY's bit in it, which is harmless.
        assert_eq!(
            open_flags(asked),
            (libc::O_RDWR | libc::O_APPEND | libc::O_DIRECTORY) as u32
        );
    }
}

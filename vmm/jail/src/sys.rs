//! System calls without a safe wrapper elsewhere. The only unsafe code of this crate.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid};
use rustix::io::Errno;
use rustix::process::set_parent_process_death_signal;
use rustix::thread::UnshareFlags;

/// Closes the fds `first..=last`.
pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the caller lists all fds that anything in this process still uses; enter() runs before any owner of
    // another fd is made.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Overwrites the environment with zeros and empties it, because it may hold secrets of the caller.
pub(crate) fn wipe_environment() -> io::Result<()> {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: enter() demands a single thread, so nobody changes the pointer meanwhile.
    let mut entry = unsafe { environ };
    while !entry.is_null() {
        // SAFETY: environ points to an array of pointers that ends with a null pointer (environ(7)).
        let variable = unsafe { *entry };
        if variable.is_null() {
            break;
        }
        // SAFETY: each pointer is a C string in writable memory of this process.
        let length = unsafe { libc::strlen(variable) };
        // SAFETY: the same string, up to its terminator.
        unsafe { variable.write_bytes(0, length) };
        // SAFETY: the array's null pointer has not been reached.
        entry = unsafe { entry.add(1) };
    }
    // SAFETY: single thread, as above.
    if unsafe { libc::clearenv() } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Calls `unshare(2)` without `CLONE_FILES`.
pub(crate) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the only danger named by rustix is CLONE_FILES, which no caller in this crate passes.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Side of a fork on which the caller is.
pub(crate) enum Fork {
    /// New process.
    Child,
    /// Old process, with the pid of the new one.
    Parent(Pid),
}

/// Calls `fork(2)`.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: enter() demands a single thread (unshare(CLONE_NEWUSER) and the kernel's own check of CLONE_NEWPID
    // enforce it), so no lock can be held by a thread that the child lacks.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Fork::Child),
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
    }
}

/// Sets the parent-death signal (`PR_SET_PDEATHSIG`) to `SIGKILL`.
pub(crate) fn kill_on_parent_death() -> rustix::io::Result<()> {
    set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
}

/// Ends the process without running destructors or exit handlers.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Sends `signal` to this process with its default action.
pub(crate) fn kill_self(signal: Signal) {
    // SAFETY: SIG_DFL installs no handler code. KILL and STOP refuse, and need no change.
    unsafe { libc::signal(signal as i32, libc::SIG_DFL) };
    let own_pid = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: kill touches no memory.
    unsafe { libc::kill(own_pid, signal as i32) };
}

/// Mirror of `struct landlock_ruleset_attr` (`include/uapi/linux/landlock.h`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LandlockRuleset {
    /// File system rights that are denied unless a rule grants them.
    pub(crate) handled_access_fs: u64,
    /// Network rights that are denied unless a rule grants them; since ABI 4.
    pub(crate) handled_access_net: u64,
    /// Actions that are denied towards processes outside; since ABI 6.
    pub(crate) scoped: u64,
}

/// Mount attribute `MOUNT_ATTR_RDONLY` (`include/uapi/linux/mount.h`).
pub(crate) const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// Mount attribute `MOUNT_ATTR_NOSUID`; see [`MOUNT_ATTR_RDONLY`].
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// Mount attribute `MOUNT_ATTR_NODEV`; see [`MOUNT_ATTR_RDONLY`].
pub(crate) const MOUNT_ATTR_NODEV: u64 = 0x4;
/// Mount attribute `MOUNT_ATTR_NOEXEC`; see [`MOUNT_ATTR_RDONLY`].
pub(crate) const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// Adds attributes to the mount `tree` and all mounts below it.
pub(crate) fn set_mount_attributes(tree: BorrowedFd<'_>, attributes: u64) -> rustix::io::Result<()> {
    mount_setattr(tree, attributes, libc::AT_RECURSIVE)
}

/// Adds attributes to one mount, not to the mounts below it.
pub(crate) fn set_mount_attribute_of_one(mount: BorrowedFd<'_>, attributes: u64) -> rustix::io::Result<()> {
    mount_setattr(mount, attributes, 0)
}

fn mount_setattr(mount: BorrowedFd<'_>, attributes: u64, flags: i32) -> rustix::io::Result<()> {
    let change = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is an empty C string and the attribute a live structure of the stated size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            std::os::fd::AsRawFd::as_raw_fd(&mount),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            std::ptr::from_ref(&change),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Flag `LANDLOCK_CREATE_RULESET_VERSION`.
const LANDLOCK_VERSION: u32 = 1;

/// Version of the kernel's Landlock ABI.
pub(crate) fn landlock_version() -> rustix::io::Result<u32> {
    // SAFETY: with this flag the kernel reads no attribute.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            LANDLOCK_VERSION,
        )
    };
    u32::try_from(version).map_err(|_| last_errno())
}

/// Landlock ruleset that is not in force yet.
pub(crate) struct Ruleset(OwnedFd);

/// Mirror of `struct landlock_path_beneath_attr` (`include/uapi/linux/landlock.h`).
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Rule type `LANDLOCK_RULE_PATH_BENEATH`.
const RULE_PATH_BENEATH: u32 = 1;

impl Ruleset {
    /// Makes a ruleset that permits nothing of what `handled` names.
    pub(crate) fn new(handled: &LandlockRuleset) -> rustix::io::Result<Self> {
        // A kernel that knows fewer fields accepts a longer structure when the rest is zero.
        let size = size_of::<LandlockRuleset>();
        // SAFETY: the attribute is a live structure of the stated size.
        let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::from_ref(handled), size, 0) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the kernel has just made this fd for us, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Permits `rights` on the file open as `number`, and on everything below it if it is a folder.
    pub(crate) fn permit(&self, number: RawFd, rights: u64) -> rustix::io::Result<()> {
        let rule = PathBeneath {
            allowed_access: rights,
            parent_fd: number,
        };
        // SAFETY: the rule is a live structure of the kind that the constant names; a number that is not open gives an
        // error.
        let result = unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                std::os::fd::AsRawFd::as_raw_fd(&self.0),
                RULE_PATH_BENEATH,
                &raw const rule,
                0,
            )
        };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    }

    /// Applies the ruleset to the calling thread; requires `no_new_privs`.
    pub(crate) fn restrict(&self) -> rustix::io::Result<()> {
        // SAFETY: no pointers; the fd is open.
        let result = unsafe {
            libc::syscall(
                libc::SYS_landlock_restrict_self,
                std::os::fd::AsRawFd::as_raw_fd(&self.0),
                0,
            )
        };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

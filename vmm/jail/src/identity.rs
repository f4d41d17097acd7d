//! Steps: namespaces, and a user that owns nothing.
//!
//! Two sequences of steps, depending on what the host permits:
//!
//! - root: leave the namespaces as root, empty the root directory, become a user of its own, then enter a user namespace.
//!   The last step is skipped where user namespaces are not permitted.
//! - anyone else: enter a user namespace first, which gives the right to do the rest.
//!
//! No id is mapped in the user namespace: the process touches no files by name, so it needs no identity, and it works
//! in containers that may not write several id mappings.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::wait::waitpid;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{
    CapabilitySet, LinkNameSpaceType, UnshareFlags, capabilities, move_into_link_name_space, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::{Confinement, JailError, Layer, privileges, sys};

/// User and group id of `nobody` and `nogroup`: the kernel's overflow ids, which own nothing.
const NOBODY: u32 = 65534;

/// First of the users that processes get, one each: above what systemd gives to containers, below what it calls unsafe
/// (systemd's `docs/UIDS-GIDS.md`). Process ids, which are below 2^22, are added.
const OWN_USERS: u32 = 1_900_000_000;

/// User id that no other process has while this process is alive. This process outlives the program that gets the id:
/// it waits for it.
pub(crate) fn own_user() -> u32 {
    OWN_USERS + rustix::process::getpid().as_raw_nonzero().get().unsigned_abs()
}

/// Method by which the namespaces were left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// Left as root of the host or of a container with `CAP_SYS_ADMIN`: the user still has to be dropped.
    AsRoot,
    /// Left by entering a user namespace first.
    InUserNamespace,
}

/// Leaves all namespaces of the host. A new pid namespace takes effect at the next fork.
pub(crate) fn leave_namespaces(pid_namespace: bool) -> Result<Namespaces, JailError> {
    let mut flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    if pid_namespace {
        flags |= UnshareFlags::NEWPID;
    }
    if geteuid().is_root() && sys::unshare(flags).is_ok() {
        return Ok(Namespaces::AsRoot);
    }
    sys::unshare(UnshareFlags::NEWUSER).map_err(|errno| JailError::UserNamespace(errno.into()))?;
    sys::unshare(flags).map_err(|errno| JailError::Namespaces(errno.into()))?;
    Ok(Namespaces::InUserNamespace)
}

/// Users whose files a file-serving process can create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Anybody's files: the process is root, with the capabilities that files need.
    Anybody,
    /// One user's files; the process's user namespace maps this user to 0. The process has no capabilities.
    OneUser,
}

/// Maps this process's user and group to 0 in its new user namespace; no other id is mapped there.
pub(crate) fn map_own_ids(outside: (Uid, Gid)) -> Result<(), JailError> {
    let write = |path: &'static str, text: String| {
        std::fs::write(path, text).map_err(|source| JailError::User { step: path, source })
    };
    // An unprivileged process may map its group only after it has given up changing its groups (user_namespaces(7)).
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {} 1", outside.0.as_raw()))?;
    write("/proc/self/gid_map", format!("0 {} 1", outside.1.as_raw()))
}

/// Makes a user namespace that maps every user and group of this one to the same number. Returns `None` where user
/// namespaces are not permitted, and for users other than root, who can map only themselves.
///
/// A process cannot write such a map for itself: a child process enters the namespace for it, and is gone when this
/// returns.
pub(crate) fn namespace_of_everybody() -> Result<Option<OwnedFd>, JailError> {
    let fail = |step| move |source: io::Error| JailError::NamespaceOfEverybody { step, source };
    if !geteuid().is_root() {
        return Ok(None);
    }
    let (entered, entered_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| fail("make a pipe")(errno.into()))?;
    let (mapped, mapped_writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| fail("make a pipe")(errno.into()))?;
    let child = match sys::fork().map_err(fail("fork"))? {
        sys::Fork::Parent(child) => child,
        sys::Fork::Child => {
            drop((entered, mapped_writer));
            hold_namespace(&entered_writer, &mapped)
        }
    };
    drop((entered_writer, mapped));
    let namespace = map_everybody(child, &entered);
    // The child's end of the pipe closes, so the child ends in every case.
    drop(mapped_writer);
    waitpid(child, None).map_err(|errno| fail("wait for its first process")(errno.into()))?;
    namespace
}

/// Runs the child process that stays in a new user namespace until its parent has opened that namespace.
fn hold_namespace(entered: &OwnedFd, mapped: &OwnedFd) -> ! {
    if sys::unshare(UnshareFlags::NEWUSER).is_ok() && rustix::io::write(entered, &[1]).is_ok() {
        // Ends with the pipe.
        let _ = rustix::io::retry_on_intr(|| rustix::io::read(mapped, &mut [0; 1]));
    }
    sys::exit_now(0)
}

/// Writes the id maps of the namespace that `child` reports as `entered`.
fn map_everybody(child: nix::unistd::Pid, entered: &OwnedFd) -> Result<Option<OwnedFd>, JailError> {
    let fail = |step| move |source: io::Error| JailError::NamespaceOfEverybody { step, source };
    let said = rustix::io::retry_on_intr(|| rustix::io::read(entered, &mut [0; 1]));
    if said != Ok(1) {
        return Ok(None);
    }
    for map in ["uid_map", "gid_map"] {
        let own = std::fs::read_to_string(format!("/proc/self/{map}")).map_err(fail("read this one's map"))?;
        match std::fs::write(format!("/proc/{child}/{map}"), same_ids(&own)) {
            Ok(()) => {}
            // Root without the right to change its user: it can serve only its own files, and reports so.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            Err(error) => return Err(fail("write its map")(error)),
        }
    }
    let namespace = std::fs::File::open(format!("/proc/{child}/ns/user")).map_err(fail("open it"))?;
    Ok(Some(namespace.into()))
}

/// Identity map of every id that `own`, a map in the format of proc_pid_uid_map(5), contains.
fn same_ids(own: &str) -> String {
    let ranges = own.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (first, count) = (words.next()?, words.nth(1)?);
        Some(format!("{first} {first} {count}\n"))
    });
    ranges.collect()
}

/// Keeps the user and the capabilities that serving files as that user needs; drops every other capability. Root enters
/// the user namespace `everybody` for this.
pub(crate) fn keep_for_files(
    namespaces: Namespaces,
    everybody: Option<OwnedFd>,
) -> Result<(Owners, Confinement), JailError> {
    match namespaces {
        Namespaces::AsRoot => {
            if let Some(namespace) = &everybody {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))
                    .map_err(fail("enter the user namespace"))?;
            }
            tolerate_unmapped(set_thread_groups(&[])).map_err(fail("leave groups"))?;
            // No MKNOD: no device nodes. No FSETID: the kernel clears set-user-id bits when a file is written.
            // DAC_READ_SEARCH is for hard links (linkat(2), AT_EMPTY_PATH); the system call filter must refuse the
            // other call that it would permit, open_by_handle_at(2).
            privileges::keep_only(
                CapabilitySet::CHOWN
                    | CapabilitySet::DAC_OVERRIDE
                    | CapabilitySet::DAC_READ_SEARCH
                    | CapabilitySet::FOWNER
                    | CapabilitySet::SETUID
                    | CapabilitySet::SETGID,
            )?;
            let confinement = Confinement::of(&ALWAYS)
                .with(Layer::Rlimits, everybody.is_some())
                .with(Layer::UserNamespace, everybody.is_some());
            Ok((Owners::Anybody, confinement))
        }
        Namespaces::InUserNamespace => {
            privileges::drop_all()?;
            let layers = [Layer::UserNamespace, Layer::User, Layer::Capabilities, Layer::Rlimits];
            Ok((Owners::OneUser, Confinement::of(&[&ALWAYS[..], &layers].concat())))
        }
    }
}

/// Layers without which none of our processes counts as confined.
const ALWAYS: [Layer; 3] = [Layer::Namespaces, Layer::Root, Layer::NoNewPrivileges];

/// Result of [`drop_user`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Whether a user that owns nothing has replaced root.
    pub(crate) user: bool,
    /// Whether no other process has this user.
    pub(crate) is_own_user: bool,
    /// Whether the process has a user namespace of its own.
    pub(crate) namespace: bool,
}

impl Dropped {
    /// Whether the host's root is out of reach: in a user namespace of its own, what remains of root has no capability
    /// outside.
    pub(crate) fn has_left_root(self) -> bool {
        self.user || self.namespace
    }

    /// Whether limits that count the processes of a user count this one's alone.
    pub(crate) fn is_counted_alone(self) -> bool {
        self.namespace || self.is_own_user
    }

    /// Confinement without capabilities and, so far, without Landlock.
    pub(crate) fn confinement(self) -> Confinement {
        Confinement::of(&ALWAYS)
            .with(Layer::Capabilities, true)
            .with(Layer::Rlimits, self.is_counted_alone())
            .with(Layer::User, self.user)
            .with(Layer::UserNamespace, self.namespace)
    }
}

/// Becomes user `wanted`, or `nobody` where a container does not map that user, in a user namespace; keeps just enough
/// capabilities to drop the rest later.
pub(crate) fn drop_user(namespaces: Namespaces, wanted: u32) -> Result<Dropped, JailError> {
    if namespaces == Namespaces::InUserNamespace {
        return Ok(Dropped {
            user: true,
            is_own_user: false,
            namespace: true,
        });
    }
    // CAP_SETPCAP must survive the change of user: the bounding set is emptied later.
    set_keep_capabilities(true).map_err(fail("keep capabilities"))?;
    // A container may not map these ids, or may not change groups: then its own user remains.
    tolerate_unmapped(set_thread_groups(&[])).map_err(fail("leave groups"))?;
    let is_own_user = become_user(wanted)?;
    let user = is_own_user || become_user(NOBODY)?;
    let mut sets = capabilities(None).map_err(fail("read capabilities"))?;
    sets.effective = sets.permitted & CapabilitySet::SETPCAP;
    set_capabilities(None, sets).map_err(fail("keep SETPCAP"))?;
    let namespace = match sys::unshare(UnshareFlags::NEWUSER) {
        Ok(()) => true,
        Err(Errno::PERM | Errno::NOSPC | Errno::USERS | Errno::INVAL | Errno::NOSYS) => false,
        Err(errno) => return Err(fail("enter a user namespace")(errno)),
    };
    Ok(Dropped {
        user,
        is_own_user,
        namespace,
    })
}

/// Whether this process has become user and group `id`.
fn become_user(id: u32) -> Result<bool, JailError> {
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    tolerate_unmapped(set_thread_res_gid(group, group, group)).map_err(fail("change group"))?;
    tolerate_unmapped(set_thread_res_uid(user, user, user)).map_err(fail("change user"))?;
    Ok(rustix::process::getuid() == user)
}

fn tolerate_unmapped(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::INVAL | Errno::PERM) => Ok(()),
        other => other,
    }
}

fn fail(step: &'static str) -> impl Fn(Errno) -> JailError {
    move |errno| JailError::User {
        step,
        source: io::Error::from(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::same_ids;

    #[test]
    fn everybody_is_whom_this_namespace_knows() {
        assert_eq!(same_ids("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(same_ids("0 100000 65536\n65536 1000 1\n"), "0 0 65536\n65536 65536 1\n");
    }
}

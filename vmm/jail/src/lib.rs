//! Confinement of our own processes that read hostile bytes: one ordered list of steps.
//!
//! The process already has every file open that it will ever use. [`Jail::enter`] takes everything else away: other
//! fds, environment, namespaces, file systems, identity, capabilities. Then each thread installs a [`SyscallFilter`] of
//! its own; there is no value that means "no filter".
//!
//! ```text
//! supervisor ── spawns ──► relay (outer pid namespace; no fds; waits) ── forks ──► the confined process (pid 1)
//!                            ▲ dies of the same signal or status  ◄─────────────────┘
//! ```
//!
//! Neither process outlives the other: the kernel kills the confined process when the relay dies, and the relay ends
//! with the signal or status of its child. Without a pid namespace there is no relay.

mod confinement;
mod descriptors;
mod error;
mod filter;
mod identity;
mod landlock;
mod panic;
mod privileges;
mod program;
mod relay;
mod rlimits;
mod root;
mod share;
mod sys;

use std::convert::Infallible;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;

use rustix::process::Pid;

use relay::RelayUser;

pub use confinement::{Confinement, Layer, LayerError, ReportError, report};
pub use error::JailError;
pub use filter::{Condition, FilterError, Rule, SyscallFilter};
pub use identity::Owners;
pub use panic::{ABORTED_STATUS, abort_on_panic, panic_rules};
pub use program::{Program, ProgramFile};
pub use rlimits::{Resource, Rlimit};
pub use share::Share;

/// List of what stays when everything else is taken away from a process.
#[derive(Debug, Clone)]
pub struct Jail {
    /// Fds that stay open. Standard streams not listed are replaced by `/dev/null`, so that their numbers are never
    /// reused.
    pub keep_fds: Vec<RawFd>,
    /// Resource limits to lower, besides [`rlimits::ALWAYS`].
    pub rlimits: Vec<Rlimit>,
    /// Whether to fork into a pid namespace of its own. The caller continues in the child; the parent relays the
    /// child's end.
    pub pid_namespace: bool,
}

impl Jail {
    /// Confines the calling process, which must have one thread only. Returns, in the confined process, the layers that
    /// are active; the caller adds its filter to them.
    ///
    /// The process that started this one must keep the *thread* alive that did so: the parent-death signal is bound to
    /// that thread (prctl(2), `PR_SET_PDEATHSIG`).
    ///
    /// # Errors
    /// [`JailError`] names the step that failed; the process is then only partly confined and should end.
    pub fn enter(&self) -> Result<Confinement, JailError> {
        let parent = rustix::process::getppid();
        let (lifeline, confinement) = self.confine(parent)?;
        hide(lifeline, parent)?;
        Ok(confinement)
    }

    /// Confines the calling process as [`Jail::enter`] does, but lets it outlive the process that started it, and any
    /// process that adopts it then. Not for use with a pid namespace, whose relay would be such a parent.
    ///
    /// # Errors
    /// Same errors as [`Jail::enter`].
    pub fn enter_alone(&self) -> Result<(), JailError> {
        debug_assert!(!self.pid_namespace, "a relay would take it along");
        self.confine(None)?;
        privileges::hide_memory()
    }

    fn confine(&self, parent: Option<Pid>) -> Result<(Option<relay::Lifeline>, Confinement), JailError> {
        let user = identity::own_user();
        self.shed()?;
        let (namespaces, lifeline) = self.leave(RelayUser::Becomes(user), parent)?;
        root::empty()?;
        let dropped = identity::drop_user(namespaces, user)?;
        rlimits::lower(&self.rlimits, dropped.is_counted_alone())?;
        privileges::drop_all()?;
        privileges::forbid_new()?;
        let landlock = landlock::restrict_where_available()?;
        Ok((lifeline, dropped.confinement().with_landlock(landlock)))
    }

    /// Confines the calling process as [`Jail::enter`] does, except for what serving `share` needs: the share becomes
    /// the root directory, and the process keeps its user. Root also keeps the capabilities that files need, in a user
    /// namespace of its own that maps everybody: there the capabilities apply to files and to nothing else of the
    /// host's. `prepare` runs in the confined process while `/proc/self/fd` can still be opened.
    ///
    /// # Errors
    /// Same errors as [`Jail::enter`]; the errors of `prepare`.
    pub fn enter_to_serve<T>(
        &self,
        share: &Share,
        prepare: impl FnOnce() -> io::Result<T>,
    ) -> Result<(T, Owners, Confinement), JailError> {
        let parent = rustix::process::getppid();
        let outside = (rustix::process::geteuid(), rustix::process::getegid());
        self.shed()?;
        // Mounting needs the host's user namespace, so the new one is entered after that.
        let everybody = identity::namespace_of_everybody()?;
        let (namespaces, lifeline) = self.leave(RelayUser::Kept, parent)?;
        if namespaces == identity::Namespaces::InUserNamespace {
            identity::map_own_ids(outside)?;
        }
        let prepared = share::enter(share, prepare)?;
        let is_counted_alone = everybody.is_some() || namespaces == identity::Namespaces::InUserNamespace;
        rlimits::lower(&self.rlimits, is_counted_alone)?;
        let (owners, kept) = identity::keep_for_files(namespaces, everybody)?;
        privileges::forbid_new()?;
        let landlock = landlock::restrict_all_but_files_where_available()?;
        hide(lifeline, parent)?;
        Ok((prepared, owners, kept.with_landlock(landlock)))
    }

    /// Confines the calling process as [`Jail::enter`] does and makes it execute `program`, whose files become its
    /// root. `filters` apply from the execution on, so they must permit the execution and what the program's own start
    /// needs.
    ///
    /// An executed program can be traced by its user's other processes, whatever this process does (`begin_new_exec` in
    /// the kernel's `fs/exec.c`). A program run by root therefore gets a user of its own; it is an error if no such
    /// user is possible.
    ///
    /// # Errors
    /// Same errors as [`Jail::enter`]; the error of the program's execution.
    pub fn execute(&self, program: &Program, filters: &[SyscallFilter]) -> Result<Infallible, JailError> {
        let parent = rustix::process::getppid();
        let outside = (rustix::process::geteuid(), rustix::process::getegid());
        let user = identity::own_user();
        self.shed()?;
        let (namespaces, lifeline) = self.leave(RelayUser::Becomes(user), parent)?;
        if namespaces == identity::Namespaces::InUserNamespace {
            identity::map_own_ids(outside)?;
        }
        program::enter(&program.files)?;
        let dropped = identity::drop_user(namespaces, user)?;
        if !dropped.has_left_root() {
            return Err(JailError::StillRoot);
        }
        rlimits::lower(&self.rlimits, dropped.is_counted_alone())?;
        privileges::drop_all()?;
        privileges::forbid_new()?;
        let landlock = landlock::restrict_to_reading_where_available(&program.reopened_fds)?;
        hide(lifeline, parent)?;
        let executable = CString::new(program.executable.clone().into_os_string().into_vec())
            .map_err(|error| JailError::Execute(error.into()))?;
        for filter in filters {
            filter.apply_to_thread().map_err(JailError::ProgramFilter)?;
        }
        if program.reports {
            let confinement = dropped.confinement().with_landlock(landlock);
            let confinement = confinement.with(Layer::Seccomp, !filters.is_empty());
            writeln!(io::stdout(), "{confinement}").map_err(JailError::Report)?;
        }
        nix::unistd::execve(&executable, &program.arguments, &program.environment)
            .map_err(|errno| JailError::Execute(errno.into()))
    }

    /// Closes the fds that are not kept, wipes the environment, and lowers the limits that no process needs.
    fn shed(&self) -> Result<(), JailError> {
        descriptors::close_all_but(&self.keep_fds)?;
        sys::wipe_environment().map_err(JailError::Environment)?;
        rlimits::lower(rlimits::ALWAYS, true)
    }

    /// Leaves the host's namespaces, up to the fork into the pid namespace.
    fn leave(
        &self,
        user: RelayUser,
        parent: Option<Pid>,
    ) -> Result<(identity::Namespaces, Option<relay::Lifeline>), JailError> {
        let namespaces = identity::leave_namespaces(self.pid_namespace)?;
        // The fork creates the pid namespace; settings of a single process (parent-death signal, filters) follow after
        // it, in both processes.
        let lifeline = if self.pid_namespace {
            Some(relay::split(namespaces, user, parent)?)
        } else {
            None
        };
        Ok((namespaces, lifeline))
    }
}

/// Hides the process's memory and sets the parent-death signal. Runs last: every change of credentials clears the
/// parent-death signal and may set dumpable again.
fn hide(lifeline: Option<relay::Lifeline>, parent: Option<Pid>) -> Result<(), JailError> {
    privileges::hide_memory()?;
    match lifeline {
        Some(lifeline) => lifeline.die_with_relay(),
        None => relay::die_with_parent(parent),
    }
}

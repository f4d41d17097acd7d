//! Why a process could not be confined.

use std::io;
use std::path::PathBuf;

use crate::FilterError;

/// Variant = step that failed.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Fds outside the kept list could not be closed.
    #[error("cannot close the file descriptors that are not needed")]
    CloseFds(#[source] io::Error),
    /// A standard stream could not be replaced.
    #[error("cannot replace standard stream {fd} by /dev/null")]
    StandardStream {
        /// Which.
        fd: i32,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The environment could not be wiped.
    #[error("cannot wipe the environment")]
    Environment(#[source] io::Error),
    /// A resource limit could not be lowered.
    #[error("cannot lower the limit {resource}")]
    Rlimit {
        /// Which.
        resource: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// No user namespace, and not root either.
    #[error("user namespaces are not permitted for this user (see user.max_user_namespaces and the host's policies)")]
    UserNamespace(#[source] io::Error),
    /// The other namespaces.
    #[error("cannot leave the host's namespaces")]
    Namespaces(#[source] io::Error),
    /// The fork into the pid namespace.
    #[error("cannot fork into the pid namespace")]
    Fork(#[source] io::Error),
    /// The pipe that tells whether the relay lives.
    #[error("cannot make the relay's lifeline")]
    Lifeline(#[source] io::Error),
    /// The relay, or the process that started this one, is gone.
    #[error("the parent process is gone")]
    ParentGone,
    /// The parent-death signal.
    #[error("cannot tie this process's life to its parent's")]
    ParentDeathSignal(#[source] io::Error),
    /// A step towards the empty root.
    #[error("cannot enter an empty root: {step}")]
    Root {
        /// Which.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file that belongs into the root of a program.
    #[error("cannot {action} {path} for the root of a program")]
    ProgramFile {
        /// What was to be done with it.
        action: &'static str,
        /// Path on the host.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Neither another user nor a user namespace.
    #[error(
        "this host lets root neither change its user nor enter a user namespace: permit one of them (CAP_SETUID and \
         CAP_SETGID, or user.max_user_namespaces)"
    )]
    StillRoot,
    /// Nobody reads what confines the program.
    #[error("cannot report what confines the program")]
    Report(#[source] io::Error),
    /// The user namespace of a file server that is run by root.
    #[error("cannot make a user namespace that knows everybody: {step}")]
    NamespaceOfEverybody {
        /// Which.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The program did not start.
    #[error("cannot execute the program in its own root")]
    Execute(#[source] io::Error),
    /// The program's own filters.
    #[error("cannot filter the program's system calls")]
    ProgramFilter(#[source] FilterError),
    /// User and group.
    #[error("cannot become an unprivileged user: {step}")]
    User {
        /// Which.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A step towards no capabilities.
    #[error("cannot drop all privileges: {step}")]
    Privileges {
        /// Which.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The kernel has Landlock, but refused.
    #[error("cannot restrict file access by Landlock")]
    Landlock(#[source] io::Error),
    /// The relay's own filter.
    #[error("cannot filter the relay's system calls")]
    RelayFilter(#[source] FilterError),
}

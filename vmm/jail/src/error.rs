//! Error of a process that could not be confined.

use std::io;
use std::path::PathBuf;

use crate::FilterError;

/// Error of a confinement step; the variant names the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Fds outside the kept list could not be closed.
    #[error("cannot close the file descriptors that are not needed")]
    CloseFds(#[source] io::Error),
    /// A standard stream could not be replaced.
    #[error("cannot replace standard stream {fd} by /dev/null")]
    StandardStream {
        /// Number of the standard stream.
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
        /// Name of the resource limit.
        resource: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A user namespace was not permitted, and the process is not root either.
    #[error("user namespaces are not permitted for this user (see user.max_user_namespaces and the host's policies)")]
    UserNamespace(#[source] io::Error),
    /// The host's other namespaces could not be left.
    #[error("cannot leave the host's namespaces")]
    Namespaces(#[source] io::Error),
    /// The fork into the pid namespace failed.
    #[error("cannot fork into the pid namespace")]
    Fork(#[source] io::Error),
    /// The pipe that shows whether the relay is alive could not be made.
    #[error("cannot make the relay's lifeline")]
    Lifeline(#[source] io::Error),
    /// The relay, or the process that started this one, is gone.
    #[error("the parent process is gone")]
    ParentGone,
    /// The parent-death signal could not be set.
    #[error("cannot tie this process's life to its parent's")]
    ParentDeathSignal(#[source] io::Error),
    /// A step towards the empty root failed.
    #[error("cannot enter an empty root: {step}")]
    Root {
        /// Name of the failed step.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file that belongs into the root of a program could not be used.
    #[error("cannot {action} {path} for the root of a program")]
    ProgramFile {
        /// Action that failed on the file.
        action: &'static str,
        /// Path on the host.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Neither another user nor a user namespace is possible.
    #[error(
        "this host lets root neither change its user nor enter a user namespace: permit one of them (CAP_SETUID and \
         CAP_SETGID, or user.max_user_namespaces)"
    )]
    StillRoot,
    /// The report of what confines the program could not be written: nobody reads it.
    #[error("cannot report what confines the program")]
    Report(#[source] io::Error),
    /// The user namespace of a file server that is run by root could not be made.
    #[error("cannot make a user namespace that knows everybody: {step}")]
    NamespaceOfEverybody {
        /// Name of the failed step.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The program could not be executed.
    #[error("cannot execute the program in its own root")]
    Execute(#[source] io::Error),
    /// The filters of the program could not be installed.
    #[error("cannot filter the program's system calls")]
    ProgramFilter(#[source] FilterError),
    /// The user and group could not be changed.
    #[error("cannot become an unprivileged user: {step}")]
    User {
        /// Name of the failed step.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A step towards no capabilities failed.
    #[error("cannot drop all privileges: {step}")]
    Privileges {
        /// Name of the failed step.
        step: &'static str,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// Landlock refused the ruleset, although the kernel has it.
    #[error("cannot restrict file access by Landlock")]
    Landlock(#[source] io::Error),
    /// The filter of the relay could not be installed.
    #[error("cannot filter the relay's system calls")]
    RelayFilter(#[source] FilterError),
}

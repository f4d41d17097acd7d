//! Verbs that access containers' files.

use std::path::PathBuf;

use clap::Args;

/// Flags of `capsid cp`.
#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// CONTAINER:PATH, a path of this machine, or - for a tar archive on stdin
    #[arg(value_name = "SOURCE")]
    pub source: std::ffi::OsString,
    /// CONTAINER:PATH, a path of this machine, or - for a tar archive on stdout
    #[arg(value_name = "DESTINATION")]
    pub destination: std::ffi::OsString,
    /// Keep owners, and as root what set-user-id bits there are
    #[arg(short, long)]
    pub archive: bool,
    /// Follow a link at the source path
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Say nothing
    #[arg(short, long)]
    pub quiet: bool,
}

/// Flags of `capsid export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Name or id
    pub container: String,
    /// File to write instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

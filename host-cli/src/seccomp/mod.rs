//! Seccomp profiles, compiled on the host to the filter that the agent installs in the guest.
//!
//! Steps: JSON -> [`profile`] -> [`policy`] (numbers, conditions, actions; [`default_profile`] makes one directly)
//! -> [`compiler`] -> [`program`] -> bytes.

mod compiler;
mod default_profile;
mod policy;
mod profile;
mod program;
mod syscalls;

#[cfg(test)]
mod interpreter;
#[cfg(test)]
mod tests;

pub(crate) use profile::ProfileError;
pub(crate) use program::TooLongError;

/// Reason why a profile gives no filter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    /// Invalid profile.
    #[error("reading the seccomp profile")]
    Profile(#[source] ProfileError),
    /// Valid profile whose filter is longer than the kernel accepts.
    #[error("compiling the seccomp profile")]
    Compile(#[source] TooLongError),
}

/// Compiles the default filter for a container whose bounding set is `capabilities` (bit n = capability n), as the
/// bytes of an array of `struct sock_filter`.
pub(crate) fn compile_default(capabilities: u64) -> Vec<u8> {
    // Short enough whatever the capabilities: checked by `the_default_filter_is_short_and_quick`.
    compiler::compile(&default_profile::policies(capabilities)).to_bytes()
}

/// Compiles the filter of the profile `json` for a container whose bounding set is `capabilities`.
pub(crate) fn compile_profile(json: &[u8], capabilities: u64) -> Result<Vec<u8>, SeccompError> {
    let policies = profile::resolve(json, capabilities).map_err(SeccompError::Profile)?;
    let program = compiler::compile(&policies).check().map_err(SeccompError::Compile)?;
    Ok(program.to_bytes())
}

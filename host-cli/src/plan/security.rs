//! Security options, `--security-opt`.

use std::path::PathBuf;

use crate::cli::parse_bool;

/// Reason why an option is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum SecurityError {
    #[error(
        "unknown --security-opt {0:?}: known are no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined"
    )]
    Unknown(String),
    #[error("--security-opt {0:?} is not honoured: the guest kernel has no such security module")]
    NoModule(String),
}

/// Seccomp profile of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum SeccompChoice {
    /// Default profile of docker.
    #[default]
    Default,
    /// No filter at all.
    Unconfined,
    /// User's own profile, JSON.
    File(PathBuf),
}

/// Result of all security options; the last one wins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SecurityOptions {
    pub no_new_privileges: bool,
    pub open_system_paths: bool,
    pub seccomp: SeccompChoice,
}

/// Parses the flags.
pub(crate) fn parse(flags: &[String], privileged: bool) -> Result<SecurityOptions, SecurityError> {
    let mut options = SecurityOptions {
        open_system_paths: privileged,
        ..Default::default()
    };
    if privileged {
        options.seccomp = SeccompChoice::Unconfined;
    }
    for flag in flags {
        let unknown = || SecurityError::Unknown(flag.clone());
        if flag == "no-new-privileges" {
            options.no_new_privileges = true;
            continue;
        }
        // docker accepts both "=" and, from its early versions, ":".
        let halves = flag.split_once('=').or_else(|| flag.split_once(':'));
        match halves.ok_or_else(unknown)? {
            ("no-new-privileges", value) => options.no_new_privileges = parse_bool(value).ok_or_else(unknown)?,
            ("seccomp", "unconfined") => options.seccomp = SeccompChoice::Unconfined,
            ("seccomp", "builtin") => options.seccomp = SeccompChoice::Default,
            ("seccomp", file) if !file.is_empty() => options.seccomp = SeccompChoice::File(file.into()),
            ("systempaths", "unconfined") => options.open_system_paths = true,
            ("apparmor", "unconfined") | ("label", "disable") => {}
            ("apparmor" | "label", _) => return Err(SecurityError::NoModule(flag.clone())),
            _ => return Err(unknown()),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_unknown_ones_refused() {
        let parse = |flags: &[&str]| parse(&flags.iter().map(|f| f.to_string()).collect::<Vec<_>>(), false);
        assert!(parse(&["no-new-privileges"]).unwrap().no_new_privileges);
        assert!(parse(&["no-new-privileges:1"]).unwrap().no_new_privileges);
        assert!(!parse(&["no-new-privileges=F"]).unwrap().no_new_privileges);
        assert_eq!(
            parse(&["seccomp=unconfined"]).unwrap().seccomp,
            SeccompChoice::Unconfined
        );
        assert_eq!(
            parse(&["seccomp=/p.json"]).unwrap().seccomp,
            SeccompChoice::File("/p.json".into())
        );
        for wrong in [
            "seccomp",
            "seccomp=",
            "apparmor=profile",
            "fly",
            "no-new-privileges=maybe",
            "no-new-privileges=",
            "no-new-privileges:",
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}

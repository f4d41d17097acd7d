//! Search and execution of the container's program.

use std::ffi::CString;

use rustix::io::Errno;

use crate::limits::PATH_BYTES_MAX;
use crate::mount::c_string;
use crate::sys;

/// Reason why the program does not run. The variants map to docker's exit codes 127 and 126.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// No such file in `PATH`.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    /// No such file.
    #[error("exec: {name:?}")]
    NotFound { name: String, source: Errno },
    /// The file exists but is not executable.
    #[error("exec: {name:?}")]
    Refused { name: String, source: Errno },
}

/// Executes `args` with `env`. Returns only the error.
pub(crate) fn execute(args: &[Vec<u8>], env: &[Vec<u8>]) -> ExecError {
    let name = args.first().map(Vec::as_slice).unwrap_or_default();
    let refused = |source| ExecError::Refused {
        name: String::from_utf8_lossy(name).into_owned(),
        source,
    };
    let strings = |list: &[Vec<u8>]| {
        list.iter()
            .map(|s| c_string(s))
            .collect::<Result<Vec<CString>, Errno>>()
    };
    let (args, env) = match (strings(args), strings(env)) {
        (Ok(args), Ok(env)) => (args, env),
        (Err(e), _) | (_, Err(e)) => return refused(e),
    };
    let mut failures = Vec::new();
    for candidate in candidates(name, path_of(&env)) {
        let failure = sys::execute(&candidate, &args, &env);
        failures.push(failure);
        if is_final(failure) {
            break;
        }
    }
    verdict(name, &failures)
}

/// Returns the value of `PATH`, empty if it is not set.
fn path_of(env: &[CString]) -> &[u8] {
    env.iter()
        .find_map(|v| v.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or_default()
}

/// Returns possible paths of `name`, in order: itself if it has a slash, otherwise in each folder of `path`.
fn candidates(name: &[u8], path: &[u8]) -> Vec<CString> {
    if name.contains(&b'/') {
        return c_string(name).into_iter().collect();
    }
    if name.is_empty() {
        return Vec::new();
    }
    let folders = path.split(|b| *b == b':').filter(|_| !path.is_empty());
    folders
        .filter(|folder| folder.len() + 1 + name.len() <= PATH_BYTES_MAX)
        // An empty folder is the working directory, as for every shell.
        .map(|folder| [if folder.is_empty() { b"." } else { folder }, b"/", name].concat())
        .filter_map(|candidate| c_string(&candidate).ok())
        .collect()
}

/// Whether the search ends with this failure: the file is there, and other folders cannot help.
fn is_final(failure: Errno) -> bool {
    !matches!(
        failure,
        Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::STALE | Errno::NODEV | Errno::TIMEDOUT
    )
}

/// Returns the error of a search that found nothing to run.
fn verdict(name: &[u8], failures: &[Errno]) -> ExecError {
    let text = String::from_utf8_lossy(name).into_owned();
    let is_absent = |e: &&Errno| !matches!(**e, Errno::NOENT | Errno::NOTDIR);
    match failures.iter().rev().find(is_absent) {
        Some(source) => ExecError::Refused {
            name: text,
            source: *source,
        },
        None if !name.contains(&b'/') => ExecError::NotInPath(text),
        None => ExecError::NotFound {
            name: text,
            source: failures.last().copied().unwrap_or(Errno::NOENT),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn names_are_looked_up_in_path_and_paths_are_not() {
        let found = candidates(b"sh", b"/bin::/usr/bin");
        assert_eq!(
            found,
            [c"/bin/sh".to_owned(), c"./sh".to_owned(), c"/usr/bin/sh".to_owned()]
        );
        assert_eq!(candidates(b"./sh", b"/bin"), [c"./sh".to_owned()]);
        assert!(candidates(b"sh", b"").is_empty());
        assert!(candidates(b"", b"/bin").is_empty());
    }

    /// Executes a program that cannot run.
    fn run(name: &str, path: &str) -> ExecError {
        execute(&[name.into()], &[format!("PATH={path}").into_bytes()])
    }

    #[test]
    fn absent_programs_are_told_from_those_that_cannot_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        assert!(matches!(run("absent", path), ExecError::NotInPath(_)));
        assert!(matches!(run("/absent/program", path), ExecError::NotFound { .. }));
        assert!(matches!(run("", path), ExecError::NotInPath(_)));
        fs::write(dir.path().join("data"), "text").unwrap();
        assert!(matches!(
            run("data", path),
            ExecError::Refused {
                source: Errno::ACCESS,
                ..
            }
        ));
        fs::set_permissions(dir.path().join("data"), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            run("data", path),
            ExecError::Refused {
                source: Errno::NOEXEC,
                ..
            }
        ));
        fs::create_dir(dir.path().join("folder")).unwrap();
        assert!(matches!(
            run("folder", path),
            ExecError::Refused {
                source: Errno::ACCESS,
                ..
            }
        ));
        assert!(matches!(run("/", path), ExecError::Refused { .. }));
    }
}

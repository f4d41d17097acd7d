//! Files of the user's that give their readers the user's rights elsewhere. Sharing them may be intended, so the user
//! is warned, and the share is not refused.

use std::path::{Path, PathBuf};

use crate::folders;
use crate::mounts::{FileLocation, MountTable, Relation};

/// Keys and credentials of common programs, relative to the home folder.
const IN_HOME: [&str; 15] = [
    ".ssh",
    ".gnupg",
    ".docker",
    ".aws",
    ".azure",
    ".kube",
    ".netrc",
    ".git-credentials",
    ".password-store",
    ".config/capsid",
    ".config/containers",
    ".config/gcloud",
    ".config/gh",
    ".config/git/credentials",
    ".local/share/keyrings",
];

/// Warns when `share`, a path without links, is such a file or folder, contains one, or lies in one.
pub(super) fn warn(share: &Path) {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let mut known: Vec<PathBuf> = home
        .filter(|home| home.is_absolute())
        .map(|home| IN_HOME.map(|name| home.join(name)).to_vec())
        .unwrap_or_default();
    let own = folders::config_file();
    known.extend(own.as_deref().and_then(Path::parent).map(Path::to_owned));
    let found = within(share, &known);
    if !found.is_empty() {
        let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
        eprintln!(
            "capsid: warning: the share {} gives the container what may hold your keys and credentials: {}",
            share.display(),
            names.join(", ")
        );
    }
}

/// Returns the existing paths of `known` that `share` gives access to, by whatever path.
fn within<'a>(share: &Path, known: &'a [PathBuf]) -> Vec<&'a PathBuf> {
    let table = MountTable::read().ok();
    let place = |path: &Path| -> Option<FileLocation> { Some(table.as_ref()?.find(path).ok()??.1) };
    let share_place = place(share);
    let is_given = |known: &&PathBuf| {
        let Ok(real) = known.canonicalize() else { return false };
        let by_place = || place(&real)?.relation_to(share_place.as_ref()?);
        Relation::of_paths(&real, share).or_else(by_place).is_some()
    };
    let mut found: Vec<&PathBuf> = known.iter().filter(is_given).collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_holds_a_key_or_lies_beside_one_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().canonicalize().unwrap();
        for folder in ["elsewhere/deep", ".docker", "work"] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        // The user keeps the folder elsewhere.
        std::os::unix::fs::symlink("elsewhere", home.join(".ssh")).unwrap();
        let known = [home.join(".ssh"), home.join(".docker"), home.join(".aws")];
        let found = |path: &str| {
            within(&home.join(path), &known)
                .into_iter()
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(found(""), known[..2]);
        assert_eq!(found("elsewhere/deep"), known[..1]);
        assert_eq!(found(".docker"), known[1..2]);
        assert!(found("work").is_empty());
        assert_eq!(within(Path::new("/"), &known).len(), 2);
    }
}

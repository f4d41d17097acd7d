//! Snapshots of directories, to be compared.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::image::sha256_hex;

/// Returns every path below a directory with a description that changes when it is changed; links are not followed.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut next = vec![root.to_owned()];
    while let Some(path) = next.pop() {
        let metadata = fs::symlink_metadata(&path).expect("a readable directory");
        let mut facts = format!("{:o} {} {}", metadata.mode(), metadata.uid(), metadata.len());
        if metadata.is_dir() {
            facts = format!("{:o} {}", metadata.mode(), metadata.uid());
            let entries = fs::read_dir(&path).into_iter().flatten();
            next.extend(entries.map(|entry| entry.expect("a readable directory").path()));
        } else if metadata.is_file() && metadata.len() < 1 << 20 {
            facts += &format!(" {}", sha256_hex(&fs::read(&path).unwrap_or_default()));
        }
        found.insert(path, facts);
    }
    found
}

/// Requires that two trees are the same; reports the differences.
#[track_caller]
pub fn assert_same(now: &BTreeMap<PathBuf, String>, before: &BTreeMap<PathBuf, String>, what: &str) {
    let differ = |(path, facts): &(&PathBuf, &String)| now.get(*path) != Some(*facts);
    let lost: Vec<_> = before.iter().filter(differ).collect();
    let new: Vec<_> = now.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(
        lost.is_empty() && new.is_empty(),
        "{what}: lost or changed {lost:?}, new {new:?}"
    );
}

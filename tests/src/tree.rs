//! Folder tree as lines of text, so that two trees are compared by comparing text: names, types, modes, owners, times,
//! links, hard links, devices, extended attributes and contents.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Describes every entry below `root` completely, by path.
pub fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut links = BTreeMap::new();
    walk(root, root, &mut found, &mut links);
    // Inode numbers differ between trees: a hard link is described by the first path of its inode.
    for paths in links.values_mut() {
        let paths: &mut Vec<PathBuf> = paths;
        paths.sort();
        for path in paths.iter() {
            let first = paths[0].display().to_string();
            found
                .entry(path.clone())
                .and_modify(|line| line.push_str(&format!(" same-as={first}")));
        }
    }
    found
}

/// Requires equal trees; shows the first differences.
#[track_caller]
pub fn assert_same(ours: &BTreeMap<PathBuf, String>, theirs: &BTreeMap<PathBuf, String>) {
    let mut differences = Vec::new();
    for (path, line) in ours {
        match theirs.get(path) {
            None => differences.push(format!("{}: only ours: {line}", path.display())),
            Some(other) if other != line => {
                differences.push(format!("{}:\n    ours   {line}\n    theirs {other}", path.display()));
            }
            Some(_) => {}
        }
    }
    differences.extend(
        theirs
            .keys()
            .filter(|path| !ours.contains_key(*path))
            .map(|path| format!("{}: missing", path.display())),
    );
    let count = differences.len();
    differences.truncate(20);
    assert!(count == 0, "{count} differences:\n  {}", differences.join("\n  "));
}

fn walk(root: &Path, path: &Path, found: &mut BTreeMap<PathBuf, String>, links: &mut BTreeMap<u64, Vec<PathBuf>>) {
    let metadata = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let relative = path.strip_prefix(root).expect("below the root").to_owned();
    found.insert(
        relative.clone(),
        describe_one(path, &metadata).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    );
    if metadata.is_dir() {
        for entry in fs::read_dir(path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .flatten()
        {
            walk(root, &entry.path(), found, links);
        }
    } else if metadata.nlink() > 1 {
        links.entry(metadata.ino()).or_default().push(relative);
    }
}

fn describe_one(path: &Path, metadata: &fs::Metadata) -> io::Result<String> {
    let kind = metadata.file_type();
    let (letter, content) = if kind.is_dir() {
        ('d', String::new())
    } else if kind.is_symlink() {
        ('l', format!(" -> {}", fs::read_link(path)?.display()))
    } else if kind.is_char_device() || kind.is_block_device() {
        let letter = if kind.is_char_device() { 'c' } else { 'b' };
        (
            letter,
            format!(" {}:{}", libc::major(metadata.rdev()), libc::minor(metadata.rdev())),
        )
    } else if kind.is_fifo() {
        ('p', String::new())
    } else if kind.is_socket() {
        ('s', String::new())
    } else {
        let digest = hex::encode(&Sha256::digest(fs::read(path)?)[..8]);
        ('f', format!(" {} bytes {digest}", metadata.len()))
    };
    Ok(format!(
        "{letter} {:04o} {}:{} @{}{content}{}",
        metadata.mode() & 0o7777,
        metadata.uid(),
        metadata.gid(),
        metadata.mtime(),
        xattrs(path)?
    ))
}

fn xattrs(path: &Path) -> io::Result<String> {
    let mut names = vec![0_u8; 64 * 1024];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut sorted: Vec<&[u8]> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .collect();
    sorted.sort_unstable();
    let mut text = String::new();
    for name in sorted {
        let name = std::ffi::OsStr::from_bytes(name);
        let mut value = vec![0_u8; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        text.push_str(&format!(" {}={}", name.display(), hex::encode(&value[..length])));
    }
    Ok(text)
}

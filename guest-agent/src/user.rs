//! User and groups of the container's program: `user[:group]` resolved from the image's own account files.
//!
//! The files are hostile bytes: bounded, parsed line by line, and a malformed line names nobody. The meaning of names,
//! numbers and missing entries is docker's (`moby/sys/user`, `GetExecUser`).

use std::path::Path;

use rustix::io::Errno;

use crate::beneath::Root;
use crate::limits::{ACCOUNT_FILE_BYTES_MAX, GROUPS_MAX};

/// Highest user or group number, the same as docker's.
const ID_MAX: u32 = i32::MAX as u32;

/// Error of resolving a user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    /// An account file cannot be read.
    #[error("cannot read {file}")]
    Read { file: &'static str, source: Errno },
    /// There is no such user.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// There is no such group.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number is out of range.
    #[error("uids and gids must be in range 0-{ID_MAX}")]
    Range,
    /// There are more groups than Linux has room for.
    #[error("more than {GROUPS_MAX} supplementary groups")]
    TooManyGroups,
}

/// User and groups that a program runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User number.
    pub(crate) uid: u32,
    /// Group number.
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one first.
    pub(crate) groups: Vec<u32>,
    /// Home folder.
    pub(crate) home: Vec<u8>,
}

impl Identity {
    /// Returns the identity of the guest's own root.
    pub(crate) fn root() -> Self {
        Self {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: b"/root".to_vec(),
        }
    }
}

/// Resolves `user` and the groups `additional` with the account files beneath `root`.
pub(crate) fn resolve(root: &Root, user: &str, additional: &[String]) -> Result<Identity, UserError> {
    let read = |file: &'static str| {
        let content = root.read(Path::new(file), ACCOUNT_FILE_BYTES_MAX);
        content
            .map(Option::unwrap_or_default)
            .map_err(|source| UserError::Read { file, source })
    };
    identify(user, additional, &read("/etc/passwd")?, &read("/etc/group")?)
}

/// Line of a passwd file.
struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

/// Line of a group file.
struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// Yields the well-formed lines of a passwd file.
fn passwd_entries(content: &[u8]) -> impl Iterator<Item = PasswdEntry<'_>> {
    content.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (number(fields.next()?)?, number(fields.next()?)?);
        let (_comment, home) = (fields.next(), fields.next().unwrap_or_default());
        Some(PasswdEntry { name, uid, gid, home })
    })
}

/// Yields the well-formed lines of a group file.
fn group_entries(content: &[u8]) -> impl Iterator<Item = GroupEntry<'_>> {
    content.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = number(fields.next()?)?;
        Some(GroupEntry {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        })
    })
}

/// Parses a decimal number.
fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

/// Parses a part of `user[:group]` as a number in range; `None` if it can only be a name.
fn number_in_range(text: &str) -> Result<Option<u32>, UserError> {
    let is_numeric = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match number(text.as_bytes()) {
        Some(n) if n <= ID_MAX => Ok(Some(n)),
        None if !is_numeric => Ok(None),
        _ => Err(UserError::Range),
    }
}

/// Resolves a user from the contents of the account files, without I/O.
fn identify(user: &str, additional: &[String], passwd: &[u8], group: &[u8]) -> Result<Identity, UserError> {
    let (user_part, group_part) = user.split_once(':').unwrap_or((user, ""));
    let wanted_uid = number_in_range(user_part)?;
    let entry = passwd_entries(passwd).find(|e| match user_part {
        "" => e.uid == 0,
        name => e.name == name.as_bytes() || wanted_uid == Some(e.uid),
    });
    let (uid, mut gid, home) = match (&entry, wanted_uid) {
        (Some(e), _) => (e.uid, e.gid, e.home),
        (None, Some(uid)) => (uid, 0, b"".as_slice()),
        (None, None) if user_part.is_empty() => (0, 0, b"".as_slice()),
        (None, None) => return Err(UserError::UnknownUser(user_part.to_owned())),
    };
    let mut supplementary = Vec::new();
    if !group_part.is_empty() {
        gid = find_group(group_part, group)?;
    } else if let Some(entry) = &entry {
        let is_member = |g: &GroupEntry| g.members.split(|b| *b == b',').any(|m| m == entry.name);
        supplementary.extend(group_entries(group).filter(is_member).map(|g| g.gid));
    }
    for name in additional {
        supplementary.push(find_group(name, group)?);
    }
    if uid > ID_MAX || gid > ID_MAX {
        return Err(UserError::Range);
    }
    let groups = without_repeats(gid, supplementary)?;
    let home = if home.is_empty() { b"/".to_vec() } else { home.to_vec() };
    Ok(Identity { uid, gid, groups, home })
}

/// Returns the primary group (CVE-2022-36109: without it, negative group permissions are void), then the others, each
/// once.
fn without_repeats(gid: u32, supplementary: Vec<u32>) -> Result<Vec<u32>, UserError> {
    let mut groups = vec![gid];
    let mut seen = std::collections::BTreeSet::from([gid]);
    groups.extend(supplementary.into_iter().filter(|g| seen.insert(*g)));
    if groups.len() > GROUPS_MAX {
        Err(UserError::TooManyGroups)
    } else {
        Ok(groups)
    }
}

/// Returns the number of the group that `text` names.
fn find_group(text: &str, group: &[u8]) -> Result<u32, UserError> {
    let wanted = number_in_range(text)?;
    let found = group_entries(group).find(|g| g.name == text.as_bytes() || wanted == Some(g.gid));
    found
        .map(|g| g.gid)
        .or(wanted)
        .ok_or_else(|| UserError::UnknownGroup(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\nbroken:x:zero:0::/:\nweb:x:33:44:web,,,:/var/www:/bin/false\n";
    const GROUP: &[u8] = b"root:x:0:\nwww:x:44:\nlogs:x:7:adm,web\nmail:x:8:web\nbad\n";

    fn who(user: &str) -> Result<Identity, UserError> {
        identify(user, &[], PASSWD, GROUP)
    }

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Identity {
        Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        }
    }

    #[test]
    fn users_and_groups_resolve_as_docker_does() {
        assert_eq!(who("").unwrap(), identity(0, 0, &[0], "/root"));
        assert_eq!(who("web").unwrap(), identity(33, 44, &[44, 7, 8], "/var/www"));
        assert_eq!(who("33").unwrap(), identity(33, 44, &[44, 7, 8], "/var/www"));
        assert_eq!(who("web:logs").unwrap(), identity(33, 7, &[7], "/var/www"));
        assert_eq!(who("1000").unwrap(), identity(1000, 0, &[0], "/"));
        assert_eq!(who("1000:1001").unwrap(), identity(1000, 1001, &[1001], "/"));
        assert_eq!(who(":logs").unwrap(), identity(0, 7, &[7], "/root"));
    }

    #[test]
    fn unknown_names_and_malformed_lines_are_nobody() {
        let message = who("ghost").unwrap_err().to_string();
        assert_eq!(message, "unable to find user ghost: no matching entries in passwd file");
        assert!(matches!(who("broken"), Err(UserError::UnknownUser(_))));
        assert!(matches!(who("web:ghosts"), Err(UserError::UnknownGroup(_))));
        assert!(matches!(who("4294967295"), Err(UserError::Range)));
        assert!(matches!(who("99999999999999"), Err(UserError::Range)));
    }

    #[test]
    fn additional_groups_are_names_or_numbers_once() {
        let additional = ["logs", "44", "9"].map(str::to_owned);
        let found = identify("web", &additional, PASSWD, GROUP).unwrap();
        assert_eq!(found.groups, [44, 7, 8, 9]);
    }

    #[test]
    fn an_image_without_account_files_has_root_and_numbers() {
        assert_eq!(identify("", &[], b"", b"").unwrap(), identity(0, 0, &[0], "/"));
        assert_eq!(identify("5", &[], b"", b"").unwrap(), identity(5, 0, &[0], "/"));
    }

    proptest! {
        #[test]
        fn hostile_files_never_panic_and_never_name_a_number_out_of_range(
            user in ".{0,20}", passwd in proptest::collection::vec(any::<u8>(), 0..300),
            group in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            if let Ok(found) = identify(&user, &[], &passwd, &group) {
                prop_assert!(found.uid <= ID_MAX && found.gid <= ID_MAX);
            }
        }
    }
}

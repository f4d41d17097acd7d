//! Capability sets from docker's default, `--cap-add`, `--cap-drop` and `--privileged`.

use crate::capability::{ALL, bit};

/// Capabilities that docker gives a container by default.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Error of a name that is no capability.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown capability {0:?}")]
pub(crate) struct CapabilityError(pub String);

/// Computes the capability set in docker's way: `ALL` in either list is a starting point, single names apply after it.
pub(crate) fn resolve(privileged: bool, add: &[String], drop: &[String]) -> Result<u64, CapabilityError> {
    let (add_all, add) = split(add)?;
    let (drop_all, drop) = split(drop)?;
    if privileged {
        return Ok(ALL);
    }
    let base = match (add_all, drop_all) {
        (true, _) => ALL,
        (false, true) => 0,
        (false, false) => DEFAULT.iter().fold(0, |set, name| set | named(name).unwrap_or(0)),
    };
    Ok(if add_all && drop_all { add } else { (base & !drop) | add })
}

/// Returns whether `ALL` is among the names, and the set of the others.
fn split(names: &[String]) -> Result<(bool, u64), CapabilityError> {
    let mut all = false;
    let mut set = 0;
    for name in names {
        match name.to_ascii_uppercase().as_str() {
            "ALL" => all = true,
            other => set |= named(other).ok_or_else(|| CapabilityError(name.clone()))?,
        }
    }
    Ok((all, set))
}

/// Finds a capability by its name with or without `CAP_`.
fn named(name: &str) -> Option<u64> {
    if name.starts_with("CAP_") {
        bit(name)
    } else {
        bit(&format!("CAP_{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Result<u64, CapabilityError> {
        let own = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
        resolve(false, &own(add), &own(drop))
    }

    #[test]
    fn the_default_is_dockers() {
        assert_eq!(set(&[], &[]), Ok(0xa804_25fb));
    }

    #[test]
    fn all_is_a_starting_point() {
        assert_eq!(set(&["ALL"], &[]), Ok(ALL));
        assert_eq!(set(&[], &["all"]), Ok(0));
        assert_eq!(set(&["NET_ADMIN"], &["ALL"]), Ok(1 << 12));
        assert_eq!(set(&["ALL"], &["cap_net_admin"]), Ok(ALL & !(1 << 12)));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert_eq!(set(&["FLY"], &[]), Err(CapabilityError("FLY".into())));
    }
}

//! Report of what confines a process, layer by layer, as the process determines it itself while it is being confined.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use crate::{Condition, FilterError, Rule, SyscallFilter, panic_rules};

/// Layer of confinement, ordered as in [`Layer::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// User namespace of its own: the process's capabilities are worth nothing outside of it.
    UserNamespace,
    /// Other namespaces: mount, net, ipc, uts and cgroup, and pid for every process that a supervisor waits for.
    Namespaces,
    /// Root directory that holds nothing but what the process needs, which is nothing for most processes.
    Root,
    /// User that is not the host's root.
    User,
    /// No capabilities in any of the five sets.
    Capabilities,
    /// Lowered resource limits.
    Rlimits,
    /// `no_new_privs`: no program that the process executes gains any privilege.
    NoNewPrivileges,
    /// Landlock domain.
    Landlock,
    /// System call filter.
    Seccomp,
}

impl Layer {
    /// All layers, in the order in which they are reported.
    pub const ALL: [Self; 9] = [
        Self::UserNamespace,
        Self::Namespaces,
        Self::Root,
        Self::User,
        Self::Capabilities,
        Self::Rlimits,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::Seccomp,
    ];

    /// Name of the layer in settings, flags and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "userns",
            Self::Namespaces => "namespaces",
            Self::Root => "root",
            Self::User => "uid",
            Self::Capabilities => "capabilities",
            Self::Rlimits => "rlimits",
            Self::NoNewPrivileges => "no_new_privs",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Error of a name that no layer has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no layer of confinement: there are userns, namespaces, root, uid, capabilities, rlimits, no_new_privs, \
         landlock and seccomp"
)]
pub struct LayerError(String);

impl FromStr for Layer {
    type Err = LayerError;

    fn from_str(name: &str) -> Result<Self, LayerError> {
        let known = Self::ALL.into_iter().find(|layer| layer.name() == name);
        known.ok_or_else(|| LayerError(name.into()))
    }
}

/// Set of layers that are active around a process. Its text form is the names separated by spaces, Landlock's with its
/// version, for example `landlock:6`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    layers: BTreeSet<Layer>,
    landlock_abi: Option<u32>,
}

impl Confinement {
    /// Makes a confinement of `layers`, without a version of Landlock.
    #[must_use]
    pub fn of(layers: &[Layer]) -> Self {
        Self {
            layers: layers.iter().copied().collect(),
            landlock_abi: None,
        }
    }

    /// Returns the confinement with `layer` added if it `is_active`.
    #[must_use]
    pub fn with(mut self, layer: Layer, is_active: bool) -> Self {
        if is_active {
            self.layers.insert(layer);
        }
        self
    }

    /// Returns the confinement with Landlock of version `abi` added if it is active.
    #[must_use]
    pub(crate) fn with_landlock(self, abi: Option<u32>) -> Self {
        Self {
            landlock_abi: abi,
            ..self.with(Layer::Landlock, abi.is_some())
        }
    }

    /// Whether `layer` is active.
    #[must_use]
    pub fn has(&self, layer: Layer) -> bool {
        self.layers.contains(&layer)
    }

    /// Version of Landlock's interface, if it is active and known.
    #[must_use]
    pub fn landlock_abi(&self) -> Option<u32> {
        self.landlock_abi
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for layer in &self.layers {
            write!(formatter, "{separator}{layer}")?;
            if let (Layer::Landlock, Some(abi)) = (layer, self.landlock_abi) {
                write!(formatter, ":{abi}")?;
            }
            separator = " ";
        }
        Ok(())
    }
}

impl FromStr for Confinement {
    type Err = LayerError;

    fn from_str(text: &str) -> Result<Self, LayerError> {
        let mut confinement = Self::default();
        for word in text.split_whitespace() {
            let (name, abi) = word
                .split_once(':')
                .map_or((word, None), |(name, abi)| (name, Some(abi)));
            let layer: Layer = name.parse()?;
            confinement.layers.insert(layer);
            if let Some(abi) = abi {
                confinement.landlock_abi = Some(abi.parse().map_err(|_| LayerError(word.into()))?);
            }
        }
        Ok(confinement)
    }
}

/// Reason why a process cannot report what confines it.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Failed system call filter of the process.
    #[error("cannot filter system calls")]
    Filter(#[source] FilterError),
    /// Failed write to the stdout of the process.
    #[error("cannot write to stdout")]
    Write(#[source] io::Error),
}

/// Installs a filter, the last layer, and writes `confinement` including it to stdout, as one line.
///
/// # Errors
/// [`ReportError`].
pub fn report(confinement: Confinement) -> Result<(), ReportError> {
    let mut rules = panic_rules();
    rules.push(Rule::when(libc::SYS_write, vec![Condition::equals(0, 1)], "the report"));
    let filter = SyscallFilter::new(&rules).map_err(ReportError::Filter)?;
    filter.apply_to_thread().map_err(ReportError::Filter)?;
    let confinement = confinement.with(Layer::Seccomp, true);
    writeln!(io::stdout(), "{confinement}").map_err(ReportError::Write)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confinement_survives_as_text() {
        let all = Confinement::of(&Layer::ALL).with_landlock(Some(6));
        assert!(Layer::ALL.into_iter().all(|layer| all.has(layer)));
        assert_eq!(all.to_string().parse(), Ok(all));
        let some: Confinement = "seccomp userns".parse().unwrap();
        assert!(some.has(Layer::Seccomp) && !some.has(Layer::Landlock));
        assert_eq!(some.to_string(), "userns seccomp");
        assert_eq!("".parse(), Ok(Confinement::default()));
        for wrong in ["selinux", "landlock:x", "userns,seccomp"] {
            assert!(wrong.parse::<Confinement>().is_err(), "{wrong}");
        }
    }
}

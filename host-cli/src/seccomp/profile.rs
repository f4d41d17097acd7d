//! Seccomp profiles as users write them: the JSON of docker (`--security-opt seccomp=FILE`) and of the OCI runtime
//! specification, which share all fields that matter here.
//!
//! The semantics follow docker and runc: rules whose `includes`/`excludes` do not match this container are dropped,
//! unknown call names are skipped (a profile serves many architectures and kernels), unknown fields are ignored.

use serde::Deserialize;

use super::policy::{ARGUMENTS, Action, Condition, Policy, Rule, Test};
use super::syscalls::Abi;
use crate::capability;

/// Largest profile that is read, in bytes. Docker's own takes 17 KiB; the limit bounds the memory that a hostile file
/// takes.
const MAX_PROFILE: usize = 256 * 1024;
/// Errno of `SCMP_ACT_ERRNO` and `SCMP_ACT_TRACE` where the profile names none: EPERM, as libseccomp's callers do.
const DEFAULT_ERRNO: u16 = 1;
/// Largest errno that the kernel passes on (`MAX_ERRNO`, include/linux/err.h).
const MAX_ERRNO: u32 = 4095;
/// Version that `minKernel` is compared with: the guest's kernel, not the host's.
const GUEST_KERNEL: KernelVersion = KernelVersion { major: 6, minor: 12 };
/// Name of this architecture in docker's `includes.arches`.
const ARCH: &str = "amd64";

/// Reason why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    /// File larger than any real profile.
    #[error("the profile has {0} bytes, at most {MAX_PROFILE} are read")]
    TooLarge(usize),
    /// Text that is not JSON, or a field of a wrong type.
    #[error("the profile is not valid JSON of a seccomp profile")]
    Json(#[source] serde_json::Error),
    /// Profile without `defaultAction`.
    #[error("the profile has no \"defaultAction\"; to run without a filter say seccomp=unconfined")]
    NoDefaultAction,
    /// Architectures given in two fields. Docker refuses this too: it is not clear which of the two counts.
    #[error("the profile has both \"architectures\" and \"archMap\"; keep one")]
    ArchitecturesTwice,
    /// Name that is not a `SCMP_ARCH_*`.
    #[error("unknown architecture {0:?}")]
    UnknownArchitecture(String),
    /// Invalid default action.
    #[error("\"defaultAction\"")]
    DefaultAction(#[source] ActionError),
    /// Invalid entry of `syscalls`.
    #[error("syscalls[{index}] ({names})")]
    Entry {
        /// Position in the list, from 0.
        index: usize,
        /// First names of the entry, to find it by.
        names: String,
        /// Reason why the entry is refused.
        #[source]
        source: EntryError,
    },
}

/// Reason why an entry of `syscalls` is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntryError {
    /// Entry with both the old and the new field.
    #[error("has both \"name\" and \"names\"; keep one")]
    NamesTwice,
    /// Entry with neither field, or with an empty list.
    #[error("names no system call")]
    NoNames,
    /// Invalid action.
    #[error("\"action\"")]
    Action(#[source] ActionError),
    /// Argument index that no call has.
    #[error("args[{position}]: index {index} is not 0 to {}", ARGUMENTS - 1)]
    Argument {
        /// Position in `args`, from 0.
        position: usize,
        /// Index in the profile.
        index: u64,
    },
    /// Name that is not a `SCMP_CMP_*`.
    #[error("args[{position}]: unknown comparison {op:?}")]
    Comparison {
        /// Position in `args`, from 0.
        position: usize,
        /// Comparison in the profile.
        op: String,
    },
    /// Version that is not "MAJOR.MINOR".
    #[error("minKernel {0:?} is not of the form \"4.8\"")]
    MinKernel(String),
}

/// Reason why an action is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActionError {
    /// Name that is not a `SCMP_ACT_*`.
    #[error("unknown action {0:?}")]
    Unknown(String),
    /// Notification to a listener process, which a container inside a machine does not have.
    #[error("SCMP_ACT_NOTIFY needs a listener, which is not supported")]
    Notify,
    /// Errno that the kernel would not pass on.
    #[error("errno {0} is above {MAX_ERRNO}")]
    Errno(u32),
}

/// Parses `json` and resolves it for a container whose bounding set is `capabilities`.
pub(super) fn resolve(json: &[u8], capabilities: u64) -> Result<Vec<(Abi, Policy)>, ProfileError> {
    Profile::parse(json)?.resolve(capabilities)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: Option<String>,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<Architecture>>,
    syscalls: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// Call name in the form of profiles before Docker 1.12.
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u64,
    value: u64,
    value_two: Option<u64>,
    op: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KernelVersion {
    major: u32,
    minor: u32,
}

impl Profile {
    fn parse(json: &[u8]) -> Result<Profile, ProfileError> {
        if json.len() > MAX_PROFILE {
            return Err(ProfileError::TooLarge(json.len()));
        }
        let profile: Profile = serde_json::from_slice(json).map_err(ProfileError::Json)?;
        profile.check_architectures()?;
        Ok(profile)
    }

    /// Checks the names of architectures. A wrong name is reported as a mistake, whatever the guest has.
    fn check_architectures(&self) -> Result<(), ProfileError> {
        let listed = self.architectures.as_deref().unwrap_or_default();
        let map = self.arch_map.as_deref().unwrap_or_default();
        if !listed.is_empty() && !map.is_empty() {
            return Err(ProfileError::ArchitecturesTwice);
        }
        let mapped = map.iter().flat_map(|entry| {
            std::iter::once(&entry.architecture).chain(entry.sub_architectures.as_deref().unwrap_or_default())
        });
        for name in listed.iter().chain(mapped) {
            if !is_architecture(name) {
                return Err(ProfileError::UnknownArchitecture(name.clone()));
            }
        }
        Ok(())
    }

    /// Returns the interfaces that the profile is for: the native one always, others where it names them.
    fn abis(&self) -> Vec<Abi> {
        let listed = self.architectures.iter().flatten();
        let map = self.arch_map.iter().flatten();
        let native = map.filter(|entry| entry.architecture == "SCMP_ARCH_X86_64");
        let mut named = listed.chain(native.flat_map(|entry| entry.sub_architectures.iter().flatten()));
        let mut abis = vec![Abi::X86_64];
        abis.extend(named.any(|name| name == "SCMP_ARCH_X86").then_some(Abi::I386));
        abis
    }

    fn resolve(&self, capabilities: u64) -> Result<Vec<(Abi, Policy)>, ProfileError> {
        let name = self.default_action.as_deref().filter(|name| !name.is_empty());
        let name = name.ok_or(ProfileError::NoDefaultAction)?;
        let default = action(name, self.default_errno_ret).map_err(ProfileError::DefaultAction)?;
        let policy = |abi| Ok((abi, self.policy(abi, default, capabilities)?));
        self.abis().into_iter().map(policy).collect()
    }

    fn policy(&self, abi: Abi, default: Action, capabilities: u64) -> Result<Policy, ProfileError> {
        let mut policy = Policy::new(default);
        for (index, entry) in self.syscalls.iter().flatten().enumerate() {
            entry
                .add_to(&mut policy, abi, capabilities)
                .map_err(|source| ProfileError::Entry {
                    index,
                    names: entry.title(),
                    source,
                })?;
        }
        Ok(policy)
    }
}

impl Entry {
    /// Adds the rules of this entry. Everything is checked, also where the entry does not apply to this container, so
    /// that a mistake shows at once and not with the first container that has another capability.
    fn add_to(&self, policy: &mut Policy, abi: Abi, capabilities: u64) -> Result<(), EntryError> {
        let names = self.names()?;
        let action = action(&self.action, self.errno_ret).map_err(EntryError::Action)?;
        let alternatives = self.alternatives()?;
        // As in runc, a rule that equals the default action is dropped, and thus never wins over another one.
        if !self.applies(capabilities)? || action == policy.default_action() {
            return Ok(());
        }
        for number in names.iter().filter_map(|name| abi.number(name)) {
            for conditions in &alternatives {
                policy.add(
                    number,
                    Rule {
                        conditions: conditions.clone(),
                        action,
                    },
                );
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<&[String], EntryError> {
        let old = self.name.as_ref().filter(|name| !name.is_empty());
        match (old, self.names.as_deref().unwrap_or_default()) {
            (Some(_), [_, ..]) => Err(EntryError::NamesTwice),
            (Some(name), []) => Ok(std::slice::from_ref(name)),
            (None, []) => Err(EntryError::NoNames),
            (None, names) => Ok(names),
        }
    }

    /// Returns a few names that identify this entry in an error.
    fn title(&self) -> String {
        let names: Vec<&str> = self
            .name
            .iter()
            .chain(self.names.iter().flatten())
            .map(String::as_str)
            .collect();
        match names.as_slice() {
            [first, second, _, ..] => format!("{first}, {second}, ..."),
            few => few.join(", "),
        }
    }

    /// Returns the conditions as a list of alternatives. Conditions on different arguments hold together; where one
    /// argument is named twice, runc makes each condition of the entry an alternative, and profiles rely on that.
    fn alternatives(&self) -> Result<Vec<Vec<Condition>>, EntryError> {
        let mut conditions = Vec::new();
        for (position, argument) in self.args.iter().flatten().enumerate() {
            conditions.push(argument.condition(position)?);
        }
        let repeated = conditions.iter().enumerate().any(|(position, condition)| {
            conditions
                .iter()
                .take(position)
                .any(|earlier| earlier.argument == condition.argument)
        });
        if repeated {
            return Ok(conditions.into_iter().map(|condition| vec![condition]).collect());
        }
        Ok(vec![conditions])
    }

    fn applies(&self, capabilities: u64) -> Result<bool, EntryError> {
        let included = self
            .includes
            .as_ref()
            .map_or(Ok(true), |filter| filter.holds(capabilities))?;
        let excluded = self
            .excludes
            .as_ref()
            .map_or(Ok(false), |filter| filter.touches(capabilities))?;
        Ok(included && !excluded)
    }
}

impl Argument {
    fn condition(&self, position: usize) -> Result<Condition, EntryError> {
        let argument = u8::try_from(self.index).ok().filter(|index| *index < ARGUMENTS);
        let argument = argument.ok_or(EntryError::Argument {
            position,
            index: self.index,
        })?;
        let value = self.value;
        let test = match self.op.as_str() {
            "SCMP_CMP_NE" => Test::Ne(value),
            "SCMP_CMP_LT" => Test::Lt(value),
            "SCMP_CMP_LE" => Test::Le(value),
            "SCMP_CMP_EQ" => Test::Eq(value),
            "SCMP_CMP_GE" => Test::Ge(value),
            "SCMP_CMP_GT" => Test::Gt(value),
            "SCMP_CMP_MASKED_EQ" => Test::MaskedEq {
                mask: value,
                value: self.value_two.unwrap_or(0),
            },
            _ => {
                return Err(EntryError::Comparison {
                    position,
                    op: self.op.clone(),
                });
            }
        };
        Ok(Condition { argument, test })
    }
}

impl Filter {
    /// Whether all that an `includes` names applies.
    fn holds(&self, capabilities: u64) -> Result<bool, EntryError> {
        let caps = self
            .caps
            .iter()
            .flatten()
            .all(|name| holds_capability(capabilities, name));
        let arches = self.arches.as_deref().unwrap_or_default();
        let arch = arches.is_empty() || arches.iter().any(|name| name == ARCH);
        Ok(caps && arch && self.kernel()?.unwrap_or(true))
    }

    /// Whether something that an `excludes` names applies.
    fn touches(&self, capabilities: u64) -> Result<bool, EntryError> {
        let caps = self
            .caps
            .iter()
            .flatten()
            .any(|name| holds_capability(capabilities, name));
        let arch = self.arches.iter().flatten().any(|name| name == ARCH);
        Ok(caps || arch || self.kernel()?.unwrap_or(false))
    }

    /// Whether the guest's kernel is new enough; nothing when no version is required.
    fn kernel(&self) -> Result<Option<bool>, EntryError> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let wrong = || EntryError::MinKernel(text.to_owned());
        let (major, minor) = text.split_once('.').ok_or_else(wrong)?;
        let major = major.parse().map_err(|_| wrong())?;
        let minor = minor.parse().map_err(|_| wrong())?;
        Ok(Some(GUEST_KERNEL >= KernelVersion { major, minor }))
    }
}

/// Whether the container holds a capability. A capability that Linux does not have counts as not held.
fn holds_capability(capabilities: u64, name: &str) -> bool {
    capability::bit(name).is_some_and(|bit| capabilities & bit != 0)
}

fn action(name: &str, errno: Option<u32>) -> Result<Action, ActionError> {
    let errno = match errno {
        None => DEFAULT_ERRNO,
        Some(errno) if errno > MAX_ERRNO => return Err(ActionError::Errno(errno)),
        Some(errno) => u16::try_from(errno).map_err(|_| ActionError::Errno(errno))?,
    };
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ERRNO" => Action::Errno(errno),
        "SCMP_ACT_TRACE" => Action::Trace(errno),
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_NOTIFY" => return Err(ActionError::Notify),
        _ => return Err(ActionError::Unknown(name.to_owned())),
    })
}

/// Whether a name is one of the OCI runtime specification, `linux.seccomp.architectures`.
fn is_architecture(name: &str) -> bool {
    const NAMES: &str = "NATIVE X86 X86_64 X32 ARM AARCH64 LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 \
                         MIPSEL64N32 PARISC PARISC64 PPC PPC64 PPC64LE RISCV64 S390 S390X SH SHEB";
    name.strip_prefix("SCMP_ARCH_")
        .is_some_and(|rest| NAMES.split_ascii_whitespace().any(|known| known == rest))
}

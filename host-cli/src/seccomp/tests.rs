//! Tests of the compiled filter: against a plain evaluation of the policy, against docker's promises, and in the
//! kernel.

use std::error::Error;
use std::process::Command;

use proptest::prelude::*;

use super::compiler::{NO_SYSCALL, X32_BIT, compile};
use super::interpreter::{Call, run};
use super::policy::{Action, Answer, Condition, Policy, Rule, Test};
use super::syscalls::Abi;
use super::{compile_default, compile_profile, default_profile};
use crate::capability;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const EINVAL: u32 = 0x0005_0016;
const ENOSYS: u32 = 0x0005_0026;

/// Returns docker's default capabilities.
fn usual_capabilities() -> u64 {
    let names = "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE \
                 SYS_CHROOT KILL AUDIT_WRITE";
    names
        .split_ascii_whitespace()
        .map(|name| bit(&format!("CAP_{name}")))
        .sum()
}

fn bit(name: &str) -> u64 {
    capability::bit(name).expect("a capability of Linux")
}

fn call(abi: Abi, name: &str, arguments: &[u64]) -> Call {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    Call {
        arch: abi.audit_arch(),
        number: abi.number(name).expect("a call of this ABI"),
        arguments: all,
    }
}

fn answer(filter: &[u8], name: &str, arguments: &[u64]) -> u32 {
    run(filter, call(Abi::X86_64, name, arguments)).code
}

/// Returns the answer to a 32-bit program.
fn answer_32(filter: &[u8], name: &str, arguments: &[u64]) -> u32 {
    run(filter, call(Abi::I386, name, arguments)).code
}

/// Evaluates the policies plainly, with no ranges, trees or halves of words.
fn expected(policies: &[(Abi, Policy)], call: Call) -> u32 {
    let own = policies.iter().find(|(abi, _)| abi.audit_arch() == call.arch);
    let Some((_, policy)) = own.filter(|_| call.number & 0xc000_0000 == 0) else {
        return NO_SYSCALL.code();
    };
    let holds = |condition: &Condition| {
        let argument = call.arguments[usize::from(condition.argument)];
        match condition.test {
            Test::Ne(value) => argument != value,
            Test::Lt(value) => argument < value,
            Test::Le(value) => argument <= value,
            Test::Eq(value) => argument == value,
            Test::Ge(value) => argument >= value,
            Test::Gt(value) => argument > value,
            Test::MaskedEq { mask, value } => argument & mask == value,
        }
    };
    match policy.answers().get(&call.number) {
        Some(Answer::Always(action)) => action.code(),
        Some(Answer::ByArguments(rules)) => {
            let rule = rules.iter().find(|rule| rule.conditions.iter().all(holds));
            rule.map_or(policy.default_action(), |rule| rule.action).code()
        }
        None if call.number >= policy.first_unknown() && !policy.default_action().is_permissive() => ENOSYS,
        None => policy.default_action().code(),
    }
}

/// Generates colliding numbers: few enough that comparisons have either result, in both halves of a word.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..4,
        (0u64..3, 0u64..3).prop_map(|(high, low)| high << 32 | low),
        Just(u64::MAX),
        any::<u64>()
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let test = prop_oneof![
        value().prop_map(Test::Ne),
        value().prop_map(Test::Lt),
        value().prop_map(Test::Le),
        value().prop_map(Test::Eq),
        value().prop_map(Test::Ge),
        value().prop_map(Test::Gt),
        (value(), value()).prop_map(|(mask, value)| Test::MaskedEq { mask, value }),
    ];
    (0u8..6, test).prop_map(|(argument, test)| Condition { argument, test })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Allow),
        Just(Action::Log),
        (0u16..4096).prop_map(Action::Errno),
        Just(Action::Trap),
        Just(Action::KillThread),
        Just(Action::KillProcess),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let rule = (prop::collection::vec(condition(), 0..=6), action());
    (action(), prop::collection::vec((0u32..600, rule), 0..75)).prop_map(|(default, rules)| {
        let mut policy = Policy::new(default);
        for (number, (conditions, action)) in rules {
            policy.add(number, Rule { conditions, action });
        }
        policy
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_program_says_what_the_policy_says(
        policies in prop::array::uniform2(policy()),
        has_both: bool,
        arguments in prop::array::uniform6(value()),
    ) {
        let mut policies: Vec<_> = [Abi::X86_64, Abi::I386].into_iter().zip(policies).collect();
        policies.truncate(1 + usize::from(has_both));
        let filter = compile(&policies).to_bytes();
        for number in (0..600).chain([X32_BIT - 1, X32_BIT, X32_BIT + 1, u32::MAX]) {
            for arch in [Abi::X86_64.audit_arch(), Abi::I386.audit_arch(), 0x4000_0028] {
                let call = Call { arch, number, arguments };
                prop_assert_eq!(run(&filter, call).code, expected(&policies, call), "{:?}", call);
            }
        }
    }

    #[test]
    fn the_default_filter_says_what_the_default_policy_says(
        capabilities: u64,
        arguments in prop::array::uniform6(value()),
    ) {
        let filter = compile_default(capabilities);
        let policies = default_profile::policies(capabilities);
        for number in 0..600 {
            for abi in [Abi::X86_64, Abi::I386] {
                let call = Call { arch: abi.audit_arch(), number, arguments };
                prop_assert_eq!(run(&filter, call).code, expected(&policies, call), "{:?}", call);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(json in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = compile_profile(&json, 0);
    }
}

#[test]
fn the_longest_rule_fits_in_a_short_jump() {
    let mut policy = Policy::new(Action::Errno(1));
    let test = Test::MaskedEq {
        mask: u64::MAX,
        value: 7,
    };
    let conditions: Vec<_> = (0..6).map(|argument| Condition { argument, test }).collect();
    policy.add(
        0,
        Rule {
            conditions,
            action: Action::Allow,
        },
    );
    let filter = compile(&[(Abi::X86_64, policy)]).to_bytes();
    assert_eq!(answer(&filter, "read", &[7; 6]), ALLOW);
    assert_eq!(answer(&filter, "read", &[0, 7, 7, 7, 7, 7]), EPERM);
    assert_eq!(answer(&filter, "read", &[7, 7, 7, 7, 7, 0]), EPERM);
}

#[test]
fn the_default_filter_is_short_and_quick() {
    for capabilities in [0, usual_capabilities(), u64::MAX] {
        let filter = compile_default(capabilities);
        assert!(filter.len() / 8 < 800, "{}", filter.len() / 8);
        for abi in [Abi::X86_64, Abi::I386] {
            let names = abi.calls().iter().map(|(name, _)| *name);
            let slowest = names.map(|name| run(&filter, call(abi, name, &[45])).steps).max();
            assert!(slowest < Some(100), "{slowest:?}");
            for name in ["read", "write", "futex", "openat", "mmap", "epoll_wait"] {
                assert!(run(&filter, call(abi, name, &[])).steps <= 17, "{name}");
            }
        }
    }
}

#[test]
fn the_agents_address_family_is_out_of_reach() {
    for capabilities in [0, usual_capabilities(), u64::MAX] {
        let filter = compile_default(capabilities);
        // The kernel takes the family from the low half only.
        for family in [40, 1 << 32 | 40, u64::MAX << 32 | 40, 38, 46, u64::from(u32::MAX)] {
            assert_eq!(answer(&filter, "socket", &[family, 1, 0]), EPERM, "{family:#x}");
        }
        for family in [1, 2, 10, 16, 17] {
            assert_eq!(answer(&filter, "socket", &[family, 1, 0]), ALLOW, "{family}");
        }
    }
}

#[test]
fn namespaces_and_mounts_need_the_capability() {
    let usual = compile_default(usual_capabilities());
    let admin = compile_default(usual_capabilities() | bit("CAP_SYS_ADMIN"));
    for name in [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "fsopen",
        "move_mount",
        "bpf",
        "perf_event_open",
        "syslog",
    ] {
        assert_eq!(answer(&usual, name, &[0x1000_0000]), EPERM, "{name}");
        assert_eq!(answer(&admin, name, &[0x1000_0000]), ALLOW, "{name}");
    }
    assert_eq!(answer(&usual, "clone3", &[]), ENOSYS);
    assert_eq!(answer(&admin, "clone3", &[]), ALLOW);
    let thread = 0x003d_0f00;
    for (flags, expected) in [
        (17, ALLOW),
        (thread, ALLOW),
        (0x1000_0011, EPERM),
        (0x0002_0000, EPERM),
        (1 << 25, EPERM),
    ] {
        assert_eq!(answer(&usual, "clone", &[flags]), expected, "{flags:#x}");
        assert_eq!(answer(&admin, "clone", &[flags]), ALLOW, "{flags:#x}");
    }
}

#[test]
fn single_capabilities_open_single_calls() {
    let pairs = [
        ("CAP_SYS_CHROOT", "chroot"),
        ("CAP_SYS_MODULE", "finit_module"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_SYS_TTY_CONFIG", "vhangup"),
        ("CAP_SYS_NICE", "mbind"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_BPF", "bpf"),
        ("CAP_PERFMON", "perf_event_open"),
        ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
        ("CAP_SYS_BOOT", "reboot"),
        ("CAP_SYS_PACCT", "acct"),
        ("CAP_SYS_RAWIO", "iopl"),
        ("CAP_SYS_PTRACE", "pidfd_getfd"),
    ];
    for (name, call) in pairs {
        assert_eq!(answer(&compile_default(0), call, &[]), EPERM, "{call}");
        assert_eq!(answer(&compile_default(bit(name)), call, &[]), ALLOW, "{call}");
    }
}

#[test]
fn a_32_bit_program_meets_the_same_rules_by_its_own_numbers() {
    let usual = compile_default(usual_capabilities());
    for name in [
        "read",
        "mmap2",
        "stat64",
        "clock_gettime64",
        "set_thread_area",
        "socketcall",
        "ipc",
    ] {
        assert_eq!(answer_32(&usual, name, &[]), ALLOW, "{name}");
    }
    for name in [
        "mount",
        "umount",
        "io_uring_setup",
        "kexec_load",
        "vm86",
        "stime",
        "keyctl",
    ] {
        assert_eq!(answer_32(&usual, name, &[]), EPERM, "{name}");
    }
    assert_eq!(answer_32(&usual, "socket", &[40, 1, 0]), EPERM);
    assert_eq!(answer_32(&usual, "clone", &[0x1000_0011]), EPERM);
    assert_eq!(answer_32(&usual, "clone3", &[]), ENOSYS);
    let time = compile_default(bit("CAP_SYS_TIME"));
    assert_eq!(answer_32(&time, "clock_settime64", &[]), ALLOW);
}

#[test]
fn nobody_gets_these() {
    let filter = compile_default(u64::MAX);
    for name in [
        "io_uring_setup",
        "userfaultfd",
        "keyctl",
        "kexec_load",
        "pivot_root",
        "swapon",
    ] {
        assert_eq!(answer(&filter, name, &[]), EPERM, "{name}");
    }
    assert_eq!(answer(&filter, "personality", &[0x0040_0000]), EPERM);
    assert_eq!(answer(&filter, "personality", &[0xffff_ffff]), ALLOW);
    // Newer than the profile: a C library must be able to fall back.
    assert_eq!(
        run(
            &filter,
            Call {
                arch: Abi::X86_64.audit_arch(),
                number: 500,
                arguments: [0; 6]
            }
        )
        .code,
        ENOSYS
    );
}

const PROFILE: &str = r#"{
    "defaultAction": "SCMP_ACT_ERRNO",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": null}],
    "syscalls": [
        {"names": ["read", "no_such_call", "mseal"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "excludes": {}},
        {"name": "write", "action": "SCMP_ACT_LOG"},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ"}], "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
         "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 9, "op": "SCMP_CMP_EQ"}]},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}]},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
        {"names": ["dup"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        {"names": ["dup2"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["x32", "amd64"]}},
        {"names": ["openat"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["openat"], "action": "SCMP_ACT_KILL_PROCESS"}
    ]}"#;

#[test]
fn a_profile_means_what_it_means_to_docker() {
    let filter = compile_profile(PROFILE.as_bytes(), 0).expect("a good profile");
    assert_eq!(answer(&filter, "read", &[]), ALLOW);
    assert_eq!(answer(&filter, "mseal", &[]), ALLOW);
    assert_eq!(answer(&filter, "write", &[]), 0x7ffc_0000);
    assert_eq!(answer(&filter, "close", &[]), EPERM);
    assert_eq!(answer(&filter, "clone", &[0x1000_0000]), EPERM);
    assert_eq!(answer(&filter, "socket", &[16, 3, 9]), EINVAL);
    assert_eq!(answer(&filter, "socket", &[16, 3, 0]), ALLOW);
    assert_eq!(answer(&filter, "socket", &[2, 1, 0]), ALLOW);
    assert_eq!(answer(&filter, "socket", &[40, 1, 0]), EPERM);
    assert_eq!(answer(&filter, "ptrace", &[]), ALLOW);
    assert_eq!(answer(&filter, "bpf", &[]), EPERM);
    assert_eq!(answer(&filter, "dup", &[]), EPERM);
    assert_eq!(answer(&filter, "dup2", &[]), ALLOW);
    assert_eq!(answer(&filter, "openat", &[]), 0x8000_0000);
    assert_eq!(answer_32(&filter, "read", &[]), ALLOW);
    assert_eq!(answer_32(&filter, "close", &[]), EPERM);
    assert_eq!(answer_32(&filter, "socket", &[16, 3, 9]), EINVAL);
    assert_eq!(
        run(
            &filter,
            Call {
                arch: Abi::X86_64.audit_arch(),
                number: 463,
                arguments: [0; 6]
            }
        )
        .code,
        ENOSYS
    );

    let admin = compile_profile(PROFILE.as_bytes(), bit("CAP_SYS_ADMIN")).expect("a good profile");
    assert_eq!(answer(&admin, "clone", &[0x1000_0000]), ALLOW);
}

#[test]
fn a_permissive_default_answers_newer_calls_itself() {
    let json =
        br#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}"#;
    let filter = compile_profile(json, 0).expect("a good profile");
    assert_eq!(answer(&filter, "mkdir", &[]), EPERM);
    assert_eq!(answer(&filter, "listns", &[]), ALLOW);
    // An ABI that the profile does not name would be a way around the rule.
    assert_eq!(
        run(
            &filter,
            Call {
                arch: 0x4000_0003,
                number: 39,
                arguments: [0; 6]
            }
        )
        .code,
        ENOSYS
    );
}

#[test]
fn errors_name_the_wrong_thing() {
    let entry = |entry: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{entry}]}}"#);
    let cases = [
        ("[1]".to_owned(), "valid JSON"),
        ("{}".to_owned(), "defaultAction"),
        (r#"{"defaultAction": "ALLOW"}"#.to_owned(), r#""ALLOW""#),
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#.to_owned(), "listener"),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5000}"#.to_owned(),
            "5000",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["amd64"]}"#.to_owned(),
            r#""amd64""#,
        ),
        (
            entry(r#"{"names": ["mkdir", "read", "write"], "action": "x"}"#),
            "syscalls[0] (mkdir, read, ...)",
        ),
        (
            entry(r#"{"names": ["mkdir"], "name": "read", "action": "SCMP_ACT_ERRNO"}"#),
            "keep one",
        ),
        (
            entry(r#"{"names": [], "action": "SCMP_ACT_ERRNO"}"#),
            "names no system call",
        ),
        (
            entry(
                r#"{"names": ["a"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}"#,
            ),
            "index 6",
        ),
        (
            entry(r#"{"names": ["a"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 0, "op": "=="}]}"#),
            r#"args[0]: unknown comparison "==""#,
        ),
        (
            entry(r#"{"names": ["a"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "new"}}"#),
            r#""new""#,
        ),
        (" ".repeat(300_000), "300000 bytes"),
    ];
    for (json, named) in cases {
        let error = compile_profile(json.as_bytes(), 0).expect_err(&json);
        let mut chain = error.to_string();
        let mut level: &dyn Error = &error;
        while let Some(source) = level.source() {
            chain = format!("{chain}: {source}");
            level = source;
        }
        assert!(chain.contains(named), "{chain:?} does not name {named}");
    }
}

#[test]
fn a_filter_longer_than_the_kernel_takes_is_refused() {
    let argument = r#"{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}"#;
    let entry = format!(r#"{{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{argument}]}}"#);
    let entries = vec![entry; 1000].join(",");
    let json = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{entries}]}}"#);
    let error = compile_profile(json.as_bytes(), 0).expect_err("5000 instructions");
    assert!(error.source().is_some_and(|source| source.to_string().contains("4096")));
}

/// Tests the filter in the kernel of this machine: on a thread of its own, since it cannot be removed again.
#[test]
fn the_kernel_takes_the_default_filter_and_obeys() {
    let filter = compile_default(usual_capabilities());
    let instructions: Vec<_> = filter
        .chunks_exact(8)
        .map(|bytes| seccompiler::sock_filter {
            code: u16::from_le_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let confined = std::thread::spawn(move || {
        use nix::errno::Errno;
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

        seccompiler::apply_filter(&instructions).expect("the kernel takes the filter");
        let status = Command::new("/bin/true").status().expect("processes start");
        assert!(status.success());
        let nowhere: Option<&str> = None;
        assert_eq!(
            mount(nowhere, "/tmp", Some("tmpfs"), MsFlags::empty(), nowhere),
            Err(Errno::EPERM)
        );
        assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
        let family = |family| socket(family, SockType::Stream, SockFlag::empty(), None).map(drop);
        assert_eq!(family(AddressFamily::Vsock), Err(Errno::EPERM));
        assert_eq!(family(AddressFamily::Inet), Ok(()));
        std::thread::spawn(|| ()).join().expect("threads start");
    });
    confined.join().expect("the confined thread");
}

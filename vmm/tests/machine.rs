//! Tests of machines from outside: the real binary, guests of a few instructions. Skipped, with a reason, without
//! `/dev/kvm`.
#![allow(missing_docs, unreachable_pub)]

mod fixture;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use capsid_vmm::status::{MachineExit, Status};
use fixture::{CODE, Guest, Vmm, kvm};

/// Code of a guest that resets: `mov al, 0xfe; out 0x64, al; hlt`
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xf4];
/// Code of a guest that spins: `jmp $`
const SPIN: &[u8] = &[0xeb, 0xfe];

/// Code that writes `text` to the serial port, then continues with `then`.
fn print(text: &[u8], then: &[u8]) -> Vec<u8> {
    // mov esi, text; mov ecx, length; mov edx, 0x3f8; next: lodsb; out dx, al; loop next
    let mut code = vec![
        0xbe, 0, 0, 0, 0, 0xb9, 0, 0, 0, 0, 0xba, 0xf8, 3, 0, 0, 0xac, 0xee, 0xe2, 0xfc,
    ];
    code.extend(then);
    let address = CODE + code.len() as u32;
    code[1..5].copy_from_slice(&address.to_le_bytes());
    code[6..10].copy_from_slice(&(text.len() as u32).to_le_bytes());
    code.extend(text);
    code
}

fn ending(vmm: &mut Vmm) -> (MachineExit, String, u64) {
    let statuses = vmm.hear_all();
    assert!(
        matches!(statuses[..2], [Status::Ready { .. }, Status::Running { .. }]),
        "{statuses:?}"
    );
    match &statuses[2..] {
        [
            Status::Exited {
                exit,
                console,
                console_dropped_bytes,
            },
        ] => (exit.clone(), console.clone(), *console_dropped_bytes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reset_is_a_normal_end() {
    let Some(kvm) = kvm() else { return };
    let mut vmm = Guest::of_code(RESET).start(&kvm);
    assert_eq!(ending(&mut vmm).0, MachineExit::Reset);
    assert_eq!(vmm.process.wait().expect("a child").code(), Some(0));
}

#[test]
fn the_console_is_handed_over() {
    let Some(kvm) = kvm() else { return };
    let mut vmm = Guest::of_code(&print(b"hello", RESET)).start(&kvm);
    assert_eq!(ending(&mut vmm), (MachineExit::Reset, "hello".to_owned(), 0));
}

#[test]
fn a_kernel_that_says_it_panicked_has_panicked() {
    let Some(kvm) = kvm() else { return };
    let mut vmm = Guest::of_code(&print(b"[ 1.0] Kernel panic - not syncing: test\n", RESET)).start(&kvm);
    assert_eq!(ending(&mut vmm).0, MachineExit::GuestPanic);
}

#[test]
fn a_guest_that_is_not_runnable_ends_in_a_named_state() {
    let Some(kvm) = kvm() else { return };
    // ud2, without an interrupt table.
    let mut vmm = Guest::of_code(&[0x0f, 0x0b]).start(&kvm);
    let (exit, _, _) = ending(&mut vmm);
    // A paravirtual host may not emulate the fault.
    assert!(
        matches!(exit, MachineExit::TripleFault | MachineExit::KvmInternalError { .. }),
        "{exit:?}"
    );
}

#[test]
fn a_machine_dies_with_its_relay() {
    let Some(kvm) = kvm() else { return };
    let mut vmm = Guest::of_code(SPIN).start(&kvm);
    assert!(matches!(vmm.next_status(), Some(Status::Ready { .. })));
    assert!(matches!(vmm.next_status(), Some(Status::Running { .. })));
    let confined = child_of(vmm.process.id());
    vmm.process.kill().expect("it runs");
    let deadline = Instant::now() + Duration::from_secs(5);
    while is_alive(confined) {
        assert!(Instant::now() < deadline, "the machine outlives its relay");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_machine_ends_when_its_supervisor_hangs_up() {
    let Some(kvm) = kvm() else { return };
    let mut vmm = Guest::of_code(SPIN).start(&kvm);
    while !matches!(vmm.next_status(), Some(Status::Running { .. })) {}
    assert_eq!(vmm.hang_up().code(), Some(0));
}

#[test]
fn a_running_machine_is_confined() {
    let Some(kvm) = kvm() else { return };
    let mut vmm = Guest {
        vcpus: 2,
        ..Guest::of_code(SPIN)
    }
    .start(&kvm);
    while !matches!(vmm.next_status(), Some(Status::Running { .. })) {}
    let confined = Path::new("/proc").join(child_of(vmm.process.id()).to_string());
    let mut threads = Vec::new();
    for task in fs::read_dir(confined.join("task"))
        .expect("tasks")
        .filter_map(Result::ok)
    {
        let status = fs::read_to_string(task.path().join("status")).expect("a status");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(&status, set), "0000000000000000");
        }
        assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), ("1", "2"));
        threads.push(field(&status, "Name").to_owned());
    }
    for name in ["capsid-vmm", "vcpu0", "vcpu1"] {
        assert!(threads.iter().any(|thread| thread == name), "{threads:?}");
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("fds not checked: only root can read those of a process that hides its memory");
        return;
    }
    for fd in fs::read_dir(confined.join("fd")).expect("fds").filter_map(Result::ok) {
        let target = fs::read_link(fd.path()).expect("an fd");
        let target = target.to_str().expect("text");
        let standard = fd
            .file_name()
            .to_str()
            .is_some_and(|number| ["0", "1", "2"].contains(&number));
        let known = ["anon_inode:", "socket:", "pipe:", "/tmp/#"]
            .iter()
            .any(|prefix| target.starts_with(prefix));
        assert!(known || standard, "{:?} is {target}", fd.file_name());
        assert_ne!(target, "/dev/kvm");
    }
    assert_eq!(
        fs::read_to_string(confined.join("mountinfo"))
            .expect("mounts")
            .lines()
            .count(),
        1
    );
}

#[test]
fn what_is_no_kernel_is_refused_with_a_reason() {
    let Some(kvm) = kvm() else { return };
    let guest = Guest {
        kernel: fixture::file(&[0x90; 8192]),
        vcpus: 1,
        memory_mib: 64,
    };
    let mut vmm = guest.start(&kvm);
    match &vmm.hear_all()[..] {
        [Status::Failed { message, .. }] => assert!(message.contains("cannot load the kernel"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(vmm.process.wait().expect("a child").code(), Some(1));
}

#[test]
fn memory_outside_the_guest_stays_small() {
    const MOST_KIB: u64 = 5 << 10;
    let Some(kvm) = kvm() else { return };
    let mut vmm = Guest::of_code(SPIN).start(&kvm);
    while !matches!(vmm.next_status(), Some(Status::Running { .. })) {}
    let smaps = format!("/proc/{}/smaps", child_of(vmm.process.id()));
    let Ok(smaps) = fs::read_to_string(smaps) else {
        eprintln!("skipped: only root can read the maps of a process that hides its memory");
        return;
    };
    let value = |line: &str| line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let (mut anonymous, mut size) = (0, 0);
    for line in smaps.lines() {
        match line.split(':').next() {
            Some("Size") => size = value(line).expect("a size"),
            // The guest's memory is the one mapping of its size.
            // Anonymous: the program's text is shared by all machines.
            Some("Anonymous") if size != 64 << 10 => anonymous += value(line).expect("a size"),
            _ => {}
        }
    }
    eprintln!("{anonymous} KiB outside guest memory");
    assert!(anonymous < MOST_KIB, "{anonymous} KiB");
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !field(&status, "State").starts_with('Z'))
}

fn child_of(parent: u32) -> u32 {
    let processes = fs::read_dir("/proc")
        .expect("proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut children = processes.filter(|pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| field(&status, "PPid") == parent.to_string())
    });
    children.next().expect("the relay has a child")
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

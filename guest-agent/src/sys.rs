//! The crate's only unsafe code: system calls that no safe wrapper covers.
//!
//! Every function converts its arguments, makes one call, and gives back an owned value or the `errno`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

/// `argv[0]` of a container init: distinguishes it from PID 1 and from the container's own programs.
pub(crate) const INIT_NAME: &CStr = c"capsid-agent-init";

/// Entry point of the program, in place of the standard runtime's: that one opens `/dev/null` for missing standard
/// streams and aborts if it cannot, and PID 1 of an initramfs without `/dev` has neither.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(_argc: libc::c_int, argv: *const *const libc::c_char) -> libc::c_int {
    // SAFETY: the kernel passes `argv` with at least a terminating null pointer.
    let first = unsafe { *argv };
    let is_container_init = !first.is_null() && {
        // SAFETY: `first` is not null, and the kernel ends every argument with a zero byte.
        unsafe { CStr::from_ptr(first) == INIT_NAME }
    };
    crate::run(is_container_init)
}

/// Turns a `-1` into the thread's `errno`.
fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result == -1 {
        return Err(last_errno());
    }
    Ok(result)
}

/// Returns the calling thread's `errno`.
fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// Container init that was just started.
pub(crate) struct Spawned {
    /// Pid in the agent's namespace.
    pub(crate) pid: Pid,
    /// Reference to the process for as long as it is held, however pids are reused.
    pub(crate) pidfd: OwnedFd,
}

/// Pid namespace of a container init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PidNamespace {
    /// Own namespace, with the container init as its PID 1.
    New,
    /// Namespace of the agent.
    Inherited,
}

/// Starts `exe` again as [`INIT_NAME`], in the cgroup `cgroup`, with `control` as its standard input.
pub(crate) fn spawn_init(
    exe: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    control: BorrowedFd<'_>,
    namespace: PidNamespace,
) -> Result<Spawned, Errno> {
    let argv = [INIT_NAME.as_ptr(), ptr::null()];
    let envp: [*const libc::c_char; 1] = [ptr::null()];
    let mut pidfd: libc::c_int = -1;
    // SAFETY: `clone_args` is plain integers, for which all zeroes is valid.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64 | CLONE_INTO_CGROUP;
    if namespace == PidNamespace::New {
        args.flags |= libc::CLONE_NEWPID as u64;
    }
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: `args` and `pidfd` outlive the call; without CLONE_VM the child runs on its own copy of the memory.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, mem::size_of_val(&args)) })?;
    if pid == 0 {
        // Only system calls from here: other threads' locks are held for ever in this copy.
        // SAFETY: both are open descriptors, held by the caller.
        unsafe { libc::syscall(libc::SYS_dup3, control.as_raw_fd(), 0, 0) };
        // SAFETY: `argv` and `envp` are null-terminated arrays of zero-terminated strings.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                exe.as_raw_fd(),
                c"".as_ptr(),
                argv.as_ptr(),
                envp.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(127) };
    }
    // SAFETY: the kernel stored a new descriptor, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Pid::from_raw(pid as i32)
        .map(|pid| Spawned { pid, pidfd })
        .ok_or(Errno::SRCH)
}

/// Flag of `linux/sched.h`; `libc` has it as a 32-bit overflow.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks this single-threaded process. `None` in the child.
pub(crate) fn fork() -> Result<Option<Pid>, Errno> {
    // SAFETY: container inits have one thread, so no lock is held by anybody else at the fork.
    let pid = check(libc::c_long::from(unsafe { libc::fork() }))?;
    Ok(Pid::from_raw(pid as i32))
}

/// Forks this single-threaded process into a child of its parent. `None` in the child.
pub(crate) fn fork_sibling() -> Result<Option<Spawned>, Errno> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: `clone_args` is plain integers, for which all zeroes is valid. The signal of the child's end is this
    // process's own (`CLONE_PARENT` takes no other).
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64;
    args.pidfd = &raw mut pidfd as u64;
    // SAFETY: `args` and `pidfd` outlive the call; without CLONE_VM the child runs on its own copy of the memory, and
    // container inits have one thread, so no lock is held by anybody else in it.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, mem::size_of_val(&args)) })?;
    let Some(pid) = Pid::from_raw(pid as i32) else {
        return Ok(None);
    };
    // SAFETY: the kernel stored a new descriptor, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some(Spawned { pid, pidfd }))
}

/// Enters the namespaces of the process that `pidfd` refers to: the root and the working folder become its mount
/// namespace's, the pid namespace is that of children made from now on. All or none.
pub(crate) fn join_namespaces(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWCGROUP;
    // SAFETY: passes integers only; none of the flags shares or splits memory or descriptors.
    check(libc::c_long::from(unsafe { libc::setns(pidfd.as_raw_fd(), flags) }))?;
    Ok(())
}

/// Flags of the namespaces that the containers of a pod share.
const SHARED_NAMESPACES: libc::c_int = libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET;
/// Flags of the namespaces that each container has for itself, beside that of pids.
const OWN_NAMESPACES: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;

/// Leaves the parent's namespaces for new ones.
pub(crate) fn unshare_namespaces() -> Result<(), Errno> {
    unshare(OWN_NAMESPACES | SHARED_NAMESPACES)
}

/// Leaves the parent's namespaces that a container of a pod has for itself.
pub(crate) fn unshare_own_namespaces() -> Result<(), Errno> {
    unshare(OWN_NAMESPACES)
}

/// Makes the namespaces of a pod for the calling thread.
pub(crate) fn unshare_pod_namespaces() -> Result<(), Errno> {
    unshare(SHARED_NAMESPACES)
}

fn unshare(flags: libc::c_int) -> Result<(), Errno> {
    // SAFETY: none of the flags shares or splits memory or descriptors.
    check(libc::c_long::from(unsafe { libc::unshare(flags) }))?;
    Ok(())
}

/// Sets attributes (`MOUNT_ATTR_*`) on the mount `fd` is in, and below it when `recursive`.
pub(crate) fn set_mount_attributes(fd: BorrowedFd<'_>, attributes: u64, recursive: bool) -> Result<(), Errno> {
    let wanted = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a zero-terminated string, `wanted` is as long as said, both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const wanted,
            mem::size_of_val(&wanted),
        )
    })?;
    Ok(())
}

/// One eBPF instruction (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct BpfInstruction {
    /// Operation code.
    pub(crate) code: u8,
    /// Destination register in the low half, source register in the high.
    pub(crate) registers: u8,
    /// Jump distance or memory offset.
    pub(crate) offset: i16,
    /// Constant operand.
    pub(crate) immediate: i32,
}

/// `union bpf_attr` as `BPF_PROG_LOAD` reads it (`linux/bpf.h`), up to the last field used here.
#[repr(C)]
struct BpfLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// `union bpf_attr` as `BPF_PROG_ATTACH` reads it.
#[repr(C)]
struct BpfAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

/// Loads a cgroup device program and attaches it to the cgroup folder `cgroup`.
pub(crate) fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[BpfInstruction]) -> Result<(), Errno> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;
    let load = BpfLoad {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"capsid_devices\0\0",
        prog_ifindex: 0,
        expected_attach_type: BPF_CGROUP_DEVICE,
    };
    // SAFETY: `load` and the memory its pointers name outlive the call; the kernel verifies the program itself.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, mem::size_of_val(&load)) })?;
    // SAFETY: the kernel just made this descriptor, and nobody else owns it.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let attach = BpfAttach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: loaded.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: 0,
    };
    // SAFETY: `attach` outlives the call; both descriptors are held here.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attach,
            mem::size_of_val(&attach),
        )
    })?;
    Ok(())
}

/// Moves the wall clock by `nanoseconds` in one step.
pub(crate) fn step_clock(nanoseconds: i64) -> Result<(), Errno> {
    const ADJ_SETOFFSET: libc::c_uint = 0x0100;
    const ADJ_NANO: libc::c_uint = 0x2000;
    const SECOND: i64 = 1_000_000_000;
    adjust_clock(|change| {
        change.modes = ADJ_SETOFFSET | ADJ_NANO;
        change.time.tv_sec = nanoseconds.div_euclid(SECOND);
        // Nanoseconds, because of `ADJ_NANO`; never negative.
        change.time.tv_usec = nanoseconds.rem_euclid(SECOND);
    })
}

/// Moves the wall clock by `microseconds`, gradually, in place of what is left of an earlier move.
pub(crate) fn slew_clock(microseconds: i64) -> Result<(), Errno> {
    const ADJ_OFFSET_SINGLESHOT: libc::c_uint = 0x8001;
    adjust_clock(|change| {
        change.modes = ADJ_OFFSET_SINGLESHOT;
        change.offset = microseconds;
    })
}

fn adjust_clock(describe: impl FnOnce(&mut libc::timex)) -> Result<(), Errno> {
    // SAFETY: integers only: zero is a value of each.
    let mut change: libc::timex = unsafe { mem::zeroed() };
    describe(&mut change);
    // SAFETY: `change` is a whole `timex` that the kernel reads and fills.
    check(libc::c_long::from(unsafe { libc::adjtimex(&raw mut change) }))?;
    Ok(())
}

/// Installs a seccomp filter: `program` holds whole `struct sock_filter`s.
pub(crate) fn install_seccomp(program: &[u8]) -> Result<(), Errno> {
    const SECCOMP_SET_MODE_FILTER: libc::c_int = 1;
    // Copied into filters, because a byte slice is not aligned for them.
    let filters: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|b| libc::sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect();
    let len = u16::try_from(filters.len()).map_err(|_| Errno::INVAL)?;
    let prog = libc::sock_fprog {
        len,
        filter: filters.as_ptr().cast_mut(),
    };
    // SAFETY: `prog` and its filters outlive the call, the kernel only reads them and checks the program.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &raw const prog) })?;
    Ok(())
}

/// Joins a new anonymous session keyring, so that the agent's is not shared.
pub(crate) fn join_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name means a new anonymous keyring; no memory is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            ptr::null::<libc::c_char>(),
            0,
            0,
            0,
        )
    })?;
    Ok(())
}

/// Bytes of entropy in one [`add_entropy`] call.
pub(crate) const ENTROPY_BYTES: usize = 32;

/// `struct rand_pool_info` with its buffer.
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: libc::c_int,
    buffer_bytes: libc::c_int,
    buffer: [u8; ENTROPY_BYTES],
}

/// Mixes `entropy` into the kernel's pool and credits all of it (`RNDADDENTROPY`).
pub(crate) fn add_entropy(random: BorrowedFd<'_>, entropy: [u8; ENTROPY_BYTES]) -> Result<(), Errno> {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    let info = RandPoolInfo {
        entropy_bits: 8 * ENTROPY_BYTES as libc::c_int,
        buffer_bytes: ENTROPY_BYTES as libc::c_int,
        buffer: entropy,
    };
    // SAFETY: `info` is laid out as the ioctl reads it and outlives the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info)
    }))?;
    Ok(())
}

/// Sets `IFF_UP` on the loopback interface of the caller's network namespace, through any inet socket.
pub(crate) fn bring_loopback_up(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: `ifreq` is integers and arrays of them, for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is a whole `ifreq` and outlives the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    }))?;
    Ok(())
}

/// `struct blkpg_partition` (`linux/blkpg.h`).
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: libc::c_int,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArgument {
    operation: libc::c_int,
    flags: libc::c_int,
    bytes: libc::c_int,
    data: *mut BlkpgPartition,
}

/// Makes partition `number` of a block device; `start` and `bytes` are in bytes.
pub(crate) fn add_partition(device: BorrowedFd<'_>, number: i32, start: u64, bytes: u64) -> Result<(), Errno> {
    const BLKPG_ADD_PARTITION: libc::c_int = 1;
    change_partition(device, BLKPG_ADD_PARTITION, number, start, bytes)
}

/// Removes partition `number` of a block device.
pub(crate) fn remove_partition(device: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    const BLKPG_DEL_PARTITION: libc::c_int = 2;
    change_partition(device, BLKPG_DEL_PARTITION, number, 0, 0)
}

fn change_partition(
    device: BorrowedFd<'_>,
    operation: libc::c_int,
    number: i32,
    start: u64,
    bytes: u64,
) -> Result<(), Errno> {
    const BLKPG: libc::c_ulong = 0x1269;
    let mut partition = BlkpgPartition {
        start: i64::try_from(start).map_err(|_| Errno::INVAL)?,
        length: i64::try_from(bytes).map_err(|_| Errno::INVAL)?,
        number,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let argument = BlkpgArgument {
        operation,
        flags: 0,
        bytes: mem::size_of::<BlkpgPartition>() as libc::c_int,
        data: &raw mut partition,
    };
    // SAFETY: both structures are laid out as the ioctl reads them and outlive the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(device.as_raw_fd(), BLKPG, &raw const argument)
    }))?;
    Ok(())
}

/// Makes a block device read-only (`BLKROSET`).
pub(crate) fn set_block_device_readonly(device: BorrowedFd<'_>) -> Result<(), Errno> {
    const BLKROSET: libc::c_ulong = 0x125d;
    let readonly: libc::c_int = 1;
    // SAFETY: the ioctl reads one int, which outlives the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(device.as_raw_fd(), BLKROSET, &raw const readonly)
    }))?;
    Ok(())
}

/// Sets one resource limit of the calling process.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` outlives the call; no old value is asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            ptr::null_mut::<libc::rlimit64>(),
        )
    })?;
    Ok(())
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: changes a flag only; no descriptor is closed behind an owner's back.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Points the standard stream `number` (0 to 2) at `fd`.
pub(crate) fn set_standard_stream(number: i32, fd: BorrowedFd<'_>) -> Result<(), Errno> {
    debug_assert!((0..=2).contains(&number));
    // SAFETY: the standard streams have no owner; `fd` is open.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), number) }))?;
    Ok(())
}

/// Returns a copy of the standard stream `number` as an owned, close-on-exec descriptor.
pub(crate) fn take_standard_stream(number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: a stream that is not open is an error of the call, not undefined.
    let fd = check(libc::c_long::from(unsafe {
        libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3)
    }))?;
    // SAFETY: the kernel just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Returns the set of all signals.
fn all_signals() -> libc::sigset_t {
    // SAFETY: `sigset_t` is an array of integers.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is a valid signal set.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

/// Blocks every signal for the calling thread and the threads it starts.
pub(crate) fn block_signals() {
    let set = all_signals();
    // SAFETY: `set` is a valid signal set; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
}

/// Resets every signal to its default disposition and unblocks all, as a program expects to find them.
pub(crate) fn reset_signals() {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: sets a default disposition; SIGKILL and SIGSTOP are refused, which is right.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    let set = all_signals();
    // SAFETY: `set` is a valid signal set; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
}

/// Makes writes to a closed pipe an error instead of a signal.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: no handler of ours is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Waits for a blocked signal. Returns its number.
pub(crate) fn wait_for_signal() -> Result<i32, Errno> {
    let set = all_signals();
    // SAFETY: `set` is a valid signal set; no details are asked for.
    check(libc::c_long::from(unsafe {
        libc::sigwaitinfo(&raw const set, ptr::null_mut())
    }))
    .map(|n| n as i32)
}

/// Sends the signal `number` to `pid`.
pub(crate) fn send_signal(pid: Pid, number: i32) -> Result<(), Errno> {
    // SAFETY: passes integers only.
    check(libc::c_long::from(unsafe {
        libc::kill(pid.as_raw_nonzero().get(), number)
    }))?;
    Ok(())
}

/// Sends the signal `number` to the process that `pidfd` refers to.
pub(crate) fn send_signal_to(pidfd: impl AsFd, number: i32) -> Result<(), Errno> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: no `siginfo` is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd,
            number,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// Replaces the process with `program`; returns only on failure.
pub(crate) fn execute(program: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays are null-terminated and point to zero-terminated strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    last_errno()
}

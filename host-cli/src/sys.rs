//! Unsafe code of this crate, all of it except that of the KVM probe.
#![allow(
    unsafe_code,
    reason = "system calls between fork and exec, and the cycle counter, have no safe form"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the child end with this process, however this process ends.
///
/// `PR_SET_PDEATHSIG` is bound to the *thread* that forks: commands are spawned from the main thread only, which the
/// current-thread runtime guarantees.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls: prctl, getppid.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The parent may have died before the request was in place.
            match rustix::process::getppid() {
                Some(now) if now.as_raw_nonzero().get() as u32 == parent => Ok(()),
                _ => Err(io::ErrorKind::BrokenPipe.into()),
            }
        });
    }
}

/// Makes the child the leader of a session of its own: no terminal of this process reaches it.
pub(crate) fn lead_session(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes only one async-signal-safe system call.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
}

/// Makes the child a process that nobody waits for: its parent ends before the child executes its program, so that
/// whichever process adopts it is its parent for good. The child leads a session of its own.
pub(crate) fn leave_parent(command: &mut Command) {
    let leave = || {
        let parent = rustix::process::getpid();
        // SAFETY: this process was forked itself, and has no thread but this one.
        match unsafe { libc::fork() } {
            -1 => return Err(io::Error::last_os_error()),
            0 => {}
            // SAFETY: it ends at once, without running anything of this program's.
            _ => unsafe { libc::_exit(0) },
        }
        while rustix::process::getppid() == Some(parent) {
            rustix::thread::sched_yield();
        }
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls.
    unsafe { command.pre_exec(leave) };
}

/// Prevents programs that this process executes from inheriting descriptors that the caller had open, such as a lock or
/// a pipe: a pod outlives its command, and would hold them. Descriptors that are meant for a child are duplicated for
/// it.
pub(crate) fn keep_descriptors_from_children() {
    // SAFETY: sets a flag of descriptors, open or not, and closes none.
    if unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) } == 0 {
        return;
    }
    // Linux before 5.11, or a seccomp filter that does not know the call.
    let numbers = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for number in numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if number > 2 {
            // SAFETY: sets a flag; the descriptor of the directory itself has it already, and one that is closed is
            // refused.
            unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

/// Takes over a descriptor that this process was started with, by its number.
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD reads a flag and changes nothing, whatever the number.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: the number is open, and the command line names each inherited descriptor once, so nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Reads the processor's cycle counter. Any program may read it: the kernel never forbids it to programs that did not
/// ask for that.
pub(crate) fn cycles() -> u64 {
    // SAFETY: `rdtsc` exists on every x86-64 processor and touches no memory.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Raises this process's limit of descriptors to its maximum.
pub(crate) fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Always permitted to a process.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Releases the pages of this program's code, most of which only a start needs. They stay in the page cache, which all
/// pods share, and are mapped again when they are executed.
pub(crate) fn forget_code() {
    let (Ok(maps), Ok(program)) = (std::fs::read_to_string("/proc/self/maps"), std::env::current_exe()) else {
        return;
    };
    for (start, end) in code_ranges(&maps, &program.display().to_string()) {
        // SAFETY: the range is a private mapping of a file that is executable and was never writable, so that every
        // page of it is as the file has it and is read from there again.
        let advised = unsafe {
            rustix::mm::madvise(
                std::ptr::with_exposed_provenance_mut(start),
                end - start,
                rustix::mm::Advice::LinuxDontNeed,
            )
        };
        debug_assert!(advised.is_ok(), "a mapping of our own");
    }
}

/// Returns the mappings of `program`'s code in `/proc/PID/maps`.
fn code_ranges(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let range = |line: &str| {
        let mut words = line.split_whitespace();
        let (addresses, permissions) = (words.next()?, words.next()?);
        let (start, end) = addresses.split_once('-')?;
        let is_code = permissions == "r-xp" && line.ends_with(program);
        is_code.then_some((
            usize::from_str_radix(start, 16).ok()?,
            usize::from_str_radix(end, 16).ok()?,
        ))
    };
    maps.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_given_back() {
        let maps = "55d0c0000000-55d0c0001000 r--p 00000000 fe:00 1 /bin/x\n55d0c0001000-55d0c0003000 r-xp 00001000 fe:00 1 \
                    /bin/x\n55d0c0003000-55d0c0004000 rw-p 00003000 fe:00 1 /bin/x\n7f00-7f01 r-xp 0 fe:00 2 /lib/y\n";
        assert_eq!(code_ranges(maps, "/bin/x"), [(0x55d0_c000_1000, 0x55d0_c000_3000)]);
        forget_code();
    }
}

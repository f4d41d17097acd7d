//! The probe's only unsafe code: raw system calls, because libraries are too polite for attacks.

#![allow(unsafe_code)]

use std::io;

/// Argument of a system call.
#[derive(Debug)]
pub(crate) enum Arg<'a> {
    /// Number or descriptor.
    Int(i64),
    /// Memory that the kernel reads.
    In(&'a [u8]),
    /// Memory that the kernel writes, never past its end: the call's own length argument says so.
    Out(&'a mut [u8]),
}

/// Makes the call with up to six arguments.
pub(crate) fn call(number: i64, mut arguments: Vec<Arg<'_>>) -> io::Result<i64> {
    let mut words = [0_i64; 6];
    for (word, argument) in words.iter_mut().zip(&mut arguments) {
        *word = match argument {
            Arg::Int(value) => *value,
            Arg::In(bytes) => bytes.as_ptr() as i64,
            Arg::Out(bytes) => bytes.as_mut_ptr() as i64,
        };
    }
    // SAFETY: pointers come from slices borrowed for the whole call; callers in this probe pass the lengths of those
    // slices, and use no call that keeps a pointer after its return.
    let result = unsafe { libc::syscall(number, words[0], words[1], words[2], words[3], words[4], words[5]) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Converts a text for the kernel: zero-terminated.
pub(crate) fn c_string(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// Forks: the child runs `work` and exits with its result.
pub(crate) fn fork(work: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: the probe has one thread, so the child's copy of every lock and allocator is whole.
    match unsafe { libc::fork() } {
        0 => std::process::exit(work()),
        pid if pid > 0 => Ok(pid),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ignores a signal from here on.
pub(crate) fn ignore(signal: i32) {
    // SAFETY: SIG_IGN installs no handler: no code of ours runs in signal context.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Returns the window size of the terminal on stdin: rows and columns.
pub(crate) fn window_size() -> io::Result<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize`, which is borrowed mutably for the call.
    if unsafe { libc::ioctl(0, libc::TIOCGWINSZ, &mut size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((size.ws_row, size.ws_col))
}

/// Takes ownership of a descriptor that a call has just returned.
pub(crate) fn adopt(descriptor: i32) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the caller was just given the descriptor by the kernel and hands it over; nobody else knows it.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(descriptor) }
}

/// Writes `bytes` at `offset` of a file through a shared mapping of it. Returns the previous bytes.
pub(crate) fn replace_mapped(file: &std::fs::File, offset: usize, bytes: &[u8]) -> io::Result<Vec<u8>> {
    use std::os::fd::AsRawFd;
    let length = file.metadata()?.len() as usize;
    assert!(offset + bytes.len() <= length, "the file is too short");
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses a place where nothing is.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            protection,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is `length` bytes long and this process's only use of it; the test changes nothing meanwhile.
    let mapped = unsafe { std::slice::from_raw_parts_mut(address.cast::<u8>(), length) };
    let old = mapped[offset..offset + bytes.len()].to_vec();
    mapped[offset..offset + bytes.len()].copy_from_slice(bytes);
    // SAFETY: the mapping that was just made.
    if unsafe { libc::msync(address, length, libc::MS_SYNC) } == 0 {
        Ok(old)
    } else {
        Err(io::Error::last_os_error())
    }
}

//! Initramfs: a cpio archive with one file, the agent, as `/init`.
//!
//! Built in memory at every start (the agent is 1.4 MB), so that there is no file that could be stale. Format: "newc",
//! kernel `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

use rustix::fs::MemfdFlags;

/// Writes the archive into a sealed memory file positioned at its start.
pub(crate) fn build(agent: &Path) -> io::Result<File> {
    let program = std::fs::read(agent)?;
    let mut file = File::from(rustix::fs::memfd_create("capsid-initramfs", MemfdFlags::CLOEXEC)?);
    file.write_all(&archive(&program))?;
    file.rewind()?;
    Ok(file)
}

fn archive(program: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(program.len() + 1024);
    // Without /dev/console the kernel starts init with no stdio at all, and a panic message of the agent is lost.
    entry(&mut out, "dev", 0o040_755, (0, 0), &[]);
    entry(&mut out, "dev/console", 0o020_600, (5, 1), &[]);
    entry(&mut out, "init", 0o100_755, (0, 0), program);
    entry(&mut out, "TRAILER!!!", 0, (0, 0), &[]);
    out
}

fn entry(out: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
    let fields = [
        0,
        mode,
        0,
        0,
        1,
        0,
        content.len() as u32,
        0,
        0,
        device.0,
        device.1,
        name.len() as u32 + 1,
        0,
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_trailer_is_last() {
        let out = archive(b"12345");
        assert_eq!(out.len() % 4, 0);
        assert!(out.starts_with(b"070701"));
        let tail = String::from_utf8_lossy(&out[out.len() - 16..]).into_owned();
        assert!(tail.contains("TRAILER!!!"), "{tail:?}");
    }
}

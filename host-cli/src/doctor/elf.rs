//! Check whether a file is a kernel that can be started directly: a 64-bit x86 ELF with a PVH entry note.
//!
//! Sources: elf(5); the note is XEN_ELFNOTE_PHYS32_ENTRY of Xen's public/elfnote.h, written by CONFIG_PVH.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Most program headers that are read. A kernel has about five; the limit bounds the time spent on a wrong file.
const MAX_PROGRAM_HEADERS: u16 = 64;
/// Most bytes of notes that are read. All notes of a kernel take about a page.
const MAX_NOTES: u64 = 64 * 1024;

const EM_X86_64: u16 = 62;
const PT_NOTE: u32 = 4;
const PHYS32_ENTRY: u32 = 18;

/// Entry point of a well-formed file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Entry note of a kernel that can be started directly.
    Pvh,
    /// Kernel or program without that entry.
    NoPvh,
}

/// Reason why a file is not a usable kernel.
#[derive(Debug, thiserror::Error)]
pub(super) enum KernelError {
    #[error("it cannot be opened")]
    Open(#[source] io::Error),
    #[error("it ends too early")]
    Read(#[source] io::Error),
    #[error("it is not an ELF file; a bzImage must be unpacked first")]
    NotElf,
    #[error("it is not for 64-bit x86")]
    OtherMachine,
    #[error("its program headers are out of bounds")]
    Headers,
}

/// Examines the file at `path`.
pub(super) fn entry(path: &Path) -> Result<Entry, KernelError> {
    let file = File::open(path).map_err(KernelError::Open)?;
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).map_err(KernelError::Read)?;
    if !header.starts_with(b"\x7fELF") {
        return Err(KernelError::NotElf);
    }
    // 64-bit, little endian.
    if header[4..6] != [2, 1] || half(&header, 18) != EM_X86_64 {
        return Err(KernelError::OtherMachine);
    }
    let (table, size, count) = (quad(&header, 32), half(&header, 54), half(&header, 56));
    if usize::from(size) != PROGRAM_HEADER || count > MAX_PROGRAM_HEADERS {
        return Err(KernelError::Headers);
    }
    for index in 0..u64::from(count) {
        let mut segment = [0; PROGRAM_HEADER];
        let at = table
            .checked_add(index * PROGRAM_HEADER as u64)
            .ok_or(KernelError::Headers)?;
        file.read_exact_at(&mut segment, at).map_err(KernelError::Read)?;
        if word(&segment, 0) != PT_NOTE {
            continue;
        }
        let (offset, length) = (quad(&segment, 8), quad(&segment, 32));
        if length > MAX_NOTES {
            return Err(KernelError::Headers);
        }
        let mut notes = vec![0; usize::try_from(length).map_err(|_| KernelError::Headers)?];
        file.read_exact_at(&mut notes, offset).map_err(KernelError::Read)?;
        if has_pvh_note(&notes) {
            return Ok(Entry::Pvh);
        }
    }
    Ok(Entry::NoPvh)
}

/// Whether the notes have the PVH entry. Notes are (name length, value length, type), name, value; each padded to 4
/// bytes. A malformed one ends the search.
fn has_pvh_note(mut notes: &[u8]) -> bool {
    while let Some((header, rest)) = notes.split_at_checked(12) {
        let (name_length, value_length, kind) = (word(header, 0) as usize, word(header, 4) as usize, word(header, 8));
        let (name_end, value_end) = (name_length.next_multiple_of(4), value_length.next_multiple_of(4));
        let Some(name) = rest.get(..name_length) else {
            return false;
        };
        if name == b"Xen\0" && kind == PHYS32_ENTRY {
            return true;
        }
        let Some(next) = rest.get(name_end + value_end..) else {
            return false;
        };
        notes = next;
    }
    false
}

// Callers pass slices that hold the field.
fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

fn quad(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn note(name: &[u8], kind: u32) -> Vec<u8> {
        let mut note = Vec::new();
        for field in [name.len() as u32, 5, kind] {
            note.extend(field.to_le_bytes());
        }
        note.extend(name);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend([1, 2, 3, 4, 5, 0, 0, 0]);
        note
    }

    fn kernel(notes: &[u8]) -> Vec<u8> {
        let mut file = vec![0; HEADER + PROGRAM_HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&1u16.to_le_bytes());
        file[64..68].copy_from_slice(&PT_NOTE.to_le_bytes());
        file[72..80].copy_from_slice(&120u64.to_le_bytes());
        file[96..104].copy_from_slice(&(notes.len() as u64).to_le_bytes());
        file.extend(notes);
        file
    }

    fn judge(bytes: &[u8]) -> Result<Entry, KernelError> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("a writable file");
        entry(file.path())
    }

    #[test]
    fn the_note_is_found_behind_others() {
        let good = [note(b"Linux\0", 257), note(b"Xen\0", 18)].concat();
        assert!(matches!(judge(&kernel(&good)), Ok(Entry::Pvh)));
        let other = [note(b"Linux\0", 18), note(b"Xen\0", 17)].concat();
        assert!(matches!(judge(&kernel(&other)), Ok(Entry::NoPvh)));
    }

    #[test]
    fn other_files_are_told_apart() {
        assert!(matches!(entry(Path::new("/nonexistent")), Err(KernelError::Open(_))));
        assert!(matches!(judge(b"MZ"), Err(KernelError::Read(_))));
        assert!(matches!(judge(&[b'M'; 100]), Err(KernelError::NotElf)));
        let mut arm = kernel(&[]);
        arm[18] = 183;
        assert!(matches!(judge(&arm), Err(KernelError::OtherMachine)));
        let mut many = kernel(&[]);
        many[57] = 0xff;
        assert!(matches!(judge(&many), Err(KernelError::Headers)));
    }

    proptest! {
        #[test]
        fn no_notes_make_it_panic(notes in prop::collection::vec(any::<u8>(), 0..200)) {
            has_pvh_note(&notes);
        }
    }
}

//! Files that QEMU consists of: the contents of its root directory when it runs confined.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use capsid_vmm::config::EmulatorFile;

/// Part of QEMU that runs guest code, a separate library in some distributions.
const MODULE: &str = "accel-tcg-x86_64.so";
/// Folders of such libraries, relative to QEMU's own folder: Debian, Fedora, others.
const MODULE_FOLDERS: [&str; 3] = ["../lib/x86_64-linux-gnu/qemu", "../lib64/qemu", "../lib/qemu"];
/// First code that the microvm machine runs.
const FIRMWARE: &str = "qboot.rom";
/// Folders of the firmware, relative to QEMU's own folder or absolute.
const FIRMWARE_FOLDERS: [&str; 4] = [
    "../share/qemu",
    "/usr/share/qemu",
    "/usr/share/seabios",
    "/usr/share/qboot",
];
/// Name of QEMU in its root, and of its process.
pub(super) const EXECUTABLE: &str = "/qemu-system-x86_64";
/// Folder of the libraries in QEMU's root.
const LIBRARIES: &str = "/lib";

const ELF_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
/// Most program headers that are read. Programs have about a dozen; the limit bounds the time spent on a wrong file.
const PROGRAM_HEADERS_MAX: u16 = 64;
/// Longest path of a loader, bytes.
const LOADER_NAME_BYTES_MAX: u64 = 4096;
/// Type of the program header that names the loader: `PT_INTERP` of elf(5).
const PT_INTERP: u32 = 3;

/// Reason why QEMU's files cannot be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a program for this machine: reinstall qemu-system-x86")]
    NotAProgram { path: PathBuf },
    #[error("{loader} does not name the libraries of {path}: reinstall qemu-system-x86")]
    Loader { loader: PathBuf, path: PathBuf },
    #[error("cannot start {loader}, which finds the libraries of QEMU")]
    StartLoader {
        loader: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the library {library} of QEMU is not found: reinstall qemu-system-x86")]
    NoLibrary { library: String },
    #[error("{FIRMWARE} of QEMU is not found: install qemu-system-data")]
    NoFirmware,
}

/// QEMU's files, and the environment in which it finds them.
#[derive(Debug)]
pub(super) struct QemuFiles {
    pub files: Vec<EmulatorFile>,
    pub environment: Vec<String>,
}

/// Finds the files of the QEMU at `qemu`.
pub(super) fn find(qemu: &Path) -> Result<QemuFiles, ProgramError> {
    let qemu = qemu.canonicalize().map_err(|source| ProgramError::Read {
        path: qemu.into(),
        source,
    })?;
    let home = qemu.parent().unwrap_or(Path::new("/"));
    let module = in_folders(home, &MODULE_FOLDERS, MODULE);
    let firmware = in_folders(home, &FIRMWARE_FOLDERS, FIRMWARE).ok_or(ProgramError::NoFirmware)?;
    let mut files = vec![file(&qemu, EXECUTABLE), file(&firmware, &format!("/{FIRMWARE}"))];
    if let Some(loader) = loader(&qemu)? {
        let listed = list_libraries(&loader, &qemu, module.as_deref())?;
        files.extend(libraries(&listed)?);
        files.push(file(&loader, &loader));
    }
    files.extend(module.iter().map(|module| file(module, &format!("/{MODULE}"))));
    Ok(QemuFiles {
        files,
        environment: vec![format!("LD_LIBRARY_PATH={LIBRARIES}"), "QEMU_MODULE_DIR=/".into()],
    })
}

fn file(source: &(impl AsRef<Path> + ?Sized), name: &(impl AsRef<Path> + ?Sized)) -> EmulatorFile {
    EmulatorFile {
        source: source.as_ref().into(),
        name: name.as_ref().into(),
    }
}

fn in_folders(home: &Path, folders: &[&str], name: &str) -> Option<PathBuf> {
    let mut paths = folders.iter().map(|folder| home.join(folder).join(name));
    paths.find(|path| path.is_file())
}

/// Returns the dynamic loader that the program names; none for a statically linked program.
fn loader(path: &Path) -> Result<Option<PathBuf>, ProgramError> {
    let read = |source| ProgramError::Read {
        path: path.into(),
        source,
    };
    let strange = || ProgramError::NotAProgram { path: path.into() };
    let program = File::open(path).map_err(read)?;
    let mut header = [0; ELF_HEADER_BYTES];
    program.read_exact_at(&mut header, 0).map_err(read)?;
    // ELF, 64 bits, little endian.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(strange());
    }
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (table, size, count) = (quad(&header, 32), half(54), half(56));
    if usize::from(size) != PROGRAM_HEADER_BYTES || count > PROGRAM_HEADERS_MAX {
        return Err(strange());
    }
    for index in 0..u64::from(count) {
        let mut entry = [0; PROGRAM_HEADER_BYTES];
        let at = table
            .checked_add(index * PROGRAM_HEADER_BYTES as u64)
            .ok_or_else(strange)?;
        program.read_exact_at(&mut entry, at).map_err(read)?;
        if entry[..4] != PT_INTERP.to_le_bytes() {
            continue;
        }
        let (offset, length) = (quad(&entry, 8), quad(&entry, 32));
        if !(2..=LOADER_NAME_BYTES_MAX).contains(&length) {
            return Err(strange());
        }
        let mut name = vec![0; length as usize];
        program.read_exact_at(&mut name, offset).map_err(read)?;
        name.pop();
        return Ok(Some(PathBuf::from(OsStr::from_bytes(&name))));
    }
    Ok(None)
}

fn quad(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Lists the libraries that the loader would load, one line each, including those of the module where there is one.
fn list_libraries(loader: &Path, program: &Path, module: Option<&Path>) -> Result<String, ProgramError> {
    let mut command = Command::new(loader);
    command.arg("--list").arg(program);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    if let Some(module) = module {
        command.env("LD_PRELOAD", module);
    }
    let output = command.output().map_err(|source| ProgramError::StartLoader {
        loader: loader.into(),
        source,
    })?;
    if !output.status.success() {
        return Err(ProgramError::Loader {
            loader: loader.into(),
            path: program.into(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Parses the libraries of a list: `NAME => PATH (ADDRESS)`. Other lines describe the kernel's own library, the loader
/// and the module.
fn libraries(listed: &str) -> Result<Vec<EmulatorFile>, ProgramError> {
    let mut files = Vec::new();
    for line in listed.lines() {
        let Some((name, found)) = line.trim().split_once(" => ") else {
            continue;
        };
        let path = found.rsplit_once(" (").map_or(found, |(path, _)| path);
        if !path.starts_with('/') {
            return Err(ProgramError::NoLibrary { library: name.into() });
        }
        if !name.contains('/') {
            files.push(file(path, &format!("{LIBRARIES}/{name}")));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_loaders_list() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd0a5f2000)\n\t/opt/qemu/accel-tcg-x86_64.so (0x0000700000000000)\n\
                      \tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f2a4e1c2000)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f2a4e9f5000)\n";
        let expected = [file("/lib/x86_64-linux-gnu/libz.so.1", "/lib/libz.so.1")];
        assert_eq!(libraries(listed).unwrap(), expected);
        let missing = libraries("\tlibz.so.1 => not found\n");
        assert!(matches!(missing, Err(ProgramError::NoLibrary { library }) if library == "libz.so.1"));
    }

    #[test]
    fn a_program_names_its_loader() {
        let own = std::env::current_exe().unwrap();
        let loader = loader(&own).unwrap().expect("tests are linked dynamically");
        let listed = list_libraries(&loader, &own, None).unwrap();
        let files = libraries(&listed).unwrap();
        assert!(
            files.iter().any(|file| file.name == Path::new("/lib/libc.so.6")),
            "{files:?}"
        );
        assert!(files.iter().all(|file| file.source.is_file()), "{files:?}");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        for content in [
            &b""[..],
            &[0; 64],
            b"\x7fELF\x02\x01",
            &[b"\x7fELF\x02\x01".as_slice(), &[0xff; 200]].concat(),
        ] {
            std::fs::write(&path, content).unwrap();
            assert!(loader(&path).is_err(), "{content:?}");
        }
    }
}

//! Parts of an installation: guest kernel, agent, VMM, file server, QEMU, passt. Capsid's own parts are searched for
//! beside the running binary (a build folder) and in `../libexec/capsid` and `../share/capsid` (an installation).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::{env, io};

use anyhow::{Context as _, bail};

/// Reason why a part is missing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PartError {
    #[error("cannot find the location of capsid itself")]
    OwnPath(#[source] io::Error),
    #[error("{name} not found (looked in {looked}): build it with `make build`, or reinstall")]
    Missing { name: &'static str, looked: String },
    #[error("passt not found in PATH: install passt")]
    NoPasst,
    #[error("qemu-system-x86_64 not found in PATH: install qemu-system-x86, or use --accel kvm")]
    NoQemu,
}

/// Finds the guest kernel, `vmlinux`.
pub(crate) fn kernel() -> Result<PathBuf, PartError> {
    find("vmlinux", &["", "../share/capsid"])
}

/// Finds the agent, which becomes the guest's PID 1.
pub(crate) fn agent() -> Result<PathBuf, PartError> {
    find("capsid-agent", &["", "../libexec/capsid"])
}

/// Finds the VMM.
pub(crate) fn vmm() -> Result<PathBuf, PartError> {
    find("capsid-vmm", &["", "../libexec/capsid"])
}

/// Finds the file server, for bind mounts.
pub(crate) fn file_server() -> Result<PathBuf, PartError> {
    find("capsid-fs", &["", "../libexec/capsid"])
}

/// Finds QEMU, for `--accel emulate`.
pub(crate) fn qemu() -> Result<PathBuf, PartError> {
    in_path("qemu-system-x86_64").ok_or(PartError::NoQemu)
}

/// Finds passt, which carries the frames of pods with a network.
pub(crate) fn passt() -> Result<PathBuf, PartError> {
    in_path("passt").ok_or(PartError::NoPasst)
}

/// Finds the first file of that name in `PATH`.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn find(name: &'static str, folders: &[&str]) -> Result<PathBuf, PartError> {
    let own = env::current_exe().map_err(PartError::OwnPath)?;
    let home = own.parent().unwrap_or(Path::new("/"));
    let candidates: Vec<PathBuf> = folders.iter().map(|folder| home.join(folder).join(name)).collect();
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(PartError::Missing {
            name,
            looked: candidates
                .iter()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// Opens a guest kernel.
pub(crate) fn open_kernel(path: &Path) -> anyhow::Result<File> {
    let file = File::open(path).with_context(|| format!("cannot open the kernel {}", path.display()))?;
    check_elf(&file).with_context(|| format!("{} is not a kernel", path.display()))?;
    Ok(file)
}

/// Checks the ELF header, the cheap part of the VMM's full check, so that both accelerators name the same cause.
fn check_elf(file: &File) -> anyhow::Result<()> {
    let mut header = [0u8; 20];
    file.read_exact_at(&mut header, 0).context("it is too short")?;
    let x86_64 = u16::from_le_bytes([header[18], header[19]]) == 62;
    if !header.starts_with(b"\x7fELF\x02\x01") || !x86_64 {
        bail!("it is not a 64-bit x86 ELF file");
    }
    Ok(())
}

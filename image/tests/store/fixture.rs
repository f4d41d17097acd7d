//! Stores, archives and disks for tests.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use capsid_image::{Converter, Digest, Image, LoadError, LoadSource, Loaded, Rootfs, Store, load};
use serde_json::json;
use tempfile::TempDir;

/// Store in a directory of its own.
pub(crate) struct Fixture {
    pub store: Store,
    pub directory: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("store"));
        Self { store, directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Loads an archive held in memory, as from standard input.
    pub(crate) fn load_bytes(&self, archive: Vec<u8>) -> Result<Vec<Image>, LoadError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&archive).unwrap();
        file.rewind().unwrap();
        Ok(images(load(&self.store, LoadSource::Stream(file), &())?))
    }

    pub(crate) fn load_path(&self, path: &Path) -> Result<Vec<Image>, LoadError> {
        Ok(images(load(&self.store, LoadSource::Path(path.to_owned()), &())?))
    }

    /// Loads an image of these layers and extracts its rootfs with `fsck.erofs`.
    pub(crate) fn extract(&self, layers: &[Vec<u8>]) -> PathBuf {
        let image = self.load_bytes(docker_archive(layers)).unwrap().remove(0);
        self.extract_image(&image)
    }

    pub(crate) fn extract_image(&self, image: &Image) -> PathBuf {
        let rootfs = self.store.rootfs(image).unwrap();
        let out = self.path(&format!("out-{}", image.id.short()));
        let disk = Disk::write(&rootfs, self.directory.path());
        disk.check();
        disk.extract(&out);
        out
    }

    /// Loads an image of these layers and returns the error; nothing of the image may stay.
    pub(crate) fn refusal(&self, layers: &[Vec<u8>]) -> String {
        let error = self.load_bytes(docker_archive(layers)).expect_err("accepted");
        self.assert_empty();
        chain(&error)
    }

    /// Asserts that the store holds nothing but the database and locks.
    pub(crate) fn assert_empty(&self) {
        let store = open(self.store.root());
        assert!(store.list().unwrap().is_empty());
        for directory in ["blobs", "layers", "rootfs", "tmp"] {
            let entries = std::fs::read_dir(self.store.root().join(directory)).unwrap().count();
            assert_eq!(entries, 0, "{directory} is not empty");
        }
    }
}

pub(crate) fn open(root: &Path) -> Store {
    Store::open(root, Converter::default()).unwrap()
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Files of a rootfs, written to disk for tools that need paths.
pub(crate) struct Disk {
    metadata: PathBuf,
    data: Vec<PathBuf>,
}

impl Disk {
    pub(crate) fn write(rootfs: &Rootfs, directory: &Path) -> Self {
        let copy = |file: &File, name: String| {
            let path = directory.join(name);
            let mut file = file.try_clone().unwrap();
            let mut out = File::create(&path).unwrap();
            io::Seek::rewind(&mut file).unwrap();
            io::copy(&mut file, &mut out).unwrap();
            path
        };
        let data = rootfs.data.iter().enumerate();
        Self {
            metadata: copy(&rootfs.metadata, "metadata".into()),
            data: data.map(|(index, file)| copy(file, format!("data-{index}"))).collect(),
        }
    }

    fn fsck(&self) -> Command {
        let mut command = Command::new("fsck.erofs");
        command.args(self.data.iter().map(|path| format!("--device={}", path.display())));
        command
    }

    pub(crate) fn check(&self) {
        run(self.fsck().arg(&self.metadata));
    }

    /// Writes the tree to the folder `out`, with modes and owners.
    pub(crate) fn extract(&self, out: &Path) {
        run(self
            .fsck()
            .arg(format!("--extract={}", out.display()))
            .arg("--preserve")
            .arg(&self.metadata));
    }

    /// Mounts the concatenated disk, where that is permitted.
    pub(crate) fn mount(&self, at: &Path) -> Option<Mount> {
        std::fs::create_dir(at).unwrap();
        let disk = at.with_extension("disk");
        let mut out = File::create(&disk).unwrap();
        for part in std::iter::once(&self.metadata).chain(&self.data) {
            io::copy(&mut File::open(part).unwrap(), &mut out).unwrap();
        }
        let mounted = Command::new("mount")
            .args(["-t", "erofs", "-o", "ro,loop"])
            .arg(&disk)
            .arg(at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Mount(at.to_owned()));
        }
        std::fs::remove_dir(at).unwrap();
        None
    }

    pub(crate) fn digest(&self) -> Digest {
        let all = std::iter::once(&self.metadata)
            .chain(&self.data)
            .flat_map(|path| std::fs::read(path).unwrap());
        Digest::of(&all.collect::<Vec<u8>>())
    }
}

/// Mount that is removed when dropped.
pub(crate) struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// Archive of `docker save` for an image with these layers, each a tar, plain or compressed.
pub(crate) fn docker_archive(layers: &[Vec<u8>]) -> Vec<u8> {
    docker_archive_for(layers, "amd64")
}

pub(crate) fn docker_archive_for(layers: &[Vec<u8>], architecture: &str) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(&plain(layer))).collect();
    let config = json!({
        "architecture": architecture, "os": "linux", "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let names: Vec<String> = (0..layers.len()).map(|index| format!("layer-{index}.tar")).collect();
    let manifest = json!([{ "Config": "config.json", "RepoTags": ["test:latest"], "Layers": names }]);
    let mut archive = Tar::new();
    archive.file("manifest.json", manifest.to_string().as_bytes());
    archive.file("config.json", config.to_string().as_bytes());
    for (name, layer) in names.iter().zip(layers) {
        archive.file(name, layer);
    }
    archive.finish()
}

/// Output of a program for bytes on its standard input.
pub(crate) fn filter(words: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

fn plain(layer: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match layer {
        [0x1f, 0x8b, ..] => {
            let _ = flate2::read::MultiGzDecoder::new(layer).read_to_end(&mut out);
        }
        [0x28, 0xb5, ..] => {
            let _ = zstd::Decoder::new(layer).unwrap().read_to_end(&mut out);
        }
        [b'B', b'Z', b'h', ..] => return filter(&["bzip2", "-dc"], layer),
        [0xfd, b'7', ..] => return filter(&["xz", "-dc"], layer),
        _ => out.extend_from_slice(layer),
    }
    out
}

/// Writer of tars, including some that no tool would write.
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn file(&mut self, name: &str, content: &[u8]) -> &mut Self {
        self.entry(b'0', name, "", 0o644, content)
    }

    pub(crate) fn directory(&mut self, name: &str) -> &mut Self {
        self.entry(b'5', name, "", 0o755, b"")
    }

    pub(crate) fn symlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.entry(b'2', name, target, 0o777, b"")
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) -> &mut Self {
        self.entry(b'1', name, target, 0o644, b"")
    }

    pub(crate) fn pax(&mut self, key: &str, value: &[u8]) -> &mut Self {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len() + 1;
        while length.to_string().len() + body.len() != length {
            length = length.to_string().len() + body.len();
        }
        let record = [length.to_string().as_bytes(), &body].concat();
        self.entry(b'x', "pax", "", 0o644, &record)
    }

    pub(crate) fn entry(&mut self, kind: u8, name: &str, target: &str, mode: u32, content: &[u8]) -> &mut Self {
        let mut header = [0; 512];
        assert!(name.len() <= 100 && target.len() <= 100, "no long names here");
        header[..name.len()].copy_from_slice(name.as_bytes());
        let mut octal = |at: usize, width: usize, value: u64| {
            header[at..at + width].copy_from_slice(format!("{value:0w$o}\0", w = width - 1).as_bytes());
        };
        octal(100, 8, mode.into());
        octal(108, 8, 0);
        octal(116, 8, 0);
        octal(124, 12, content.len() as u64);
        octal(136, 12, 1_600_000_000);
        octal(329, 8, 1);
        octal(337, 8, 3);
        header[148..156].fill(b' ');
        header[156] = kind;
        header[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.write_all(&header).unwrap();
        self.0.write_all(content).unwrap();
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        std::mem::take(&mut self.0)
    }
}

/// Loaded images as the store has them.
fn images(loaded: Vec<Loaded>) -> Vec<Image> {
    loaded.into_iter().map(|loaded| loaded.image).collect()
}

//! A Capsid of a test's own: binaries under test, folders that nobody else uses.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::environment::{accelerator, part};
use crate::invocation::{Invocation, Outcome};
use crate::resident::descendants;
use crate::test_images::TestImage;

/// Installation with its own store, sockets, home and temporary files, removed with the value.
#[derive(Debug)]
pub struct Capsid {
    root: TempDir,
}

impl Capsid {
    /// Creates an installation without any image.
    pub fn empty() -> Self {
        let root = tempfile::Builder::new()
            .prefix("capsid-test-")
            .tempdir()
            .expect("temporary folder");
        for name in ["data", "run", "home", "tmp"] {
            fs::create_dir(root.path().join(name)).expect("temporary folder");
        }
        Self { root }
    }

    /// Creates an installation with these images loaded.
    pub fn with(images: &[TestImage]) -> Self {
        let capsid = Self::empty();
        for image in images {
            capsid.load(&image.docker_archive()).succeeds();
        }
        capsid
    }

    /// Creates an installation with `busybox:latest`.
    pub fn with_busybox() -> Self {
        Self::with(&[TestImage::Busybox])
    }

    /// Creates an installation with `probe:latest`: busybox and the probe at `/probe`.
    pub fn with_probe() -> Self {
        Self::with(&[TestImage::Probe])
    }

    /// Prepares a call of `capsid` with these arguments.
    pub fn call<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Invocation {
        let mut invocation = Invocation::new(part("capsid"), arguments);
        let command = invocation.command();
        command.env_clear();
        for (name, value) in self.environment() {
            command.env(name, value);
        }
        invocation
    }

    /// Prepares `capsid run --rm ARGUMENTS...`, not started yet.
    pub fn run_call<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Invocation {
        let mut invocation = self.call(["run", "--rm"]);
        invocation.command().args(arguments);
        invocation
    }

    /// Runs `capsid run --rm ARGUMENTS...` to its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        self.run_call(arguments).wait()
    }

    /// Returns the report of the probe in a container started with these flags.
    #[track_caller]
    pub fn probe(&self, flags: &[&str]) -> serde_json::Value {
        self.probe_call(flags, &["report"]).succeeds().json()
    }

    /// Runs `capsid run --rm FLAGS probe /probe WORDS`.
    pub fn probe_call(&self, flags: &[&str], words: &[&str]) -> Outcome {
        let arguments = flags.iter().chain(&["probe", "/probe"]).chain(words);
        self.run_call(arguments).within(120).wait()
    }

    /// Runs `capsid run -d --name NAME WORDS...`. Returns the container's id.
    #[track_caller]
    pub fn detached(&self, name: &str, words: &[&str]) -> String {
        let words = [&["run", "-d", "--name", name], words].concat();
        self.call(words).wait().succeeds().text()
    }

    /// Returns one field of `capsid inspect`.
    #[track_caller]
    pub fn field(&self, name: &str, path: &str) -> String {
        let format = format!("{{{{{path}}}}}");
        self.call(["inspect", "-f", &format, name]).wait().succeeds().text()
    }

    /// Returns the pid of a running container's supervisor on the host.
    #[track_caller]
    pub fn supervisor(&self, name: &str) -> u32 {
        self.field(name, ".State.Pid").parse().expect("a pid")
    }

    /// Returns the pid of a running container's machine: the process on the host that runs the guest's instructions.
    #[track_caller]
    pub fn machine(&self, name: &str) -> u32 {
        let descendants = descendants(self.supervisor(name));
        let last = |start: &str| {
            let named = descendants.iter().filter(|process| process.name.starts_with(start));
            named.map(|process| process.pid).max()
        };
        // Both have a parent named capsid-vmm that enters their pid namespace; QEMU's devices have the name, too.
        last("qemu").or_else(|| last("capsid-vmm")).expect("a running machine")
    }

    /// Runs `capsid load -i PATH`.
    pub fn load(&self, path: &Path) -> Outcome {
        self.call([OsStr::new("load"), OsStr::new("-i"), path.as_os_str()])
            .within(300)
            .wait()
    }

    /// Loads the OCI layout that `write` makes of an image `name`. The load must be refused in one line, with nothing
    /// left in any folder.
    #[track_caller]
    pub fn refuses_layout(name: &str, write: impl FnOnce(&Path)) -> Outcome {
        let capsid = Self::with_busybox();
        let folder = tempfile::tempdir().expect("temporary folder");
        let layout = folder.path().join("layout");
        write(&layout);
        let before = capsid.files();
        let outcome = capsid.load(&layout).exits(1).complains_in_one_line();
        assert_eq!(capsid.files(), before, "left behind\n{outcome}");
        let run = capsid.run(["--pull", "never", name, "true"]);
        run.exits(125).complains(name);
        outcome
    }

    /// Returns the environment variables that `capsid` runs with.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            (
                "PATH",
                std::env::var_os("PATH")
                    .unwrap_or_else(|| "/usr/bin:/bin".into())
                    .into(),
            ),
            ("HOME", self.folder("home")),
            ("TMPDIR", self.folder("tmp")),
            ("XDG_CONFIG_HOME", self.folder("home/.config")),
            ("DOCKER_CONFIG", self.folder("home/.docker")),
            ("CAPSID_DATA_DIR", self.folder("data")),
            ("CAPSID_RUN_DIR", self.folder("run")),
            ("CAPSID_ACCEL", accelerator().into()),
        ]
    }

    /// Returns one of the installation's folders: `data`, `run`, `home`, `tmp`.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Lists the files of the installation's folders, sorted, with sizes, to detect anything left behind. The databases
    /// and the markers are there from the first command on, and the probe's verdict and the templates of disks are kept
    /// on purpose.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for name in ["data", "run", "tmp"] {
            collect(&self.folder(name), &mut found);
        }
        found.retain(|path| {
            const KEPT: [&str; 8] = [
                "-v1.ext4",
                ".db",
                "-wal",
                "-shm",
                "-journal",
                "kvm-verdict.json",
                "events.json",
                "capsid-directory.json",
            ];
            !KEPT.iter().any(|end| path.ends_with(end))
        });
        found.sort();
        found
    }
}

impl Drop for Capsid {
    /// Ends the pods: they outlive the commands that started them, but not the test.
    fn drop(&mut self) {
        let is_empty = |folder: PathBuf| fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
        if is_empty(self.folder("run/pods")) {
            return;
        }
        for (list, remove) in [
            (&["pod", "ls", "-q"][..], &["pod", "rm", "-f"][..]),
            (&["ps", "-aq"], &["rm", "-f"]),
        ] {
            let ids = self.call(list).wait().text();
            let words: Vec<&str> = remove.iter().copied().chain(ids.split_whitespace()).collect();
            if words.len() > remove.len() {
                self.call(words).within(120).wait();
            }
        }
    }
}

fn collect(folder: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        found.push(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}

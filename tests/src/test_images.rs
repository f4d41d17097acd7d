//! Images that tests run: made once, kept under `target/test-images` by the hash of their sources.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::environment;
use crate::image::{ImageBuilder, replace_file, sha256_hex};
use crate::layer::{Entry, Layer};

/// Part of every cache key: a change of how images are made changes it.
const RECIPE: &str = "1";
const BUSYBOX: &str = "/bin/busybox";
/// Debian suite of the tests' tools.
const SUITE: &str = "bookworm";

const PYTHON: &[&str] = &["python3", "ncurses-base"];
const SERVICES: &[&str] = &[
    "redis-server",
    "redis-tools",
    "postgresql-15",
    "nginx-light",
    "python3",
    "busybox",
    "git",
    "curl",
    "bind9-dnsutils",
    "iputils-ping",
    "iperf3",
];

/// Named image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestImage {
    /// `busybox:latest`: Debian's static busybox with a link for each applet.
    Busybox,
    /// `probe:latest`: busybox, users and groups, and the probe at `/probe`.
    Probe,
    /// `debian-python:latest`: Debian slim with python3, made by mmdebstrap.
    DebianPython,
    /// `services:latest`: Debian slim with redis, PostgreSQL, nginx, python3, git and clients of networks.
    Services,
    /// `layers:latest`: 40 layers over busybox that write, overwrite and remove.
    FortyLayers,
    /// `files:latest`: 100 000 small files over busybox.
    ManyFiles,
}

impl TestImage {
    /// All test images.
    pub const ALL: [TestImage; 6] = [
        Self::Busybox,
        Self::Probe,
        Self::DebianPython,
        Self::Services,
        Self::FortyLayers,
        Self::ManyFiles,
    ];

    /// Returns the name under which the image is loaded.
    pub fn name(self) -> &'static str {
        match self {
            Self::Busybox => "busybox",
            Self::Probe => "probe",
            Self::DebianPython => "debian-python",
            Self::Services => "services",
            Self::FortyLayers => "layers",
            Self::ManyFiles => "files",
        }
    }

    /// Finds an image by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|image| image.name() == name)
    }

    /// Returns the image as a docker archive; makes it if it is missing.
    pub fn docker_archive(self) -> PathBuf {
        let folder = cache_folder();
        fs::create_dir_all(&folder).expect("a writable target folder");
        let path = folder.join(format!("{}-{}.tar", self.name(), self.cache_key()));
        if path.exists() {
            return path;
        }
        // Test executables run at the same time: one makes it, the others wait and find it.
        let lock = File::create(folder.join(format!("{}.lock", self.name()))).expect("a writable target folder");
        lock.lock().expect("a lock");
        if !path.exists() {
            self.build()
                .write_docker_archive(&path, &format!("{}:latest", self.name()));
        }
        path
    }

    /// Builds the image, to be written in another format.
    pub fn build(self) -> ImageBuilder {
        let builder = ImageBuilder::new();
        match self {
            Self::Busybox => builder.layer(busybox_layer()),
            Self::Probe => builder.layer(busybox_layer()).layer(probe_layer()),
            Self::DebianPython => builder.config("Cmd", json!(["bash"])).layer(debian_layer(PYTHON)),
            Self::Services => builder.layer(debian_layer(SERVICES)).layer(services_layer()),
            Self::FortyLayers => (0..39).fold(builder.layer(busybox_layer()), |image, index| {
                image.layer(stacked_layer(index))
            }),
            Self::ManyFiles => builder.layer(busybox_layer()).layer(many_files_layer(100_000)),
        }
    }

    fn cache_key(self) -> String {
        let mut inputs = RECIPE.as_bytes().to_vec();
        // Debian's archive moves every day; a test image need not.
        match self {
            Self::DebianPython => inputs.extend(SUITE.bytes()),
            Self::Services => {
                inputs.extend([SUITE, &SERVICES.join(" ")].concat().bytes());
                inputs.extend(services_layer());
            }
            _ => inputs.extend(fs::read(BUSYBOX).expect("busybox-static is installed")),
        }
        if self == Self::Probe {
            inputs.extend(fs::read(environment::part("capsid-probe")).expect("a readable probe"));
        }
        sha256_hex(&inputs)[..12].to_owned()
    }
}

/// Returns the folder of the archives.
pub fn cache_folder() -> PathBuf {
    env::var_os("CAPSID_TEST_IMAGES").map_or_else(|| environment::target_dir().join("test-images"), PathBuf::from)
}

fn busybox_layer() -> Vec<u8> {
    let listing = Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .expect("busybox-static is installed")
        .stdout;
    let busybox = fs::read(BUSYBOX).expect("busybox-static is installed");
    let mut layer = Layer::new().folder("bin/").program("bin/busybox", busybox);
    for applet in String::from_utf8_lossy(&listing)
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        layer = layer.hardlink(&format!("bin/{applet}"), "bin/busybox");
    }
    for folder in [
        "dev/", "etc/", "home/", "proc/", "root/", "sys/", "usr/", "usr/bin/", "var/",
    ] {
        layer = layer.folder(folder);
    }
    layer
        .entry(&Entry {
            name: "tmp/",
            kind: tar::EntryType::Directory,
            mode: 0o1777,
            ..Entry::default()
        })
        .file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        )
        .file("etc/group", "root:x:0:\nnogroup:x:65534:\n")
        .finish()
}

fn probe_layer() -> Vec<u8> {
    Layer::new()
        .program(
            "probe",
            fs::read(environment::part("capsid-probe")).expect("a readable probe"),
        )
        .file(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nalice:x:1234:2345:Alice:/home/alice:/bin/sh\n",
        )
        .file(
            "etc/group",
            "root:x:0:\nalice:x:2345:\ncrew:x:3456:alice\nextra:x:4567:\n",
        )
        .file("not-executable", "plain\n")
        .program("no-interpreter", "#!/no/such/interpreter\n")
        .folder("populated/")
        .file("populated/file", "from the image\n")
        .finish()
}

/// Builds layer `index` of a stack: adds, changes the additions of the one below, removes the content of the one below
/// that.
fn stacked_layer(index: u32) -> Vec<u8> {
    let layer = Layer::new()
        .folder("stack/")
        .file(&format!("stack/{index}"), format!("added by {index}\n"))
        .file("stack/last", format!("{index}\n"))
        .folder(&format!("stack/folder{index}/"))
        .file(&format!("stack/folder{index}/inside"), "x");
    let layer = match index.checked_sub(2) {
        Some(gone) => layer.file(&format!("stack/.wh.{gone}"), ""),
        None => layer,
    };
    match index.checked_sub(1) {
        Some(opaque) if index.is_multiple_of(10) => layer.file(&format!("stack/folder{opaque}/.wh..wh..opq"), ""),
        _ => layer,
    }
    .finish()
}

/// Builds a layer of files of a few bytes to a few KiB, 250 per folder, with links, owners and attributes among them.
pub fn many_files_layer(count: u32) -> Vec<u8> {
    let content: Vec<u8> = (0..4096_u32)
        .map(|n| b'a' + u8::try_from(n % 26).expect("below 26"))
        .collect();
    let mut layer = Layer::new().folder("many/");
    for index in 0..count {
        let folder = index / 250;
        if index % 250 == 0 {
            layer = layer.folder(&format!("many/{folder}/"));
        }
        let name = format!("many/{folder}/{index}");
        layer = match index % 50 {
            7 => layer.symlink(&name, &(index - 1).to_string()),
            8 => layer.hardlink(&name, &format!("many/{folder}/{}", index - 2)),
            9 => layer.entry(&Entry {
                name: &name,
                uid: 1000,
                gid: 1001,
                mode: 0o4711,
                xattrs: &[("user.capsid", b"value")],
                content: b"attributes",
                ..Entry::default()
            }),
            // 0 to 4095 bytes, spread: empty files, tails, and just below a block.
            _ => layer.file(&name, &content[..(index as usize * 37) % 4096]),
        };
    }
    layer.finish()
}

/// Builds Debian slim with packages: needs the network (or a cache of Debian's archive in apt's configuration).
fn debian_layer(packages: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("root.tar");
    // PostgreSQL compiles queries with libLLVM if it is there: as large as all the rest.
    let left_out = [
        "/usr/share/doc/*",
        "/usr/share/man/*",
        "/usr/share/locale/*",
        "/usr/share/i18n/*",
        "/usr/lib/x86_64-linux-gnu/libLLVM*",
        "/usr/lib/x86_64-linux-gnu/libz3*",
        "/usr/lib/postgresql/*/lib/bitcode/*",
    ];
    let status = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase"])
        .arg(format!("--include={}", packages.join(",")))
        .args(left_out.map(|pattern| format!("--dpkgopt=path-exclude={pattern}")))
        .args(["--aptopt=APT::Sandbox::User \"root\"", SUITE])
        .arg(&path)
        .args(mirror())
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .status()
        .expect("mmdebstrap is installed");
    assert!(status.success(), "mmdebstrap failed: {status}");
    fs::read(&path).expect("the archive")
}

/// Builds the layer of the services' content: logs at a container's usual place, and no database but the tests' own.
fn services_layer() -> Vec<u8> {
    Layer::new()
        .file("var/www/html/index.html", "served by nginx\n")
        .symlink("var/log/nginx/access.log", "/dev/stdout")
        .symlink("var/log/nginx/error.log", "/dev/stderr")
        .file("var/lib/postgresql/.wh.15", "")
        .entry(&Entry {
            name: "run/postgresql/",
            kind: tar::EntryType::Directory,
            mode: 0o1777,
            ..Entry::default()
        })
        .file("srv/service.py", include_str!("service.py"))
        .finish()
}

/// Returns the mirror that this host's apt uses for Debian itself.
fn mirror() -> Option<String> {
    let sources = Command::new("apt-get")
        .args(["indextargets", "--format", "$(SITE) $(CODENAME)"])
        .output()
        .ok()?;
    String::from_utf8_lossy(&sources.stdout)
        .lines()
        .find_map(|line| line.strip_suffix(&format!(" {SUITE}")))
        .filter(|site| site.contains("debian"))
        .map(str::to_owned)
}

/// Makes `path` a copy of the image's docker archive.
pub fn export(image: TestImage, path: &Path) {
    replace_file(path, &fs::read(image.docker_archive()).expect("a readable archive"));
}

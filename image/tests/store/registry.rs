//! Pulls from a real registry on loopback: Debian's `docker-registry`, with passwords.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use capsid_image::{Credentials, Image, PullError, PullOptions, Reference, pull};

use crate::fixture::{Fixture, Tar, docker_archive, run};

/// Password file with `user:secret`, bcrypt.
const PASSWORDS: &str = "user:$2b$05$3mV0pXnrXworaxIsfUYK3.asTlFt2NKB5JXU3q.yEcWD1QoNIvOhC";

struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    fn start(directory: &Path, passwords: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let data = directory.join(format!("registry-{port}"));
        std::fs::create_dir(&data).unwrap();
        let mut config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            data.display()
        );
        let file = directory.join("htpasswd");
        std::fs::write(&file, passwords).unwrap();
        config.push_str(&format!(
            "auth: {{ htpasswd: {{ realm: test, path: {} }} }}\n",
            file.display()
        ));
        let path = directory.join(format!("registry-{port}.yml"));
        std::fs::write(&path, config).unwrap();
        let quiet = || Stdio::null();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(quiet())
            .stderr(quiet())
            .spawn()
            .unwrap();
        let registry = Self { child, port };
        let listens = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(listens, "the registry does not listen");
        registry
    }

    fn name(&self, rest: &str) -> Reference {
        format!("127.0.0.1:{}/{rest}", self.port).parse().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pull_as(fixture: &Fixture, name: &Reference, credentials: Credentials) -> Result<Image, PullError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let options = PullOptions {
        credentials,
        ..PullOptions::default()
    };
    let pulled = runtime.block_on(pull(&fixture.store, name, &options, &()))?;
    Ok(pulled.image)
}

pub(crate) fn a_registry_gives_images_to_whom_it_should() {
    let fixture = Fixture::new();
    let registry = Registry::start(fixture.directory.path(), PASSWORDS);
    let name = registry.name("dir/test:1");
    let archive = fixture.path("image.tar");
    let layers = [
        Tar::new().file("a", b"pulled").finish(),
        Tar::new().file("b", &[5; 400_000]).finish(),
    ];
    std::fs::write(&archive, docker_archive(&layers)).unwrap();
    run(Command::new("skopeo")
        .args([
            "copy",
            "-q",
            "--insecure-policy",
            "--dest-tls-verify=false",
            "--dest-creds=user:secret",
        ])
        .arg(format!("docker-archive:{}", archive.display()))
        .arg(format!("docker://{}", name.canonical())));

    let basic = |password: &str| Credentials::Basic {
        username: "user".into(),
        password: password.into(),
    };
    let reported = pull_as(&fixture, &name, Credentials::Anonymous)
        .unwrap_err()
        .to_string();
    assert!(reported.contains("pull access denied"), "{reported}");
    let reported = pull_as(&fixture, &name, basic("wrong")).unwrap_err().to_string();
    assert!(
        reported.contains("pull access denied") && !reported.contains("wrong"),
        "{reported}"
    );
    let reported = pull_as(&fixture, &registry.name("dir/none:1"), basic("secret"))
        .unwrap_err()
        .to_string();
    assert!(reported.contains("no such image"), "{reported}");
    fixture.assert_empty();

    let image = pull_as(&fixture, &name, basic("secret")).unwrap();
    let out = fixture.extract_image(&image);
    assert_eq!(std::fs::read(out.join("a")).unwrap(), b"pulled");
    assert_eq!(std::fs::read(out.join("b")).unwrap(), [5; 400_000]);
    let pinned = name.with_digest(image.manifest);
    assert_eq!(pull_as(&fixture, &pinned, basic("secret")).unwrap().id, image.id);
    assert_eq!(fixture.store.find(&pinned.to_string()).unwrap().unwrap().id, image.id);
    let port = registry.port;
    drop(registry);
    let reported = pull_as(&fixture, &name, basic("secret")).unwrap_err().to_string();
    assert!(
        reported.contains(&format!("cannot use registry 127.0.0.1:{port}")),
        "{reported}"
    );
}

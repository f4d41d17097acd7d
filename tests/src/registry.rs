//! A real registry: Debian's `docker-registry` on loopback, with TLS and a password, or as a test configures it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::capsid::Capsid;
use crate::environment::patience;
use crate::sys;
use crate::token_server::{ISSUER, SERVICE, TokenServer};

/// User who may pull.
pub const USER: &str = "alice";
/// Password of [`USER`].
pub const PASSWORD: &str = "correct horse";

/// Running registry, ended with the value.
#[derive(Debug)]
pub struct Registry {
    folder: TempDir,
    server: Child,
    port: u16,
}

/// Clients that a registry lets in, and its transport.
#[derive(Debug, Clone, Copy)]
enum Access<'a> {
    /// TLS, with [`USER`] and [`PASSWORD`].
    Password,
    /// Plain HTTP, for everybody.
    Plain,
    /// Plain HTTP, for clients with a token of this server.
    Token(&'a TokenServer),
}

impl Registry {
    /// Starts an empty registry, with TLS and a password.
    pub fn start() -> Self {
        Self::start_with(Access::Password)
    }

    /// Starts an empty registry that serves everybody over plain HTTP.
    pub fn start_plain() -> Self {
        Self::start_with(Access::Plain)
    }

    /// Starts an empty registry over plain HTTP that asks for a token of `server`.
    pub fn start_with_tokens(server: &TokenServer) -> Self {
        Self::start_with(Access::Token(server))
    }

    fn start_with(access: Access<'_>) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("capsid-registry-")
            .tempdir()
            .expect("temporary folder");
        make_certificate(folder.path());
        make_password_file(folder.path());
        let port = free_port();
        let config = configuration(folder.path(), port, access);
        fs::write(folder.path().join("config.yml"), config).expect("temporary folder");
        let log = fs::File::create(folder.path().join("log")).expect("temporary folder");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(folder.path().join("config.yml"));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log);
        sys::die_with_parent(&mut command);
        let mut server = command.spawn().expect("docker-registry is installed");
        await_port(&mut server, port, folder.path());
        Self { folder, server, port }
    }

    /// Returns `localhost:PORT/NAME`.
    pub fn reference(&self, name: &str) -> String {
        format!("localhost:{}/{name}", self.port)
    }

    /// Returns the registry's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the path of the certificate that clients must trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// Returns the path of a blob in the registry's store, to be spoiled.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hexadecimal = digest.strip_prefix("sha256:").expect("a sha256 digest");
        let store = self.folder.path().join("store/docker/registry/v2/blobs/sha256");
        store.join(&hexadecimal[..2]).join(hexadecimal).join("data")
    }

    /// Copies an image into the registry with skopeo, from any of skopeo's transports, as `NAME`; an index with all its
    /// images.
    pub fn push(&self, source: &str, name: &str) {
        let output = Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "--all",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .args(["--dest-creds", &format!("{USER}:{PASSWORD}"), source])
            .arg(format!("docker://{}", self.reference(name)))
            .output()
            .expect("skopeo is installed");
        assert!(
            output.status.success(),
            "skopeo copy {source}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Configures this installation to trust the registry and know its password, like a user: `certs.d`, and docker's
    /// own `config.json`.
    pub fn introduce(&self, capsid: &Capsid) {
        self.introduce_with(capsid, PASSWORD);
    }

    /// Configures this installation for the registry with another password.
    pub fn introduce_with(&self, capsid: &Capsid, password: &str) {
        let folder = capsid.folder("home/.docker");
        let certificates = capsid
            .folder("home/.config/capsid/certs.d")
            .join(self.reference("").trim_end_matches('/'));
        fs::create_dir_all(&folder).expect("temporary folder");
        fs::create_dir_all(&certificates).expect("temporary folder");
        fs::copy(self.certificate(), certificates.join("ca.crt")).expect("temporary folder");
        let auth = base64(format!("{USER}:{password}").as_bytes());
        let config = serde_json::json!({"auths": {self.reference("").trim_end_matches('/'): {"auth": auth}}});
        write_private(&folder.join("config.json"), &config.to_string());
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn configuration(folder: &Path, port: u16, access: Access<'_>) -> String {
    let folder = folder.display();
    let access = match access {
        Access::Password => format!(
            "  tls: {{certificate: {folder}/cert.pem, key: {folder}/key.pem}}\n\
             auth:\n  htpasswd: {{realm: capsid-tests, path: {folder}/htpasswd}}\n"
        ),
        Access::Plain => String::new(),
        Access::Token(server) => format!(
            "auth:\n  token: {{realm: \"{}\", service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {}}}\n",
            server.realm(),
            server.certificate().display()
        ),
    };
    format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {folder}/store}}\n  delete: {{enabled: true}}\n\
         http:\n  addr: 127.0.0.1:{port}\n{access}"
    )
}

/// Writes a file that nobody else may read, like docker's `config.json`.
pub fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("temporary folder");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("temporary folder");
}

fn make_certificate(folder: &Path) {
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ])
        // It is a server's: webpki takes no authority for one.
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(folder.join("key.pem"))
        .arg("-out")
        .arg(folder.join("cert.pem"))
        .output()
        .expect("openssl is installed");
    assert!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn make_password_file(folder: &Path) {
    let output = Command::new("htpasswd")
        .args(["-Bbn", "-C", "5", USER, PASSWORD])
        .output()
        .expect("apache2-utils");
    assert!(output.status.success(), "htpasswd failed");
    fs::write(folder.join("htpasswd"), output.stdout).expect("temporary folder");
}

/// Returns a port that was free a moment ago; the registry cannot be handed a socket.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

fn await_port(server: &mut Child, port: u16, folder: &Path) {
    let deadline = Instant::now() + patience(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(
            server.try_wait().expect("wait").is_none(),
            "docker-registry ended: {}",
            log()
        );
        assert!(Instant::now() < deadline, "docker-registry does not listen: {}", log());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Encodes in base64 (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .enumerate()
            .fold(0_u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..4 {
            let value = (word >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() {
                DIGITS[value as usize] as char
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_matches_rfc_4648_section_10() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, text) in vectors {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }
}

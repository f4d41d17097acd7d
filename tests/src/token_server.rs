//! Token server for a registry (docker's token authentication): signs the rights of its clients.

use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{Head, answer, form};
use crate::registry::{PASSWORD, USER, base64};
use crate::server::Server;

/// Audience of the tokens.
pub const SERVICE: &str = "capsid-registry";
/// Issuer of the tokens.
pub const ISSUER: &str = "capsid-tokens";
/// Refresh token that stands for [`USER`].
pub const IDENTITY: &str = "an-identity-token";
/// Prefix of the repositories that everybody may pull.
pub const PUBLIC: &str = "public/";

/// Running token server.
#[derive(Debug)]
pub struct TokenServer {
    folder: Arc<TempDir>,
    server: Server,
    record: Arc<Record>,
}

/// Answer to give in place of a token, and the requests received so far.
#[derive(Debug, Default)]
struct Record {
    instead: Mutex<Option<Vec<u8>>>,
    asked: Mutex<Vec<Asked>>,
}

/// Request for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Method, `GET` or `POST`.
    pub method: String,
    /// User who asked, if the server knows them.
    pub user: Option<String>,
    /// Requested scope.
    pub scope: String,
}

impl TokenServer {
    /// Starts a server with a key of its own.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("capsid-registry-")
            .tempdir()
            .expect("temporary folder");
        make_key(folder.path());
        let (folder, record) = (Arc::new(folder), Arc::<Record>::default());
        let server = Server::start({
            let (folder, record) = (Arc::clone(&folder), Arc::clone(&record));
            move |stream, _| serve(stream, folder.path(), &record)
        });
        Self { folder, server, record }
    }

    /// Returns the URL that clients ask for tokens.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.host())
    }

    /// Returns host and port, which a user names to permit them as a registry's token service.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.server.port())
    }

    /// Returns the certificate by which a registry checks the tokens.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// Answers everybody with this body from now on.
    pub fn answer_with(&self, body: impl Into<Vec<u8>>) {
        *self.record.instead.lock().expect("no panic in a server") = Some(body.into());
    }

    /// Returns the requests so far and forgets them.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.record.asked.lock().expect("no panic in a server"))
    }
}

fn serve(mut stream: TcpStream, folder: &Path, record: &Record) -> io::Result<()> {
    let Some(request) = Head::read(&mut stream)? else {
        return Ok(());
    };
    let body = request.body(&mut stream)?;
    let (_, query) = request.target().split_once('?').unwrap_or_default();
    let posted = request.method() == "POST";
    let fields = form(if posted {
        std::str::from_utf8(&body).unwrap_or_default()
    } else {
        query
    });
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    let password = format!("Basic {}", base64(format!("{USER}:{PASSWORD}").as_bytes()));
    let user = if posted {
        (field("grant_type") == "refresh_token" && field("refresh_token") == IDENTITY).then_some(USER)
    } else {
        (request.field("authorization") == Some(&password)).then_some(USER)
    };
    record.asked.lock().expect("no panic in a server").push(Asked {
        method: request.method().to_owned(),
        user: user.map(str::to_owned),
        scope: field("scope").to_owned(),
    });
    if let Some(body) = &*record.instead.lock().expect("no panic in a server") {
        return answer(&mut stream, "200 OK", body);
    }
    let claims_to_be_somebody = posted || request.field("authorization").is_some();
    if field("service") != SERVICE || (claims_to_be_somebody && user.is_none()) {
        let refusal = json!({"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]});
        return answer(&mut stream, "401 Unauthorized", refusal.to_string().as_bytes());
    }
    let token = sign(
        folder,
        user.unwrap_or_default(),
        &granted(field("scope"), user.is_some()),
    );
    let name = if posted { "access_token" } else { "token" };
    answer(&mut stream, "200 OK", json!({ name: token }).to_string().as_bytes())
}

/// Returns the granted part of a scope (`repository:NAME:ACTION,...`): all to the user, pulls of public repositories to
/// others.
fn granted(scope: &str, known: bool) -> Value {
    let parts: Vec<&str> = scope.split(':').collect();
    let [kind, name, actions] = parts[..] else {
        return json!([]);
    };
    let actions: Vec<&str> = actions
        .split(',')
        .filter(|action| known || (name.starts_with(PUBLIC) && *action == "pull"))
        .collect();
    json!([{"type": kind, "name": name, "actions": actions}])
}

/// Signs a JSON web token (RFC 7519) by openssl, with the key whose certificate it carries.
fn sign(folder: &Path, subject: &str, access: &Value) -> String {
    let certificate = fs::read_to_string(folder.join("cert.pem")).expect("a certificate");
    let certificate: String = certificate.lines().filter(|line| !line.starts_with('-')).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let claims = json!({
        "iss": ISSUER, "sub": subject, "aud": SERVICE, "access": access,
        "exp": now + 300, "nbf": now - 10, "iat": now - 10, "jti": "1",
    });
    let signed = format!(
        "{}.{}",
        base64url(header.to_string().as_bytes()),
        base64url(claims.to_string().as_bytes())
    );
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(folder.join("key.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut input = openssl.stdin.take().expect("piped");
    input.write_all(signed.as_bytes()).expect("openssl reads");
    drop(input);
    let signature = openssl.wait_with_output().expect("openssl ends").stdout;
    format!("{signed}.{}", base64url(&signature))
}

/// Encodes in base64url (RFC 4648, section 5), without padding.
fn base64url(bytes: &[u8]) -> String {
    base64(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_")
}

fn make_key(folder: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"])
        .args(["-subj", "/CN=tokens", "-keyout"])
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

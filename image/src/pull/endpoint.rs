//! Address of a registry, and the check of its TLS certificates.

use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};
use tokio::sync::OnceCell;

use super::RegistryError;
use super::reach::{Forbidden, Resolver, Scope};
use super::realm::{Realm, Trust, is_loopback, origin};
use crate::limits::NO_PROGRESS_SECONDS;

/// Origin of one registry, and HTTP clients for it and for hosts that it refers to.
pub(super) struct Endpoint {
    pub base: Url,
    /// Whether the registry's certificates are checked. Those of other hosts always are.
    pub is_verified: bool,
    own: Client,
    foreign: OnceCell<Client>,
    scope: Arc<Scope>,
    certificates: Vec<Certificate>,
}

/// Host name of a registry: Docker Hub's is another than the one in image names.
fn host_of(registry: &str) -> &str {
    if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    }
}

impl Endpoint {
    /// Determines whether the registry uses TLS. Plain HTTP is tried only where it is allowed, after TLS has failed.
    pub(super) async fn find(registry: &str, insecure: &[String]) -> Result<Self, RegistryError> {
        let is_insecure = insecure.iter().any(|name| name == registry);
        let host = host_of(registry);
        let https = address("https", host)?;
        let certificates = certificates(registry)?;
        let scope = Arc::new(Scope::new(&https));
        let own = client(&certificates, is_insecure, Some(&scope))?;
        let endpoint = |base| Self {
            base,
            is_verified: !is_insecure,
            own: own.clone(),
            foreign: OnceCell::new(),
            scope,
            certificates,
        };
        if !is_insecure && !is_loopback(&https) {
            return Ok(endpoint(https));
        }
        let Err(tls_error) = ping(&own, &https).await else {
            return Ok(endpoint(https));
        };
        let http = address("http", host)?;
        match ping(&own, &http).await {
            // A TLS server answers plain HTTP with 400: in that case the certificate was the problem.
            Ok(400) | Err(_) => Err(tls_error),
            Ok(_) => Ok(endpoint(http)),
        }
    }

    /// HTTP client for the registry's own origin, and no other.
    pub(super) fn own(&self) -> &Client {
        &self.own
    }

    /// HTTP client for a host that the registry named, which may not be nearer to this host than the registry is.
    pub(super) async fn foreign(&self, url: &Url) -> Result<&Client, RegistryError> {
        self.scope
            .admit(url)
            .map_err(|Forbidden| RegistryError::ForbiddenAddress { address: origin(url) })?;
        let make = || async { client(&self.certificates, false, Some(&self.scope)) };
        self.foreign.get_or_try_init(make).await
    }

    /// Records that a host named by the registry redirects to another one.
    pub(super) fn leads_on(&self, url: &Url) {
        self.scope.leads_on(url);
    }

    /// HTTP client for a token service. One that the user named may be anywhere.
    pub(super) async fn token_client(&self, realm: &Realm) -> Result<Client, RegistryError> {
        match realm.trust {
            Trust::Own => Ok(self.own.clone()),
            Trust::Known => self.foreign(&realm.url).await.cloned(),
            Trust::Named => client(&self.certificates, false, None),
        }
    }
}

fn address(scheme: &str, host: &str) -> Result<Url, RegistryError> {
    Url::parse(&format!("{scheme}://{host}/")).map_err(|_| RegistryError::Protocol {
        what: "invalid registry name",
    })
}

async fn ping(client: &Client, base: &Url) -> Result<u16, RegistryError> {
    let url = base.join("v2/").map_err(|_| RegistryError::Protocol {
        what: "invalid registry name",
    })?;
    let answer = client.get(url).send().await.map_err(connection_error)?;
    Ok(answer.status().as_u16())
}

/// Creates an HTTP client that follows no redirects: this crate follows them itself, because they must not take
/// credentials along. System certificates are trusted, `SSL_CERT_FILE` and `SSL_CERT_DIR` replace them, and those of
/// docker's `certs.d` for this registry are added. Without a scope, any address may be connected to.
fn client(
    certificates: &[Certificate],
    any_certificate: bool,
    scope: Option<&Arc<Scope>>,
) -> Result<Client, RegistryError> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails only if the program has installed a provider of its own, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let timeout = Duration::from_secs(NO_PROGRESS_SECONDS);
    let mut builder = Client::builder()
        .user_agent(concat!("capsid/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(timeout)
        .read_timeout(timeout)
        .tls_certs_merge(certificates.iter().cloned())
        .tls_danger_accept_invalid_certs(any_certificate);
    if let Some(scope) = scope {
        builder = builder.dns_resolver(Arc::new(Resolver(Arc::clone(scope))));
    }
    builder.build().map_err(connection_error)
}

/// Reads `*.crt` in `certs.d/REGISTRY` of docker and of capsid.
fn certificates(registry: &str) -> Result<Vec<Certificate>, RegistryError> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let config = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or(home.map(|home| home.join(".config")));
    let folders = [
        Some(PathBuf::from("/etc/docker/certs.d")),
        config.map(|config| config.join("capsid/certs.d")),
    ];
    let mut found = Vec::new();
    for folder in folders.into_iter().flatten() {
        let Ok(entries) = std::fs::read_dir(folder.join(registry)) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|extension| extension != "crt") {
                continue;
            }
            let bundle = std::fs::read(&path)
                .ok()
                .and_then(|pem| Certificate::from_pem_bundle(&pem).ok());
            found.extend(bundle.ok_or_else(|| RegistryError::Certificate {
                path: path.display().to_string(),
            })?);
        }
    }
    Ok(found)
}

/// Converts an error of the HTTP client, without the address, whose query may hold a signature.
pub(super) fn connection_error(error: reqwest::Error) -> RegistryError {
    if error.is_timeout() {
        return RegistryError::Stalled;
    }
    let address = error.url().map(origin).unwrap_or_default();
    let server = error.url().map(server).unwrap_or_default();
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        if error.is::<Forbidden>() {
            return RegistryError::ForbiddenAddress { address };
        }
        if is_no_tls(error) {
            return RegistryError::PlainHttp { address: server };
        }
        reason = format!("{reason}: {error}");
        cause = error.source();
    }
    RegistryError::Connection {
        reason: crate::text::printable(reason.as_bytes(), 400),
    }
}

/// Host and port of a URL.
fn server(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    crate::text::printable(format!("{host}:{port}").as_bytes(), 300)
}

/// Whether a server answered a TLS greeting with something else, as a plain HTTP server does. The error of rustls is
/// inside of I/O errors, which their error chain skips.
fn is_no_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut inner = Some(error);
    while let Some(error) = inner {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            let wrong_type = rustls::InvalidMessage::InvalidContentType;
            return *error == rustls::Error::InvalidMessage(wrong_type);
        }
        let wrapper = error.downcast_ref::<std::io::Error>();
        inner = wrapper.and_then(|wrapper| Some(wrapper.get_ref()? as _));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn a_server_of_plain_http_is_named_as_such() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let url = format!("https://127.0.0.1:{port}/");
        let error = runtime.block_on(async {
            let client = client(&[], false, None).unwrap();
            connection_error(client.get(&url).send().await.unwrap_err())
        });
        server.join().unwrap();
        let reported = error.to_string();
        assert!(
            reported.starts_with(&format!("127.0.0.1:{port} speaks plain HTTP")),
            "{reported}"
        );
    }

    /// Checks that a resolved address is checked when the connection is made, not when the redirect is read.
    #[test]
    fn a_public_registrys_names_do_not_lead_to_this_host() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let target: Url = format!("http://localhost:{port}/").parse().unwrap();
        let base: Url = "https://1.1.1.1/".parse().unwrap();
        let scope = Arc::new(Scope::new(&base));
        let endpoint = Endpoint {
            own: client(&[], false, Some(&scope)).unwrap(),
            base,
            is_verified: true,
            foreign: OnceCell::new(),
            scope,
            certificates: Vec::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let refused = runtime.block_on(async {
            let client = endpoint.foreign(&target).await.unwrap();
            connection_error(client.get(target.clone()).send().await.unwrap_err())
        });
        let RegistryError::ForbiddenAddress { address } = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!(*address, format!("http://localhost:{port}"));
        assert!(listener.accept().is_err(), "a connection was made");
    }
}

//! Where a registry is and how its TLS is checked.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Url};

use super::RegistryError;
use crate::limits::NO_PROGRESS_SECONDS;

/// An HTTP client for one registry, and the registry's address.
pub(super) struct Endpoint {
    pub client: Client,
    pub base: Url,
}

/// Docker Hub's registry has another name than people write.
fn host_of(registry: &str) -> &str {
    if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    }
}

impl Endpoint {
    /// Finds out whether the registry speaks TLS. Plain HTTP is tried only where it is allowed, after TLS has failed.
    pub(super) async fn find(registry: &str, insecure: &[String]) -> Result<Self, RegistryError> {
        let named_insecure = insecure.iter().any(|name| name == registry);
        let client = client(registry, named_insecure)?;
        let host = host_of(registry);
        let https = address("https", host)?;
        if !named_insecure && !is_loopback(&https) {
            return Ok(Self { client, base: https });
        }
        let Err(tls_error) = ping(&client, &https).await else {
            return Ok(Self { client, base: https });
        };
        let http = address("http", host)?;
        match ping(&client, &http).await {
            // A TLS server answers plain HTTP with 400: then it was the certificate that failed.
            Ok(400) | Err(_) => Err(tls_error),
            Ok(_) => Ok(Self { client, base: http }),
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

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Redirects are ours to follow, for they must not take credentials along. System certificates count, `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` replace them, and those of docker's `certs.d` for this registry are added.
fn client(registry: &str, any_certificate: bool) -> Result<Client, RegistryError> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails only if the program has installed one of its own, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let timeout = Duration::from_secs(NO_PROGRESS_SECONDS);
    Client::builder()
        .user_agent(concat!("capsid/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .connect_timeout(timeout)
        .read_timeout(timeout)
        .tls_certs_merge(certificates(registry)?)
        .tls_danger_accept_invalid_certs(any_certificate)
        .build()
        .map_err(connection_error)
}

/// `*.crt` in `certs.d/REGISTRY` of docker and of capsid.
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

/// An error of the HTTP client without the address, whose query may hold a signature.
pub(super) fn connection_error(error: reqwest::Error) -> RegistryError {
    if error.is_timeout() {
        return RegistryError::Stalled;
    }
    let error = error.without_url();
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        reason = format!("{reason}: {error}");
        cause = error.source();
    }
    RegistryError::Connection {
        reason: crate::text::printable(reason.as_bytes(), 400),
    }
}

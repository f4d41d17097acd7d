//! One repository of a registry: requests, authorisation, redirects, bounded answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Duration, sleep};

use super::challenge::Challenge;
use super::credentials::{Secret, look_up};
use super::endpoint::{Endpoint, connection_error};
use super::{PullError, PullOptions, RegistryError};
use crate::digest::Digest;
use crate::limits::{MANIFEST_BYTES_MAX, REDIRECTS_MAX, REGISTRY_TEXT_BYTES_MAX, TOKEN_BYTES_MAX, TRIES_MAX};
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, OCI_INDEX, OCI_MANIFEST};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::text::printable;

pub(super) struct Registry {
    endpoint: Endpoint,
    reference: Reference,
    secret: Option<Secret>,
    /// The value of `Authorization` that worked last.
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Registry {
    pub(super) async fn connect(
        reference: &Reference,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Self, PullError> {
        let registry = reference.registry().to_owned();
        let secret = look_up(&options.credentials, &registry, progress).await;
        let secret = secret.map_err(|source| PullError::Credentials {
            registry: registry.clone(),
            source,
        })?;
        let endpoint = Endpoint::find(reference.registry(), &options.insecure_registries).await;
        let endpoint = endpoint.map_err(|source| PullError::Registry { registry, source })?;
        Ok(Self {
            endpoint,
            reference: reference.clone(),
            secret,
            authorization: Mutex::new(None),
        })
    }

    /// The manifest or index at a tag or digest, and the media type the registry gives it.
    pub(super) async fn manifest(&self, version: &str) -> Result<(Vec<u8>, Option<String>), PullError> {
        let path = format!("manifests/{version}");
        let mut answer = self.retry(&path).await.map_err(|error| self.explain(error))?;
        let media_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(|text| text.split(';').next().unwrap_or(text).trim().to_owned());
        // Some registries serve every manifest as JSON; its own media type then decides.
        let media_type = media_type.filter(|text| text.starts_with("application/vnd."));
        let bytes = read_bounded(&mut answer, MANIFEST_BYTES_MAX)
            .await
            .map_err(|error| self.explain(error))?;
        Ok((bytes, media_type))
    }

    /// A blob that fits in memory: the config.
    pub(super) async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PullError> {
        let path = format!("blobs/{}", descriptor.digest);
        let mut answer = self.retry(&path).await.map_err(|error| self.explain(error))?;
        let bytes = read_bounded(&mut answer, descriptor.size)
            .await
            .map_err(|error| self.explain(error))?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            return Err(PullError::Digest {
                what: "image config",
                wanted: descriptor.digest,
                found,
            });
        }
        Ok(bytes)
    }

    /// A blob from byte `from` on. The answer may begin earlier, at the blob's first byte: status 200 instead of 206.
    pub(super) async fn blob(&self, digest: Digest, from: u64) -> Result<Response, RegistryError> {
        self.get(&format!("blobs/{digest}"), from).await
    }

    /// What an error means to whoever wanted the image.
    pub(super) fn explain(&self, source: RegistryError) -> PullError {
        let (reference, registry) = (self.reference.to_string(), self.reference.registry().to_owned());
        match source {
            RegistryError::Status { status: 404, .. } => PullError::NotFound { reference, registry },
            RegistryError::Status { status: 401 | 403, .. } => PullError::Denied { reference, registry },
            source => PullError::Registry { registry, source },
        }
    }

    async fn retry(&self, path: &str) -> Result<Response, RegistryError> {
        let mut tries = 1;
        loop {
            match self.get(path, 0).await {
                Err(error) if error.is_passing() && tries < TRIES_MAX => {
                    back_off(tries).await;
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    /// One request with what follows from it: authorisation, redirects.
    async fn get(&self, path: &str, from: u64) -> Result<Response, RegistryError> {
        let path = format!("v2/{}/{path}", self.reference.repository());
        let url = self.endpoint.base.join(&path).map_err(|_| RegistryError::Protocol {
            what: "invalid address",
        })?;
        let known = self.authorization.lock().await.clone();
        let answer = self.follow(url.clone(), known, from).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return check(answer).await;
        }
        let headers = answer
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let Some(challenge) = headers.filter_map(Challenge::parse).next() else {
            return check(answer).await;
        };
        let Some(authorization) = self.authorize(challenge).await? else {
            return check(answer).await;
        };
        *self.authorization.lock().await = Some(authorization.clone());
        check(self.follow(url, Some(authorization), from).await?).await
    }

    /// Follows redirects; the authorisation goes to the registry's own origin alone.
    async fn follow(
        &self,
        mut url: Url,
        authorization: Option<HeaderValue>,
        from: u64,
    ) -> Result<Response, RegistryError> {
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.endpoint.client.get(url.clone());
            for media_type in [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, "*/*"] {
                request = request.header(ACCEPT, media_type);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(value) = authorization
                .clone()
                .filter(|_| url.origin() == self.endpoint.base.origin())
            {
                request = request.header(AUTHORIZATION, value);
            }
            let answer = request.send().await.map_err(connection_error)?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let target = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = target.and_then(|target| url.join(target).ok());
            let next = next.ok_or(RegistryError::Protocol {
                what: "redirect without a valid address",
            })?;
            if next.scheme() != "https" && (url.scheme() == "https" || next.scheme() != "http") {
                return Err(RegistryError::Redirect { host: host(&next) });
            }
            url = next;
        }
        Err(RegistryError::Redirect { host: host(&url) })
    }

    /// The header that answers a challenge, or `None` if we have nothing to say.
    async fn authorize(&self, challenge: Challenge) -> Result<Option<HeaderValue>, RegistryError> {
        match (challenge, &self.secret) {
            (Challenge::Basic, Some(Secret::Password { username, password })) => Ok(Some(basic(username, password)?)),
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service, scope }, secret) => {
                let realm = Url::parse(&realm).map_err(|_| RegistryError::Protocol {
                    what: "invalid token realm",
                })?;
                self.check_realm(&realm)?;
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository()));
                let service = service.unwrap_or_default();
                let token = self
                    .token(token_request(&self.endpoint, realm, &service, &scope, secret.as_ref())?)
                    .await?;
                let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| RegistryError::Protocol { what: "invalid token" })?;
                value.set_sensitive(true);
                Ok(Some(value))
            }
        }
    }

    /// A token service must be as private as the registry; credentials go to one of the same domain alone.
    fn check_realm(&self, realm: &Url) -> Result<(), RegistryError> {
        let base = &self.endpoint.base;
        if realm.scheme() != "https" && realm.scheme() != base.scheme() {
            return Err(RegistryError::Redirect { host: host(realm) });
        }
        if self.secret.is_some() && !same_domain(&host(realm), &host(base)) {
            return Err(RegistryError::ForeignRealm { realm: host(realm) });
        }
        Ok(())
    }

    async fn token(&self, request: RequestBuilder) -> Result<String, RegistryError> {
        let mut answer = check(request.send().await.map_err(connection_error)?).await?;
        let bytes = read_bounded(&mut answer, TOKEN_BYTES_MAX).await?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| RegistryError::Protocol {
            what: "malformed token",
        })?;
        token.token.or(token.access_token).ok_or(RegistryError::Protocol {
            what: "answer without a token",
        })
    }
}

fn token_request(
    endpoint: &Endpoint,
    realm: Url,
    service: &str,
    scope: &str,
    secret: Option<&Secret>,
) -> Result<RequestBuilder, RegistryError> {
    let query = [("service", service), ("scope", scope)];
    Ok(match secret {
        None => endpoint.client.get(realm).query(&query),
        Some(Secret::Password { username, password }) => endpoint
            .client
            .get(realm)
            .query(&query)
            .header(AUTHORIZATION, basic(username, password)?),
        Some(Secret::Identity(token)) => {
            let mut form = realm.clone();
            let fields = [
                ("grant_type", "refresh_token"),
                ("client_id", "capsid"),
                ("refresh_token", token),
            ];
            form.query_pairs_mut().clear().extend_pairs(fields).extend_pairs(query);
            let body = form.query().unwrap_or_default().to_owned();
            endpoint
                .client
                .post(realm)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body)
        }
    })
}

fn basic(username: &str, password: &str) -> Result<HeaderValue, RegistryError> {
    let text = STANDARD.encode(format!("{username}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {text}")).map_err(|_| RegistryError::Protocol {
        what: "invalid credentials",
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Passes a good answer; makes an error of any other, with the registry's words.
async fn check(mut answer: Response) -> Result<Response, RegistryError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status().as_u16();
    let body = read_bounded(&mut answer, 64 << 10).await.unwrap_or_default();
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Message>,
    }
    #[derive(Deserialize)]
    struct Message {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let first = serde_json::from_slice::<Errors>(&body)
        .ok()
        .and_then(|errors| errors.errors.into_iter().next());
    let text = first
        .map(|first| format!("{} {}", first.code, first.message))
        .unwrap_or_default();
    Err(RegistryError::Status {
        status,
        text: printable(text.trim().as_bytes(), REGISTRY_TEXT_BYTES_MAX),
    })
}

async fn read_bounded(answer: &mut Response, bytes_max: u64) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(connection_error)? {
        if (bytes.len() + chunk.len()) as u64 > bytes_max {
            return Err(RegistryError::TooLong { bytes_max });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Waits longer each time: 0.5 s, 1 s, 2 s, ...
pub(super) async fn back_off(tries: u32) {
    sleep(Duration::from_millis(250) * 2u32.pow(tries.min(6))).await;
}

fn host(url: &Url) -> String {
    printable(url.host_str().unwrap_or_default().as_bytes(), 255)
}

/// The same host, or hosts under one registered domain, as auth.docker.io and registry-1.docker.io.
fn same_domain(one: &str, other: &str) -> bool {
    let tail = |host: &str| -> Option<String> {
        let labels: Vec<&str> = host.rsplit('.').take(2).collect();
        let numeric = labels
            .first()
            .is_none_or(|last| last.ends_with(']') || last.bytes().all(|b| b.is_ascii_digit()));
        (labels.len() == 2 && !numeric).then(|| labels.join("."))
    };
    one == other || tail(one).is_some_and(|domain| tail(other) == Some(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_in_their_domain() {
        assert!(same_domain("auth.docker.io", "registry-1.docker.io"));
        assert!(same_domain("localhost", "localhost"));
        assert!(same_domain("127.0.0.1", "127.0.0.1"));
        assert!(!same_domain("evil.example", "registry.example.org"));
        assert!(!same_domain("10.1.0.1", "10.9.0.1"));
        assert!(!same_domain("localhost", "evil.localhost.example"));
    }
}

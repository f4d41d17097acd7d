//! Requests to one repository of a registry: authorization, redirects, bounded answers.

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Duration, sleep};

use super::challenge::Challenge;
use super::credentials::{Secret, look_up};
use super::endpoint::{Endpoint, connection_error};
use super::realm::{RealmPolicy, origin};
use super::token::{TokenRequest, basic};
use super::{PullError, PullOptions, RegistryError};
use crate::digest::Digest;
use crate::limits::{MANIFEST_BYTES_MAX, REDIRECTS_MAX, REGISTRY_ERROR_BYTES_MAX, REGISTRY_TEXT_BYTES_MAX, TRIES_MAX};
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, OCI_INDEX, OCI_MANIFEST};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::text::printable;

pub(super) struct Registry {
    endpoint: Endpoint,
    reference: Reference,
    secret: Option<Secret>,
    realms: RealmPolicy,
    /// Value of `Authorization` that worked last.
    authorization: Mutex<Option<HeaderValue>>,
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
        let endpoint = Endpoint::find(&registry, &options.insecure_registries).await;
        let endpoint = endpoint.map_err(|source| PullError::Registry {
            registry: registry.clone(),
            source,
        })?;
        let realms = RealmPolicy {
            base: endpoint.base.clone(),
            is_verified: endpoint.is_verified,
            named: options.token_realms.get(&registry).cloned().unwrap_or_default(),
            registry,
        };
        Ok(Self {
            endpoint,
            reference: reference.clone(),
            secret,
            realms,
            authorization: Mutex::new(None),
        })
    }

    /// Fetches the manifest or index at a tag or digest, and the media type that the registry gives it.
    pub(super) async fn manifest(&self, version: &str) -> Result<(Vec<u8>, Option<String>), PullError> {
        let path = format!("manifests/{version}");
        let mut answer = self.retry(&path).await.map_err(|error| self.explain(error))?;
        let media_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(|text| text.split(';').next().unwrap_or(text).trim().to_owned());
        // Some registries serve every manifest as JSON; the document's own media type then decides.
        let media_type = media_type.filter(|text| text.starts_with("application/vnd."));
        let bytes = read_bounded(&mut answer, MANIFEST_BYTES_MAX)
            .await
            .map_err(|error| self.explain(error))?;
        Ok((bytes, media_type))
    }

    /// Fetches a blob that fits in memory: the config.
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

    /// Requests a blob from byte `from` on. The answer may begin earlier, at the blob's first byte: status 200 instead
    /// of 206.
    pub(super) async fn blob(&self, digest: Digest, from: u64) -> Result<Response, RegistryError> {
        self.get(&format!("blobs/{digest}"), from).await
    }

    /// Converts an error of a registry to an error of the pull.
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

    /// Sends one request, and follows challenges and redirects. Only a challenge of the registry's own origin is
    /// answered.
    async fn get(&self, path: &str, from: u64) -> Result<Response, RegistryError> {
        let path = format!("v2/{}/{path}", self.reference.repository());
        let url = self.endpoint.base.join(&path).map_err(|_| RegistryError::Protocol {
            what: "invalid address",
        })?;
        let known = self.authorization.lock().await.clone();
        let answer = match self.follow(url.clone(), known, from).await? {
            Answer::Foreign(answer) => return check(answer).await,
            Answer::Own(answer) if answer.status() != StatusCode::UNAUTHORIZED => return check(answer).await,
            Answer::Own(answer) => answer,
        };
        let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter();
        let mut challenges = headers.filter_map(|value| Challenge::parse(value.to_str().ok()?));
        let Some(challenge) = challenges.next() else {
            return check(answer).await;
        };
        let Some(authorization) = self.authorize(challenge).await? else {
            return check(answer).await;
        };
        *self.authorization.lock().await = Some(authorization.clone());
        match self.follow(url, Some(authorization), from).await? {
            Answer::Own(answer) | Answer::Foreign(answer) => check(answer).await,
        }
    }

    /// Follows redirects. The authorization is sent to the registry's own origin alone, and not even there after a
    /// redirect has led away: the host in between would choose the request that is made in the user's name.
    async fn follow(
        &self,
        mut url: Url,
        authorization: Option<HeaderValue>,
        from: u64,
    ) -> Result<Answer, RegistryError> {
        let mut is_own = true;
        for _ in 0..=REDIRECTS_MAX {
            let client = if is_own {
                self.endpoint.own()
            } else {
                self.endpoint.foreign(&url).await?
            };
            let request = request(client, &url, from);
            let request = match &authorization {
                Some(value) if is_own => request.header(AUTHORIZATION, value),
                _ => request,
            };
            let answer = request.send().await.map_err(connection_error)?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return classify(answer, is_own);
            }
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = redirect_target(&url, location)?;
            if !is_own {
                self.endpoint.leads_on(&url);
            }
            is_own = is_own && next.origin() == self.endpoint.base.origin();
            url = next;
        }
        Err(RegistryError::Redirects { target: shown(&url) })
    }

    /// Creates the header that answers a challenge; `None` if there is no answer.
    async fn authorize(&self, challenge: Challenge) -> Result<Option<HeaderValue>, RegistryError> {
        match (challenge, &self.secret) {
            (Challenge::Basic, Some(Secret::Password { username, password })) => Ok(Some(basic(username, password)?)),
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service, scope }, secret) => {
                let realm = self.realms.admit(&realm)?;
                let client = self.endpoint.token_client(&realm).await?;
                let request = TokenRequest {
                    realm: realm.url,
                    service: service.unwrap_or_default(),
                    scope: scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository())),
                };
                Ok(Some(request.send(&client, secret.as_ref()).await?))
            }
        }
    }
}

/// Final answer after all redirects.
enum Answer {
    /// Answer of the registry's own origin, which no redirect has left.
    Own(Response),
    /// Answer of any other host.
    Foreign(Response),
}

/// Classifies an answer. A foreign host that asks for authorization is an error: it gets none.
fn classify(answer: Response, is_own: bool) -> Result<Answer, RegistryError> {
    if is_own {
        return Ok(Answer::Own(answer));
    }
    if answer.status() == StatusCode::UNAUTHORIZED {
        return Err(RegistryError::ForeignChallenge {
            origin: origin(answer.url()),
        });
    }
    Ok(Answer::Foreign(answer))
}

fn request(client: &Client, url: &Url, from: u64) -> RequestBuilder {
    let mut request = client.get(url.clone());
    for media_type in [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, "*/*"] {
        request = request.header(ACCEPT, media_type);
    }
    if from > 0 {
        request = request.header(RANGE, format!("bytes={from}-"));
    }
    request
}

/// Target of a redirect: by TLS if the redirect came by TLS, and without credentials in the address, which the client
/// would send.
fn redirect_target(url: &Url, location: Option<&str>) -> Result<Url, RegistryError> {
    let next = location.and_then(|location| url.join(location).ok());
    let next = next.ok_or(RegistryError::Protocol {
        what: "redirect without a valid address",
    })?;
    let is_private = next.scheme() == "https" || (next.scheme() == "http" && url.scheme() == "http");
    let refused = |reason| {
        Err(RegistryError::Redirect {
            target: shown(&next),
            reason,
        })
    };
    if !is_private {
        return refused("the registry is reached by TLS, and a redirect must not lead away from it");
    }
    if !next.username().is_empty() || next.password().is_some() {
        return refused("there are credentials in its address");
    }
    Ok(next)
}

/// Returns a successful answer; converts any other to an error, with the registry's message.
pub(super) async fn check(mut answer: Response) -> Result<Response, RegistryError> {
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status().as_u16();
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = printable(retry_after.unwrap_or_default().trim().as_bytes(), 64);
    let body = read_bounded(&mut answer, REGISTRY_ERROR_BYTES_MAX)
        .await
        .unwrap_or_default();
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
    let text = printable(text.trim().as_bytes(), REGISTRY_TEXT_BYTES_MAX);
    Err(match (status, retry_after.parse()) {
        (429, Ok(seconds)) => RegistryError::TooManyRequests {
            seconds: Some(seconds),
            date: String::new(),
            text,
        },
        (429, Err(_)) => RegistryError::TooManyRequests {
            seconds: None,
            date: retry_after,
            text,
        },
        _ => RegistryError::Status { status, text },
    })
}

pub(super) async fn read_bounded(answer: &mut Response, bytes_max: u64) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(connection_error)? {
        if (bytes.len() + chunk.len()) as u64 > bytes_max {
            return Err(RegistryError::TooLong { bytes_max });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Waits before another attempt, longer each time: 0.5 s, 1 s, 2 s, ...
pub(super) async fn back_off(tries: u32) {
    sleep(Duration::from_millis(250) * 2u32.pow(tries.min(6))).await;
}

/// Printable address without credentials and query, which may hold a signature.
fn shown(url: &Url) -> String {
    format!("{}{}", origin(url), printable(url.path().as_bytes(), 255))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_redirect_names_its_target() {
        let from = "https://registry.example/v2/a".parse().unwrap();
        let refusal = |location| redirect_target(&from, Some(location)).unwrap_err().to_string();
        let plain = refusal("http://cdn.example:81/b?signature=secret");
        assert!(
            plain.starts_with("refused redirect to http://cdn.example:81/b: "),
            "{plain}"
        );
        let named = refusal("https://user:word@cdn.example/b");
        assert_eq!(
            named,
            "refused redirect to https://cdn.example/b: there are credentials in its address"
        );
    }

    #[test]
    fn redirects_stay_private_and_bring_no_credentials() {
        let target = |from: &str, location| {
            let target = redirect_target(&from.parse().unwrap(), location);
            target.map(|url| url.to_string()).ok()
        };
        let https = "https://registry.example/v2/a";
        let http = "http://registry.example/v2/a";
        for (from, location, wanted) in [
            (https, Some("/b"), Some("https://registry.example/b")),
            (https, Some("//cdn.example/b"), Some("https://cdn.example/b")),
            (https, Some("https://cdn.example/b"), Some("https://cdn.example/b")),
            (https, Some("http://registry.example/b"), None),
            (https, Some("HTTP://cdn.example/b"), None),
            (https, Some("ftp://cdn.example/b"), None),
            (https, Some("file:///etc/passwd"), None),
            (https, Some("https://user:word@cdn.example/"), None),
            (https, Some("https://registry.example@cdn.example/"), None),
            (https, Some("https://"), None),
            (https, None, None),
            (http, Some("http://cdn.example/b"), Some("http://cdn.example/b")),
            (http, Some("https://cdn.example/b"), Some("https://cdn.example/b")),
            (http, Some("ftp://cdn.example/b"), None),
        ] {
            assert_eq!(target(from, location).as_deref(), wanted, "{from} {location:?}");
        }
    }
}

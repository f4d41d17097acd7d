//! Tokens that a registry's token service issues, with or without credentials (docker's token specification).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use tokio::time::Duration;

use super::RegistryError;
use super::credentials::Secret;
use super::endpoint::connection_error;
use super::registry::{check, read_bounded};
use crate::limits::{TOKEN_BYTES_MAX, TOKEN_SECONDS_MAX};

/// Request to a token service that may be asked.
pub(super) struct TokenRequest {
    pub realm: Url,
    pub service: String,
    pub scope: String,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl TokenRequest {
    /// Exchanges a secret, or none, for a token: the value of `Authorization` for the registry. Redirects are not
    /// followed.
    pub(super) async fn send(self, client: &Client, secret: Option<&Secret>) -> Result<HeaderValue, RegistryError> {
        let request = self
            .build(client, secret)?
            .timeout(Duration::from_secs(TOKEN_SECONDS_MAX));
        let answer = request.send().await.map_err(connection_error)?;
        if answer.status().is_redirection() {
            return Err(RegistryError::Protocol {
                what: "the token service redirects, which is not followed",
            });
        }
        let mut answer = check(answer).await?;
        let bytes = read_bounded(&mut answer, TOKEN_BYTES_MAX).await?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| RegistryError::Protocol {
            what: "malformed token",
        })?;
        let token = token.token.or(token.access_token).ok_or(RegistryError::Protocol {
            what: "answer without a token",
        })?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| RegistryError::Protocol { what: "invalid token" })?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn build(self, client: &Client, secret: Option<&Secret>) -> Result<RequestBuilder, RegistryError> {
        let query = [("service", self.service.as_str()), ("scope", self.scope.as_str())];
        Ok(match secret {
            None => client.get(self.realm).query(&query),
            Some(Secret::Password { username, password }) => client
                .get(self.realm)
                .query(&query)
                .header(AUTHORIZATION, basic(username, password)?),
            Some(Secret::Identity(token)) => {
                let mut form = self.realm.clone();
                let fields = [
                    ("grant_type", "refresh_token"),
                    ("client_id", "capsid"),
                    ("refresh_token", token),
                ];
                form.query_pairs_mut().clear().extend_pairs(fields).extend_pairs(query);
                let body = form.query().unwrap_or_default().to_owned();
                client
                    .post(self.realm)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(body)
            }
        })
    }
}

/// Value of `Authorization` for a user and a password.
pub(super) fn basic(username: &str, password: &str) -> Result<HeaderValue, RegistryError> {
    let text = STANDARD.encode(format!("{username}:{password}"));
    let mut value = HeaderValue::from_str(&format!("Basic {text}")).map_err(|_| RegistryError::Protocol {
        what: "invalid credentials",
    })?;
    value.set_sensitive(true);
    Ok(value)
}

//! Credentials for registries.

use std::fmt;

use super::docker_config::DockerConfig;
use super::{CredentialsError, helper};
use crate::progress::{Progress, Warning};

/// Source of the credentials for a registry.
#[derive(Clone)]
pub enum Credentials {
    /// `$DOCKER_CONFIG/config.json` or `~/.docker/config.json` and the helpers that it names; without an entry, no
    /// credentials.
    DockerConfig,
    /// No credentials.
    Anonymous,
    /// A given user name and password.
    Basic {
        /// Name of the user.
        username: String,
        /// Password or access token.
        password: String,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DockerConfig => "DockerConfig",
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(..)",
        })
    }
}

/// Secret that is sent to a registry or its token service.
#[derive(Clone)]
pub(super) enum Secret {
    Password {
        username: String,
        password: String,
    },
    /// OAuth refresh token.
    Identity(String),
}

/// Key of docker's own registry in docker's config.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Looks up the secret for a registry, in docker's order: a helper before the file.
pub(super) async fn look_up(
    credentials: &Credentials,
    registry: &str,
    progress: &dyn Progress,
) -> Result<Option<Secret>, CredentialsError> {
    let server = if registry == "docker.io" { DOCKER_HUB } else { registry };
    match credentials {
        Credentials::Anonymous => Ok(None),
        Credentials::Basic { username, password } => Ok(Some(Secret::Password {
            username: username.clone(),
            password: password.clone(),
        })),
        Credentials::DockerConfig => {
            let config = DockerConfig::read()?;
            if config.is_exposed() {
                progress.warn(&Warning::ReadableCredentials {
                    path: config.path().to_owned(),
                });
            }
            if let Some(name) = config.helper(server)
                && let Some(secret) = helper::ask(name, server, config.path()).await?
            {
                return Ok(Some(secret));
            }
            config.secret(server)
        }
    }
}

//! Who we are to a registry: docker's `config.json` and its credential helpers.

use std::fmt;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential};

use crate::text::printable;

/// Where credentials come from.
#[derive(Clone)]
pub enum Credentials {
    /// `$DOCKER_CONFIG/config.json` or `~/.docker/config.json` and the helpers it names; none there means anonymous.
    DockerConfig,
    /// None.
    Anonymous,
    /// These.
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

/// What is sent.
#[derive(Clone)]
pub(super) enum Secret {
    Password {
        username: String,
        password: String,
    },
    /// An OAuth refresh token.
    Identity(String),
}

/// The key of docker's own registry in its config.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Looks a registry up. Blocks: a helper is a program. The error text is free of what the helper printed.
pub(super) fn look_up(credentials: &Credentials, registry: &str) -> Result<Option<Secret>, String> {
    let server = if registry == "docker.io" { DOCKER_HUB } else { registry };
    match credentials {
        Credentials::Anonymous => Ok(None),
        Credentials::Basic { username, password } => Ok(Some(Secret::Password {
            username: username.clone(),
            password: password.clone(),
        })),
        Credentials::DockerConfig => match get_credential(server) {
            Ok(DockerCredential::UsernamePassword(username, password)) => {
                Ok(Some(Secret::Password { username, password }))
            }
            Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Secret::Identity(token))),
            Err(error) => none_or_reason(&error),
        },
    }
}

fn none_or_reason(error: &CredentialRetrievalError) -> Result<Option<Secret>, String> {
    match error {
        CredentialRetrievalError::NoCredentialConfigured
        | CredentialRetrievalError::ConfigNotFound
        | CredentialRetrievalError::ConfigReadError => Ok(None),
        // The words of every helper of docker's library when it has none.
        CredentialRetrievalError::HelperFailure { stdout, .. } if stdout.contains("credentials not found") => Ok(None),
        CredentialRetrievalError::HelperFailure { helper, .. } => {
            Err(format!("{} failed", printable(helper.as_bytes(), 80)))
        }
        CredentialRetrievalError::HelperCommunicationError => Err("the credential helper cannot be started".into()),
        CredentialRetrievalError::MalformedHelperResponse => Err("the credential helper gave no valid answer".into()),
        CredentialRetrievalError::CredentialDecodingError | CredentialRetrievalError::CredentialMismatchError => {
            Err("config.json holds an entry that cannot be decoded".into())
        }
    }
}

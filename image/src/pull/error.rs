//! Errors of pulling an image. No text here ever holds a credential, a token or the query of an address.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::config::ConfigError;
use crate::digest::Digest;
use crate::limits::{
    HELPER_BYTES_MAX, HELPER_SECONDS_MAX, INDEX_DEPTH_MAX, NO_PROGRESS_SECONDS, REDIRECTS_MAX, RETRY_SECONDS_MAX,
};
use crate::manifest::ManifestError;
use crate::store::{AddLayerError, CommitImageError};

/// Reason why an image was not pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The registry has no such image.
    #[error("no such image: {reference}: not found in registry {registry}")]
    NotFound {
        /// Reference of the image.
        reference: String,
        /// Name of the registry.
        registry: String,
    },
    /// The registry denies access, which many registries also answer for images that do not exist.
    #[error("pull access denied for {reference}: it does not exist or needs a login at {registry}")]
    Denied {
        /// Reference of the image.
        reference: String,
        /// Name of the registry.
        registry: String,
    },
    /// The registry cannot be used.
    #[error("cannot use registry {registry}")]
    Registry {
        /// Name of the registry.
        registry: String,
        /// Cause of the error.
        #[source]
        source: RegistryError,
    },
    /// Docker's config or a credential helper failed.
    #[error("cannot get credentials for {registry}")]
    Credentials {
        /// Name of the registry.
        registry: String,
        /// Cause of the error.
        #[source]
        source: CredentialsError,
    },
    /// Some content does not have the expected digest.
    #[error("{what} has wrong content: its digest is {found} instead of {wanted}")]
    Digest {
        /// Kind of the document.
        what: &'static str,
        /// Digest that was requested.
        wanted: Digest,
        /// Digest of the received content.
        found: Digest,
    },
    /// An index is nested more deeply than the limit.
    #[error("image index is nested deeper than {INDEX_DEPTH_MAX}")]
    TooDeep,
    /// A document does not have the size in its descriptor.
    #[error("{what} {digest} has the wrong size: {found} bytes instead of {wanted}")]
    Size {
        /// Kind of the document: manifest or config.
        what: &'static str,
        /// Digest of the document.
        digest: Digest,
        /// Size in the descriptor, bytes.
        wanted: u64,
        /// Size of the received document, bytes.
        found: u64,
    },
    /// Config and manifest name different numbers of layers.
    #[error("image manifest has {manifest} layers, its config {config}")]
    LayerCount {
        /// Number of layers in the manifest.
        manifest: usize,
        /// Number of layers in the config.
        config: usize,
    },
    /// A manifest or index is refused, or has no image for the platform.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A config is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer was not stored.
    #[error(transparent)]
    Layer(#[from] AddLayerError),
    /// The image as a whole was not stored.
    #[error(transparent)]
    Commit(#[from] CommitImageError),
    /// The user cancelled the operation.
    #[error("cancelled")]
    Cancelled,
    /// The runtime is shutting down.
    #[error("the pull was interrupted")]
    Aborted,
}

/// Reason why the credentials for a registry cannot be determined. No text here quotes a file or a helper.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// Docker's config exists but cannot be read.
    #[error("cannot read {}", path.display())]
    ReadConfig {
        /// Path of the config file.
        path: PathBuf,
        /// Cause of the error.
        #[source]
        source: io::Error,
    },
    /// Docker's config is not as docker writes it.
    #[error("{} is not docker's config: line {line} is wrong", path.display())]
    ParseConfig {
        /// Path of the config file.
        path: PathBuf,
        /// Line of the error.
        line: usize,
    },
    /// The registry's entry in docker's config is not a user and a password.
    #[error("the entry in {} cannot be decoded", path.display())]
    DecodeConfig {
        /// Path of the config file.
        path: PathBuf,
    },
    /// A credential helper cannot be started, or breaks off.
    #[error("cannot use the credential helper {helper}")]
    StartHelper {
        /// Name of the program.
        helper: String,
        /// Cause of the error.
        #[source]
        source: io::Error,
    },
    /// A credential helper failed.
    #[error("the credential helper {helper} failed ({status})")]
    HelperFailed {
        /// Name of the program.
        helper: String,
        /// Exit status of the helper.
        status: ExitStatus,
    },
    /// The name of a credential helper could lead to any program.
    #[error("invalid name of a credential helper in {}: {name:?}; use letters, digits, '.', '_' and '-'", path.display())]
    HelperName {
        /// Path of docker's config.
        path: PathBuf,
        /// Name of the helper.
        name: String,
    },
    /// A credential helper wrote too much output.
    #[error("the credential helper {helper} wrote more than {HELPER_BYTES_MAX} bytes")]
    HelperTooLong {
        /// Name of the program.
        helper: String,
    },
    /// A credential helper answered with something other than credentials.
    #[error("the credential helper {helper} gave no valid answer")]
    HelperAnswer {
        /// Name of the program.
        helper: String,
    },
    /// A credential helper did not end in time.
    #[error("the credential helper {helper} did not answer within {HELPER_SECONDS_MAX} s")]
    HelperSilent {
        /// Name of the program.
        helper: String,
    },
}

/// Error in the communication with a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The connection failed or broke.
    #[error("connection failed: {reason}")]
    Connection {
        /// Message of the HTTP client.
        reason: String,
    },
    /// Nothing arrived for too long.
    #[error("no data for {NO_PROGRESS_SECONDS} s")]
    Stalled,
    /// The answer has an error status.
    #[error("status {status}{}", colon(text))]
    Status {
        /// HTTP status.
        status: u16,
        /// Message of the registry, printable.
        text: String,
    },
    /// The registry wants fewer requests.
    #[error("too many requests (status 429): try again {}{}", when(*seconds, date), colon(text))]
    TooManyRequests {
        /// Delay before the next attempt, if the registry gives one, seconds.
        seconds: Option<u64>,
        /// Time of the next attempt, printable, if the registry gives that.
        date: String,
        /// Message of the registry, printable.
        text: String,
    },
    /// A server does not use TLS where TLS is expected.
    #[error(
        "{address} speaks plain HTTP where TLS is expected: if that is right, name the registry under insecure_registries in \
         config.toml, or with --insecure-registry"
    )]
    PlainHttp {
        /// Host and port.
        address: String,
    },
    /// An answer exceeds its limit.
    #[error("answer is longer than {bytes_max} bytes")]
    TooLong {
        /// Limit on the answer, bytes.
        bytes_max: u64,
    },
    /// A redirect is not followed.
    #[error("refused redirect to {target}: {reason}")]
    Redirect {
        /// Target of the redirect, without credentials and query.
        target: String,
        /// Reason of the refusal.
        reason: &'static str,
    },
    /// The redirects exceed their limit.
    #[error("refused redirect to {target}: it is one of more than {REDIRECTS_MAX}")]
    Redirects {
        /// Target of the redirect, without credentials and query.
        target: String,
    },
    /// An answer violates the protocol.
    #[error("unexpected answer: {what}")]
    Protocol {
        /// Description of the error.
        what: &'static str,
    },
    /// The token service is of another origin, and the user did not name it.
    #[error(
        "{registry} sends its users to the token service {realm}, which is not its own; if that is right, put token_realms = \
         [\"{host}\"] under [registries.\"{registry}\"] into config.toml"
    )]
    ForeignRealm {
        /// Origin of the token service.
        realm: String,
        /// Registry whose credentials it would get.
        registry: String,
        /// Token service as the configuration would name it.
        host: String,
    },
    /// The token service does not use TLS, but its registry does.
    #[error("refused to ask the token service {realm}: the registry is reached by TLS and it is not")]
    PlainRealm {
        /// Origin of the token service.
        realm: String,
    },
    /// A host that the registry redirected to asks for credentials, which it must not see.
    #[error("the registry redirected to {origin}, which asks for a login; credentials go to the registry itself alone")]
    ForeignChallenge {
        /// Origin of the host that asked.
        origin: String,
    },
    /// A registry outside named an address of this host or of a private network.
    #[error(
        "refused to connect to {address}: a registry may not lead to this host or to private networks from outside"
    )]
    ForbiddenAddress {
        /// Origin that was named.
        address: String,
    },
    /// A certificate file for this registry cannot be read.
    #[error("cannot use the certificate file {path}")]
    Certificate {
        /// Path of the certificate file.
        path: String,
    },
}

fn colon(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

fn when(seconds: Option<u64>, date: &str) -> String {
    match seconds {
        Some(seconds) => format!("in {seconds} s"),
        None if date.is_empty() => "later".into(),
        None => format!("after {date}"),
    }
}

impl RegistryError {
    /// Whether another attempt may help.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Stalled => true,
            Self::TooManyRequests { seconds, date, .. } => {
                date.is_empty() && seconds.is_none_or(|seconds| seconds <= RETRY_SECONDS_MAX)
            }
            Self::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }
}

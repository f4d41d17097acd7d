//! Why an image was not pulled. No text here ever holds a credential, a token or the query of an address.

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

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The registry has no such image.
    #[error("no such image: {reference}: not found in registry {registry}")]
    NotFound {
        /// What was asked for.
        reference: String,
        /// Whom.
        registry: String,
    },
    /// The registry denies access, which is also what many say of images that do not exist.
    #[error("pull access denied for {reference}: it does not exist or needs a login at {registry}")]
    Denied {
        /// What was asked for.
        reference: String,
        /// Whom.
        registry: String,
    },
    /// The registry cannot be talked to.
    #[error("cannot use registry {registry}")]
    Registry {
        /// Which.
        registry: String,
        /// Cause.
        #[source]
        source: RegistryError,
    },
    /// Docker's config or a credential helper failed.
    #[error("cannot get credentials for {registry}")]
    Credentials {
        /// For which registry.
        registry: String,
        /// Cause.
        #[source]
        source: CredentialsError,
    },
    /// Content that is not what its digest says.
    #[error("{what} has wrong content: its digest is {found} instead of {wanted}")]
    Digest {
        /// Which document.
        what: &'static str,
        /// What was asked for.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// Over the limit on nesting.
    #[error("image index is nested deeper than {INDEX_DEPTH_MAX}")]
    TooDeep,
    /// A document whose descriptor gives another size.
    #[error("{what} {digest} has the wrong size: {found} bytes instead of {wanted}")]
    Size {
        /// Manifest or config.
        what: &'static str,
        /// Which.
        digest: Digest,
        /// What its descriptor says.
        wanted: u64,
        /// What came.
        found: u64,
    },
    /// Config and manifest name different numbers of layers.
    #[error("image manifest has {manifest} layers, its config {config}")]
    LayerCount {
        /// Of the manifest.
        manifest: usize,
        /// Of the config.
        config: usize,
    },
    /// A manifest or index, or no image for the platform.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A layer.
    #[error(transparent)]
    Layer(#[from] AddLayerError),
    /// The image as a whole.
    #[error(transparent)]
    Commit(#[from] CommitImageError),
    /// The user wanted no more of it.
    #[error("cancelled")]
    Cancelled,
    /// The runtime is shutting down.
    #[error("the pull was interrupted")]
    Aborted,
}

/// Why it is not known who we are to a registry. No text here quotes a file or a helper.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// Docker's config is there and cannot be read.
    #[error("cannot read {}", path.display())]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// It is not what docker writes.
    #[error("{} is not docker's config: line {line} is wrong", path.display())]
    ParseConfig {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
    },
    /// Its entry for the registry is no user and password.
    #[error("the entry in {} cannot be decoded", path.display())]
    DecodeConfig {
        /// The file.
        path: PathBuf,
    },
    /// A credential helper does not start or breaks off.
    #[error("cannot use the credential helper {helper}")]
    StartHelper {
        /// Which program.
        helper: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A credential helper failed.
    #[error("the credential helper {helper} failed ({status})")]
    HelperFailed {
        /// Which program.
        helper: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The name of a credential helper could lead to any program.
    #[error("invalid name of a credential helper in {}: {name:?}; use letters, digits, '.', '_' and '-'", path.display())]
    HelperName {
        /// Docker's config.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A credential helper did not stop talking.
    #[error("the credential helper {helper} wrote more than {HELPER_BYTES_MAX} bytes")]
    HelperTooLong {
        /// Which program.
        helper: String,
    },
    /// A credential helper said something else than credentials.
    #[error("the credential helper {helper} gave no valid answer")]
    HelperAnswer {
        /// Which program.
        helper: String,
    },
    /// A credential helper did not end.
    #[error("the credential helper {helper} did not answer within {HELPER_SECONDS_MAX} s")]
    HelperSilent {
        /// Which program.
        helper: String,
    },
}

/// What went wrong between us and a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No connection, or a broken one.
    #[error("connection failed: {reason}")]
    Connection {
        /// In the words of the HTTP client.
        reason: String,
    },
    /// Nothing arrived for too long.
    #[error("no data for {NO_PROGRESS_SECONDS} s")]
    Stalled,
    /// An answer that is an error.
    #[error("status {status}{}", colon(text))]
    Status {
        /// HTTP status.
        status: u16,
        /// The registry's words, printable.
        text: String,
    },
    /// The registry wants fewer requests.
    #[error("too many requests (status 429): try again {}{}", when(*seconds, date), colon(text))]
    TooManyRequests {
        /// After how long, if it says.
        seconds: Option<u64>,
        /// At what time, printable, if it says that.
        date: String,
        /// The registry's words, printable.
        text: String,
    },
    /// A server without TLS where TLS is expected.
    #[error(
        "{address} speaks plain HTTP where TLS is expected: if that is right, name the registry under insecure_registries in \
         config.toml, or with --insecure-registry"
    )]
    PlainHttp {
        /// Host and port.
        address: String,
    },
    /// An answer over its limit.
    #[error("answer is longer than {bytes_max} bytes")]
    TooLong {
        /// The limit.
        bytes_max: u64,
    },
    /// A redirect that is not followed.
    #[error("refused redirect to {target}: {reason}")]
    Redirect {
        /// Target, without credentials and query.
        target: String,
        /// Why.
        reason: &'static str,
    },
    /// More redirects than the limit.
    #[error("refused redirect to {target}: it is one of more than {REDIRECTS_MAX}")]
    Redirects {
        /// Target, without credentials and query.
        target: String,
    },
    /// An answer that makes no sense.
    #[error("unexpected answer: {what}")]
    Protocol {
        /// What is wrong.
        what: &'static str,
    },
    /// A token service of another origin, which the user did not name.
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
    /// A token service without TLS, of a registry that has it.
    #[error("refused to ask the token service {realm}: the registry is reached by TLS and it is not")]
    PlainRealm {
        /// Origin of the token service.
        realm: String,
    },
    /// A host that the registry redirected to asks for credentials, which it must not see.
    #[error("the registry redirected to {origin}, which asks for a login; credentials go to the registry itself alone")]
    ForeignChallenge {
        /// Who asked.
        origin: String,
    },
    /// An address of this host or of a private network, named by a registry outside of it.
    #[error(
        "refused to connect to {address}: a registry may not lead to this host or to private networks from outside"
    )]
    ForbiddenAddress {
        /// Origin that was named.
        address: String,
    },
    /// Certificates for this registry that cannot be read.
    #[error("cannot use the certificate file {path}")]
    Certificate {
        /// Which.
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
    /// Whether another try may help.
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

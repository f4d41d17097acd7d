//! Pulling images from registries (OCI distribution specification, docker's token authentication).

mod challenge;
mod credentials;
mod docker_config;
mod download;
mod endpoint;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod helper;
mod reach;
mod realm;
mod registry;
mod token;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::limits::{DOWNLOADS_AT_ONCE, INDEX_DEPTH_MAX, MANIFEST_BYTES_MAX};
use crate::manifest::{Descriptor, Document, Manifest, ManifestError, choose};
use crate::platform::Platform;
use crate::progress::{LayerState, Progress};
use crate::reference::{Reference, Version};
use crate::store::{Allowance, HeldLayer, Image, LayerName, NewImage, Store};
use registry::Registry;

pub use credentials::Credentials;
pub use error::{CredentialsError, PullError, RegistryError};
pub use realm::{ParseTokenHostError, TokenHost};

/// Options of a pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Platform that chooses the image of an index, and that a single image must have.
    pub platform: Platform,
    /// Registries (`host` or `host:port`) that may use plain HTTP, or TLS with any certificate. Loopback addresses may
    /// use plain HTTP without being named.
    pub insecure_registries: Vec<String>,
    /// Token services that may act for a registry (`host` or `host:port`), besides those of its own host and well-known
    /// ones.
    pub token_realms: BTreeMap<String, Vec<TokenHost>>,
    /// Source of the credentials.
    pub credentials: Credentials,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: Platform::host(),
            insecure_registries: Vec::new(),
            token_realms: BTreeMap::new(),
            credentials: Credentials::DockerConfig,
        }
    }
}

/// Image that was pulled.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// Image as it is stored.
    pub image: Image,
    /// Digest of the document that the registry has under the name: an index, or the manifest itself.
    pub digest: Digest,
}

/// Pulls the image that `reference` names, downloads only missing layers, and stores the image under that name.
///
/// [`Store::cancel`] ends a pull. Dropping the future stops it too, but then layers on their way are discarded by their
/// own threads, and the rest is removed when the store is opened next.
///
/// # Errors
/// [`PullError`]; nothing of the image stays.
pub async fn pull(
    store: &Store,
    reference: &Reference,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    let (alive, mut threads) = mpsc::channel(1);
    let pulled = tokio::select! {
        pulled = pull_image(store, reference, options, progress, &alive) => pulled,
        () = store.cancellation().cancelled() => Err(PullError::Cancelled),
    };
    drop(alive);
    if pulled.is_err() {
        // Threads with other layers of the image hold what they make until they notice the failure; then all of it can
        // be removed.
        let _ = timeout(THREADS_END, threads.recv()).await;
        let store = store.clone();
        let _ = spawn_blocking(move || store.forget_unfinished()).await;
    }
    pulled
}

/// Time limit for the threads of a failed pull. They end at their next read; only a thread that waits while another
/// process converts the same layer takes longer, and leaves nothing.
const THREADS_END: Duration = Duration::from_secs(10);

/// Pulls an image. A clone of `alive` is dropped when the last thread of the pull has ended; nothing is ever sent.
async fn pull_image(
    store: &Store,
    reference: &Reference,
    options: &PullOptions,
    progress: &dyn Progress,
    alive: &mpsc::Sender<()>,
) -> Result<Pulled, PullError> {
    let registry = Registry::connect(reference, options, progress).await?;
    let version = match reference.version() {
        Version::Tag(tag) => tag.clone(),
        Version::Digest(digest) => digest.to_string(),
    };
    let (bytes, media_type) = registry.manifest(&version).await?;
    let top = Digest::of(&bytes);
    if let Some(wanted) = reference.digest().filter(|wanted| *wanted != top) {
        return Err(PullError::Digest {
            what: "manifest",
            wanted,
            found: top,
        });
    }
    let (manifest, manifest_bytes) = resolve(&registry, bytes, media_type, &options.platform).await?;
    let config_bytes = config(&registry, &manifest.config).await?;
    let config = ImageConfig::parse(&config_bytes)?;
    if !options.platform.accepts(&config.platform) {
        let wanted = options.platform.clone();
        return Err(ManifestError::NoPlatform {
            wanted,
            found: vec![config.platform],
        }
        .into());
    }
    if config.diff_ids.len() != manifest.layers.len() {
        return Err(PullError::LayerCount {
            manifest: manifest.layers.len(),
            config: config.diff_ids.len(),
        });
    }
    let names = manifest.layers.iter().zip(&config.diff_ids);
    let wanted: Vec<_> = names
        .map(|(blob, diff)| {
            (
                blob,
                LayerName {
                    blob: blob.digest,
                    diff: *diff,
                },
            )
        })
        .collect();
    let held = fetch_layers(store, &registry, &wanted, progress, alive).await?;
    progress.merging();
    let references = match reference.tag() {
        Some(_) => vec![reference.clone(), reference.with_digest(top)],
        None => vec![reference.clone()],
    };
    let (store, alive) = (store.clone(), alive.clone());
    let commit = spawn_blocking(move || {
        let _alive = alive;
        let layers: Vec<_> = held.iter().map(|held| held.layer).collect();
        let new = NewImage {
            manifest: &manifest_bytes,
            config: &config_bytes,
            layers: &layers,
            references: &references,
        };
        store.commit_image(&new)
    });
    let image = commit.await.map_err(|_| PullError::Aborted)??;
    Ok(Pulled { image, digest: top })
}

/// Follows indexes down to the manifest for the platform.
async fn resolve(
    registry: &Registry,
    mut bytes: Vec<u8>,
    mut media_type: Option<String>,
    platform: &Platform,
) -> Result<(Manifest, Vec<u8>), PullError> {
    for _ in 0..=INDEX_DEPTH_MAX {
        let entries = match Document::parse(&bytes, media_type.as_deref())? {
            Document::Manifest(manifest) => return Ok((manifest, bytes)),
            Document::Index(entries) => entries,
        };
        let entry = choose(&entries, platform)?;
        if entry.size > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong.into());
        }
        (bytes, _) = registry.manifest(&entry.digest.to_string()).await?;
        let found = Digest::of(&bytes);
        if found != entry.digest {
            return Err(PullError::Digest {
                what: "manifest",
                wanted: entry.digest,
                found,
            });
        }
        check_size("manifest", entry, &bytes)?;
        media_type = Some(entry.media_type.clone());
    }
    Err(PullError::TooDeep)
}

/// Fetches the bytes of a config.
async fn config(registry: &Registry, descriptor: &Descriptor) -> Result<Vec<u8>, PullError> {
    let bytes = registry.small_blob(descriptor).await?;
    check_size("image config", descriptor, &bytes)?;
    Ok(bytes)
}

/// Checks that a document has the size in its descriptor.
fn check_size(what: &'static str, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), PullError> {
    let found = bytes.len() as u64;
    if found == descriptor.size {
        return Ok(());
    }
    Err(PullError::Size {
        what,
        digest: descriptor.digest,
        wanted: descriptor.size,
        found,
    })
}

/// Fetches all layers, a few at once, and returns them in the order of the manifest.
async fn fetch_layers(
    store: &Store,
    registry: &Registry,
    wanted: &[(&Descriptor, LayerName)],
    progress: &dyn Progress,
    alive: &mpsc::Sender<()>,
) -> Result<Vec<HeldLayer>, PullError> {
    for (blob, _) in wanted {
        progress.layer(blob.digest, LayerState::Waiting);
    }
    let queue = Mutex::new((0..wanted.len()).rev().collect::<Vec<_>>());
    let (held, allowance) = (Mutex::new(Vec::new()), Allowance::of_an_image(None));
    let worker = || async {
        loop {
            let next = queue.lock().unwrap_or_else(|e| e.into_inner()).pop();
            let Some(index) = next else {
                return Ok::<(), PullError>(());
            };
            let (blob, name) = wanted[index];
            let layer = download::fetch_layer(store, registry, blob, name, &allowance, progress, alive).await?;
            held.lock().unwrap_or_else(|e| e.into_inner()).push((index, layer));
        }
    };
    const { assert!(DOWNLOADS_AT_ONCE == 3) };
    tokio::try_join!(worker(), worker(), worker())?;
    let mut held = held.into_inner().unwrap_or_else(|e| e.into_inner());
    held.sort_by_key(|(index, _)| *index);
    Ok(held.into_iter().map(|(_, layer)| layer).collect())
}

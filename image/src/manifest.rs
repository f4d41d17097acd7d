//! Manifests and indexes, of the image specification and of docker's schema 2, which differ in media types only.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::json::{self, JsonError};
use crate::limits::{CONFIG_BYTES_MAX, INDEX_ENTRIES_MAX, LAYER_BYTES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX};
use crate::platform::Platform;
use crate::text::printable;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_TYPES: [&str; 8] = [
    OCI_LAYER,
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// Reference of a manifest or index to another object. The `urls` of foreign layers are not even parsed: following them
/// sent containerd's credentials to strangers (CVE-2020-15157).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DescriptorPlatform {
    pub architecture: String,
    pub os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Document that a reference leads to.
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// Manifest of an image: its config and its layers, bottom first.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Reason why a manifest or index is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The document exceeds the limit on its length.
    #[error("manifest is longer than {} MiB", MANIFEST_BYTES_MAX >> 20)]
    TooLong,
    /// The document is not strict JSON of the right shape.
    #[error("manifest is malformed")]
    Json(#[from] JsonError),
    /// The document has schema version 1, or one from the future.
    #[error("manifest has schema version {version}; only version 2 is supported")]
    Schema {
        /// Schema version of the document.
        version: u64,
    },
    /// The document has both `layers` and `manifests`: its kind would depend on the reader (containerd
    /// GHSA-5j5w-g665-5m35).
    #[error("manifest is ambiguous: it has both layers and manifests")]
    Ambiguous,
    /// The document is neither a manifest nor an index, or its media type contradicts its content.
    #[error("media type {media_type:?} is not one of a container image")]
    MediaType {
        /// Media type of the document.
        media_type: String,
    },
    /// The image has no layers.
    #[error("image has no layers")]
    NoLayers,
    /// The image exceeds the limit on layers.
    #[error("image has more than {LAYERS_MAX} layers")]
    TooManyLayers,
    /// The index exceeds the limit on entries.
    #[error("index has more than {INDEX_ENTRIES_MAX} entries")]
    TooManyEntries,
    /// A layer exceeds the limit on its size.
    #[error("layer {digest} is larger than {} GiB", LAYER_BYTES_MAX >> 30)]
    LayerTooLarge {
        /// Digest of the layer.
        digest: Digest,
    },
    /// The config exceeds the limit on its size.
    #[error("image config is larger than {} MiB", CONFIG_BYTES_MAX >> 20)]
    ConfigTooLarge,
    /// The index has no entry for the requested platform.
    #[error("no image for platform {wanted}; available: {}", available(.found))]
    NoPlatform {
        /// Platform that was requested.
        wanted: Platform,
        /// Platforms that are available.
        found: Vec<Platform>,
    },
}

fn available(found: &[Platform]) -> String {
    let names: Vec<String> = found.iter().map(Platform::to_string).collect();
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Parses a manifest or index. `media_type` is the one that the registry or descriptor gave, if any.
    pub(crate) fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong);
        }
        let raw: Raw = json::parse(bytes)?;
        if raw.schema_version != 2 {
            return Err(ManifestError::Schema {
                version: raw.schema_version,
            });
        }
        if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        let is_index = raw.manifests.is_some();
        for media_type in [media_type, raw.media_type.as_deref()].into_iter().flatten() {
            let fits = if is_index {
                [OCI_INDEX, DOCKER_LIST]
            } else {
                [OCI_MANIFEST, DOCKER_MANIFEST]
            };
            if !fits.contains(&media_type) {
                return Err(wrong_type(media_type));
            }
        }
        match raw.manifests {
            Some(entries) if entries.len() > INDEX_ENTRIES_MAX => Err(ManifestError::TooManyEntries),
            Some(entries) => Ok(Self::Index(entries)),
            None => Manifest::check(raw).map(Self::Manifest),
        }
    }
}

impl Manifest {
    fn check(raw: Raw) -> Result<Self, ManifestError> {
        let (config, layers) = (raw.config, raw.layers.unwrap_or_default());
        let config = config.ok_or(ManifestError::NoLayers)?;
        if ![OCI_CONFIG, DOCKER_CONFIG].contains(&config.media_type.as_str()) {
            return Err(wrong_type(&config.media_type));
        }
        if config.size > CONFIG_BYTES_MAX {
            return Err(ManifestError::ConfigTooLarge);
        }
        if layers.is_empty() {
            return Err(ManifestError::NoLayers);
        }
        if layers.len() > LAYERS_MAX {
            return Err(ManifestError::TooManyLayers);
        }
        for layer in &layers {
            if !LAYER_TYPES.contains(&layer.media_type.as_str()) {
                return Err(wrong_type(&layer.media_type));
            }
            if layer.size > LAYER_BYTES_MAX {
                return Err(ManifestError::LayerTooLarge { digest: layer.digest });
            }
        }
        Ok(Self { config, layers })
    }

    /// Encodes a manifest as the specification defines it, for archives that have none. The same image gives the same
    /// bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let document = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": self.config, "layers": self.layers,
        });
        document.to_string().into_bytes()
    }
}

/// Chooses the entry of an index for a platform: an exact one, or else one whose variant is left open, or else one that
/// runs there.
pub(crate) fn choose<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, ManifestError> {
    let platforms = || entries.iter().filter_map(|entry| Some((entry, entry.platform()?)));
    let exact = platforms().find(|(_, built)| built == wanted);
    let similar = exact.or_else(|| platforms().find(|(_, built)| wanted.matches(built)));
    let found = similar.or_else(|| platforms().find(|(_, built)| wanted.accepts(built)));
    match found {
        Some((entry, _)) => Ok(entry),
        None => Err(ManifestError::NoPlatform {
            wanted: wanted.clone(),
            found: platforms()
                .map(|(_, built)| built)
                .filter(|built| built.os != "unknown")
                .collect(),
        }),
    }
}

impl Descriptor {
    /// Platform of the object, if it is a valid one: attestations of BuildKit have `unknown/unknown`.
    pub(crate) fn platform(&self) -> Option<Platform> {
        let platform = self.platform.as_ref()?;
        let mut parsed = Platform::from_parts(&platform.os, &platform.architecture).ok()?;
        parsed.variant = platform
            .variant
            .as_deref()
            .filter(|text| !text.is_empty())
            .map(|t| printable(t.as_bytes(), 32));
        Some(parsed)
    }

    pub(crate) fn is_index(&self) -> bool {
        [OCI_INDEX, DOCKER_LIST].contains(&self.media_type.as_str())
    }

    pub(crate) fn is_manifest(&self) -> bool {
        [OCI_MANIFEST, DOCKER_MANIFEST].contains(&self.media_type.as_str())
    }
}

fn wrong_type(media_type: &str) -> ManifestError {
    ManifestError::MediaType {
        media_type: printable(media_type.as_bytes(), 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Document, ManifestError> {
        Document::parse(text.as_bytes(), None)
    }

    fn descriptor(media_type: &str, size: u64) -> String {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"sha256:{}","size":{size}}}"#,
            "00".repeat(32)
        )
    }

    #[test]
    fn bad_manifests_are_named() {
        let (config, layer) = (descriptor(OCI_CONFIG, 10), descriptor(OCI_LAYER, 10));
        let good = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        assert!(parse(&good).is_ok());
        let cases = [
            (
                format!(r#"{{"schemaVersion":1,"config":{config},"layers":[{layer}]}}"#),
                "schema version 1",
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#),
                "no layers",
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}],"manifests":[]}}"#),
                "ambiguous",
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{layer}]}}"#),
                "media type",
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{config}]}}"#),
                "media type",
            ),
            (
                format!(
                    r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
                    descriptor(OCI_LAYER, 1 << 40)
                ),
                "larger than",
            ),
            (
                format!(r#"{{"schemaVersion":2,"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#),
                "malformed",
            ),
            (
                format!(
                    r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
                    vec![layer.as_str(); 129].join(",")
                ),
                "more than 128",
            ),
        ];
        for (text, message) in cases {
            let error = parse(&text).err().unwrap_or_else(|| panic!("accepted {text}"));
            assert!(error.to_string().contains(message), "{error}");
        }
    }

    #[test]
    fn a_missing_platform_names_both_sides() {
        let mut entry: Descriptor = serde_json::from_str(&descriptor(OCI_MANIFEST, 1)).unwrap();
        entry.platform = Some(DescriptorPlatform {
            architecture: "arm64".into(),
            os: "linux".into(),
            variant: Some("v8".into()),
        });
        let error = choose(&[entry.clone()], &"linux/amd64".parse().unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no image for platform linux/amd64; available: linux/arm64/v8"
        );
        assert!(choose(&[entry], &"linux/arm64".parse().unwrap()).is_ok());
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        let config = serde_json::from_str(&descriptor(OCI_CONFIG, 10)).unwrap();
        let layers = vec![serde_json::from_str(&descriptor(OCI_LAYER, 10)).unwrap()];
        let bytes = Manifest { config, layers }.encode();
        assert!(matches!(
            Document::parse(&bytes, Some(OCI_MANIFEST)),
            Ok(Document::Manifest(_))
        ));
    }
}

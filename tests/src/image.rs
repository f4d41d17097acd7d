//! Images made of given layers: as docker archives and OCI layout folders, complete or spoiled on purpose.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::layer::Layer;

/// Compression of a layer in an OCI layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Plain tar.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Image under construction.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    layers: Vec<(Vec<u8>, Compression)>,
    process: Value,
    architecture: String,
}

/// OCI layout folder of one image, whose blobs can be spoiled.
#[derive(Debug)]
pub struct OciLayout {
    folder: PathBuf,
    /// Digest of the manifest, `sha256:...`.
    pub manifest_digest: String,
    /// The manifest.
    pub manifest: Value,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// Creates an image without layers, with `sh` as the command.
    pub fn new() -> Self {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Self {
            layers: Vec::new(),
            process: json!({"Env": [path], "Cmd": ["sh"]}),
            architecture: "amd64".to_owned(),
        }
    }

    /// Adds a layer, compressed with gzip if the format allows.
    pub fn layer(self, tar: Vec<u8>) -> Self {
        self.layer_as(tar, Compression::Gzip)
    }

    /// Adds a layer with this compression in OCI layouts.
    pub fn layer_as(mut self, tar: Vec<u8>, compression: Compression) -> Self {
        self.layers.push((tar, compression));
        self
    }

    /// Sets a field of the image's process config: `Cmd`, `Env`, `User`, ...
    pub fn config(mut self, name: &str, value: Value) -> Self {
        self.process[name] = value;
        self
    }

    /// Sets another architecture.
    pub fn architecture(mut self, name: &str) -> Self {
        name.clone_into(&mut self.architecture);
        self
    }

    /// Writes a docker archive in the format of `docker save`.
    pub fn write_docker_archive(&self, path: &Path, name: &str) {
        let config = serde_json::to_vec(&self.image_config()).expect("JSON");
        let config_name = format!("{}.json", sha256_hex(&config));
        let layer_names: Vec<String> = self
            .layers
            .iter()
            .map(|(tar, _)| format!("{}/layer.tar", sha256_hex(tar)))
            .collect();
        let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": layer_names}]);
        let mut archive = Layer::new().file(&config_name, &config);
        for (index, (tar, _)) in self.layers.iter().enumerate() {
            // The same layer twice is one file in the archive.
            if !layer_names[..index].contains(&layer_names[index]) {
                archive = archive.file(&layer_names[index], tar);
            }
        }
        let bytes = archive
            .file("manifest.json", serde_json::to_vec(&manifest).expect("JSON"))
            .finish();
        replace_file(path, &bytes);
    }

    /// Writes an OCI layout folder whose image has this name.
    pub fn write_oci_layout(&self, folder: &Path, name: &str) -> OciLayout {
        fs::create_dir_all(folder.join("blobs/sha256")).expect("a writable folder");
        let put = |bytes: &[u8], media_type: &str| {
            let digest = sha256_hex(bytes);
            fs::write(folder.join("blobs/sha256").join(&digest), bytes).expect("a writable folder");
            json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()})
        };
        let config = put(
            &serde_json::to_vec(&self.image_config()).expect("JSON"),
            "application/vnd.oci.image.config.v1+json",
        );
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(tar, compression)| match compression {
                Compression::None => put(tar, "application/vnd.oci.image.layer.v1.tar"),
                Compression::Gzip => put(&gzip(tar), "application/vnd.oci.image.layer.v1.tar+gzip"),
                Compression::Zstd => put(
                    &zstd::encode_all(&tar[..], 1).expect("memory"),
                    "application/vnd.oci.image.layer.v1.tar+zstd",
                ),
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let layout = OciLayout {
            folder: folder.to_owned(),
            manifest_digest: String::new(),
            manifest,
        };
        layout.seal(name)
    }

    fn image_config(&self) -> Value {
        let diff_ids: Vec<String> = self
            .layers
            .iter()
            .map(|(tar, _)| format!("sha256:{}", sha256_hex(tar)))
            .collect();
        json!({
            "created": "2023-11-14T22:13:20Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": self.process,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
    }
}

impl OciLayout {
    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.folder.join("blobs").join(digest.replace(':', "/"))
    }

    /// Returns the path of layer `index`.
    pub fn layer_blob(&self, index: usize) -> PathBuf {
        self.blob(self.manifest["layers"][index]["digest"].as_str().expect("a digest"))
    }

    /// Writes the manifest in its current state, and an index that names it.
    pub fn seal(self, name: &str) -> Self {
        let bytes = serde_json::to_vec(&self.manifest).expect("JSON");
        self.seal_bytes(&bytes, name)
    }

    /// Writes these bytes as the manifest, JSON or not, and an index that names it.
    pub fn seal_bytes(self, manifest: &[u8], name: &str) -> Self {
        self.seal_as(manifest, "application/vnd.oci.image.manifest.v1+json", name)
    }

    fn seal_as(mut self, manifest: &[u8], media_type: &str, name: &str) -> Self {
        self.manifest_digest = format!("sha256:{}", sha256_hex(manifest));
        fs::write(self.blob(&self.manifest_digest), manifest).expect("a writable folder");
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": media_type,
                "digest": self.manifest_digest,
                "size": manifest.len(),
                // Both in use: the short one by the specification, the long one by containerd and docker.
                "annotations": {"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name},
            }],
        });
        fs::write(
            self.folder.join("index.json"),
            serde_json::to_vec(&index).expect("JSON"),
        )
        .expect("a writable folder");
        fs::write(self.folder.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).expect("a writable folder");
        self
    }

    /// Adds the image of another layout, for another architecture, and makes the name lead to an index of both.
    pub fn join(self, architecture: &str, other: &Self, other_architecture: &str, name: &str) -> Self {
        for blob in fs::read_dir(other.folder.join("blobs/sha256")).expect("a layout") {
            let path = blob.expect("a layout").path();
            let target = self.folder.join("blobs/sha256").join(path.file_name().expect("a file"));
            fs::copy(&path, target).expect("a writable folder");
        }
        let entry = |layout: &Self, architecture: &str| {
            let size = fs::metadata(self.blob(&layout.manifest_digest)).expect("a blob").len();
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": layout.manifest_digest,
                "size": size,
                "platform": {"os": "linux", "architecture": architecture},
            })
        };
        let index_type = "application/vnd.oci.image.index.v1+json";
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": index_type,
            "manifests": [entry(other, other_architecture), entry(&self, architecture)],
        }))
        .expect("JSON");
        self.seal_as(&index, index_type, name)
    }

    /// Replaces layer `index` with these bytes and names them truly: only their content is wrong.
    pub fn replace_layer(mut self, index: usize, bytes: &[u8], name: &str) -> Self {
        let digest = format!("sha256:{}", sha256_hex(bytes));
        fs::write(self.blob(&digest), bytes).expect("a writable folder");
        self.manifest["layers"][index]["digest"] = json!(digest);
        self.manifest["layers"][index]["size"] = json!(bytes.len());
        self.seal(name)
    }
}

/// Returns the SHA-256 digest as 64 hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Compresses with gzip and a fixed header: the same bytes every time.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory does not fail");
    encoder.finish().expect("memory does not fail")
}

/// Replaces a file by rename: a reader never sees half a file.
pub fn replace_file(path: &Path, bytes: &[u8]) {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    fs::write(&temporary, bytes).unwrap_or_else(|error| panic!("{}: {error}", temporary.display()));
    fs::rename(&temporary, path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

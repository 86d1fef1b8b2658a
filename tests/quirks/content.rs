//! Generated manifests, indexes and blobs.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// The tag of every image.
pub const TAG: &str = "1";

/// The content of one registry, in the repository `team/app`.
#[derive(Clone)]
pub struct Content {
    /// Name of the registry. No two registries share content, because a node keeps what it pulled from another one.
    name: &'static str,
    /// Media type and body, by tag and by digest.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    blobs: BTreeMap<String, Vec<u8>>,
    images: usize,
}

/// An image to add. The fields are those of a usual image for `amd64`, unless a row changes them.
pub struct Image {
    pub config: Value,
    pub manifest_type: &'static str,
    pub config_type: &'static str,
    pub layer_type: &'static str,
    pub layers: usize,
    /// Number of `diff_ids` in the configuration, if it differs from the number of layers.
    pub diff_ids: Option<usize>,
    /// Member `mediaType` of the manifest.
    pub declares_type: bool,
}

impl Image {
    /// Returns an image with this platform in its configuration.
    pub fn of(platform: Value) -> Self {
        Self {
            config: platform,
            manifest_type: OCI_MANIFEST,
            config_type: OCI_CONFIG,
            layer_type: OCI_LAYER,
            layers: 1,
            diff_ids: None,
            declares_type: true,
        }
    }

    /// Returns a usual image for `linux` and this architecture.
    pub fn linux(architecture: &str) -> Self {
        Self::of(json!({"os": "linux", "architecture": architecture}))
    }

    /// Returns an image with Docker's media types.
    pub fn docker(architecture: &str) -> Self {
        Self {
            manifest_type: DOCKER_MANIFEST,
            config_type: DOCKER_CONFIG,
            layer_type: DOCKER_LAYER,
            ..Self::linux(architecture)
        }
    }
}

impl Content {
    /// Creates a registry's content without images.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            manifests: BTreeMap::new(),
            blobs: BTreeMap::new(),
            images: 0,
        }
    }

    /// Adds an image, and returns its descriptor.
    pub fn image(&mut self, image: &Image) -> Value {
        self.images += 1;
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for number in 0..image.layers {
            let (layer, diff_id) = layer(
                &format!("{}-{}-{number}", self.name, self.images),
                image.layer_type,
            );
            layers.push(self.add_blob(image.layer_type, layer));
            diff_ids.push(diff_id);
        }
        if let Some(number) = image.diff_ids {
            diff_ids.resize(number, digest_of(b"another layer"));
        }
        let mut config = image.config.clone();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        config["config"] =
            json!({"Labels": {"registry": self.name, "image": self.images.to_string()}});
        let config = self.add_blob(image.config_type, config.to_string().into_bytes());
        let mut manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        if image.declares_type {
            manifest["mediaType"] = image.manifest_type.into();
        }
        self.add(image.manifest_type, &manifest)
    }

    /// Adds an index, and returns its descriptor.
    pub fn index(&mut self, entries: &[Value]) -> Value {
        self.index_of(OCI_INDEX, entries)
    }

    /// Adds an index of a media type, and returns its descriptor.
    pub fn index_of(&mut self, media_type: &str, entries: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
        self.add(media_type, &index)
    }

    /// Adds any manifest, and returns its descriptor.
    pub fn add(&mut self, media_type: &str, manifest: &Value) -> Value {
        self.add_bytes(media_type, manifest.to_string().into_bytes())
    }

    /// Adds any content under `manifests/`, and returns its descriptor.
    pub fn add_bytes(&mut self, media_type: &str, body: Vec<u8>) -> Value {
        let digest = digest_of(&body);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": body.len()});
        self.manifests.insert(digest, (media_type.to_owned(), body));
        descriptor
    }

    fn add_blob(&mut self, media_type: &str, body: Vec<u8>) -> Value {
        let digest = digest_of(&body);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": body.len()});
        self.blobs.insert(digest, body);
        descriptor
    }

    /// Gives the tag to a manifest.
    pub fn tag(&mut self, descriptor: &Value) {
        let manifest = self.manifests[digest(descriptor)].clone();
        self.manifests.insert(TAG.to_owned(), manifest);
    }

    /// Removes a manifest, as a clean-up of untagged manifests does.
    pub fn remove(&mut self, descriptor: &Value) {
        self.manifests.remove(digest(descriptor));
    }

    /// Returns the media type and the body of a manifest.
    pub fn manifest(&self, name: &str) -> Option<(String, Vec<u8>)> {
        self.manifests.get(name).cloned()
    }

    /// Returns the media type and the body of a blob.
    pub fn blob(&self, name: &str) -> Option<(String, Vec<u8>)> {
        let body = self.blobs.get(name).cloned()?;
        Some(("application/octet-stream".to_owned(), body))
    }

    /// Returns the digest of the configuration of the manifest with this digest.
    pub fn config_of(&self, manifest: &str) -> Option<String> {
        let (_, body) = self.manifests.get(manifest)?;
        let manifest: Value = serde_json::from_slice(body).ok()?;
        Some(manifest["config"]["digest"].as_str()?.to_owned())
    }
}

/// Returns the digest in a descriptor.
pub fn digest(descriptor: &Value) -> &str {
    descriptor["digest"]
        .as_str()
        .expect("a descriptor has a digest")
}

/// Returns the entry of an index for a descriptor with a platform.
pub fn entry(descriptor: &Value, platform: Value) -> Value {
    let mut entry = descriptor.clone();
    entry["platform"] = platform;
    entry
}

/// Returns the entry of an index for a descriptor with a platform of Linux.
pub fn linux(descriptor: &Value, architecture: &str) -> Value {
    entry(
        descriptor,
        json!({"os": "linux", "architecture": architecture}),
    )
}

/// Returns the digest of some content.
pub fn digest_of(content: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(content))
}

/// Returns a layer with one file, and the digest of its archive.
fn layer(name: &str, media_type: &str) -> (Vec<u8>, String) {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(name.len() as u64);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, format!("file-{name}"), name.as_bytes())
        .expect("memory does not fail");
    let archive = archive.into_inner().expect("memory does not fail");
    let diff_id = digest_of(&archive);
    if !media_type.ends_with("gzip") {
        return (archive, diff_id);
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&archive).expect("memory does not fail");
    (encoder.finish().expect("memory does not fail"), diff_id)
}

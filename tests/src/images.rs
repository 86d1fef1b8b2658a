//! Container images made here, without a network and without Docker.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig};
use oci_client::manifest::{OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use prepull_domain::{Architecture, Digest};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::localcloud::Registry;

/// A compressed layer.
#[derive(Debug, Clone)]
pub struct Layer {
    compressed: Vec<u8>,
    diff_id: String,
}

impl Layer {
    /// A static busybox, so that a container can print and exit.
    ///
    /// # Errors
    /// Where this machine has none: it is Debian's package `busybox-static`.
    pub fn busybox() -> Result<Self> {
        let path = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .context("no busybox: install the package busybox-static")?;
        let busybox = std::fs::read(path)?;
        Self::of(&[
            ("bin/busybox", 0o755, &busybox),
            ("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n"),
        ])
    }

    /// `megabytes` of data that is the same for the same `name`. Every other block repeats, so that it compresses to
    /// about half, as programs do.
    ///
    /// # Errors
    /// Never in practice: it writes to memory.
    pub fn filler(name: &str, megabytes: usize) -> Result<Self> {
        const BLOCK: usize = 4096;
        let mut data = Vec::with_capacity(megabytes << 20);
        let mut seed = Sha256::digest(name.as_bytes());
        while data.len() < megabytes << 20 {
            for _ in 0..BLOCK / 32 {
                seed = Sha256::digest(seed);
                data.extend_from_slice(&seed);
            }
            data.resize(data.len() + BLOCK, 0);
        }
        Self::of(&[(&format!("data/{name}"), 0o644, &data)])
    }

    /// A layer that says it is compressed and is not.
    #[must_use]
    pub fn corrupt() -> Self {
        Self {
            compressed: b"this is no gzip".to_vec(),
            diff_id: sha256(b"whatever it should have been"),
        }
    }

    /// Its digest as registries and containerd's content store know it.
    #[must_use]
    pub fn digest(&self) -> String {
        sha256(&self.compressed)
    }

    fn of(files: &[(&str, u32, &[u8])]) -> Result<Self> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, mode, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            archive.append_data(&mut header, path, *content)?;
        }
        let archive = archive.into_inner()?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&archive)?;
        Ok(Self {
            compressed: encoder.finish()?,
            diff_id: sha256(&archive),
        })
    }
}

/// An image for one platform.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<Layer>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    architecture: Architecture,
}

impl Image {
    /// An image whose containers print `message`.
    ///
    /// # Errors
    /// Never in practice: it serializes to memory.
    pub fn new(architecture: Architecture, layers: &[Layer], message: &str) -> Result<Self> {
        let config = serde_json::to_vec(&json!({
            "architecture": architecture.oci_name(),
            "os": "linux",
            "config": {"Entrypoint": ["/bin/busybox", "echo", message]},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>()},
        }))?;
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| {
                descriptor(
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                    &layer.compressed,
                )
            })
            .collect();
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE_MEDIA_TYPE,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": descriptors,
        }))?;
        Ok(Self {
            layers: layers.to_vec(),
            config,
            manifest,
            architecture,
        })
    }

    /// The digest of its manifest.
    ///
    /// # Panics
    /// Never: a SHA-256 is a digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        sha256(&self.manifest)
            .parse()
            .expect("a SHA-256 is a digest")
    }
}

/// Pushes to one registry.
pub struct Pusher {
    client: Client,
    registry: Registry,
}

impl Pusher {
    /// A pusher to `registry`, whose certificate is signed by `authority`.
    ///
    /// # Errors
    /// Where the authority's certificate cannot be read.
    pub fn new(registry: &Registry, authority: &Path) -> Result<Self> {
        let certificate = Certificate {
            encoding: CertificateEncoding::Pem,
            data: std::fs::read(authority)?,
        };
        let config = ClientConfig {
            extra_root_certificates: vec![certificate],
            ..ClientConfig::default()
        };
        Ok(Self {
            client: Client::new(config),
            registry: registry.clone(),
        })
    }

    /// Pushes one platform's image as `repository:tag` and returns the reference that pods would use.
    ///
    /// # Errors
    /// Where the registry refuses.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<String> {
        self.push_blobs(repository, image).await?;
        self.push_manifest(repository, tag, OCI_IMAGE_MEDIA_TYPE, &image.manifest)
            .await?;
        Ok(format!("{}/{repository}:{tag}", self.registry.host))
    }

    /// Pushes an image of several platforms as `repository:tag`; returns the reference and the digest of the index.
    ///
    /// # Errors
    /// Where the registry refuses.
    ///
    /// # Panics
    /// Never: a SHA-256 is a digest.
    pub async fn push_index(
        &self,
        repository: &str,
        tag: &str,
        images: &[Image],
    ) -> Result<(String, Digest)> {
        let mut manifests = Vec::new();
        for image in images {
            self.push_blobs(repository, image).await?;
            self.push_manifest(
                repository,
                image.digest().as_str(),
                OCI_IMAGE_MEDIA_TYPE,
                &image.manifest,
            )
            .await?;
            let mut entry = descriptor(OCI_IMAGE_MEDIA_TYPE, &image.manifest);
            entry["platform"] =
                json!({"architecture": image.architecture.oci_name(), "os": "linux"});
            manifests.push(entry);
        }
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE_INDEX_MEDIA_TYPE,
            "manifests": manifests,
        }))?;
        self.push_manifest(repository, tag, OCI_IMAGE_INDEX_MEDIA_TYPE, &index)
            .await?;
        let digest = sha256(&index).parse().expect("a SHA-256 is a digest");
        Ok((format!("{}/{repository}:{tag}", self.registry.host), digest))
    }

    async fn authorized(&self, repository: &str, name: &str) -> Result<Reference> {
        let separator = if name.starts_with("sha256:") {
            '@'
        } else {
            ':'
        };
        let reference: Reference =
            format!("{}/{repository}{separator}{name}", self.registry.address).parse()?;
        let basic = RegistryAuth::Basic(
            self.registry.username.clone(),
            self.registry.password.clone(),
        );
        self.client
            .auth(&reference, &basic, RegistryOperation::Push)
            .await?;
        Ok(reference)
    }

    async fn push_blobs(&self, repository: &str, image: &Image) -> Result<()> {
        let reference = self.authorized(repository, "blobs").await?;
        for blob in image
            .layers
            .iter()
            .map(|layer| &layer.compressed)
            .chain([&image.config])
        {
            let digest = sha256(blob);
            if !self.client.blob_exists(&reference, &digest).await? {
                self.client
                    .push_blob(&reference, blob.clone(), &digest)
                    .await?;
            }
        }
        Ok(())
    }

    async fn push_manifest(
        &self,
        repository: &str,
        name: &str,
        media_type: &str,
        manifest: &[u8],
    ) -> Result<()> {
        // What the client would serialize anew could have another digest: the bytes are pushed as they are.
        debug_assert!(serde_json::from_slice::<OciManifest>(manifest).is_ok());
        let reference = self.authorized(repository, name).await?;
        self.client
            .push_manifest_raw(&reference, manifest.to_vec(), media_type.parse()?)
            .await?;
        Ok(())
    }
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(content), "size": content.len()})
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .fold("sha256:".to_owned(), |text, byte| {
            format!("{text}{byte:02x}")
        })
}

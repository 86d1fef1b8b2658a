//! Generated container images. Neither a network nor Docker is needed.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig};
use oci_client::manifest::{OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use prepull_domain::{Architecture, Bytes, Digest};
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
    /// Returns a layer with a static busybox, so that a container can print and exit.
    ///
    /// # Errors
    /// Fails if busybox is not installed. On Debian it is in the package `busybox-static`.
    pub fn busybox() -> Result<Self> {
        let path = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .context("reading busybox failed. Install the package busybox-static")?;
        let busybox = std::fs::read(path)?;
        Self::of(&[
            ("bin/busybox", 0o755, &busybox),
            ("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n"),
        ])
    }

    /// Returns a layer with `megabytes` of data that depends only on `name`. Every other block repeats, so the data
    /// compresses to about half its size, as programs do.
    ///
    /// # Errors
    /// Never in practice, because it writes to memory.
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

    /// Returns a layer with a realistic tree of files that depends only on `name`. Its compressed size is `megabytes`
    /// (10^6 bytes). Most files are text, which compresses to about a third. Every eighth is random, like a compressed
    /// file.
    ///
    /// # Errors
    /// Never in practice, because it writes to memory.
    pub fn files(name: &str, megabytes: usize) -> Result<Self> {
        let mut random = Random::of(name);
        let words: Vec<Vec<u8>> = (0..4096).map(|_| random.word()).collect();
        let phrases: Vec<Vec<u8>> = (0..128).map(|_| random.phrase(&words)).collect();
        let mut archive = tar::Builder::new(Packer::default());
        let mut number = 0_u32;
        while archive.get_ref().compressed_bytes() < megabytes * 1_000_000 {
            let content = match number % 8 {
                0 => random.bytes(),
                _ => random.text(&words, &phrases),
            };
            let path = format!("usr/share/{name}/{:02}/{number:06}", number % 64);
            append(&mut archive, &path, 0o644, &content)?;
            number += 1;
        }
        archive.into_inner()?.finish()
    }

    /// Returns a layer with a media type for compressed data whose content is not compressed.
    #[must_use]
    pub fn corrupt() -> Self {
        Self {
            compressed: b"not a gzip file".to_vec(),
            diff_id: sha256(b"the expected content"),
        }
    }

    fn of(files: &[(&str, u32, &[u8])]) -> Result<Self> {
        let mut archive = tar::Builder::new(Packer::default());
        for (path, mode, content) in files {
            append(&mut archive, path, *mode, content)?;
        }
        archive.into_inner()?.finish()
    }
}

fn append(archive: &mut tar::Builder<Packer>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    Ok(archive.append_data(&mut header, path, content)?)
}

/// Compresses and hashes an archive while it is written, so that the plain archive is never in memory.
struct Packer {
    encoder: GzEncoder<Vec<u8>>,
    diff_id: Sha256,
}

impl Default for Packer {
    fn default() -> Self {
        Self {
            encoder: GzEncoder::new(Vec::new(), Compression::fast()),
            diff_id: Sha256::new(),
        }
    }
}

impl Packer {
    /// Returns the size of the compressed data so far.
    fn compressed_bytes(&self) -> usize {
        self.encoder.get_ref().len()
    }

    fn finish(self) -> Result<Layer> {
        Ok(Layer {
            compressed: self.encoder.finish()?,
            diff_id: hexadecimal(&self.diff_id.finalize()),
        })
    }
}

impl Write for Packer {
    fn write(&mut self, plain: &[u8]) -> std::io::Result<usize> {
        let written = self.encoder.write(plain)?;
        self.diff_id.update(&plain[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.encoder.flush()
    }
}

/// Pseudo-random numbers that depend only on a name. xorshift64* is fast, and its quality is sufficient here.
struct Random(u64);

impl Random {
    fn of(name: &str) -> Self {
        let seed = Sha256::digest(name.as_bytes());
        let seed: [u8; 8] = std::array::from_fn(|index| seed[index]);
        // xorshift of zero is always zero.
        Self(u64::from_le_bytes(seed) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or_default()
    }

    fn word(&mut self) -> Vec<u8> {
        let length = 2 + self.below(10);
        let mut word: Vec<u8> = (0..length)
            .map(|_| b'a' + self.next().to_le_bytes()[0] % 26)
            .collect();
        word.push(b' ');
        word
    }

    /// Returns a file size from one byte to 200 kilobytes. Small sizes are more frequent.
    fn length(&mut self) -> usize {
        let limit = 1 + self.below(200_000);
        1 + self.below(limit)
    }

    fn phrase(&mut self, words: &[Vec<u8>]) -> Vec<u8> {
        (0..16)
            .flat_map(|_| words[self.below(words.len())].clone())
            .collect()
    }

    fn text(&mut self, words: &[Vec<u8>], phrases: &[Vec<u8>]) -> Vec<u8> {
        let length = self.length();
        let mut text = Vec::with_capacity(length + 64);
        while text.len() < length {
            text.extend_from_slice(&words[self.below(words.len())]);
            text.extend_from_slice(&phrases[self.below(phrases.len())]);
        }
        text
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.length();
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            // The upper two of the eight bytes of a number are zero.
            bytes.extend_from_slice(&self.next().to_le_bytes()[..6]);
        }
        bytes
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
    /// Returns an image whose containers print `message`.
    ///
    /// # Errors
    /// Never in practice, because it serializes to memory.
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

    /// Returns the compressed size of its layers.
    #[must_use]
    pub fn size(&self) -> Bytes {
        let sizes = self.layers.iter().map(|layer| layer.compressed.len());
        sizes.map(|size| Bytes(size as u64)).sum()
    }

    /// Returns the digest of its manifest.
    ///
    /// # Panics
    /// Never panics, because a SHA-256 hash is a valid digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        sha256(&self.manifest)
            .parse()
            .expect("a SHA-256 hash is a valid digest")
    }
}

/// Pushes to one registry.
pub struct Pusher {
    client: Client,
    registry: Registry,
}

impl Pusher {
    /// Returns a pusher to `registry`, whose certificate is signed by `authority`.
    ///
    /// # Errors
    /// Fails if the authority's certificate cannot be read.
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

    /// Pushes the image of one platform as `repository:tag` and returns the reference that pods would use.
    ///
    /// # Errors
    /// Fails if the registry refuses.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<String> {
        self.push_blobs(repository, image).await?;
        self.push_manifest(repository, tag, OCI_IMAGE_MEDIA_TYPE, &image.manifest)
            .await?;
        Ok(format!("{}/{repository}:{tag}", self.registry.host))
    }

    /// Pushes an image of several platforms as `repository:tag`. Returns the reference and the digest of the index.
    ///
    /// # Errors
    /// Fails if the registry refuses.
    ///
    /// # Panics
    /// Never panics, because a SHA-256 hash is a valid digest.
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
        let digest = sha256(&index)
            .parse()
            .expect("a SHA-256 hash is a valid digest");
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
        // Pushes the bytes unchanged. If the client serialized them again, their digest could change.
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

pub(crate) fn sha256(content: &[u8]) -> String {
    hexadecimal(&Sha256::digest(content))
}

fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |text, byte| {
        format!("{text}{byte:02x}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_depend_on_their_name_and_have_the_requested_size() {
        let layer = Layer::files("a", 1).unwrap();
        assert_eq!(layer.compressed, Layer::files("a", 1).unwrap().compressed);
        assert_ne!(layer.diff_id, Layer::files("b", 1).unwrap().diff_id);
        let size = layer.compressed.len();
        assert!((1_000_000..1_400_000).contains(&size), "{size}");
    }
}

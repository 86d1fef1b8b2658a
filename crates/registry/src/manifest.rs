//! Image manifests and indexes, read as leniently as containerd reads them.
//!
//! Source: `Children`, `Manifest`, `validateMediaType` and `DiffCompression` in containerd's `core/images`.

use prepull_domain::excerpt;
use serde::Deserialize;

use crate::platform::Platform;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Media types that containerd can pull: an index and a single-platform manifest, each from OCI and Docker.
pub(crate) const MEDIA_TYPES: [&str; 4] = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];

/// Media types of a container image's configuration. A Helm chart, for example, has another one.
const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// Media types of layers that containerd unpacks, without their suffixes.
const LAYER_TYPES: [&str; 7] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// A manifest: an index or one image.
#[derive(Debug)]
pub(crate) enum Manifest {
    /// Entries, usually one for each platform.
    Index(Vec<Descriptor>),
    /// One image.
    Image(ImageManifest),
}

/// A reference to other content.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
}

/// The manifest of one image.
#[derive(Debug)]
pub(crate) struct ImageManifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// The parts of an image's configuration that decide whether containerd pulls it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) platform: Platform,
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

impl Manifest {
    /// Parses a manifest of the media type that the registry or the index gives. containerd trusts it, too.
    ///
    /// # Errors
    /// Returns the reason why containerd does not pull it, with a remedy.
    pub(crate) fn parse(media_type: &str, body: &[u8]) -> Result<Self, String> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Document {
            media_type: String,
            config: Option<Descriptor>,
            layers: Option<Vec<Descriptor>>,
            manifests: Option<Vec<Descriptor>>,
            fs_layers: Option<serde_json::Value>,
        }
        check_type(media_type)?;
        let document: Document = serde_json::from_slice(body)
            .map_err(|error| format!("its manifest is malformed: {error}. Push the image again"))?;
        if document.fs_layers.is_some() {
            return Err(schema_1());
        }
        let differs = if is_index(media_type) {
            document.config.is_some()
                || document.layers.is_some()
                || is_manifest(&document.media_type)
        } else {
            document.manifests.is_some() || is_index(&document.media_type)
        };
        if differs {
            return Err(format!(
                "its manifest differs from its type `{media_type}`, which the registry or the index gives. Push the \
                 image again, or repair the registry"
            ));
        }
        Ok(if is_index(media_type) {
            Self::Index(document.manifests.unwrap_or_default())
        } else {
            Self::Image(ImageManifest {
                config: document.config.unwrap_or_default(),
                layers: document.layers.unwrap_or_default(),
            })
        })
    }
}

impl ImageManifest {
    /// Returns whether the type of the configuration is that of a container image.
    pub(crate) fn has_image_config(&self) -> bool {
        CONFIG_TYPES.contains(&self.config.media_type.as_str())
    }

    /// Returns the error of content that is not a container image.
    pub(crate) fn not_an_image(&self) -> String {
        format!(
            "it is not a container image: its configuration has type `{}`. Remove it from the cache",
            excerpt(&self.config.media_type, 80)
        )
    }

    /// Checks that containerd can unpack each layer.
    ///
    /// # Errors
    /// Returns the reason and a remedy.
    pub(crate) fn check_layers(&self) -> Result<(), String> {
        let unknown = self.layers.iter().find(|layer| {
            let base = layer.media_type.split('+').next().unwrap_or_default();
            !LAYER_TYPES.contains(&base)
        });
        match unknown {
            None => Ok(()),
            Some(_) if !self.has_image_config() => Err(self.not_an_image()),
            Some(layer) => Err(format!(
                "it is not a container image that containerd can unpack: a layer has type `{}`. Remove it from the \
                 cache",
                excerpt(&layer.media_type, 80)
            )),
        }
    }

    /// Parses the image's configuration, and checks that it describes the layers.
    ///
    /// # Errors
    /// Returns the reason and a remedy.
    pub(crate) fn config(&self, body: &[u8]) -> Result<Config, String> {
        let not_usable = |problem: String| {
            if self.has_image_config() {
                format!("{problem}. Push the image again")
            } else {
                self.not_an_image()
            }
        };
        let config: Config = serde_json::from_slice(body)
            .map_err(|error| not_usable(format!("its configuration is malformed: {error}")))?;
        let described = config.rootfs.diff_ids.as_ref().map_or(0, Vec::len);
        if described == self.layers.len() {
            Ok(config)
        } else {
            Err(not_usable(format!(
                "its configuration describes {described} layers, but its manifest has {}",
                self.layers.len()
            )))
        }
    }
}

fn is_index(media_type: &str) -> bool {
    [OCI_INDEX, DOCKER_INDEX].contains(&media_type)
}

fn is_manifest(media_type: &str) -> bool {
    [OCI_MANIFEST, DOCKER_MANIFEST].contains(&media_type)
}

fn schema_1() -> String {
    "it is in the format Docker schema 1, which containerd no longer pulls. Push it with a current Docker or buildx"
        .to_owned()
}

/// Checks the media type of a manifest.
fn check_type(media_type: &str) -> Result<(), String> {
    match media_type {
        _ if MEDIA_TYPES.contains(&media_type) => Ok(()),
        // containerd takes plain text for schema 1, because old registries declare it so.
        "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws"
        | "text/plain" => Err(schema_1()),
        "text/html" => Err(
            "the registry answered with a web page instead of a manifest. Check the host and the repository, and \
             that no proxy or login page stands in between"
                .to_owned(),
        ),
        "" => Err(
            "the registry gives its manifest no type, so containerd does not pull it. Repair the registry".to_owned(),
        ),
        other => Err(format!(
            "the registry gives its manifest the type `{}`, which containerd does not pull. Remove it from the cache, \
             or repair the registry",
            excerpt(other, 80)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictory_manifest_is_refused() {
        for (media_type, body) in [
            (OCI_INDEX, r#"{"config": {}, "layers": []}"#),
            (OCI_MANIFEST, r#"{"manifests": []}"#),
            (
                OCI_MANIFEST,
                r#"{"mediaType": "application/vnd.oci.image.index.v1+json"}"#,
            ),
            (OCI_MANIFEST, r#"{"fsLayers": [{}]}"#),
            (OCI_MANIFEST, "<html>"),
            ("text/html", "{}"),
            ("application/json", r#"{"manifests": []}"#),
        ] {
            assert!(
                Manifest::parse(media_type, body.as_bytes()).is_err(),
                "{media_type} {body}"
            );
        }
    }

    #[test]
    fn image_without_layers_parses() {
        let body = br#"{"config": {"mediaType": "application/vnd.oci.image.config.v1+json"}, "layers": null}"#;
        let Ok(Manifest::Image(image)) = Manifest::parse(OCI_MANIFEST, body) else {
            panic!("it is an image");
        };
        assert!(image.check_layers().is_ok());
        assert!(image.config(b"{}").is_ok());
    }
}

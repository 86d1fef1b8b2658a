//! Workloads: objects with a pod template.

use std::fmt;

use oci_spec::distribution::Reference;

use super::Object;
use super::tree::{At, Cursor};

/// A pod, or an object that creates pods.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The object.
    pub object: Object,
    /// Images of its containers.
    pub images: Vec<PodImage>,
}

/// An image of a container.
#[derive(Debug, Clone)]
pub struct PodImage {
    /// Image as in the manifest.
    pub given: At<String>,
    /// Full name. `None` if the text is not a valid reference.
    pub name: Option<ImageName>,
    /// Pull policy, if it is set.
    pub policy: Option<String>,
}

/// The full name under which containerd looks up an image: with the digest, or else with the tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageName {
    /// Registry and repository.
    pub repository: String,
    /// Tag with `:`, or digest with `@`.
    version: String,
}

impl ImageName {
    /// Parses the image of a container as containerd does: Docker Hub, `library/` and `latest` are defaults, and a digest
    /// replaces the tag.
    ///
    /// Source: `ParseDockerRef` of github.com/distribution/reference, which containerd uses.
    pub fn parse(given: &str) -> Option<Self> {
        let reference: Reference = given.parse().ok()?;
        let repository = format!("{}/{}", reference.registry(), reference.repository());
        let version = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => format!("@{digest}"),
            (None, Some(tag)) => format!(":{tag}"),
            (None, None) => ":latest".to_owned(),
        };
        Some(Self {
            repository,
            version,
        })
    }

    /// Whether the name has the tag `latest`, for which Kubernetes pulls always unless the policy is set.
    pub fn is_latest(&self) -> bool {
        self.version == ":latest"
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.repository, self.version)
    }
}

impl Workload {
    /// Returns the path of the pod's specification in an object of `kind`, or `None` if the kind has no pods.
    pub fn pod_path(kind: &str) -> Option<&'static [&'static str]> {
        match kind {
            "Pod" => Some(&["spec"]),
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => {
                Some(&["spec", "template", "spec"])
            }
            "CronJob" => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
            _ => None,
        }
    }

    /// Returns the major and minor version of Karpenter, if the workload is its controller.
    pub fn karpenter(&self) -> Option<(u16, u16)> {
        let image = self.images.iter().find_map(|image| {
            let name = image.name.as_ref()?;
            let is_controller = name.repository.ends_with("karpenter/controller");
            is_controller.then_some(&image.given.value)
        })?;
        // Karpenter's chart writes the tag and the digest.
        let tag = image.split('@').next()?.rsplit(':').next()?;
        let mut numbers = tag.trim_start_matches('v').split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }

    /// Reads the images below `pod`: those of containers, and those that are volumes.
    pub fn read(object: Object, pod: Option<&Cursor>) -> Self {
        let list = |key: &str| pod.map(|pod| pod.list(key)).unwrap_or_default();
        let containers = ["initContainers", "containers"].into_iter().flat_map(list);
        let containers = containers.filter_map(|container| {
            let policy = container.text_of("imagePullPolicy");
            Some(PodImage::new(container.text_at("image")?, policy))
        });
        let volumes = list("volumes").into_iter().filter_map(|volume| {
            let image = volume.get("image")?;
            let policy = image.text_of("pullPolicy");
            Some(PodImage::new(image.text_at("reference")?, policy))
        });
        Self {
            images: containers.chain(volumes).collect(),
            object,
        }
    }
}

impl PodImage {
    fn new(given: At<String>, policy: Option<String>) -> Self {
        Self {
            name: ImageName::parse(&given.value),
            given,
            policy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_image_has_the_full_name_of_containerd() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (given, name) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            (
                "grafana/grafana:12.0",
                "docker.io/grafana/grafana:12.0".to_owned(),
            ),
            (
                "docker.io/nginx:1.27",
                "docker.io/library/nginx:1.27".to_owned(),
            ),
            (
                "index.docker.io/library/nginx:1.27",
                "docker.io/library/nginx:1.27".to_owned(),
            ),
            ("localhost:5000/app", "localhost:5000/app:latest".to_owned()),
            (
                &format!("nginx:1.27@{digest}"),
                format!("docker.io/library/nginx@{digest}"),
            ),
        ] {
            assert_eq!(ImageName::parse(given).unwrap().to_string(), name);
        }
        assert_eq!(ImageName::parse("{{ .Values.image }}"), None);
    }
}

//! Platforms, compared in the same way as containerd does.
//!
//! Source: containerd's `platforms` package: `Normalize`, `Only` and `DefaultSpec`.

use std::fmt;

use prepull_domain::Architecture;
use serde::Deserialize;

/// The platform of an image, as written in an index or in an image's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

impl Platform {
    /// Returns the preference of containerd on a node of `node` for this platform, 0 first. `None` if it pulls no such
    /// image.
    ///
    /// A node of `amd64` also pulls images for `386`, and a node of `arm64` those for `arm`.
    pub(crate) fn preference(&self, node: Architecture) -> Option<usize> {
        let pulled: &[(&str, &str)] = match node {
            Architecture::X86_64 => &[("amd64", ""), ("386", "")],
            Architecture::Arm64 => &[
                ("arm64", ""),
                ("arm", "v8"),
                ("arm", "v7"),
                ("arm", "v6"),
                ("arm", "v5"),
            ],
        };
        let (os, architecture, variant) = self.normalized();
        let position = pulled
            .iter()
            .position(|platform| *platform == (architecture.as_str(), variant.as_str()))?;
        (os == "linux").then_some(position)
    }

    /// Returns whether this is the platform of an attestation, which `docker buildx` stores beside the images.
    pub(crate) fn is_unknown(&self) -> bool {
        self.os == "unknown"
    }

    fn normalized(&self) -> (String, String, String) {
        let os = match self.os.to_lowercase().as_str() {
            // The operating system of the node.
            "" => "linux".to_owned(),
            os => os.to_owned(),
        };
        let variant = self.variant.to_lowercase();
        let (architecture, variant) = match self.architecture.to_lowercase().as_str() {
            "i386" => ("386".to_owned(), String::new()),
            "x86_64" | "x86-64" | "amd64" => (
                "amd64".to_owned(),
                Some(variant).filter(|it| it != "v1").unwrap_or_default(),
            ),
            "aarch64" | "arm64" => (
                "arm64".to_owned(),
                Some(variant)
                    .filter(|it| it != "8" && it != "v8")
                    .unwrap_or_default(),
            ),
            "armhf" => ("arm".to_owned(), "v7".to_owned()),
            "armel" => ("arm".to_owned(), "v6".to_owned()),
            "arm" => {
                let variant = match variant.as_str() {
                    "" | "7" => "v7".to_owned(),
                    "5" | "6" | "8" => format!("v{variant}"),
                    _ => variant,
                };
                ("arm".to_owned(), variant)
            }
            other => (other.to_owned(), variant),
        };
        (os, architecture, variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (os, architecture, variant) = self.normalized();
        write!(f, "{os}/{architecture}")?;
        if variant.is_empty() {
            Ok(())
        } else {
            write!(f, "/{variant}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next().unwrap_or_default(),
        }
    }

    #[test]
    fn node_prefers_its_own_platform_to_an_older_one() {
        for (text, x86_64, arm64) in [
            ("linux/amd64", Some(0), None),
            ("linux/amd64/v1", Some(0), None),
            ("Linux/X86_64", Some(0), None),
            ("/x86-64", Some(0), None),
            ("linux/amd64/v2", None, None),
            ("linux/amd64/v8", None, None),
            ("linux/386", Some(1), None),
            ("linux/i386", Some(1), None),
            ("linux/arm64", None, Some(0)),
            ("linux/arm64/v8", None, Some(0)),
            ("linux/aarch64", None, Some(0)),
            ("linux/arm64/v9", None, None),
            ("linux/arm", None, Some(2)),
            ("linux/armhf", None, Some(2)),
            ("linux/arm/v6", None, Some(3)),
            ("windows/amd64", None, None),
            ("unknown/unknown", None, None),
            ("", None, None),
        ] {
            let platform = platform(text);
            assert_eq!(
                platform.preference(Architecture::X86_64),
                x86_64,
                "{text:?}"
            );
            assert_eq!(platform.preference(Architecture::Arm64), arm64, "{text:?}");
        }
    }
}

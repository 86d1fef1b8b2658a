//! The boot settings of builders and verifiers.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prepull_domain::build::payload::Target;
use prepull_domain::cache::builder_settings::BuilderSettings;
use prepull_domain::{InvalidConfig, StageError};
use serde::Serialize;

/// Host name of builders and verifiers. Any value works.
///
/// Without it, Bottlerocket's `pluto` calls `ec2:DescribeInstances`, which a builder may not. That delays the host
/// containers, and so the agent, for 300 s.
const HOST_NAME: &str = "prepull-builder";

/// Maximum size of user data in bytes, before Base64.
///
/// Source: EC2 user guide, "Run commands when you launch an EC2 instance with user data input".
const MAX_BYTES: usize = 16 * 1024;

#[derive(Serialize)]
struct UserData {
    settings: BottlerocketSettings,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct BottlerocketSettings {
    kubernetes: Kubernetes,
    host_containers: HostContainers,
    #[serde(skip_serializing_if = "Network::is_empty")]
    network: Network,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pki: BTreeMap<String, Pki>,
    #[serde(skip_serializing_if = "ContainerRegistry::is_empty")]
    container_registry: ContainerRegistry,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Kubernetes {
    hostname_override: &'static str,
}

#[derive(Serialize)]
struct HostContainers {
    admin: HostContainer,
}

#[derive(Serialize)]
struct HostContainer {
    enabled: bool,
}

/// Source: Bottlerocket's documentation, "settings.network".
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Network {
    #[serde(skip_serializing_if = "Option::is_none")]
    https_proxy: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    no_proxy: Vec<String>,
}

impl Network {
    fn is_empty(&self) -> bool {
        self.https_proxy.is_none() && self.no_proxy.is_empty()
    }
}

/// Source: Bottlerocket's documentation, "settings.pki".
#[derive(Serialize)]
struct Pki {
    /// Certificates in PEM format, in Base64 again.
    data: String,
    trusted: bool,
}

/// Source: Bottlerocket's documentation, "settings.container-registry".
#[derive(Serialize)]
struct ContainerRegistry {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mirrors: Vec<Mirror>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    credentials: Vec<Credential>,
}

impl ContainerRegistry {
    fn is_empty(&self) -> bool {
        self.mirrors.is_empty() && self.credentials.is_empty()
    }
}

#[derive(Serialize)]
struct Mirror {
    registry: String,
    endpoint: Vec<String>,
}

/// The credentials of a registry.
#[derive(Serialize)]
pub struct Credential {
    registry: String,
    /// User name and password together in base64. Bottlerocket writes the settings into a file without escaping, so a quotation
    /// mark in a plain password would break the file.
    auth: String,
}

impl Credential {
    /// Returns the credentials of the registry at the host `registry`.
    #[must_use]
    pub fn new(registry: &str, username: &str, password: &str) -> Self {
        Self {
            registry: registry.to_owned(),
            auth: STANDARD.encode(format!("{username}:{password}")),
        }
    }
}

/// Returns the user data of an instance of `target` in base64, as EC2 expects it.
///
/// # Errors
/// [`StageError::InvalidConfig`] if the user data is too large.
pub fn encode(target: &Target, credentials: Vec<Credential>) -> Result<String, StageError> {
    let user_data = toml(&target.builder_settings, credentials);
    if user_data.len() > MAX_BYTES {
        let problem = format!(
            "the builder's user data has {} bytes, and EC2 allows {MAX_BYTES}. Shorten `builder_settings`, above all the \
             certificate bundles, or the registry credentials",
            user_data.len()
        );
        return Err(InvalidConfig::new(target.cache.as_str(), problem).into());
    }
    Ok(STANDARD.encode(user_data))
}

fn toml(settings: &BuilderSettings, credentials: Vec<Credential>) -> String {
    let mirrors = settings.registry_mirrors.iter();
    let bundles = settings.pki.iter();
    let user_data = UserData {
        settings: BottlerocketSettings {
            kubernetes: Kubernetes {
                hostname_override: HOST_NAME,
            },
            host_containers: HostContainers {
                admin: HostContainer { enabled: true },
            },
            network: Network {
                https_proxy: settings.https_proxy.clone().map(String::from),
                no_proxy: settings
                    .no_proxy
                    .iter()
                    .cloned()
                    .map(String::from)
                    .collect(),
            },
            pki: bundles
                .map(|(name, bundle)| {
                    let pki = Pki {
                        data: STANDARD.encode(bundle.as_str()),
                        trusted: true,
                    };
                    (name.as_str().to_owned(), pki)
                })
                .collect(),
            container_registry: ContainerRegistry {
                mirrors: mirrors
                    .map(|(registry, endpoints)| Mirror {
                        registry: registry.as_str().to_owned(),
                        endpoint: endpoints.iter().cloned().map(String::from).collect(),
                    })
                    .collect(),
                credentials,
            },
        },
    };
    toml::to_string(&user_data)
        .expect("every key is a string and every value can be written in TOML")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_matches_bottlerocket_settings() {
        let credentials = vec![Credential::new(
            "registry.example.com",
            "team",
            "with \"quotes\"",
        )];
        assert_eq!(
            toml(&BuilderSettings::default(), credentials),
            "[settings.kubernetes]\nhostname-override = \"prepull-builder\"\n\n\
             [settings.host-containers.admin]\nenabled = true\n\n\
             [[settings.container-registry.credentials]]\nregistry = \"registry.example.com\"\n\
             auth = \"dGVhbTp3aXRoICJxdW90ZXMi\"\n"
        );
    }

    #[test]
    fn user_data_without_credentials_omits_registries() {
        let user_data = toml(&BuilderSettings::default(), Vec::new());
        assert!(!user_data.contains("registry"), "{user_data}");
    }

    #[test]
    fn user_data_contains_builder_settings() {
        let settings = serde_json::from_value(serde_json::json!({
            "https_proxy": "http://proxy.example.com:3128",
            "no_proxy": ["10.0.0.0/8", ".example.com"],
            "pki": {"company": "-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n"},
            "registry_mirrors": {"docker.io": ["https://mirror.example.com", "https://other.example.com"]}
        }))
        .unwrap();
        assert_eq!(
            toml(&settings, Vec::new()),
            "[settings.kubernetes]\nhostname-override = \"prepull-builder\"\n\n\
             [settings.host-containers.admin]\nenabled = true\n\n\
             [settings.network]\nhttps-proxy = \"http://proxy.example.com:3128\"\n\
             no-proxy = [\"10.0.0.0/8\", \".example.com\"]\n\n\
             [settings.pki.company]\n\
             data = \"LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tClptOXYKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=\"\n\
             trusted = true\n\n\
             [[settings.container-registry.mirrors]]\nregistry = \"docker.io\"\n\
             endpoint = [\"https://mirror.example.com\", \"https://other.example.com\"]\n"
        );
    }
}

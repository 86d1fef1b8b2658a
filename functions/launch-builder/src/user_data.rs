//! The boot settings of a builder.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prepull_aws::Clients;
use prepull_domain::StageError;
use prepull_domain::build::payload::Target;
use prepull_registry::read_credentials;
use serde::Serialize;

/// Host name of a builder. Any value works.
///
/// Without it, Bottlerocket's `pluto` calls `ec2:DescribeInstances`, which a builder may not. That delays the host
/// containers, and so the agent, for 300 s.
const HOST_NAME: &str = "prepull-builder";

#[derive(Serialize)]
struct UserData {
    settings: BottlerocketSettings,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct BottlerocketSettings {
    kubernetes: Kubernetes,
    host_containers: HostContainers,
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

#[derive(Serialize)]
struct ContainerRegistry {
    credentials: Vec<Credential>,
}

impl ContainerRegistry {
    fn is_empty(&self) -> bool {
        self.credentials.is_empty()
    }
}

#[derive(Serialize)]
struct Credential {
    registry: String,
    /// User name and password together in base64. Bottlerocket writes the settings into a file without escaping, so a quotation
    /// mark in a plain password would break the file.
    auth: String,
}

/// Returns the user data of the builder of `target` in base64, as EC2 expects it. It contains the credentials of the
/// registries of the target's images, and no others.
///
/// # Errors
/// [`StageError::InvalidConfig`] if credentials cannot be read.
pub(crate) async fn for_target(clients: &Clients, target: &Target) -> Result<String, StageError> {
    let hosts: BTreeSet<_> = target
        .images
        .iter()
        .map(|image| image.reference.registry())
        .collect();
    let mut credentials = Vec::new();
    for (host, source) in &target.registry_credentials {
        if hosts.contains(host.as_str()) {
            let read = read_credentials(clients, target.cache.as_str(), host, source).await?;
            credentials.push(Credential {
                registry: host.clone(),
                auth: STANDARD.encode(format!("{}:{}", read.username, read.password)),
            });
        }
    }
    Ok(STANDARD.encode(toml(credentials)))
}

fn toml(credentials: Vec<Credential>) -> String {
    let user_data = UserData {
        settings: BottlerocketSettings {
            kubernetes: Kubernetes {
                hostname_override: HOST_NAME,
            },
            host_containers: HostContainers {
                admin: HostContainer { enabled: true },
            },
            container_registry: ContainerRegistry { credentials },
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
        let credentials = vec![Credential {
            registry: "registry.example.com".into(),
            auth: STANDARD.encode("team:with \"quotes\""),
        }];
        assert_eq!(
            toml(credentials),
            "[settings.kubernetes]\nhostname-override = \"prepull-builder\"\n\n\
             [settings.host-containers.admin]\nenabled = true\n\n\
             [[settings.container-registry.credentials]]\nregistry = \"registry.example.com\"\n\
             auth = \"dGVhbTp3aXRoICJxdW90ZXMi\"\n"
        );
    }

    #[test]
    fn user_data_without_credentials_omits_registries() {
        assert!(!toml(Vec::new()).contains("registry"));
    }
}

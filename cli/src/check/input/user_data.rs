//! Bottlerocket's settings in user data.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// User data of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserData {
    /// Bottlerocket's settings.
    Settings(Settings),
    /// Content that Bottlerocket does not read, with the reason.
    Unreadable(String),
}

/// The settings that decide if a node uses the images of the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// containerd's snapshotter.
    pub snapshotter: Option<String>,
    /// Disk usage in percent at which the kubelet removes images.
    pub image_gc_high_percent: Option<u64>,
    /// Age at which the kubelet removes unused images.
    pub image_maximum_gc_age: Option<String>,
    /// Commands that bind directories to the instance store.
    pub binds: Vec<Bind>,
}

/// A bootstrap command that binds directories to the instance store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Name of the bootstrap command.
    pub name: String,
    /// The directories. `None` if the command leaves them to Bottlerocket.
    pub directories: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    settings: RawSettings,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct RawSettings {
    container_runtime: ContainerRuntime,
    kubernetes: Kubernetes,
    bootstrap_commands: BTreeMap<String, BootstrapCommand>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerRuntime {
    snapshotter: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Kubernetes {
    // Bottlerocket accepts a number and a string.
    image_gc_high_threshold_percent: Option<toml::Value>,
    image_maximum_gc_age: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BootstrapCommand {
    commands: Vec<Vec<String>>,
    mode: Option<String>,
}

impl UserData {
    /// Parses user data as Karpenter takes it.
    pub fn parse(text: &str) -> Self {
        match toml::from_str::<Document>(text) {
            Ok(document) => Self::Settings(document.settings.into()),
            Err(error) => Self::Unreadable(format!(
                "it is not Bottlerocket's TOML: {}",
                error.message()
            )),
        }
    }

    /// Parses user data as EC2 takes it, in base64.
    pub fn parse_base64(text: &str) -> Self {
        let compact: String = text.split_whitespace().collect();
        let decoded = STANDARD
            .decode(compact)
            .map_err(|error| error.to_string())
            .and_then(|bytes| String::from_utf8(bytes).map_err(|error| error.to_string()));
        match decoded {
            Ok(text) => Self::parse(&text),
            Err(error) => Self::Unreadable(format!("it is not text in base64: {error}")),
        }
    }
}

impl From<RawSettings> for Settings {
    fn from(raw: RawSettings) -> Self {
        let percent = raw.kubernetes.image_gc_high_threshold_percent;
        let binds = raw.bootstrap_commands.into_iter();
        Self {
            snapshotter: raw.container_runtime.snapshotter,
            image_gc_high_percent: percent.and_then(|percent| match percent {
                toml::Value::String(text) => text.parse().ok(),
                other => u64::try_from(other.as_integer()?).ok(),
            }),
            image_maximum_gc_age: raw.kubernetes.image_maximum_gc_age,
            binds: binds
                .filter(|(_, command)| command.mode.as_deref() != Some("off"))
                .flat_map(|(name, command)| {
                    let binds: Vec<_> = command
                        .commands
                        .iter()
                        .filter_map(|c| bind(&name, c))
                        .collect();
                    binds
                })
                .collect(),
        }
    }
}

/// Returns the bind of a command, if it is `apiclient ephemeral-storage bind`.
fn bind(name: &str, command: &[String]) -> Option<Bind> {
    let [client, storage, bind, options @ ..] = command else {
        return None;
    };
    if [client.as_str(), storage, bind] != ["apiclient", "ephemeral-storage", "bind"] {
        return None;
    }
    let directories: Vec<String> = options
        .iter()
        .map(|option| option.strip_prefix("--dirs=").unwrap_or(option))
        .filter(|option| option.starts_with('/'))
        .map(str::to_owned)
        .collect();
    Some(Bind {
        name: name.to_owned(),
        directories: (!directories.is_empty()).then_some(directories),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[settings.container-runtime]
snapshotter = "soci"
[settings.kubernetes]
image-gc-high-threshold-percent = "90"
image-maximum-gc-age = "24h"
[settings.bootstrap-commands.disks]
commands = [["apiclient", "ephemeral-storage", "init"], ["apiclient", "ephemeral-storage", "bind", "--dirs", "/var/lib/kubelet"]]
mode = "always"
[settings.bootstrap-commands.unused]
commands = [["apiclient", "ephemeral-storage", "bind"]]
mode = "off"
"#;

    #[test]
    fn user_data_parses_plain_and_in_base64() {
        let parsed = UserData::parse(TEXT);
        let expected = Settings {
            snapshotter: Some("soci".to_owned()),
            image_gc_high_percent: Some(90),
            image_maximum_gc_age: Some("24h".to_owned()),
            binds: vec![Bind {
                name: "disks".to_owned(),
                directories: Some(vec!["/var/lib/kubelet".to_owned()]),
            }],
        };
        assert_eq!(parsed, UserData::Settings(expected));
        assert_eq!(UserData::parse_base64(&STANDARD.encode(TEXT)), parsed);
    }

    #[test]
    fn other_user_data_is_unreadable_with_a_reason() {
        for parsed in [
            UserData::parse("#!/bin/bash\n/etc/eks/bootstrap.sh"),
            UserData::parse_base64("%%%"),
        ] {
            assert!(matches!(parsed, UserData::Unreadable(_)), "{parsed:?}");
        }
    }
}

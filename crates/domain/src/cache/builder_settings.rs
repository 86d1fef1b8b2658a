//! Bottlerocket settings that a person can add to a builder: proxy, certificates and registry mirrors.
//!
//! The types refuse what looks like a secret, because many readers can see user data: every process on the builder, and
//! everyone with `ec2:DescribeInstanceAttribute`. They also refuse text that Bottlerocket would reject, because a node with
//! rejected user data never starts its agent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cache::image::ImageReference;

/// Settings that are merged into the user data of every builder of a cache.
///
/// Source of the names and formats: Bottlerocket's documentation of `settings.network`, `settings.pki` and
/// `settings.container-registry`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuilderSettings {
    /// Proxy for HTTPS connections: `settings.network.https-proxy`.
    #[serde(default)]
    pub https_proxy: Option<ProxyUrl>,
    /// Hosts that the builder reaches without the proxy: `settings.network.no-proxy`.
    #[serde(default)]
    pub no_proxy: Vec<NoProxyHost>,
    /// Trusted certificate bundles by name: `settings.pki.<name>`.
    #[serde(default)]
    pub pki: BTreeMap<BundleName, CertificateBundle>,
    /// Mirrors by registry host, in order of preference: `settings.container-registry.mirrors`.
    #[serde(default)]
    pub registry_mirrors: BTreeMap<MirroredRegistry, Vec<MirrorEndpoint>>,
}

impl BuilderSettings {
    /// Returns the mirrors of a registry, in order of preference. The mirrors of `*` are for registries without an entry.
    #[must_use]
    pub fn mirrors_of(&self, registry: &str) -> &[MirrorEndpoint] {
        let named = |name: &str| {
            let mut all = self.registry_mirrors.iter();
            all.find(|(mirrored, _)| mirrored.as_str() == name)
        };
        named(registry)
            .or_else(|| named("*"))
            .map_or(&[], |(_, mirrors)| mirrors)
    }
}

/// A setting that a builder cannot use. The message of a secret does not repeat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSetting {
    /// The text does not have the format of the setting.
    #[error("`{given}` is not {kind}: expected {expected}")]
    Malformed {
        /// The text.
        given: String,
        /// Kind of the setting with its article.
        kind: &'static str,
        /// Expected format.
        expected: &'static str,
    },
    /// A proxy with a user name or password.
    #[error(
        "the proxy has a user name or password, and user data is not secret. Remove it, and let the proxy admit the \
         builders by their subnet or security group"
    )]
    ProxyPassword,
    /// A mirror with a user name or password.
    #[error(
        "a mirror has a user name or password, and the configuration is not secret. Remove it, and set \
         `registry_credentials` for the registry that is mirrored"
    )]
    MirrorPassword,
    /// A bundle with a private key.
    #[error(
        "a certificate bundle contains a private key. Remove the key, and list only certificates"
    )]
    PrivateKey,
    /// A bundle without a certificate, or with other text.
    #[error(
        "a certificate bundle is not in PEM format: expected blocks from `-----BEGIN CERTIFICATE-----` to `-----END \
         CERTIFICATE-----` with Base64 between them, and nothing else"
    )]
    NotPem,
}

/// Declares a newtype over `String` whose constructor is `TryFrom<String>` with a check.
macro_rules! setting {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the setting as a string.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidSetting;

            fn try_from(given: String) -> Result<Self, InvalidSetting> {
                let check: fn(&str) -> Result<(), InvalidSetting> = $check;
                check(&given).map(|()| Self(given))
            }
        }

        impl From<$name> for String {
            fn from(setting: $name) -> String {
                setting.0
            }
        }
    };
}

setting!(
    /// A proxy: `host:port`, or an `http` or `https` URL.
    ProxyUrl, |given| {
        if given.contains('@') {
            return Err(InvalidSetting::ProxyPassword);
        }
        let expected = "a host and a port like `proxy.example.com:3128`, after an optional `http://` or `https://`";
        let address = without_scheme(given);
        expect(is_host(address.strip_suffix('/').unwrap_or(address)), given, "a proxy", expected)
    }
);
setting!(
    /// A host that is reached without the proxy: a name, a domain with a leading dot, an address, or a CIDR block.
    NoProxyHost, |given| {
        let valid = (1..=255).contains(&given.len())
            && given.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:/*".contains(&b));
        expect(valid, given, "a host without proxy", "one name, domain, address or CIDR block")
    }
);
setting!(
    /// The name of a certificate bundle. It becomes a key in Bottlerocket's settings.
    BundleName, |given| {
        let valid = (1..=64).contains(&given.len())
            && given.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        expect(valid, given, "a name of a certificate bundle", "1 to 64 characters of letters, digits, `-` and `_`")
    }
);
setting!(
    /// Certificates in PEM format.
    CertificateBundle, |given| {
        if given.contains("PRIVATE KEY") {
            return Err(InvalidSetting::PrivateKey);
        }
        if is_pem(given) { Ok(()) } else { Err(InvalidSetting::NotPem) }
    }
);
setting!(
    /// A registry with mirrors: its host as in the images' references, or `*` for every registry.
    MirroredRegistry, |given| {
        let valid = given == "*" || format!("{given}/a/b:1").parse::<ImageReference>().is_ok_and(|image| image.registry() == given);
        expect(valid, given, "a mirrored registry", "the host of an image, for example `docker.io`, or `*`")
    }
);
setting!(
    /// A mirror: `host[:port][/path]`, after an optional scheme. Without one, host-ctr uses HTTPS.
    MirrorEndpoint, |given| {
        if given.contains('@') {
            return Err(InvalidSetting::MirrorPassword);
        }
        let (host, path) = without_scheme(given).split_once('/').unwrap_or((without_scheme(given), ""));
        // Bottlerocket writes the endpoint into a file between quotation marks, without escaping.
        let valid = is_host(host) && path.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_/".contains(&b));
        expect(valid, given, "a mirror", "a URL like `https://mirror.example.com/v2/hub`")
    }
);

fn expect(
    valid: bool,
    given: &str,
    kind: &'static str,
    expected: &'static str,
) -> Result<(), InvalidSetting> {
    if valid {
        Ok(())
    } else {
        Err(InvalidSetting::Malformed {
            given: crate::excerpt(given, 80),
            kind,
            expected,
        })
    }
}

fn without_scheme(url: &str) -> &str {
    url.strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))
        .unwrap_or(url)
}

/// Returns whether `text` is a host name or IPv4 address with an optional port.
fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "443"));
    (1..=253).contains(&host.len())
        && host.starts_with(|c: char| c.is_ascii_alphanumeric())
        && host.ends_with(|c: char| c.is_ascii_alphanumeric())
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Returns whether `text` consists of certificates in PEM format. Blank lines between them are allowed.
fn is_pem(text: &str) -> bool {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut blocks = 0;
    let mut inside = None;
    for line in text.lines().map(str::trim) {
        match inside {
            None if line == BEGIN => inside = Some(0),
            None if line.is_empty() => {}
            Some(1..) if line == END => {
                blocks += 1;
                inside = None;
            }
            Some(lines)
                if !line.is_empty()
                    && line
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)) =>
            {
                inside = Some(lines + 1);
            }
            _ => return false,
        }
    }
    blocks > 0 && inside.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const PEM: &str =
        "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU\nZm9v\n-----END CERTIFICATE-----\n";

    fn parse(field: &str, value: &Value) -> Result<BuilderSettings, String> {
        serde_json::from_value(json!({ field: value })).map_err(|error| error.to_string())
    }

    #[test]
    fn usual_settings_are_accepted() {
        for (field, value) in [
            ("https_proxy", json!("proxy.example.com:3128")),
            ("https_proxy", json!("http://10.0.0.1:3128/")),
            (
                "no_proxy",
                json!(["10.0.0.0/8", ".example.com", "*.internal", "fd00::/8"]),
            ),
            ("pki", json!({ "company-root": format!("{PEM}\n{PEM}") })),
            (
                "registry_mirrors",
                json!({ "docker.io": ["https://mirror.example.com:5000/v2/hub"] }),
            ),
            (
                "registry_mirrors",
                json!({ "*": ["mirror.example.com", "http://10.0.0.1:5000"] }),
            ),
            (
                "registry_mirrors",
                json!({ "registry.example.com:5443": ["mirror.example.com"] }),
            ),
        ] {
            assert!(parse(field, &value).is_ok(), "{field} = {value}");
        }
    }

    #[test]
    fn malformed_settings_are_refused() {
        for (field, value) in [
            ("https_proxy", json!("")),
            ("https_proxy", json!("socks5://proxy.example.com:1080")),
            ("https_proxy", json!("proxy.example.com:99999")),
            (
                "https_proxy",
                json!("proxy.example.com:3128\"\n[settings.motd]"),
            ),
            ("no_proxy", json!(["a.example.com,b.example.com"])),
            ("pki", json!({ "company root": PEM })),
            ("pki", json!({ "company": "MIIBszCCAVmgAwIBAgIU" })),
            (
                "pki",
                json!({ "company": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----" }),
            ),
            ("pki", json!({ "company": PEM.trim_end_matches("-----\n") })),
            (
                "registry_mirrors",
                json!({ "https://docker.io": ["mirror.example.com"] }),
            ),
            (
                "registry_mirrors",
                json!({ "docker.io": ["mirror.example.com\""] }),
            ),
            ("registry_mirrors", json!({ "docker.io": [""] })),
            ("motd", json!("hello")),
        ] {
            assert!(parse(field, &value).is_err(), "{field} = {value}");
        }
    }

    #[test]
    fn secret_is_refused_and_not_repeated() {
        let key = format!("{PEM}-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n");
        for (field, value, remedy) in [
            (
                "https_proxy",
                json!("http://team:hunter2@proxy.example.com:3128"),
                "subnet or security group",
            ),
            (
                "registry_mirrors",
                json!({ "docker.io": ["https://team:hunter2@mirror.example.com"] }),
                "`registry_credentials`",
            ),
            ("pki", json!({ "company": key }), "only certificates"),
        ] {
            let error = parse(field, &value).unwrap_err();
            assert!(error.contains(remedy), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}

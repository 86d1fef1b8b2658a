//! User names and passwords of registries.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prepull_domain::cache::config::CredentialSource;
use prepull_domain::{InvalidConfig, StageError, excerpt};
use serde_json::{Map, Value};

use prepull_aws::{Clients, StageResult, parameters};

/// A user name and a password for a registry. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryCredentials {
    /// The user.
    pub username: String,
    /// The password or token.
    pub password: String,
}

impl fmt::Debug for RegistryCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryCredentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Returns the credentials of the registry `host` from the source that the cache declares.
///
/// # Errors
/// [`StageError::InvalidConfig`] if they are missing or have another shape. The message never contains the value.
pub async fn read_credentials(
    clients: &Clients,
    cache: &str,
    host: &str,
    source: &CredentialSource,
) -> Result<RegistryCredentials, StageError> {
    let (place, value) = match source {
        CredentialSource::Secret { secret_arn } => {
            let secret = clients
                .secrets
                .get_secret_value()
                .secret_id(secret_arn)
                .send()
                .await;
            let secret = secret.or_stage_error("secretsmanager:GetSecretValue")?;
            (format!("secret {secret_arn}"), secret.secret_string)
        }
        CredentialSource::Parameter { parameter_name } => (
            format!("parameter {parameter_name}"),
            parameters::get(clients, parameter_name).await?,
        ),
    };
    let parsed = value
        .ok_or_else(|| "has no text".to_owned())
        .and_then(|value| parse(&value, host));
    parsed.map_err(|problem| {
        let text = format!(
            "the credentials of registry `{host}` are not usable: {place} {problem}. Store JSON with the strings \
             `username` and `password`, or `username` and `accessToken` as for ECR's pull-through caches, or the \
             `auths` of a Docker configuration"
        );
        InvalidConfig::new(cache, text).into()
    })
}

/// Parses credentials in one of three shapes. Other keys beside them are ignored.
///
/// # Errors
/// Returns a description of the shape. It contains names of keys, but no values.
fn parse(value: &str, host: &str) -> Result<RegistryCredentials, String> {
    let keys = match serde_json::from_str(value) {
        Ok(Value::Object(keys)) => keys,
        Ok(other) => return Err(format!("is JSON, but {}", kind(&other))),
        // The parser's own message could quote the value, which is secret.
        Err(_) if value.trim().is_empty() => return Err("is empty".to_owned()),
        Err(_) => return Err("is not JSON".to_owned()),
    };
    if let Some(auths) = keys.get("auths") {
        return of_docker(auths, host);
    }
    match (
        text(&keys, "username"),
        text(&keys, "password"),
        text(&keys, "accessToken"),
    ) {
        // A pull-through cache in ECR has the password of its upstream registry under this key.
        (Some(username), Some(password), _) | (Some(username), None, Some(password)) => {
            Ok(RegistryCredentials { username, password })
        }
        _ => Err(format!("is a JSON object with {}", names(&keys))),
    }
}

/// Finds the entry of `host` in the `auths` of a Docker configuration, which is also the format of Kubernetes' secrets of
/// type `kubernetes.io/dockerconfigjson`.
fn of_docker(auths: &Value, host: &str) -> Result<RegistryCredentials, String> {
    let Value::Object(auths) = auths else {
        return Err(format!("has `auths`, but it is {}", kind(auths)));
    };
    let entry = auths.iter().find(|(key, _)| is_key_of(key, host));
    let Some((key, entry)) = entry else {
        return Err(format!(
            "has `auths` without `{host}`, but with {}",
            names(auths)
        ));
    };
    let Value::Object(entry) = entry else {
        return Err(format!("has `auths`, but its `{key}` is {}", kind(entry)));
    };
    if let (Some(username), Some(password)) = (text(entry, "username"), text(entry, "password")) {
        return Ok(RegistryCredentials { username, password });
    }
    let Some(auth) = text(entry, "auth") else {
        // Its password is in an identity token or in a credential helper.
        return Err(format!("has `auths`, but its `{key}` has {}", names(entry)));
    };
    let decoded = STANDARD.decode(auth.trim()).ok();
    let decoded = decoded.and_then(|auth| String::from_utf8(auth).ok());
    let pair = decoded.as_deref().and_then(|pair| pair.split_once(':'));
    match pair {
        Some((username, password)) if !username.is_empty() && !password.is_empty() => {
            Ok(RegistryCredentials {
                username: username.to_owned(),
                password: password.to_owned(),
            })
        }
        _ => Err(format!(
            "has `auths`, but the `auth` of its `{key}` is not a user name and a password in base64"
        )),
    }
}

/// Returns whether a key of `auths` stands for `host`. Docker writes Docker Hub's as `https://index.docker.io/v1/`.
fn is_key_of(key: &str, host: &str) -> bool {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    let key = key.split('/').next().unwrap_or_default();
    let is_docker_hub = ["index.docker.io", "registry-1.docker.io"].contains(&key);
    key == host || host == "docker.io" && is_docker_hub
}

fn text(keys: &Map<String, Value>, key: &str) -> Option<String> {
    let text = keys.get(key)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn names(keys: &Map<String, Value>) -> String {
    if keys.is_empty() {
        return "no keys".to_owned();
    }
    // The parser keeps the order of the text or sorts, depending on its features.
    let keys: BTreeMap<_, _> = keys.iter().collect();
    let names: Vec<_> = keys
        .iter()
        .map(|(key, value)| {
            let problem = if *value == "" { " (empty)" } else { "" };
            format!("`{}`{problem}", excerpt(key, 40))
        })
        .collect();
    format!("the keys {}", names.join(", "))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_parse_in_every_shape() {
        for value in [
            r#"{"username": "team", "password": "secret"}"#,
            r#"{"username": "team", "password": "secret", "host": "registry.example.com", "port": 443}"#,
            r#"{"username": "team", "accessToken": "secret"}"#,
            r#"{"auths": {"registry.example.com": {"auth": "dGVhbTpzZWNyZXQ="}}}"#,
            r#"{"auths": {"https://registry.example.com/v2/": {"username": "team", "password": "secret"}}}"#,
            r#"{"auths": {"registry.example.com": {"auth": "dGVhbTpzZWNyZXQ=", "email": ""}}, "credsStore": ""}"#,
        ] {
            let expected = RegistryCredentials {
                username: "team".to_owned(),
                password: "secret".to_owned(),
            };
            assert_eq!(
                parse(value, "registry.example.com"),
                Ok(expected),
                "{value}"
            );
        }
        let hub = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dGVhbTpzZWNyZXQ="}}}"#;
        assert!(parse(hub, "docker.io").is_ok());
    }

    #[test]
    fn other_shape_is_described_without_its_values() {
        for (value, shape) in [
            ("", "is empty"),
            ("team:secret", "is not JSON"),
            (r#"["secret"]"#, "is JSON, but a list"),
            (
                r#"{"user": "team", "pass": "secret"}"#,
                "is a JSON object with the keys `pass`, `user`",
            ),
            (
                r#"{"username": "team", "password": ""}"#,
                "is a JSON object with the keys `password` (empty), `username`",
            ),
            ("{}", "is a JSON object with no keys"),
            (
                r#"{"auths": {"other.example.com": {"auth": "secret"}}}"#,
                "has `auths` without `registry.example.com`, but with the keys `other.example.com`",
            ),
            (
                r#"{"auths": {"registry.example.com": {"identitytoken": "secret"}}}"#,
                "has `auths`, but its `registry.example.com` has the keys `identitytoken`",
            ),
            (
                r#"{"auths": {"registry.example.com": {"auth": "secret"}}}"#,
                "has `auths`, but the `auth` of its `registry.example.com` is not a user name and a password in base64",
            ),
        ] {
            let error = parse(value, "registry.example.com").unwrap_err();
            assert_eq!(error, shape, "{value}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

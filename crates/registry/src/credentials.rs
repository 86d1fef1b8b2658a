//! User names and passwords of registries.

use std::fmt;

use prepull_domain::cache::config::CredentialSource;
use prepull_domain::{InvalidConfig, StageError};
use serde::Deserialize;

use prepull_aws::{Clients, StageResult, parameters};

/// A user name and a password for a registry. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
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
    let invalid = |problem: &str| {
        StageError::from(InvalidConfig::new(
            cache,
            format!(
                "the credentials of registry `{host}` in {place} {problem}. Store JSON with the strings `username` \
                 and `password`"
            ),
        ))
    };
    let value = value.ok_or_else(|| invalid("are missing"))?;
    // The parser's own message could quote the value, which is secret.
    serde_json::from_str(&value).map_err(|_| invalid("have the wrong format"))
}

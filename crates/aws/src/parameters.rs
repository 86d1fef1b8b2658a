//! Parameters of Systems Manager's Parameter Store.

use std::collections::BTreeMap;

use aws_sdk_ssm::types::{ParameterTier, ParameterType};
use prepull_domain::{CacheConfig, CacheName, InvalidConfig, StageError, names};

use crate::{AwsError, Clients, StageResult};

/// Returns the decrypted value of a parameter, or `None` if the parameter does not exist.
///
/// # Errors
/// If Systems Manager does not answer.
pub async fn get(clients: &Clients, name: &str) -> Result<Option<String>, StageError> {
    match clients
        .ssm
        .get_parameter()
        .name(name)
        .with_decryption(true)
        .send()
        .await
    {
        Ok(answer) => Ok(answer.parameter.and_then(|parameter| parameter.value)),
        Err(error) if error.aws_code() == Some("ParameterNotFound") => Ok(None),
        Err(error) => Err(error.into_stage_error("ssm:GetParameter")),
    }
}

/// Sets a parameter and overwrites any earlier value.
///
/// # Errors
/// If Systems Manager rejects the call.
pub async fn put(clients: &Clients, name: &str, value: &str) -> Result<(), StageError> {
    clients
        .ssm
        .put_parameter()
        .name(name)
        .value(value)
        .r#type(ParameterType::String)
        // Only the manifest of many images needs the advanced tier.
        .tier(ParameterTier::IntelligentTiering)
        .overwrite(true)
        .send()
        .await
        .or_stage_error("ssm:PutParameter")?;
    Ok(())
}

/// Returns all parameters below `path`, recursively, by name.
///
/// # Errors
/// If Systems Manager does not answer.
pub async fn below(clients: &Clients, path: &str) -> Result<BTreeMap<String, String>, StageError> {
    let mut pages = clients
        .ssm
        .get_parameters_by_path()
        .path(path)
        .recursive(true)
        .into_paginator()
        .send();
    let mut parameters = BTreeMap::new();
    while let Some(page) = pages.next().await {
        let page = page.or_stage_error("ssm:GetParametersByPath")?;
        parameters.extend(
            page.parameters
                .unwrap_or_default()
                .into_iter()
                .filter_map(|parameter| Some((parameter.name?, parameter.value?))),
        );
    }
    Ok(parameters)
}

/// Returns every declared cache with its configuration or its configuration error. An invalid cache does not stop builds of
/// the others.
///
/// # Errors
/// If Systems Manager does not answer.
pub async fn caches(
    clients: &Clients,
) -> Result<BTreeMap<CacheName, Result<CacheConfig, InvalidConfig>>, StageError> {
    let configurations = below(clients, names::CONFIG_PATH).await?;
    Ok(configurations
        .into_iter()
        .filter_map(|(parameter, json)| {
            let name = parameter
                .strip_prefix(names::CONFIG_PATH)?
                .strip_prefix('/')?;
            match name.parse::<CacheName>() {
                Ok(cache) => Some((cache.clone(), CacheConfig::parse(&cache, &json))),
                Err(error) => {
                    tracing::error!(parameter, cause = %error, "parameter name contains no cache name");
                    None
                }
            }
        })
        .collect())
}

/// Deletes a parameter. Returns whether it existed.
///
/// # Errors
/// If Systems Manager rejects the call.
pub async fn delete(clients: &Clients, name: &str) -> Result<bool, StageError> {
    match clients.ssm.delete_parameter().name(name).send().await {
        Ok(_) => Ok(true),
        Err(error) if error.aws_code() == Some("ParameterNotFound") => Ok(false),
        Err(error) => Err(error.into_stage_error("ssm:DeleteParameter")),
    }
}

/// Returns the configuration of the cache `name`.
///
/// # Errors
/// [`StageError::InvalidConfig`] if the cache does not exist or its configuration is invalid.
pub async fn cache(clients: &Clients, name: &str) -> Result<(CacheName, CacheConfig), StageError> {
    let invalid = |problem: String| StageError::from(InvalidConfig::new(name, problem));
    let cache: CacheName = name
        .parse()
        .map_err(|error: prepull_domain::ids::InvalidId| invalid(error.to_string()))?;
    let parameter = names::config_parameter(&cache);
    let json = get(clients, &parameter).await?.ok_or_else(|| {
        invalid(format!(
            "there is no parameter {parameter}. Declare the cache in Terraform's `caches` and apply"
        ))
    })?;
    let config = CacheConfig::parse(&cache, &json)?;
    Ok((cache, config))
}

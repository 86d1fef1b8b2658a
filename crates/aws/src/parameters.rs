//! Parameters of Systems Manager's Parameter Store.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_ssm::types::{ParameterTier, ParameterType};
use prepull_domain::pages::{self, PagesError};
use prepull_domain::{CacheConfig, CacheName, InvalidConfig, StageError, names};

use crate::{AwsError, Clients, StageResult};

/// Interval between two writes or deletions of pages.
///
/// Parameter Store allows three `PutParameter` a second for the whole account and Region. It publishes no rate for
/// `DeleteParameter`.
///
/// Source: AWS General Reference, "AWS Systems Manager endpoints and quotas", at the default throughput.
const WRITE_INTERVAL: Duration = Duration::from_millis(400);

/// Maximum number of reads of a configuration whose pages do not fit together. `terraform apply` may delete a page between
/// two calls of one read.
const CONFIG_READS: u32 = 3;

/// Interval between two such reads.
const CONFIG_INTERVAL: Duration = Duration::from_secs(1);

/// A document that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Systems Manager did not answer.
    #[error(transparent)]
    Call(#[from] StageError),
    /// Its pages do not fit together.
    #[error(transparent)]
    Pages(#[from] PagesError),
}

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

/// Returns the document that starts at the parameter `name`, with the images of all its [`pages`]. `None` if the
/// parameter does not exist.
///
/// # Errors
/// If Systems Manager does not answer, or the pages do not fit together.
pub async fn document(clients: &Clients, name: &str) -> Result<Option<String>, DocumentError> {
    match get(clients, name).await? {
        Some(first) => complete(clients, name, first).await.map(Some),
        None => Ok(None),
    }
}

/// Returns the document whose first page is `first`, the value of the parameter `name`.
///
/// # Errors
/// If Systems Manager does not answer, or the pages do not fit together.
pub async fn complete(
    clients: &Clients,
    name: &str,
    first: String,
) -> Result<String, DocumentError> {
    let mut more = BTreeMap::new();
    for page in pages::following(name, &first)? {
        if let Some(value) = get(clients, &page).await? {
            more.insert(page, value);
        }
    }
    Ok(pages::join(name, first, |page| more.get(page).cloned())?)
}

/// Sets the parameters of a document, from the last page to the first. A reader of the first page finds all others.
///
/// # Errors
/// If Systems Manager rejects a call.
pub async fn put_document(
    clients: &Clients,
    name: &str,
    pages: &[String],
) -> Result<(), StageError> {
    for (index, page) in pages.iter().enumerate().skip(1).rev() {
        put(clients, &names::page_parameter(name, index + 1), page).await?;
        tokio::time::sleep(WRITE_INTERVAL).await;
    }
    match pages.first() {
        Some(first) => put(clients, name, first).await,
        None => Ok(()),
    }
}

/// Deletes the parameter `name` and then `pages`, its further pages, so no reader of the first page misses another.
/// Returns whether one of them existed.
///
/// # Errors
/// If Systems Manager rejects a call.
pub async fn delete_document(
    clients: &Clients,
    name: &str,
    pages: impl IntoIterator<Item = String>,
) -> Result<bool, StageError> {
    let mut existed = delete(clients, name).await?;
    for page in pages {
        tokio::time::sleep(WRITE_INTERVAL).await;
        existed |= delete(clients, &page).await?;
    }
    Ok(existed)
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
        // A first page that earlier versions wrote may be an advanced parameter, which cannot become a standard one. From
        // 10,000 parameters on, Parameter Store creates advanced ones.
        // Source: Systems Manager user guide, "Managing parameter tiers".
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
    let mut reads = 1;
    loop {
        let documents = documents(&below(clients, names::CONFIG_PATH).await?);
        if reads < CONFIG_READS && documents.values().any(Result::is_err) {
            reads += 1;
            tokio::time::sleep(CONFIG_INTERVAL).await;
            continue;
        }
        let parse = |(cache, json): (CacheName, Result<String, PagesError>)| {
            let config = json
                .map_err(|error| torn(&cache, &error))
                .and_then(|json| CacheConfig::parse(&cache, &json));
            (cache, config)
        };
        return Ok(documents.into_iter().map(parse).collect());
    }
}

/// Returns the configuration of each cache as JSON, from all parameters below [`names::CONFIG_PATH`].
fn documents(
    parameters: &BTreeMap<String, String>,
) -> BTreeMap<CacheName, Result<String, PagesError>> {
    let page = |name: &str| parameters.get(name).cloned();
    parameters
        .iter()
        .filter_map(|(parameter, json)| {
            let name = parameter
                .strip_prefix(names::CONFIG_PATH)?
                .strip_prefix('/')?;
            // The further pages are deeper.
            if name.contains('/') {
                return None;
            }
            match name.parse::<CacheName>() {
                Ok(cache) => Some((cache, pages::join(parameter, json.clone(), page))),
                Err(error) => {
                    tracing::error!(parameter, cause = %error, "parameter name contains no cache name");
                    None
                }
            }
        })
        .collect()
}

/// Returns the error of a configuration whose pages do not fit together, even after several reads.
fn torn(cache: &CacheName, error: &PagesError) -> InvalidConfig {
    let parameter = names::config_parameter(cache);
    let problem = format!("in parameter {parameter}, {error}. Run `terraform apply` again");
    InvalidConfig::new(cache.as_str(), problem)
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
    let mut reads = 1;
    let json = loop {
        match document(clients, &parameter).await {
            Ok(json) => break json,
            Err(DocumentError::Call(error)) => return Err(error),
            Err(DocumentError::Pages(error)) if reads == CONFIG_READS => {
                return Err(torn(&cache, &error).into());
            }
            Err(DocumentError::Pages(_)) => {
                reads += 1;
                tokio::time::sleep(CONFIG_INTERVAL).await;
            }
        }
    };
    let json = json.ok_or_else(|| {
        invalid(format!(
            "there is no parameter {parameter}. Declare the cache in Terraform's `caches` and apply"
        ))
    })?;
    let config = CacheConfig::parse(&cache, &json)?;
    Ok((cache, config))
}

//! Finds the AMIs of builders and verifiers. AWS publishes Bottlerocket's AMIs in public parameters.

use prepull_domain::build::payload::Ami;
use prepull_domain::{
    Architecture, BottlerocketVersion, CacheConfig, CacheName, InvalidConfig, StageError, Variant,
};

use crate::{Clients, parameters};

/// Returns the AMI of the requested release.
///
/// # Errors
/// [`StageError::InvalidConfig`] if Bottlerocket publishes no such AMI, or every build on its release fails.
pub async fn find(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
    config: &CacheConfig,
) -> Result<Ami, StageError> {
    let version = config.bottlerocket_version.as_str();
    let ami = of_release(clients, cache, architecture, &config.variant, version).await?;
    ami.version
        .check_usable()
        .map_err(|error| InvalidConfig::new(cache.as_str(), error.to_string()))?;
    Ok(ami)
}

/// Returns the AMI of `version`, which is `latest` or a release.
///
/// # Errors
/// [`StageError::InvalidConfig`] if Bottlerocket publishes no such AMI.
pub async fn of_release(
    clients: &Clients,
    cache: &CacheName,
    architecture: Architecture,
    variant: &Variant,
    version: &str,
) -> Result<Ami, StageError> {
    let path = format!("/aws/service/bottlerocket/{variant}/{architecture}/{version}");
    let id = parameters::get(clients, &format!("{path}/image_id")).await?;
    let released = parameters::get(clients, &format!("{path}/image_version")).await?;
    let invalid = |problem: String| InvalidConfig::new(cache.as_str(), problem);
    let (Some(id), Some(released)) = (id, released) else {
        return Err(invalid(format!(
            "Bottlerocket has no AMI of variant `{variant}`, version `{version}`, for {architecture} in this region (no \
             parameter {path}/image_id). Correct `variant`, `bottlerocket_version` or `verification.releases`"
        ))
        .into());
    };
    let version: BottlerocketVersion = released
        .parse()
        .map_err(|error| invalid(format!("{path}/image_version: {error}")))?;
    Ok(Ami {
        id: id
            .parse()
            .map_err(|error| invalid(format!("{path}/image_id: {error}")))?,
        version,
    })
}

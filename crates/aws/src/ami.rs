//! Finds the builder's AMI. AWS publishes Bottlerocket's AMIs in public parameters.

use prepull_domain::build::payload::Ami;
use prepull_domain::{
    Architecture, BottlerocketVersion, CacheConfig, CacheName, InvalidConfig, StageError,
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
    let path = format!(
        "/aws/service/bottlerocket/{}/{architecture}/{version}",
        config.variant
    );
    let id = parameters::get(clients, &format!("{path}/image_id")).await?;
    let released = parameters::get(clients, &format!("{path}/image_version")).await?;
    let invalid = |problem: String| InvalidConfig::new(cache.as_str(), problem);
    let (Some(id), Some(released)) = (id, released) else {
        return Err(invalid(format!(
            "Bottlerocket has no AMI of variant `{}`, version `{version}`, for {architecture} in this region (no \
             parameter {path}/image_id). Correct `variant` or `bottlerocket_version`",
            config.variant
        ))
        .into());
    };
    let version: BottlerocketVersion = released
        .parse()
        .map_err(|error| invalid(format!("{path}/image_version: {error}")))?;
    version
        .check_usable()
        .map_err(|error| invalid(error.to_string()))?;
    Ok(Ami {
        id: id
            .parse()
            .map_err(|error| invalid(format!("{path}/image_id: {error}")))?,
        version,
    })
}

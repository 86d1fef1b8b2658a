//! Finds the builder's AMI. AWS publishes Bottlerocket's AMIs in public parameters.

use prepull_aws::{Clients, parameters};
use prepull_domain::stages::Ami;
use prepull_domain::{Architecture, BottlerocketVersion, CacheConfig, StageError};

/// Returns the AMI of the requested release, or an error if it does not exist.
pub(crate) async fn find(
    clients: &Clients,
    architecture: Architecture,
    config: &CacheConfig,
) -> Result<Result<Ami, String>, StageError> {
    let version = config.bottlerocket_version.as_str();
    let path = format!(
        "/aws/service/bottlerocket/{}/{architecture}/{version}",
        config.variant
    );
    let id = parameters::get(clients, &format!("{path}/image_id")).await?;
    let released = parameters::get(clients, &format!("{path}/image_version")).await?;
    let (Some(id), Some(released)) = (id, released) else {
        return Ok(Err(format!(
            "Bottlerocket has no AMI of variant `{}`, version `{version}`, for {architecture} in this region (no \
             parameter {path}/image_id). Correct `variant` or `bottlerocket_version`",
            config.variant
        )));
    };
    let ami = id
        .parse()
        .map_err(|error| format!("{path}/image_id: {error}"));
    let version = released
        .parse::<BottlerocketVersion>()
        .map_err(|error| format!("{path}/image_version: {error}"));
    Ok(ami.and_then(|id| {
        Ok(Ami {
            id,
            version: version?,
        })
    }))
}

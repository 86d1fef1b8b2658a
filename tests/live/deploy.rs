//! Deployment of the module.

use anyhow::Result;
use prepull_domain::ImageReference;
use prepull_tests::Deployment;
use serde_json::{Value, json};

use crate::{CACHE, MISSING, NAME, Suite};

/// Size of the data volumes, in GiB. The default images need about one.
pub const VOLUME_GIB: u32 = 10;

/// Tag that no repository has.
const MISSING_TAG: &str = "prepull-live-missing-tag";

/// Instance types of builders and nodes: the smallest with a price in the model. New accounts may use only 5 vCPUs.
pub const INSTANCE_TYPES: [(&str, [&str; 3]); 2] = [
    ("x86_64", ["m7i.xlarge", "m6i.xlarge", "m7a.xlarge"]),
    ("arm64", ["m7g.xlarge", "m6g.xlarge", "m8g.xlarge"]),
];

/// Deploys the module with both caches.
///
/// # Errors
/// Fails with Terraform's own output.
pub fn apply(suite: &mut Suite) -> Result<()> {
    let images = suite.options.images.clone();
    let deployment = prepare(suite, &images)?;
    // `block_in_place` lets another thread handle Ctrl-C while Terraform runs.
    let result = tokio::task::block_in_place(|| deployment.apply());
    suite.deployment = Some(deployment);
    result
}

/// Prepares the deployment, and declares the caches.
///
/// # Errors
/// Fails if Terraform cannot download its provider.
pub fn prepare(suite: &Suite, images: &[String]) -> Result<Deployment> {
    let options = &suite.options;
    let functions = suite.environment.repository.join(&options.functions);
    let variables = json!({
        "account": suite.account,
        "region": options.region,
        "name": NAME,
        "caches": caches(suite, images)?,
        "functions_directory": functions,
        "function_architecture": options.function_architecture,
    });
    let state = std::path::absolute(options.output.join("terraform"))?;
    Deployment::of_module(&suite.environment, "tests/live/deploy", state, &variables)
}

/// Returns the caches: one with `images`, and one whose image does not exist.
///
/// # Errors
/// Fails if the first image is not a reference.
pub fn caches(suite: &Suite, images: &[String]) -> Result<Value> {
    let options = &suite.options;
    let first: ImageReference = options.images[0].parse()?;
    let missing = format!("{}/{}:{MISSING_TAG}", first.registry(), first.repository());
    let instance_types = serde_json::to_value(std::collections::BTreeMap::from(INSTANCE_TYPES))?;
    let cache = |images: &[String]| {
        json!({
            "images": images,
            "architectures": [options.architecture],
            "variant": options.variant,
            "volume": {"size_gib": VOLUME_GIB, "kms_key_id": options.kms_key_id},
            "builder": {"instance_types": instance_types},
            // The suite starts every build itself.
            "rebuild_on_push": false,
            "schedule": {"enabled": false},
        })
    };
    Ok(json!({CACHE: cache(images), MISSING: cache(&[missing])}))
}

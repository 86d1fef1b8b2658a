//! The forced failure.

use std::process::Stdio;

use anyhow::{Result, ensure};
use prepull::history::Outcome;
use prepull_aws::parameters;
use prepull_domain::{CacheName, names};

use crate::{MISSING, Suite, build};

/// Builds the cache whose image does not exist. The build must fail with `ImageNotFound`, publish nothing, and leave nothing
/// behind.
///
/// # Errors
/// Fails if the build ends in any other way.
pub async fn missing_image(suite: &mut Suite) -> Result<()> {
    let (code, _) = build::run(suite, &["build", MISSING], Stdio::inherit()).await?;
    ensure!(
        code == Some(1),
        "the build of a missing image ended with exit code {code:?}, expected 1"
    );
    let cache: CacheName = MISSING.parse()?;
    let record = build::record(suite, "failed build", &cache).await?;
    ensure!(
        matches!(&record.build.outcome, Outcome::Failed { error, .. } if error == "ImageNotFound"),
        "the build of a missing image ended as {:?}, expected ImageNotFound",
        record.build.outcome
    );
    suite.builds.push(record);
    let pointer = names::pointer_parameter(&cache, suite.options.architecture);
    ensure!(
        parameters::get(&suite.clients, &pointer).await?.is_none(),
        "the failed build published a snapshot"
    );
    build::leaves_nothing_behind(&suite.clients, MISSING).await
}

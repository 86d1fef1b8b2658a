//! The `prepull` command, run as a user runs it.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::fixture::{Fixture, X86};

pub async fn build_command_reports_snapshot_and_exit_code(fixture: Arc<Fixture>) -> Result<()> {
    let world = &fixture.world;
    let run = |arguments: &[&str]| -> Result<(Option<i32>, String, String)> {
        let output = tokio::task::block_in_place(|| world.cli().args(arguments).output())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        ))
    };

    let good = fixture
        .cache(&fixture.config(&[&fixture.api]).await?)
        .await?;
    let (code, out, err) = run(&["build", &good, "--output", "json"])?;
    ensure!(code == Some(0), "exit code {code:?}: {out}{err}");
    let published = world
        .published(&good, X86)
        .await?
        .map(|id| id.to_string())
        .unwrap_or_default();
    ensure!(
        out.contains(&published),
        "the output does not contain {published}: {out}"
    );
    serde_json::from_str::<Value>(&out)?;

    let (code, out, err) = run(&["snapshots", &good, "--output", "json"])?;
    ensure!(
        code == Some(0) && out.contains(&published),
        "snapshots: {code:?} {out}{err}"
    );
    let (code, out, err) = run(&["status", &good])?;
    ensure!(
        code == Some(0) && out.contains(&published),
        "status: {code:?} {out}{err}"
    );
    let (code, out, err) = run(&["nodeclass", &good])?;
    ensure!(
        code == Some(0) && out.contains(&published) && out.contains("EC2NodeClass"),
        "nodeclass: {code:?} {out}{err}"
    );

    let missing = format!(
        "{}/team/api:never-pushed",
        world.cloud.ready.registries.ecr.host
    );
    let bad = fixture.cache(&fixture.config(&[&missing]).await?).await?;
    let (code, out, err) = run(&["build", &bad, "--no-doctor"])?;
    ensure!(
        code == Some(1),
        "a failed build has exit code {code:?}: {out}{err}"
    );
    ensure!(
        err.contains("ImageNotFound") || out.contains("ImageNotFound"),
        "the output does not contain the reason: {out}{err}"
    );

    let (code, out, err) = run(&["build", "undeclared-cache"])?;
    ensure!(
        code == Some(2),
        "an unknown cache has exit code {code:?}: {out}{err}"
    );
    ensure!(err.contains("undeclared-cache"), "{err}");
    Ok(())
}

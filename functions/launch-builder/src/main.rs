//! Wires launch-builder to Lambda.

use launch_builder::Settings;
use prepull_aws::{Clients, required_variable};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let clients = Clients::from_environment().await;
    let settings = Settings {
        instance_profile_arn: required_variable("PREPULL_INSTANCE_PROFILE_ARN"),
    };
    prepull_aws::run(async |input, deadline| {
        launch_builder::handle(&clients, &settings, input, deadline).await
    })
    .await
}

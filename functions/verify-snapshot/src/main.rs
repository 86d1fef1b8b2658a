//! Wires verify-snapshot to Lambda.

use prepull_aws::{Clients, required_variable};
use verify_snapshot::Settings;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let clients = Clients::from_environment().await;
    let settings = Settings {
        name: required_variable("PREPULL_NAME"),
        instance_profile_arn: required_variable("PREPULL_INSTANCE_PROFILE_ARN"),
    };
    prepull_aws::run(async |input, deadline| {
        verify_snapshot::handle(&clients, &settings, input, deadline).await
    })
    .await
}

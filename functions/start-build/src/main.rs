//! Wires start-build to Lambda.

use jiff::SignedDuration;
use prepull_aws::{Clients, required_variable};
use start_build::Settings;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let clients = Clients::from_environment().await;
    let debounce = required_variable("PREPULL_DEBOUNCE_SECONDS").parse()?;
    let settings = Settings {
        state_machine_arn: required_variable("PREPULL_STATE_MACHINE_ARN"),
        debounce: SignedDuration::from_secs(debounce),
    };
    prepull_aws::run(async |input, deadline| {
        start_build::handle(&clients, &settings, input, deadline).await
    })
    .await
}

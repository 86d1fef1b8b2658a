//! Wires clean-up to Lambda.

use prepull_aws::{Clients, required_variable};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let clients = Clients::from_environment().await;
    let state_machine_arn = required_variable("PREPULL_STATE_MACHINE_ARN");
    prepull_aws::run(async |input, deadline| {
        clean_up::handle(&clients, &state_machine_arn, input, deadline).await
    })
    .await
}

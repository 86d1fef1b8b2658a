//! Wires wait-for-ssm to Lambda.

use prepull_aws::{Clients, required_variable};
use wait_for_ssm::Settings;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let clients = Clients::from_environment().await;
    let settings = Settings {
        name: required_variable("PREPULL_NAME"),
    };
    prepull_aws::run(async |input, deadline| {
        wait_for_ssm::handle(&clients, &settings, input, deadline).await
    })
    .await
}

//! Wires create-snapshot to Lambda.

use create_snapshot::Settings;
use prepull_aws::{Clients, required_variable};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let clients = Clients::from_environment().await;
    let settings = Settings {
        name: required_variable("PREPULL_NAME"),
    };
    prepull_aws::run(async |input, deadline| {
        create_snapshot::handle(&clients, &settings, input, deadline).await
    })
    .await
}

//! Wires pull-images to Lambda.

use prepull_aws::{Clients, required_variable};
use pull_images::Settings;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let clients = Clients::from_environment().await;
    let settings = Settings {
        name: required_variable("PREPULL_NAME"),
    };
    prepull_aws::run(async |input, deadline| {
        pull_images::handle(&clients, &settings, input, deadline).await
    })
    .await
}

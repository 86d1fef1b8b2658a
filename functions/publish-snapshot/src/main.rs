//! Wires publish-snapshot to Lambda.

use prepull_aws::{Clients, required_variable};
use prepull_domain::RegionName;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let clients = Clients::from_environment().await;
    // Lambda itself sets it.
    let home: RegionName = required_variable("AWS_REGION").parse()?;
    prepull_aws::run(async |input, deadline| {
        publish_snapshot::handle(&clients, &home, input, deadline).await
    })
    .await
}

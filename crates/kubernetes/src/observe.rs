//! Reads what [`nodes`](crate::nodes) needs from the cluster.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::nodes::EVENT_FIELD_SELECTOR;

/// Objects in one answer, so that a large cluster does not answer with one large list.
const PAGE: u32 = 500;

/// The nodes of a cluster, their pods, and the kubelets' events about images.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Pods of all namespaces.
    pub pods: Vec<Pod>,
    /// Events with the reason `Pulled`.
    pub events: Vec<Event>,
}

/// Reads the nodes, the pods and the events of a cluster.
///
/// # Errors
/// [`Error`].
pub async fn observe(client: &Client) -> Result<Observed, Error> {
    Ok(Observed {
        nodes: all(client, "nodes", ListParams::default()).await?,
        pods: all(client, "pods", ListParams::default()).await?,
        events: all(
            client,
            "events",
            ListParams::default().fields(EVENT_FIELD_SELECTOR),
        )
        .await?,
    })
}

async fn all<K>(
    client: &Client,
    resource: &'static str,
    parameters: ListParams,
) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api = Api::<K>::all(client.clone());
    let mut parameters = parameters.limit(PAGE);
    let mut items = Vec::new();
    loop {
        let page = api
            .list(&parameters)
            .await
            .map_err(|error| Error::of_list(resource, &error))?;
        items.extend(page.items);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => parameters.continue_token = Some(token),
            _ => return Ok(items),
        }
    }
}

//! The connection to the cluster, and its node classes.

use std::error::Error as _;
use std::time::Duration;

use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config};

use crate::annotations::Ring;
use crate::class::Listed;
use crate::error::{Error, chain, is_gone};

/// Maximum time for the answer to one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum attempts to read node classes.
const READ_ATTEMPTS: u32 = 3;

/// Pause after the first failed read. Later pauses are longer.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// Connects to the cluster of a kubeconfig's context, or of the current context. In a pod without a kubeconfig, it
/// connects to the pod's cluster. It sends no request, but runs the command that the kubeconfig has for credentials.
///
/// # Errors
/// [`Error::Kubeconfig`] or [`Error::Credentials`].
pub async fn connect(context: Option<&str>) -> Result<Client, Error> {
    let failed = |error: &(dyn std::error::Error + 'static)| Error::Kubeconfig {
        cause: chain(error),
    };
    let config = match context {
        None => Config::infer().await.map_err(|error| {
            // The source is the problem of the kubeconfig. The message adds that the process does not run in a pod.
            failed(error.source().unwrap_or(&error))
        })?,
        Some(context) => {
            let kubeconfig = Kubeconfig::read().map_err(|error| failed(&error))?;
            let options = KubeConfigOptions {
                context: Some(context.to_owned()),
                ..KubeConfigOptions::default()
            };
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(|error| failed(&error))?
        }
    };
    connect_with(config)
}

/// Connects to the cluster of a configuration, like [`connect`].
///
/// # Errors
/// [`Error::Kubeconfig`] or [`Error::Credentials`].
pub fn connect_with(mut config: Config) -> Result<Client, Error> {
    // Without it, a request to a cluster that does not answer never ends.
    config.read_timeout = Some(REQUEST_TIMEOUT);
    // By default, the client repeats a patch after 503 and 504, although the cluster may have applied it. The tests of
    // the second patch would then fail, and its caller would take its own change for that of another client.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| match Error::of("list", &error) {
        credentials @ Error::Credentials { .. } => credentials,
        _ => Error::Kubeconfig {
            cause: chain(&error),
        },
    })
}

/// Returns the name of the cluster of a kubeconfig's context, or of the current context. `None` in a pod.
#[must_use]
pub fn cluster_name(context: Option<&str>) -> Option<String> {
    let kubeconfig = Kubeconfig::read().ok()?;
    let wanted = context.or(kubeconfig.current_context.as_deref())?;
    let mut contexts = kubeconfig.contexts.iter();
    let found = contexts.find(|context| context.name == wanted)?;
    Some(found.context.as_ref()?.cluster.clone())
}

/// Returns the node classes that opted in, and those whose annotations are invalid, in the order of their names. With
/// `ring`, only those of the ring.
///
/// # Errors
/// [`Error`] if the cluster does not list node classes.
pub async fn list(client: &Client, ring: Option<&Ring>) -> Result<Vec<Listed>, Error> {
    let (api, all) = (api(client), ListParams::default());
    let answer = repeat(|| api.list(&all))
        .await
        .map_err(|error| Error::of("list", &error))?;
    let mut classes: Vec<Listed> = answer
        .items
        .iter()
        .filter_map(|object| Listed::parse(object, ring))
        .collect();
    classes.sort_by(|one, other| one.name().cmp(other.name()));
    Ok(classes)
}

/// Returns one node class as it is now. `None` if it does not exist, or has no annotation of prepull.
///
/// # Errors
/// [`Error`] if the cluster does not return it.
pub async fn get(client: &Client, name: &str) -> Result<Option<Listed>, Error> {
    let api = api(client);
    match repeat(|| api.get(name)).await {
        Ok(object) => Ok(Listed::parse(&object, None)),
        Err(kube::Error::Api(status)) if is_gone(&status) => Ok(None),
        Err(error) => Err(Error::of("get", &error)),
    }
}

/// Sends a read again if the cluster asks for another attempt.
async fn repeat<T, Answer>(request: impl Fn() -> Answer) -> kube::Result<T>
where
    Answer: Future<Output = kube::Result<T>>,
{
    let mut attempt = 1;
    loop {
        match request().await {
            Err(error) if attempt < READ_ATTEMPTS && is_transient(&error) => {
                tokio::time::sleep(READ_PAUSE * attempt).await;
                attempt += 1;
            }
            answer => return answer,
        }
    }
}

/// Returns whether the cluster asks for another attempt: too many requests, or a restart of the API server.
fn is_transient(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 429 || status.code >= 500)
}

/// Returns the API of node classes.
pub(crate) fn api(client: &Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("karpenter.k8s.aws", "v1", "EC2NodeClass");
    let resource = ApiResource::from_gvk_with_plural(&kind, "ec2nodeclasses");
    Api::all_with(client.clone(), &resource)
}

//! The server on a port of the loopback interface.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::fault::Fault;
use crate::handler::{Answered, Call, Delivery, State, lock};
use crate::karpenter::Karpenter;
use crate::resources;

/// Path of the requests as JSON, for tests in other processes.
const REQUESTS_PATH: &str = "/standin/requests";

/// A request of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Verb of RBAC, for example `patch`.
    pub verb: &'static str,
    /// Path of the URL.
    pub path: String,
    /// Query of the URL, decoded.
    pub query: String,
    /// HTTP status code of the answer, also if it was lost on request.
    pub code: u16,
}

impl Request {
    /// Returns whether the request asks for a change, also if the server refused it. A dry run asks for none.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !["get", "list"].contains(&self.verb) && !self.query.contains("dryRun=All")
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    /// Starts a server on a free port of the loopback interface.
    ///
    /// # Errors
    /// If no port can be opened.
    pub async fn start() -> io::Result<Self> {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts a server on `address`.
    ///
    /// # Errors
    /// If the port cannot be opened.
    pub async fn listen(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let accepting = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                // An error of `accept` concerns one connection.
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(connection(stream, Arc::clone(&state)));
                    }
                }
            }
        });
        Ok(Self {
            address,
            state,
            accepting,
        })
    }

    /// Returns the URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns a kubeconfig for the server. JSON is YAML.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "standin", "cluster": {"server": self.url()}}],
            "users": [{"name": "prepull", "user": {}}],
            "contexts": [{"name": "standin", "context": {"cluster": "standin", "user": "prepull"}}],
            "current-context": "standin",
        });
        format!("{config:#}\n")
    }

    /// Sets the behaviour of Karpenter.
    pub fn set_karpenter(&self, karpenter: Karpenter) {
        *lock(&self.state.karpenter) = karpenter;
    }

    /// Adds a fault.
    pub fn add_fault(&self, fault: Fault) {
        lock(&self.state.faults).push(fault);
    }

    /// Removes the CRDs of an API group.
    pub fn uninstall(&self, group: &str) {
        lock(&self.state.uninstalled).insert(group.to_owned());
    }

    /// Returns the requests of clients so far, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// Returns the requests of clients so far that asked for a change.
    #[must_use]
    pub fn writes(&self) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(Request::is_write);
        requests
    }

    /// Returns the object at `path`, for example `/apis/karpenter.k8s.aws/v1/ec2nodeclasses/web`.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Value> {
        match self.direct("GET", path, &Value::Null) {
            (200, object) => Some(object),
            _ => None,
        }
    }

    /// Creates `object` in the collection at `path`, as another client than the tested one.
    ///
    /// # Panics
    /// If the server refuses the object.
    pub fn create(&self, path: &str, object: &Value) {
        let (code, answer) = self.direct("POST", path, object);
        assert_eq!(code, 201, "{answer}");
    }

    /// Changes the object at `path` with a merge patch, as another client than the tested one.
    ///
    /// # Panics
    /// If the server refuses the patch.
    pub fn merge(&self, path: &str, change: &Value) {
        let (code, answer) = self.direct("PATCH", path, change);
        assert_eq!(code, 200, "{answer}");
    }

    /// Deletes the object at `path`, as another client than the tested one.
    ///
    /// # Panics
    /// If there is no object.
    pub fn delete(&self, path: &str) {
        let (code, answer) = self.direct("DELETE", path, &Value::Null);
        assert_eq!(code, 200, "{answer}");
    }

    fn direct(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let call = Call {
            method,
            path,
            query: "",
            content_type: "application/merge-patch+json",
            body: body.as_bytes(),
        };
        let answer = self.state.answer(&call);
        wake_karpenter(&self.state, &call, &answer);
        match answer {
            Answered::Json(code, body) => (code, body),
            Answered::Text(code, text) => (code, json!(text)),
        }
    }
}

/// Lets Karpenter see a changed node class after its delay. Without a delay, the conditions are set before the client
/// has its answer.
fn wake_karpenter(state: &Arc<State>, call: &Call, answer: &Answered) {
    let Some(mut target) = resources::target(call.path) else {
        return;
    };
    let Answered::Json(200..300, object) = answer else {
        return;
    };
    if target.resource.kind != "EC2NodeClass" || call.method == "GET" || target.status {
        return;
    }
    target.name = object["metadata"]["name"].as_str().map(str::to_owned);
    let delay = lock(&state.karpenter).delay;
    if delay.is_zero() {
        state.reconcile(&target);
    } else {
        let state = Arc::clone(state);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            state.reconcile(&target);
        });
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(|request| respond(request, Arc::clone(&state)));
    // A client that goes away, or a lost answer on request, ends the connection with an error.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(
    request: hyper::Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let content_type = head
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let call = Call {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        content_type,
        body: &body,
    };
    let answer = if call.path == REQUESTS_PATH {
        Answered::Json(200, recorded(&state))
    } else {
        let (answer, delivery) = state.serve(&call);
        wake_karpenter(&state, &call, &answer);
        if delivery == Delivery::Lost {
            return Err(io::Error::other("lost on request"));
        }
        answer
    };
    let (code, kind, text) = match answer {
        Answered::Json(code, value) => (code, "application/json", value.to_string()),
        Answered::Text(code, text) => (code, "text/plain; charset=utf-8", text),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}

fn recorded(state: &State) -> Value {
    lock(&state.requests)
        .iter()
        .map(|request| {
            json!({
                "verb": request.verb,
                "path": request.path,
                "query": request.query,
                "code": request.code,
                "write": request.is_write(),
            })
        })
        .collect()
}

//! The registries: one proxy that answers for every host, with a certificate for all of them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::host::{Host, Received};
use crate::table::DOMAIN;

/// Maximum size of the head of a CONNECT request in bytes.
const MAX_HEAD: usize = 8192;

/// The running registries.
pub struct Server {
    /// Address of the proxy.
    pub address: SocketAddr,
    /// File of the certificate authority in PEM format.
    pub authority: PathBuf,
}

type Hosts = Arc<BTreeMap<String, Host>>;

/// Starts the registries. They run until the runtime ends.
pub async fn start(hosts: Vec<Vec<Host>>, directory: &Path) -> Result<Server> {
    let (acceptor, pem) = certificates()?;
    let authority = directory.join("authority.pem");
    fs::write(&authority, pem)?;
    let hosts: Hosts = Arc::new(
        hosts
            .into_iter()
            .flatten()
            .map(|host| (host.name.clone(), host))
            .collect(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (hosts, acceptor) = (hosts.clone(), acceptor.clone());
            tokio::spawn(async move {
                // A client that gives up is no error of the test.
                let _ = tunnel(stream, &hosts, &acceptor).await;
            });
        }
    });
    Ok(Server { address, authority })
}

/// Creates an authority and a certificate for all hosts.
fn certificates() -> Result<(TlsAcceptor, String)> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let certificate =
        CertificateParams::new(vec![format!("*.{DOMAIN}")])?.signed_by(&key, &issuer)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)?;
    Ok((TlsAcceptor::from(Arc::new(config)), authority))
}

/// Answers one CONNECT request as its destination.
async fn tunnel(mut stream: TcpStream, hosts: &Hosts, acceptor: &TlsAcceptor) -> Result<()> {
    let mut head = Vec::new();
    // A client sends nothing more before the answer.
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let destination = head
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.split([':', ' ']).next())
        .context("the request is not CONNECT")?;
    let Some(host) = hosts.get(destination) else {
        stream
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            .await?;
        return Ok(());
    };
    stream
        .write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        .await?;
    let stream = acceptor.accept(stream).await?;
    let service = service_fn(|request| answer(host, request));
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

async fn answer(
    host: &Host,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let header = |name: &str| {
        let value = head.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let received = Received {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        authorization: header("authorization"),
        body: match body.collect().await {
            Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            Err(_) => String::new(),
        },
    };
    let reply = host.answer(&received);
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    let body = if received.method == "HEAD" {
        Bytes::new()
    } else {
        Bytes::from(reply.body)
    };
    Ok(response
        .body(Full::new(body))
        .expect("the rows of the table have valid headers"))
}

//! Runs the server until it is stopped, for tests that start a command against it.
//!
//! Prints its URL as the only line on stdout. Options:
//! - `--kubeconfig PATH` writes a kubeconfig.
//! - `--listen ADDRESS:PORT` replaces the free port.
//! - `--karpenter ready|not-ready|unknown|silent` sets Karpenter's answer to changes.
//! - `--bad-snapshot ID` makes node classes with the snapshot stay Unknown. Repeatable.

use std::process::ExitCode;

use prepull_kubernetes_standin::{Answer, Karpenter, Server};

#[tokio::main]
async fn main() -> ExitCode {
    match run(std::env::args().skip(1)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kubernetes stand-in does not start: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let mut kubeconfig = None;
    let mut address = "127.0.0.1:0".to_owned();
    let mut karpenter = Karpenter::default();
    while let Some(option) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("`{option}` has no value. Add one"))?;
        match option.as_str() {
            "--kubeconfig" => kubeconfig = Some(value),
            "--listen" => address = value,
            "--karpenter" => karpenter.answer = answer(&value)?,
            "--bad-snapshot" => {
                karpenter.by_snapshot.insert(value, Answer::Unknown);
            }
            _ => {
                return Err(format!(
                    "`{option}` is not an option. See the documentation of main.rs"
                ));
            }
        }
    }
    let address = address.parse().map_err(|error| {
        format!("`{address}` is not an address: {error}. Write for example 127.0.0.1:8001")
    })?;
    let server = Server::listen(address)
        .await
        .map_err(|error| format!("{address}: {error}. Choose another port"))?;
    server.set_karpenter(karpenter);
    if let Some(path) = kubeconfig {
        std::fs::write(&path, server.kubeconfig())
            .map_err(|error| format!("{path}: {error}. Choose a writable path"))?;
    }
    println!("{}", server.url());
    std::future::pending().await
}

fn answer(text: &str) -> Result<Answer, String> {
    match text {
        "ready" => Ok(Answer::Ready),
        "not-ready" => Ok(Answer::NotReady {
            message: "not ready on request".to_owned(),
        }),
        "unknown" => Ok(Answer::Unknown),
        "silent" => Ok(Answer::Silent),
        _ => Err(format!(
            "`{text}` is not an answer of Karpenter. Write ready, not-ready, unknown or silent"
        )),
    }
}

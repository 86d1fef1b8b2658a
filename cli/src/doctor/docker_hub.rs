//! Asks Docker Hub for the remaining pulls.

use std::time::Duration;

use prepull_registry::RegistryCredentials;
use serde::Deserialize;

/// Repository that Docker Hub offers for this question. A HEAD request of its manifest does not count as a pull.
///
/// Source: Docker Docs, "Docker Hub pull usage and limits", "View pull rate and limit".
const REPOSITORY: &str = "ratelimitpreview/test";

const TIME_OUT: Duration = Duration::from_secs(10);

/// The addresses of Docker Hub.
#[derive(Debug, Clone, Copy)]
pub struct DockerHub {
    /// Base address of the token service.
    pub tokens: &'static str,
    /// Base address of the registry.
    pub registry: &'static str,
}

/// Docker Hub itself.
pub const DOCKER_HUB: DockerHub = DockerHub {
    tokens: "https://auth.docker.io",
    registry: "https://registry-1.docker.io",
};

/// Pulls that Docker Hub still allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// The number of pulls.
    pub pulls: u64,
    /// The length of the window.
    pub window: Duration,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

impl DockerHub {
    /// Returns the remaining pulls of a user, or of this machine's address without credentials. `None` without a limit.
    ///
    /// # Errors
    /// The reason of a missing answer.
    pub async fn remaining(
        &self,
        credentials: Option<&RegistryCredentials>,
    ) -> Result<Option<Remaining>, String> {
        self.ask(credentials)
            .await
            .map_err(|error| error.without_url().to_string())
    }

    async fn ask(
        &self,
        credentials: Option<&RegistryCredentials>,
    ) -> Result<Option<Remaining>, reqwest::Error> {
        let http = reqwest::Client::builder().timeout(TIME_OUT).build()?;
        let mut request = http.get(format!(
            "{}/token?service=registry.docker.io&scope=repository:{REPOSITORY}:pull",
            self.tokens
        ));
        if let Some(RegistryCredentials { username, password }) = credentials {
            request = request.basic_auth(username, Some(password));
        }
        let token: Token = request.send().await?.error_for_status()?.json().await?;
        let address = format!("{}/v2/{REPOSITORY}/manifests/latest", self.registry);
        let answer = http.head(address).bearer_auth(token.token).send().await?;
        // Beyond the limit, the status is 429, with the same headers.
        let remaining = answer
            .headers()
            .get("ratelimit-remaining")
            .and_then(|value| parse(value.to_str().ok()?));
        if remaining.is_none() {
            answer.error_for_status()?;
        }
        Ok(remaining)
    }
}

/// Parses `76;w=21600`: the pulls and the window in seconds.
fn parse(header: &str) -> Option<Remaining> {
    let (pulls, window) = header.split_once(";w=")?;
    Some(Remaining {
        pulls: pulls.trim().parse().ok()?,
        window: Duration::from_secs(window.trim().parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Serves one answer for each connection, and returns the address and the received requests.
    fn serve(
        answers: Vec<&'static str>,
    ) -> (&'static str, std::thread::JoinHandle<Vec<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let serve_one = |answer: &str| {
                let (mut connection, _) = listener.accept().unwrap();
                let lines = BufReader::new(&connection).lines().map(Result::unwrap);
                let request = lines.take_while(|line| !line.is_empty()).collect();
                connection.write_all(answer.as_bytes()).unwrap();
                request
            };
            answers.into_iter().map(serve_one).collect()
        });
        (address.leak(), server)
    }

    const TOKEN: &str =
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 15\r\n\r\n{\"token\":\"abc\"}";

    async fn ask(
        answer: &'static str,
        credentials: Option<&RegistryCredentials>,
    ) -> (Result<Option<Remaining>, String>, Vec<Vec<String>>) {
        let (address, server) = serve(vec![TOKEN, answer]);
        let hub = DockerHub {
            tokens: address,
            registry: address,
        };
        let remaining = hub.remaining(credentials).await;
        (remaining, server.join().unwrap())
    }

    #[tokio::test]
    async fn remaining_pulls_come_from_the_header_of_a_head_request() {
        let credentials = RegistryCredentials {
            username: "ada".to_owned(),
            password: "secret".to_owned(),
        };
        let answer = "HTTP/1.1 200 OK\r\nratelimit-limit: 100;w=21600\r\nratelimit-remaining: 76;w=21600\r\n\r\n";
        let (remaining, requests) = ask(answer, Some(&credentials)).await;
        let window = Duration::from_secs(21_600);
        assert_eq!(remaining, Ok(Some(Remaining { pulls: 76, window })));
        let has = |request: &[String], line: &str| {
            request.iter().any(|one| one.eq_ignore_ascii_case(line))
        };
        assert!(has(&requests[0], "authorization: Basic YWRhOnNlY3JldA=="));
        assert!(requests[1][0].starts_with("HEAD /v2/ratelimitpreview/test/manifests/latest"));
        assert!(has(&requests[1], "authorization: Bearer abc"));
    }

    #[tokio::test]
    async fn exhausted_limit_is_an_answer() {
        let answer = "HTTP/1.1 429 Too Many Requests\r\nratelimit-remaining: 0;w=21600\r\n\r\n";
        let (remaining, _) = ask(answer, None).await;
        assert_eq!(remaining.unwrap().unwrap().pulls, 0);
    }

    #[tokio::test]
    async fn answer_without_header_means_no_limit_or_an_error() {
        assert_eq!(ask("HTTP/1.1 200 OK\r\n\r\n", None).await.0, Ok(None));
        let (failed, _) = ask("HTTP/1.1 503 Service Unavailable\r\n\r\n", None).await;
        assert!(failed.unwrap_err().contains("503"));
    }
}

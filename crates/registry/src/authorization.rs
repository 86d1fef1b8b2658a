//! Challenges of registries and the answers to them, as in containerd's Docker authorizer.
//!
//! Source: `authorizer.go` and `auth/` in containerd's `core/remotes/docker`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_auth::ChallengeParser;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Response, Url};
use serde::Deserialize;

use crate::RegistryCredentials;
use crate::failure::{Failure, details};
use crate::response::{content_type, is_transient, read, with_details};

/// Client ID for the OAuth request of a token. Registries only log it.
const CLIENT_ID: &str = "prepull";

/// Maximum size of a token endpoint's answer in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// The challenge that containerd answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token, from the endpoint in `realm`.
    Bearer {
        realm: Option<String>,
        service: Option<String>,
        scope: Option<String>,
    },
    /// A user name and a password.
    Basic,
}

impl Challenge {
    /// Returns the challenge of a response with status 401: Bearer if there is one, else Basic. Like containerd, it reads
    /// only the first challenge of each header.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let challenges = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| {
                let challenge = ChallengeParser::new(value.to_str().ok()?).next()?.ok()?;
                let parameter = |name: &str| {
                    let (_, value) = challenge
                        .params
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                    Some(value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    Some(Self::Bearer {
                        realm: parameter("realm"),
                        service: parameter("service"),
                        scope: parameter("scope"),
                    })
                } else {
                    let is_basic = challenge.scheme.eq_ignore_ascii_case("basic");
                    is_basic.then_some(Self::Basic)
                }
            });
        challenges.min_by_key(|challenge| *challenge == Self::Basic)
    }

    /// Returns the value of the header `Authorization` that answers the challenge. `None` if it needs credentials and there
    /// are none.
    pub(crate) async fn answer(
        &self,
        http: &reqwest::Client,
        repository: &str,
        credentials: Option<&RegistryCredentials>,
    ) -> Result<Option<String>, Failure> {
        match self {
            Self::Basic => Ok(credentials.map(basic)),
            Self::Bearer {
                realm,
                service,
                scope,
            } => {
                let realm = realm.as_deref().unwrap_or_default();
                let endpoint: Url = realm.parse().map_err(|_| {
                    Failure::Denied(format!(
                        "the registry asks for a token from `{realm}`, which is not a URL. Repair the registry"
                    ))
                })?;
                let request = TokenRequest {
                    http,
                    endpoint,
                    service: service.as_deref(),
                    scopes: scopes(repository, scope.as_deref()),
                };
                let token = request.send(credentials).await?;
                Ok(Some(format!("Bearer {token}")))
            }
        }
    }
}

/// Returns the scopes of a token: the pull of the repository, and those of the challenge.
fn scopes(repository: &str, challenge: Option<&str>) -> Vec<String> {
    let mut scopes = vec![format!("repository:{repository}:pull")];
    scopes.extend(
        challenge
            .into_iter()
            .flat_map(|scope| scope.split(' '))
            .map(str::to_owned),
    );
    scopes.sort();
    scopes.dedup();
    scopes
}

fn basic(credentials: &RegistryCredentials) -> String {
    let RegistryCredentials { username, password } = credentials;
    format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    )
}

struct TokenRequest<'a> {
    http: &'a reqwest::Client,
    endpoint: Url,
    service: Option<&'a str>,
    scopes: Vec<String>,
}

impl TokenRequest<'_> {
    /// Requests a token. With credentials it tries OAuth first, as containerd does.
    async fn send(&self, credentials: Option<&RegistryCredentials>) -> Result<String, Failure> {
        let Some(credentials) = credentials else {
            return self.token(self.get(None).await?, None).await;
        };
        let response = self.post(credentials).await?;
        let is_unsupported = matches!(response.status().as_u16(), 400 | 401 | 404 | 405);
        let response = if is_unsupported {
            // Registries without OAuth give these answers.
            self.get(Some(credentials)).await?
        } else {
            response
        };
        self.token(response, Some(credentials)).await
    }

    async fn get(&self, credentials: Option<&RegistryCredentials>) -> Result<Response, Failure> {
        let mut query: Vec<_> = self
            .scopes
            .iter()
            .map(|scope| ("scope", scope.as_str()))
            .collect();
        query.extend(self.service.map(|service| ("service", service)));
        let mut request = self.http.get(self.endpoint.clone()).query(&query);
        if let Some(RegistryCredentials { username, password }) = credentials {
            request = request.basic_auth(username, Some(password));
        }
        request
            .send()
            .await
            .map_err(|error| Failure::no_answer(self.host(), error))
    }

    async fn post(&self, credentials: &RegistryCredentials) -> Result<Response, Failure> {
        let scope = self.scopes.join(" ");
        let form = [
            ("grant_type", "password"),
            ("client_id", CLIENT_ID),
            ("service", self.service.unwrap_or_default()),
            ("scope", &scope),
            ("username", &credentials.username),
            ("password", &credentials.password),
        ];
        let request = self.http.post(self.endpoint.clone()).form(&form);
        request
            .send()
            .await
            .map_err(|error| Failure::no_answer(self.host(), error))
    }

    fn host(&self) -> &str {
        self.endpoint.host_str().unwrap_or_default()
    }

    /// Returns the token in a response.
    async fn token(
        &self,
        mut response: Response,
        credentials: Option<&RegistryCredentials>,
    ) -> Result<String, Failure> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let host = self.host();
        let status = response.status();
        let content_type = content_type(&response);
        let body = read(&mut response, MAX_ANSWER)
            .await
            .map_err(|error| Failure::no_answer(host, error))?
            .unwrap_or_default();
        if status.is_success() {
            let answer: Answer = serde_json::from_slice(&body).unwrap_or_default();
            return answer
                .access_token
                .or(answer.token)
                .filter(|token| !token.is_empty())
                .ok_or_else(|| {
                    Failure::Denied(format!(
                        "its token endpoint at `{host}` answered without a token: {}. Check the registry's \
                         configuration",
                        details(&content_type, &body)
                    ))
                });
        }
        let text = format!(
            "its token endpoint at `{host}` answered {}",
            with_details(status, &details(&content_type, &body))
        );
        if is_transient(status) {
            return Err(Failure::Unavailable(text));
        }
        let advice = match credentials {
            Some(RegistryCredentials { username, .. }) => {
                format!("Check the password of `{username}` and its permission to pull")
            }
            None => "The repository does not exist or needs credentials. Check the name, or add credentials to \
                     `registry_credentials`"
                .to_owned(),
        };
        Err(Failure::Denied(format!("{text}. {advice}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(headers: &[&'static str]) -> Option<Challenge> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, header.parse().unwrap());
        }
        Challenge::of(&map)
    }

    #[test]
    fn bearer_challenge_is_preferred_to_basic() {
        let bearer = Some(Challenge::Bearer {
            realm: Some("https://auth.example.com/token".to_owned()),
            service: Some("registry".to_owned()),
            scope: None,
        });
        let header = r#"BEARER Realm="https://auth.example.com/token",service="registry""#;
        assert_eq!(challenge(&[r#"Basic realm="x""#, header]), bearer);
        assert_eq!(challenge(&[header, r#"Basic realm="x""#]), bearer);
        assert_eq!(challenge(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Negotiate"]), None);
        assert_eq!(challenge(&[]), None);
    }

    #[test]
    fn token_has_each_scope_once() {
        assert_eq!(
            scopes("team/app", Some("repository:team/app:pull aws")),
            ["aws", "repository:team/app:pull"]
        );
        assert_eq!(scopes("team/app", None), ["repository:team/app:pull"]);
    }
}

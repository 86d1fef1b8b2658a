//! One registry: its content, the way it authenticates clients, and its deviations.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::content::{Content, digest_of};

/// The user and the password that every registry with a log-in accepts.
pub const USER: &str = "team";
/// See [`USER`].
pub const PASSWORD: &str = "correct";

/// A token that every registry with tokens accepts.
const TOKEN: &str = "token-for-team-app";

/// A request that arrived.
pub struct Received {
    pub method: String,
    pub path: String,
    pub query: String,
    pub authorization: String,
    pub body: String,
}

impl Received {
    /// Returns whether it is for a manifest.
    pub fn is_manifest(&self) -> bool {
        self.path.contains("/manifests/")
    }

    /// Returns whether it is for a token.
    pub fn is_token(&self) -> bool {
        self.path == "/token"
    }
}

/// The response to a request.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// Returns a response with a JSON body.
    pub fn json(status: u16, body: impl fmt::Display) -> Self {
        Self::of(status, "application/json", body.to_string())
    }

    /// Returns a response with an error in the format of the OCI distribution specification.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::json(
            status,
            json!({"errors": [{"code": code, "message": message}]}),
        )
    }

    /// Returns a response with a web page.
    pub fn page(status: u16) -> Self {
        Self::of(
            status,
            "text/html; charset=utf-8",
            "<html><body>Please log in</body></html>".to_owned(),
        )
    }

    fn of(status: u16, content_type: &str, body: String) -> Self {
        let body = body.into_bytes();
        Self {
            status,
            headers: vec![
                ("content-type", content_type.to_owned()),
                ("content-length", body.len().to_string()),
            ],
            body,
        }
    }

    /// Replaces a header, or removes it if `value` is `None`.
    pub fn with(mut self, name: &'static str, value: Option<&str>) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers
            .extend(value.map(|value| (name, value.to_owned())));
        self
    }
}

/// A deviation: returns a response if it applies. The number counts the earlier requests for which it was asked.
pub type Rule = fn(&Received, usize) -> Option<Reply>;

/// A change of a regular response.
pub type Edit = fn(&Received, Reply) -> Reply;

/// The way of a log-in.
#[derive(Clone, Copy)]
pub enum LogIn {
    /// Everyone may pull.
    None,
    /// With the user and the password.
    Basic,
    /// With a token of the same host's endpoint, which checks the user and the password.
    Token,
    /// With a token that everyone gets.
    AnonymousToken,
}

/// A registry with a host name of its own.
pub struct Host {
    pub name: String,
    content: Content,
    log_in: LogIn,
    /// `WWW-Authenticate` headers, if they differ from the usual one. `{host}` stands for the name.
    challenges: Option<&'static [&'static str]>,
    rules: Vec<Rule>,
    edits: Vec<Edit>,
    asked: Mutex<BTreeMap<usize, usize>>,
}

impl Host {
    /// Creates a registry without deviations.
    pub fn new(name: String, content: Content) -> Self {
        Self {
            name,
            content,
            log_in: LogIn::None,
            challenges: None,
            rules: Vec::new(),
            edits: Vec::new(),
            asked: Mutex::default(),
        }
    }

    pub fn log_in(mut self, log_in: LogIn) -> Self {
        self.log_in = log_in;
        self
    }

    pub fn challenges(mut self, challenges: &'static [&'static str]) -> Self {
        self.challenges = Some(challenges);
        self
    }

    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    pub fn edit(mut self, edit: Edit) -> Self {
        self.edits.push(edit);
        self
    }

    /// Answers a request.
    pub fn answer(&self, request: &Received) -> Reply {
        for (position, rule) in self.rules.iter().enumerate() {
            let asked = {
                let mut all = self.asked.lock().expect("no rule panics");
                *all.entry(position).or_default()
            };
            if let Some(reply) = rule(request, asked) {
                *self
                    .asked
                    .lock()
                    .expect("no rule panics")
                    .entry(position)
                    .or_default() += 1;
                return reply;
            }
        }
        let reply = self.regular(request);
        self.edits
            .iter()
            .fold(reply, |reply, edit| edit(request, reply))
    }

    fn regular(&self, request: &Received) -> Reply {
        if request.is_token() {
            return self.token(request);
        }
        // Like Artifactory and Zot, the root needs no log-in. Only the content does.
        if request.path == "/v2/" {
            return Reply::json(200, "{}");
        }
        if !self.is_authorized(request) {
            let reply = Reply::error(401, "UNAUTHORIZED", "authentication required");
            let usual = match self.log_in {
                LogIn::None => &[][..],
                LogIn::Basic => &[r#"Basic realm="quirks""#][..],
                LogIn::Token | LogIn::AnonymousToken => &[
                    r#"Bearer realm="https://{host}/token",service="{host}",scope="repository:team/app:pull""#,
                ][..],
            };
            let challenges = self.challenges.unwrap_or(usual).iter();
            let challenges =
                challenges.map(|value| ("www-authenticate", value.replace("{host}", &self.name)));
            let mut reply = reply;
            reply.headers.extend(challenges);
            return reply;
        }
        let Some((kind, name)) = request
            .path
            .strip_prefix("/v2/team/app/")
            .and_then(|rest| rest.split_once('/'))
        else {
            return Reply::error(404, "NAME_UNKNOWN", "no such repository");
        };
        let found = match kind {
            "manifests" => self.content.manifest(name),
            _ => self.content.blob(name),
        };
        let Some((media_type, body)) = found else {
            return Reply::error(404, "MANIFEST_UNKNOWN", "no such content");
        };
        Reply {
            status: 200,
            headers: vec![
                ("content-type", media_type),
                ("content-length", body.len().to_string()),
                ("docker-content-digest", digest_of(&body)),
            ],
            body,
        }
    }

    fn is_authorized(&self, request: &Received) -> bool {
        match self.log_in {
            LogIn::None => true,
            LogIn::Basic => request.authorization == basic(),
            LogIn::Token | LogIn::AnonymousToken => {
                request.authorization == format!("Bearer {TOKEN}")
            }
        }
    }

    fn token(&self, request: &Received) -> Reply {
        let is_known = match (self.log_in, request.method.as_str()) {
            (LogIn::AnonymousToken, _) => true,
            (_, "POST") => {
                request.body.contains(&format!("username={USER}"))
                    && request.body.contains(&format!("password={PASSWORD}"))
            }
            _ => request.authorization == basic(),
        };
        let has_scope = [&request.query, &request.body]
            .iter()
            .any(|text| text.contains("repository%3Ateam%2Fapp%3Apull"));
        if is_known && has_scope {
            Reply::json(200, json!({"token": TOKEN, "access_token": TOKEN}))
        } else {
            Reply::error(401, "UNAUTHORIZED", "incorrect user name or password")
        }
    }
}

fn basic() -> String {
    let pair = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
    format!("Basic {pair}")
}

//! Failures on request.

use crate::resources::Target;
use crate::status::Status;

/// A failure of matching requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Verb of the request, for example `patch`.
    pub verb: &'static str,
    /// Plural name of the resource.
    pub resource: &'static str,
    /// Number of matching requests that succeed first.
    pub skip: usize,
    /// Number of requests that fail after them. Later ones succeed.
    pub times: usize,
    /// The failure.
    pub reply: FaultReply,
}

/// The answer of a [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultReply {
    /// 403 of RBAC.
    Forbidden,
    /// 401.
    Unauthorized,
    /// 409, as after a race in the server.
    Conflict,
    /// 503.
    Unavailable,
    /// No answer: the server does what the request asks for, and closes the connection.
    Lost,
}

impl Fault {
    /// Returns a fault of all requests with `verb` on node classes.
    #[must_use]
    pub fn always(verb: &'static str, reply: FaultReply) -> Self {
        Self {
            verb,
            resource: "ec2nodeclasses",
            skip: 0,
            times: usize::MAX,
            reply,
        }
    }

    /// Returns a fault of the next request with `verb` on node classes.
    #[must_use]
    pub fn once(verb: &'static str, reply: FaultReply) -> Self {
        Self {
            times: 1,
            ..Self::always(verb, reply)
        }
    }

    /// Returns the fault for later requests: the first `skip` succeed.
    #[must_use]
    pub fn after(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    /// Takes the reply to a request, if the fault matches.
    pub(crate) fn take(&mut self, verb: &str, target: &Target) -> Option<FaultReply> {
        if self.times == 0 || self.verb != verb || self.resource != target.resource.plural {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times -= 1;
        Some(self.reply)
    }
}

impl FaultReply {
    /// Returns the answer, or `None` if the request has its effect.
    pub(crate) fn status(self, verb: &str, target: &Target) -> Option<Status> {
        let name = target.name.as_deref();
        match self {
            Self::Forbidden => Some(Status::forbidden(&target.resource, name, verb)),
            Self::Unauthorized => Some(Status::unauthorized()),
            Self::Conflict => Some(Status::conflict(
                &target.resource,
                name.unwrap_or_default(),
                crate::store::MODIFIED,
            )),
            Self::Unavailable => Some(Status::new(
                503,
                "ServiceUnavailable",
                "the server is currently unable to handle the request",
            )),
            Self::Lost => None,
        }
    }
}

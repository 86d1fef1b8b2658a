//! The Parameter Store.

use std::collections::BTreeSet;

use jiff::Timestamp;
use prepull_aws::pointers::TargetPointer;
use prepull_aws::ssm;
use prepull_aws::ssm::operation::delete_parameter::{DeleteParameterError, DeleteParameterOutput};
use prepull_aws::ssm::operation::get_parameter::{GetParameterError, GetParameterOutput};
use prepull_aws::ssm::operation::get_parameters_by_path::{
    GetParametersByPathError, GetParametersByPathOutput,
};
use prepull_aws::ssm::operation::put_parameter::{PutParameterError, PutParameterOutput};
use prepull_aws::ssm::types::Parameter;
use prepull_domain::snapshot::decisions::Decided;
use prepull_domain::{Architecture, Decision};

use super::{FakeAws, answers, error};

const NOT_FOUND: &str = "ParameterNotFound";

impl FakeAws {
    /// Adds a Parameter Store with `parameters`, as pairs of name and value.
    #[must_use]
    pub fn with_parameters(mut self, parameters: &[(&str, &str)]) -> Self {
        for (name, value) in parameters {
            self.set_parameter(name, value);
        }
        let parameter =
            |name: &str, value: &str| Parameter::builder().name(name).value(value).build();
        let get = answers!(
            self,
            ssm::get_parameter,
            GetParameterError,
            |state, request| {
                let name = request.name().unwrap_or_default();
                state.call(format!("ssm:GetParameter {name}"))?;
                let value = state.parameters.get(name).ok_or_else(|| error(NOT_FOUND))?;
                Ok(GetParameterOutput::builder()
                    .parameter(parameter(name, value))
                    .build())
            }
        );
        let by_path = answers!(
            self,
            ssm::get_parameters_by_path,
            GetParametersByPathError,
            |state, request| {
                let path = format!("{}/", request.path().unwrap_or_default());
                state.call(format!("ssm:GetParametersByPath {path}"))?;
                let below = state.parameters.iter();
                let below = below
                    .filter(|(name, _)| name.starts_with(&path))
                    .map(|(name, value)| parameter(name, value));
                Ok(GetParametersByPathOutput::builder()
                    .set_parameters(Some(below.collect()))
                    .build())
            }
        );
        let put = answers!(
            self,
            ssm::put_parameter,
            PutParameterError,
            |state, request| {
                let name = request.name().unwrap_or_default();
                state.call(format!("ssm:PutParameter {name}"))?;
                let value = request.value().unwrap_or_default();
                if request.overwrite() != Some(true) && state.parameters.contains_key(name) {
                    return Err(error("ParameterAlreadyExists"));
                }
                state.parameters.insert(name.to_owned(), value.to_owned());
                Ok(PutParameterOutput::builder().build())
            }
        );
        let delete = answers!(
            self,
            ssm::delete_parameter,
            DeleteParameterError,
            |state, request| {
                let name = request.name().unwrap_or_default();
                state.call(format!("ssm:DeleteParameter {name}"))?;
                let removed = state.parameters.remove(name);
                removed.ok_or_else(|| error(NOT_FOUND))?;
                Ok(DeleteParameterOutput::builder().build())
            }
        );
        self.rules.ssm.extend([get, by_path, put, delete]);
        self
    }

    /// Makes a decision about the pointer of the cache `web` for `x86_64`.
    ///
    /// # Panics
    /// If the pointer does not allow it, or a call fails.
    pub async fn decide(&self, decision: &Decision, now: Timestamp) -> Decided {
        let clients = self.clients();
        let (cache, regions) = ("web".parse().expect("a valid name"), BTreeSet::new());
        let pointer = TargetPointer {
            clients: &clients,
            cache: &cache,
            architecture: Architecture::X86_64,
            copy_to_regions: &regions,
        };
        let decided = pointer.decide(decision, now).await;
        decided.expect("the pointer allows the decision")
    }

    /// Sets a parameter.
    pub fn set_parameter(&self, name: &str, value: &str) {
        let mut state = self.state();
        state.parameters.insert(name.to_owned(), value.to_owned());
    }

    /// Returns the value of a parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.state().parameters.get(name).cloned()
    }
}

//! A Parameter Store in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_smithy_mocks::{MockResponse, Rule, mock};
use prepull_aws::ssm::Client;
use prepull_aws::ssm::error::ErrorMetadata;
use prepull_aws::ssm::operation::delete_parameter::{DeleteParameterError, DeleteParameterOutput};
use prepull_aws::ssm::operation::get_parameter::{GetParameterError, GetParameterOutput};
use prepull_aws::ssm::operation::get_parameters_by_path::GetParametersByPathOutput;
use prepull_aws::ssm::operation::put_parameter::PutParameterOutput;
use prepull_aws::ssm::types::Parameter;

/// Parameters that stages read, write and delete. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct ParameterStore(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    values: BTreeMap<String, String>,
    written: Vec<String>,
}

impl ParameterStore {
    /// Creates a store with `parameters`, as pairs of name and value.
    #[must_use]
    pub fn of<const N: usize>(parameters: [(&str, &str); N]) -> Self {
        let store = Self::default();
        for (name, value) in parameters {
            store.set(name, value);
        }
        store
    }

    /// Puts a parameter into the store.
    ///
    /// # Panics
    /// Panics if a thread panicked while it held the lock.
    pub fn set(&self, name: &str, value: &str) {
        let mut state = self.0.lock().unwrap();
        state.values.insert(name.to_owned(), value.to_owned());
    }

    /// Returns the value of a parameter.
    ///
    /// # Panics
    /// Panics if a thread panicked while it held the lock.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.lock().unwrap().values.get(name).cloned()
    }

    /// Returns the names of the written parameters, in the order of the writes.
    ///
    /// # Panics
    /// Panics if a thread panicked while it held the lock.
    #[must_use]
    pub fn written(&self) -> Vec<String> {
        self.0.lock().unwrap().written.clone()
    }

    /// Returns the mock rules that answer Systems Manager calls from this store.
    ///
    /// # Panics
    /// Panics if a thread panicked while it held the lock.
    #[must_use]
    pub fn rules(&self) -> [Rule; 4] {
        let parameter =
            |name: &str, value: &str| Parameter::builder().name(name).value(value).build();
        let (by_name, by_path, put, delete) =
            (self.clone(), self.clone(), self.clone(), self.clone());
        [
            mock!(Client::get_parameter).then_compute_response(move |request| {
                let name = request.name().unwrap_or_default();
                match by_name.get(name) {
                    Some(value) => MockResponse::Output(
                        GetParameterOutput::builder()
                            .parameter(parameter(name, &value))
                            .build(),
                    ),
                    None => MockResponse::Error(GetParameterError::generic(not_found())),
                }
            }),
            mock!(Client::get_parameters_by_path).then_compute_output(move |request| {
                let path = format!("{}/", request.path().unwrap_or_default());
                let state = by_path.0.lock().unwrap();
                let below = state
                    .values
                    .iter()
                    .filter(|(name, _)| name.starts_with(&path));
                GetParametersByPathOutput::builder()
                    .set_parameters(Some(
                        below.map(|(name, value)| parameter(name, value)).collect(),
                    ))
                    .build()
            }),
            mock!(Client::put_parameter).then_compute_output(move |request| {
                let name = request.name().unwrap_or_default();
                put.set(name, request.value().unwrap_or_default());
                put.0.lock().unwrap().written.push(name.to_owned());
                PutParameterOutput::builder().build()
            }),
            mock!(Client::delete_parameter).then_compute_response(move |request| {
                let mut state = delete.0.lock().unwrap();
                match state.values.remove(request.name().unwrap_or_default()) {
                    Some(_) => MockResponse::Output(DeleteParameterOutput::builder().build()),
                    None => MockResponse::Error(DeleteParameterError::generic(not_found())),
                }
            }),
        ]
    }
}

fn not_found() -> ErrorMetadata {
    ErrorMetadata::builder().code("ParameterNotFound").build()
}

//! Open questions about AWS and Bottlerocket.
//!
//! A call that fails is recorded as the answer and does not stop the suite.

mod account;
mod builds;
mod node;
mod not_asked;

pub use account::about_the_account;
pub use builds::about_builds;
pub use node::{
    about_a_client_token, about_a_launch, about_a_volume, about_parameter_sizes, about_reading,
    about_the_start, about_traces,
};
pub use not_asked::that_are_not_asked;

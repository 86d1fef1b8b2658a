//! A small Kubernetes API server for tests of prepull.
//!
//! It stores objects, speaks HTTP, and follows the rules of the real server that decide whether a patch is safe:
//! resource versions, generations, `test` in JSON patches, the status subresource, the rules of Karpenter's CRD, and
//! errors as `Status`. A switchable [`Karpenter`] answers each change of a node class with conditions.
//!
//! # Alternatives
//! - `kube-fake-client` 0.3 replaces the client of one process, so it does not test the wire format, and a command
//!   cannot use it. It depends on `kube` 4, while prepull uses `kube` 5. It increases `generation` on every write, also
//!   of an annotation, and does not know the rules of Karpenter's CRD.
//! - `kmock` 0.8 stores objects over HTTP without generations, resource versions and conflicts.
//! - A real kube-apiserver needs etcd and binaries that no package registry has.
//!
//! # Limits
//! No watch, no server-side apply, no strategic merge patch, no `managedFields`, no pages of a list, no admission
//! webhooks, no authorization except through [`Fault`]. Unknown fields of custom resources are kept, while the real
//! server prunes them. Of the CRD, only the rules in [`rules`] exist. TLS is absent.
//!
//! **Before:** a tokio runtime. **After:** [`Server::start`] listens on a free port of the loopback interface until the
//! server is dropped. **Called again:** each server has its own objects. **Errors:** a port that cannot be opened.

mod fault;
mod handler;
mod karpenter;
mod resources;
pub mod rules;
mod selectors;
mod server;
mod status;
mod store;

pub use fault::{Fault, FaultReply};
pub use karpenter::{Answer, Karpenter};
pub use server::{Request, Server};
pub use status::Status;

//! Hands published snapshots to Karpenter: patches the node classes that opted in by annotation.
//!
//! The crate calls the Kubernetes API only. The caller reads the [`Pointer`](prepull_domain::Pointer) of each class, as
//! seen in the Region of the cluster ([`Pointer::in_region`](prepull_domain::Pointer::in_region)).
//!
//! 1. [`list`] returns the classes with the [`annotations`]. [`get`] returns one again.
//! 2. [`plan()`] decides about one class. It is a pure function, so a dry run ends here.
//! 3. [`apply()`] patches, waits for Karpenter, and reverts the patch if Karpenter does not accept it.
//!
//! # Rules
//! - A patch changes `snapshotID` and, if the volume is too small, `volumeSize` of `/dev/xvdb`. Everything else stays.
//! - A patch is a JSON patch, because server-side apply replaces the whole list `blockDeviceMappings`
//!   (`x-kubernetes-list-type` is absent in the CRD, so the list is atomic). `test` operations let the patch fail if
//!   another client has changed the volume or the opt-in since [`list`].
//! - A class whose Ready is False is left alone. A new snapshot does not remove the cause, for example a missing
//!   subnet, and a sync could not tell whether the new snapshot works. A class whose Ready is Unknown is patched,
//!   because a wrong snapshot ID leaves Ready Unknown, and a new snapshot is the repair.
//! - The wait ends when Ready is True for the current generation. If something is wrong, Ready becomes False or stays
//!   Unknown. The node pools of such a class are not ready (`pkg/controllers/nodepool/readiness/controller.go` of
//!   kubernetes-sigs/karpenter), so Karpenter replaces no drifted node before the revert. This is untested on AWS.
//! - A roll-back, which leaves a rejected snapshot, ignores the delay and Ready, and is never reverted. The rejected
//!   snapshot must not come back.
//! - A snapshot that Karpenter did not accept is not tried again, until a person removes
//!   [`REVERTED_SNAPSHOT`](annotations::REVERTED_SNAPSHOT). Each attempt makes the class unusable for minutes.
//! - An [`Interruption`] ends the wait and reverts the patch. It says nothing about the snapshot, so the next call tries
//!   the snapshot again.
//!
//! **Before:** credentials with the rights of [`RBAC_RULE`]. **After:** each class has the snapshot of its pointer, or
//! its outcome says why not. **Called again:** an up-to-date class is not written. Two calls at once agree, because the
//! patch of the later one fails its tests. If the process is killed between patch and verdict, the class keeps the new
//! snapshot, and [`Plan::UpToDate`] shows whether it is ready. **Errors:** [`Error`] for the cluster, [`Refusal`] and
//! [`Outcome`] for one class.

pub mod annotations;
mod apply;
mod change;
mod class;
mod client;
mod error;
mod interruption;
pub mod nodes;
mod objects;
mod observe;
mod plan;
mod quantity;

pub use annotations::{Channel, InvalidAnnotation, OptIn, Ring, Unpublished};
pub use apply::{Outcome, Patience, apply};
pub use change::{Change, ChangeKind, FieldChange};
pub use class::{Listed, NodeClass, Readiness};
pub use client::{cluster_name, connect, connect_with, get, list};
pub use error::{Error, RBAC_RULE};
pub use interruption::Interruption;
pub use kube::Client;
pub use objects::objects;
pub use observe::{Observed, observe};
pub use plan::{Plan, Refusal, Timing, plan};

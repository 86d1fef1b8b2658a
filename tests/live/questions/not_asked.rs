//! Open questions that this suite does not ask, with the reason.

use crate::sheet::AnswerSheet;

const CLUSTER: &str = "it needs an EKS cluster, and the suite starts nodes without one";

/// Adds every question that the suite does not ask.
pub fn that_are_not_asked(sheet: &mut AnswerSheet) {
    for (question, reason) in [
        (
            "Does the kubelet report `already present` for pods that use a cached image by tag and by digest?",
            CLUSTER,
        ),
        (
            "Does Karpenter replace nodes after the pointer moves, and keep them after it moves back?",
            CLUSTER,
        ),
        (
            "How long does a managed node group take to replace its nodes after a new launch template version?",
            CLUSTER,
        ),
        (
            "Do nodes of an `-nvidia` variant use a snapshot of the plain variant?",
            "it needs an instance with a GPU. Quotas of new accounts are zero",
        ),
        (
            "Which error does a launch return beyond the quota of volume initialization?",
            "the small snapshot is initialized before enough volumes exist to exceed 5,000 MiB/s",
        ),
        (
            "Does `ModifySnapshotAttribute` need KMS permissions for a snapshot with a customer-managed key?",
            "it needs a second account",
        ),
        (
            "Does CopySnapshot into another Region need more KMS permissions than the module grants?",
            "it needs a multi-Region key, and deletion of a key takes at least seven days",
        ),
        (
            "Does the condition `kms:ViaService` have the same value in China's Regions?",
            "the Regions of China are another partition with other accounts",
        ),
        (
            "Which events does ECR send for pull-through caches and for replication?",
            "it needs repositories, rules and pushes that this suite does not create",
        ),
        (
            "How many events of pushes does ECR lose?",
            "the rate is too small to see in one run",
        ),
        (
            "When does Docker Hub limit anonymous requests of Lambda functions?",
            "the limit depends on other users of the same addresses",
        ),
        (
            "Does a builder in a subnet with only IPv6 reach Systems Manager and ECR?",
            "the default VPC has no such subnet",
        ),
        (
            "How long does a snapshot of 100 GB take?",
            "the suite builds a small cache",
        ),
    ] {
        sheet.not_asked(question, reason);
    }
}

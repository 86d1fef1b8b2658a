output "role_arn" {
  description = "ARN of the role of the pods, or `null` without `cluster_name`."
  value       = one(aws_iam_role.pods[*].arn)

  precondition {
    condition     = var.cluster_name != null || length(var.consumers) > 0
    error_message = "The module has nothing to create: neither cluster_name nor consumers is set. Set cluster_name in the account of the cluster, or consumers in the account of prepull."
  }

  precondition {
    condition     = var.cluster_name == null || (length(var.caches) > 0) != (var.target_role_arn != null)
    error_message = "The role of the pods has no permission, or two sources of it: set caches if the cluster is in the account of prepull, and target_role_arn if it is not."
  }

  precondition {
    condition     = !var.launch_templates || (local.has_pod_role && local.is_in_same_account)
    error_message = "launch_templates has no effect without a role for pods in the account of prepull: `prepull templates` reads pointers and changes launch templates there. Set caches and cluster_name without target_role_arn, or remove launch_templates."
  }

  precondition {
    condition     = var.target_role_arn == null || var.consumer_name == null
    error_message = "consumer_name has no effect beside target_role_arn: the target role has the names of its clusters. Set the name as a key of consumers in the account of prepull."
  }
}

output "target_role_arn" {
  description = "ARN of the role for clusters in other accounts, or `null` without `consumers`."
  value       = one(aws_iam_role.target[*].arn)

  precondition {
    condition     = length(var.consumers) == 0 || length(var.caches) > 0
    error_message = "The target role has no permission: caches is empty. Set the caches that the clusters in consumers follow."
  }

  precondition {
    condition     = alltrue([for consumer in values(local.consumers) : consumer.account != local.account])
    error_message = "consumers has a cluster of this account, ${local.account}: ${join(", ", values(var.consumers))}. Use the module with cluster_name for it."
  }
}

output "consumer_name" {
  description = "Value to set as `PREPULL_CLUSTER` in the CronJob. It is `null` without `cluster_name`, and also with `target_role_arn`, because the key in `consumers` is then the value."
  value       = local.has_pod_role && local.is_in_same_account ? local.consumer_name : null
}

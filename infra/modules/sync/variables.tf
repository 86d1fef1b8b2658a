variable "caches" {
  description = "Names of the caches that the clusters follow, as in `caches` of the prepull module. The roles have permissions for their parameters only."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for cache in var.caches : can(regex("^[a-z][a-z0-9-]{0,31}$", cache)) && !contains(["config", "announced"], cache)])
    error_message = "caches has an invalid name: ${join(", ", [for cache in var.caches : "`${cache}`"])}. Use 1 to 32 characters of a-z, 0-9 and -, starting with a letter, and not `config` or `announced`."
  }

  validation {
    condition     = length(distinct(var.caches)) == length(var.caches)
    error_message = "caches has a name twice: ${join(", ", [for cache in var.caches : "`${cache}`"])}. Use each name once."
  }
}

variable "launch_templates" {
  description = "Lets the pods also run `prepull templates --apply`: they may change launch templates whose tag `prepull/cache` is one of `caches`."
  type        = bool
  default     = false
  nullable    = false
}

variable "name" {
  description = "Prefix of the names of the roles. Use the same one in the accounts of the clusters and in the account of prepull."
  type        = string
  default     = "prepull-sync"
  nullable    = false

  validation {
    condition     = can(regex("^[\\w+=,.@-]{1,24}$", var.name))
    error_message = "name is invalid: `${var.name}`. Use 1 to 24 characters of a-z, A-Z, 0-9 and _+=,.@-."
  }
}

variable "namespace" {
  description = "Namespace of the CronJob in the cluster, as in deploy/sync/kustomization.yaml."
  type        = string
  default     = "prepull"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace is invalid: `${var.namespace}`. Use 1 to 63 characters of a-z, 0-9 and -, with a letter or a digit at both ends."
  }
}

variable "service_account" {
  description = "Service account of the CronJob in the cluster, as in deploy/sync/service-account.yaml."
  type        = string
  default     = "prepull-sync"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$", var.service_account))
    error_message = "service_account is invalid: `${var.service_account}`. Use 1 to 253 characters of a-z, 0-9, - and ., with a letter or a digit at both ends."
  }
}

variable "tags" {
  description = "Tags of the roles and of the association."
  type        = map(string)
  default     = {}
  nullable    = false
}

################################################################################
# The account of the cluster
################################################################################

variable "cluster_name" {
  description = "Name of the EKS cluster, in the account and Region of the provider. Without it, the module creates no role for pods."
  type        = string
  default     = null

  # Source: EKS API reference, "CreateCluster".
  validation {
    condition     = var.cluster_name == null ? true : can(regex("^[0-9A-Za-z][A-Za-z0-9_-]{0,99}$", var.cluster_name))
    error_message = "cluster_name is invalid: `${coalesce(var.cluster_name, "null")}`. Use the name of an EKS cluster: 1 to 100 characters of a-z, A-Z, 0-9, - and _, starting with a letter or a digit."
  }
}

variable "consumer_name" {
  description = "Value of `PREPULL_CLUSTER` in the CronJob. The pods may register snapshots only under this name. The default is `cluster_name`."
  type        = string
  default     = null

  validation {
    condition     = var.consumer_name == null ? true : can(regex("^[0-9A-Za-z][A-Za-z0-9_-]{0,99}$", var.consumer_name))
    error_message = "consumer_name is invalid: `${coalesce(var.consumer_name, "null")}`. Use 1 to 100 characters of a-z, A-Z, 0-9, - and _, starting with a letter or a digit."
  }
}

variable "target_role_arn" {
  description = "ARN of the role in prepull's account, if the cluster is in another account. It is the output `target_role_arn` of the module there. The role of the pods may then only assume this role, and you create the association."
  type        = string
  default     = null

  validation {
    condition     = var.target_role_arn == null ? true : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:role/[\\w+=,.@/-]+$", var.target_role_arn))
    error_message = "target_role_arn is invalid: `${coalesce(var.target_role_arn, "null")}`. Use the ARN of an IAM role."
  }
}

################################################################################
# The account of prepull
################################################################################

variable "consumers" {
  description = "Clusters in other accounts, as a map from `PREPULL_CLUSTER` to the ARN of the EKS cluster. Each may register snapshots only under its own name. Without it, the module creates no target role."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.consumers) : can(regex("^[0-9A-Za-z][A-Za-z0-9_-]{0,99}$", name))])
    error_message = "consumers has an invalid name: ${join(", ", [for name in keys(var.consumers) : "`${name}`"])}. Use 1 to 100 characters of a-z, A-Z, 0-9, - and _, starting with a letter or a digit."
  }

  validation {
    condition     = alltrue([for arn in values(var.consumers) : can(regex("^arn:[a-z-]+:eks:[a-z0-9-]+:[0-9]{12}:cluster/[0-9A-Za-z][A-Za-z0-9_-]{0,99}$", arn))])
    error_message = "consumers has an invalid ARN: ${join(", ", [for arn in values(var.consumers) : "`${arn}`"])}. Use the ARNs of EKS clusters."
  }

  validation {
    condition     = length(distinct(values(var.consumers))) == length(var.consumers)
    error_message = "consumers has an ARN twice: ${join(", ", [for arn in values(var.consumers) : "`${arn}`"])}. Use each cluster once."
  }
}

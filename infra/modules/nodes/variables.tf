variable "cache" {
  description = "Name of the cache, as in `caches` of the prepull module."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,31}$", var.cache)) && !contains(["config", "announced"], var.cache)
    error_message = "cache is invalid: `${var.cache}`. Use 1 to 32 characters of a-z, 0-9 and -, starting with a letter, and not `config` or `announced`."
  }
}

variable "architecture" {
  description = "Architecture of the nodes: `x86_64` or `arm64`. A snapshot serves one architecture, so use the module once for each."
  type        = string
  default     = "x86_64"
  nullable    = false

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture is invalid: `${var.architecture}`. Use `x86_64` or `arm64`."
  }
}

variable "name" {
  description = "Name of the node class, and of the node pool. The default is the cache with the architecture in the words of Kubernetes: `web-amd64`."
  type        = string
  default     = null

  validation {
    # Karpenter writes the name into a label, which has at most 63 characters. The fall-back adds 9.
    condition     = var.name == null ? true : can(regex("^[a-z0-9](?:[a-z0-9-]{0,52}[a-z0-9])?$", var.name))
    error_message = "name is invalid: `${coalesce(var.name, "null")}`. Use 1 to 54 characters of a-z, 0-9 and -, with a letter or a digit at both ends."
  }
}

################################################################################
# Node class
################################################################################

variable "role" {
  description = "Name of the IAM role of Karpenter's nodes. Set either `role` or `instance_profile` for a node class."
  type        = string
  default     = null

  validation {
    condition     = var.role == null ? true : can(regex("^[\\w+=,.@-]{1,64}$", var.role))
    error_message = "role is invalid: `${coalesce(var.role, "null")}`. Use the name of an IAM role, not its ARN."
  }
}

variable "instance_profile" {
  description = "Name of the instance profile of Karpenter's nodes, instead of `role`."
  type        = string
  default     = null

  validation {
    condition     = var.instance_profile == null ? true : can(regex("^[\\w+=,.@-]{1,128}$", var.instance_profile))
    error_message = "instance_profile is invalid: `${coalesce(var.instance_profile, "null")}`. Use the name of an instance profile, not its ARN."
  }
}

variable "subnet_selector_terms" {
  description = "Subnets of Karpenter's nodes. Each term has either `tags` or an `id`. Without terms for subnets and security groups, the module makes no node class."
  type = list(object({
    tags = optional(map(string))
    id   = optional(string)
  }))
  default  = []
  nullable = false

  # Source: Karpenter's CRD of EC2NodeClass.
  validation {
    condition     = length(var.subnet_selector_terms) <= 30 && alltrue([for term in var.subnet_selector_terms : (term.tags == null) != (term.id == null)])
    error_message = "subnet_selector_terms is invalid: a term has neither `tags` nor `id`, or both, or there are more than 30. Use one of both in each term."
  }

  validation {
    condition     = alltrue([for term in var.subnet_selector_terms : can(regex("^subnet-[0-9a-f]{8,17}$", term.id)) if term.id != null])
    error_message = "subnet_selector_terms has an invalid id: ${join(", ", [for term in var.subnet_selector_terms : "`${term.id}`" if term.id != null])}. Use IDs of subnets."
  }

  validation {
    condition     = alltrue([for term in var.subnet_selector_terms : length(term.tags) > 0 && alltrue([for key, value in term.tags : key != "" && value != ""]) if term.tags != null])
    error_message = "subnet_selector_terms has invalid tags: a key or a value is empty. Use `*` for any value."
  }
}

variable "security_group_selector_terms" {
  description = "Security groups of Karpenter's nodes. Each term has one of `tags`, `id` and `name`."
  type = list(object({
    tags = optional(map(string))
    id   = optional(string)
    name = optional(string)
  }))
  default  = []
  nullable = false

  # Source: Karpenter's CRD of EC2NodeClass.
  validation {
    condition     = length(var.security_group_selector_terms) <= 30 && alltrue([for term in var.security_group_selector_terms : length([for value in [term.tags, term.id, term.name] : true if value != null]) == 1])
    error_message = "security_group_selector_terms is invalid: a term has none or several of `tags`, `id` and `name`, or there are more than 30. Use one of them in each term."
  }

  validation {
    condition     = alltrue([for term in var.security_group_selector_terms : can(regex("^sg-[0-9a-f]{8,17}$", term.id)) if term.id != null])
    error_message = "security_group_selector_terms has an invalid id: ${join(", ", [for term in var.security_group_selector_terms : "`${term.id}`" if term.id != null])}. Use IDs of security groups."
  }

  validation {
    condition     = alltrue([for term in var.security_group_selector_terms : length(term.tags) > 0 && alltrue([for key, value in term.tags : key != "" && value != ""]) if term.tags != null])
    error_message = "security_group_selector_terms has invalid tags: a key or a value is empty. Use `*` for any value."
  }
}

variable "ami_selector_terms" {
  description = "AMIs of Karpenter's nodes, which must be of Bottlerocket. The default is the release of the snapshot's builder. An older release may not mount the snapshot's file system."
  type = list(object({
    alias         = optional(string)
    ssm_parameter = optional(string)
    id            = optional(string)
    name          = optional(string)
    owner         = optional(string)
    tags          = optional(map(string))
  }))
  default  = []
  nullable = false

  # Source: Karpenter's CRD of EC2NodeClass.
  validation {
    condition     = alltrue([for term in var.ami_selector_terms : can(regex("^bottlerocket@(?:latest|v[0-9]+\\.[0-9]+\\.[0-9]+)$", term.alias)) if term.alias != null])
    error_message = "ami_selector_terms has an invalid alias: ${join(", ", [for term in var.ami_selector_terms : "`${term.alias}`" if term.alias != null])}. Use `bottlerocket@latest` or a release like `bottlerocket@v1.57.0`, because only Bottlerocket finds the images."
  }

  validation {
    condition     = alltrue([for term in var.ami_selector_terms : term.alias == null || length(var.ami_selector_terms) == 1 && alltrue([for value in [term.ssm_parameter, term.id, term.name, term.owner, term.tags] : value == null])])
    error_message = "ami_selector_terms is invalid: an alias excludes every other field and every other term. Use the alias alone."
  }

  validation {
    condition     = alltrue([for term in var.ami_selector_terms : can(regex("^ami-[0-9a-f]{8,17}$", term.id)) && alltrue([for value in [term.name, term.owner, term.tags] : value == null]) if term.id != null])
    error_message = "ami_selector_terms has an invalid id: ${join(", ", [for term in var.ami_selector_terms : "`${term.id}`" if term.id != null])}. Use the ID of an AMI, without `name`, `owner` and `tags` beside it."
  }

  validation {
    condition     = length(var.ami_selector_terms) <= 30 && alltrue([for term in var.ami_selector_terms : anytrue([for value in [term.alias, term.ssm_parameter, term.id, term.name, term.tags] : value != null])])
    error_message = "ami_selector_terms is invalid: a term selects no AMI, or there are more than 30. Use `alias`, `ssm_parameter`, `id`, `name` or `tags` in each term."
  }
}

variable "user_data" {
  description = "Bottlerocket settings of Karpenter's nodes, in TOML."
  type        = string
  default     = null

  # Bottlerocket deletes the images if the snapshotter differs from that of the builder.
  validation {
    condition     = var.user_data == null ? true : !can(regex("(?m)^\\s*(?:settings\\.container-runtime\\.)?snapshotter\\s*=\\s*[\"'][^o]", var.user_data))
    error_message = "user_data hides the images of the snapshot: it changes the snapshotter. Remove the setting `snapshotter`."
  }

  validation {
    condition     = var.user_data == null ? true : !can(regex("(?s)ephemeral-storage.*/var/lib/containerd", var.user_data))
    error_message = "user_data hides the images of the snapshot: it moves /var/lib/containerd to the instance storage. Remove that directory from the bootstrap command."
  }
}

variable "tags" {
  description = "Tags of Karpenter's instances, volumes and launch templates."
  type        = map(string)
  default     = {}
  nullable    = false

  # Source: Karpenter's CRD of EC2NodeClass.
  validation {
    condition     = alltrue([for key in keys(var.tags) : can(regex("^.{1,128}$", key)) && !can(regex("^(?:(?i:aws:)|eks:eks-cluster-name$|kubernetes\\.io/cluster|karpenter\\.sh/node(?:pool|claim)$|karpenter\\.k8s\\.aws/ec2nodeclass$)", key))])
    error_message = "tags has an empty or a reserved key: the keys are ${join(", ", keys(var.tags))}. Leave out the tags of AWS, of Karpenter and of the cluster."
  }
}

################################################################################
# Data volume
################################################################################

variable "volume_size_gib" {
  description = "Size of the data volume. The default is the size of the snapshot, which is also the minimum. The volume also holds the data of the pods, and the kubelet removes images above 85 % usage."
  type        = number
  default     = null

  validation {
    condition     = var.volume_size_gib == null ? true : var.volume_size_gib == floor(var.volume_size_gib) && var.volume_size_gib >= 2 && var.volume_size_gib <= 16384
    error_message = "volume_size_gib is invalid: ${coalesce(var.volume_size_gib, 0)}. Use a whole number from 2 to 16384."
  }
}

variable "volume_iops" {
  description = "IOPS of the data volume, which is of type gp3. The default is `volume.iops` of the cache."
  type        = number
  default     = null

  validation {
    condition     = var.volume_iops == null ? true : var.volume_iops == floor(var.volume_iops) && var.volume_iops >= 3000 && var.volume_iops <= 80000
    error_message = "volume_iops is invalid: ${coalesce(var.volume_iops, 0)}. Use a whole number from 3000 to 80000."
  }
}

variable "volume_throughput_mibps" {
  description = "Throughput of the data volume in MiB/s. The default is `volume.throughput_mibps` of the cache."
  type        = number
  default     = null

  validation {
    condition     = var.volume_throughput_mibps == null ? true : var.volume_throughput_mibps == floor(var.volume_throughput_mibps) && var.volume_throughput_mibps >= 125 && var.volume_throughput_mibps <= 2000
    error_message = "volume_throughput_mibps is invalid: ${coalesce(var.volume_throughput_mibps, 0)}. Use a whole number from 125 to 2000."
  }
}

variable "volume_initialization_rate" {
  description = "Rate in MiB/s at which EBS loads the snapshot into a new volume, from 100 to 300. AWS charges it per GiB of snapshot. `null` or 0 leaves it out, and EBS then loads each block at its first read."
  type        = number
  default     = 300

  validation {
    condition     = var.volume_initialization_rate == null ? true : var.volume_initialization_rate == 0 || var.volume_initialization_rate == floor(var.volume_initialization_rate) && var.volume_initialization_rate >= 100 && var.volume_initialization_rate <= 300
    error_message = "volume_initialization_rate is invalid: ${coalesce(var.volume_initialization_rate, 0)}. Use a whole number from 100 to 300, or 0 for no rate."
  }
}

variable "kms_key_id" {
  description = "ARN of the KMS key of the data volume. The default is `volume.kms_key_id` of the cache. Karpenter's controller needs permissions for this key."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_id == null ? true : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", var.kms_key_id))
    error_message = "kms_key_id is invalid: `${coalesce(var.kms_key_id, "null")}`. Use the ARN of a key, not of an alias."
  }
}

################################################################################
# Node pool
################################################################################

variable "node_pool" {
  description = "Settings of a Karpenter node pool for the node class. `{}` takes the defaults, and without this input there is no node pool."
  type = object({
    # Replacement of nodes after a new snapshot: `rolling` replaces them within the budget, `new-nodes-only` leaves them. The
    # second also stops every other drift, for example to a new AMI.
    replacement = optional(string, "rolling")
    # Nodes that Karpenter may disrupt at the same time: a number or a percentage.
    budget = optional(string, "10%")
    # Time after which Karpenter may remove an empty or underutilized node.
    consolidate_after = optional(string, "0s")
    # Taints of the nodes. Without a taint, other pods fill the data volume with their images.
    taints = optional(list(object({
      key    = string
      value  = optional(string)
      effect = optional(string, "NoSchedule")
    })), [])
    # Requirements beside the architecture, for example capacity type and instance category.
    requirements = optional(list(object({
      key      = string
      operator = optional(string, "In")
      values   = optional(list(string), [])
    })), [])
    # Limits of the node pool, for example `{ cpu = "100" }`.
    limits = optional(map(string), {})
    # Weight of the node pool, from 1 to 100. Karpenter prefers the highest.
    weight = optional(number, 10)
    # Adds a second class and a second pool without the snapshot and without weight, both with the suffix `-fallback`. It gets
    # the pods while the first class is not ready, or at its limits. It does not help if a launch fails.
    fallback = optional(bool, false)
  })
  default = null

  validation {
    condition     = var.node_pool == null ? true : contains(["rolling", "new-nodes-only"], var.node_pool.replacement)
    error_message = "node_pool.replacement is invalid: `${try(var.node_pool.replacement, "")}`. Use `rolling` or `new-nodes-only`."
  }

  # Source of these patterns: Karpenter's CRD of NodePool.
  validation {
    condition     = var.node_pool == null ? true : can(regex("^(?:(?:100|[0-9]{1,2})%|[0-9]+)$", var.node_pool.budget))
    error_message = "node_pool.budget is invalid: `${try(var.node_pool.budget, "")}`. Use a number of nodes or a percentage, for example `10%`."
  }

  validation {
    condition     = var.node_pool == null ? true : can(regex("^(?:(?:[0-9]+[smh])+|Never)$", var.node_pool.consolidate_after))
    error_message = "node_pool.consolidate_after is invalid: `${try(var.node_pool.consolidate_after, "")}`. Use a duration like `30s`, or `Never`."
  }

  validation {
    condition     = var.node_pool == null ? true : alltrue([for taint in var.node_pool.taints : can(regex("^(?:[a-z0-9.-]+/)?[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$", taint.key)) && contains(["NoSchedule", "PreferNoSchedule", "NoExecute"], taint.effect)])
    error_message = "node_pool.taints is invalid: ${join(", ", [for taint in try(var.node_pool.taints, []) : "`${taint.key}:${taint.effect}`"])}. Use a key like `prepull/cache`, and NoSchedule, PreferNoSchedule or NoExecute as its effect."
  }

  validation {
    condition     = var.node_pool == null ? true : !contains(var.node_pool.requirements[*].key, "kubernetes.io/arch")
    error_message = "node_pool.requirements is invalid: it has `kubernetes.io/arch`, which the module sets. Remove it, and use the module once for each architecture."
  }

  validation {
    condition = var.node_pool == null ? true : alltrue([for requirement in var.node_pool.requirements :
      contains(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "Gte", "Lte"], requirement.operator) &&
      (contains(["Exists", "DoesNotExist"], requirement.operator) ? length(requirement.values) == 0 : length(requirement.values) > 0)
    ])
    error_message = "node_pool.requirements is invalid: ${join(", ", [for requirement in try(var.node_pool.requirements, []) : "`${requirement.key} ${requirement.operator} [${join(", ", requirement.values)}]`"])}. Use an operator of Karpenter. Exists and DoesNotExist have no values, and all others need some."
  }

  validation {
    condition     = var.node_pool == null ? true : var.node_pool.weight == floor(var.node_pool.weight) && var.node_pool.weight >= 1 && var.node_pool.weight <= 100
    error_message = "node_pool.weight is invalid: ${try(var.node_pool.weight, 0)}. Use a whole number from 1 to 100."
  }
}

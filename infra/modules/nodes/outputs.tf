output "snapshot_id" {
  description = "ID of the stable snapshot, or `null` before the first promotion."
  value       = local.snapshot_id

  precondition {
    condition     = local.snapshot_id == null ? true : can(regex("^snap-[0-9a-f]{8,17}$", local.snapshot_id))
    error_message = "The snapshot of the cache ${var.cache} cannot be read: the parameter ${local.path}/snapshot-id has the value `${coalesce(local.snapshot_id, "null")}`, which is no ID of a snapshot. Build the cache with `prepull build ${var.cache}`."
  }

  precondition {
    condition     = local.snapshot_id == null || local.manifest != null
    error_message = "The snapshot ${coalesce(local.snapshot_id, "null")} cannot be used: it has no manifest at ${local.path}/snapshots. Plan again, and if the error remains, build the cache with `prepull build ${var.cache}`."
  }

  precondition {
    condition     = local.configuration == null ? true : contains(local.configuration.architectures, var.architecture)
    error_message = "The cache ${var.cache} has no snapshots for ${var.architecture}: its architectures are ${join(", ", try(local.configuration.architectures, []))}. Add ${var.architecture} to the cache, or use another architecture."
  }

  precondition {
    condition     = local.manifest == null ? true : local.volume.size_gib >= local.minimum_size_gib
    error_message = "The data volume is too small: volume_size_gib is ${local.volume.size_gib}, and the snapshot has ${local.minimum_size_gib} GiB. Use at least ${local.minimum_size_gib}, or remove volume_size_gib."
  }
}

output "bottlerocket_version" {
  description = "Bottlerocket release of the snapshot's builder, for example `1.57.0`, or `null` before the first build. Nodes need this release or a newer one."
  value       = local.snapshot_id == null ? null : local.bottlerocket_version
}

output "block_device_mappings" {
  description = "Root volume and data volume for `block_device_mappings` of an `aws_launch_template`. Absent settings are `null`."
  value = [
    {
      device_name = "/dev/xvda"
      ebs = {
        snapshot_id                = null
        volume_size                = 4
        volume_type                = "gp3"
        iops                       = null
        throughput                 = null
        volume_initialization_rate = null
        encrypted                  = true
        kms_key_id                 = null
        delete_on_termination      = true
      }
    },
    {
      device_name = "/dev/xvdb"
      ebs = {
        snapshot_id                = local.snapshot_id
        volume_size                = local.volume.size_gib
        volume_type                = "gp3"
        iops                       = local.volume.iops
        throughput                 = local.volume.throughput_mibps
        volume_initialization_rate = local.initialization_rate
        # Beside a snapshot, EC2 takes encryption and key from the snapshot. prepull's snapshots are always encrypted.
        # Source: EC2 API reference, "LaunchTemplateEbsBlockDeviceRequest".
        encrypted             = local.snapshot_id == null ? true : null
        kms_key_id            = local.snapshot_id == null ? local.volume.kms_key_id : null
        delete_on_termination = true
      }
    },
  ]
}

output "node_class" {
  description = "Karpenter's `EC2NodeClass` as an object, or `null` without selector terms."
  value       = local.has_node_class ? local.node_classes.node_class : null

  precondition {
    condition     = !local.has_node_class || (var.role == null) != (var.instance_profile == null)
    error_message = "The node class ${local.name} is invalid: it has both a role and an instance profile, or neither. Set either role or instance_profile."
  }

  precondition {
    condition     = local.has_node_class ? length(var.subnet_selector_terms) > 0 && length(var.security_group_selector_terms) > 0 : var.role == null && var.instance_profile == null
    error_message = "The node class ${local.name} is invalid: it has no subnets or no security groups. Set subnet_selector_terms and security_group_selector_terms."
  }
}

output "node_class_yaml" {
  description = "Karpenter's `EC2NodeClass` as YAML, or `null` without selector terms."
  value       = try(local.manifests_of_nodes.node_class, null)
}

output "node_pool" {
  description = "Karpenter's `NodePool` as an object, or `null` without `node_pool`."
  value       = try(local.node_pools.node_pool, null)
}

output "node_pool_yaml" {
  description = "Karpenter's `NodePool` as YAML, or `null` without `node_pool`."
  value       = try(local.manifests_of_nodes.node_pool, null)
}

output "manifests" {
  description = "All objects for Kubernetes as YAML: `node_class`, `node_pool`, `fallback_node_class` and `fallback_node_pool`, as far as the inputs ask for them. The keys are known at plan time."
  value       = local.manifests_of_nodes
}

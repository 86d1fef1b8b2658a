# A read by path returns nothing if a parameter does not exist. A read by name would fail before the first build, and in the
# Regions of copies, which have no configuration.
data "aws_ssm_parameters_by_path" "pointer" {
  path = local.path
}

data "aws_ssm_parameters_by_path" "manifests" {
  path = "${local.path}/snapshots"
}

data "aws_ssm_parameters_by_path" "configurations" {
  path = "/prepull/config"
}

locals {
  path = "/prepull/${var.cache}/${var.architecture}"
  # Kubernetes has its own words for architectures.
  kubernetes_architecture = { x86_64 = "amd64", arm64 = "arm64" }[var.architecture]
  name                    = coalesce(var.name, "${var.cache}-${local.kubernetes_architecture}")

  # The provider marks all values as sensitive. These have no secrets, and a plan should show a new snapshot.
  pointers       = zipmap(data.aws_ssm_parameters_by_path.pointer.names, nonsensitive(data.aws_ssm_parameters_by_path.pointer.values))
  manifests      = zipmap(data.aws_ssm_parameters_by_path.manifests.names, nonsensitive(data.aws_ssm_parameters_by_path.manifests.values))
  configurations = zipmap(data.aws_ssm_parameters_by_path.configurations.names, nonsensitive(data.aws_ssm_parameters_by_path.configurations.values))

  # Each is null if its parameter does not exist.
  snapshot_id   = lookup(local.pointers, "${local.path}/snapshot-id", null)
  manifest      = jsondecode(lookup(local.manifests, "${local.path}/snapshots/${coalesce(local.snapshot_id, "none")}", "null"))
  configuration = jsondecode(lookup(local.configurations, "/prepull/config/${var.cache}", "null"))

  # Without a snapshot, the cache's settings apply, and without them the defaults of a cache.
  variant              = try(local.manifest.variant, local.configuration.variant, null)
  bottlerocket_version = try(local.manifest.node.bottlerocket_version, local.configuration.bottlerocket_version, "latest")
  minimum_size_gib     = try(local.manifest.volume_size, local.configuration.volume.size_gib, 50)
  volume = {
    size_gib         = coalesce(var.volume_size_gib, local.minimum_size_gib)
    iops             = coalesce(var.volume_iops, try(local.configuration.volume.iops, 3000))
    throughput_mibps = coalesce(var.volume_throughput_mibps, try(local.configuration.volume.throughput_mibps, 500))
    kms_key_id       = var.kms_key_id != null ? var.kms_key_id : try(local.configuration.volume.kms_key_id, null)
  }
  # EC2 and Karpenter refuse a rate without a snapshot.
  initialization_rate = local.snapshot_id == null || var.volume_initialization_rate == 0 ? null : var.volume_initialization_rate
}

################################################################################
# Node classes
################################################################################

locals {
  # Role and instance profile may be unknown at plan time. The number of terms rarely is, so it decides.
  has_node_class = length(var.subnet_selector_terms) + length(var.security_group_selector_terms) > 0 || var.node_pool != null
  has_fallback   = try(var.node_pool.fallback, false)

  # FIPS variants have no alias.
  default_ami_selector_terms = endswith(coalesce(local.variant, "none"), "-fips") ? [
    { ssm_parameter = "/aws/service/bottlerocket/${local.variant}/${var.architecture}/${local.bottlerocket_version}/image_id", alias = null }
    ] : [
    { ssm_parameter = null, alias = local.bottlerocket_version == "latest" ? "bottlerocket@latest" : "bottlerocket@v${local.bottlerocket_version}" }
  ]
  ami_selector_terms = concat(
    [for term in var.ami_selector_terms : {
      alias = term.alias, ssmParameter = term.ssm_parameter, id = term.id, name = term.name, owner = term.owner, tags = term.tags
    }],
    [for term in local.default_ami_selector_terms : {
      alias = term.alias, ssmParameter = term.ssm_parameter
    } if length(var.ami_selector_terms) == 0],
  )

  # The fields and values of `prepull nodeclass`. A test compares both.
  node_classes = {
    for key, class in {
      node_class          = { name = local.name, snapshot_id = local.snapshot_id, initialization_rate = local.initialization_rate }
      fallback_node_class = { name = "${local.name}-fallback", snapshot_id = null, initialization_rate = null }
      } : key => {
      apiVersion = "karpenter.k8s.aws/v1"
      kind       = "EC2NodeClass"
      metadata   = { name = class.name }
      spec = { for field, value in {
        amiFamily                  = "Bottlerocket"
        amiSelectorTerms           = [for term in local.ami_selector_terms : { for field, value in term : field => value if value != null }]
        role                       = var.role
        instanceProfile            = var.instance_profile
        subnetSelectorTerms        = [for term in var.subnet_selector_terms : { for field, value in term : field => value if value != null }]
        securityGroupSelectorTerms = [for term in var.security_group_selector_terms : { for field, value in term : field => value if value != null }]
        userData                   = var.user_data
        tags                       = length(var.tags) > 0 ? var.tags : null
        blockDeviceMappings = [
          # With this list, Karpenter leaves out its own default for the root volume.
          {
            deviceName = "/dev/xvda"
            ebs        = { volumeSize = "4Gi", volumeType = "gp3", encrypted = true, deleteOnTermination = true }
          },
          {
            deviceName = "/dev/xvdb"
            ebs = { for field, value in {
              snapshotID               = class.snapshot_id
              volumeSize               = "${local.volume.size_gib}Gi"
              volumeType               = "gp3"
              iops                     = local.volume.iops
              throughput               = local.volume.throughput_mibps
              volumeInitializationRate = class.initialization_rate
              kmsKeyID                 = local.volume.kms_key_id
              encrypted                = true
              deleteOnTermination      = true
            } : field => value if value != null }
          },
        ]
      } : field => value if value != null }
    }
  }
}

################################################################################
# Node pools
################################################################################

locals {
  node_pools = {
    for key, pool in {
      node_pool          = { name = local.name, weight = try(var.node_pool.weight, null) }
      fallback_node_pool = { name = "${local.name}-fallback", weight = null }
      } : key => {
      apiVersion = "karpenter.sh/v1"
      kind       = "NodePool"
      metadata   = { name = pool.name }
      spec = { for field, value in {
        weight = pool.weight
        limits = length(var.node_pool.limits) > 0 ? var.node_pool.limits : null
        disruption = {
          consolidationPolicy = "WhenEmptyOrUnderutilized"
          consolidateAfter    = var.node_pool.consolidate_after
          # Karpenter takes the most restrictive budget of a reason.
          budgets = concat(
            [{ nodes = var.node_pool.budget }],
            [for reason in ["Drifted"] : { nodes = "0", reasons = [reason] } if var.node_pool.replacement == "new-nodes-only"],
          )
        }
        template = {
          spec = { for field, value in {
            nodeClassRef = { group = "karpenter.k8s.aws", kind = "EC2NodeClass", name = pool.name }
            # The alias of an AMI has both architectures. This requirement keeps a snapshot from nodes of the other one.
            requirements = concat(
              [{ key = "kubernetes.io/arch", operator = "In", values = [local.kubernetes_architecture] }],
              [for requirement in var.node_pool.requirements : { for field, value in requirement : field => value if field != "values" || length(requirement.values) > 0 }],
            )
            taints = length(var.node_pool.taints) == 0 ? null : [for taint in var.node_pool.taints : { for field, value in taint : field => value if value != null }]
          } : field => value if value != null }
        }
      } : field => value if value != null }
    } if var.node_pool != null
  }

  manifests_of_nodes = merge(
    { for key, class in local.node_classes : key => yamlencode(class) if local.has_node_class && (key == "node_class" || local.has_fallback) },
    { for key, pool in local.node_pools : key => yamlencode(pool) if key == "node_pool" || local.has_fallback },
  )
}

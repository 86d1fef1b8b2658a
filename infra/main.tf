data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

# The key that EBS uses for volumes without a key of their own. An account may replace AWS's own key by a customer-managed
# key. Both are read in every case, because a condition on the first would be unknown at plan time if the module depends
# on a resource that is not created yet.
data "aws_ebs_default_kms_key" "current" {}

# A new account has no key behind `alias/aws/ebs`. KMS then creates the key for this call.
#
# Source: KMS API reference, "DescribeKey".
data "aws_kms_key" "ebs_default" {
  key_id = data.aws_ebs_default_kms_key.current.key_arn

  lifecycle {
    # Source: EC2 API reference, "ModifyEbsDefaultKmsKeyId".
    postcondition {
      condition     = self.key_state == "Enabled" || alltrue([for cache in var.caches : cache.volume.kms_key_id != null])
      error_message = "No builder can start, because the account's default EBS key cannot be used: ${self.arn} is in the state ${self.key_state}. Enable it, choose another default key, or set volume.kms_key_id in every cache."
    }
  }
}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  # The ID is the Region's name in every version of the provider. Other attributes have changed their names.
  region = data.aws_region.current.id

  # ARNs are built from names. References would form cycles, because functions need the ARN of the state machine that calls
  # them, and would make some resources wait for others.
  state_machine_name  = "${var.name}-build"
  state_machine_arn   = "arn:${local.partition}:states:${local.region}:${local.account}:stateMachine:${local.state_machine_name}"
  execution_arns      = "arn:${local.partition}:states:${local.region}:${local.account}:execution:${local.state_machine_name}:*"
  function_arns       = { for stage in keys(local.stages) : stage => "arn:${local.partition}:lambda:${local.region}:${local.account}:function:${var.name}-${stage}" }
  builder_name        = "${var.name}-builder-${local.region}"
  builder_role_arn    = "arn:${local.partition}:iam::${local.account}:role/${local.builder_name}"
  builder_profile_arn = "arn:${local.partition}:iam::${local.account}:instance-profile/${local.builder_name}"
  dead_letters_name   = "${var.name}-dead-letters"
  dead_letters_arn    = "arn:${local.partition}:sqs:${local.region}:${local.account}:${local.dead_letters_name}"
  default_bus_arn     = "arn:${local.partition}:events:${local.region}:${local.account}:event-bus/default"
  parameter_arn       = "arn:${local.partition}:ssm:${local.region}:${local.account}:parameter"

  # Private ECR repositories of the caches, in any account and Region.
  ecr_repositories = distinct([
    for image in flatten([for cache in var.caches : cache.images]) :
    regex(local.ecr_image, image) if can(regex(local.ecr_image, image))
  ])
  # Hosts of private ECR: IPv4 hosts and dual-stack hosts, in every partition. crates/domain/src/cache/image.rs has the same
  # list, with its sources.
  ecr_image = join("", [
    "^(?P<account>[0-9]{12})\\.",
    "(?:",
    "dkr\\.ecr(?:-fips)?\\.(?P<region>[a-z0-9-]+)\\.(?:amazonaws\\.com(?:\\.cn)?|amazonaws\\.eu|c2s\\.ic\\.gov|sc2s\\.sgov\\.gov|cloud\\.adc-e\\.uk|csp\\.hci\\.ic\\.gov)",
    "|",
    "dkr-ecr(?:-fips)?\\.(?P<dual_stack_region>[a-z0-9-]+)\\.(?:on\\.aws|on\\.amazonwebservices\\.com\\.cn)",
    ")/(?P<name>[^:@]+)",
  ])
  ecr_repository_arn  = "arn:${local.partition}:ecr:%s:%s:repository/%s"
  ecr_repository_arns = distinct([for image in local.ecr_repositories : format(local.ecr_repository_arn, coalesce(image.region, image.dual_stack_region), image.account, image.name)])

  # Repositories of pull-through caches. ECR creates them at the first pull.
  pull_through_repository_arns = distinct([
    for image in local.ecr_repositories : format(local.ecr_repository_arn, coalesce(image.region, image.dual_stack_region), image.account, image.name)
    if anytrue([for prefix in var.pull_through_cache_prefixes : prefix == "ROOT" || startswith(image.name, "${prefix}/")])
  ])

  # Other Regions that get copies of snapshots.
  copy_regions     = distinct(flatten([for cache in var.caches : cache.publication.copy_to_regions]))
  snapshot_regions = concat([local.region], local.copy_regions)
  share_accounts   = distinct(flatten([for cache in var.caches : cache.publication.share_with_accounts]))

  # Customer-managed keys that encrypt volumes and snapshots. A multi-Region key has the same ID in every Region, and its
  # replica encrypts the copy there.
  default_kms_key_arns = (
    data.aws_kms_key.ebs_default.key_manager == "CUSTOMER" && anytrue([for cache in var.caches : cache.volume.kms_key_id == null])
    ? [data.aws_kms_key.ebs_default.arn]
    : []
  )
  kms_key_arns = distinct(concat(local.default_kms_key_arns, [for cache in var.caches : cache.volume.kms_key_id if cache.volume.kms_key_id != null]))
  copy_kms_key_arns = distinct(concat(local.kms_key_arns, flatten([
    for arn in local.kms_key_arns : [
      for region in local.copy_regions : join(":", concat(slice(split(":", arn), 0, 3), [region], slice(split(":", arn), 4, 6)))
      if can(regex(":key/mrk-", arn))
    ]
  ])))
}

################################################################################
# Network
################################################################################

locals {
  # Caches without their own subnets or security groups. The lists may be unknown at plan time, for example IDs that a data
  # source reads during the apply. Everything here stays valid then, except the number of security groups, which
  # `create_security_group` decides if it is set.
  caches_without_subnets         = [for cache in var.caches : cache if length(cache.builder.subnet_ids) == 0]
  caches_without_security_groups = [for cache in var.caches : cache if length(cache.builder.security_group_ids) == 0]

  creates_security_group = (
    var.create_security_group != null
    ? var.create_security_group
    : length(var.security_group_ids) == 0 && length(local.caches_without_security_groups) > 0
  )

  subnet_ids         = length(var.subnet_ids) > 0 ? var.subnet_ids : sort(data.aws_subnets.default.ids)
  security_group_ids = local.creates_security_group ? aws_security_group.builder[*].id : var.security_group_ids

  # Every subnet and security group for builders.
  all_subnet_ids = distinct(concat(
    length(local.caches_without_subnets) > 0 ? local.subnet_ids : [],
    flatten([for cache in var.caches : cache.builder.subnet_ids]),
  ))
  all_security_group_ids = distinct(concat(
    length(local.caches_without_security_groups) > 0 ? local.security_group_ids : [],
    flatten([for cache in var.caches : cache.builder.security_group_ids]),
  ))
}

# Read in every case, because a condition would be unknown at plan time if `subnet_ids` is. Only subnets of a default VPC
# are default subnets, and an account without one gets an empty list.
#
# Source: EC2 API reference, "DescribeSubnets"; VPC user guide, "Default VPCs".
data "aws_subnets" "default" {
  filter {
    name   = "default-for-az"
    values = ["true"]
  }
}

# VPC of the security group
data "aws_subnet" "security_group" {
  count = local.creates_security_group ? 1 : 0 # Unknown at plan time? Set create_security_group.

  id = concat(local.caches_without_security_groups[0].builder.subnet_ids, local.subnet_ids)[0]
}

resource "aws_security_group" "builder" {
  #checkov:skip=CKV2_AWS_5:launch-builder attaches it to the builders.
  count = local.creates_security_group ? 1 : 0 # Unknown at plan time? Set create_security_group.

  name        = "${var.name}-builder"
  description = "prepull: builders connect to registries and to AWS, without ingress"
  vpc_id      = data.aws_subnet.security_group[0].vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-builder" })
}

resource "aws_vpc_security_group_egress_rule" "builder" {
  for_each = local.creates_security_group ? toset(var.egress_cidr_blocks) : [] # Unknown at plan time? Give security_group_ids.

  security_group_id = aws_security_group.builder[0].id
  description       = "Registries and AWS"
  ip_protocol       = "-1"
  cidr_ipv4         = strcontains(each.value, ":") ? null : each.value
  cidr_ipv6         = strcontains(each.value, ":") ? each.value : null
  tags              = var.tags
}

################################################################################
# Identity
################################################################################

resource "aws_iam_role" "builder" {
  name                 = local.builder_name
  description          = "prepull: builders take commands from SSM and pull from ECR"
  assume_role_policy   = data.aws_iam_policy_document.builder_trust.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

resource "aws_iam_instance_profile" "builder" {
  name = local.builder_name
  role = aws_iam_role.builder.name
  tags = var.tags
}

resource "aws_iam_role_policy" "builder" {
  name   = "builder"
  role   = aws_iam_role.builder.name
  policy = data.aws_iam_policy_document.builder.json

  lifecycle {
    precondition {
      condition     = local.policy_characters["builder"] <= local.max_policy_characters
      error_message = local.policy_too_large["builder"]
    }
  }
}

data "aws_iam_policy_document" "builder_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.${data.aws_partition.current.dns_suffix}"]
    }
  }
}

# Fewer permissions than AmazonSSMManagedInstanceCore, which allows reading every parameter of the account, and than
# AmazonEC2ContainerRegistryReadOnly, which allows pulls from every repository.
data "aws_iam_policy_document" "builder" {
  #checkov:skip=CKV_AWS_111:The actions of the agent and of ECR's token have no resource types.
  #checkov:skip=CKV_AWS_356:The actions of the agent and of ECR's token have no resource types.
  # No test uses it, because the local cloud acts as the SSM agent.
  statement {
    sid = "TakeCommands"
    actions = [
      "ec2messages:AcknowledgeMessage",
      "ec2messages:DeleteMessage",
      "ec2messages:FailMessage",
      "ec2messages:GetEndpoint",
      "ec2messages:GetMessages",
      "ec2messages:SendReply",
      "ssm:UpdateInstanceInformation",
      "ssmmessages:CreateControlChannel",
      "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel",
      "ssmmessages:OpenDataChannel",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "LogInToEcr"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  # Bottlerocket's control and admin containers are in ECR too, in one AWS account for each Region.
  statement {
    sid     = local.repository_statements["builder"].sid
    actions = local.repository_statements["builder"].actions
    resources = concat(
      [
        "arn:${local.partition}:ecr:*:*:repository/bottlerocket-admin",
        "arn:${local.partition}:ecr:*:*:repository/bottlerocket-control",
      ],
      local.repository_policies > 0 ? [] : local.ecr_repository_arns,
    )
  }

  # plan-build imports images, but maybe not the manifests of their platforms. No test uses it, for the reason above.
  dynamic "statement" {
    for_each = length(local.pull_through_repository_arns) > 0 ? [local.pull_through_repository_arns] : []

    content {
      sid       = "ImportImages"
      actions   = local.import_images
      resources = statement.value
    }
  }

  # host-ctr asks for a token of public ECR, which raises the limits of its pulls. Without a token it pulls anonymously. No
  # test uses it, because the local cloud has no public ECR.
  #
  # Sources: Amazon ECR Public user guide, "Registry authentication"; `withDynamicResolver` of host-ctr in
  # bottlerocket-core-kit.
  dynamic "statement" {
    for_each = anytrue([for image in flatten([for cache in var.caches : cache.images]) : startswith(image, "public.ecr.aws/")]) ? [true] : []

    content {
      sid       = "LogInToPublicEcr"
      actions   = ["ecr-public:GetAuthorizationToken", "sts:GetServiceBearerToken"]
      resources = ["*"]
    }
  }
}

################################################################################
# SSM documents
################################################################################

resource "aws_ssm_document" "command" {
  for_each = { for file in fileset("${path.module}/documents", "*.yaml") : trimsuffix(file, ".yaml") => file }

  name            = "${var.name}-${each.key}"
  document_type   = "Command"
  document_format = "YAML"
  content         = file("${path.module}/documents/${each.value}")
  tags            = var.tags
}

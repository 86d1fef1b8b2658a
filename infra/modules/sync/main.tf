data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  # The ID is the Region's name in every version of the provider. Other attributes have changed their names.
  region = data.aws_region.current.id

  # The name of the cluster and the ARN of the target role may be unknown at plan time. The numbers of consumers and caches
  # rarely are, so they decide which resources exist.
  has_pod_role       = length(var.consumers) == 0 ? true : var.cluster_name != null
  has_target_role    = length(var.consumers) > 0
  is_in_same_account = length(var.caches) > 0
  cluster_name       = coalesce(var.cluster_name, "none")

  # EKS Pod Identity passes these as session tags. Another service account or another cluster does not get the role. All of
  # them are transitive, so the target role sees the same ones.
  #
  # Source: EKS user guide, "Create IAM role with trust policy required by EKS Pod Identity" and "Grant Pods access to AWS
  # resources based on tags".
  service_account_tags = {
    "aws:RequestTag/kubernetes-namespace"       = var.namespace
    "aws:RequestTag/kubernetes-service-account" = var.service_account
  }
  assume = ["sts:AssumeRole", "sts:TagSession"]
}

################################################################################
# The role of the pods, in the account of the cluster
################################################################################

locals {
  # IAM is global, so the name contains the Region. A name has at most 64 characters, so the hash replaces the end of a long
  # one.
  pod_role_name       = "${var.name}-${local.cluster_name}-${local.region}"
  short_pod_role_name = length(local.pod_role_name) <= 64 ? local.pod_role_name : "${substr(local.pod_role_name, 0, 55)}-${substr(sha256(local.pod_role_name), 0, 8)}"

  parameters    = [for cache in var.caches : "arn:${local.partition}:ssm:${local.region}:${local.account}:parameter/prepull/${cache}/*"]
  consumer_name = var.consumer_name != null ? var.consumer_name : local.cluster_name

  # EC2 has no resource-level permissions for its Describe actions, and EKS has none for ListClusters. The other actions allow the condition on the tag.
  # Creating a version launches nothing, so it needs neither `ec2:RunInstances` nor `iam:PassRole`.
  #
  # Source: EC2 user guide, "IAM permissions required for Amazon EC2 launch templates".
  template_statements = [for statement in [
    {
      Sid      = "ReadLaunchTemplates"
      Effect   = "Allow"
      Action   = ["ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeLaunchTemplateVersions", "ec2:DescribeLaunchTemplates", "eks:ListClusters"]
      Resource = ["*"]
    },
    # Instances and node groups keep the versions that they use.
    {
      Sid      = "ReadNodeGroups"
      Effect   = "Allow"
      Action   = ["eks:DescribeNodegroup", "eks:ListNodegroups"]
      Resource = [for kind in ["cluster/*", "nodegroup/*"] : "arn:${local.partition}:eks:${local.region}:${local.account}:${kind}"]
    },
    {
      Sid       = "UpdateLaunchTemplates"
      Effect    = "Allow"
      Action    = ["ec2:CreateLaunchTemplateVersion", "ec2:DeleteLaunchTemplateVersions", "ec2:ModifyLaunchTemplate"]
      Resource  = ["arn:${local.partition}:ec2:${local.region}:${local.account}:launch-template/*"]
      Condition = { StringEquals = { "aws:ResourceTag/prepull/cache" = var.caches } }
    },
    # A template without a data volume gets one with the settings of the cache.
    {
      Sid      = "ReadConfigurations"
      Effect   = "Allow"
      Action   = ["ssm:GetParameter"]
      Resource = [for cache in var.caches : "arn:${local.partition}:ssm:${local.region}:${local.account}:parameter/prepull/config/${cache}"]
    },
    # A target role is in the account of prepull, and launch templates are in the account of the cluster.
  ] : statement if var.launch_templates && local.is_in_same_account]

  sync_statements = local.is_in_same_account ? [
    { Sid = "ReadPointers", Effect = "Allow", Action = ["ssm:GetParameter"], Resource = [for path in local.parameters : "${path}/pointer"] },
    # Retention keeps registered snapshots. A cluster cannot replace the registration of another cluster.
    { Sid = "RegisterSnapshots", Effect = "Allow", Action = ["ssm:PutParameter"], Resource = [for path in local.parameters : "${path}/consumers/${local.consumer_name}.*"] },
    ] : [
    { Sid = "UseTargetRole", Effect = "Allow", Action = local.assume, Resource = [var.target_role_arn] },
  ]

  pod_statements = concat(local.sync_statements, local.template_statements)
}

resource "aws_iam_role" "pods" {
  count = local.has_pod_role ? 1 : 0

  name        = local.short_pod_role_name
  description = "prepull sync: pods of the cluster ${local.cluster_name}"
  tags        = var.tags

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "AssumeByPods"
      Effect    = "Allow"
      Principal = { Service = "pods.eks.amazonaws.com" }
      Action    = local.assume
      Condition = {
        StringEquals = merge(local.service_account_tags, {
          "aws:RequestTag/eks-cluster-arn" = "arn:${local.partition}:eks:${local.region}:${local.account}:cluster/${local.cluster_name}"
        })
      }
    }]
  })
}

resource "aws_iam_role_policy" "pods" {
  count = local.has_pod_role ? 1 : 0

  name = "sync"
  role = aws_iam_role.pods[0].id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = local.pod_statements
  })
}

# An association with a target role needs release 6.2 of the provider, which the rest of the module does not need.
resource "aws_eks_pod_identity_association" "pods" {
  count = local.has_pod_role && local.is_in_same_account ? 1 : 0

  cluster_name    = local.cluster_name
  namespace       = var.namespace
  service_account = var.service_account
  role_arn        = aws_iam_role.pods[0].arn
  tags            = var.tags
}

################################################################################
# The target role, in the account of prepull
################################################################################

locals {
  consumers = { for name, arn in var.consumers : name => merge({ arn = arn }, regex("^arn:[^:]+:eks:(?P<region>[^:]+):(?P<account>[^:]+):", arn)) }

  # A snapshot has another ID in each Region, so a cluster reads the pointer of its own Region.
  consumer_regions  = distinct([for consumer in values(local.consumers) : consumer.region])
  consumer_accounts = distinct([for consumer in values(local.consumers) : consumer.account])

  target_statements = concat(
    [{
      Sid    = "ReadPointers"
      Effect = "Allow"
      Action = ["ssm:GetParameter"]
      Resource = [
        for pair in setproduct(local.consumer_regions, var.caches) :
        "arn:${local.partition}:ssm:${pair[0]}:${local.account}:parameter/prepull/${pair[1]}/*/pointer"
      ]
    }],
    [for name, consumer in local.consumers : {
      Effect   = "Allow"
      Action   = ["ssm:PutParameter"]
      Resource = [for cache in var.caches : "arn:${local.partition}:ssm:${consumer.region}:${local.account}:parameter/prepull/${cache}/*/consumers/${name}.*"]
      Condition = {
        StringEquals = { "aws:PrincipalTag/eks-cluster-arn" = consumer.arn }
      }
    }],
  )
}

resource "aws_iam_role" "target" {
  count = local.has_target_role ? 1 : 0

  name        = "${var.name}-other-accounts-${local.region}"
  description = "prepull sync: clusters in other accounts"
  tags        = var.tags

  # IAM refuses a role as the principal if it does not exist yet, and each side would wait for the other. The condition on
  # the name has the same effect, in any order.
  #
  # Source: EKS user guide, "Access AWS Resources using EKS Pod Identity Target IAM Roles".
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "AssumeByPodsOfOtherAccounts"
      Effect    = "Allow"
      Principal = { AWS = [for account in local.consumer_accounts : "arn:${local.partition}:iam::${account}:root"] }
      Action    = local.assume
      Condition = {
        StringEquals = merge(local.service_account_tags, { "aws:RequestTag/eks-cluster-arn" = values(var.consumers) })
        ArnLike      = { "aws:PrincipalArn" = "arn:${local.partition}:iam::*:role/${var.name}-*" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "target" {
  count = local.has_target_role ? 1 : 0

  name = "sync"
  role = aws_iam_role.target[0].id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = local.target_statements
  })
}

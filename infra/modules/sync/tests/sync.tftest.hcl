# The roles of the module in the account of prepull and in other accounts. These tests need no AWS account.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_data "aws_region" {
    defaults = { id = "eu-west-1" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/prepull-sync" }
  }
}

################################################################################
# A cluster in the account of prepull
################################################################################

run "only_the_service_account_of_the_cluster_gets_the_role" {
  command = plan

  variables {
    caches       = ["web"]
    cluster_name = "production"
  }

  assert {
    condition = jsondecode(aws_iam_role.pods[0].assume_role_policy) == jsondecode(jsonencode({
      Version = "2012-10-17"
      Statement = [{
        Sid       = "AssumeByPods"
        Effect    = "Allow"
        Principal = { Service = "pods.eks.amazonaws.com" }
        Action    = ["sts:AssumeRole", "sts:TagSession"]
        Condition = { StringEquals = {
          "aws:RequestTag/eks-cluster-arn"            = "arn:aws:eks:eu-west-1:123456789012:cluster/production"
          "aws:RequestTag/kubernetes-namespace"       = "prepull"
          "aws:RequestTag/kubernetes-service-account" = "prepull-sync"
        } }
      }]
    }))
    error_message = aws_iam_role.pods[0].assume_role_policy
  }

  assert {
    condition     = aws_iam_role.pods[0].name == "prepull-sync-production-eu-west-1" && length(aws_iam_role.target) == 0 && output.target_role_arn == null
    error_message = aws_iam_role.pods[0].name
  }
}

run "role_changes_only_launch_templates_of_its_caches" {
  command = plan

  variables {
    caches           = ["web"]
    cluster_name     = "production"
    launch_templates = true
  }

  assert {
    condition = [for statement in jsondecode(aws_iam_role_policy.pods[0].policy).Statement : statement if try(statement.Sid, "") == "ReadNodeGroups"] == [jsondecode(jsonencode({
      Sid      = "ReadNodeGroups"
      Effect   = "Allow"
      Action   = ["eks:DescribeNodegroup", "eks:ListNodegroups"]
      Resource = ["arn:aws:eks:eu-west-1:123456789012:cluster/*", "arn:aws:eks:eu-west-1:123456789012:nodegroup/*"]
    }))]
    error_message = aws_iam_role_policy.pods[0].policy
  }

  assert {
    condition = [for statement in jsondecode(aws_iam_role_policy.pods[0].policy).Statement : statement if try(statement.Sid, "") == "UpdateLaunchTemplates"] == [jsondecode(jsonencode({
      Sid       = "UpdateLaunchTemplates"
      Effect    = "Allow"
      Action    = ["ec2:CreateLaunchTemplateVersion", "ec2:DeleteLaunchTemplateVersions", "ec2:ModifyLaunchTemplate"]
      Resource  = ["arn:aws:ec2:eu-west-1:123456789012:launch-template/*"]
      Condition = { StringEquals = { "aws:ResourceTag/prepull/cache" = ["web"] } }
    }))]
    error_message = aws_iam_role_policy.pods[0].policy
  }
}

run "role_reads_pointers_and_writes_its_own_registrations" {
  command = plan

  variables {
    caches       = ["web", "batch"]
    cluster_name = "production"
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.pods[0].policy) == jsondecode(jsonencode({
      Version = "2012-10-17"
      Statement = [
        {
          Sid    = "ReadPointers"
          Effect = "Allow"
          Action = ["ssm:GetParameter"]
          Resource = [
            "arn:aws:ssm:eu-west-1:123456789012:parameter/prepull/web/*/pointer",
            "arn:aws:ssm:eu-west-1:123456789012:parameter/prepull/batch/*/pointer",
          ]
        },
        {
          Sid    = "RegisterSnapshots"
          Effect = "Allow"
          Action = ["ssm:PutParameter"]
          Resource = [
            "arn:aws:ssm:eu-west-1:123456789012:parameter/prepull/web/*/consumers/production.*",
            "arn:aws:ssm:eu-west-1:123456789012:parameter/prepull/batch/*/consumers/production.*",
          ]
        },
      ]
    }))
    error_message = aws_iam_role_policy.pods[0].policy
  }
}

run "association_connects_the_service_account" {
  command = apply

  variables {
    caches          = ["web"]
    cluster_name    = "production"
    namespace       = "platform"
    service_account = "sync"
    tags            = { team = "platform" }
  }

  assert {
    condition = (
      aws_eks_pod_identity_association.pods[0].cluster_name == "production" &&
      aws_eks_pod_identity_association.pods[0].namespace == "platform" &&
      aws_eks_pod_identity_association.pods[0].service_account == "sync" &&
      aws_eks_pod_identity_association.pods[0].role_arn == output.role_arn &&
      aws_eks_pod_identity_association.pods[0].tags.team == "platform" &&
      aws_iam_role.pods[0].tags.team == "platform"
    )
    error_message = jsonencode(aws_eks_pod_identity_association.pods[0])
  }

  # Trust and association must agree, or EKS cannot assume the role.
  assert {
    condition     = jsondecode(aws_iam_role.pods[0].assume_role_policy).Statement[0].Condition.StringEquals["aws:RequestTag/kubernetes-service-account"] == "sync" && jsondecode(aws_iam_role.pods[0].assume_role_policy).Statement[0].Condition.StringEquals["aws:RequestTag/kubernetes-namespace"] == "platform"
    error_message = aws_iam_role.pods[0].assume_role_policy
  }
}

run "consumer_name_replaces_the_name_of_the_cluster" {
  command = plan

  variables {
    caches        = ["web"]
    cluster_name  = "production"
    consumer_name = "production-eu"
  }

  assert {
    condition     = jsondecode(aws_iam_role_policy.pods[0].policy).Statement[1].Resource == ["arn:aws:ssm:eu-west-1:123456789012:parameter/prepull/web/*/consumers/production-eu.*"] && output.consumer_name == "production-eu"
    error_message = aws_iam_role_policy.pods[0].policy
  }
}

run "long_name_of_a_cluster_fits_into_the_name_of_the_role" {
  command = plan

  variables {
    caches       = ["web"]
    cluster_name = "a234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"
  }

  assert {
    condition     = length(aws_iam_role.pods[0].name) == 64 && startswith(aws_iam_role.pods[0].name, "prepull-sync-a234")
    error_message = aws_iam_role.pods[0].name
  }
}

################################################################################
# A cluster in another account
################################################################################

run "role_in_another_account_only_assumes_the_target_role" {
  command = plan

  variables {
    cluster_name    = "production"
    target_role_arn = "arn:aws:iam::210987654321:role/prepull-sync-other-accounts-eu-west-1"
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.pods[0].policy) == jsondecode(jsonencode({
      Version = "2012-10-17"
      Statement = [{
        Sid      = "UseTargetRole"
        Effect   = "Allow"
        Action   = ["sts:AssumeRole", "sts:TagSession"]
        Resource = ["arn:aws:iam::210987654321:role/prepull-sync-other-accounts-eu-west-1"]
      }]
    }))
    error_message = aws_iam_role_policy.pods[0].policy
  }

  # The caller creates the association, because it needs a newer provider.
  assert {
    condition     = length(aws_eks_pod_identity_association.pods) == 0 && output.consumer_name == null
    error_message = "The module creates an association without the target role."
  }
}

run "target_role_trusts_the_pods_of_its_clusters" {
  command = plan

  variables {
    caches = ["web"]
    consumers = {
      production = "arn:aws:eks:eu-west-1:210987654321:cluster/production"
      staging    = "arn:aws:eks:eu-central-1:321098765432:cluster/main"
    }
  }

  assert {
    condition = jsondecode(aws_iam_role.target[0].assume_role_policy) == jsondecode(jsonencode({
      Version = "2012-10-17"
      Statement = [{
        Sid       = "AssumeByPodsOfOtherAccounts"
        Effect    = "Allow"
        Principal = { AWS = ["arn:aws:iam::210987654321:root", "arn:aws:iam::321098765432:root"] }
        Action    = ["sts:AssumeRole", "sts:TagSession"]
        Condition = {
          StringEquals = {
            "aws:RequestTag/eks-cluster-arn"            = ["arn:aws:eks:eu-west-1:210987654321:cluster/production", "arn:aws:eks:eu-central-1:321098765432:cluster/main"]
            "aws:RequestTag/kubernetes-namespace"       = "prepull"
            "aws:RequestTag/kubernetes-service-account" = "prepull-sync"
          }
          ArnLike = { "aws:PrincipalArn" = "arn:aws:iam::*:role/prepull-sync-*" }
        }
      }]
    }))
    error_message = aws_iam_role.target[0].assume_role_policy
  }

  assert {
    condition     = length(aws_iam_role.pods) == 0 && length(aws_eks_pod_identity_association.pods) == 0 && output.role_arn == null
    error_message = "The module creates a role for pods without a cluster."
  }
}

run "cluster_registers_only_under_its_own_name_and_region" {
  command = plan

  variables {
    caches = ["web"]
    consumers = {
      production = "arn:aws:eks:eu-west-1:210987654321:cluster/production"
      staging    = "arn:aws:eks:eu-central-1:321098765432:cluster/main"
    }
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.target[0].policy) == jsondecode(jsonencode({
      Version = "2012-10-17"
      Statement = [
        {
          Sid    = "ReadPointers"
          Effect = "Allow"
          Action = ["ssm:GetParameter"]
          Resource = [
            "arn:aws:ssm:eu-west-1:123456789012:parameter/prepull/web/*/pointer",
            "arn:aws:ssm:eu-central-1:123456789012:parameter/prepull/web/*/pointer",
          ]
        },
        {
          Effect    = "Allow"
          Action    = ["ssm:PutParameter"]
          Resource  = ["arn:aws:ssm:eu-west-1:123456789012:parameter/prepull/web/*/consumers/production.*"]
          Condition = { StringEquals = { "aws:PrincipalTag/eks-cluster-arn" = "arn:aws:eks:eu-west-1:210987654321:cluster/production" } }
        },
        {
          Effect    = "Allow"
          Action    = ["ssm:PutParameter"]
          Resource  = ["arn:aws:ssm:eu-central-1:123456789012:parameter/prepull/web/*/consumers/staging.*"]
          Condition = { StringEquals = { "aws:PrincipalTag/eks-cluster-arn" = "arn:aws:eks:eu-central-1:321098765432:cluster/main" } }
        },
      ]
    }))
    error_message = aws_iam_role_policy.target[0].policy
  }
}

run "target_role_has_the_prefix_that_other_accounts_use" {
  command = plan

  variables {
    name      = "sync"
    caches    = ["web"]
    consumers = { production = "arn:aws:eks:eu-west-1:210987654321:cluster/production" }
  }

  assert {
    condition     = aws_iam_role.target[0].name == "sync-other-accounts-eu-west-1" && jsondecode(aws_iam_role.target[0].assume_role_policy).Statement[0].Condition.ArnLike["aws:PrincipalArn"] == "arn:aws:iam::*:role/sync-*"
    error_message = aws_iam_role.target[0].assume_role_policy
  }
}

run "unknown_cluster_and_target_role_can_be_planned" {
  command = plan

  module {
    source = "./tests/unknown"
  }
}

################################################################################
# Combinations that the module refuses
################################################################################

run "nothing_to_create_is_refused" {
  command = plan

  variables {
    caches = ["web"]
  }

  expect_failures = [output.role_arn]
}

run "role_without_permission_is_refused" {
  command = plan

  variables {
    cluster_name = "production"
  }

  expect_failures = [output.role_arn]
}

run "caches_beside_a_target_role_are_refused" {
  command = plan

  variables {
    caches          = ["web"]
    cluster_name    = "production"
    target_role_arn = "arn:aws:iam::210987654321:role/prepull-sync-other-accounts-eu-west-1"
  }

  expect_failures = [output.role_arn]
}

run "consumer_name_beside_a_target_role_is_refused" {
  command = plan

  variables {
    cluster_name    = "production"
    consumer_name   = "production-eu"
    target_role_arn = "arn:aws:iam::210987654321:role/prepull-sync-other-accounts-eu-west-1"
  }

  expect_failures = [output.role_arn]
}

run "launch_templates_beside_a_target_role_are_refused" {
  command = plan

  variables {
    cluster_name     = "production"
    launch_templates = true
    target_role_arn  = "arn:aws:iam::210987654321:role/prepull-sync-other-accounts-eu-west-1"
  }

  expect_failures = [output.role_arn]
}

run "launch_templates_without_a_cluster_are_refused" {
  command = plan

  variables {
    caches           = ["web"]
    consumers        = { production = "arn:aws:eks:eu-west-1:210987654321:cluster/production" }
    launch_templates = true
  }

  expect_failures = [output.role_arn]
}

run "target_role_without_caches_is_refused" {
  command = plan

  variables {
    consumers = { production = "arn:aws:eks:eu-west-1:210987654321:cluster/production" }
  }

  expect_failures = [output.target_role_arn]
}

run "cluster_of_this_account_as_a_consumer_is_refused" {
  command = plan

  variables {
    caches    = ["web"]
    consumers = { production = "arn:aws:eks:eu-west-1:123456789012:cluster/production" }
  }

  expect_failures = [output.target_role_arn]
}

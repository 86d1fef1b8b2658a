# The calls that each function may make. The provider renders the policies without AWS.

provider "aws" {
  region     = "eu-west-1"
  access_key = "none"
  secret_key = "none"

  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

override_data {
  target = data.aws_caller_identity.current
  values = { account_id = "123456789012" }
}

override_data {
  target = data.aws_ebs_default_kms_key.current
  values = { key_arn = "arn:aws:kms:eu-west-1:123456789012:alias/aws/ebs" }
}

override_data {
  target = data.aws_subnets.default
  values = { ids = [] }
}

override_data {
  target = data.aws_kms_key.ebs_default
  values = {
    arn         = "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-0000-0000-000000000000"
    key_manager = "AWS"
    key_state   = "Enabled"
  }
}

# Its definition would be sent to Step Functions.
override_resource {
  target = aws_sfn_state_machine.build
}

variables {
  functions_directory = "tests/functions"
  security_group_ids  = ["sg-0123456789abcdef0"]
  subnet_ids          = ["subnet-0123456789abcdef0"]
  caches = {
    web = {
      images = [
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/api:v1",
        "registry.example.com/team/tool:v1",
        "docker.io/library/nginx:1.27",
      ]
      variant = "aws-k8s-1.33"
      volume  = { kms_key_id = "arn:aws:kms:eu-west-1:123456789012:key/mrk-0123456789abcdef0123456789abcdef" }
      registry_credentials = {
        "registry.example.com" = { secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:team/registry-abcdef" }
        "docker.io"            = { parameter_name = "/team/docker-hub" }
      }
      publication = { share_with_accounts = ["210987654321"], copy_to_regions = ["eu-central-1"] }
    }
  }
}

run "function_may_make_only_its_own_calls" {
  command = plan

  assert {
    condition = {
      for stage in keys(local.stages) :
      stage => join(" ", sort(distinct(flatten(jsondecode(data.aws_iam_policy_document.permissions[stage].json).Statement[*].Action))))
      } == {
      start-build      = "logs:CreateLogStream logs:PutLogEvents sqs:SendMessage ssm:GetParametersByPath states:StartExecution"
      plan-build       = "ec2:DescribeSnapshots ecr:BatchGetImage kms:Decrypt logs:CreateLogStream logs:PutLogEvents secretsmanager:GetSecretValue ssm:GetParameter ssm:GetParametersByPath states:DescribeExecution states:ListExecutions"
      launch-builder   = "ec2:CreateTags ec2:DescribeInstances ec2:RunInstances ec2:TerminateInstances iam:PassRole kms:CreateGrant kms:Decrypt kms:DescribeKey kms:GenerateDataKeyWithoutPlaintext kms:ReEncryptFrom kms:ReEncryptTo logs:CreateLogStream logs:PutLogEvents secretsmanager:GetSecretValue ssm:GetParameter"
      wait-for-ssm     = "ec2:DescribeInstances logs:CreateLogStream logs:PutLogEvents ssm:DescribeInstanceInformation ssm:GetCommandInvocation ssm:SendCommand"
      pull-images      = "ec2:DescribeInstances logs:CreateLogStream logs:PutLogEvents ssm:GetCommandInvocation ssm:SendCommand"
      create-snapshot  = "ec2:CreateSnapshot ec2:CreateTags ec2:DescribeInstances ec2:DescribeSnapshots ec2:GetConsoleOutput logs:CreateLogStream logs:PutLogEvents ssm:ListCommandInvocations ssm:SendCommand"
      verify-snapshot  = "ec2:CreateTags ec2:DescribeInstances ec2:DescribeSnapshots ec2:GetConsoleOutput ec2:RunInstances ec2:TerminateInstances iam:PassRole kms:CreateGrant kms:Decrypt kms:DescribeKey kms:GenerateDataKeyWithoutPlaintext kms:ReEncryptFrom kms:ReEncryptTo logs:CreateLogStream logs:PutLogEvents ssm:DescribeInstanceInformation ssm:GetCommandInvocation ssm:SendCommand"
      publish-snapshot = "ec2:CopySnapshot ec2:CreateTags ec2:DescribeSnapshots ec2:ModifySnapshotAttribute events:PutEvents kms:CreateGrant kms:Decrypt kms:DescribeKey kms:GenerateDataKeyWithoutPlaintext kms:ReEncryptFrom kms:ReEncryptTo logs:CreateLogStream logs:PutLogEvents ssm:DeleteParameter ssm:GetParameter ssm:GetParametersByPath ssm:PutParameter"
      clean-up         = "ec2:CreateTags ec2:DeleteSnapshot ec2:DeleteVolume ec2:DescribeImages ec2:DescribeInstances ec2:DescribeLaunchTemplateVersions ec2:DescribeSnapshots ec2:DescribeVolumes ec2:TerminateInstances events:PutEvents logs:CreateLogStream logs:PutLogEvents sqs:SendMessage ssm:DeleteParameter ssm:GetParameter ssm:GetParametersByPath ssm:PutParameter states:DescribeExecution states:ListExecutions"
    }
    error_message = jsonencode({
      for stage in keys(local.stages) :
      stage => join(" ", sort(distinct(flatten(jsondecode(data.aws_iam_policy_document.permissions[stage].json).Statement[*].Action))))
    })
  }
}

run "verify_snapshot_touches_only_verifiers" {
  command = plan

  assert {
    condition = {
      for statement in jsondecode(data.aws_iam_policy_document.permissions["verify-snapshot"].json).Statement :
      statement.Action => statement.Condition if contains(["ReadConsoles", "TerminateVerifiers"], statement.Sid)
      } == {
      for action in ["ec2:GetConsoleOutput", "ec2:TerminateInstances"] :
      action => { StringLike = { "aws:ResourceTag/prepull:cache" = "*", "aws:ResourceTag/prepull:verifies" = "*" } }
    }
    error_message = data.aws_iam_policy_document.permissions["verify-snapshot"].json
  }
}

run "unused_option_grants_nothing" {
  command = plan

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
  }

  assert {
    condition = length(setintersection(
      flatten([for policy in values(data.aws_iam_policy_document.permissions) : [for statement in jsondecode(policy.json).Statement : statement.Action]]),
      ["ec2:CopySnapshot", "ec2:ModifySnapshotAttribute", "ecr:BatchGetImage", "kms:CreateGrant", "kms:Decrypt", "secretsmanager:GetSecretValue"],
    )) == 0
    error_message = jsonencode({ for stage, policy in data.aws_iam_policy_document.permissions : stage => policy.json })
  }
}

# Companies replace the default EBS key of their accounts by a key of their own.
run "customer_managed_default_key_grants_its_use" {
  command = plan

  override_data {
    target = data.aws_kms_key.ebs_default
    values = {
      arn         = "arn:aws:kms:eu-west-1:123456789012:key/11111111-1111-1111-1111-111111111111"
      key_manager = "CUSTOMER"
      key_state   = "Enabled"
    }
  }

  variables {
    caches = {
      web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", publication = { copy_to_regions = ["eu-central-1"] } }
    }
  }

  assert {
    condition = {
      for stage, policy in data.aws_iam_policy_document.permissions :
      stage => [
        for statement in jsondecode(policy.json).Statement : [statement.Sid, statement.Resource, statement.Condition]
        if anytrue([for action in flatten([statement.Action]) : startswith(action, "kms:")])
      ]
      if strcontains(policy.json, "\"kms:")
      } == {
      for stage, service in {
        launch-builder   = "ec2.eu-west-1.amazonaws.com"
        verify-snapshot  = "ec2.eu-west-1.amazonaws.com"
        publish-snapshot = ["ec2.eu-west-1.amazonaws.com", "ec2.eu-central-1.amazonaws.com"]
        } : stage => [
        ["UseKeys", "arn:aws:kms:eu-west-1:123456789012:key/11111111-1111-1111-1111-111111111111", { StringEquals = { "kms:ViaService" = service } }],
        ["LetVolumesUseKeys", "arn:aws:kms:eu-west-1:123456789012:key/11111111-1111-1111-1111-111111111111", { Bool = { "kms:GrantIsForAWSResource" = "true" } }],
      ]
    }
    error_message = jsonencode({ for stage, policy in data.aws_iam_policy_document.permissions : stage => policy.json if strcontains(policy.json, "\"kms:") })
  }
}

run "unused_default_key_grants_nothing" {
  command = plan

  override_data {
    target = data.aws_kms_key.ebs_default
    values = {
      arn         = "arn:aws:kms:eu-west-1:123456789012:key/11111111-1111-1111-1111-111111111111"
      key_manager = "CUSTOMER"
      key_state   = "Disabled"
    }
  }

  assert {
    condition     = !anytrue([for policy in values(data.aws_iam_policy_document.permissions) : strcontains(policy.json, "11111111-1111-1111-1111-111111111111")])
    error_message = "A role may use the default key, although every cache has its own."
  }
}

# IAM would refuse larger policies only during the apply.
run "policies_of_100_repositories_fit" {
  command = plan

  variables {
    caches = {
      for cache in range(10) : "cache-${cache}" => {
        images  = [for image in range(10) : "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/service-${cache}${image}:v1"]
        variant = "aws-k8s-1.33"
      }
    }
  }

  assert {
    condition     = max(values(local.policy_characters)...) <= 10240
    error_message = jsonencode(local.policy_characters)
  }
}

run "policies_of_500_repositories_fit" {
  command = plan

  # A typical long name has 64 characters.
  variables {
    caches = {
      for cache in range(10) : "cache-${cache}" => {
        images  = [for image in range(50) : "123456789012.dkr.ecr.eu-west-1.amazonaws.com/a-department/a-product/a-service-with-a-rather-long-name-${cache}${format("%02d", image)}-live:v1"]
        variant = "aws-k8s-1.33"
      }
    }
  }

  assert {
    condition     = max(values(local.policy_characters)...) <= 10240 && length(aws_iam_policy.repositories) == 20
    error_message = jsonencode(local.policy_characters)
  }

  assert {
    condition = {
      for role in ["plan-build", "builder"] :
      role => sort(flatten([for key, policy in data.aws_iam_policy_document.repositories : jsondecode(policy.json).Statement[0].Resource if startswith(key, role)]))
    } == { for role in ["plan-build", "builder"] : role => sort(local.ecr_repository_arns) }
    error_message = "A role lacks a repository, or has one twice."
  }
}

run "policies_of_500_longer_names_are_refused" {
  command = plan

  variables {
    caches = {
      for cache in range(20) : "cache-${cache}" => {
        images  = [for image in range(25) : "123456789012.dkr.ecr.eu-west-1.amazonaws.com/${join("", [for n in range(150) : "a"])}-${cache}-${image}:v1"]
        variant = "aws-k8s-1.33"
      }
    }
  }

  expect_failures = [aws_iam_policy.repositories]
}

run "many_images_outside_ecr_need_no_repository" {
  command = plan

  variables {
    caches = { web = { images = [for n in range(50) : "docker.io/library/nginx:${n}"], variant = "aws-k8s-1.33" } }
  }

  assert {
    condition     = distinct([for policy in data.aws_iam_policy_document.repositories : jsondecode(policy.json).Statement[0].Resource]) == tolist(["arn:aws:ecr:eu-west-1:123456789012:repository/"])
    error_message = jsonencode(data.aws_iam_policy_document.repositories)
  }
}

run "only_lambda_may_attach_plan_build_to_the_vpc" {
  command = plan

  variables {
    functions_vpc = { subnet_ids = ["subnet-0123456789abcdef0"], security_group_ids = ["sg-0123456789abcdef0"] }
  }

  assert {
    condition = {
      for stage, policy in data.aws_iam_policy_document.permissions :
      stage => [for statement in jsondecode(policy.json).Statement : statement.Condition if statement.Sid == "AttachToVpc"]
      if strcontains(policy.json, "ec2:CreateNetworkInterface")
    } == { plan-build = [{ Null = { "lambda:SourceFunctionArn" = "true" } }] }
    error_message = data.aws_iam_policy_document.permissions["plan-build"].json
  }
}

run "policies_of_every_option_fit" {
  command = plan

  assert {
    condition     = max(values(local.policy_characters)...) <= 10240
    error_message = jsonencode(local.policy_characters)
  }
}

# A cache in another account needs the same grants, and a policy of that account's registry.
run "pull_through_caches_grant_imports_of_their_repositories" {
  command = plan

  variables {
    pull_through_cache_prefixes = ["docker-hub", "team/quay"]
    caches = {
      web = {
        images = [
          "123456789012.dkr.ecr.eu-west-1.amazonaws.com/docker-hub/library/nginx:1.27",
          "210987654321.dkr-ecr.us-east-1.on.aws/team/quay/coreos/etcd:v3",
          "123456789012.dkr.ecr.eu-west-1.amazonaws.com/docker-hub-mirror/library/nginx:1.27",
          "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/api:v1",
          "public.ecr.aws/docker/library/python:3.13",
        ]
        variant = "aws-k8s-1.33"
      }
    }
  }

  assert {
    condition = {
      for role, policy in { plan-build = data.aws_iam_policy_document.permissions["plan-build"].json, builder = data.aws_iam_policy_document.builder.json } :
      role => [for statement in jsondecode(policy).Statement : [statement.Action, statement.Resource] if statement.Sid == "ImportImages"]
      } == {
      for role in ["plan-build", "builder"] : role => [[
        ["ecr:CreateRepository", "ecr:BatchImportUpstreamImage"],
        ["arn:aws:ecr:us-east-1:210987654321:repository/team/quay/coreos/etcd", "arn:aws:ecr:eu-west-1:123456789012:repository/docker-hub/library/nginx"],
      ]]
    }
    error_message = jsonencode([data.aws_iam_policy_document.permissions["plan-build"].json, data.aws_iam_policy_document.builder.json])
  }

  assert {
    condition     = strcontains(data.aws_iam_policy_document.builder.json, "ecr-public:GetAuthorizationToken")
    error_message = data.aws_iam_policy_document.builder.json
  }
}

run "rule_without_prefix_grants_imports_of_all_repositories" {
  command = plan

  variables {
    pull_through_cache_prefixes = ["ROOT"]
  }

  assert {
    condition     = join(" ", local.pull_through_repository_arns) == "arn:aws:ecr:eu-west-1:123456789012:repository/team/api"
    error_message = jsonencode(local.pull_through_repository_arns)
  }
}

run "no_pull_through_cache_grants_no_imports" {
  command = plan

  assert {
    condition = !anytrue([
      for policy in [data.aws_iam_policy_document.permissions["plan-build"].json, data.aws_iam_policy_document.builder.json] :
      strcontains(policy, "ecr:CreateRepository") || strcontains(policy, "ecr-public:")
    ])
    error_message = data.aws_iam_policy_document.builder.json
  }
}

# crates/domain/src/cache/image.rs tests the same hosts.
run "every_host_of_private_ecr_yields_its_repository" {
  command = plan

  variables {
    caches = {
      web = {
        images = [
          for host in [
            "dkr.ecr.eu-west-1.amazonaws.com",
            "dkr.ecr-fips.us-gov-west-1.amazonaws.com",
            "dkr.ecr.cn-north-1.amazonaws.com.cn",
            "dkr.ecr.eusc-de-east-1.amazonaws.eu",
            "dkr.ecr.us-iso-east-1.c2s.ic.gov",
            "dkr.ecr.us-isob-east-1.sc2s.sgov.gov",
            "dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk",
            "dkr.ecr.us-isof-south-1.csp.hci.ic.gov",
            "dkr-ecr.eu-west-2.on.aws",
            "dkr-ecr-fips.us-east-2.on.aws",
            "dkr-ecr.cn-northwest-1.on.amazonwebservices.com.cn",
            # These are other registries.
            "dkr.ecr.eu-west-3.on.aws",
            "dkr-ecr.eu-west-3.amazonaws.com",
            "dkr.ecr.eu-west-3.amazonaws.com.example.com",
          ] : "123456789012.${host}/team/api:v1"
        ]
        variant = "aws-k8s-1.33"
      }
    }
  }

  assert {
    condition = [for arn in local.ecr_repository_arns : split(":", arn)[3]] == [
      "eu-west-1", "us-gov-west-1", "cn-north-1", "eusc-de-east-1", "us-iso-east-1", "us-isob-east-1", "eu-isoe-west-1",
      "us-isof-south-1", "eu-west-2", "us-east-2", "cn-northwest-1",
    ]
    error_message = jsonencode(local.ecr_repository_arns)
  }
}

# One role for each function, with what that function calls and no more. Whatever can be tied to a resource is tied to
# its name or, where AWS chooses the name, to the tag `prepull:cache`, which everything bears that a build makes.
# `*` stands where an action knows no resources, which is so for all of EC2's Describe actions.

locals {
  function_policies = {
    start-build      = data.aws_iam_policy_document.start_build.json
    plan-build       = data.aws_iam_policy_document.plan_build.json
    launch-builder   = data.aws_iam_policy_document.launch_builder.json
    wait-for-ssm     = data.aws_iam_policy_document.wait_for_ssm.json
    pull-images      = data.aws_iam_policy_document.pull_images.json
    create-snapshot  = data.aws_iam_policy_document.create_snapshot.json
    publish-snapshot = data.aws_iam_policy_document.publish_snapshot.json
    clean-up         = data.aws_iam_policy_document.clean_up.json
  }

  # The SSM documents that a function may run on builders, and how it learns what became of them. create-snapshot looks for
  # what any earlier call of it has sent; the others wait for the one command that they have just sent.
  stage_commands = {
    wait-for-ssm    = { documents = ["await-ready"], follow = "ssm:GetCommandInvocation" }
    pull-images     = { documents = ["pull-images", "image-status"], follow = "ssm:GetCommandInvocation" }
    create-snapshot = { documents = ["power-off"], follow = "ssm:ListCommandInvocations" }
  }

  # Instances and volumes belong to the account, snapshots to nobody in their ARN.
  instances     = "arn:${local.partition}:ec2:${local.region}:${local.account}:instance/*"
  volumes       = "arn:${local.partition}:ec2:${local.region}:${local.account}:volume/*"
  snapshots     = "arn:${local.partition}:ec2:${local.region}::snapshot/*"
  all_snapshots = [for region in local.snapshot_regions : "arn:${local.partition}:ec2:${region}::snapshot/*"]
  # What publish-snapshot writes and clean-up removes, here and where snapshots are copied to.
  pointers  = [for region in local.snapshot_regions : "arn:${local.partition}:ssm:${region}:${local.account}:parameter/prepull/*/snapshot-id"]
  manifests = [for region in local.snapshot_regions : "arn:${local.partition}:ssm:${region}:${local.account}:parameter/prepull/*/snapshots/*"]

  registry_credentials  = flatten([for cache in var.caches : values(cache.registry_credentials)])
  credential_secrets    = distinct([for credentials in local.registry_credentials : credentials.secret_arn if credentials.secret_arn != null])
  credential_parameters = distinct([for credentials in local.registry_credentials : "${local.parameter_arn}${credentials.parameter_name}" if credentials.parameter_name != null])
}

################################################################################
# Functions
################################################################################

resource "aws_iam_role" "function" {
  for_each = local.stages

  # Roles know no regions, so their names must.
  name                 = "${var.name}-${each.key}-${local.region}"
  description          = "prepull: ${each.value.description}"
  assume_role_policy   = data.aws_iam_policy_document.function_trust.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

resource "aws_iam_role_policy" "function" {
  for_each = local.stages

  name   = each.key
  role   = aws_iam_role.function[each.key].name
  policy = data.aws_iam_policy_document.function[each.key].json
}

data "aws_iam_policy_document" "function_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "function" {
  for_each = local.stages

  source_policy_documents = [local.function_policies[each.key]]

  statement {
    sid       = "WriteLogs"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.function[each.key].arn}:*"]
  }

  dynamic "statement" {
    for_each = contains(local.asynchronous_stages, each.key) ? [1] : []

    content {
      sid       = "ReportFailures"
      actions   = ["sqs:SendMessage"]
      resources = [local.dead_letters_arn]
    }
  }
}

################################################################################
# start-build
################################################################################

data "aws_iam_policy_document" "start_build" {
  statement {
    sid       = "ReadConfigurations"
    actions   = ["ssm:GetParametersByPath"]
    resources = ["${local.parameter_arn}/prepull/config", "${local.parameter_arn}/prepull/config/*"]
  }

  statement {
    sid       = "StartBuilds"
    actions   = ["states:StartExecution"]
    resources = [local.state_machine_arn]
  }
}

################################################################################
# plan-build
################################################################################

data "aws_iam_policy_document" "plan_build" {
  source_policy_documents = [data.aws_iam_policy_document.registry_credentials.json]

  statement {
    sid     = "ReadConfigurationAndPublished"
    actions = ["ssm:GetParameter"]
    resources = [
      "${local.parameter_arn}/prepull/config/*",
      "${local.parameter_arn}/prepull/*/snapshot-id",
      "${local.parameter_arn}/prepull/*/snapshots/*",
    ]
  }

  # AWS's public parameters belong to no account.
  statement {
    sid       = "FindBottlerocketImages"
    actions   = ["ssm:GetParameter"]
    resources = ["arn:${local.partition}:ssm:${local.region}::parameter/aws/service/bottlerocket/*"]
  }

  dynamic "statement" {
    for_each = length(local.ecr_repository_arns) > 0 ? [1] : []

    content {
      sid       = "ResolveImages"
      actions   = ["ecr:BatchGetImage"]
      resources = local.ecr_repository_arns
    }
  }

  statement {
    sid       = "FindSnapshots"
    actions   = ["ec2:DescribeSnapshots"]
    resources = ["*"]
  }

  statement {
    sid       = "ListBuilds"
    actions   = ["states:ListExecutions"]
    resources = [local.state_machine_arn]
  }

  statement {
    sid       = "SeeBuilds"
    actions   = ["states:DescribeExecution"]
    resources = [local.execution_arns]
  }
}

# plan-build uses the credentials to resolve digests, launch-builder hands them to the builder.
data "aws_iam_policy_document" "registry_credentials" {
  dynamic "statement" {
    for_each = length(local.credential_secrets) > 0 ? [1] : []

    content {
      sid       = "ReadSecrets"
      actions   = ["secretsmanager:GetSecretValue"]
      resources = local.credential_secrets
    }
  }

  # Which key a secret is encrypted with is not known here; the context says that it is for this secret.
  dynamic "statement" {
    for_each = length(local.credential_secrets) > 0 ? [1] : []

    content {
      sid       = "DecryptSecrets"
      actions   = ["kms:Decrypt"]
      resources = ["arn:${local.partition}:kms:*:*:key/*"]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["secretsmanager.${local.region}.amazonaws.com"]
      }

      condition {
        test     = "StringEquals"
        variable = "kms:EncryptionContext:SecretARN"
        values   = local.credential_secrets
      }
    }
  }

  dynamic "statement" {
    for_each = length(local.credential_parameters) > 0 ? [1] : []

    content {
      sid       = "ReadSecureStrings"
      actions   = ["ssm:GetParameter"]
      resources = local.credential_parameters
    }
  }

  dynamic "statement" {
    for_each = length(local.credential_parameters) > 0 ? [1] : []

    content {
      sid       = "DecryptSecureStrings"
      actions   = ["kms:Decrypt"]
      resources = ["arn:${local.partition}:kms:*:*:key/*"]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["ssm.${local.region}.amazonaws.com"]
      }

      condition {
        test     = "StringEquals"
        variable = "kms:EncryptionContext:PARAMETER_ARN"
        values   = local.credential_parameters
      }
    }
  }
}

################################################################################
# launch-builder
################################################################################

data "aws_iam_policy_document" "launch_builder" {
  source_policy_documents = [
    data.aws_iam_policy_document.registry_credentials.json,
    data.aws_iam_policy_document.encryption["launch-builder"].json,
  ]

  # RunInstances needs a grant for every resource that it creates or uses. There is none for key pairs.
  statement {
    sid       = "LaunchBuilders"
    actions   = ["ec2:RunInstances"]
    resources = [local.instances]

    condition {
      test     = "StringLike"
      variable = "aws:RequestTag/prepull:cache"
      values   = ["*"]
    }

    condition {
      test     = "ArnEquals"
      variable = "ec2:InstanceProfile"
      values   = [local.builder_profile_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "ec2:MetadataHttpTokens"
      values   = ["required"]
    }
  }

  statement {
    sid       = "LaunchWithEncryptedVolumes"
    actions   = ["ec2:RunInstances"]
    resources = [local.volumes]

    condition {
      test     = "StringLike"
      variable = "aws:RequestTag/prepull:cache"
      values   = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "ec2:Encrypted"
      values   = ["true"]
    }
  }

  # Subnets may be shared by another account.
  statement {
    sid     = "LaunchIntoNetwork"
    actions = ["ec2:RunInstances"]
    resources = concat(
      ["arn:${local.partition}:ec2:${local.region}:${local.account}:network-interface/*"],
      [for id in local.all_subnet_ids : "arn:${local.partition}:ec2:${local.region}:*:subnet/${id}"],
      [for id in local.all_security_group_ids : "arn:${local.partition}:ec2:${local.region}:*:security-group/${id}"],
    )
  }

  # Bottlerocket's images and what they consist of.
  statement {
    sid       = "LaunchFromImage"
    actions   = ["ec2:RunInstances"]
    resources = ["arn:${local.partition}:ec2:${local.region}::image/*", local.snapshots]

    condition {
      test     = "StringEquals"
      variable = "ec2:Owner"
      values   = ["amazon"]
    }
  }

  statement {
    sid       = "LaunchFromBase"
    actions   = ["ec2:RunInstances"]
    resources = [local.snapshots]

    condition {
      test     = "StringLike"
      variable = "aws:ResourceTag/prepull:cache"
      values   = ["*"]
    }
  }

  statement {
    sid       = "TagWhatIsLaunched"
    actions   = ["ec2:CreateTags"]
    resources = [local.instances, local.volumes, "arn:${local.partition}:ec2:${local.region}:${local.account}:network-interface/*"]

    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }

  statement {
    sid       = "FindBuilders"
    actions   = ["ec2:DescribeInstances"]
    resources = ["*"]
  }

  # No end-to-end test uses it: two calls at the same moment must find capacity in different places.
  statement {
    sid       = "EndTheYounger"
    actions   = ["ec2:TerminateInstances"]
    resources = [local.instances]

    condition {
      test     = "StringLike"
      variable = "aws:ResourceTag/prepull:cache"
      values   = ["*"]
    }
  }

  statement {
    sid       = "LetBuildersTakeTheirRole"
    actions   = ["iam:PassRole"]
    resources = [local.builder_role_arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.${data.aws_partition.current.dns_suffix}"]
    }
  }
}

# AWS's own key for EBS needs no grants; a key of the account's does, from whoever has a volume or a copy made with it.
data "aws_iam_policy_document" "encryption" {
  for_each = {
    launch-builder   = { keys = local.kms_key_arns, regions = [local.region] }
    publish-snapshot = { keys = local.copy_kms_key_arns, regions = local.snapshot_regions }
  }

  dynamic "statement" {
    for_each = length(each.value.keys) > 0 ? [1] : []

    content {
      sid = "UseKeys"
      actions = [
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncryptFrom",
        "kms:ReEncryptTo",
      ]
      resources = each.value.keys

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = [for region in each.value.regions : "ec2.${region}.amazonaws.com"]
      }
    }
  }

  dynamic "statement" {
    for_each = length(each.value.keys) > 0 ? [1] : []

    content {
      sid       = "LetVolumesUseKeys"
      actions   = ["kms:CreateGrant"]
      resources = each.value.keys

      condition {
        test     = "Bool"
        variable = "kms:GrantIsForAWSResource"
        values   = ["true"]
      }
    }
  }
}

################################################################################
# wait-for-ssm, pull-images, create-snapshot
################################################################################

# Our own documents only, and on builders only.
data "aws_iam_policy_document" "commands" {
  for_each = local.stage_commands

  statement {
    sid       = "SendCommandsOfDocuments"
    actions   = ["ssm:SendCommand"]
    resources = [for document in each.value.documents : "arn:${local.partition}:ssm:${local.region}:${local.account}:document/${var.name}-${document}"]
  }

  statement {
    sid       = "SendCommandsToBuilders"
    actions   = ["ssm:SendCommand"]
    resources = [local.instances]

    condition {
      test     = "StringLike"
      variable = "ssm:resourceTag/prepull:cache"
      values   = ["*"]
    }
  }

  statement {
    sid       = "FollowCommands"
    actions   = [each.value.follow]
    resources = ["*"]
  }

  statement {
    sid       = "SeeBuilders"
    actions   = ["ec2:DescribeInstances"]
    resources = ["*"]
  }
}

data "aws_iam_policy_document" "wait_for_ssm" {
  source_policy_documents = [data.aws_iam_policy_document.commands["wait-for-ssm"].json]

  statement {
    sid       = "SeeAgents"
    actions   = ["ssm:DescribeInstanceInformation"]
    resources = ["*"]
  }
}

data "aws_iam_policy_document" "pull_images" {
  source_policy_documents = [data.aws_iam_policy_document.commands["pull-images"].json]
}

data "aws_iam_policy_document" "create_snapshot" {
  source_policy_documents = [data.aws_iam_policy_document.commands["create-snapshot"].json]

  statement {
    sid       = "SeeSnapshots"
    actions   = ["ec2:DescribeSnapshots"]
    resources = ["*"]
  }

  statement {
    sid       = "SnapshotBuildersVolumes"
    actions   = ["ec2:CreateSnapshot"]
    resources = [local.volumes]

    condition {
      test     = "StringLike"
      variable = "aws:ResourceTag/prepull:cache"
      values   = ["*"]
    }
  }

  statement {
    sid       = "CreateTaggedSnapshots"
    actions   = ["ec2:CreateSnapshot"]
    resources = [local.snapshots]

    condition {
      test     = "StringLike"
      variable = "aws:RequestTag/prepull:cache"
      values   = ["*"]
    }
  }

  statement {
    sid       = "TagSnapshotsCreated"
    actions   = ["ec2:CreateTags"]
    resources = [local.snapshots]

    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["CreateSnapshot"]
    }
  }

  statement {
    sid       = "MarkSnapshots"
    actions   = ["ec2:CreateTags"]
    resources = [local.snapshots]

    condition {
      test     = "StringLike"
      variable = "aws:ResourceTag/prepull:cache"
      values   = ["*"]
    }

    condition {
      test     = "ForAllValues:StringEquals"
      variable = "aws:TagKeys"
      values   = ["prepull:state"]
    }
  }
}

################################################################################
# publish-snapshot
################################################################################

data "aws_iam_policy_document" "publish_snapshot" {
  source_policy_documents = length(local.copy_regions) > 0 ? [data.aws_iam_policy_document.encryption["publish-snapshot"].json] : []

  # Only the region that builds decides which snapshot is the newest.
  statement {
    sid     = "ReadPublished"
    actions = ["ssm:GetParameter"]
    resources = [
      "${local.parameter_arn}/prepull/*/snapshot-id",
      "${local.parameter_arn}/prepull/*/snapshots/*",
    ]
  }

  statement {
    sid       = "WritePointersAndManifests"
    actions   = ["ssm:PutParameter"]
    resources = concat(local.pointers, local.manifests)
  }

  statement {
    sid       = "SeeSnapshots"
    actions   = ["ec2:DescribeSnapshots"]
    resources = ["*"]
  }

  statement {
    sid       = "MarkSnapshots"
    actions   = ["ec2:CreateTags"]
    resources = local.all_snapshots

    condition {
      test     = "StringLike"
      variable = "aws:ResourceTag/prepull:cache"
      values   = ["*"]
    }

    condition {
      test     = "ForAllValues:StringEquals"
      variable = "aws:TagKeys"
      values   = ["prepull:state"]
    }
  }

  # With the accounts that the caches name, and never with everyone.
  dynamic "statement" {
    for_each = length(local.share_accounts) > 0 ? [1] : []

    content {
      sid       = "ShareSnapshots"
      actions   = ["ec2:ModifySnapshotAttribute"]
      resources = local.all_snapshots

      condition {
        test     = "StringLike"
        variable = "aws:ResourceTag/prepull:cache"
        values   = ["*"]
      }

      condition {
        test     = "ForAllValues:StringEquals"
        variable = "ec2:Add/userId"
        values   = local.share_accounts
      }

      condition {
        test     = "Null"
        variable = "ec2:Add/group"
        values   = ["true"]
      }
    }
  }

  # For this action the Service Authorization Reference lists the owner of the source, but not its tags.
  dynamic "statement" {
    for_each = length(local.copy_regions) > 0 ? [1] : []

    content {
      sid       = "CopySnapshots"
      actions   = ["ec2:CopySnapshot"]
      resources = [local.snapshots]

      condition {
        test     = "StringEquals"
        variable = "ec2:Owner"
        values   = [local.account]
      }
    }
  }

  dynamic "statement" {
    for_each = length(local.copy_regions) > 0 ? [1] : []

    content {
      sid       = "CreateTaggedCopies"
      actions   = ["ec2:CopySnapshot"]
      resources = [for region in local.copy_regions : "arn:${local.partition}:ec2:${region}::snapshot/*"]

      condition {
        test     = "StringLike"
        variable = "aws:RequestTag/prepull:cache"
        values   = ["*"]
      }
    }
  }

  dynamic "statement" {
    for_each = length(local.copy_regions) > 0 ? [1] : []

    content {
      sid       = "TagCopies"
      actions   = ["ec2:CreateTags"]
      resources = [for region in local.copy_regions : "arn:${local.partition}:ec2:${region}::snapshot/*"]

      condition {
        test     = "StringEquals"
        variable = "ec2:CreateAction"
        values   = ["CopySnapshot"]
      }
    }
  }

  # The sources of all events of a call are one key with several values; of none, all would be ours.
  statement {
    sid       = "Announce"
    actions   = ["events:PutEvents"]
    resources = [local.default_bus_arn]

    condition {
      test     = "ForAllValues:StringEquals"
      variable = "events:source"
      values   = ["prepull"]
    }

    condition {
      test     = "Null"
      variable = "events:source"
      values   = ["false"]
    }
  }
}

################################################################################
# clean-up
################################################################################

data "aws_iam_policy_document" "clean_up" {
  # Images and launch templates may use a snapshot that would be old enough to go.
  statement {
    sid = "FindWhatIsLeft"
    actions = [
      "ec2:DescribeImages",
      "ec2:DescribeInstances",
      "ec2:DescribeLaunchTemplateVersions",
      "ec2:DescribeSnapshots",
      "ec2:DescribeVolumes",
    ]
    resources = ["*"]
  }

  # Nothing that a build did not make bears the tag.
  statement {
    sid       = "RemoveWhatIsLeft"
    actions   = ["ec2:DeleteSnapshot", "ec2:DeleteVolume", "ec2:TerminateInstances"]
    resources = concat([local.instances, local.volumes], local.all_snapshots)

    condition {
      test     = "StringLike"
      variable = "aws:ResourceTag/prepull:cache"
      values   = ["*"]
    }
  }

  statement {
    sid       = "ReadPointers"
    actions   = ["ssm:GetParameter"]
    resources = local.pointers
  }

  # Every level of a path that is listed is one that is read, configurations and manifests among them.
  statement {
    sid       = "ListParameters"
    actions   = ["ssm:GetParametersByPath"]
    resources = ["${local.parameter_arn}/prepull", "${local.parameter_arn}/prepull/*"]
  }

  statement {
    sid       = "RemoveManifests"
    actions   = ["ssm:DeleteParameter"]
    resources = local.manifests
  }

  statement {
    sid       = "SeeBuilds"
    actions   = ["states:DescribeExecution"]
    resources = [local.execution_arns]
  }

  statement {
    sid       = "Announce"
    actions   = ["events:PutEvents"]
    resources = [local.default_bus_arn]

    condition {
      test     = "ForAllValues:StringEquals"
      variable = "events:source"
      values   = ["prepull"]
    }

    condition {
      test     = "Null"
      variable = "events:source"
      values   = ["false"]
    }
  }
}

################################################################################
# State machine
################################################################################

resource "aws_iam_role" "state_machine" {
  name                 = "${var.name}-state-machine-${local.region}"
  description          = "prepull: calls the stages of a build"
  assume_role_policy   = data.aws_iam_policy_document.state_machine_trust.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

resource "aws_iam_role_policy" "state_machine" {
  name   = "state-machine"
  role   = aws_iam_role.state_machine.name
  policy = data.aws_iam_policy_document.state_machine.json
}

data "aws_iam_policy_document" "state_machine_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["states.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [local.state_machine_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

data "aws_iam_policy_document" "state_machine" {
  statement {
    sid       = "CallStages"
    actions   = ["lambda:InvokeFunction"]
    resources = [for stage, arn in local.function_arns : arn if stage != "start-build"]
  }

  # What Step Functions asks for where a state machine logs. No test uses it: the local cloud does not deliver the log.
  statement {
    sid = "DeliverLogs"
    actions = [
      "logs:CreateLogDelivery",
      "logs:DeleteLogDelivery",
      "logs:DescribeLogGroups",
      "logs:DescribeResourcePolicies",
      "logs:GetLogDelivery",
      "logs:ListLogDeliveries",
      "logs:PutResourcePolicy",
      "logs:UpdateLogDelivery",
    ]
    resources = ["*"]
  }
}

################################################################################
# Scheduler
################################################################################

resource "aws_iam_role" "scheduler" {
  name                 = "${var.name}-scheduler-${local.region}"
  description          = "prepull: calls start-build and clean-up on their schedules"
  assume_role_policy   = data.aws_iam_policy_document.scheduler_trust.json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

resource "aws_iam_role_policy" "scheduler" {
  name   = "scheduler"
  role   = aws_iam_role.scheduler.name
  policy = data.aws_iam_policy_document.scheduler.json
}

data "aws_iam_policy_document" "scheduler_trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }

    # The scheduler names the group and not the schedule.
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_scheduler_schedule_group.this.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

data "aws_iam_policy_document" "scheduler" {
  statement {
    sid       = "CallTargets"
    actions   = ["lambda:InvokeFunction"]
    resources = [for stage in local.asynchronous_stages : local.function_arns[stage]]
  }

  # No test uses it: the scheduler reports only what Lambda did not take, and the local cloud's takes everything.
  statement {
    sid       = "ReportFailures"
    actions   = ["sqs:SendMessage"]
    resources = [local.dead_letters_arn]
  }
}

# One role for each function, with only the calls that it makes. Every permission that supports resource-level
# restrictions has one: by name, or by the tag `prepull:cache` if AWS chooses the name. `*` stands for actions without
# resource types, such as all Describe actions of EC2.
#
# A statement is an object with `sid`, `actions`, `resources`, and perhaps `conditions`. A statement without resources
# is left out, so lists that depend on the caches need no condition of their own.

locals {
  ec2_arn = "arn:${local.partition}:ec2:${local.region}"

  # The ARN of a snapshot contains no account.
  instances          = "${local.ec2_arn}:${local.account}:instance/*"
  volumes            = "${local.ec2_arn}:${local.account}:volume/*"
  network_interfaces = "${local.ec2_arn}:${local.account}:network-interface/*"
  snapshots          = "${local.ec2_arn}::snapshot/*"
  copies             = [for region in local.copy_regions : "arn:${local.partition}:ec2:${region}::snapshot/*"]
  all_snapshots      = concat([local.snapshots], local.copies)

  # The parameters of snapshots, in this Region and in the Regions of copies.
  pointers = [for region in local.snapshot_regions : "arn:${local.partition}:ssm:${region}:${local.account}:parameter/prepull/*/snapshot-id"]
  # More about the pointer, for consumers
  pointer_details = [
    for pair in setproduct(local.snapshot_regions, ["candidate-snapshot-id", "pointer"]) :
    "arn:${local.partition}:ssm:${pair[0]}:${local.account}:parameter/prepull/*/${pair[1]}"
  ]
  manifests = [for region in local.snapshot_regions : "arn:${local.partition}:ssm:${region}:${local.account}:parameter/prepull/*/snapshots/*"]

  # Registrations of consumers, which keep their snapshots.
  consumers = flatten([
    for region in local.snapshot_regions : [
      for path in ["consumers", "consumers/*"] : "arn:${local.partition}:ssm:${region}:${local.account}:parameter/prepull/*/${path}"
    ]
  ])

  # Decisions about pointers, only in this Region.
  decisions_path = "${local.parameter_arn}/prepull/*/decisions"
  decisions      = "${local.parameter_arn}/prepull/*/decisions/*"

  failure_markers = "${local.parameter_arn}/prepull/announced/*"

  registry_credentials  = flatten([for cache in var.caches : values(cache.registry_credentials)])
  credential_secrets    = distinct([for credentials in local.registry_credentials : credentials.secret_arn if credentials.secret_arn != null])
  credential_parameters = distinct([for credentials in local.registry_credentials : "${local.parameter_arn}${credentials.parameter_name}" if credentials.parameter_name != null])

  # Conditions
  is_ours      = { test = "StringLike", variable = "aws:ResourceTag/prepull:cache", values = ["*"] }
  is_builder   = { test = "StringLike", variable = "aws:ResourceTag/prepull:launch-key", values = ["*"] }
  is_verifier  = { test = "StringLike", variable = "aws:ResourceTag/prepull:verifies", values = ["*"] }
  becomes_ours = { test = "StringLike", variable = "aws:RequestTag/prepull:cache", values = ["*"] }
  # `ForAllValues` also matches a call without the key, so each use has a `Null` beside it.
  only_state   = { test = "ForAllValues:StringEquals", variable = "aws:TagKeys", values = ["prepull:state"] }
  only_result  = { test = "ForAllValues:StringEquals", variable = "aws:TagKeys", values = ["prepull:state", "prepull:verification"] }
  only_expiry  = { test = "ForAllValues:StringEquals", variable = "aws:TagKeys", values = ["prepull:expires-at"] }
  has_tag_keys = { test = "Null", variable = "aws:TagKeys", values = ["false"] }

  # Statements that several functions have
  see_builders  = { sid = "SeeBuilders", actions = ["ec2:DescribeInstances"], resources = ["*"] }
  see_snapshots = { sid = "SeeSnapshots", actions = ["ec2:DescribeSnapshots"], resources = ["*"] }
  see_agents    = { sid = "SeeAgents", actions = ["ssm:DescribeInstanceInformation"], resources = ["*"] }
  read_consoles = { sid = "ReadConsoles", actions = ["ec2:GetConsoleOutput"], resources = [local.instances], conditions = [local.is_ours] }

  # Decisions about pointers. A promotion or a roll-back changes the pointer in all Regions, and the tags of snapshots.
  read_decisions = { sid = "ReadDecisions", actions = ["ssm:GetParametersByPath"], resources = [local.decisions_path, local.decisions] }
  decide = [
    {
      sid       = "WritePointers"
      actions   = ["ssm:PutParameter"]
      resources = concat(local.pointers, local.pointer_details, [local.decisions])
    },
    { sid = "RemoveOldDecisions", actions = ["ssm:DeleteParameter"], resources = [local.decisions] },
    {
      sid        = "MarkSnapshots"
      actions    = ["ec2:CreateTags"]
      resources  = local.all_snapshots
      conditions = [local.is_ours, local.only_state, local.has_tag_keys]
    },
    local.emit_events,
  ]

  emit_events = {
    sid       = "EmitEvents"
    actions   = ["events:PutEvents"]
    resources = [local.default_bus_arn]
    conditions = [
      { test = "ForAllValues:StringEquals", variable = "events:source", values = ["prepull"] },
      { test = "Null", variable = "events:source", values = ["false"] },
    ]
  }

  # The first pull through a cache imports the image, and creates its repository, with the permissions of the caller.
  #
  # Source: Amazon ECR user guide, "IAM permissions required to sync an upstream registry".
  import_images = ["ecr:BatchImportUpstreamImage", "ecr:CreateRepository"]

  # plan-build resolves digests with the credentials, and launch-builder passes them to the builder. The key of a secret is
  # unknown here, so the encryption context restricts the use of all keys to this secret.
  read_credentials = [
    { sid = "ReadSecrets", actions = ["secretsmanager:GetSecretValue"], resources = local.credential_secrets },
    { sid = "ReadSecureStrings", actions = ["ssm:GetParameter"], resources = local.credential_parameters },
    {
      sid       = "DecryptSecrets"
      actions   = ["kms:Decrypt"]
      resources = length(local.credential_secrets) > 0 ? ["arn:${local.partition}:kms:*:*:key/*"] : []
      conditions = [
        { test = "StringEquals", variable = "kms:ViaService", values = ["secretsmanager.${local.region}.amazonaws.com"] },
        { test = "StringEquals", variable = "kms:EncryptionContext:SecretARN", values = local.credential_secrets },
      ]
    },
    {
      sid       = "DecryptSecureStrings"
      actions   = ["kms:Decrypt"]
      resources = length(local.credential_parameters) > 0 ? ["arn:${local.partition}:kms:*:*:key/*"] : []
      conditions = [
        { test = "StringEquals", variable = "kms:ViaService", values = ["ssm.${local.region}.amazonaws.com"] },
        { test = "StringEquals", variable = "kms:EncryptionContext:PARAMETER_ARN", values = local.credential_parameters },
      ]
    },
  ]

  # AWS's own key for EBS needs no permission. A customer-managed key needs one for every caller that creates a volume or a
  # copy with it.
  use_keys = {
    for stage, use in {
      launch-builder   = { keys = local.kms_key_arns, regions = [local.region] }
      verify-snapshot  = { keys = local.kms_key_arns, regions = [local.region] }
      publish-snapshot = { keys = length(local.copy_regions) > 0 ? local.copy_kms_key_arns : [], regions = local.snapshot_regions }
      } : stage => [
      {
        sid        = "UseKeys"
        actions    = ["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo"]
        resources  = use.keys
        conditions = [{ test = "StringEquals", variable = "kms:ViaService", values = [for region in use.regions : "ec2.${region}.amazonaws.com"] }]
      },
      {
        sid        = "LetVolumesUseKeys"
        actions    = ["kms:CreateGrant"]
        resources  = use.keys
        conditions = [{ test = "Bool", variable = "kms:GrantIsForAWSResource", values = ["true"] }]
      },
    ]
  }

  # RunInstances needs a permission for every resource that it creates or uses. There is none for key pairs.
  launch_instances = [
    {
      sid       = "LaunchInstances"
      actions   = ["ec2:RunInstances"]
      resources = [local.instances]
      conditions = [
        local.becomes_ours,
        { test = "ArnEquals", variable = "ec2:InstanceProfile", values = [local.builder_profile_arn] },
        { test = "StringEquals", variable = "ec2:MetadataHttpTokens", values = ["required"] },
      ]
    },
    {
      sid        = "LaunchWithEncryptedVolumes"
      actions    = ["ec2:RunInstances"]
      resources  = [local.volumes]
      conditions = [local.becomes_ours, { test = "Bool", variable = "ec2:Encrypted", values = ["true"] }]
    },
    # A network interface that exists already gets no tag at launch, so no foreign one can be attached.
    {
      sid        = "LaunchWithOwnInterface"
      actions    = ["ec2:RunInstances"]
      resources  = [local.network_interfaces]
      conditions = [local.becomes_ours]
    },
    # Another account may share its subnets.
    {
      sid     = "LaunchIntoNetwork"
      actions = ["ec2:RunInstances"]
      resources = concat(
        [for id in local.all_subnet_ids : "${local.ec2_arn}:*:subnet/${id}"],
        [for id in local.all_security_group_ids : "${local.ec2_arn}:*:security-group/${id}"],
      )
    },
    # Bottlerocket's AMIs and their snapshots
    {
      sid        = "LaunchFromImage"
      actions    = ["ec2:RunInstances"]
      resources  = ["${local.ec2_arn}::image/*", local.snapshots]
      conditions = [{ test = "StringEquals", variable = "ec2:Owner", values = ["amazon"] }]
    },
    {
      sid        = "LaunchFromSnapshot"
      actions    = ["ec2:RunInstances"]
      resources  = [local.snapshots]
      conditions = [local.is_ours]
    },
    {
      sid        = "TagAtLaunch"
      actions    = ["ec2:CreateTags"]
      resources  = [local.instances, local.volumes, local.network_interfaces]
      conditions = [{ test = "StringEquals", variable = "ec2:CreateAction", values = ["RunInstances"] }]
    },
    {
      sid        = "PassBuilderRole"
      actions    = ["iam:PassRole"]
      resources  = [local.builder_role_arn]
      conditions = [{ test = "StringEquals", variable = "iam:PassedToService", values = ["ec2.${data.aws_partition.current.dns_suffix}"] }]
    },
  ]

  # Commands of prepull's own documents, and only on builders and verifiers. create-snapshot looks for commands of its
  # earlier calls. The other functions follow one command.
  run_commands = {
    for stage, commands in {
      wait-for-ssm    = { documents = ["await-ready"], follow = "ssm:GetCommandInvocation" }
      pull-images     = { documents = ["pull-images"], follow = "ssm:GetCommandInvocation" }
      create-snapshot = { documents = ["fingerprint", "power-off"], follow = "ssm:ListCommandInvocations" }
      verify-snapshot = { documents = ["await-ready", "verify"], follow = "ssm:GetCommandInvocation" }
      } : stage => [
      {
        sid       = "SendCommandsOfDocuments"
        actions   = ["ssm:SendCommand"]
        resources = [for document in commands.documents : "arn:${local.partition}:ssm:${local.region}:${local.account}:document/${var.name}-${document}"]
      },
      {
        sid        = "SendCommandsToBuilders"
        actions    = ["ssm:SendCommand"]
        resources  = [local.instances]
        conditions = [{ test = "StringLike", variable = "ssm:resourceTag/prepull:cache", values = ["*"] }]
      },
      { sid = "FollowCommands", actions = [commands.follow], resources = ["*"] },
      local.see_builders,
    ]
  }

  ################################################################################
  # Functions
  ################################################################################

  statements = {
    start-build = [
      {
        sid       = "ReadConfigurations"
        actions   = ["ssm:GetParametersByPath"]
        resources = ["${local.parameter_arn}/prepull/config", "${local.parameter_arn}/prepull/config/*"]
      },
      { sid = "StartBuilds", actions = ["states:StartExecution"], resources = [local.state_machine_arn] },
    ]

    plan-build = concat(local.read_credentials, [
      {
        sid     = "ReadConfigurationAndPublished"
        actions = ["ssm:GetParameter"]
        resources = [
          "${local.parameter_arn}/prepull/config/*",
          "${local.parameter_arn}/prepull/*/snapshot-id",
          "${local.parameter_arn}/prepull/*/snapshots/*",
        ]
      },
      local.read_decisions,
      # The ARN of AWS's public parameters contains no account.
      {
        sid       = "FindBottlerocketImages"
        actions   = ["ssm:GetParameter"]
        resources = ["arn:${local.partition}:ssm:${local.region}::parameter/aws/service/bottlerocket/*"]
      },
      merge(local.repository_statements["plan-build"], { resources = local.repository_policies > 0 ? [] : local.ecr_repository_arns }),
      { sid = "ImportImages", actions = local.import_images, resources = local.pull_through_repository_arns },
      # Lambda attaches the function to the VPC with its role. The condition excludes the calls of the function's own code.
      #
      # Source: Lambda developer guide, "Giving Lambda functions access to resources in an Amazon VPC": required permissions,
      # and the condition key `lambda:SourceFunctionArn`, which only calls from the function's code have.
      {
        sid = "AttachToVpc"
        actions = [
          "ec2:AssignPrivateIpAddresses",
          "ec2:CreateNetworkInterface",
          "ec2:DeleteNetworkInterface",
          "ec2:DescribeNetworkInterfaces",
          "ec2:DescribeSubnets",
          "ec2:UnassignPrivateIpAddresses",
        ]
        resources  = var.functions_vpc != null ? ["*"] : []
        conditions = [{ test = "Null", variable = "lambda:SourceFunctionArn", values = ["true"] }]
      },
      { sid = "FindSnapshots", actions = ["ec2:DescribeSnapshots"], resources = ["*"] },
      { sid = "ListBuilds", actions = ["states:ListExecutions"], resources = [local.state_machine_arn] },
      { sid = "SeeBuilds", actions = ["states:DescribeExecution"], resources = [local.execution_arns] },
    ])

    launch-builder = concat(local.read_credentials, local.use_keys["launch-builder"], local.launch_instances, [
      { sid = "FindBuilders", actions = ["ec2:DescribeInstances"], resources = ["*"] },
      # A concurrent call can launch a duplicate, and an early plan a builder with other settings.
      {
        sid        = "TerminateOtherBuilders"
        actions    = ["ec2:TerminateInstances"]
        resources  = [local.instances]
        conditions = [local.is_ours, local.is_builder]
      },
    ])

    wait-for-ssm = concat(local.run_commands["wait-for-ssm"], [
      local.see_agents,
    ])

    pull-images = local.run_commands["pull-images"]

    create-snapshot = concat(local.run_commands["create-snapshot"], [
      local.see_snapshots,
      # The console shows why a scrub failed.
      local.read_consoles,
      {
        sid        = "SnapshotBuildersVolumes"
        actions    = ["ec2:CreateSnapshot"]
        resources  = [local.volumes]
        conditions = [local.is_ours]
      },
      {
        sid        = "CreateTaggedSnapshots"
        actions    = ["ec2:CreateSnapshot"]
        resources  = [local.snapshots]
        conditions = [local.becomes_ours]
      },
      {
        sid        = "TagSnapshotsCreated"
        actions    = ["ec2:CreateTags"]
        resources  = [local.snapshots]
        conditions = [{ test = "StringEquals", variable = "ec2:CreateAction", values = ["CreateSnapshot"] }]
      },
      {
        sid        = "MarkSnapshots"
        actions    = ["ec2:CreateTags"]
        resources  = [local.snapshots]
        conditions = [local.is_ours, local.only_state, local.has_tag_keys]
      },
    ])

    verify-snapshot = concat(local.run_commands["verify-snapshot"], local.use_keys["verify-snapshot"], local.launch_instances, [
      local.see_agents,
      local.see_snapshots,
      # The console shows why a volume does not mount.
      merge(local.read_consoles, { conditions = [local.is_ours, local.is_verifier] }),
      {
        sid        = "MarkSnapshots"
        actions    = ["ec2:CreateTags"]
        resources  = [local.snapshots]
        conditions = [local.is_ours, local.only_result, local.has_tag_keys]
      },
      {
        sid        = "TerminateVerifiers"
        actions    = ["ec2:TerminateInstances"]
        resources  = [local.instances]
        conditions = [local.is_ours, local.is_verifier]
      },
    ])

    publish-snapshot = concat(local.use_keys["publish-snapshot"], local.decide, [
      local.read_decisions,
      # A version without decisions has only these.
      {
        sid       = "ReadPublished"
        actions   = ["ssm:GetParameter"]
        resources = concat(local.pointers, ["${local.parameter_arn}/prepull/*/snapshots/*"])
      },
      { sid = "WriteManifests", actions = ["ssm:PutParameter"], resources = local.manifests },
      local.see_snapshots,
      # With the accounts of the caches, and never with everyone
      {
        sid       = "ShareSnapshots"
        actions   = ["ec2:ModifySnapshotAttribute"]
        resources = length(local.share_accounts) > 0 ? local.all_snapshots : []
        conditions = [
          local.is_ours,
          { test = "ForAllValues:StringEquals", variable = "ec2:Add/userId", values = local.share_accounts },
          { test = "Null", variable = "ec2:Add/userId", values = ["false"] },
          { test = "Null", variable = "ec2:Add/group", values = ["true"] },
        ]
      },
      # For this action, the Service Authorization Reference lists the owner of the source, but not its tags.
      {
        sid        = "CopySnapshots"
        actions    = ["ec2:CopySnapshot"]
        resources  = length(local.copy_regions) > 0 ? [local.snapshots] : []
        conditions = [{ test = "StringEquals", variable = "ec2:Owner", values = [local.account] }]
      },
      {
        sid        = "CreateTaggedCopies"
        actions    = ["ec2:CopySnapshot"]
        resources  = local.copies
        conditions = [local.becomes_ours]
      },
      {
        sid        = "TagCopies"
        actions    = ["ec2:CreateTags"]
        resources  = local.copies
        conditions = [{ test = "StringEquals", variable = "ec2:CreateAction", values = ["CopySnapshot"] }]
      },
    ])

    clean-up = concat(local.decide, [
      # AMIs, launch templates and volumes may use a snapshot beyond retention.
      {
        sid = "FindOrphans"
        actions = [
          "ec2:DescribeImages",
          "ec2:DescribeInstances",
          "ec2:DescribeLaunchTemplateVersions",
          "ec2:DescribeSnapshots",
          "ec2:DescribeVolumes",
        ]
        resources = ["*"]
      },
      # Only resources of builds have the tag.
      {
        sid        = "RemoveOrphans"
        actions    = ["ec2:DeleteSnapshot", "ec2:DeleteVolume", "ec2:TerminateInstances"]
        resources  = concat([local.instances, local.volumes], local.all_snapshots)
        conditions = [local.is_ours]
      },
      { sid = "ReadPointersAndMarkers", actions = ["ssm:GetParameter"], resources = concat(local.pointers, local.manifests, [local.failure_markers]) },
      # A recursive listing needs the permission at every level, including configurations and manifests.
      {
        sid       = "ListParameters"
        actions   = ["ssm:GetParametersByPath"]
        resources = concat(["${local.parameter_arn}/prepull", "${local.parameter_arn}/prepull/*"], local.manifests, local.consumers)
      },
      # The announced time of a deletion
      {
        sid        = "MarkExpiry"
        actions    = ["ec2:CreateTags"]
        resources  = local.all_snapshots
        conditions = [local.is_ours, local.only_expiry, local.has_tag_keys]
      },
      { sid = "RemoveManifestsAndMarkers", actions = ["ssm:DeleteParameter"], resources = concat(local.manifests, local.consumers, [local.failure_markers]) },
      { sid = "SeeBuilds", actions = ["states:DescribeExecution"], resources = [local.execution_arns] },
      { sid = "FindFailedBuilds", actions = ["states:ListExecutions"], resources = [local.state_machine_arn] },
      { sid = "MarkFailedBuilds", actions = ["ssm:PutParameter"], resources = [local.failure_markers] },
    ])
  }

  ################################################################################
  # Callers
  ################################################################################

  caller_statements = {
    state-machine = [
      { sid = "CallStages", actions = ["lambda:InvokeFunction"], resources = [for stage, arn in local.function_arns : arn if stage != "start-build"] },
      # A state machine that logs needs these. No test uses them, because the local cloud does not deliver the log.
      {
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
      },
    ]

    scheduler = [
      { sid = "CallTargets", actions = ["lambda:InvokeFunction"], resources = [for stage in local.asynchronous_stages : local.function_arns[stage]] },
      # No test uses it: the scheduler reports only calls that Lambda refuses, and the local cloud refuses none.
      local.report_failures,
    ]
  }

  report_failures = { sid = "ReportFailures", actions = ["sqs:SendMessage"], resources = [local.dead_letters_arn] }

  all_statements = merge(local.caller_statements, {
    for stage, statements in local.statements : stage => concat(
      statements,
      [{
        sid       = "WriteLogs"
        actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        resources = ["arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/aws/lambda/${var.name}-${stage}:*"]
      }],
      contains(local.asynchronous_stages, stage) ? [local.report_failures] : [],
    )
  })
}

locals {
  # Maximum size of all inline policies of a role, without white space. Each role has one policy.
  #
  # Source: IAM user guide, "IAM and AWS STS quotas".
  max_policy_characters = 10240

  policy_characters = merge(
    { for role, policy in data.aws_iam_policy_document.permissions : role => length(replace(policy.json, "/\\s/", "")) },
    { builder = length(replace(data.aws_iam_policy_document.builder.json, "/\\s/", "")) },
  )
  policy_too_large = {
    for role, characters in local.policy_characters :
    role => "The policy of the role ${role} is too large: it has ${characters} characters, and IAM allows ${local.max_policy_characters}. It grows with the private ECR repositories, credentials, KMS keys, subnets, security groups, accounts and Regions of all caches. Remove or share some of them, or deploy some caches to another account or Region."
  }
}

################################################################################
# Policies of many private ECR repositories
################################################################################

# Repositories are in the inline policy of a role while there are few images. Above that, they are in policies of their own,
# because those have room for 500 repositories.
locals {
  # Maximum size of a managed policy, without white space, and maximum number of policies of a role.
  #
  # Source: IAM user guide, "IAM and AWS STS quotas".
  max_managed_policy_characters = 6144
  max_managed_policies          = 10

  # The number depends only on the number of images, because their names may be unknown at plan time.
  images_of_caches    = sum(concat([0], [for cache in var.caches : length(cache.images)]))
  repository_policies = local.images_of_caches <= 25 ? 0 : min(local.max_managed_policies, ceil(local.images_of_caches / 25))

  # Each policy gets about the same number of characters. A repository goes where the end of its ARN lies.
  repository_arns   = sort(local.ecr_repository_arns)
  repository_widths = [for arn in local.repository_arns : length(arn) + 3]
  repository_slots = [
    for index in range(length(local.repository_arns)) :
    ceil(sum(slice(local.repository_widths, 0, index + 1)) * local.repository_policies / sum(local.repository_widths)) - 1
  ]
  repository_shares = [
    for slot in range(local.repository_policies) :
    [for index, arn in local.repository_arns : arn if local.repository_slots[index] == slot]
  ]

  repository_statements = {
    plan-build = { sid = "ResolveImages", actions = ["ecr:BatchGetImage"] }
    # No test uses it, because nodes of the local cloud pull from a registry without IAM.
    builder = { sid = "Pull", actions = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"] }
  }

  repository_documents = merge([
    for role, statement in local.repository_statements : {
      for slot in range(local.repository_policies) : "${role}-${slot + 1}" => {
        role      = role
        statement = statement
        # A statement needs a resource. The empty name matches no repository.
        resources = coalescelist(local.repository_shares[slot], ["arn:${local.partition}:ecr:${local.region}:${local.account}:repository/"])
      }
    }
  ]...)
}

data "aws_iam_policy_document" "repositories" {
  for_each = local.repository_documents

  statement {
    sid       = each.value.statement.sid
    actions   = each.value.statement.actions
    resources = each.value.resources
  }
}

# IAM is global, so the names contain the Region.
resource "aws_iam_policy" "repositories" {
  for_each = local.repository_documents

  name        = "${var.name}-${each.key}-${local.region}"
  description = "prepull: private ECR repositories of ${each.value.role}"
  policy      = data.aws_iam_policy_document.repositories[each.key].json
  tags        = var.tags

  lifecycle {
    precondition {
      condition     = length(replace(data.aws_iam_policy_document.repositories[each.key].json, "/\\s/", "")) <= local.max_managed_policy_characters
      error_message = "The ${length(local.repository_arns)} private ECR repositories of all caches do not fit into the policies of a role: their ARNs have ${sum(concat([0], local.repository_widths))} characters, and ${local.repository_policies} policies of ${local.max_managed_policy_characters} have room for about ${local.repository_policies * (local.max_managed_policy_characters - 300)}. Use shorter names, or deploy some caches to another account or Region."
    }
  }
}

resource "aws_iam_role_policy_attachment" "repositories" {
  for_each = local.repository_documents

  role       = each.value.role == "builder" ? aws_iam_role.builder.name : aws_iam_role.function[each.value.role].name
  policy_arn = aws_iam_policy.repositories[each.key].arn
}

data "aws_iam_policy_document" "permissions" {
  for_each = local.all_statements

  dynamic "statement" {
    for_each = [for statement in each.value : statement if length(statement.resources) > 0]

    content {
      sid       = statement.value.sid
      actions   = statement.value.actions
      resources = statement.value.resources

      dynamic "condition" {
        for_each = try(statement.value.conditions, [])

        content {
          test     = condition.value.test
          variable = condition.value.variable
          values   = condition.value.values
        }
      }
    }
  }
}

# Service principals with the ARN of their only resource, against confused deputies. Lambda sends none. The scheduler
# sends the ARN of the group, not of the schedule.
data "aws_iam_policy_document" "trust" {
  for_each = {
    lambda    = null
    states    = local.state_machine_arn
    scheduler = "arn:${local.partition}:scheduler:${local.region}:${local.account}:schedule-group/${var.name}"
  }

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["${each.key}.amazonaws.com"]
    }

    dynamic "condition" {
      for_each = each.key == "lambda" ? {} : { ArnEquals = ["aws:SourceArn", each.value], StringEquals = ["aws:SourceAccount", local.account] }

      content {
        test     = condition.key
        variable = condition.value[0]
        values   = [condition.value[1]]
      }
    }
  }
}

# IAM is global, so the names of roles contain the Region.
resource "aws_iam_role" "function" {
  for_each = local.stages

  name                 = "${var.name}-${each.key}-${local.region}"
  description          = "prepull: ${each.value.description}"
  assume_role_policy   = data.aws_iam_policy_document.trust["lambda"].json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

resource "aws_iam_role_policy" "function" {
  for_each = local.stages

  name   = each.key
  role   = aws_iam_role.function[each.key].name
  policy = data.aws_iam_policy_document.permissions[each.key].json

  lifecycle {
    precondition {
      condition     = local.policy_characters[each.key] <= local.max_policy_characters
      error_message = local.policy_too_large[each.key]
    }
  }
}

resource "aws_iam_role" "state_machine" {
  name                 = "${var.name}-state-machine-${local.region}"
  description          = "prepull: calls the stages of a build"
  assume_role_policy   = data.aws_iam_policy_document.trust["states"].json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

resource "aws_iam_role_policy" "state_machine" {
  name   = "state-machine"
  role   = aws_iam_role.state_machine.name
  policy = data.aws_iam_policy_document.permissions["state-machine"].json
}

resource "aws_iam_role" "scheduler" {
  name                 = "${var.name}-scheduler-${local.region}"
  description          = "prepull: calls start-build and clean-up on their schedules"
  assume_role_policy   = data.aws_iam_policy_document.trust["scheduler"].json
  permissions_boundary = var.permissions_boundary_arn
  tags                 = var.tags
}

resource "aws_iam_role_policy" "scheduler" {
  name   = "scheduler"
  role   = aws_iam_role.scheduler.name
  policy = data.aws_iam_policy_document.permissions["scheduler"].json
}

locals {
  # Settings of each function. Functions that wait stop shortly before their timeout, and the state machine calls them again.
  # A longer timeout therefore means fewer transitions.
  stages = {
    start-build = {
      description = "Starts a build for a push to ECR or for a schedule"
      timeout     = 60
      environment = {
        PREPULL_DEBOUNCE_SECONDS  = var.debounce_seconds
        PREPULL_STATE_MACHINE_ARN = local.state_machine_arn
      }
    }
    plan-build = {
      description = "Resolves digests and decides what to build"
      timeout     = 300
      environment = { PREPULL_STATE_MACHINE_ARN = local.state_machine_arn }
    }
    launch-builder = {
      description = "Launches the builder"
      timeout     = 300
      environment = { PREPULL_INSTANCE_PROFILE_ARN = local.builder_profile_arn }
    }
    wait-for-ssm = {
      description = "Waits until the builder accepts commands"
      timeout     = 300
      environment = { PREPULL_NAME = var.name }
    }
    pull-images = {
      description = "Pulls and verifies the images on the builder"
      timeout     = 300
      environment = { PREPULL_NAME = var.name }
    }
    create-snapshot = {
      description = "Scrubs the builder, powers it off, and snapshots its data volume"
      timeout     = 300
      environment = { PREPULL_NAME = var.name }
    }
    verify-snapshot = {
      description = "Boots a verifier from the snapshot and checks its content"
      timeout     = 300
      environment = {
        PREPULL_INSTANCE_PROFILE_ARN = local.builder_profile_arn
        PREPULL_NAME                 = var.name
      }
    }
    publish-snapshot = {
      description = "Publishes a verified snapshot to nodes"
      timeout     = 300
      environment = {}
    }
    clean-up = {
      description = "Removes builders and orphans"
      timeout     = 300
      environment = { PREPULL_STATE_MACHINE_ARN = local.state_machine_arn }
    }
  }

  # Functions that EventBridge calls asynchronously.
  asynchronous_stages = toset(["start-build", "clean-up"])

  function_zips = { for stage in keys(local.stages) : stage => "${var.functions_directory}/${stage}/bootstrap.zip" }
}

resource "aws_lambda_function" "stage" {
  #checkov:skip=CKV_AWS_50:Every log line has the execution, cache and architecture. The state machine's history shows the rest of a trace.
  #checkov:skip=CKV_AWS_115:Reserved concurrency would reduce the account's. start-build merges bursts, and the state machine limits the other functions.
  #checkov:skip=CKV_AWS_116:Asynchronous functions send their failures to the queue as their destination. The state machine handles those of the others.
  #checkov:skip=CKV_AWS_117:The functions call only AWS and registries. In a VPC they need endpoints or a NAT gateway. functions_vpc is an option.
  #checkov:skip=CKV_AWS_173:The environment contains names and ARNs, but no secrets.
  #checkov:skip=CKV_AWS_272:The same person builds the zips and applies the module, so a signature adds no trust.
  for_each = local.stages

  function_name = "${var.name}-${each.key}"
  description   = "prepull: ${each.value.description}"
  role          = aws_iam_role.function[each.key].arn

  runtime          = "provided.al2023"
  handler          = "bootstrap"
  architectures    = [var.function_architecture]
  filename         = local.function_zips[each.key]
  source_code_hash = try(filebase64sha256(local.function_zips[each.key]), null)
  memory_size      = 256
  timeout          = each.value.timeout

  environment {
    variables = merge({ RUST_LOG = "info" }, var.function_environment, each.value.environment)
  }

  # Only plan-build calls registries. The others call only AWS, and would each need endpoints for the APIs that they use.
  dynamic "vpc_config" {
    for_each = each.key == "plan-build" && var.functions_vpc != null ? [var.functions_vpc] : []

    content {
      subnet_ids         = vpc_config.value.subnet_ids
      security_group_ids = vpc_config.value.security_group_ids
    }
  }

  logging_config {
    log_format = "JSON"
    log_group  = aws_cloudwatch_log_group.function[each.key].name
  }

  tags = var.tags

  lifecycle {
    precondition {
      condition     = fileexists(local.function_zips[each.key])
      error_message = "The zip of a function is missing: ${local.function_zips[each.key]}. Build the functions with cargo-lambda 1.9.2 or newer, `cargo lambda build --locked --release --${var.function_architecture == "arm64" ? "arm64" : "x86-64"} --output-format zip` and set functions_directory to `target/lambda`."
    }
  }

  # Without the policy of its role, an early call of the function fails.
  depends_on = [aws_iam_role_policy.function, aws_iam_role_policy_attachment.repositories]
}

resource "aws_lambda_function_event_invoke_config" "stage" {
  for_each = local.asynchronous_stages

  function_name                = aws_lambda_function.stage[each.key].function_name
  maximum_retry_attempts       = 2
  maximum_event_age_in_seconds = 3600

  destination_config {
    on_failure {
      destination = aws_sqs_queue.dead_letters.arn
    }
  }
}

resource "aws_cloudwatch_log_group" "function" {
  #checkov:skip=CKV_AWS_338:Build logs are for debugging. log_retention_days keeps them longer.
  for_each = local.stages

  name              = "/aws/lambda/${var.name}-${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
  tags              = var.tags
}

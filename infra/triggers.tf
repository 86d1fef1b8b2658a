################################################################################
# Rule for new images in private ECR
################################################################################

locals {
  pushed_repositories = distinct([
    for image in flatten([for cache in var.caches : cache.images if cache.rebuild_on_push]) :
    regex(local.ecr_image, image).name if can(regex(local.ecr_image, image))
  ])

  # Events of pull-through caches have `sync-status` instead of `action-type` and `result`. functions/start-build has the
  # same list.
  #
  # Source: Amazon ECR user guide, "Amazon ECR events and EventBridge".
  push_detail = {
    "action-type" = ["PUSH", "REPLICATE", { exists = false }]
    result        = ["SUCCESS", { exists = false }]
    "sync-status" = ["SUCCESS", { exists = false }]
    # A push of several platforms causes one event without a tag for each platform, and one event for the tagged index.
    "image-tag" = [{ exists = true }]
  }
  # An empty list is not a valid pattern. The empty name matches no repository.
  push_repositories = length(local.pushed_repositories) > 0 ? local.pushed_repositories : [""]
  push_pattern = {
    source        = ["aws.ecr"]
    "detail-type" = ["ECR Image Action", "ECR Replication Action", "ECR Pull Through Cache Action"]
    detail        = merge(local.push_detail, { "repository-name" = local.push_repositories })
  }
  # A pattern has at most 2048 characters. If the names of the repositories do not fit, start-build filters the events.
  push_pattern_json = (
    length(jsonencode(local.push_pattern)) <= 2048
    ? jsonencode(local.push_pattern)
    : jsonencode(merge(local.push_pattern, { detail = local.push_detail }))
  )
}

resource "aws_cloudwatch_event_rule" "push" {
  # The repositories may be unknown at plan time, so `rebuild_on_push` alone decides whether the rule exists.
  count = anytrue([for cache in var.caches : cache.rebuild_on_push]) ? 1 : 0

  name          = "${var.name}-push"
  description   = "prepull: an image of a cache is new in ECR"
  event_pattern = local.push_pattern_json
  tags          = var.tags
}

resource "aws_cloudwatch_event_target" "push" {
  count = length(aws_cloudwatch_event_rule.push)

  rule = aws_cloudwatch_event_rule.push[0].name
  arn  = aws_lambda_function.stage["start-build"].arn

  dead_letter_config {
    arn = aws_sqs_queue.dead_letters.arn
  }

  retry_policy {
    maximum_event_age_in_seconds = 3600
    maximum_retry_attempts       = 10
  }

  depends_on = [aws_lambda_permission.push]
}

resource "aws_lambda_permission" "push" {
  count = length(aws_cloudwatch_event_rule.push)

  statement_id  = "push"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.stage["start-build"].function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.push[0].arn
}

################################################################################
# Schedule of each cache
################################################################################

resource "aws_scheduler_schedule_group" "this" {
  name = var.name
  tags = var.tags
}

resource "aws_scheduler_schedule" "cache" {
  #checkov:skip=CKV_AWS_297:A schedule contains the name of a cache, and no secret.
  for_each = { for name, cache in var.caches : name => cache.schedule if cache.schedule.enabled }

  name                         = "build-${each.key}"
  group_name                   = aws_scheduler_schedule_group.this.name
  description                  = "prepull: starts a build of ${each.key}"
  schedule_expression          = each.value.expression
  schedule_expression_timezone = each.value.time_zone

  flexible_time_window {
    mode                      = each.value.flexible_minutes > 0 ? "FLEXIBLE" : "OFF"
    maximum_window_in_minutes = each.value.flexible_minutes > 0 ? each.value.flexible_minutes : null
  }

  target {
    arn      = aws_lambda_function.stage["start-build"].arn
    role_arn = aws_iam_role.scheduler.arn
    input    = jsonencode({ source = "schedule", cache = each.key })

    dead_letter_config {
      arn = aws_sqs_queue.dead_letters.arn
    }

    retry_policy {
      maximum_event_age_in_seconds = 3600
      maximum_retry_attempts       = 10
    }
  }

  depends_on = [aws_iam_role_policy.scheduler]
}

################################################################################
# Clean-up after failed builds, and the sweep for orphans
################################################################################

# An aborted or timed-out execution runs no Catch.
resource "aws_cloudwatch_event_rule" "failed_build" {
  name        = "${var.name}-failed-build"
  description = "prepull: a build failed, timed out or was aborted"
  event_pattern = jsonencode({
    source        = ["aws.states"]
    "detail-type" = ["Step Functions Execution Status Change"]
    detail = {
      status          = ["FAILED", "TIMED_OUT", "ABORTED"]
      stateMachineArn = [local.state_machine_arn]
    }
  })
  tags = var.tags
}

resource "aws_cloudwatch_event_target" "failed_build" {
  rule = aws_cloudwatch_event_rule.failed_build.name
  arn  = aws_lambda_function.stage["clean-up"].arn

  dead_letter_config {
    arn = aws_sqs_queue.dead_letters.arn
  }

  retry_policy {
    maximum_event_age_in_seconds = 3600
    maximum_retry_attempts       = 10
  }

  depends_on = [aws_lambda_permission.failed_build]
}

resource "aws_lambda_permission" "failed_build" {
  statement_id  = "failed-build"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.stage["clean-up"].function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.failed_build.arn
}

resource "aws_scheduler_schedule" "sweep" {
  #checkov:skip=CKV_AWS_297:The schedule contains no secret.
  name                = "sweep"
  group_name          = aws_scheduler_schedule_group.this.name
  description         = "prepull: removes orphans"
  schedule_expression = "rate(1 hour)"

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_lambda_function.stage["clean-up"].arn
    role_arn = aws_iam_role.scheduler.arn
    input    = jsonencode({ source = "sweep" })

    dead_letter_config {
      arn = aws_sqs_queue.dead_letters.arn
    }

    # The next sweep removes the rest.
    retry_policy {
      maximum_event_age_in_seconds = 3600
      maximum_retry_attempts       = 3
    }
  }

  depends_on = [aws_iam_role_policy.scheduler]
}

################################################################################
# Dead-letter queue for triggers
################################################################################

resource "aws_sqs_queue" "dead_letters" {
  name                      = local.dead_letters_name
  message_retention_seconds = 14 * 24 * 60 * 60
  sqs_managed_sse_enabled   = true
  # An attribute, because the provider waits another half minute for a separate policy resource.
  policy = data.aws_iam_policy_document.dead_letters.json
  tags   = var.tags
}

data "aws_iam_policy_document" "dead_letters" {
  # The scheduler and the functions send with the permissions of their roles.
  statement {
    sid       = "UndeliveredEvents"
    actions   = ["sqs:SendMessage"]
    resources = [local.dead_letters_arn]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = concat(aws_cloudwatch_event_rule.push[*].arn, [aws_cloudwatch_event_rule.failed_build.arn])
    }
  }

  statement {
    sid       = "OnlyEncryptedTransport"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [local.dead_letters_arn]

    principals {
      type        = "AWS"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

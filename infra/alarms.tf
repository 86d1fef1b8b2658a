# Alarms for operators. They exist only if `alarm_actions` has a receiver.
#
# A period without data has no builds. Missing data is therefore bad only for the alarm about missing builds.

locals {
  alarms = (var.create_alarms != null ? var.create_alarms : length(var.alarm_actions) > 0) ? 1 : 0 # Unknown at plan time? Set create_alarms.

  bad_ends = {
    failed    = { metric = "ExecutionsFailed", what = "a build failed" }
    timed-out = { metric = "ExecutionsTimedOut", what = "a build timed out" }
    aborted   = { metric = "ExecutionsAborted", what = "somebody stopped a build" }
  }
}

# One alarm for each metric, because a sum of metrics has no data while one of them has none.
resource "aws_cloudwatch_metric_alarm" "bad_end" {
  for_each = local.alarms > 0 ? local.bad_ends : {} # Unknown at plan time? Set create_alarms.

  alarm_name          = "${var.name}-build-${each.key}"
  alarm_description   = "prepull: ${each.value.what}. The event `Build Failed` and clean-up's log have the cache, the cause and the remedy. The published snapshot stays in use."
  namespace           = "AWS/States"
  metric_name         = each.value.metric
  dimensions          = { StateMachineArn = aws_sfn_state_machine.build.arn }
  statistic           = "Sum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  period              = 300
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_actions
  tags                = var.tags
}

# Alarms for failures miss builds that never start, for example because of a deleted schedule or a changed role. A build
# that finds everything up to date is a success too.
resource "aws_cloudwatch_metric_alarm" "no_success" {
  count = var.alarm_without_success_hours == null ? 0 : local.alarms # Unknown at plan time? Set create_alarms.

  alarm_name          = "${var.name}-no-successful-build"
  alarm_description   = "prepull: no build of any cache succeeded for ${var.alarm_without_success_hours} hours. The published snapshots may be outdated. Check the schedules and the last failed build."
  namespace           = "AWS/States"
  metric_name         = "ExecutionsSucceeded"
  dimensions          = { StateMachineArn = aws_sfn_state_machine.build.arn }
  statistic           = "Sum"
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  # Periods of an hour may cover seven days in total, shorter ones only one day.
  period             = 3600
  evaluation_periods = var.alarm_without_success_hours
  treat_missing_data = "breaching"
  alarm_actions      = var.alarm_actions
  ok_actions         = var.alarm_actions
  tags               = var.tags
}

resource "aws_cloudwatch_log_metric_filter" "orphans" {
  count = local.alarms # Unknown at plan time? Set create_alarms.

  name           = "${var.name}-orphans-removed"
  log_group_name = aws_cloudwatch_log_group.function["clean-up"].name
  pattern        = "{ $.message = \"the sweep removed orphans\" }"

  metric_transformation {
    namespace = "prepull"
    name      = "OrphansRemoved"
    value     = "$.orphans"
  }
}

resource "aws_cloudwatch_metric_alarm" "orphans" {
  count = local.alarms # Unknown at plan time? Set create_alarms.

  alarm_name          = "${var.name}-orphans-removed"
  alarm_description   = "prepull: the hourly sweep removed orphans: instances, volumes or snapshots of ended builds. Look into clean-up's log for the resources, and for the reason why their build did not remove them."
  namespace           = aws_cloudwatch_log_metric_filter.orphans[0].metric_transformation[0].namespace
  metric_name         = aws_cloudwatch_log_metric_filter.orphans[0].metric_transformation[0].name
  statistic           = "Sum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  period              = 300
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_actions
  tags                = var.tags
}

resource "aws_cloudwatch_metric_alarm" "dead_letters" {
  count = local.alarms # Unknown at plan time? Set create_alarms.

  alarm_name          = "${var.name}-dead-letters"
  alarm_description   = "prepull: the dead-letter queue has a trigger or a clean-up that could not be delivered or handled. Read the message within 14 days."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead_letters.name }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  period              = 300
  evaluation_periods  = 1
  # SQS stops sending metrics for a queue without messages.
  treat_missing_data = "notBreaching"
  alarm_actions      = var.alarm_actions
  ok_actions         = var.alarm_actions
  tags               = var.tags
}

# What somebody should hear of. Alarms are created where there is somebody to tell, in `alarm_actions`.
#
# A period without data is one without builds, so that what is missing is bad only where builds are missed.

locals {
  alarms = length(var.alarm_actions) > 0 ? 1 : 0

  bad_ends = {
    failed    = { metric = "ExecutionsFailed", what = "a build failed" }
    timed-out = { metric = "ExecutionsTimedOut", what = "a build timed out" }
    aborted   = { metric = "ExecutionsAborted", what = "somebody stopped a build" }
  }
}

# One for each metric: the sum of metrics of which some have no data yet is not known.
resource "aws_cloudwatch_metric_alarm" "bad_end" {
  for_each = local.alarms > 0 ? local.bad_ends : {}

  alarm_name          = "${var.name}-build-${each.key}"
  alarm_description   = "prepull: ${each.value.what}. The event `Build Failed` and clean-up's log say of which cache, why, and what to do. What was published stays published."
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

# Whoever waits for failures alone does not learn that builds are not even started: a schedule that is gone, a role that
# was changed. A build that finds everything up to date is a success too.
resource "aws_cloudwatch_metric_alarm" "no_success" {
  count = var.alarm_without_success_hours == null ? 0 : local.alarms

  alarm_name          = "${var.name}-no-successful-build"
  alarm_description   = "prepull: no build of any cache ended well for ${var.alarm_without_success_hours} hours, so that nobody knows whether the published snapshots are up to date."
  namespace           = "AWS/States"
  metric_name         = "ExecutionsSucceeded"
  dimensions          = { StateMachineArn = aws_sfn_state_machine.build.arn }
  statistic           = "Sum"
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  # Periods of an hour may reach over seven days together, shorter ones over one day.
  period             = 3600
  evaluation_periods = var.alarm_without_success_hours
  treat_missing_data = "breaching"
  alarm_actions      = var.alarm_actions
  ok_actions         = var.alarm_actions
  tags               = var.tags
}

resource "aws_cloudwatch_log_metric_filter" "orphans" {
  count = local.alarms

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
  count = local.alarms

  alarm_name          = "${var.name}-orphans-removed"
  alarm_description   = "prepull: the hourly sweep removed instances, volumes or snapshots that builds had left. They are gone; clean-up's log says which they were, and why their build did not remove them."
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
  count = local.alarms

  alarm_name          = "${var.name}-dead-letters"
  alarm_description   = "prepull: a trigger or a clean-up could not be delivered or handled, and lies in the dead-letter queue until somebody looks at it, for 14 days."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead_letters.name }
  statistic           = "Maximum"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  period              = 300
  evaluation_periods  = 1
  # SQS sends no metrics of a queue that nothing was sent to for long.
  treat_missing_data = "notBreaching"
  alarm_actions      = var.alarm_actions
  ok_actions         = var.alarm_actions
  tags               = var.tags
}

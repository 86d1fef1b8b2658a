# The alarms and their actions. These tests need no AWS account.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  functions_directory = "tests/functions"
  security_group_ids  = ["sg-0123456789abcdef0"]
  caches              = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
  alarm_actions       = ["arn:aws:sns:eu-west-1:123456789012:operators"]
}

run "no_alarm_action_creates_no_alarm" {
  command = plan

  variables {
    alarm_actions = []
  }

  assert {
    condition     = output.alarm_arns == {} && length(aws_cloudwatch_log_metric_filter.orphans) == 0
    error_message = "There is an alarm or a metric."
  }
}

run "single_failed_build_raises_an_alarm" {
  command = plan

  assert {
    condition     = toset([for alarm in aws_cloudwatch_metric_alarm.bad_end : alarm.metric_name]) == toset(["ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"])
    error_message = "A failure status of executions has no alarm."
  }

  assert {
    condition = alltrue([
      for alarm in aws_cloudwatch_metric_alarm.bad_end :
      alarm.statistic == "Sum" && alarm.comparison_operator == "GreaterThanThreshold" && alarm.threshold == 0
      && alarm.evaluation_periods == 1 && alarm.treat_missing_data == "notBreaching"
      && alarm.alarm_actions == toset(var.alarm_actions)
    ])
    error_message = "An alarm is not raised by the first failure, or lacks an action."
  }
}

run "missing_builds_raise_an_alarm" {
  command = plan

  variables {
    alarm_without_success_hours = 168
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.no_success[0].metric_name == "ExecutionsSucceeded"
      && aws_cloudwatch_metric_alarm.no_success[0].comparison_operator == "LessThanThreshold"
      && aws_cloudwatch_metric_alarm.no_success[0].threshold == 1
      && aws_cloudwatch_metric_alarm.no_success[0].treat_missing_data == "breaching"
    )
    error_message = "Hours without data do not count as hours without success."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.no_success[0].period == 3600
      && aws_cloudwatch_metric_alarm.no_success[0].period * aws_cloudwatch_metric_alarm.no_success[0].evaluation_periods == 604800
    )
    error_message = "The alarm does not cover the configured period."
  }
}

run "null_hours_create_no_alarm_about_missing_builds" {
  command = plan

  variables {
    alarm_without_success_hours = null
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.no_success) == 0 && length(aws_cloudwatch_metric_alarm.bad_end) == 3
    error_message = "The number of alarms is wrong."
  }
}

run "metric_filter_counts_the_sweeps_log_line" {
  command = plan

  assert {
    condition = (
      aws_cloudwatch_log_metric_filter.orphans[0].log_group_name == "/aws/lambda/prepull-clean-up"
      # functions/clean-up/src/sweep.rs logs this text.
      && aws_cloudwatch_log_metric_filter.orphans[0].pattern == "{ $.message = \"the sweep removed orphans\" }"
      && strcontains(file("../functions/clean-up/src/sweep.rs"), "\"the sweep removed orphans\"")
    )
    error_message = aws_cloudwatch_log_metric_filter.orphans[0].pattern
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.orphans[0].namespace == "prepull"
      && aws_cloudwatch_metric_alarm.orphans[0].metric_name == "OrphansRemoved"
      && aws_cloudwatch_metric_alarm.orphans[0].threshold == 0
      && aws_cloudwatch_metric_alarm.orphans[0].treat_missing_data == "notBreaching"
    )
    error_message = "The alarm has another metric, or ignores a single orphan."
  }
}

run "dead_letter_raises_an_alarm_until_it_is_deleted" {
  command = plan

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.dead_letters[0].metric_name == "ApproximateNumberOfMessagesVisible"
      && aws_cloudwatch_metric_alarm.dead_letters[0].dimensions == tomap({ QueueName = "prepull-dead-letters" })
      && aws_cloudwatch_metric_alarm.dead_letters[0].threshold == 0
      && aws_cloudwatch_metric_alarm.dead_letters[0].ok_actions == toset(var.alarm_actions)
    )
    error_message = "The alarm has another queue, or does not report the return to normal."
  }
}

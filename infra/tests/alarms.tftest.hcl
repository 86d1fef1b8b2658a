# Who is told of what. Nothing here asks AWS.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  functions_directory = "tests/functions"
  security_group_ids  = ["sg-0123456789abcdef0"]
  caches              = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
  alarm_actions       = ["arn:aws:sns:eu-west-1:123456789012:operators"]
}

run "without_anybody_to_tell_there_are_no_alarms" {
  command = plan

  variables {
    alarm_actions = []
  }

  assert {
    condition     = output.alarm_arns == {} && length(aws_cloudwatch_log_metric_filter.orphans) == 0
    error_message = "There are alarms, or a metric for one."
  }
}

run "a_single_build_that_ends_badly_is_told_however_it_ended" {
  command = plan

  assert {
    condition     = toset([for alarm in aws_cloudwatch_metric_alarm.bad_end : alarm.metric_name]) == toset(["ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"])
    error_message = "Not every bad end of an execution is watched."
  }

  assert {
    condition = alltrue([
      for alarm in aws_cloudwatch_metric_alarm.bad_end :
      alarm.statistic == "Sum" && alarm.comparison_operator == "GreaterThanThreshold" && alarm.threshold == 0
      && alarm.evaluation_periods == 1 && alarm.treat_missing_data == "notBreaching"
      && alarm.alarm_actions == toset(var.alarm_actions)
    ])
    error_message = "An alarm is not raised at the first bad end, or not to everybody."
  }
}

run "builds_that_are_not_even_started_are_told" {
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
    error_message = "Hours without data do not count as hours without a success."
  }

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.no_success[0].period == 3600
      && aws_cloudwatch_metric_alarm.no_success[0].period * aws_cloudwatch_metric_alarm.no_success[0].evaluation_periods == 604800
    )
    error_message = "It does not look back as far as it was asked to, which is as far as CloudWatch can."
  }
}

run "who_builds_by_hand_is_not_told_of_hours_without_builds" {
  command = plan

  variables {
    alarm_without_success_hours = null
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.no_success) == 0 && length(aws_cloudwatch_metric_alarm.bad_end) == 3
    error_message = "There is an alarm too many or one too few."
  }
}

run "orphans_are_counted_by_the_line_that_the_sweep_logs" {
  command = plan

  assert {
    condition = (
      aws_cloudwatch_log_metric_filter.orphans[0].log_group_name == "/aws/lambda/prepull-clean-up"
      # The text stands in functions/clean-up/src/sweep.rs.
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
    error_message = "The alarm watches another metric, or waits for more than one orphan."
  }
}

run "a_dead_letter_is_told_until_it_is_gone" {
  command = plan

  assert {
    condition = (
      aws_cloudwatch_metric_alarm.dead_letters[0].metric_name == "ApproximateNumberOfMessagesVisible"
      && aws_cloudwatch_metric_alarm.dead_letters[0].dimensions == tomap({ QueueName = "prepull-dead-letters" })
      && aws_cloudwatch_metric_alarm.dead_letters[0].threshold == 0
      && aws_cloudwatch_metric_alarm.dead_letters[0].ok_actions == toset(var.alarm_actions)
    )
    error_message = "It watches another queue, or does not tell that it is empty again."
  }
}

output "state_machine_arn" {
  description = "ARN of the state machine. Start an execution with the input `{\"cache\": \"<name>\"}` to build a cache."
  value       = aws_sfn_state_machine.build.arn
}

output "function_names" {
  description = "Names of the functions, by stage."
  value       = { for stage, function in aws_lambda_function.stage : stage => function.function_name }
}

output "function_role_arns" {
  description = "ARNs of the functions' roles, by stage. Repositories of other accounts must allow `plan-build` to look up images."
  value       = { for stage, role in aws_iam_role.function : stage => role.arn }
}

output "builder_role_arn" {
  description = "ARN of the builders' role. Repositories of other accounts must allow it to pull."
  value       = aws_iam_role.builder.arn
}

output "builder_instance_profile_arn" {
  description = "ARN of the builders' instance profile."
  value       = aws_iam_instance_profile.builder.arn
}

output "builder_security_group_id" {
  description = "ID of the builders' security group, if the module created one."
  value       = one(aws_security_group.builder[*].id)
}

output "configuration_parameter_names" {
  description = "Names of the SSM parameters with the configuration of each cache."
  value       = { for name, parameter in aws_ssm_parameter.configuration : name => parameter.name }
}

output "snapshot_parameter_names" {
  description = "Names of the SSM parameters with the ID of the stable snapshot, by cache and architecture. The first promotion creates them."
  value = {
    for name, cache in var.caches : name => {
      for architecture in cache.architectures : architecture => "/prepull/${name}/${architecture}/snapshot-id"
    }
  }
}

output "schedule_names" {
  description = "Names of the schedules that start builds, by cache."
  value       = { for name, schedule in aws_scheduler_schedule.cache : name => schedule.name }
}

output "document_names" {
  description = "Names of the SSM documents, by command."
  value       = { for command, document in aws_ssm_document.command : command => document.name }
}

output "log_group_names" {
  description = "Names of the log groups, by stage. `state-machine` is the log group of the state machine."
  value = merge(
    { for stage, group in aws_cloudwatch_log_group.function : stage => group.name },
    { state-machine = aws_cloudwatch_log_group.state_machine.name },
  )
}

output "dead_letter_queue_url" {
  description = "URL of the dead-letter queue for triggers that could not be delivered or handled."
  value       = aws_sqs_queue.dead_letters.url
}

output "dead_letter_queue_arn" {
  description = "ARN of the dead-letter queue."
  value       = aws_sqs_queue.dead_letters.arn
}

output "alarm_arns" {
  description = "ARNs of the alarms, by cause: `build-failed`, `build-timed-out`, `build-aborted`, `no-successful-build`, `orphans-removed`, `dead-letters`. Empty without `alarm_actions`."
  value = {
    for alarm in concat(
      values(aws_cloudwatch_metric_alarm.bad_end),
      aws_cloudwatch_metric_alarm.no_success,
      aws_cloudwatch_metric_alarm.orphans,
      aws_cloudwatch_metric_alarm.dead_letters,
    ) : trimprefix(alarm.alarm_name, "${var.name}-") => alarm.arn
  }
}

output "dashboard_url" {
  description = "URL of the dashboard, if `dashboard` is set."
  value = one([
    for dashboard in aws_cloudwatch_dashboard.this :
    "https://${local.region}.${lookup(local.consoles, local.partition, "console.aws.amazon.com")}/cloudwatch/home?region=${local.region}#dashboards/dashboard/${dashboard.dashboard_name}"
  ])
}

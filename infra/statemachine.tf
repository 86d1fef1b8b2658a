resource "aws_sfn_state_machine" "build" {
  #checkov:skip=CKV_AWS_284:The history of an execution shows every state with its times. The functions log the rest.
  name     = local.state_machine_name
  role_arn = aws_iam_role.state_machine.arn
  type     = "STANDARD"

  # Every task shares the retriers for failures of AWS. The definition holds a JSON string in their place.
  #
  # Lambda rejects a call with TooManyRequestsException if the account's concurrency is used up. A function that waits
  # keeps its place for up to five minutes. The error therefore has its own retrier: 120 attempts with full jitter, 30 s
  # apart on average, last about an hour. This costs 120 state transitions, $0.003.
  # A denied call is retried for about a minute, because IAM applies the policies of a new deployment with a delay.
  #
  # Source: IAM user guide, "Troubleshoot IAM"; Step Functions developer guide, "Handling errors"; Lambda developer guide,
  # "Invoke".
  definition = replace(
    templatefile("${path.module}/../statemachine/build.asl.json", merge(
      { partition = local.partition },
      { for stage, arn in local.function_arns : "${replace(stage, "-", "_")}_arn" => arn },
    )),
    "\"shared-retry\"",
    join(", ", [for retrier in jsondecode(file("${path.module}/../statemachine/retry.json")) : jsonencode(retrier)]),
  )

  logging_configuration {
    log_destination        = "${aws_cloudwatch_log_group.state_machine.arn}:*"
    include_execution_data = true
    level                  = "ERROR"
  }

  tags = var.tags

  # Step Functions checks the role when it creates the state machine.
  depends_on = [aws_iam_role_policy.state_machine]
}

resource "aws_cloudwatch_log_group" "state_machine" {
  #checkov:skip=CKV_AWS_338:Build logs are for debugging. log_retention_days keeps them longer.

  # Log groups with this prefix need no entry in the resource policy of CloudWatch Logs, whose length is limited per account.
  name              = "/aws/vendedlogs/states/${local.state_machine_name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
  tags              = var.tags
}

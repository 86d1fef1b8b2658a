resource "aws_sfn_state_machine" "build" {
  #checkov:skip=CKV_AWS_284:The execution's history shows every state with its times; functions log the rest.
  name     = local.state_machine_name
  role_arn = aws_iam_role.state_machine.arn
  type     = "STANDARD"

  # Besides the partition, `plan_build_arn` and so on for every stage.
  definition = templatefile("${path.module}/../statemachine/build.asl.json", merge(
    { partition = local.partition },
    { for stage, arn in local.function_arns : "${replace(stage, "-", "_")}_arn" => arn },
  ))

  logging_configuration {
    log_destination        = "${aws_cloudwatch_log_group.state_machine.arn}:*"
    include_execution_data = true
    level                  = "ERROR"
  }

  tags = var.tags

  # Step Functions tries the role out when the machine is created.
  depends_on = [aws_iam_role_policy.state_machine]
}

resource "aws_cloudwatch_log_group" "state_machine" {
  #checkov:skip=CKV_AWS_338:Logs of builds are for debugging; log_retention_days keeps them longer.

  # The prefix keeps the log group out of the resource policy of CloudWatch Logs, which has a length limit for each account.
  name              = "/aws/vendedlogs/states/${local.state_machine_name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
  tags              = var.tags
}

# Resources whose names start with a deployment's name, in the services for which prepull has no client.

provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account]
}

data "aws_cloudwatch_log_groups" "functions" {
  log_group_name_prefix = "/aws/lambda/${var.name}-"
}

data "aws_cloudwatch_log_groups" "state_machine" {
  log_group_name_prefix = "/aws/vendedlogs/states/${var.name}-"
}

data "aws_lambda_functions" "all" {}

data "aws_iam_roles" "named" {
  name_regex = "^${var.name}-.*-${var.region}$"
}

data "aws_sqs_queues" "named" {
  queue_name_prefix = "${var.name}-"
}

output "left" {
  description = "ARN, URL or name of every resource found."
  value = sort(concat(
    tolist(data.aws_cloudwatch_log_groups.functions.log_group_names),
    tolist(data.aws_cloudwatch_log_groups.state_machine.log_group_names),
    [for name in data.aws_lambda_functions.all.function_names : "function ${name}" if startswith(name, "${var.name}-")],
    [for name in data.aws_iam_roles.named.names : "role ${name}"],
    tolist(data.aws_sqs_queues.named.queue_urls),
  ))
}

# Mock values of AWS resources that the module reads.

mock_data "aws_caller_identity" {
  defaults = { account_id = "123456789012" }
}

mock_data "aws_partition" {
  defaults = {
    partition  = "aws"
    dns_suffix = "amazonaws.com"
  }
}

mock_data "aws_region" {
  defaults = { id = "eu-west-1" }
}

mock_data "aws_subnets" {
  defaults = { ids = ["subnet-00000000000000002", "subnet-00000000000000001"] }
}

mock_data "aws_subnet" {
  defaults = { vpc_id = "vpc-00000000000000001" }
}

mock_data "aws_default_tags" {
  defaults = { tags = { owner = "operations" } }
}

mock_resource "aws_iam_policy" {
  defaults = { arn = "arn:aws:iam::123456789012:policy/prepull" }
}

mock_data "aws_iam_policy_document" {
  defaults = { json = "{}" }
}

mock_data "aws_ebs_default_kms_key" {
  defaults = { key_arn = "arn:aws:kms:eu-west-1:123456789012:alias/aws/ebs" }
}

mock_data "aws_kms_key" {
  defaults = {
    arn         = "arn:aws:kms:eu-west-1:123456789012:key/00000000-0000-0000-0000-000000000000"
    key_manager = "AWS"
    key_state   = "Enabled"
  }
}

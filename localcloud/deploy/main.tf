# The module, deployed to localcloud.

provider "aws" {
  region = "eu-west-1"
  # localcloud takes any credentials, but the provider wants some.
  access_key = "localcloud"
  secret_key = "localcloud"

  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  # An API that localcloud lacks answers 501, which the provider would otherwise repeat for minutes.
  max_retries = 1

  endpoints {
    cloudwatch = var.endpoint
    ec2        = var.endpoint
    events     = var.endpoint
    iam        = var.endpoint
    kms        = var.endpoint
    lambda     = var.endpoint
    logs       = var.endpoint
    scheduler  = var.endpoint
    sfn        = var.endpoint
    sqs        = var.endpoint
    ssm        = var.endpoint
    sts        = var.endpoint
  }
}

module "prepull" {
  source = "../../infra"

  caches                = var.caches
  functions_directory   = var.functions_directory
  function_architecture = "x86_64"
  function_environment  = var.function_environment
  debounce_seconds      = var.debounce_seconds
  # Tests create the rule.
  pull_through_cache_prefixes = ["cached"]
  tags                        = { team = "platform" }
  # Nobody listens: the alarms are there to be seen deployed.
  alarm_actions = ["arn:aws:sns:eu-west-1:123456789012:operators"]
  dashboard     = true
}

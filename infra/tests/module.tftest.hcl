# The resources that the module creates from its inputs, and combinations of inputs that it refuses. These tests need no
# AWS account. The zips of the functions are empty.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  functions_directory = "tests/functions"
  security_group_ids  = ["sg-0123456789abcdef0"]
  caches = {
    web = {
      images = [
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/api:v1",
        "docker.io/library/nginx:1.27",
      ]
      architectures        = ["x86_64", "arm64"]
      variant              = "aws-k8s-1.33-fips"
      registry_credentials = { "docker.io" = { parameter_name = "/team/docker-hub" } }
      schedule             = { time_zone = "Europe/Berlin" }
    }
    batch = {
      images          = ["123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/batch@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]
      variant         = "aws-k8s-1.31"
      rebuild_on_push = false
      schedule        = { enabled = false }
      builder = {
        instance_types     = { x86_64 = ["c7i.4xlarge"] }
        subnet_ids         = ["subnet-0123456789abcdef0"]
        security_group_ids = ["sg-00000000000000000"]
      }
    }
  }
}

run "configuration_has_all_settings_of_the_functions" {
  command = plan

  assert {
    condition = aws_ssm_parameter.configuration["web"].insecure_value == jsonencode({
      images               = var.caches["web"].images
      architectures        = ["x86_64", "arm64"]
      variant              = "aws-k8s-1.33-fips"
      bottlerocket_version = "latest"
      volume               = { size_gib = 50, iops = 3000, throughput_mibps = 500, kms_key_id = null }
      builder = {
        instance_types = {
          x86_64 = ["m7i.2xlarge", "m6i.2xlarge", "m7a.2xlarge", "m6a.2xlarge", "m7i-flex.large"]
          arm64  = ["m7g.2xlarge", "m6g.2xlarge", "m8g.2xlarge", "m7g.large"]
        }
        subnet_ids         = ["subnet-00000000000000001", "subnet-00000000000000002"]
        security_group_ids = ["sg-0123456789abcdef0"]
        settings           = { https_proxy = null, no_proxy = [], pki = {}, registry_mirrors = {} }
      }
      registry_credentials = { "docker.io" = { parameter_name = "/team/docker-hub" } }
      pin_images           = false
      parallel_pulls       = null
      verification         = { level = null, releases = [] }
      retain_snapshots     = 3
      retain_days          = 7
      timeout_minutes      = 60
      rebuild_on_push      = true
      publication          = { share_with_accounts = [], copy_to_regions = [], promotion = { mode = "immediate" } }
      tags                 = { owner = "operations" }
    })
    error_message = aws_ssm_parameter.configuration["web"].insecure_value
  }
}

run "network_of_a_cache_overrides_the_modules" {
  command = plan

  assert {
    condition = jsondecode(aws_ssm_parameter.configuration["batch"].insecure_value).builder == {
      instance_types     = { x86_64 = ["c7i.4xlarge"] }
      subnet_ids         = ["subnet-0123456789abcdef0"]
      security_group_ids = ["sg-00000000000000000"]
      settings           = { https_proxy = null, no_proxy = [], pki = {}, registry_mirrors = {} }
    }
    error_message = aws_ssm_parameter.configuration["batch"].insecure_value
  }
}

run "rule_matches_only_images_with_rebuild_on_push" {
  command = plan

  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.push[0].event_pattern).detail["repository-name"] == ["team/api"]
    error_message = aws_cloudwatch_event_rule.push[0].event_pattern
  }
}

run "no_rebuild_on_push_creates_no_rule" {
  command = plan

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", rebuild_on_push = false } }
  }

  assert {
    condition     = length(aws_cloudwatch_event_rule.push) == 0
    error_message = "There is a rule."
  }
}

run "long_pattern_leaves_the_filter_to_start_build" {
  command = plan

  variables {
    caches = {
      web = {
        images  = [for n in range(50) : "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/a-service-with-a-longer-name-${n}:v1"]
        variant = "aws-k8s-1.33"
      }
    }
  }

  assert {
    condition     = keys(jsondecode(aws_cloudwatch_event_rule.push[0].event_pattern).detail) == ["action-type", "image-tag", "result", "sync-status"]
    error_message = aws_cloudwatch_event_rule.push[0].event_pattern
  }
}

run "enabled_schedule_has_the_caches_time_zone" {
  command = plan

  assert {
    condition     = keys(aws_scheduler_schedule.cache) == ["web"]
    error_message = "The caches with a schedule are: ${join(", ", keys(aws_scheduler_schedule.cache))}."
  }

  assert {
    condition     = aws_scheduler_schedule.cache["web"].schedule_expression == "cron(0 3 * * ? *)" && aws_scheduler_schedule.cache["web"].schedule_expression_timezone == "Europe/Berlin"
    error_message = "The schedule is ${aws_scheduler_schedule.cache["web"].schedule_expression} in ${aws_scheduler_schedule.cache["web"].schedule_expression_timezone}."
  }
}

run "given_security_group_creates_none" {
  command = plan

  assert {
    condition     = length(aws_security_group.builder) == 0
    error_message = "There is a security group."
  }
}

run "missing_security_group_is_created_in_the_subnets_vpc" {
  command = plan

  variables {
    security_group_ids = []
    subnet_ids         = ["subnet-0123456789abcdef0"]
  }

  assert {
    condition     = aws_security_group.builder[0].vpc_id == "vpc-00000000000000001"
    error_message = "The VPC is ${aws_security_group.builder[0].vpc_id}."
  }

  assert {
    condition     = keys(aws_vpc_security_group_egress_rule.builder) == ["0.0.0.0/0", "::/0"]
    error_message = "The rules are: ${join(", ", keys(aws_vpc_security_group_egress_rule.builder))}."
  }
}

run "no_cache_creates_no_network" {
  command = plan

  variables {
    caches             = {}
    security_group_ids = []
  }

  assert {
    condition     = length(aws_security_group.builder) + length(aws_scheduler_schedule.cache) == 0
    error_message = "There is a security group or a schedule."
  }
}

run "missing_default_vpc_is_refused" {
  command = plan

  override_data {
    target = data.aws_subnets.default
    values = { ids = [] }
  }

  expect_failures = [aws_ssm_parameter.configuration]
}

run "configuration_merges_all_tags" {
  command = plan

  variables {
    tags   = { team = "platform", stage = "test" }
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", tags = { stage = "live", Name = "node cache" } } }
  }

  assert {
    condition     = jsondecode(aws_ssm_parameter.configuration["web"].insecure_value).tags == { owner = "operations", team = "platform", stage = "live", Name = "node cache" }
    error_message = aws_ssm_parameter.configuration["web"].insecure_value
  }
}

run "too_many_tags_in_total_are_refused" {
  command = plan

  variables {
    tags   = { for n in range(42) : "team-${n}" => "platform" }
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [aws_ssm_parameter.configuration]
}

run "configuration_contains_builder_settings" {
  command = plan

  variables {
    builder_settings = {
      https_proxy      = "http://proxy.example.com:3128"
      no_proxy         = ["10.0.0.0/8"]
      pki              = { company = "-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n" }
      registry_mirrors = { "docker.io" = ["https://mirror.example.com"] }
    }
  }

  assert {
    condition     = jsondecode(aws_ssm_parameter.configuration["batch"].insecure_value).builder.settings == jsondecode(jsonencode(var.builder_settings))
    error_message = aws_ssm_parameter.configuration["batch"].insecure_value
  }
}

run "functions_vpc_contains_only_plan_build" {
  command = plan

  variables {
    functions_vpc = { subnet_ids = ["subnet-0123456789abcdef0"], security_group_ids = ["sg-0123456789abcdef0"] }
  }

  assert {
    condition = {
      for stage, function in aws_lambda_function.stage : stage => one(function.vpc_config).subnet_ids if length(function.vpc_config) > 0
    } == { plan-build = toset(["subnet-0123456789abcdef0"]) }
    error_message = jsonencode({ for stage, function in aws_lambda_function.stage : stage => function.vpc_config })
  }
}

# The values of data sources and resources are unknown at plan time if they are created in the same apply.
run "lists_unknown_at_plan_time_are_accepted" {
  command = plan

  module {
    source = "./tests/unknown"
  }
}

run "snapshot_parameter_names_are_known_at_plan_time" {
  command = plan

  assert {
    condition = output.snapshot_parameter_names == {
      web   = { x86_64 = "/prepull/web/x86_64/snapshot-id", arm64 = "/prepull/web/arm64/snapshot-id" }
      batch = { x86_64 = "/prepull/batch/x86_64/snapshot-id" }
    }
    error_message = jsonencode(output.snapshot_parameter_names)
  }
}

run "function_environment_merges_user_and_module" {
  command = plan

  variables {
    function_environment = { RUST_LOG = "debug", HTTPS_PROXY = "http://proxy.example.com:3128" }
  }

  assert {
    condition = aws_lambda_function.stage["start-build"].environment[0].variables == tomap({
      RUST_LOG                  = "debug"
      HTTPS_PROXY               = "http://proxy.example.com:3128"
      PREPULL_DEBOUNCE_SECONDS  = "60"
      PREPULL_STATE_MACHINE_ARN = "arn:aws:states:eu-west-1:123456789012:stateMachine:prepull-build"
    })
    error_message = jsonencode(aws_lambda_function.stage["start-build"].environment[0].variables)
  }
}

run "copy_to_the_same_region_is_refused" {
  command = plan

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", publication = { copy_to_regions = ["eu-west-1"] } } }
  }

  expect_failures = [aws_ssm_parameter.configuration]
}

run "disabled_default_key_is_refused" {
  command = plan

  override_data {
    target = data.aws_kms_key.ebs_default
    values = { key_state = "PendingDeletion" }
  }

  expect_failures = [data.aws_kms_key.ebs_default]
}

run "images_of_a_large_cache_have_pages" {
  command = plan

  variables {
    caches = {
      web = {
        images  = [for n in range(200) : format("registry.example.com/%s:%03d", join("", [for m in range(230) : "a"]), n)]
        variant = "aws-k8s-1.33"
      }
    }
  }

  assert {
    condition     = alltrue([for page in aws_ssm_parameter.image_page : length(page.insecure_value) <= 4096])
    error_message = jsonencode([for page in aws_ssm_parameter.image_page : length(page.insecure_value)])
  }

  # The first page and those that it announces, in order.
  assert {
    condition = jsonencode(concat(
      jsondecode(aws_ssm_parameter.configuration["web"].insecure_value).images,
      flatten([
        for number in range(2, jsondecode(aws_ssm_parameter.configuration["web"].insecure_value).more_images.pages + 2) :
        jsondecode(aws_ssm_parameter.image_page["web/${number}"].insecure_value)
      ])
    )) == jsonencode(var.caches["web"].images)
    error_message = jsonencode(keys(aws_ssm_parameter.image_page))
  }

  assert {
    condition = alltrue([
      for key, page in aws_ssm_parameter.image_page :
      page.name == "/prepull/config/web/${jsondecode(aws_ssm_parameter.configuration["web"].insecure_value).more_images.folder}/${split("/", key)[1]}"
    ])
    error_message = jsonencode([for page in aws_ssm_parameter.image_page : page.name])
  }
}

run "configuration_above_8_kib_without_images_is_refused" {
  command = plan

  variables {
    caches = {
      web = {
        images  = ["docker.io/library/nginx:1.27"]
        variant = "aws-k8s-1.33"
        builder = { subnet_ids = [for n in range(400) : format("subnet-%017d", n)] }
      }
    }
  }

  expect_failures = [aws_ssm_parameter.configuration]
}

run "directory_without_functions_is_refused" {
  command = plan

  variables {
    functions_directory = "tests/nowhere"
  }

  expect_failures = [aws_lambda_function.stage]
}

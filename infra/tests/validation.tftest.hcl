# Every wrong input is refused while planning. The module under test has the variables of this one and nothing else, for
# starting the provider would take a second for each input.

variables {
  functions_directory = "tests/functions"
  caches              = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
}

run "a_right_input_is_taken" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = {
      web = {
        images = [
          "docker.io/library/nginx:1.27",
          "localhost:5443/team/app:latest",
          "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/api:v1.2.3",
          "registry.example.com:8443/a/b__c/d-e:v1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
          "registry.example.com/a/b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ]
        architectures        = ["arm64", "x86_64"]
        variant              = "aws-k8s-1.28-fips"
        bottlerocket_version = "1.57.0"
        volume               = { size_gib = 2, kms_key_id = "arn:aws:kms:eu-west-1:123456789012:key/mrk-1234abcd" }
        builder              = { subnet_ids = ["subnet-0123456789abcdef0"], security_group_ids = ["sg-0123456789abcdef0"] }
        registry_credentials = {
          "docker.io"                 = { secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:team/docker-hub-AbCdEf" }
          "registry.example.com:8443" = { parameter_name = "/team/registry" }
        }
        schedule    = { expression = "rate(12 hours)", time_zone = "America/Argentina/Buenos_Aires", flexible_minutes = 0 }
        publication = { share_with_accounts = ["210987654321"], copy_to_regions = ["us-gov-west-1"] }
      }
    }
  }
}

run "an_empty_tag_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_short_name_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["nginx:1.27"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_short_name_with_an_empty_tag_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["nginx:"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "upper_case_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/UPPER/case:1"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "upper_case_without_a_host_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["UPPER/case"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_space_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["a b"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "an_option_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1 --privileged"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_command_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["$(reboot)"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_command_in_the_repository_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/$(reboot):1"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_second_command_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["x;y"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_line_break_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1\n"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_short_digest_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx@sha256:12"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "another_digest_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx@sha256:000000000000000000000000000000000000000000000000000000000000000"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_scheme_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["https://registry.example.com/a:1"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "no_tag_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "docker_hub_s_official_image_by_half_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/nginx:1.27"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "docker_hub_by_another_host_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["index.docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "an_upper_case_host_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["REGISTRY.example.com/a:1"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_reference_of_300_characters_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/${join("", [for n in range(300) : "a"])}:1"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "an_empty_list_of_images_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = [], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_list_of_51_images_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = [for n in range(51) : "docker.io/library/nginx:${n}"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "an_image_named_twice_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1", "docker.io/library/redis:7", "docker.io/library/nginx:1"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "an_nvidia_variant_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33-nvidia" } }
  }

  expect_failures = [var.caches]
}

run "an_nvidia_variant_with_fips_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33-nvidia-fips" } }
  }

  expect_failures = [var.caches]
}

run "a_mantle_variant_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-mantle-1" } }
  }

  expect_failures = [var.caches]
}

run "a_variant_for_ecs_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-ecs-2" } }
  }

  expect_failures = [var.caches]
}

run "a_kubernetes_version_without_xfs_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.27" } }
  }

  expect_failures = [var.caches]
}

run "a_kubernetes_version_alone_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_kubernetes_version_that_is_none_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.033" } }
  }

  expect_failures = [var.caches]
}

run "a_cache_named_config_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { "config" = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_cache_name_in_upper_case_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { "Web" = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_cache_name_that_begins_with_a_digit_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { "2web" = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_cache_name_with_a_slash_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { "a/b" = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "a_cache_name_of_33_characters_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { "a23456789012345678901234567890123" = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
  }

  expect_failures = [var.caches]
}

run "no_architecture_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", architectures = [] } }
  }

  expect_failures = [var.caches]
}

run "an_unknown_architecture_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", architectures = ["x86_64", "riscv64"] } }
  }

  expect_failures = [var.caches]
}

run "an_architecture_named_twice_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", architectures = ["arm64", "arm64"] } }
  }

  expect_failures = [var.caches]
}

run "an_unknown_bottlerocket_version_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", bottlerocket_version = "newest" } }
  }

  expect_failures = [var.caches]
}

run "a_volume_of_1_gib_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", volume = { size_gib = 1 } } }
  }

  expect_failures = [var.caches]
}

run "a_volume_beyond_16_tib_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", volume = { size_gib = 16385 } } }
  }

  expect_failures = [var.caches]
}

run "half_a_gib_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", volume = { size_gib = 20.5 } } }
  }

  expect_failures = [var.caches]
}

run "fewer_iops_than_gp3_has_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", volume = { iops = 2999 } } }
  }

  expect_failures = [var.caches]
}

run "more_iops_than_the_volume_s_size_allows_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", volume = { size_gib = 10, iops = 5001 } } }
  }

  expect_failures = [var.caches]
}

run "less_throughput_than_gp3_has_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", volume = { throughput_mibps = 124 } } }
  }

  expect_failures = [var.caches]
}

run "more_throughput_than_the_iops_allow_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", volume = { throughput_mibps = 751 } } }
  }

  expect_failures = [var.caches]
}

run "the_alias_of_a_key_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", volume = { kms_key_id = "alias/snapshots" } } }
  }

  expect_failures = [var.caches]
}

run "an_empty_list_of_instance_types_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", builder = { instance_types = { x86_64 = [] } } } }
  }

  expect_failures = [var.caches]
}

run "a_subnet_s_name_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", builder = { subnet_ids = ["private-a"] } } }
  }

  expect_failures = [var.caches]
}

run "a_security_group_s_name_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", builder = { security_group_ids = ["builders"] } } }
  }

  expect_failures = [var.caches]
}

run "credentials_for_a_registry_without_images_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", registry_credentials = { "registry.example.com" = { parameter_name = "/team/registry" } } } }
  }

  expect_failures = [var.caches]
}

run "credentials_without_a_source_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", registry_credentials = { "docker.io" = {} } } }
  }

  expect_failures = [var.caches]
}

run "credentials_from_two_sources_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", registry_credentials = { "docker.io" = { parameter_name = "/team/registry", secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:team/registry-AbCdEf" } } } }
  }

  expect_failures = [var.caches]
}

run "the_name_of_a_secret_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", registry_credentials = { "docker.io" = { secret_arn = "team/registry" } } } }
  }

  expect_failures = [var.caches]
}

run "a_parameter_name_without_a_slash_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", registry_credentials = { "docker.io" = { parameter_name = "registry" } } } }
  }

  expect_failures = [var.caches]
}

run "no_pull_at_once_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", parallel_pulls = 0 } }
  }

  expect_failures = [var.caches]
}

run "too_many_pulls_at_once_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", parallel_pulls = 65 } }
  }

  expect_failures = [var.caches]
}

run "no_snapshot_retained_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", retain_snapshots = 0 } }
  }

  expect_failures = [var.caches]
}

run "too_many_snapshots_retained_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", retain_snapshots = 21 } }
  }

  expect_failures = [var.caches]
}

run "a_timeout_of_9_minutes_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", timeout_minutes = 9 } }
  }

  expect_failures = [var.caches]
}

run "a_timeout_of_more_than_12_hours_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", timeout_minutes = 721 } }
  }

  expect_failures = [var.caches]
}

run "a_schedule_in_crontab_s_form_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", schedule = { expression = "0 3 * * *" } } }
  }

  expect_failures = [var.caches]
}

run "a_time_zone_that_is_none_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", schedule = { time_zone = "+02:00" } } }
  }

  expect_failures = [var.caches]
}

run "a_negative_window_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", schedule = { flexible_minutes = -1 } } }
  }

  expect_failures = [var.caches]
}

run "an_account_that_is_none_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", volume = { kms_key_id = "arn:aws:kms:eu-west-1:123456789012:key/1234" }, publication = { share_with_accounts = ["12345"] } } }
  }

  expect_failures = [var.caches]
}

run "sharing_with_aws_s_own_key_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", publication = { share_with_accounts = ["210987654321"] } } }
  }

  expect_failures = [var.caches]
}

run "a_region_that_is_none_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33", publication = { copy_to_regions = ["Frankfurt"] } } }
  }

  expect_failures = [var.caches]
}

run "credentials_for_private_ecr_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    caches = {
      web = {
        images               = ["123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/api:v1"]
        variant              = "aws-k8s-1.33"
        registry_credentials = { "123456789012.dkr.ecr.eu-west-1.amazonaws.com" = { parameter_name = "/team/registry" } }
      }
    }
  }

  expect_failures = [var.caches]
}

run "a_name_of_25_characters_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    name = "a234567890123456789012345"
  }

  expect_failures = [var.name]
}

run "an_unknown_architecture_of_functions_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function_architecture = "amd64"
  }

  expect_failures = [var.function_architecture]
}

run "an_environment_that_hides_the_module_s_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function_environment = { PREPULL_NAME = "other" }
  }

  expect_failures = [var.function_environment]
}

run "a_retention_of_logs_that_cloudwatch_lacks_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    log_retention_days = 31
  }

  expect_failures = [var.log_retention_days]
}

run "no_time_to_debounce_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    debounce_seconds = 0
  }

  expect_failures = [var.debounce_seconds]
}

run "a_subnet_s_name_for_all_caches_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    subnet_ids = ["private-a"]
  }

  expect_failures = [var.subnet_ids]
}

run "a_security_group_s_name_for_all_caches_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    security_group_ids = ["builders"]
  }

  expect_failures = [var.security_group_ids]
}

run "an_address_that_is_no_block_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    egress_cidr_blocks = ["10.0.0.1"]
  }

  expect_failures = [var.egress_cidr_blocks]
}

run "a_topic_s_name_to_tell_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    alarm_actions = ["operators"]
  }

  expect_failures = [var.alarm_actions]
}

run "more_to_tell_than_cloudwatch_can_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    alarm_actions = [for n in range(6) : "arn:aws:sns:eu-west-1:123456789012:operators-${n}"]
  }

  expect_failures = [var.alarm_actions]
}

run "no_hours_without_success_are_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    alarm_without_success_hours = 0
  }

  expect_failures = [var.alarm_without_success_hours]
}

run "more_hours_without_success_than_cloudwatch_looks_back_are_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    alarm_without_success_hours = 169
  }

  expect_failures = [var.alarm_without_success_hours]
}

run "half_an_hour_without_success_is_refused" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    alarm_without_success_hours = 24.5
  }

  expect_failures = [var.alarm_without_success_hours]
}

# The smallest valid input, and one with every option. `validation.toml` has the invalid inputs.

run "minimal_input_is_accepted" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    functions_directory = "tests/functions"
    caches              = { web = { images = ["docker.io/library/nginx:1.27"], variant = "aws-k8s-1.33" } }
  }
}

run "input_with_every_option_is_accepted" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    functions_directory         = "tests/functions"
    pull_through_cache_prefixes = ["docker-hub", "team/quay.io", "ROOT"]
    tags                        = { "cost:center" = "" }
    functions_vpc               = { subnet_ids = ["subnet-0123456789abcdef0"], security_group_ids = ["sg-0123456789abcdef0"] }
    builder_settings = {
      https_proxy      = "proxy.example.com:3128"
      no_proxy         = [".example.com", "*.internal", "10.0.0.0/8", "fd00::/8"]
      pki              = { company-root = "-----BEGIN CERTIFICATE-----\nZm9v\nYmFy\n-----END CERTIFICATE-----\n\n-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n" }
      registry_mirrors = { "*" = ["mirror.example.com"], "registry.example.com:5443" = ["http://10.0.0.1:5000/v2/hub"] }
    }
    caches = {
      web = {
        tags = { Name = "node cache" }
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

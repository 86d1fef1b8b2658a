# Uses the module with lists that are unknown at plan time, even in their length.

terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

resource "terraform_data" "network" {}

locals {
  # The ID of a new resource is unknown, so Terraform knows neither the length nor the elements.
  unknown = [for id in [terraform_data.network.id] : id if id != "none"]
}

module "prepull" {
  source = "../.."

  functions_directory   = "tests/functions"
  subnet_ids            = local.unknown
  security_group_ids    = local.unknown
  create_security_group = false
  alarm_actions         = local.unknown
  create_alarms         = true
  functions_vpc         = { subnet_ids = local.unknown, security_group_ids = local.unknown }

  caches = {
    web = {
      images  = [for n in range(30) : "${terraform_data.network.id}.dkr.ecr.eu-west-1.amazonaws.com/team/api-${n}:v1"]
      variant = "aws-k8s-1.33"
      builder = { subnet_ids = local.unknown, security_group_ids = local.unknown }
    }
  }
}

# Uses the module with a cluster and a target role that are unknown at plan time, as in the first `apply` of both.

terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

resource "terraform_data" "id" {}

# Terraform knows that the `id` of this resource is not null, but not that its `output` is not.
resource "terraform_data" "cluster" {
  input = terraform_data.id.id
}

module "same_account" {
  source = "../.."

  caches       = ["web"]
  cluster_name = terraform_data.cluster.output
}

module "other_account" {
  source = "../.."

  cluster_name    = terraform_data.cluster.output
  target_role_arn = terraform_data.cluster.output
}

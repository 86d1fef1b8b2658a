# Uses the module with a cluster and a target role that are unknown at plan time, as in the first `apply` of both.

terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

resource "terraform_data" "cluster" {}

module "same_account" {
  source = "../.."

  caches       = ["web"]
  cluster_name = terraform_data.cluster.id
}

module "other_account" {
  source = "../.."

  cluster_name    = terraform_data.cluster.id
  target_role_arn = terraform_data.cluster.id
}

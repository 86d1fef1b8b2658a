# Uses the module with a role, subnets and parameters that are unknown at plan time, as in the first `apply` of a cluster.

terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

resource "terraform_data" "cluster" {}

module "nodes" {
  source = "../.."

  cache                         = "web"
  role                          = terraform_data.cluster.id
  subnet_selector_terms         = [{ id = terraform_data.cluster.id }]
  security_group_selector_terms = [{ id = terraform_data.cluster.id }]
  node_pool                     = { fallback = true }

  # Terraform then reads the parameters only during `apply`.
  depends_on = [terraform_data.cluster]
}

# Fails the plan if the keys are unknown.
resource "terraform_data" "manifest" {
  for_each = module.nodes.manifests

  input = each.value
}

output "keys" {
  value = toset(keys(terraform_data.manifest))
}

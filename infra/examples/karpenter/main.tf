provider "aws" {
  region = "eu-west-1"
}

module "nodes" {
  source   = "../../modules/nodes"
  for_each = toset(["x86_64", "arm64"])

  cache        = "web"
  architecture = each.key

  role                          = var.node_role
  subnet_selector_terms         = [{ tags = { "karpenter.sh/discovery" = var.cluster } }]
  security_group_selector_terms = [{ tags = { "karpenter.sh/discovery" = var.cluster } }]

  # Room for the data of the pods.
  volume_size_gib = 100

  node_pool = {
    replacement = "rolling"
    # The pods of the cache tolerate this taint. Other pods would fill the data volume with their images.
    taints       = [{ key = "prepull/cache", value = "web" }]
    requirements = [{ key = "karpenter.sh/capacity-type", values = ["spot", "on-demand"] }]
    limits       = { cpu = "200" }
    fallback     = true
  }
}

locals {
  # Configuration for the functions: the declared cache with its network, without settings that they do not use.
  configurations = {
    for name, cache in var.caches : name => jsonencode(merge(
      { for key, value in cache : key => value if key != "schedule" },
      {
        builder = {
          instance_types     = { for architecture in cache.architectures : architecture => cache.builder.instance_types[architecture] }
          subnet_ids         = length(cache.builder.subnet_ids) > 0 ? cache.builder.subnet_ids : local.subnet_ids
          security_group_ids = length(cache.builder.security_group_ids) > 0 ? cache.builder.security_group_ids : local.security_group_ids
        }
        registry_credentials = {
          for host, credentials in cache.registry_credentials : host => { for key, value in credentials : key => value if value != null }
        }
      },
    ))
  }
}

resource "aws_ssm_parameter" "configuration" {
  #checkov:skip=CKV2_AWS_34:The configuration has names of images and of secrets, but no secrets.
  for_each = local.configurations

  name        = "/prepull/config/${each.key}"
  description = "prepull: configuration of the cache ${each.key}"
  type        = "String"
  # A parameter above 4 KiB must be an advanced one, which costs 5 cents a month.
  tier = "Intelligent-Tiering"
  # Not secret, and useful to see in a plan.
  insecure_value = each.value
  tags           = var.tags

  lifecycle {
    precondition {
      condition     = length(each.value) <= 8192
      error_message = "The configuration of the cache ${each.key} is too large: it has ${length(each.value)} bytes, and an SSM parameter at most 8192. Split the cache."
    }

    precondition {
      condition     = !contains(var.caches[each.key].publication.copy_to_regions, local.region)
      error_message = "The cache ${each.key} copies to its own Region: publication.copy_to_regions has ${local.region}. Remove it."
    }
  }
}

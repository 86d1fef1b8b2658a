locals {
  # Configuration for the functions: the declared cache with its network, without settings that they do not use.
  configurations = {
    for name, cache in var.caches : name => merge(
      { for key, value in cache : key => value if key != "schedule" },
      {
        builder = {
          instance_types     = { for architecture in cache.architectures : architecture => cache.builder.instance_types[architecture] }
          subnet_ids         = length(cache.builder.subnet_ids) > 0 ? cache.builder.subnet_ids : local.subnet_ids
          security_group_ids = length(cache.builder.security_group_ids) > 0 ? cache.builder.security_group_ids : local.security_group_ids
          settings           = var.builder_settings
        }
        registry_credentials = {
          for host, credentials in cache.registry_credentials : host => { for key, value in credentials : key => value if value != null }
        }
        publication = merge(cache.publication, {
          promotion = { for key, value in cache.publication.promotion : key => value if value != null }
        })
        tags = merge(data.aws_default_tags.current.tags, var.tags, cache.tags)
      },
    )
  }

  # The images of each cache, split into pages. pages.rs in crates/domain describes the format. 15 references of 255
  # characters have less than 4,096 bytes as JSON, and a parameter of this size is free. Only the number of images decides
  # on the number of pages, because the references may be unknown at plan time.
  image_lists = {
    for name, cache in var.caches : name => {
      parts = chunklist(cache.images, 15)
      # The pages of each list have a folder of their own, so a reader never sees a mixture of two lists.
      folder = substr(sha256(jsonencode(cache.images)), 0, 16)
    }
  }

  first_pages = {
    for name, configuration in local.configurations : name => jsonencode(merge(
      configuration,
      { images = local.image_lists[name].parts[0] },
      length(local.image_lists[name].parts) == 1 ? null : {
        more_images = { pages = length(local.image_lists[name].parts) - 1, folder = local.image_lists[name].folder }
      },
    ))
  }

  further_pages = merge([
    for name, list in local.image_lists : {
      for index, images in list.parts : "${name}/${index + 1}" => {
        name  = "/prepull/config/${name}/${list.folder}/${index + 1}"
        value = jsonencode(images)
      } if index > 0
    }
  ]...)
}

resource "aws_ssm_parameter" "image_page" {
  #checkov:skip=CKV2_AWS_34:The page has names of images, but no secrets.
  for_each = local.further_pages

  name           = each.value.name
  description    = "prepull: further images of the cache ${split("/", each.key)[0]}"
  type           = "String"
  tier           = "Intelligent-Tiering"
  insecure_value = each.value.value
  tags           = var.tags

  # The old pages go last, after the first page refers to the new ones.
  lifecycle {
    create_before_destroy = true
  }
}

# The provider tags only resources that Terraform creates. The functions tag those of builds.
data "aws_default_tags" "current" {}

resource "aws_ssm_parameter" "configuration" {
  #checkov:skip=CKV2_AWS_34:The configuration has names of images and of secrets, but no secrets.
  for_each = local.first_pages

  name        = "/prepull/config/${each.key}"
  description = "prepull: configuration of the cache ${each.key}"
  type        = "String"
  # A parameter above 4 KiB must be an advanced one, which costs 5 cents a month.
  tier = "Intelligent-Tiering"
  # Not secret, and useful to see in a plan.
  insecure_value = each.value
  tags           = var.tags

  # A reader of the first page finds the others. The functions come first, because earlier versions know no pages.
  depends_on = [aws_lambda_function.stage, aws_ssm_parameter.image_page]

  lifecycle {
    precondition {
      condition     = length(each.value) <= 8192
      error_message = "The configuration of the cache ${each.key} is too large: without its images it has ${length(each.value)} bytes, and an SSM parameter at most 8192. Shorten the lists of the cache."
    }

    precondition {
      condition     = length(jsondecode(each.value).builder.subnet_ids) > 0
      error_message = "The cache ${each.key} has no subnet for its builders, because the account has no default VPC in ${local.region}. Set subnet_ids."
    }

    # EC2 allows 50 tags. prepull sets six of its own.
    precondition {
      condition     = length(jsondecode(each.value).tags) <= 42
      error_message = "The cache ${each.key} has ${length(jsondecode(each.value).tags)} tags, and at most 42 are possible besides those of prepull. They come from tags, from the cache's tags and from default_tags of the provider. Remove some."
    }

    precondition {
      condition     = !contains(var.caches[each.key].publication.copy_to_regions, local.region)
      error_message = "The cache ${each.key} copies to its own Region: publication.copy_to_regions has ${local.region}. Remove it."
    }
  }
}

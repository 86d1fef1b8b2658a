provider "aws" {
  region = "eu-west-1"
}

module "nodes" {
  source = "../../modules/nodes"

  cache           = "web"
  architecture    = "x86_64"
  volume_size_gib = 100
}

# The release of the snapshot's builder. Without it, every update of the node group also takes the newest AMI.
data "aws_ssm_parameter" "release" {
  name = "/aws/service/bottlerocket/aws-k8s-${var.kubernetes_version}/x86_64/${coalesce(module.nodes.bottlerocket_version, "latest")}/image_version"
}

resource "aws_launch_template" "nodes" {
  name_prefix = "web-"

  dynamic "block_device_mappings" {
    for_each = module.nodes.block_device_mappings

    content {
      device_name = block_device_mappings.value.device_name

      ebs {
        snapshot_id                = block_device_mappings.value.ebs.snapshot_id
        volume_size                = block_device_mappings.value.ebs.volume_size
        volume_type                = block_device_mappings.value.ebs.volume_type
        iops                       = block_device_mappings.value.ebs.iops
        throughput                 = block_device_mappings.value.ebs.throughput
        volume_initialization_rate = block_device_mappings.value.ebs.volume_initialization_rate
        encrypted                  = block_device_mappings.value.ebs.encrypted
        kms_key_id                 = block_device_mappings.value.ebs.kms_key_id
        delete_on_termination      = block_device_mappings.value.ebs.delete_on_termination
      }
    }
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
}

resource "aws_eks_node_group" "nodes" {
  cluster_name           = var.cluster
  node_group_name_prefix = "web-"
  node_role_arn          = var.node_role_arn
  subnet_ids             = var.subnet_ids

  ami_type        = "BOTTLEROCKET_x86_64"
  version         = var.kubernetes_version
  release_version = nonsensitive(data.aws_ssm_parameter.release.value)
  instance_types  = ["m7i.xlarge"]

  # A number, because the group does not follow `$Latest`. A new version replaces all nodes of the group.
  launch_template {
    id      = aws_launch_template.nodes.id
    version = aws_launch_template.nodes.latest_version
  }

  scaling_config {
    desired_size = 2
    min_size     = 1
    max_size     = 10
  }

  update_config {
    max_unavailable_percentage = 33
  }

  # An autoscaler changes the size.
  lifecycle {
    ignore_changes = [scaling_config[0].desired_size]
  }
}

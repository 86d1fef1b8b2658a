# The examples for nodes, with a snapshot and without.

mock_provider "aws" {}

variables {
  cluster       = "production"
  node_role     = "nodes"
  node_role_arn = "arn:aws:iam::123456789012:role/nodes"
  subnet_ids    = ["subnet-0123456789abcdef0"]
}

run "node_group_starts_from_the_snapshot" {
  command = plan

  module {
    source = "../../examples/node-group"
  }

  override_module {
    target = module.nodes
    outputs = {
      snapshot_id          = "snap-0123456789abcdef1"
      bottlerocket_version = "1.57.0"
      block_device_mappings = [{
        device_name = "/dev/xvdb"
        ebs = {
          snapshot_id                = "snap-0123456789abcdef1"
          volume_size                = 100
          volume_type                = "gp3"
          iops                       = 3000
          throughput                 = 500
          volume_initialization_rate = 300
          encrypted                  = null
          kms_key_id                 = null
          delete_on_termination      = true
        }
      }]
    }
  }

  assert {
    condition     = aws_launch_template.nodes.block_device_mappings[0].ebs[0].snapshot_id == "snap-0123456789abcdef1" && aws_launch_template.nodes.block_device_mappings[0].ebs[0].volume_initialization_rate == 300
    error_message = jsonencode(aws_launch_template.nodes.block_device_mappings)
  }

  # EC2 refuses `encrypted` beside a snapshot.
  assert {
    condition     = aws_launch_template.nodes.block_device_mappings[0].ebs[0].encrypted == null
    error_message = jsonencode(aws_launch_template.nodes.block_device_mappings)
  }

  assert {
    condition     = data.aws_ssm_parameter.release.name == "/aws/service/bottlerocket/aws-k8s-1.33/x86_64/1.57.0/image_version"
    error_message = data.aws_ssm_parameter.release.name
  }
}

run "node_group_without_snapshot_pulls" {
  command = plan

  module {
    source = "../../examples/node-group"
  }

  override_data {
    target = module.nodes.data.aws_ssm_parameters_by_path.pointer
    values = { names = [], values = [] }
  }

  override_data {
    target = module.nodes.data.aws_ssm_parameters_by_path.manifests
    values = { names = [], values = [] }
  }

  override_data {
    target = module.nodes.data.aws_ssm_parameters_by_path.configurations
    values = { names = [], values = [] }
  }

  assert {
    condition     = aws_launch_template.nodes.block_device_mappings[1].ebs[0].encrypted == "true" && aws_launch_template.nodes.block_device_mappings[1].ebs[0].snapshot_id == null
    error_message = jsonencode(aws_launch_template.nodes.block_device_mappings)
  }

  assert {
    condition     = data.aws_ssm_parameter.release.name == "/aws/service/bottlerocket/aws-k8s-1.33/x86_64/latest/image_version"
    error_message = data.aws_ssm_parameter.release.name
  }
}

run "karpenter_has_a_class_and_a_pool_for_each_architecture" {
  command = plan

  module {
    source = "../../examples/karpenter"
  }

  override_data {
    target = module.nodes["x86_64"].data.aws_ssm_parameters_by_path.pointer
    values = { names = [], values = [] }
  }

  override_data {
    target = module.nodes["arm64"].data.aws_ssm_parameters_by_path.pointer
    values = { names = [], values = [] }
  }

  assert {
    condition = toset([for document in split("---\n", output.yaml) : "${yamldecode(document).kind} ${yamldecode(document).metadata.name}"]) == toset(flatten([
      for name in ["web-amd64", "web-amd64-fallback", "web-arm64", "web-arm64-fallback"] : ["EC2NodeClass ${name}", "NodePool ${name}"]
    ]))
    error_message = output.yaml
  }
}

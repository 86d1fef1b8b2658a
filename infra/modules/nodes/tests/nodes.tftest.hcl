# The outputs of the module before and after the first build, and with each optional input. These tests need no AWS account.

mock_provider "aws" {}

# The parameters of the CLI's tests: crates/testing/src/fixtures.rs has the same configuration and the same manifest.

override_data {
  target = data.aws_ssm_parameters_by_path.pointer
  values = {
    names  = ["/prepull/web/x86_64/snapshot-id"]
    values = ["snap-0123456789abcdef1"]
  }
}

override_data {
  target = data.aws_ssm_parameters_by_path.manifests
  values = {
    names = ["/prepull/web/x86_64/snapshots/snap-0123456789abcdef0", "/prepull/web/x86_64/snapshots/snap-0123456789abcdef1"]
    values = [
      "{\"variant\": \"aws-k8s-1.32\", \"node\": {\"bottlerocket_version\": \"1.56.0\"}, \"volume_size\": 40}",
      "{\"variant\": \"aws-k8s-1.33\", \"node\": {\"bottlerocket_version\": \"1.57.0\"}, \"volume_size\": 50, \"more_images\": {\"pages\": 1}}",
    ]
  }
}

override_data {
  target = data.aws_ssm_parameters_by_path.configurations
  values = {
    names = ["/prepull/config/batch", "/prepull/config/web"]
    values = [
      "{\"architectures\": [\"x86_64\"], \"variant\": \"aws-k8s-1.33\", \"bottlerocket_version\": \"latest\", \"volume\": {\"size_gib\": 200, \"iops\": 6000, \"throughput_mibps\": 1000, \"kms_key_id\": null}}",
      "{\"architectures\": [\"x86_64\", \"arm64\"], \"variant\": \"aws-k8s-1.33\", \"bottlerocket_version\": \"latest\", \"volume\": {\"size_gib\": 50, \"iops\": 3000, \"throughput_mibps\": 500, \"kms_key_id\": null}}",
    ]
  }
}

variables {
  cache                         = "web"
  role                          = "KarpenterNodeRole-CLUSTER"
  subnet_selector_terms         = [{ tags = { "karpenter.sh/discovery" = "CLUSTER" } }]
  security_group_selector_terms = [{ tags = { "karpenter.sh/discovery" = "CLUSTER" } }]
}

################################################################################
# After the first build
################################################################################

run "node_class_is_that_of_prepull_nodeclass" {
  command = plan

  # A snapshot of insta has a header between two lines `---`.
  assert {
    condition = yamldecode(output.node_class_yaml) == yamldecode(
      split("\n---\n", file("../../../cli/tests/snapshots/commands__nodeclass_contains_the_published_snapshot.snap"))[1]
    )
    error_message = output.node_class_yaml
  }

  assert {
    condition = jsonencode(output.node_class) == jsonencode(jsondecode(
      split("\n---\n", file("../../../cli/tests/snapshots/commands__nodeclass_contains_the_published_snapshot-2.snap"))[1]
    ))
    error_message = jsonencode(output.node_class)
  }
}

run "launch_template_gets_the_snapshot_without_encryption" {
  command = plan

  assert {
    condition     = output.snapshot_id == "snap-0123456789abcdef1" && output.bottlerocket_version == "1.57.0"
    error_message = "The snapshot is ${output.snapshot_id}."
  }

  assert {
    condition = jsonencode(output.block_device_mappings[1]) == jsonencode({
      device_name = "/dev/xvdb"
      ebs = {
        snapshot_id                = "snap-0123456789abcdef1"
        volume_size                = 50
        volume_type                = "gp3"
        iops                       = 3000
        throughput                 = 500
        volume_initialization_rate = 300
        encrypted                  = null
        kms_key_id                 = null
        delete_on_termination      = true
      }
    })
    error_message = jsonencode(output.block_device_mappings)
  }

  assert {
    condition     = output.block_device_mappings[0].device_name == "/dev/xvda" && output.block_device_mappings[0].ebs.encrypted
    error_message = jsonencode(output.block_device_mappings)
  }
}

run "copy_without_configuration_has_the_defaults_of_a_cache" {
  command = plan

  override_data {
    target = data.aws_ssm_parameters_by_path.configurations
    values = { names = [], values = [] }
  }

  assert {
    condition     = output.block_device_mappings[1].ebs.snapshot_id == "snap-0123456789abcdef1" && output.block_device_mappings[1].ebs.throughput == 500
    error_message = jsonencode(output.block_device_mappings)
  }
}

run "fips_variant_is_selected_by_parameter" {
  command = plan

  override_data {
    target = data.aws_ssm_parameters_by_path.manifests
    values = {
      names  = ["/prepull/web/x86_64/snapshots/snap-0123456789abcdef1"]
      values = ["{\"variant\": \"aws-k8s-1.33-fips\", \"node\": {\"bottlerocket_version\": \"1.57.0\"}, \"volume_size\": 50}"]
    }
  }

  assert {
    condition     = jsonencode(output.node_class.spec.amiSelectorTerms) == jsonencode([{ ssmParameter = "/aws/service/bottlerocket/aws-k8s-1.33-fips/x86_64/1.57.0/image_id" }])
    error_message = output.node_class_yaml
  }
}

run "key_of_the_cache_reaches_the_node_class" {
  command = plan

  override_data {
    target = data.aws_ssm_parameters_by_path.configurations
    values = {
      names  = ["/prepull/config/web"]
      values = ["{\"architectures\": [\"x86_64\"], \"variant\": \"aws-k8s-1.33\", \"bottlerocket_version\": \"latest\", \"volume\": {\"size_gib\": 50, \"iops\": 4000, \"throughput_mibps\": 750, \"kms_key_id\": \"arn:aws:kms:eu-west-1:123456789012:key/1234\"}}"]
    }
  }

  assert {
    condition     = output.node_class.spec.blockDeviceMappings[1].ebs.kmsKeyID == "arn:aws:kms:eu-west-1:123456789012:key/1234" && output.node_class.spec.blockDeviceMappings[1].ebs.iops == 4000
    error_message = output.node_class_yaml
  }

  assert {
    condition     = output.block_device_mappings[1].ebs.kms_key_id == null && output.block_device_mappings[1].ebs.throughput == 750
    error_message = jsonencode(output.block_device_mappings)
  }
}

################################################################################
# Before the first build
################################################################################

run "no_snapshot_gives_a_class_that_pulls" {
  command = plan

  variables {
    cache = "batch"
  }

  override_data {
    target = data.aws_ssm_parameters_by_path.pointer
    values = { names = [], values = [] }
  }

  override_data {
    target = data.aws_ssm_parameters_by_path.manifests
    values = { names = [], values = [] }
  }

  assert {
    condition     = output.snapshot_id == null && output.bottlerocket_version == null
    error_message = "There is a snapshot."
  }

  assert {
    condition     = output.node_class.metadata.name == "batch-amd64" && output.node_class.spec.amiSelectorTerms[0].alias == "bottlerocket@latest"
    error_message = output.node_class_yaml
  }

  assert {
    condition = jsonencode(output.node_class.spec.blockDeviceMappings[1].ebs) == jsonencode({
      volumeSize = "200Gi", volumeType = "gp3", iops = 6000, throughput = 1000, encrypted = true, deleteOnTermination = true
    })
    error_message = output.node_class_yaml
  }

  assert {
    condition     = output.block_device_mappings[1].ebs.encrypted && output.block_device_mappings[1].ebs.volume_initialization_rate == null
    error_message = jsonencode(output.block_device_mappings)
  }
}

run "no_parameter_at_all_gives_the_defaults_of_a_cache" {
  command = plan

  variables {
    kms_key_id = "arn:aws:kms:eu-west-1:123456789012:key/1234"
  }

  override_data {
    target = data.aws_ssm_parameters_by_path.pointer
    values = { names = [], values = [] }
  }

  override_data {
    target = data.aws_ssm_parameters_by_path.manifests
    values = { names = [], values = [] }
  }

  override_data {
    target = data.aws_ssm_parameters_by_path.configurations
    values = { names = [], values = [] }
  }

  assert {
    condition     = output.node_class.spec.blockDeviceMappings[1].ebs.volumeSize == "50Gi" && output.node_class.spec.amiSelectorTerms[0].alias == "bottlerocket@latest"
    error_message = output.node_class_yaml
  }

  assert {
    condition     = output.block_device_mappings[1].ebs.kms_key_id == "arn:aws:kms:eu-west-1:123456789012:key/1234"
    error_message = jsonencode(output.block_device_mappings)
  }
}

run "unknown_parameters_leave_the_keys_of_manifests_known" {
  command = plan

  module {
    source = "./tests/unknown"
  }

  assert {
    condition     = output.keys == toset(["node_class", "node_pool", "fallback_node_class", "fallback_node_pool"])
    error_message = "The keys are ${join(", ", output.keys)}."
  }
}

################################################################################
# Optional inputs
################################################################################

run "inputs_reach_the_node_class" {
  command = plan

  variables {
    name                          = "workers"
    role                          = null
    instance_profile              = "nodes"
    subnet_selector_terms         = [{ id = "subnet-0123456789abcdef0" }]
    security_group_selector_terms = [{ name = "nodes" }, { id = "sg-0123456789abcdef0" }]
    ami_selector_terms            = [{ alias = "bottlerocket@latest" }]
    user_data                     = "[settings.kernel]\nlockdown = \"integrity\"\n"
    tags                          = { team = "platform" }
    volume_size_gib               = 80
    volume_iops                   = 4000
    volume_throughput_mibps       = 1000
    volume_initialization_rate    = 150
    kms_key_id                    = "arn:aws:kms:eu-west-1:123456789012:key/5678"
  }

  assert {
    condition = jsonencode(yamldecode(output.node_class_yaml)) == jsonencode({
      apiVersion = "karpenter.k8s.aws/v1"
      kind       = "EC2NodeClass"
      metadata   = { name = "workers" }
      spec = {
        amiFamily                  = "Bottlerocket"
        amiSelectorTerms           = [{ alias = "bottlerocket@latest" }]
        instanceProfile            = "nodes"
        subnetSelectorTerms        = [{ id = "subnet-0123456789abcdef0" }]
        securityGroupSelectorTerms = [{ name = "nodes" }, { id = "sg-0123456789abcdef0" }]
        userData                   = "[settings.kernel]\nlockdown = \"integrity\"\n"
        tags                       = { team = "platform" }
        blockDeviceMappings = [
          { deviceName = "/dev/xvda", ebs = { volumeSize = "4Gi", volumeType = "gp3", encrypted = true, deleteOnTermination = true } },
          { deviceName = "/dev/xvdb", ebs = {
            snapshotID               = "snap-0123456789abcdef1"
            volumeSize               = "80Gi"
            volumeType               = "gp3"
            iops                     = 4000
            throughput               = 1000
            volumeInitializationRate = 150
            kmsKeyID                 = "arn:aws:kms:eu-west-1:123456789012:key/5678"
            encrypted                = true
            deleteOnTermination      = true
          } },
        ]
      }
    })
    error_message = output.node_class_yaml
  }
}

run "rate_of_0_leaves_the_rate_out" {
  command = plan

  variables {
    volume_initialization_rate = 0
  }

  assert {
    condition     = !can(output.node_class.spec.blockDeviceMappings[1].ebs.volumeInitializationRate) && output.block_device_mappings[1].ebs.volume_initialization_rate == null
    error_message = output.node_class_yaml
  }
}

run "rate_of_null_leaves_the_rate_out" {
  command = plan

  variables {
    volume_initialization_rate = null
  }

  assert {
    condition     = !can(output.node_class.spec.blockDeviceMappings[1].ebs.volumeInitializationRate)
    error_message = output.node_class_yaml
  }
}

run "no_terms_give_only_a_launch_template" {
  command = plan

  variables {
    role                          = null
    subnet_selector_terms         = []
    security_group_selector_terms = []
  }

  assert {
    condition     = output.node_class == null && output.node_class_yaml == null && output.node_pool == null && output.node_pool_yaml == null && length(output.manifests) == 0
    error_message = jsonencode(output.manifests)
  }
}

run "arm64_has_its_own_pointer_and_name" {
  command = plan

  variables {
    architecture = "arm64"
    node_pool    = {}
  }

  # The overrides are those of x86_64, so arm64 has no snapshot.
  assert {
    condition     = output.snapshot_id == null && output.node_class.metadata.name == "web-arm64" && output.node_pool.spec.template.spec.requirements[0].values == ["arm64"]
    error_message = output.node_class_yaml
  }
}

################################################################################
# Node pools
################################################################################

run "default_node_pool_replaces_nodes_within_the_budget" {
  command = plan

  variables {
    node_pool = {}
  }

  assert {
    condition = jsonencode(yamldecode(output.node_pool_yaml)) == jsonencode({
      apiVersion = "karpenter.sh/v1"
      kind       = "NodePool"
      metadata   = { name = "web-amd64" }
      spec = {
        weight = 10
        disruption = {
          consolidationPolicy = "WhenEmptyOrUnderutilized"
          consolidateAfter    = "0s"
          budgets             = [{ nodes = "10%" }]
        }
        template = { spec = {
          nodeClassRef = { group = "karpenter.k8s.aws", kind = "EC2NodeClass", name = "web-amd64" }
          requirements = [{ key = "kubernetes.io/arch", operator = "In", values = ["amd64"] }]
        } }
      }
    })
    error_message = output.node_pool_yaml
  }

  assert {
    condition     = keys(output.manifests) == ["node_class", "node_pool"]
    error_message = jsonencode(keys(output.manifests))
  }
}

run "node_pool_has_every_setting" {
  command = plan

  variables {
    node_pool = {
      replacement       = "new-nodes-only"
      budget            = "5"
      consolidate_after = "1m"
      taints            = [{ key = "prepull/cache", value = "web" }, { key = "batch", effect = "NoExecute" }]
      requirements      = [{ key = "karpenter.sh/capacity-type", values = ["spot"] }, { key = "team", operator = "Exists" }]
      limits            = { cpu = "100" }
      weight            = 50
      fallback          = true
    }
  }

  assert {
    condition = jsonencode(output.node_pool.spec) == jsonencode({
      weight = 50
      limits = { cpu = "100" }
      disruption = {
        consolidationPolicy = "WhenEmptyOrUnderutilized"
        consolidateAfter    = "1m"
        budgets             = [{ nodes = "5" }, { nodes = "0", reasons = ["Drifted"] }]
      }
      template = { spec = {
        nodeClassRef = { group = "karpenter.k8s.aws", kind = "EC2NodeClass", name = "web-amd64" }
        requirements = [
          { key = "kubernetes.io/arch", operator = "In", values = ["amd64"] },
          { key = "karpenter.sh/capacity-type", operator = "In", values = ["spot"] },
          { key = "team", operator = "Exists" },
        ]
        taints = [{ key = "prepull/cache", value = "web", effect = "NoSchedule" }, { key = "batch", effect = "NoExecute" }]
      } }
    })
    error_message = output.node_pool_yaml
  }

  # The fall-back has the same pods, but no snapshot and no weight.
  assert {
    condition = (
      yamldecode(output.manifests.fallback_node_pool).spec.template.spec.nodeClassRef.name == "web-amd64-fallback" &&
      yamldecode(output.manifests.fallback_node_pool).spec.template.spec.taints == yamldecode(output.node_pool_yaml).spec.template.spec.taints &&
      !can(yamldecode(output.manifests.fallback_node_pool).spec.weight) &&
      yamldecode(output.manifests.fallback_node_class).metadata.name == "web-amd64-fallback" &&
      !can(yamldecode(output.manifests.fallback_node_class).spec.blockDeviceMappings[1].ebs.snapshotID) &&
      !can(yamldecode(output.manifests.fallback_node_class).spec.blockDeviceMappings[1].ebs.volumeInitializationRate)
    )
    error_message = output.manifests.fallback_node_class
  }
}

################################################################################
# Combinations that the module refuses
################################################################################

run "volume_smaller_than_the_snapshot_is_refused" {
  command = plan

  variables {
    volume_size_gib = 49
  }

  expect_failures = [output.snapshot_id]
}

run "undeclared_architecture_is_refused" {
  command = plan

  variables {
    cache        = "batch"
    architecture = "arm64"
  }

  expect_failures = [output.snapshot_id]
}

run "snapshot_without_manifest_is_refused" {
  command = plan

  override_data {
    target = data.aws_ssm_parameters_by_path.manifests
    values = { names = [], values = [] }
  }

  expect_failures = [output.snapshot_id]
}

run "pointer_without_id_is_refused" {
  command = plan

  override_data {
    target = data.aws_ssm_parameters_by_path.pointer
    values = { names = ["/prepull/web/x86_64/snapshot-id"], values = ["none"] }
  }

  expect_failures = [output.snapshot_id]
}

run "role_beside_an_instance_profile_is_refused" {
  command = plan

  variables {
    instance_profile = "nodes"
  }

  expect_failures = [output.node_class]
}

run "node_class_without_role_is_refused" {
  command = plan

  variables {
    role = null
  }

  expect_failures = [output.node_class]
}

run "node_class_without_security_groups_is_refused" {
  command = plan

  variables {
    security_group_selector_terms = []
  }

  expect_failures = [output.node_class]
}

run "role_without_terms_is_refused" {
  command = plan

  variables {
    subnet_selector_terms         = []
    security_group_selector_terms = []
  }

  expect_failures = [output.node_class]
}

provider "aws" {
  region = "eu-west-1"
}

# The Region of the copies
provider "aws" {
  alias  = "copies"
  region = "eu-central-1"
}

data "aws_caller_identity" "current" {}

data "aws_region" "current" {}

locals {
  name = "prepull"
  ecr  = "${data.aws_caller_identity.current.account_id}.dkr.ecr.${data.aws_region.current.id}.amazonaws.com"
  tags = { team = "platform" }
}

module "prepull" {
  source = "../../"

  name = local.name
  tags = local.tags

  functions_directory   = "${path.module}/../../../target/lambda"
  function_architecture = "arm64"
  function_environment  = { RUST_LOG = "info,prepull=debug" }
  log_retention_days    = 90
  debounce_seconds      = 120

  subnet_ids         = aws_subnet.builders[*].id
  egress_cidr_blocks = ["0.0.0.0/0"]

  # The builders pull Docker Hub's images from Google's mirror first.
  builder_settings = {
    registry_mirrors = { "docker.io" = ["https://mirror.gcr.io"] }
  }

  alarm_actions = [aws_sns_topic.operators.arn]
  # Without a push, no build starts between Friday morning and Monday morning.
  alarm_without_success_hours = 84

  caches = {
    # Rebuilt after every push of the team's image, and each morning because nginx's tag may move.
    web = {
      images = [
        "${local.ecr}/team/api:v1",
        "public.ecr.aws/nginx/nginx:1.27",
      ]
      architectures = ["x86_64", "arm64"]
      variant       = "aws-k8s-1.33"

      volume = {
        size_gib         = 80
        throughput_mibps = 750
        kms_key_id       = aws_kms_key.snapshots.arn
      }

      retain_snapshots = 5

      schedule = {
        expression = "cron(30 4 ? * MON-FRI *)"
        time_zone  = "Europe/Berlin"
      }

      publication = {
        share_with_accounts = ["210987654321"]
        copy_to_regions     = ["eu-central-1"]
      }
    }

    # Large images from a registry with a password. The oldest nodes run Bottlerocket 1.56.0.
    batch = {
      images               = ["registry.example.com:5443/science/solver:2025.11"]
      variant              = "aws-k8s-1.31-fips"
      bottlerocket_version = "1.56.0"
      pin_images           = true
      parallel_pulls       = 2
      timeout_minutes      = 120
      rebuild_on_push      = false

      volume = {
        size_gib         = 200
        iops             = 6000
        throughput_mibps = 1000
      }

      builder = {
        instance_types = { x86_64 = ["m7i.4xlarge", "m6i.4xlarge"] }
      }

      registry_credentials = {
        "registry.example.com:5443" = { secret_arn = aws_secretsmanager_secret.registry.arn }
      }

      schedule = { enabled = false }
    }
  }
}

################################################################################
# Chat messages for failed builds
################################################################################

resource "aws_cloudwatch_event_rule" "build_failed" {
  name        = "${local.name}-tell-of-failed-builds"
  description = "A build of prepull failed, timed out or was stopped"
  event_pattern = jsonencode({
    source        = ["prepull"]
    "detail-type" = ["Build Failed"]
  })
  tags = local.tags
}

resource "aws_cloudwatch_event_target" "build_failed" {
  rule = aws_cloudwatch_event_rule.build_failed.name
  arn  = aws_sns_topic.operators.arn

  # The first failure. The event has all of them. The format is that of custom notifications of Amazon Q Developer in chat
  # applications, which forwards them to Slack or Teams.
  input_transformer {
    input_paths = {
      cache     = "$.detail.cache"
      execution = "$.detail.execution"
      message   = "$.detail.failures[0].message"
      remedy    = "$.detail.failures[0].remedy"
    }
    # The input transformer needs the angle brackets, which jsonencode would escape.
    input_template = <<-JSON
      {
        "version": "1.0",
        "source": "custom",
        "id": <execution>,
        "content": {
          "textType": "client-markdown",
          "title": "The cache <cache> was not built",
          "description": <message>,
          "nextSteps": [<remedy>]
        }
      }
    JSON
  }
}

################################################################################
# Resources that a platform usually has
################################################################################

resource "aws_sns_topic" "operators" {
  #checkov:skip=CKV_AWS_26:The messages contain no secrets, and CloudWatch and EventBridge cannot send to a topic with AWS's own key.
  name   = "operators"
  policy = data.aws_iam_policy_document.operators.json
  tags   = local.tags
}

data "aws_iam_policy_document" "operators" {
  statement {
    sid       = "AlarmsAndEvents"
    actions   = ["sns:Publish"]
    resources = ["arn:aws:sns:${data.aws_region.current.id}:${data.aws_caller_identity.current.account_id}:operators"]

    principals {
      type        = "Service"
      identifiers = ["cloudwatch.amazonaws.com", "events.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

resource "aws_vpc" "this" {
  #checkov:skip=CKV2_AWS_11:An example, without flow logs.
  #checkov:skip=CKV2_AWS_12:An example. No resource uses the default security group.
  cidr_block           = "10.0.0.0/16"
  enable_dns_hostnames = true
  tags                 = merge(local.tags, { Name = local.name })
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = local.tags
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id
  tags   = local.tags

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.this.id
  }
}

resource "aws_subnet" "builders" {
  #checkov:skip=CKV_AWS_130:A builder needs egress and accepts no connections. A public address is cheaper than a NAT gateway.
  count = 2

  vpc_id                  = aws_vpc.this.id
  availability_zone       = ["eu-west-1a", "eu-west-1b"][count.index]
  cidr_block              = cidrsubnet(aws_vpc.this.cidr_block, 8, count.index)
  map_public_ip_on_launch = true
  tags                    = merge(local.tags, { Name = "${local.name}-builders" })
}

resource "aws_route_table_association" "builders" {
  count = length(aws_subnet.builders)

  subnet_id      = aws_subnet.builders[count.index].id
  route_table_id = aws_route_table.public.id
}

# The key's policy must allow the account that gets the snapshots.
resource "aws_kms_key" "snapshots" {
  description             = "Snapshots with container images"
  enable_key_rotation     = true
  multi_region            = true
  deletion_window_in_days = 30
  tags                    = local.tags

  policy = local.key_policy
}

# The copies need the key in their own Region.
resource "aws_kms_replica_key" "snapshots" {
  provider = aws.copies

  description             = aws_kms_key.snapshots.description
  primary_key_arn         = aws_kms_key.snapshots.arn
  deletion_window_in_days = 30
  policy                  = local.key_policy
  tags                    = local.tags
}

locals {
  key_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "Administer"
        Effect    = "Allow"
        Principal = { AWS = "arn:aws:iam::${data.aws_caller_identity.current.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = "UseSharedSnapshots"
        Effect    = "Allow"
        Principal = { AWS = "arn:aws:iam::210987654321:root" }
        Action    = ["kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:ReEncryptFrom"]
        Resource  = "*"
      },
    ]
  })
}

# Set its value by hand: `{"username": "…", "password": "…"}`.
resource "aws_secretsmanager_secret" "registry" {
  #checkov:skip=CKV_AWS_149:AWS's own key for Secrets Manager suffices for an example.
  #checkov:skip=CKV2_AWS_57:Secrets Manager cannot rotate a registry's password.
  name = "team/registry"
  tags = local.tags
}

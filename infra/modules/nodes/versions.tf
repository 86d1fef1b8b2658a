terraform {
  required_version = ">= 1.6"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # aws_launch_template has no volume_initialization_rate in older releases.
      version = ">= 5.100"
    }
  }
}

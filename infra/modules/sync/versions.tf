terraform {
  required_version = ">= 1.6"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # Older releases have no aws_eks_pod_identity_association.
      version = ">= 5.29"
    }
  }
}

variable "cluster" {
  description = "Name of the EKS cluster."
  type        = string
}

variable "kubernetes_version" {
  description = "Kubernetes version of the node group, which is also that of the cache's variant."
  type        = string
  default     = "1.33"
}

variable "node_role_arn" {
  description = "ARN of the IAM role of the nodes."
  type        = string
}

variable "subnet_ids" {
  description = "Subnets of the nodes."
  type        = list(string)
}

variable "cluster" {
  description = "Name of the EKS cluster, which is the value of the tag `karpenter.sh/discovery`."
  type        = string
}

variable "node_role" {
  description = "Name of the IAM role of Karpenter's nodes."
  type        = string
}

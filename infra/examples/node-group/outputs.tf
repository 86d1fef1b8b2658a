output "snapshot_id" {
  description = "ID of the snapshot of the launch template. `null` before the first build."
  value       = module.nodes.snapshot_id
}

output "release_version" {
  description = "Bottlerocket release of the node group."
  value       = aws_eks_node_group.nodes.release_version
}

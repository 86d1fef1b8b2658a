output "yaml" {
  description = "Node classes and node pools of both architectures."
  value       = join("---\n", flatten([for nodes in module.nodes : values(nodes.manifests)]))
}

output "snapshot_ids" {
  description = "IDs of the snapshots, by architecture. `null` before the first build."
  value       = { for architecture, nodes in module.nodes : architecture => nodes.snapshot_id }
}

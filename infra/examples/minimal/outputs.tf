output "snapshot_parameter_names" {
  description = "Where the IDs of the published snapshots stand."
  value       = module.prepull.snapshot_parameter_names
}

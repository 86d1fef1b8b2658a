output "snapshot_parameter_names" {
  description = "Names of the parameters with the IDs of the published snapshots."
  value       = module.prepull.snapshot_parameter_names
}

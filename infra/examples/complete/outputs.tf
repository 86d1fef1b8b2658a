output "state_machine_arn" {
  description = "The state machine that builds."
  value       = module.prepull.state_machine_arn
}

output "snapshot_parameter_names" {
  description = "Where the IDs of the published snapshots stand."
  value       = module.prepull.snapshot_parameter_names
}

output "builder_role_arn" {
  description = "Whom other accounts' repositories must let pull."
  value       = module.prepull.builder_role_arn
}

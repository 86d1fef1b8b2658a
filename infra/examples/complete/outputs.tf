output "state_machine_arn" {
  description = "ARN of the state machine."
  value       = module.prepull.state_machine_arn
}

output "snapshot_parameter_names" {
  description = "Names of the parameters with the IDs of the published snapshots."
  value       = module.prepull.snapshot_parameter_names
}

output "builder_role_arn" {
  description = "Roles that repositories of other accounts must allow to pull."
  value       = module.prepull.builder_role_arn
}

output "state_machine_arn" {
  description = "The module's output."
  value       = module.prepull.state_machine_arn
}

output "builder_instance_profile_arn" {
  description = "The module's output."
  value       = module.prepull.builder_instance_profile_arn
}

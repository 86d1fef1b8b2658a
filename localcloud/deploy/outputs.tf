output "state_machine_arn" {
  description = "The module's output."
  value       = module.prepull.state_machine_arn
}

output "function_names" {
  description = "The module's output."
  value       = module.prepull.function_names
}

output "function_role_arns" {
  description = "The module's output."
  value       = module.prepull.function_role_arns
}

output "builder_role_arn" {
  description = "The module's output."
  value       = module.prepull.builder_role_arn
}

output "builder_instance_profile_arn" {
  description = "The module's output."
  value       = module.prepull.builder_instance_profile_arn
}

output "builder_security_group_id" {
  description = "The module's output."
  value       = module.prepull.builder_security_group_id
}

output "configuration_parameter_names" {
  description = "The module's output."
  value       = module.prepull.configuration_parameter_names
}

output "snapshot_parameter_names" {
  description = "The module's output."
  value       = module.prepull.snapshot_parameter_names
}

output "schedule_names" {
  description = "The module's output."
  value       = module.prepull.schedule_names
}

output "document_names" {
  description = "The module's output."
  value       = module.prepull.document_names
}

output "log_group_names" {
  description = "The module's output."
  value       = module.prepull.log_group_names
}

output "dead_letter_queue_url" {
  description = "The module's output."
  value       = module.prepull.dead_letter_queue_url
}

output "dead_letter_queue_arn" {
  description = "The module's output."
  value       = module.prepull.dead_letter_queue_arn
}

variable "account" {
  description = "ID of the account to deploy to. The provider refuses every other account."
  type        = string
}

variable "region" {
  description = "Region to deploy to."
  type        = string
}

variable "name" {
  description = "The module's `name`."
  type        = string
}

variable "caches" {
  description = "The module's `caches`."
  # The module has the type and its checks; caches may leave out different attributes.
  type = any
}

variable "functions_directory" {
  description = "The module's `functions_directory`."
  type        = string
}

variable "function_architecture" {
  description = "The module's `function_architecture`."
  type        = string
}

variable "endpoint" {
  description = "Where localcloud answers, `http://127.0.0.1:<port>`."
  type        = string
}

variable "caches" {
  description = "The module's `caches`."
  # The module has the type and its checks; caches may leave out different attributes.
  type    = any
  default = {}
}

variable "functions_directory" {
  description = "The directory that holds `<stage>/bootstrap.zip` for every stage."
  type        = string
}

variable "function_environment" {
  description = "Environment variables for every function."
  type        = map(string)
  default     = {}
}

variable "debounce_seconds" {
  description = "Debounce of a build, in seconds. Short, because a local cloud has no bursts of pushes."
  type        = number
  default     = 1
}

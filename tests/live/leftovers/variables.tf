variable "account" {
  description = "ID of the account to search. The provider refuses every other account."
  type        = string
}

variable "region" {
  description = "Region to search."
  type        = string
}

variable "name" {
  description = "Prefix of the names to search for."
  type        = string
}

# The module, deployed by the live suite. Endpoint and credentials come from the environment, so the same configuration
# deploys to AWS and to a local cloud.

provider "aws" {
  region = var.region
  # The provider asks STS for the account of its credentials, and fails for any other account.
  allowed_account_ids = [var.account]
}

module "prepull" {
  source = "../../../infra"

  name                  = var.name
  caches                = var.caches
  functions_directory   = var.functions_directory
  function_architecture = var.function_architecture
  # The suite starts every build itself.
  debounce_seconds   = 1
  log_retention_days = 1
}

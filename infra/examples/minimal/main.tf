provider "aws" {
  region = "eu-west-1"
}

module "prepull" {
  source = "../../"

  functions_directory = "${path.module}/../../../target/lambda"

  caches = {
    web = {
      images  = ["docker.io/library/nginx:1.27"]
      variant = "aws-k8s-1.33"
    }
  }
}

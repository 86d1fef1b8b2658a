provider "aws" {
  region = "eu-west-1"
}

module "prepull" {
  source = "../../"

  functions_directory = "${path.module}/../../../target/lambda"

  caches = {
    web = {
      images  = ["public.ecr.aws/nginx/nginx:1.27"]
      variant = "aws-k8s-1.33"
    }
  }
}

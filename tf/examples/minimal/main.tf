# The module with what it needs and nothing more.

terraform {
  required_version = ">= 1.9"
}

provider "google" {
  project = var.project
  region  = var.region
}

provider "google-beta" {
  project = var.project
  region  = var.region
}

module "inline_workflow" {
  source = "../.."

  project = var.project
  region  = var.region
  image   = var.image

  # Only to destroy it again.
  force_destroy = var.force_destroy
}

output "example_request" {
  value = module.inline_workflow.example_request
}

output "requests_topic" {
  value = module.inline_workflow.requests_topic
}

output "responses_subscription" {
  value = module.inline_workflow.responses_subscription
}

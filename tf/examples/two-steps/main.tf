# The root module of tf/README.md: applied without an image, then with the one that was pushed to its repository.

terraform {
  required_version = ">= 1.9"
}

module "inline_workflow" {
  source = "../.."

  project       = "my-project"
  region        = "us-central1"
  image         = var.image
  force_destroy = var.force_destroy
}

variable "image" {
  description = "The function's image; empty before there is one."
  type        = string
}

variable "force_destroy" {
  description = "Whether a destroy may delete records, logs and history."
  type        = bool
  default     = false
}

output "image_repository" {
  value = module.inline_workflow.image_repository
}

# Two deployments in one project, under two prefixes. Each has all of its own but the services of the project and Google's
# agents, and one can be destroyed without the other.

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

module "nightly" {
  source = "../.."

  project       = var.project
  region        = var.region
  prefix        = "nightly"
  image         = var.image
  kms_key       = var.kms_key
  history       = {}
  force_destroy = true
}

module "adhoc" {
  source = "../.."

  project       = var.project
  region        = var.region
  prefix        = "adhoc"
  image         = var.image
  kms_key       = var.kms_key
  history       = {}
  force_destroy = true
}

# What the project must have switched on. Never switched off again: others in the project may use them.

locals {
  apis = toset(concat(
    [
      "artifactregistry.googleapis.com",
      "cloudbuild.googleapis.com",
      "cloudscheduler.googleapis.com",
      "compute.googleapis.com", # the clusters' machines
      "dataproc.googleapis.com",
      "eventarc.googleapis.com",
      "iam.googleapis.com",
      "iamcredentials.googleapis.com", # tokens for the trigger's and the scheduler's accounts
      "logging.googleapis.com",
      "monitoring.googleapis.com",
      "pubsub.googleapis.com",
      "run.googleapis.com",
      "storage.googleapis.com",
    ],
    var.history == null ? [] : ["bigquery.googleapis.com"],
  ))
}

resource "google_project_service" "apis" {
  for_each = local.apis

  project            = var.project
  service            = each.value
  disable_on_destroy = false
}

# Google's own accounts that act for the project. They come into being with the first use, which is too late for grants
# to them and for the first trigger.
resource "google_project_service_identity" "agents" {
  for_each = toset(["eventarc.googleapis.com", "pubsub.googleapis.com"])
  provider = google-beta

  project = var.project
  service = each.value

  depends_on = [google_project_service.apis]
}

data "google_storage_project_service_account" "agent" {
  count = var.kms_key == null ? 0 : 1

  project = var.project

  depends_on = [google_project_service.apis]
}

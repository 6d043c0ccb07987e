# What the project must have switched on. Never switched off again: others in the project may use them.

locals {
  apis = toset([
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
  ])

  # Google: "wait a few minutes" after a service is switched on.
  api_delay = "120s"
  # Google: an access change takes "typically 2 minutes, potentially 7 minutes or longer".
  # Source: https://cloud.google.com/iam/docs/access-change-propagation
  grant_delay = "420s"
  # What the grants and metrics that are waited for belong to: others have to be waited for again.
  deployment = { project = var.project, prefix = var.prefix }
}

resource "google_project_service" "apis" {
  for_each = local.apis

  project            = var.project
  service            = each.value
  disable_on_destroy = false
}

# A service answers some time after it was switched on. All that is made of Google's waits for this, directly or not; it
# takes its time once, and again when a later version of the module needs another service.
resource "time_sleep" "apis" {
  create_duration = local.api_delay

  triggers = {
    project  = var.project
    services = join(" ", local.apis)
  }

  depends_on = [google_project_service.apis]
}

# Google's own accounts that act for the project. They come into being with the first use, which is too late for grants
# to them and for the first trigger.
resource "google_project_service_identity" "agents" {
  for_each = toset(["eventarc.googleapis.com", "pubsub.googleapis.com"])
  provider = google-beta

  project = var.project
  service = each.value

  depends_on = [time_sleep.apis]
}

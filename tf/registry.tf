# Where the function's images are kept.
resource "google_artifact_registry_repository" "images" {
  project       = var.project
  repository_id = var.prefix
  location      = var.region
  description   = "Images of the function."
  format        = "DOCKER"
  labels        = var.labels

  # checkov:skip=CKV_GCP_84: the images hold open source and no secret.

  cleanup_policy_dry_run = false

  # What keeps goes before what deletes.
  cleanup_policies {
    id     = "keep-the-latest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 10
    }
  }
  cleanup_policies {
    id     = "delete-after-30-days"
    action = "DELETE"
    condition {
      tag_state  = "ANY"
      older_than = "2592000s"
    }
  }

  depends_on = [time_sleep.apis]
}

resource "google_artifact_registry_repository_iam_member" "build_pushes_images" {
  project    = var.project
  location   = var.region
  repository = google_artifact_registry_repository.images.repository_id
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.build.member
}

# What Cloud Build builds from. A bucket of its own: whoever can change a source decides what the function is.
resource "google_storage_bucket" "build" {
  project                     = var.project
  name                        = local.bucket_names.build
  location                    = var.region
  labels                      = var.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # Uploads, which are of no use after the build.
  force_destroy = true

  # checkov:skip=CKV_GCP_62: holds uploads for a day.
  # checkov:skip=CKV_GCP_78: holds uploads for a day.

  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age = 1
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [time_sleep.apis, time_sleep.kms]
}

resource "google_storage_bucket_iam_member" "build_reads_sources" {
  bucket = google_storage_bucket.build.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.build.member
}

# A build is refused, or cannot push, before the account's grants count.
resource "time_sleep" "build" {
  create_duration = local.grant_delay

  triggers = local.deployment

  depends_on = [
    google_artifact_registry_repository_iam_member.build_pushes_images,
    google_project_iam_member.build_logs,
    google_storage_bucket_iam_member.build_reads_sources,
  ]
}

# Optional: every event in a BigQuery table.

resource "google_bigquery_dataset" "history" {
  count = var.history == null ? 0 : 1

  project                         = var.project
  dataset_id                      = replace(var.prefix, "-", "_")
  description                     = "What became of the job requests."
  location                        = coalesce(var.history.location, var.region)
  labels                          = var.labels
  default_partition_expiration_ms = var.history.expiration_days == null ? null : var.history.expiration_days * 86400000
  delete_contents_on_destroy      = var.force_destroy

  # checkov:skip=CKV_GCP_81: encrypted with Google's keys; events name jobs and files, and hold no data of theirs.

  depends_on = [google_project_service.apis]
}

# The columns that Pub/Sub writes. Source: https://cloud.google.com/pubsub/docs/bigquery#write_metadata
resource "google_bigquery_table" "history" {
  count = var.history == null ? 0 : 1

  project             = var.project
  dataset_id          = google_bigquery_dataset.history[0].dataset_id
  table_id            = "events"
  labels              = var.labels
  deletion_protection = !var.force_destroy

  # checkov:skip=CKV_GCP_80: see the dataset.
  # checkov:skip=CKV_GCP_121: protected unless force_destroy says otherwise.

  schema = jsonencode([
    { name = "subscription_name", type = "STRING" },
    { name = "message_id", type = "STRING" },
    { name = "publish_time", type = "TIMESTAMP" },
    { name = "data", type = "JSON" },
    { name = "attributes", type = "JSON" },
  ])

  time_partitioning {
    type  = "DAY"
    field = "publish_time"
  }
}

resource "google_pubsub_subscription" "history" {
  count = var.history == null ? 0 : 1

  project                    = var.project
  name                       = "${var.prefix}-responses-history"
  topic                      = google_pubsub_topic.responses.id
  labels                     = var.labels
  ack_deadline_seconds       = 60
  message_retention_duration = "604800s"

  bigquery_config {
    table          = "${google_bigquery_table.history[0].project}.${google_bigquery_table.history[0].dataset_id}.${google_bigquery_table.history[0].table_id}"
    write_metadata = true
  }

  expiration_policy {
    ttl = ""
  }

  depends_on = [time_sleep.history]
}

# Pub/Sub's agent writes the rows; on this table only.
resource "google_bigquery_table_iam_member" "pubsub_writes_history" {
  count = var.history == null ? 0 : 1

  project    = var.project
  dataset_id = google_bigquery_table.history[0].dataset_id
  table_id   = google_bigquery_table.history[0].table_id
  role       = "roles/bigquery.dataEditor"
  member     = google_project_service_identity.agents["pubsub.googleapis.com"].member
}

# The right takes a while until it counts, and the subscription is refused before.
resource "time_sleep" "history" {
  count = var.history == null ? 0 : 1

  create_duration = "120s"

  triggers = {
    member = google_bigquery_table_iam_member.pubsub_writes_history[0].member
  }
}

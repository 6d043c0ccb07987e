# Optional: every event in a BigQuery table.

locals {
  history_dataset = replace(var.prefix, "-", "_")
  history_table   = "${var.project}.${local.history_dataset}.events"

  # Source: https://cloud.google.com/bigquery/docs/locations, November 2026. The module's region is taken in any case.
  bigquery_locations = [
    "EU", "US",
    "africa-south1",
    "asia-east1", "asia-east2", "asia-northeast1", "asia-northeast2", "asia-northeast3", "asia-south1", "asia-south2",
    "asia-southeast1", "asia-southeast2", "australia-southeast1", "australia-southeast2",
    "europe-central2", "europe-north1", "europe-north2", "europe-southwest1", "europe-west1", "europe-west2", "europe-west3",
    "europe-west4", "europe-west6", "europe-west8", "europe-west9", "europe-west10", "europe-west12",
    "me-central1", "me-central2", "me-west1",
    "northamerica-northeast1", "northamerica-northeast2", "northamerica-south1", "southamerica-east1", "southamerica-west1",
    "us-central1", "us-east1", "us-east4", "us-east5", "us-south1", "us-west1", "us-west2", "us-west3", "us-west4",
  ]
}

resource "google_project_service" "bigquery" {
  count = var.history == null ? 0 : 1

  project            = var.project
  service            = "bigquery.googleapis.com"
  disable_on_destroy = false
}

# As for the others, in apis.tf: history may be switched on later than these.
resource "time_sleep" "bigquery" {
  count = var.history == null ? 0 : 1

  create_duration = local.api_delay

  triggers = { project = var.project }

  depends_on = [google_project_service.bigquery]
}

resource "google_bigquery_dataset" "history" {
  count = var.history == null ? 0 : 1

  project                    = var.project
  dataset_id                 = local.history_dataset
  description                = "What became of the job requests."
  location                   = coalesce(var.history.location, var.region)
  labels                     = var.labels
  delete_contents_on_destroy = var.force_destroy

  # checkov:skip=CKV_GCP_81: encrypted with Google's keys; events name jobs and files, and hold no data of theirs.

  lifecycle {
    # A dataset cannot be moved: another place would replace it, and lose the table.
    ignore_changes = [location]
  }

  depends_on = [time_sleep.bigquery]
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
    # On the table, for the dataset's default reaches new tables only. Never is a hundred years: the provider leaves a table
    # the expiration that it has when it is given none.
    expiration_ms = coalesce(var.history.expiration_days, 36500) * 86400000
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
    table          = local.history_table
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

  create_duration = local.grant_delay

  triggers = local.deployment

  depends_on = [google_bigquery_table_iam_member.pubsub_writes_history]
}

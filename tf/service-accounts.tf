# One account for each thing that acts. Their grants stand beside the resources that they are on; tests/grants.*.txt
# lists them all.

# Reads requests' configuration, keeps the records, submits workflows, publishes events.
resource "google_service_account" "function" {
  project      = var.project
  account_id   = "${var.prefix}-function"
  display_name = "${var.prefix}: the function"

  depends_on = [time_sleep.apis]
}

# Eventarc delivers events to the function as this one.
resource "google_service_account" "trigger" {
  project      = var.project
  account_id   = "${var.prefix}-trigger"
  display_name = "${var.prefix}: delivers events to the function"

  depends_on = [time_sleep.apis]
}

# The clusters' machines, and so all jobs, run as this one.
resource "google_service_account" "dataproc" {
  project      = var.project
  account_id   = "${var.prefix}-dataproc"
  display_name = "${var.prefix}: the clusters' machines and their jobs"

  depends_on = [time_sleep.apis]
}

# Publishes the ticks.
resource "google_service_account" "scheduler" {
  project      = var.project
  account_id   = "${var.prefix}-scheduler"
  display_name = "${var.prefix}: publishes a tick each minute"

  depends_on = [time_sleep.apis]
}

# Cloud Build makes the image as this one.
resource "google_service_account" "build" {
  project      = var.project
  account_id   = "${var.prefix}-build"
  display_name = "${var.prefix}: builds the function's image"

  depends_on = [time_sleep.apis]
}

# Dataproc's agent starts the machines as the account that the configuration names; who asks for that must be allowed to
# act as it. On this account alone: as any other one the function can start nothing.
resource "google_service_account_iam_member" "function_acts_as_dataproc" {
  service_account_id = google_service_account.dataproc.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.function.member
}

# Pub/Sub signs each push with a token of the trigger's account. Its agent may do so by itself only in projects that
# began to use Pub/Sub after April 8, 2021.
resource "google_service_account_iam_member" "pubsub_makes_trigger_tokens" {
  service_account_id = google_service_account.trigger.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = google_project_service_identity.agents["pubsub.googleapis.com"].member
}

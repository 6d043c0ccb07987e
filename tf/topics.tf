# Requests in, events out, ticks in between.

resource "google_pubsub_topic" "requests" {
  project      = var.project
  name         = "${var.prefix}-requests"
  labels       = var.labels
  kms_key_name = var.kms_key
  # So that a lost day can be sent again: README.md, "Replaying requests".
  message_retention_duration = "${var.request_retention_days * 86400}s"

  depends_on = [time_sleep.apis, time_sleep.kms]
}

resource "google_pubsub_topic" "responses" {
  project      = var.project
  name         = "${var.prefix}-responses"
  labels       = var.labels
  kms_key_name = var.kms_key

  depends_on = [time_sleep.apis, time_sleep.kms]
}

resource "google_pubsub_topic" "ticks" {
  project      = var.project
  name         = "${var.prefix}-ticks"
  labels       = var.labels
  kms_key_name = var.kms_key

  depends_on = [time_sleep.apis, time_sleep.kms]
}

# To look at what came, by hand. Consumers should have subscriptions of their own.
resource "google_pubsub_subscription" "inspection" {
  project                    = var.project
  name                       = "${var.prefix}-responses-inspection"
  topic                      = google_pubsub_topic.responses.id
  labels                     = var.labels
  ack_deadline_seconds       = 600
  message_retention_duration = "604800s"
  # A run's events in their order.
  enable_message_ordering = true

  # It must not vanish for lack of use.
  expiration_policy {
    ttl = ""
  }
}

# Says what becomes of requests.
resource "google_pubsub_topic_iam_member" "function_publishes_responses" {
  project = var.project
  topic   = google_pubsub_topic.responses.name
  role    = "roles/pubsub.publisher"
  member  = google_service_account.function.member
}

resource "google_pubsub_topic_iam_member" "scheduler_publishes_ticks" {
  project = var.project
  topic   = google_pubsub_topic.ticks.name
  role    = "roles/pubsub.publisher"
  member  = google_service_account.scheduler.member
}

# Whoever is to publish requests.
resource "google_pubsub_topic_iam_member" "requesters" {
  for_each = var.requesters

  project = var.project
  topic   = google_pubsub_topic.requests.name
  role    = "roles/pubsub.publisher"
  member  = each.value
}

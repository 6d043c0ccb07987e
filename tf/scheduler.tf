# A tick each minute: every run that has not ended takes its next step.
#
# Published through Pub/Sub's own address as an account that may do nothing else; a Pub/Sub target would publish as
# Scheduler's agent, whose rights are not ours to choose.
resource "google_cloud_scheduler_job" "tick" {
  project          = var.project
  name             = "${var.prefix}-tick"
  region           = var.region
  description      = "Takes every active run of ${var.prefix} a step further."
  schedule         = "* * * * *"
  time_zone        = "Etc/UTC"
  attempt_deadline = "30s"

  http_target {
    http_method = "POST"
    uri         = "https://pubsub.googleapis.com/v1/${google_pubsub_topic.ticks.id}:publish"
    headers     = { "Content-Type" = "application/json" }
    body        = base64encode(jsonencode({ messages = [{ data = base64encode("tick") }] }))

    oauth_token {
      service_account_email = google_service_account.scheduler.email
      scope                 = "https://www.googleapis.com/auth/pubsub"
    }
  }

  # The next minute's tick does just as well.
  retry_config {
    retry_count = 1
  }

  depends_on = [google_pubsub_topic_iam_member.scheduler_publishes_ticks]
}

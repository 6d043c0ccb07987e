# Roles that Google does not offer in this size, and what is granted on the whole project: nothing else is.

# All that the function asks of Dataproc.
resource "google_project_iam_custom_role" "function" {
  project     = var.project
  role_id     = "${replace(var.prefix, "-", "_")}_function"
  title       = "${var.prefix}: function"
  description = "Submits, follows and cancels Dataproc workflows."
  permissions = [
    "dataproc.jobs.get",                            # a failed job's error, and where a job's driver output lies
    "dataproc.jobs.list",                           # a run's jobs, by their label run_id
    "dataproc.operations.cancel",                   # a cancelled run
    "dataproc.operations.get",                      # how far a workflow is
    "dataproc.operations.list",                     # whether a submission without an answer was executed
    "dataproc.workflowTemplates.instantiateInline", # submits
  ]

  depends_on = [time_sleep.apis]
}

# On the project, for Dataproc's operations and jobs have no policy of their own before they exist.
resource "google_project_iam_member" "function" {
  project = var.project
  role    = google_project_iam_custom_role.function.id
  member  = google_service_account.function.member
}

# roles/dataproc.worker without its rights on storage: granted on the project, as it must be, that role reads and writes
# the objects of every bucket, the function's records among them. The clusters' buckets are granted one by one instead.
# The first seven are those that Dataproc checks for when it creates a cluster, and names when one is missing.
resource "google_project_iam_custom_role" "dataproc" {
  project     = var.project
  role_id     = "${replace(var.prefix, "-", "_")}_dataproc"
  title       = "${var.prefix}: clusters' machines"
  description = "Dataproc Worker without rights on storage."
  permissions = [
    "dataproc.agents.create",
    "dataproc.agents.delete",
    "dataproc.agents.get",
    "dataproc.agents.update",
    "dataproc.tasks.lease",
    "dataproc.tasks.listInvalidatedLeases",
    "dataproc.tasks.reportStatus",
    # The machines' and jobs' logs.
    "logging.logEntries.create",
    # The machines' and jobs' metrics.
    "monitoring.metricDescriptors.create",
    "monitoring.metricDescriptors.get",
    "monitoring.metricDescriptors.list",
    "monitoring.monitoredResourceDescriptors.get",
    "monitoring.monitoredResourceDescriptors.list",
    "monitoring.timeSeries.create",
  ]

  depends_on = [time_sleep.apis]
}

resource "google_project_iam_member" "dataproc" {
  project = var.project
  role    = google_project_iam_custom_role.dataproc.id
  member  = google_service_account.dataproc.member
}

# Eventarc asks for it before it hands audit log entries on as this account. There is no smaller place to grant it on.
resource "google_project_iam_member" "trigger_receives_events" {
  project = var.project
  role    = "roles/eventarc.eventReceiver"
  member  = google_service_account.trigger.member
}

# Triggers cannot be created without it, and Google does not grant it to an agent that was asked for.
# Source: https://cloud.google.com/iam/docs/create-service-agents
resource "google_project_iam_member" "eventarc_agent" {
  # checkov:skip=CKV_GCP_49: Google's own role for Google's own agent, which cannot work without it.
  project = var.project
  role    = "roles/eventarc.serviceAgent"
  member  = google_project_service_identity.agents["eventarc.googleapis.com"].member

  # Apart from the same grant of another deployment, and from the one that Google makes: see kms.tf.
  condition {
    title       = local.own_grant.title
    description = local.own_grant.description
    expression  = local.own_grant.expression
  }
}

# A build that runs as an account of one's own must be able to write its log.
resource "google_project_iam_member" "build_logs" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.build.member
}

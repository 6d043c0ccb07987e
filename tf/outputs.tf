output "buckets" {
  description = "Names of the buckets: `staging` (the function's), `code`, `dataproc`, `logs`, `build`."
  value = {
    build    = google_storage_bucket.build.name
    code     = google_storage_bucket.code.name
    dataproc = google_storage_bucket.dataproc.name
    logs     = google_storage_bucket.logs.name
    staging  = google_storage_bucket.staging.name
  }
}

output "code_bucket" {
  description = "Name of the bucket for scripts and libraries, which clusters read and cannot write."
  value       = google_storage_bucket.code.name
}

output "commands" {
  description = "What to try first."
  value = {
    publish = "gcloud pubsub topics publish ${google_pubsub_topic.requests.name} --project=${var.project} --message=\"$(terraform output -raw example_request)\""
    pull    = "gcloud pubsub subscriptions pull ${google_pubsub_subscription.inspection.name} --project=${var.project} --limit=100 --auto-ack --format='table(message.attributes.ce-sequence, message.attributes.ce-type, message.attributes.ce-id, message.data.decode(base64))'"
    logs    = "gcloud logging read 'resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${var.prefix}\"' --project=${var.project} --limit=20 --format='value(timestamp, severity, jsonPayload.message)'"
  }
}

output "dataproc_bucket" {
  description = "Name of the clusters' bucket, for data."
  value       = google_storage_bucket.dataproc.name
}

output "example_request" {
  description = "A request that is ready to be published: the sample script and the sample initialization action."
  value       = local.example_request

  # Not before there is what it names.
  depends_on = [google_storage_bucket_object.samples]
}

output "history_table" {
  description = "The table of all events, as PROJECT.DATASET.TABLE; null without history."
  value       = var.history == null ? null : local.history_table

  depends_on = [google_pubsub_subscription.history]
}

output "image" {
  description = "The image that the function runs; empty if there is none yet."
  value       = var.image
}

output "image_repository" {
  description = "Where images are pushed to: an image's name without its last part."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${var.prefix}"

  # Not before images can be pushed there.
  depends_on = [google_artifact_registry_repository.images]
}

output "project" {
  description = "Id of the project."
  value       = var.project
}

output "region" {
  description = "Region of the function and the clusters."
  value       = var.region
}

output "requests_topic" {
  description = "Full name of the topic that takes requests."
  value       = google_pubsub_topic.requests.id
}

output "responses_subscription" {
  description = "Full name of the subscription to look at events with."
  value       = google_pubsub_subscription.inspection.id
}

output "responses_topic" {
  description = "Full name of the topic that events are published on."
  value       = google_pubsub_topic.responses.id
}

output "service_accounts" {
  description = "Addresses of the accounts: `build`, `dataproc`, `function`, `scheduler`, `trigger`."
  value = {
    build     = google_service_account.build.email
    dataproc  = google_service_account.dataproc.email
    function  = google_service_account.function.email
    scheduler = google_service_account.scheduler.email
    trigger   = google_service_account.trigger.email
  }
}

output "service_url" {
  description = "Address of the function, which answers Eventarc only; null without an image."
  value       = one(google_cloud_run_v2_service.function[*].uri)
}

output "staging_bucket" {
  description = "Name of the function's bucket: configuration and records."
  value       = google_storage_bucket.staging.name
}

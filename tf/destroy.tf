# Stops a destroy before anything is taken away. Buckets that are not empty refuse to go, and the function's never is: earlier
# configurations stay in it. Terraform would find out last, when all the rest is gone.
#
# It depends on everything, so it goes first. A destroy has no conditions of its own, and `deletion_policy`, which does the
# same without a command, is missing from providers that the module works with.
resource "terraform_data" "destroy" {
  input = var.force_destroy

  # Each of these makes everything anew, in another place or under another name.
  triggers_replace = merge(local.deployment, { region = var.region })

  provisioner "local-exec" {
    when = destroy
    # The one that was applied last: variables of the destroy itself say nothing of the buckets.
    command = self.input ? "exit 0" : "echo Nothing was destroyed. Records, logs and history would be lost: apply with force_destroy = true first. && exit 1"
  }

  depends_on = [
    google_artifact_registry_repository_iam_member.build_pushes_images,
    google_bigquery_table_iam_member.pubsub_writes_history,
    google_cloud_run_v2_service_iam_member.trigger_invokes_function,
    google_cloud_scheduler_job.tick,
    google_eventarc_trigger.audit,
    google_eventarc_trigger.topics,
    google_logging_metric.event_latency,
    google_logging_metric.runs,
    google_logging_metric.waiting,
    google_monitoring_alert_policy.cluster_not_deleted,
    google_monitoring_alert_policy.dead_record,
    google_monitoring_alert_policy.rejected_by_configuration,
    google_monitoring_alert_policy.request_unacked,
    google_monitoring_alert_policy.run_too_old,
    google_monitoring_alert_policy.ticks_missing,
    google_monitoring_alert_policy.too_many_5xx,
    google_project_iam_member.dataproc,
    google_pubsub_subscription.history,
    google_pubsub_subscription.inspection,
    google_pubsub_topic_iam_member.requesters,
    google_storage_bucket_iam_member.dataproc_reads_code,
    google_storage_bucket_iam_member.dataproc_sees_buckets,
    google_storage_bucket_iam_member.dataproc_uses_objects,
    google_storage_bucket_object.samples,
    google_storage_bucket_object.spark_history,
    time_sleep.build,
  ]
}

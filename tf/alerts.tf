# An alert for each thing that the function promises, called by what is the matter when it opens.
#
# Each revision of the service has time series of its own. They are reduced to one, so that a new revision opens nothing.

locals {
  # A log-based metric may count a line ten minutes late; a shorter period would miss it.
  # Source: https://cloud.google.com/logging/docs/logs-based-metrics/troubleshooting
  log_period = "600s"
  # An incident whose metric has no more data says nothing any more. Half an hour is the least that can be set.
  auto_close = "3600s"
}

# Monitoring refuses an alert on a metric that it does not know yet, and says that it may take ten minutes to know a new one.
# The provider does not try again. Source: https://github.com/hashicorp/terraform-provider-google/issues/11102
resource "time_sleep" "metrics" {
  create_duration = "660s"

  triggers = {
    clusters_left_behind = google_logging_metric.clusters_left_behind.name
    dead_records         = google_logging_metric.dead_records.name
    oldest_run_age       = google_logging_metric.oldest_run_age.name
    rejected             = google_logging_metric.rejected.name
    ticks                = google_logging_metric.ticks.name
  }
}

resource "google_monitoring_alert_policy" "run_too_old" {
  project               = var.project
  display_name          = "${var.prefix}: a run has not ended for too long"
  severity              = "ERROR"
  combiner              = "OR"
  notification_channels = var.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "the oldest active run"
    condition_threshold {
      filter          = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.oldest_run_age.name}\" AND ${local.function}"
      comparison      = "COMPARISON_GT"
      threshold_value = var.alerts.oldest_run_seconds
      duration        = "0s"
      # A tick that does not get through all runs may miss the oldest one; the next ones begin elsewhere.
      aggregations {
        alignment_period     = local.log_period
        per_series_aligner   = "ALIGN_PERCENTILE_99"
        cross_series_reducer = "REDUCE_MAX"
      }
    }
  }

  alert_strategy {
    auto_close = local.auto_close
  }

  documentation {
    content = <<-EOT
      A run was recorded more than ${var.alerts.oldest_run_seconds} s ago and has not ended, or its end could not be published.

      1. `gcloud storage ls --long gs://${local.bucket_names.staging}/active/` lists the active runs, the oldest by its time.
      2. `gcloud storage cat gs://${local.bucket_names.staging}/runs/RUN_ID.json` tells where it stands, and the last error.
      3. Go on with function/docs/operations.md, Troubleshooting, "A run that seems stuck". If such a run is as it should be, raise `alerts.oldest_run_seconds`.
    EOT
  }

  depends_on = [time_sleep.metrics]
}

resource "google_monitoring_alert_policy" "dead_record" {
  project               = var.project
  display_name          = "${var.prefix}: a record is under dead/"
  severity              = "ERROR"
  combiner              = "OR"
  notification_channels = var.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "records moved to dead/"
    condition_threshold {
      filter          = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.dead_records.name}\" AND ${local.function}"
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period     = local.log_period
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  alert_strategy {
    auto_close = local.auto_close
  }

  documentation {
    content = <<-EOT
      A run's record could not be read. It was moved aside, and the run answered with `failed` and DATA_LOSS; its workflow may have run, or still run.

      1. `gcloud logging read '${google_logging_metric.dead_records.filter}' --project=${var.project} --freshness=1d` names run, object and reason.
      2. Go on with function/docs/operations.md, Troubleshooting, "dead/".
      3. Somebody else writes under `runs/`, or changes what is there: see who may.
    EOT
  }

  depends_on = [time_sleep.metrics]
}

resource "google_monitoring_alert_policy" "rejected_by_configuration" {
  project               = var.project
  display_name          = "${var.prefix}: the cluster configuration rejects requests"
  severity              = "ERROR"
  combiner              = "OR"
  notification_channels = var.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "rejected by the cluster configuration"
    condition_threshold {
      filter          = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.rejected.name}\" AND ${local.function} AND metric.labels.rejected_by=\"config\""
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period     = local.log_period
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  alert_strategy {
    auto_close = local.auto_close
  }

  documentation {
    content = <<-EOT
      Requests are rejected through no fault of their senders: the cluster configuration is missing, is no JSON, or an entry breaks a rule.

      1. `gcloud logging read '${local.function} AND jsonPayload.message="the cluster configuration cannot be used"' --project=${var.project} --freshness=1d` names object and fault.
      2. Mend the configuration; it counts from the next event on. The senders have to send again.

      See function/docs/operations.md, Troubleshooting, violations with `"document": "config"`.
    EOT
  }

  depends_on = [time_sleep.metrics]
}

resource "google_monitoring_alert_policy" "cluster_not_deleted" {
  project               = var.project
  display_name          = "${var.prefix}: a cluster was not deleted"
  severity              = "ERROR"
  combiner              = "OR"
  notification_channels = var.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "clusters left behind"
    condition_threshold {
      filter          = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.clusters_left_behind.name}\" AND ${local.function}"
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period     = local.log_period
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  alert_strategy {
    auto_close = local.auto_close
  }

  documentation {
    content = <<-EOT
      Dataproc could not delete a run's cluster. Until its own lifecycle_config ends it, it costs money.

      1. `gcloud logging read '${google_logging_metric.clusters_left_behind.filter}' --project=${var.project} --freshness=1d` names run, cluster and reason.
      2. `gcloud dataproc clusters delete CLUSTER --region=${var.region} --project=${var.project}`

      See function/docs/operations.md, Troubleshooting, `cluster left behind`.
    EOT
  }

  depends_on = [time_sleep.metrics]
}

resource "google_monitoring_alert_policy" "too_many_5xx" {
  project               = var.project
  display_name          = "${var.prefix}: deliveries are answered with 5xx"
  severity              = "WARNING"
  combiner              = "OR"
  notification_channels = var.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "the part of 5xx"
    condition_threshold {
      filter             = "metric.type=\"run.googleapis.com/request_count\" AND ${local.function} AND metric.labels.response_code_class=\"5xx\""
      denominator_filter = "metric.type=\"run.googleapis.com/request_count\" AND ${local.function}"
      comparison         = "COMPARISON_GT"
      threshold_value    = var.alerts.error_ratio
      # A single 503 asks for another delivery, and is as it should be; where little comes in it is a large part.
      duration = "600s"
      # There is no series of 5xx where there are none.
      evaluation_missing_data = "EVALUATION_MISSING_DATA_INACTIVE"
      aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_RATE"
        cross_series_reducer = "REDUCE_SUM"
      }
      denominator_aggregations {
        alignment_period     = "300s"
        per_series_aligner   = "ALIGN_RATE"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  alert_strategy {
    auto_close = local.auto_close
  }

  documentation {
    content = <<-EOT
      For ten minutes more than ${format("%.6g", var.alerts.error_ratio * 100)} % of the deliveries were answered with 5xx, and will come again. 503: the bucket or the response topic cannot be reached or used, or no instance could be had. 500: the function panicked.

      1. `gcloud logging read '${local.function} AND (severity>=WARNING OR httpRequest.status>=500)' --project=${var.project} --freshness=1h --limit=50` names call, resource and code.
      2. See function/docs/operations.md, Troubleshooting, 503.
    EOT
  }

  depends_on = [time_sleep.metrics]
}

resource "google_monitoring_alert_policy" "request_unacked" {
  count = local.deployed ? 1 : 0

  project               = var.project
  display_name          = "${var.prefix}: requests are not taken"
  severity              = "CRITICAL"
  combiner              = "OR"
  notification_channels = var.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "the oldest unacknowledged request"
    condition_threshold {
      filter          = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=\"${basename(google_eventarc_trigger.topics["requests"].transport[0].pubsub[0].subscription)}\""
      comparison      = "COMPARISON_GT"
      threshold_value = var.alerts.unacked_seconds
      # Without a backlog there may be no data, which closes the incident after auto_close.
      duration = "0s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_MAX"
        cross_series_reducer = "REDUCE_MAX"
      }
    }
  }

  alert_strategy {
    auto_close = local.auto_close
  }

  documentation {
    content = <<-EOT
      A request was published more than ${var.alerts.unacked_seconds} s ago, and the function has not taken it. Eventarc gives up after 24 hours.

      1. `gcloud run services logs read ${var.prefix} --region=${var.region} --project=${var.project} --limit=50`: `to be delivered again` names what it lacks; 403 says that the trigger's account may not call it.
      2. Nothing there: `gcloud eventarc triggers describe ${var.prefix}-requests --location=${var.region} --project=${var.project}`.

      See function/docs/operations.md, Troubleshooting, "nothing happens" and 503.
    EOT
  }

  depends_on = [time_sleep.metrics]
}

resource "google_monitoring_alert_policy" "ticks_missing" {
  project               = var.project
  display_name          = "${var.prefix}: ticks are missing"
  severity              = "CRITICAL"
  combiner              = "OR"
  notification_channels = var.notification_channels
  user_labels           = var.labels

  # Without matching lines a counter has points of zero, or none: it is not documented which.
  conditions {
    display_name = "no ticks counted"
    condition_absent {
      filter   = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.ticks.name}\" AND ${local.function}"
      duration = "${var.alerts.tick_silence_seconds}s"
      aggregations {
        alignment_period     = "60s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  conditions {
    display_name = "zero ticks counted"
    condition_threshold {
      filter          = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.ticks.name}\" AND ${local.function}"
      comparison      = "COMPARISON_LT"
      threshold_value = 1
      duration        = "0s"
      aggregations {
        alignment_period     = "${var.alerts.tick_silence_seconds}s"
        per_series_aligner   = "ALIGN_SUM"
        cross_series_reducer = "REDUCE_SUM"
      }
    }
  }

  alert_strategy {
    auto_close = local.auto_close
  }

  documentation {
    content = <<-EOT
      No tick has done its work for ${var.alerts.tick_silence_seconds} s. Runs are submitted, but nothing more is heard of them until ticks come again. A service that never had a tick opens no alert.

      1. `gcloud scheduler jobs describe ${var.prefix}-tick --location=${var.region} --project=${var.project}`: is it ENABLED, and did its last attempt succeed?
      2. `gcloud logging read '${local.function} AND jsonPayload.trigger="tick"' --project=${var.project} --freshness=1h --limit=20`: a tick that comes and fails says why.
      3. None comes: `gcloud eventarc triggers describe ${var.prefix}-ticks --location=${var.region} --project=${var.project}`.

      See function/docs/operations.md, Troubleshooting, "`submitted`, then silence".
    EOT
  }

  depends_on = [time_sleep.metrics]
}

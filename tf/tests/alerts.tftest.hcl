# Alerts with other thresholds than usual. That they watch what the function says is the
# test `observability` of function/workflow.

mock_provider "google" {}
mock_provider "google-beta" {}
mock_provider "time" {}

variables {
  project               = "my-project"
  region                = "us-central1"
  image                 = "us-central1-docker.pkg.dev/my-project/inline-workflow/function:0.1.0"
  prefix                = "flow"
  notification_channels = ["projects/my-project/notificationChannels/1"]
}

run "thresholds" {
  command = plan

  variables {
    alerts = { error_ratio = 0.5, oldest_run_seconds = 3600, tick_silence_seconds = 1200, unacked_seconds = 120 }
  }

  assert {
    condition = [
      google_monitoring_alert_policy.run_too_old.conditions[0].condition_threshold[0].threshold_value,
      google_monitoring_alert_policy.too_many_5xx.conditions[0].condition_threshold[0].threshold_value,
      google_monitoring_alert_policy.request_unacked[0].conditions[0].condition_threshold[0].threshold_value,
      google_monitoring_alert_policy.ticks_missing.conditions[0].condition_absent[0].duration,
      google_monitoring_alert_policy.ticks_missing.conditions[1].condition_threshold[0].aggregations[0].alignment_period,
    ] == [3600, 0.5, 120, "1200s", "1200s"]
    error_message = "Each threshold must come from its own part of var.alerts."
  }
  assert {
    condition     = google_monitoring_alert_policy.ticks_missing.notification_channels == tolist(["projects/my-project/notificationChannels/1"])
    error_message = "An alert must go to the operator's channels."
  }
  assert {
    condition = alltrue([for policy in [
      google_monitoring_alert_policy.cluster_not_deleted, google_monitoring_alert_policy.dead_record, google_monitoring_alert_policy.rejected_by_configuration,
      google_monitoring_alert_policy.request_unacked[0], google_monitoring_alert_policy.run_too_old, google_monitoring_alert_policy.ticks_missing, google_monitoring_alert_policy.too_many_5xx,
      ] : coalesce(policy.enabled, true) && alltrue([for threshold in flatten(policy.conditions[*].condition_threshold) :
        (threshold.duration != "0s" || threshold.evaluation_missing_data == null) && threshold.comparison == (threshold.threshold_value == 1 ? "COMPARISON_LT" : "COMPARISON_GT")
    ])])
    error_message = "Alerts are on, open above their threshold (ticks: below one), and Monitoring takes evaluation_missing_data with a duration only."
  }
  assert {
    condition = alltrue([for policy in [
      google_monitoring_alert_policy.cluster_not_deleted, google_monitoring_alert_policy.dead_record, google_monitoring_alert_policy.rejected_by_configuration,
    ] : policy.conditions[0].condition_threshold[0].threshold_value == 0])
    error_message = "Once is enough for an alert on what must not be."
  }
  assert {
    condition = [for buckets in google_logging_metric.oldest_run_age.bucket_options[0].exponential_buckets :
    buckets.growth_factor <= 1.1 && buckets.scale * pow(buckets.growth_factor, buckets.num_finite_buckets) > 30 * 86400] == [true]
    error_message = "Ages up to a month must be measured to 10 %, as README.md says."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.too_many_5xx.documentation[0].content, "more than 50 % of")
    error_message = "A threshold must be written as a person would write it."
  }
  assert {
    condition     = google_logging_metric.ticks.name == "flow/ticks"
    error_message = "Metrics must be named after the prefix."
  }
}

run "percentages" {
  command = plan

  variables {
    alerts = { error_ratio = 0.15 }
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.too_many_5xx.documentation[0].content, "more than 15 % of")
    error_message = "A threshold must be written as a person would write it."
  }
}

run "small_percentages" {
  command = plan

  variables {
    alerts = { error_ratio = 0.00123 }
  }

  assert {
    condition     = strcontains(google_monitoring_alert_policy.too_many_5xx.documentation[0].content, "more than 0.123 % of")
    error_message = "A threshold must be written as a person would write it."
  }
}

# Numbers from the function's log lines. A line's fields are the function's promise: `function/workflow/tests/observability`
# takes the filters and extractors from here and lines from the running function, and holds the one against the other.
#
# No label is a job_name or a run_id: senders choose them, and each value would be a time series of its own.

locals {
  # The same words in the filters of Logging and of Monitoring.
  function = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${var.prefix}\" AND resource.labels.location=\"${var.region}\""
}

resource "google_logging_metric" "runs" {
  project     = var.project
  name        = "${var.prefix}/runs"
  description = "Recorded runs that ended, by how they ended."
  filter      = "${local.function} AND jsonPayload.state=(\"succeeded\" OR \"failed\" OR \"cancelled\" OR \"rejected\")"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"

    labels {
      key         = "state"
      description = "succeeded, failed, cancelled or rejected."
    }
    labels {
      key         = "code"
      description = "Of the run's error, a gRPC code's name; empty if it succeeded."
    }
  }

  label_extractors = {
    state = "EXTRACT(jsonPayload.state)"
    code  = "EXTRACT(jsonPayload.code)"
  }

  depends_on = [time_sleep.apis]
}

resource "google_logging_metric" "rejected" {
  project     = var.project
  name        = "${var.prefix}/rejected"
  description = "Messages and runs that were rejected, by what speaks against them."
  filter      = "${local.function} AND jsonPayload.rejected_by:*"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"

    labels {
      key         = "rejected_by"
      description = "request: a fault of the sender's; config: of the cluster configuration; service: Dataproc refused it, or could not take it in time."
    }
  }

  label_extractors = {
    rejected_by = "EXTRACT(jsonPayload.rejected_by)"
  }

  depends_on = [time_sleep.apis]
}

resource "google_logging_metric" "waiting" {
  project     = var.project
  name        = "${var.prefix}/waiting"
  description = "Runs that began to wait for another try, by what they wait for."
  filter      = "${local.function} AND jsonPayload.waits_for:*"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"

    labels {
      key         = "waits_for"
      description = "capacity: quota or machines are short; retry: Dataproc could not be reached or used."
    }
  }

  label_extractors = {
    waits_for = "EXTRACT(jsonPayload.waits_for)"
  }

  depends_on = [time_sleep.apis]
}

resource "google_logging_metric" "oldest_run_age" {
  project     = var.project
  name        = "${var.prefix}/oldest_run_age"
  description = "At each tick, for how long the oldest run that it saw is recorded and has not ended; 0 if there is none."
  filter      = "${local.function} AND jsonPayload.oldest_s>=0"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = "s"
  }

  value_extractor = "EXTRACT(jsonPayload.oldest_s)"

  # From a minute to 40 days. A percentile is as exact as a bucket is narrow: 10 %.
  bucket_options {
    exponential_buckets {
      scale              = 60
      growth_factor      = 1.1
      num_finite_buckets = 115
    }
  }

  depends_on = [time_sleep.apis]
}

resource "google_logging_metric" "event_latency" {
  project     = var.project
  name        = "${var.prefix}/event_latency"
  description = "What dealing with an event took, by what kind of event it was."
  filter      = "${local.function} AND jsonPayload.elapsed_ms>=0"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = "ms"

    labels {
      key         = "trigger"
      description = "request, tick, operation (the audit log's) or foreign."
    }
  }

  label_extractors = {
    trigger = "EXTRACT(jsonPayload.trigger)"
  }
  value_extractor = "EXTRACT(jsonPayload.elapsed_ms)"

  # From a millisecond to 18 s; an event has 8 s.
  bucket_options {
    exponential_buckets {
      scale              = 1
      growth_factor      = 1.25
      num_finite_buckets = 44
    }
  }

  depends_on = [time_sleep.apis]
}

resource "google_logging_metric" "ticks" {
  project     = var.project
  name        = "${var.prefix}/ticks"
  description = "Ticks that did their work. One that came too late, failed or ran over its time is none."
  filter      = "${local.function} AND jsonPayload.message=\"tick\""

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }

  depends_on = [time_sleep.apis]
}

resource "google_logging_metric" "dead_records" {
  project     = var.project
  name        = "${var.prefix}/dead_records"
  description = "Records that could not be read and were moved to dead/."
  filter      = "${local.function} AND severity=ERROR AND jsonPayload.message=\"a record cannot be read; moved aside\""

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }

  depends_on = [time_sleep.apis]
}

resource "google_logging_metric" "clusters_left_behind" {
  project     = var.project
  name        = "${var.prefix}/clusters_left_behind"
  description = "Clusters whose deletion failed: they may go on costing money."
  filter      = "${local.function} AND severity=ERROR AND jsonPayload.message=\"cluster left behind: its deletion failed\""

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }

  depends_on = [time_sleep.apis]
}

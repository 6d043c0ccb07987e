locals {
  # Before there is an image there is no service, and nothing that calls it.
  deployed = var.image != ""

  # MiB that Cloud Run takes for a number of processors.
  # Source: https://cloud.google.com/run/docs/configuring/services/cpu and .../memory-limits
  memory_bounds = {
    "1" = { least = 512, most = 4096 }
    "2" = { least = 512, most = 8192 }
    "4" = { least = 2048, most = 16384 }
    "6" = { least = 4096, most = 24576 }
    "8" = { least = 4096, most = 32768 }
  }

  # All that the function reads, but for PORT and K_SERVICE, which Cloud Run sets, and the emulators' addresses.
  # An empty value is none.
  environment = {
    ALLOWED_CODE_PREFIXES = join(",", var.settings.allowed_code_prefixes)
    ALLOW_INLINE_QUERIES  = tostring(var.settings.allow_inline_queries)
    CAPACITY_RETRIES      = var.settings.capacity_retries
    CAPACITY_RETRY_DELAY  = var.settings.capacity_retry_delay
    CLUSTER_IDLE_TTL      = var.settings.cluster_idle_ttl == 0 ? "" : tostring(var.settings.cluster_idle_ttl)
    CLUSTER_MAX_TTL       = var.settings.cluster_max_ttl == 0 ? "" : tostring(var.settings.cluster_max_ttl)
    CONFIG_OBJECT         = google_storage_bucket_object.cluster_config.name
    GOOGLE_CLOUD_PROJECT  = var.project
    MAX_REQUEST_AGE       = var.settings.max_request_age
    REGION                = var.region
    RESPONSE_TOPIC        = google_pubsub_topic.responses.name
    RETRY_DELAY           = var.settings.retry_delay
    RULES                 = var.settings.rules
    RUST_LOG              = var.settings.log
    STAGING_BUCKET        = google_storage_bucket.staging.name
    SUBMIT_LEASE          = var.settings.submit_lease
    TICK_TOPIC            = google_pubsub_topic.ticks.name
  }
}

resource "google_cloud_run_v2_service" "function" {
  count = local.deployed ? 1 : 0

  project     = var.project
  name        = var.prefix
  location    = var.region
  description = "Runs Dataproc jobs on an ephemeral cluster for each request on a topic."
  labels      = var.labels
  # Eventarc counts as internal traffic.
  ingress = "INGRESS_TRAFFIC_INTERNAL_ONLY"
  # It holds nothing: what is to be kept lies in the bucket.
  deletion_protection = false

  template {
    labels                           = var.labels
    service_account                  = google_service_account.function.email
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    max_instance_request_concurrency = var.function.concurrency
    # The function ends an event after 8 s, for Eventarc's deadline is 10 s; this is for what must never happen.
    timeout = "60s"

    scaling {
      min_instance_count = var.function.min_instances
      max_instance_count = var.function.max_instances
    }

    containers {
      image = var.image

      ports {
        container_port = 8080
      }

      resources {
        # A processor only while there are events, and a faster one to start.
        cpu_idle          = true
        startup_cpu_boost = true
        limits = {
          cpu    = var.function.cpu
          memory = var.function.memory
        }
      }

      # It listens as soon as it starts; the shortest period that there is.
      startup_probe {
        period_seconds    = 1
        timeout_seconds   = 1
        failure_threshold = 10
        tcp_socket {
          port = 8080
        }
      }

      dynamic "env" {
        for_each = local.environment
        content {
          name  = env.key
          value = env.value
        }
      }
    }
  }

  # A revision without its rights would fail its first events.
  depends_on = [
    google_project_iam_member.function,
    time_sleep.apis,
    google_pubsub_topic_iam_member.function_publishes_responses,
    google_service_account_iam_member.function_acts_as_dataproc,
    google_storage_bucket_iam_member.function_keeps_records,
    google_storage_bucket_iam_member.function_reads_configuration,
  ]
}

# Nobody else may call it.
resource "google_cloud_run_v2_service_iam_member" "trigger_invokes_function" {
  count = local.deployed ? 1 : 0

  project  = var.project
  location = var.region
  name     = google_cloud_run_v2_service.function[0].name
  role     = "roles/run.invoker"
  member   = google_service_account.trigger.member
}

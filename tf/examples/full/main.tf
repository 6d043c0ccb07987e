# Every option of the module.

terraform {
  required_version = ">= 1.9"

  # Where more than one person applies, the state belongs into a bucket:
  #
  #   backend "gcs" {
  #     bucket = "my-terraform-state"
  #     prefix = "inline-workflow"
  #   }
}

provider "google" {
  project = var.project
  region  = var.region
}

provider "google-beta" {
  project = var.project
  region  = var.region
}

module "inline_workflow" {
  source = "../.."

  project = var.project
  region  = var.region
  prefix  = "nightly-jobs"
  image   = var.image
  labels  = { team = "data-platform", environment = "production" }

  function = {
    cpu           = "2"
    memory        = "1Gi"
    concurrency   = 100
    min_instances = 1
    max_instances = 20
  }

  settings = {
    allow_inline_queries  = false
    allowed_code_prefixes = ["gs://${var.project}-nightly-jobs-code/scripts/", "gs://my-project-jars/"]
    capacity_retries      = 5
    capacity_retry_delay  = 600
    cluster_idle_ttl      = 900
    cluster_max_ttl       = 43200
    log                   = "info,inline_workflow=debug"
    max_request_age       = 86400
    retry_delay           = 5
    rules                 = "warn"
    submit_lease          = 90
  }

  cluster_configs = {
    # Gets the module's account and buckets, for it names none.
    word-count = {
      cluster_name = "word-count"
      config = {
        gce_cluster_config = {
          subnetwork_uri   = "projects/${var.project}/regions/${var.region}/subnetworks/clusters"
          internal_ip_only = true
        }
        master_config   = { num_instances = 1, machine_type_uri = "e2-standard-4" }
        worker_config   = { num_instances = 2, machine_type_uri = "e2-standard-2" }
        software_config = { image_version = "2.2-debian12", properties = { "spark:spark.sql.shuffle.partitions" = "8" } }
      }
    }
    # With everything of its own, on one machine; keys may be in camelCase, too.
    tiny = {
      config = {
        configBucket     = "my-project-tiny"
        tempBucket       = "my-project-tiny"
        gceClusterConfig = { serviceAccount = "tiny@${var.project}.iam.gserviceaccount.com", internalIpOnly = true }
        softwareConfig   = { imageVersion = "2.2-debian12", properties = { "dataproc:dataproc.allow.zero.workers" = "true" } }
      }
      labels = { size = "tiny" }
    }
  }

  network = {
    subnetwork = "projects/${var.project}/regions/${var.region}/subnetworks/clusters"
    tags       = ["dataproc"]
  }

  requesters            = ["serviceAccount:composer@${var.project}.iam.gserviceaccount.com"]
  notification_channels = ["projects/${var.project}/notificationChannels/1234567890"]
  alerts                = { error_ratio = 0.05, oldest_run_seconds = 43200, tick_silence_seconds = 600, unacked_seconds = 600 }
  history               = { location = "US", expiration_days = 400 }
  kms_key               = "projects/${var.project}/locations/${var.region}/keyRings/data/cryptoKeys/inline-workflow"

  request_retention_days = 14
  record_retention_days  = 60
  log_retention_days     = 90
  force_destroy          = true
}

output "commands" {
  value = module.inline_workflow.commands
}

output "history_table" {
  value = module.inline_workflow.history_table
}

output "example_request" {
  value = module.inline_workflow.example_request
}

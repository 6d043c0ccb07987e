# Every option on, as in examples/full.

mock_provider "google" {}
mock_provider "google-beta" {}
mock_provider "time" {}

variables {
  project = "my-project"
  region  = "us-central1"
  image   = "us-central1-docker.pkg.dev/my-project/inline-workflow/function@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  prefix  = "nightly-jobs"
  labels  = { team = "data-platform" }

  function = { cpu = "2", memory = "1Gi", concurrency = 100, min_instances = 1, max_instances = 20 }

  settings = {
    allow_inline_queries  = true
    allowed_code_prefixes = ["gs://my-project-nightly-jobs-code/scripts/", "gs://jars/"]
    capacity_retries      = 5
    capacity_retry_delay  = 600
    cluster_idle_ttl      = 900
    cluster_max_ttl       = 0
    log                   = "info,inline_workflow=debug"
    max_request_age       = 86400
    retry_delay           = 5
    rules                 = "warn"
    submit_lease          = 90
  }

  cluster_configs = {
    # Leaves out account and buckets.
    word-count = {
      config = {
        master_config   = { num_instances = 1, machine_type_uri = "e2-standard-4" }
        software_config = { image_version = "2.2-debian12" }
      }
    }
    # Leaves out all.
    empty = {}
    # Has its own, in the other spelling.
    camel = {
      config = {
        configBucket     = "own"
        gceClusterConfig = { serviceAccount = "own@my-project.iam.gserviceaccount.com", internalIpOnly = true }
      }
      labels = { size = "tiny" }
    }
  }

  network = { subnetwork = "projects/host/regions/us-central1/subnetworks/clusters", tags = ["dataproc"], external_ips = true }

  requesters            = ["serviceAccount:composer@my-project.iam.gserviceaccount.com", "group:analysts@example.com"]
  notification_channels = ["projects/my-project/notificationChannels/1234567890"]
  history               = { location = "US", expiration_days = 400 }
  kms_key               = "projects/keys/locations/us-central1/keyRings/data/cryptoKeys/inline-workflow"

  request_retention_days = 14
  record_retention_days  = 60
  log_retention_days     = 90
  force_destroy          = true
}

# What Google makes up, as it really looks: accounts' addresses, roles' ids.
override_resource {
  target = google_service_account.function
  values = {
    name   = "projects/my-project/serviceAccounts/nightly-jobs-function@my-project.iam.gserviceaccount.com"
    email  = "nightly-jobs-function@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:nightly-jobs-function@my-project.iam.gserviceaccount.com"
  }
}
override_resource {
  target = google_service_account.trigger
  values = {
    name   = "projects/my-project/serviceAccounts/nightly-jobs-trigger@my-project.iam.gserviceaccount.com"
    email  = "nightly-jobs-trigger@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:nightly-jobs-trigger@my-project.iam.gserviceaccount.com"
  }
}
override_resource {
  target = google_service_account.dataproc
  values = {
    name   = "projects/my-project/serviceAccounts/nightly-jobs-dataproc@my-project.iam.gserviceaccount.com"
    email  = "nightly-jobs-dataproc@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:nightly-jobs-dataproc@my-project.iam.gserviceaccount.com"
  }
}
override_resource {
  target = google_service_account.scheduler
  values = {
    name   = "projects/my-project/serviceAccounts/nightly-jobs-scheduler@my-project.iam.gserviceaccount.com"
    email  = "nightly-jobs-scheduler@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:nightly-jobs-scheduler@my-project.iam.gserviceaccount.com"
  }
}
override_resource {
  target = google_service_account.build
  values = {
    name   = "projects/my-project/serviceAccounts/nightly-jobs-build@my-project.iam.gserviceaccount.com"
    email  = "nightly-jobs-build@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:nightly-jobs-build@my-project.iam.gserviceaccount.com"
  }
}
override_resource {
  target = google_project_service_identity.agents["pubsub.googleapis.com"]
  values = { member = "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com" }
}
override_resource {
  target = google_project_service_identity.agents["eventarc.googleapis.com"]
  values = { member = "serviceAccount:service-123456789012@gcp-sa-eventarc.iam.gserviceaccount.com" }
}
override_resource {
  target = google_project_iam_custom_role.function
  values = { id = "projects/my-project/roles/nightly_jobs_function" }
}
override_resource {
  target = google_project_iam_custom_role.dataproc
  values = { id = "projects/my-project/roles/nightly_jobs_dataproc" }
}
override_resource {
  target = google_pubsub_topic.requests
  values = { id = "projects/my-project/topics/nightly-jobs-requests" }
}
override_resource {
  target = google_pubsub_topic.responses
  values = { id = "projects/my-project/topics/nightly-jobs-responses" }
}
override_resource {
  target = google_pubsub_topic.ticks
  values = { id = "projects/my-project/topics/nightly-jobs-ticks" }
}
override_resource {
  target = google_pubsub_subscription.inspection
  values = { id = "projects/my-project/subscriptions/nightly-jobs-responses-inspection" }
}

override_data {
  target = data.google_storage_project_service_account.agent[0]
  values = { member = "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com" }
}
override_resource {
  target = google_pubsub_subscription.history[0]
  values = { id = "projects/my-project/subscriptions/nightly-jobs-responses-history" }
}

run "full" {
  command = apply

  assert {
    condition = [
      google_cloud_run_v2_service.function[0].name, google_pubsub_topic.requests.name, google_storage_bucket.staging.name,
      google_artifact_registry_repository.images.repository_id, google_service_account.function.account_id,
      google_project_iam_custom_role.function.role_id, google_cloud_scheduler_job.tick.name, google_eventarc_trigger.topics["ticks"].name,
      ] == [
      "nightly-jobs", "nightly-jobs-requests", "my-project-nightly-jobs-staging", "nightly-jobs", "nightly-jobs-function",
      "nightly_jobs_function", "nightly-jobs-tick", "nightly-jobs-ticks",
    ]
    error_message = "all names begin with the prefix"
  }
  assert {
    condition = alltrue([for labels in [
      google_pubsub_topic.requests.labels, google_pubsub_topic.responses.labels, google_pubsub_topic.ticks.labels,
      google_pubsub_subscription.inspection.labels, google_pubsub_subscription.history[0].labels,
      google_storage_bucket.staging.labels, google_storage_bucket.dataproc.labels, google_storage_bucket.logs.labels, google_storage_bucket.build.labels, google_storage_bucket.code.labels,
      google_cloud_run_v2_service.function[0].labels, google_cloud_run_v2_service.function[0].template[0].labels,
      google_eventarc_trigger.topics["requests"].labels, google_eventarc_trigger.topics["ticks"].labels, google_eventarc_trigger.audit[0].labels,
      google_artifact_registry_repository.images.labels, google_bigquery_dataset.history[0].labels, google_bigquery_table.history[0].labels,
      jsondecode(google_storage_bucket_object.cluster_config.content).default_cluster_config.labels,
    ] : labels == tomap({ team = "data-platform" }) || labels == { team = "data-platform" }])
    error_message = "all that can have labels has them"
  }
  assert {
    condition = (
      google_cloud_run_v2_service.function[0].template[0].max_instance_request_concurrency == 100 &&
      google_cloud_run_v2_service.function[0].template[0].scaling[0].min_instance_count == 1 &&
      google_cloud_run_v2_service.function[0].template[0].scaling[0].max_instance_count == 20 &&
      google_cloud_run_v2_service.function[0].template[0].containers[0].resources[0].limits == tomap({ cpu = "2", memory = "1Gi" })
    )
    error_message = "the function has the size that was asked for"
  }
  assert {
    condition = tomap({ for variable in google_cloud_run_v2_service.function[0].template[0].containers[0].env : variable.name => variable.value }) == tomap({
      ALLOWED_CODE_PREFIXES = "gs://my-project-nightly-jobs-code/scripts/,gs://jars/"
      ALLOW_INLINE_QUERIES  = "true"
      CAPACITY_RETRIES      = "5"
      CAPACITY_RETRY_DELAY  = "600"
      CLUSTER_IDLE_TTL      = "900"
      CLUSTER_MAX_TTL       = ""
      CONFIG_OBJECT         = "config/cluster-config.json"
      GOOGLE_CLOUD_PROJECT  = "my-project"
      MAX_REQUEST_AGE       = "86400"
      REGION                = "us-central1"
      RESPONSE_TOPIC        = "nightly-jobs-responses"
      RETRY_DELAY           = "5"
      RULES                 = "warn"
      RUST_LOG              = "info,inline_workflow=debug"
      STAGING_BUCKET        = "my-project-nightly-jobs-staging"
      SUBMIT_LEASE          = "90"
      TICK_TOPIC            = "nightly-jobs-ticks"
    })
    error_message = "each setting reaches the function"
  }

  # The cluster configuration.
  assert {
    condition     = keys(jsondecode(google_storage_bucket_object.cluster_config.content)) == ["camel", "default_cluster_config", "empty", "word-count"]
    error_message = "entries are added to the default one"
  }
  assert {
    condition = jsondecode(google_storage_bucket_object.cluster_config.content)["word-count"] == {
      config = {
        config_bucket      = "my-project-nightly-jobs-dataproc"
        temp_bucket        = "my-project-nightly-jobs-dataproc"
        gce_cluster_config = { service_account = "nightly-jobs-dataproc@my-project.iam.gserviceaccount.com" }
        master_config      = { num_instances = 1, machine_type_uri = "e2-standard-4" }
        software_config    = { image_version = "2.2-debian12" }
      }
    }
    error_message = "an entry gets the account and the buckets that it leaves out"
  }
  assert {
    condition = jsondecode(google_storage_bucket_object.cluster_config.content)["camel"] == {
      config = {
        configBucket     = "own"
        temp_bucket      = "my-project-nightly-jobs-dataproc"
        gceClusterConfig = { serviceAccount = "own@my-project.iam.gserviceaccount.com", internalIpOnly = true }
      }
      labels = { size = "tiny" }
    }
    error_message = "an entry keeps what it has"
  }
  assert {
    condition = jsondecode(google_storage_bucket_object.cluster_config.content).default_cluster_config.config.gce_cluster_config == {
      subnetwork_uri           = "projects/host/regions/us-central1/subnetworks/clusters"
      tags                     = ["dataproc"]
      internal_ip_only         = false
      service_account          = "nightly-jobs-dataproc@my-project.iam.gserviceaccount.com"
      service_account_scopes   = ["https://www.googleapis.com/auth/cloud-platform"]
      shielded_instance_config = { enable_secure_boot = true, enable_vtpm = true, enable_integrity_monitoring = true }
    }
    error_message = "the default entry's machines are where the network says"
  }

  # Keys, history, retention.
  assert {
    condition = alltrue(concat(
      [for topic in [google_pubsub_topic.requests, google_pubsub_topic.responses, google_pubsub_topic.ticks] : topic.kms_key_name == var.kms_key],
      [for bucket in [google_storage_bucket.staging, google_storage_bucket.dataproc, google_storage_bucket.logs, google_storage_bucket.build, google_storage_bucket.code] : bucket.encryption[0].default_kms_key_name == var.kms_key],
    ))
    error_message = "topics and buckets are under the key"
  }
  assert {
    condition = (
      google_pubsub_subscription.history[0].bigquery_config[0].table == "my-project.nightly_jobs.events" &&
      google_pubsub_subscription.history[0].bigquery_config[0].write_metadata &&
      !coalesce(google_pubsub_subscription.history[0].bigquery_config[0].use_table_schema, false) &&
      { for column in jsondecode(google_bigquery_table.history[0].schema) : column.name => column.type } == {
        subscription_name = "STRING", message_id = "STRING", publish_time = "TIMESTAMP", data = "JSON", attributes = "JSON"
      } &&
      google_bigquery_dataset.history[0].location == "US" &&
      google_bigquery_table.history[0].time_partitioning[0].expiration_ms == 34560000000 &&
      output.history_table == "my-project.nightly_jobs.events" &&
      google_project_service.bigquery[0].service == "bigquery.googleapis.com"
    )
    error_message = "every event goes to the table"
  }
  assert {
    condition = (
      google_pubsub_topic.requests.message_retention_duration == "1209600s" &&
      one(google_storage_bucket.staging.lifecycle_rule[0].condition[*].days_since_custom_time) == 60 &&
      one(google_storage_bucket.logs.lifecycle_rule[0].condition[*].age) == 90 &&
      one(google_storage_bucket.dataproc.lifecycle_rule[0].condition[*].age) == 90 &&
      google_storage_bucket.staging.force_destroy && !google_bigquery_table.history[0].deletion_protection
    )
    error_message = "things are kept for as long as was asked"
  }
}

run "network" {
  command = plan

  variables {
    network = { network = "clusters" }
  }

  assert {
    condition     = jsondecode(google_storage_bucket_object.cluster_config.content).default_cluster_config.config.gce_cluster_config.network_uri == "clusters"
    error_message = "machines are in the network that was asked for"
  }
}

run "another_default" {
  command = plan

  variables {
    cluster_configs = { default_cluster_config = { cluster_name = "own" } }
  }

  assert {
    condition     = jsondecode(google_storage_bucket_object.cluster_config.content).default_cluster_config.cluster_name == "own"
    error_message = "an entry called default_cluster_config replaces the module's own"
  }
}

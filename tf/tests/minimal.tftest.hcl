# What is made of the required variables alone. Providers are mocked: nothing is created, no credentials are needed.

mock_provider "google" {}
mock_provider "google-beta" {}
mock_provider "time" {}

variables {
  project = "my-project"
  region  = "us-central1"
  image   = "us-central1-docker.pkg.dev/my-project/inline-workflow/function:0.1.0"
}

# What Google makes up, as it really looks: accounts' addresses, roles' ids.
override_resource {
  target = google_service_account.function
  values = {
    name   = "projects/my-project/serviceAccounts/inline-workflow-function@my-project.iam.gserviceaccount.com"
    email  = "inline-workflow-function@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:inline-workflow-function@my-project.iam.gserviceaccount.com"
  }
}
override_resource {
  target = google_service_account.trigger
  values = {
    name   = "projects/my-project/serviceAccounts/inline-workflow-trigger@my-project.iam.gserviceaccount.com"
    email  = "inline-workflow-trigger@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:inline-workflow-trigger@my-project.iam.gserviceaccount.com"
  }
}
override_resource {
  target = google_service_account.dataproc
  values = {
    name   = "projects/my-project/serviceAccounts/inline-workflow-dataproc@my-project.iam.gserviceaccount.com"
    email  = "inline-workflow-dataproc@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:inline-workflow-dataproc@my-project.iam.gserviceaccount.com"
  }
}
override_resource {
  target = google_service_account.scheduler
  values = {
    name   = "projects/my-project/serviceAccounts/inline-workflow-scheduler@my-project.iam.gserviceaccount.com"
    email  = "inline-workflow-scheduler@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:inline-workflow-scheduler@my-project.iam.gserviceaccount.com"
  }
}
override_resource {
  target = google_service_account.build
  values = {
    name   = "projects/my-project/serviceAccounts/inline-workflow-build@my-project.iam.gserviceaccount.com"
    email  = "inline-workflow-build@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:inline-workflow-build@my-project.iam.gserviceaccount.com"
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
  values = { id = "projects/my-project/roles/inline_workflow_function" }
}
override_resource {
  target = google_project_iam_custom_role.dataproc
  values = { id = "projects/my-project/roles/inline_workflow_dataproc" }
}
override_resource {
  target = google_pubsub_topic.requests
  values = { id = "projects/my-project/topics/inline-workflow-requests" }
}
override_resource {
  target = google_pubsub_topic.responses
  values = { id = "projects/my-project/topics/inline-workflow-responses" }
}
override_resource {
  target = google_pubsub_topic.ticks
  values = { id = "projects/my-project/topics/inline-workflow-ticks" }
}
override_resource {
  target = google_pubsub_subscription.inspection
  values = { id = "projects/my-project/subscriptions/inline-workflow-responses-inspection" }
}

run "minimal" {
  command = apply

  assert {
    condition = output.requests_topic == "projects/my-project/topics/inline-workflow-requests" && [
      google_pubsub_topic.requests.name, google_pubsub_topic.responses.name, google_pubsub_topic.ticks.name,
    ] == ["inline-workflow-requests", "inline-workflow-responses", "inline-workflow-ticks"]
    error_message = "topics are called PREFIX-requests, PREFIX-responses, PREFIX-ticks"
  }
  assert {
    condition = output.buckets == {
      build    = "my-project-inline-workflow-build"
      code     = "my-project-inline-workflow-code"
      dataproc = "my-project-inline-workflow-dataproc"
      logs     = "my-project-inline-workflow-logs"
      staging  = "my-project-inline-workflow-staging"
    }
    error_message = "buckets are called PROJECT-PREFIX-..."
  }
  assert {
    condition     = google_pubsub_topic.requests.message_retention_duration == "604800s"
    error_message = "requests can be replayed for seven days"
  }
  assert {
    condition = (
      google_pubsub_subscription.inspection.ack_deadline_seconds == 600 &&
      google_pubsub_subscription.inspection.enable_message_ordering && google_pubsub_subscription.inspection.expiration_policy[0].ttl == "" &&
      coalesce(google_pubsub_subscription.inspection.filter, "all") == "all" &&
      google_pubsub_subscription.inspection.topic == "projects/my-project/topics/inline-workflow-responses"
    )
    error_message = "the inspection subscription gives ten minutes to look, in order"
  }

  # Buckets.
  assert {
    condition     = google_storage_bucket.staging.versioning[0].enabled && google_storage_bucket.staging.soft_delete_policy[0].retention_duration_seconds == 0
    error_message = "the staging bucket has versions, and no soft delete beside them"
  }
  assert {
    condition     = length(google_storage_bucket.staging.retention_policy) == 0 && google_storage_bucket_object.spark_history.storage_class != "STANDARD"
    error_message = "records can be written again; the folder of the Spark history stays"
  }
  assert {
    condition = alltrue([for bucket in [
      google_storage_bucket.build, google_storage_bucket.code, google_storage_bucket.dataproc, google_storage_bucket.logs, google_storage_bucket.staging,
    ] : bucket.uniform_bucket_level_access && bucket.public_access_prevention == "enforced" && bucket.location == "us-central1"])
    error_message = "no bucket can be made public"
  }
  assert {
    condition     = !google_storage_bucket.staging.force_destroy && !google_storage_bucket.code.force_destroy && !google_storage_bucket.dataproc.force_destroy && !google_storage_bucket.logs.force_destroy
    error_message = "what is in the buckets is not destroyed by default"
  }
  assert {
    condition     = google_storage_bucket_object.cluster_config.name == "config/cluster-config.json" && google_storage_bucket_object.cluster_config.bucket == "my-project-inline-workflow-staging"
    error_message = "the configuration lies in the staging bucket"
  }
  assert {
    condition     = keys(jsondecode(google_storage_bucket_object.cluster_config.content)) == ["default_cluster_config"]
    error_message = "there is a default entry, and no other"
  }
  assert {
    condition     = jsondecode(google_storage_bucket_object.cluster_config.content).default_cluster_config.config.gce_cluster_config.service_account == google_service_account.dataproc.email
    error_message = "clusters run as the account that was made for them"
  }
  assert {
    condition = jsondecode(google_storage_bucket_object.cluster_config.content).default_cluster_config.config.software_config.properties == {
      "yarn:yarn.log-aggregation-enable"                  = "true"
      "yarn:yarn.nodemanager.remote-app-log-dir"          = "gs://my-project-inline-workflow-logs/yarn-logs/"
      "mapred:mapreduce.jobhistory.intermediate-done-dir" = "gs://my-project-inline-workflow-logs/job-history/intermediate/"
      "mapred:mapreduce.jobhistory.done-dir"              = "gs://my-project-inline-workflow-logs/job-history/done/"
      "spark:spark.eventLog.enabled"                      = "true"
      "spark:spark.eventLog.dir"                          = "gs://my-project-inline-workflow-logs/${google_storage_bucket_object.spark_history.name}"
      "spark:spark.history.fs.logDirectory"               = "gs://my-project-inline-workflow-logs/${google_storage_bucket_object.spark_history.name}"
    }
    error_message = "logs and histories outlive the cluster, in the logs bucket"
  }
  assert {
    condition     = jsondecode(google_storage_bucket_object.cluster_config.content).default_cluster_config.config.config_bucket == output.dataproc_bucket
    error_message = "Dataproc stages in the bucket that was made for it"
  }
  assert {
    condition     = jsondecode(google_storage_bucket_object.cluster_config.content).default_cluster_config.config.gce_cluster_config.internal_ip_only
    error_message = "machines have no external addresses"
  }
  assert {
    condition     = toset(keys(google_storage_bucket_object.samples)) == toset(["log_role.sh", "word_count.py", "words.txt"])
    error_message = "the samples are uploaded"
  }

  # Function and triggers.
  assert {
    condition = (
      google_cloud_run_v2_service.function[0].name == "inline-workflow" &&
      google_cloud_run_v2_service.function[0].ingress == "INGRESS_TRAFFIC_INTERNAL_ONLY" &&
      !coalesce(google_cloud_run_v2_service.function[0].default_uri_disabled, false) && !google_cloud_run_v2_service.function[0].deletion_protection &&
      google_cloud_run_v2_service.function[0].template[0].service_account == google_service_account.function.email &&
      google_cloud_run_v2_service.function[0].template[0].execution_environment == "EXECUTION_ENVIRONMENT_GEN2" &&
      google_cloud_run_v2_service.function[0].template[0].timeout == "60s" &&
      google_cloud_run_v2_service.function[0].template[0].max_instance_request_concurrency == 64 &&
      google_cloud_run_v2_service.function[0].template[0].scaling[0].min_instance_count == 0 &&
      google_cloud_run_v2_service.function[0].template[0].scaling[0].max_instance_count == 10
    )
    error_message = "the service is internal, small, can be called by Eventarc and destroyed, and runs as its own account"
  }
  assert {
    condition = (
      google_cloud_run_v2_service.function[0].template[0].containers[0].image == var.image &&
      google_cloud_run_v2_service.function[0].template[0].containers[0].resources[0].limits == tomap({ cpu = "1", memory = "512Mi" }) &&
      google_cloud_run_v2_service.function[0].template[0].containers[0].resources[0].cpu_idle &&
      google_cloud_run_v2_service.function[0].template[0].containers[0].startup_probe[0].period_seconds == 1 &&
      google_cloud_run_v2_service.function[0].template[0].containers[0].startup_probe[0].tcp_socket[0].port == google_cloud_run_v2_service.function[0].template[0].containers[0].ports[0].container_port
    )
    error_message = "the container runs the image, with a processor only while there are events, and is probed on its port"
  }
  assert {
    condition = alltrue([for trigger in [google_eventarc_trigger.topics["requests"], google_eventarc_trigger.topics["ticks"], google_eventarc_trigger.audit[0]] :
      trigger.service_account == google_service_account.trigger.email &&
      trigger.location == "us-central1" &&
      trigger.destination[0].cloud_run_service[0].service == "inline-workflow" &&
      trigger.destination[0].cloud_run_service[0].region == "us-central1"
    ])
    error_message = "each trigger calls the function as the trigger's account"
  }
  assert {
    condition = [google_eventarc_trigger.topics["requests"], google_eventarc_trigger.topics["ticks"]][*].transport[0].pubsub[0].topic == [
      google_pubsub_topic.requests.id, google_pubsub_topic.ticks.id,
    ]
    error_message = "a trigger for each topic that the function listens to"
  }
  assert {
    condition = alltrue([for trigger in [google_eventarc_trigger.topics["requests"], google_eventarc_trigger.topics["ticks"]] :
      { for criterion in trigger.matching_criteria : criterion.attribute => criterion.value } == { type = "google.cloud.pubsub.topic.v1.messagePublished" }
    ])
    error_message = "messages of the topics are events"
  }
  assert {
    condition = { for criterion in google_eventarc_trigger.audit[0].matching_criteria : criterion.attribute => criterion.value } == {
      type        = "google.cloud.audit.log.v1.written"
      serviceName = "dataproc.googleapis.com"
      methodName  = "google.cloud.dataproc.v1.WorkflowTemplateService.InstantiateInlineWorkflowTemplate"
    }
    error_message = "workflows that begin and end wake the function"
  }
  assert {
    condition = (
      google_cloud_scheduler_job.tick.schedule == "* * * * *" && google_cloud_scheduler_job.tick.time_zone == "Etc/UTC" && !coalesce(google_cloud_scheduler_job.tick.paused, false) &&
      google_cloud_scheduler_job.tick.http_target[0].http_method == "POST" &&
      google_cloud_scheduler_job.tick.http_target[0].uri == "https://pubsub.googleapis.com/v1/projects/my-project/topics/inline-workflow-ticks:publish" &&
      google_cloud_scheduler_job.tick.http_target[0].oauth_token[0].service_account_email == google_service_account.scheduler.email &&
      google_cloud_scheduler_job.tick.http_target[0].oauth_token[0].scope == "https://www.googleapis.com/auth/pubsub" &&
      base64decode(jsondecode(base64decode(google_cloud_scheduler_job.tick.http_target[0].body)).messages[0].data) == "tick"
    )
    error_message = "a tick each minute, published as the scheduler's account"
  }

  # The rest.
  assert {
    condition = alltrue([for api in ["run", "eventarc", "pubsub", "dataproc", "storage", "cloudscheduler", "artifactregistry", "cloudbuild", "iam", "logging", "monitoring"] :
      !google_project_service.apis["${api}.googleapis.com"].disable_on_destroy
    ])
    error_message = "the services are switched on, and stay so"
  }
  assert {
    condition = sort([for policy in google_artifact_registry_repository.images.cleanup_policies :
    join(" ", concat([policy.action], policy.most_recent_versions[*].keep_count, policy.condition[*].older_than))]) == tolist(["DELETE 2592000s", "KEEP 10"]) && !google_artifact_registry_repository.images.cleanup_policy_dry_run
    error_message = "old images are deleted"
  }
  assert {
    condition = (
      output.responses_topic == "projects/my-project/topics/inline-workflow-responses" &&
      output.responses_subscription == "projects/my-project/subscriptions/inline-workflow-responses-inspection" &&
      startswith(output.commands.publish, "gcloud pubsub topics publish inline-workflow-requests ") && strcontains(output.commands.publish, "$(terraform output -raw example_request)") &&
      alltrue([for account, email in output.service_accounts : email == "inline-workflow-${account}@my-project.iam.gserviceaccount.com"]) &&
      startswith(output.commands.pull, "gcloud pubsub subscriptions pull inline-workflow-responses-inspection ")
    )
    error_message = "outputs name what they say"
  }
  assert {
    condition     = output.image_repository == "us-central1-docker.pkg.dev/my-project/inline-workflow"
    error_message = "images go to the repository called PREFIX"
  }
  assert {
    condition = (
      length(google_bigquery_dataset.history) == 0 && length(google_bigquery_table.history) == 0 && length(google_pubsub_subscription.history) == 0 &&
      length(google_kms_crypto_key_iam_member.pubsub) == 0 && length(google_kms_crypto_key_iam_member.storage) == 0 &&
      length(google_pubsub_topic_iam_member.requesters) == 0 && output.history_table == null
    )
    error_message = "options are off by default"
  }
}

run "without_an_image" {
  command = plan

  variables {
    image = ""
  }

  assert {
    condition = (
      length(google_cloud_run_v2_service.function) == 0 && length(google_eventarc_trigger.topics) == 0 && length(google_eventarc_trigger.audit) == 0 &&
      output.service_url == null && output.image_repository == "us-central1-docker.pkg.dev/my-project/inline-workflow"
    )
    error_message = "there is a repository to push to before there is a service"
  }
}

run "history_without_end" {
  command = plan

  variables {
    history = {}
  }

  assert {
    condition     = google_bigquery_table.history[0].time_partitioning[0].expiration_ms == 36500 * 86400000
    error_message = "never is a hundred years, which reaches a table that had an end"
  }
}

# So that what was made above can be destroyed.
run "destroyable" {
  command = apply

  variables {
    force_destroy = true
  }

  assert {
    condition     = terraform_data.destroy.output && google_storage_bucket.staging.force_destroy
    error_message = "a destroy must have been allowed by an apply"
  }
}

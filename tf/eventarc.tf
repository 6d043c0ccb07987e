# What calls the function: requests, ticks, and workflows that begin or end.

# The rights of Eventarc's agent and of the trigger's account take a while until they count everywhere, and a trigger is
# refused before.
resource "time_sleep" "eventarc" {
  create_duration = local.grant_delay

  triggers = local.deployment

  depends_on = [
    google_project_iam_member.eventarc_agent,
    google_project_iam_member.trigger_receives_events,
    google_service_account_iam_member.pubsub_makes_trigger_tokens,
  ]
}

resource "google_eventarc_trigger" "topics" {
  for_each = { for key, topic in { requests = google_pubsub_topic.requests, ticks = google_pubsub_topic.ticks } : key => topic.id if local.deployed }

  project         = var.project
  name            = "${var.prefix}-${each.key}"
  location        = var.region
  labels          = var.labels
  service_account = google_service_account.trigger.email

  matching_criteria {
    attribute = "type"
    value     = "google.cloud.pubsub.topic.v1.messagePublished"
  }

  transport {
    pubsub {
      topic = each.value
    }
  }

  destination {
    cloud_run_service {
      service = google_cloud_run_v2_service.function[0].name
      region  = var.region
    }
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.trigger_invokes_function,
    time_sleep.eventarc,
  ]
}

# A wake-up, so that a result need not wait for the next tick. The audit log has an entry when a workflow begins and one
# when it ends; Eventarc cannot tell them apart.
resource "google_eventarc_trigger" "audit" {
  count = local.deployed ? 1 : 0

  project         = var.project
  name            = "${var.prefix}-audit"
  location        = var.region
  labels          = var.labels
  service_account = google_service_account.trigger.email

  matching_criteria {
    attribute = "type"
    value     = "google.cloud.audit.log.v1.written"
  }
  matching_criteria {
    attribute = "serviceName"
    value     = "dataproc.googleapis.com"
  }
  matching_criteria {
    attribute = "methodName"
    value     = "google.cloud.dataproc.v1.WorkflowTemplateService.InstantiateInlineWorkflowTemplate"
  }

  destination {
    cloud_run_service {
      service = google_cloud_run_v2_service.function[0].name
      region  = var.region
    }
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.trigger_invokes_function,
    time_sleep.eventarc,
  ]
}

# Optional: topics and buckets under a key of one's own. Google's agents encrypt and decrypt with it for their services.
#
# The agents serve the whole project, and others may have granted them the same. A grant with a condition is one of its
# own, so that what this deployment takes away when it is destroyed is no more than what it gave.

locals {
  # Always true. The title tells the grants of deployments apart.
  own_grant = {
    title       = var.prefix
    description = "A grant of the deployment ${var.prefix}, apart from those of others."
    expression  = "request.time > timestamp(\"2020-01-01T00:00:00Z\")"
  }
}

resource "google_kms_crypto_key_iam_member" "pubsub" {
  count = var.kms_key == null ? 0 : 1

  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = google_project_service_identity.agents["pubsub.googleapis.com"].member

  condition {
    title       = local.own_grant.title
    description = local.own_grant.description
    expression  = local.own_grant.expression
  }
}

data "google_storage_project_service_account" "agent" {
  count = var.kms_key == null ? 0 : 1

  project = var.project

  depends_on = [time_sleep.apis]
}

resource "google_kms_crypto_key_iam_member" "storage" {
  count = var.kms_key == null ? 0 : 1

  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = data.google_storage_project_service_account.agent[0].member

  condition {
    title       = local.own_grant.title
    description = local.own_grant.description
    expression  = local.own_grant.expression
  }

  lifecycle {
    # The agent's address never changes, but is read only when all is made that is to be made before: whenever a service is
    # switched on later, the plan does not know it, and would grant anew, with seconds in which no bucket can be read.
    ignore_changes = [member]
  }
}

# Buckets and topics are refused before the grants count.
resource "time_sleep" "kms" {
  count = var.kms_key == null ? 0 : 1

  create_duration = local.grant_delay

  triggers = merge(local.deployment, { key = var.kms_key })

  depends_on = [google_kms_crypto_key_iam_member.pubsub, google_kms_crypto_key_iam_member.storage]
}

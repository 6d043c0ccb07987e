# Four buckets that must not be one: who can write the function's records decides what runs, so jobs have no right on them;
# who can write code decides what the next job does, so jobs only read it; logs outlive clusters; and what jobs stage may go
# with them.

locals {
  # Not known by Google before they are created, but by the plan: the cluster configuration names them.
  bucket_names = {
    code     = "${var.project}-${var.prefix}-code"
    staging  = "${var.project}-${var.prefix}-staging"
    dataproc = "${var.project}-${var.prefix}-dataproc"
    logs     = "${var.project}-${var.prefix}-logs"
    build    = "${var.project}-${var.prefix}-build"
  }
  # Folders of the staging bucket that the function writes in, and nowhere else. They hold the runs.
  run_folders = ["active", "dead", "runs"]
  # IAM's name of an object of the staging bucket, without the object's name.
  staging_objects = "projects/_/buckets/${local.bucket_names.staging}/objects/"
  # Spark writes no event log into a folder that does not exist.
  spark_history = "spark-history"
}

# The function's: config/, runs/, active/, dead/.
resource "google_storage_bucket" "staging" {
  project                     = var.project
  name                        = local.bucket_names.staging
  location                    = var.region
  labels                      = var.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.force_destroy

  # checkov:skip=CKV_GCP_62: who changed the configuration is told by the audit log, which can be switched on for data access.

  versioning {
    enabled = true
  }

  # A record is written several times in a run: every version would be kept, and paid, for seven days.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  # A record has a custom time from the end of its run on, and a rule on custom time does not match an object that has none.
  # So the record of an active run is never deleted, however old it is. A rule on age would delete it.
  # Source: https://cloud.google.com/storage/docs/lifecycle#dayssincecustomtime
  #
  # There is no rule for active/: a run without its marker is followed no more. There is none for dead/: whoever has found
  # out what became of the run deletes the object (function/docs/operations.md, Troubleshooting).
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      # Never 0: the provider would leave it out of the rule, which would then delete every record.
      days_since_custom_time = var.record_retention_days
      # No age, not even one of 0.
      send_age_if_zero = false
      matches_prefix   = ["runs/"]
      with_state       = "LIVE"
    }
  }

  # Earlier configurations stay, for they tell what a run was rendered from.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      days_since_noncurrent_time = 1
      send_age_if_zero           = false
      matches_prefix             = [for folder in local.run_folders : "${folder}/"]
      with_state                 = "ARCHIVED"
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [time_sleep.apis, time_sleep.kms]
}

# Keeps records and markers. An overwrite needs the right to delete, too. Not in config/: a function that is made to write
# where it should not cannot change what clusters are made of, or which account they run as.
resource "google_storage_bucket_iam_member" "function_keeps_records" {
  bucket = google_storage_bucket.staging.name
  role   = "roles/storage.objectUser"
  member = google_service_account.function.member

  condition {
    title       = "runs"
    description = "Objects of the folders that hold the runs."
    expression  = join(" || ", [for folder in local.run_folders : "resource.name.startsWith(\"${local.staging_objects}${folder}/\")"])
  }
}

# Reads the configuration, and lists. The right to list is checked on the bucket, so it cannot be granted for a folder.
# It also makes the difference between 404 and 403 for an object that does not exist.
# Source of names in conditions: https://cloud.google.com/iam/docs/conditions-resource-attributes#resource-name
resource "google_storage_bucket_iam_member" "function_reads_configuration" {
  bucket = google_storage_bucket.staging.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.function.member

  condition {
    title       = "configuration"
    description = "The configuration's object, and lists of the bucket."
    expression  = "resource.name == \"projects/_/buckets/${local.bucket_names.staging}\" || resource.name == \"${local.staging_objects}${local.config_object}\""
  }
}

# What jobs run: scripts, libraries, initialization actions. Whoever deploys code writes it; clusters read it.
resource "google_storage_bucket" "code" {
  project                     = var.project
  name                        = local.bucket_names.code
  location                    = var.region
  labels                      = var.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.force_destroy

  # checkov:skip=CKV_GCP_62: who reads and writes code is for the audit log of data access, where it is wanted.
  # checkov:skip=CKV_GCP_78: code comes from its repositories.

  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [time_sleep.apis, time_sleep.kms]
}

# Not what roles/storage.objectUser allows: a job that could write here would choose the code of later jobs.
resource "google_storage_bucket_iam_member" "dataproc_reads_code" {
  bucket = google_storage_bucket.code.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.dataproc.member
}

# Dataproc's staging and temp space, and what jobs read and write.
resource "google_storage_bucket" "dataproc" {
  project                     = var.project
  name                        = local.bucket_names.dataproc
  location                    = var.region
  labels                      = var.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.force_destroy

  # checkov:skip=CKV_GCP_62: what jobs read and write is for the audit log of data access, where it is wanted.
  # checkov:skip=CKV_GCP_78: temporary files of clusters that are gone.

  # The output of jobs' drivers, and what Dataproc stages for them.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age            = var.log_retention_days
      matches_prefix = ["google-cloud-dataproc-metainfo/"]
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [time_sleep.apis, time_sleep.kms]
}

# YARN's logs, job and Spark history: what is left of a cluster.
resource "google_storage_bucket" "logs" {
  project                     = var.project
  name                        = local.bucket_names.logs
  location                    = var.region
  labels                      = var.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.force_destroy

  # checkov:skip=CKV_GCP_62: a bucket of logs needs no log of its own.
  # checkov:skip=CKV_GCP_78: logs are written once.

  # All but the folder of the Spark history, which has another storage class for this.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      age                   = var.log_retention_days
      matches_storage_class = ["STANDARD"]
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [time_sleep.apis, time_sleep.kms]
}

resource "google_storage_bucket_object" "spark_history" {
  bucket        = google_storage_bucket.logs.name
  name          = "${local.spark_history}/"
  content       = "\n"
  storage_class = "NEARLINE"
}

# The machines stage and log: objects of these two buckets, and no others.
resource "google_storage_bucket_iam_member" "dataproc_uses_objects" {
  for_each = { dataproc = google_storage_bucket.dataproc.name, logs = google_storage_bucket.logs.name }

  bucket = each.value
  role   = "roles/storage.objectUser"
  member = google_service_account.dataproc.member
}

# Dataproc's agent and the connector ask for the bucket itself (storage.buckets.get), which the roles above lack.
resource "google_storage_bucket_iam_member" "dataproc_sees_buckets" {
  for_each = {
    code     = google_storage_bucket.code.name
    dataproc = google_storage_bucket.dataproc.name
    logs     = google_storage_bucket.logs.name
  }

  bucket = each.value
  role   = "roles/storage.legacyBucketReader"
  member = google_service_account.dataproc.member
}

# The clusters' configuration, an object that the function reads with every request: a new one counts at once.

locals {
  # The function cannot write it: not in a folder of local.run_folders.
  config_object = "config/cluster-config.json"

  default_cluster_config = jsondecode(templatefile("${path.module}/templates/cluster-config.json.tftpl", {
    dataproc_bucket  = local.bucket_names.dataproc
    logs_bucket      = local.bucket_names.logs
    spark_history    = local.spark_history
    service_account  = local.dataproc_account
    network          = var.network.network
    subnetwork       = var.network.subnetwork
    tags             = var.network.tags
    internal_ip_only = !var.network.external_ips
    labels           = var.labels
  }))

  # Known before the account is there; the function can start clusters as no other one.
  dataproc_account = "${var.prefix}-dataproc@${var.project}.iam.gserviceaccount.com"

  # What jobs can write: the module's own two, and those that entries of the user's name.
  cluster_buckets = distinct(concat(
    [local.bucket_names.dataproc, local.bucket_names.logs],
    [
      for name in flatten([
        for entry in try(values(var.cluster_configs), []) : [
          for key in ["config_bucket", "configBucket", "temp_bucket", "tempBucket"] : try(tostring(entry.config[key]), null)
        ]
      ]) : split("/", trimprefix(name, "gs://"))[0] if name != null
    ],
  ))

  # What an entry of the user's leaves out, and cannot do without: the buckets and the account that were made for clusters.
  cluster_configs = {
    for job_name, entry in var.cluster_configs : job_name => merge(entry, {
      config = merge(
        {
          for key, value in {
            config_bucket = local.bucket_names.dataproc
            temp_bucket   = local.bucket_names.dataproc
          } : key => value if !can(entry.config[replace(key, "_b", "B")])
        },
        try(entry.config, {}),
        {
          # In the entry's own spelling: a key in both would be a fault.
          for key in [can(entry.config.gceClusterConfig) ? "gceClusterConfig" : "gce_cluster_config"] : key => merge(
            { (key == "gceClusterConfig" ? "serviceAccount" : "service_account") = local.dataproc_account },
            try(entry.config[key], {}),
          )
        },
      )
    })
  }
}

resource "google_storage_bucket_object" "cluster_config" {
  bucket       = google_storage_bucket.staging.name
  name         = local.config_object
  content_type = "application/json"
  content      = jsonencode(merge(local.default_cluster_config, local.cluster_configs))

  lifecycle {
    precondition {
      condition     = !contains(local.run_folders, split("/", local.config_object)[0])
      error_message = "The configuration must not lie in a folder that the function writes: ${join(", ", local.run_folders)}."
    }
  }
}

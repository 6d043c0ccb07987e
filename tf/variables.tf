variable "alerts" {
  description = <<-EOT
    When an alert opens: `oldest_run_seconds`, a run has not ended for so long; `unacked_seconds`, a request has not been
    taken for so long; `tick_silence_seconds`, no tick has done its work for so long; `error_ratio`, the part of the
    deliveries that is answered with 5xx.
  EOT
  type = object({
    error_ratio          = optional(number, 0.1)
    oldest_run_seconds   = optional(number, 28800)
    tick_silence_seconds = optional(number, 900)
    unacked_seconds      = optional(number, 900)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.alerts.error_ratio > 0 && var.alerts.error_ratio < 1
    error_message = "alerts.error_ratio must be between 0 and 1, both excluded."
  }
  validation {
    condition = alltrue([
      var.alerts.oldest_run_seconds >= 600 && floor(var.alerts.oldest_run_seconds) == var.alerts.oldest_run_seconds,
      var.alerts.unacked_seconds >= 60 && floor(var.alerts.unacked_seconds) == var.alerts.unacked_seconds,
    ])
    error_message = "alerts: oldest_run_seconds must be a whole number of at least 600, unacked_seconds one of at least 60."
  }
  validation {
    # Logging may count a line ten minutes late; Monitoring looks back 23.5 hours and takes whole minutes.
    condition     = var.alerts.tick_silence_seconds >= 600 && var.alerts.tick_silence_seconds <= 84600 && var.alerts.tick_silence_seconds % 60 == 0
    error_message = "alerts.tick_silence_seconds must be whole minutes, from 600 to 84600 seconds."
  }
}

variable "cluster_configs" {
  description = <<-EOT
    Entries of the cluster configuration beside `default_cluster_config`, keyed by job_name: objects of Dataproc's
    ManagedCluster. An entry that leaves out the account or the buckets gets those made here. An entry called
    `default_cluster_config` replaces the module's own.
  EOT
  # Entries need not have the same shape, so this is no map(any).
  type     = any
  default  = {}
  nullable = false

  validation {
    condition     = can(keys(var.cluster_configs)) && alltrue([for entry in try(values(var.cluster_configs), []) : can(keys(entry))])
    error_message = "cluster_configs must be an object of objects: a managed cluster for each job_name."
  }
  validation {
    condition     = alltrue([for entry in try(values(var.cluster_configs), []) : !can(entry.config) || can(keys(entry.config))])
    error_message = "The config of an entry of cluster_configs must be an object."
  }
}

variable "force_destroy" {
  description = "Whether a destroy may delete all of it, with records, logs and history. It must have been applied: until then a destroy stops before anything is deleted."
  type        = bool
  default     = false
  nullable    = false
}

variable "function" {
  description = "Size of the function: `cpu` and `memory` of an instance, events that one deals with at once (`concurrency`), and how many instances there may be."
  type = object({
    cpu           = optional(string, "1")
    memory        = optional(string, "512Mi")
    concurrency   = optional(number, 64)
    min_instances = optional(number, 0)
    max_instances = optional(number, 10)
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["1", "2", "4", "6", "8"], var.function.cpu)
    error_message = "function.cpu must be 1, 2, 4, 6 or 8: with less than one processor Cloud Run gives an instance one event at a time."
  }
  validation {
    condition     = can(regex("^[1-9][0-9]*(Mi|Gi)$", var.function.memory))
    error_message = "function.memory must be a whole number of Mi or Gi, as 512Mi or 1Gi."
  }
  validation {
    # A fault of one alone is told above.
    condition = try(
      tonumber(regex("^([0-9]+)[MG]i$", var.function.memory)[0]) * (endswith(var.function.memory, "Gi") ? 1024 : 1) >= local.memory_bounds[var.function.cpu].least &&
      tonumber(regex("^([0-9]+)[MG]i$", var.function.memory)[0]) * (endswith(var.function.memory, "Gi") ? 1024 : 1) <= local.memory_bounds[var.function.cpu].most,
      true,
    )
    error_message = "function: cpu and memory do not go together. Memory must be 512Mi to 4Gi for 1 cpu, 512Mi to 8Gi for 2, 2Gi to 16Gi for 4, 4Gi to 24Gi for 6, 4Gi to 32Gi for 8."
  }
  validation {
    condition     = var.function.concurrency >= 1 && var.function.concurrency <= 1000 && floor(var.function.concurrency) == var.function.concurrency
    error_message = "function.concurrency must be a whole number from 1 to 1000."
  }
  validation {
    condition     = var.function.min_instances >= 0 && var.function.max_instances >= 1 && var.function.min_instances <= var.function.max_instances
    error_message = "function.min_instances must be at least 0, function.max_instances at least 1, and not less than min_instances."
  }
  validation {
    condition     = alltrue([for instances in [var.function.min_instances, var.function.max_instances] : floor(instances) == instances])
    error_message = "function.min_instances and function.max_instances must be whole numbers."
  }
}

variable "history" {
  description = "Keeps every event in a BigQuery table: `location` of the dataset (the region by default; stays where it is once it is made) and `expiration_days` of its rows (never by default). null: no history."
  type = object({
    location        = optional(string)
    expiration_days = optional(number)
  })
  default = null

  validation {
    condition     = alltrue([for days in try(var.history.expiration_days, null)[*] : days >= 1 && days <= 36500 && floor(days) == days])
    error_message = "history.expiration_days must be a whole number from 1 to 36500."
  }
  validation {
    condition     = alltrue([for location in try(var.history.location, null)[*] : contains(local.bigquery_locations, location) || location == var.region])
    error_message = "history.location must be US, EU or a region that BigQuery has, spelled as us-central1."
  }
}

variable "image" {
  description = "The function's image, with a tag or, better, a digest. Empty while there is none: everything is made but the service and what calls it, among it the repository to push to; with an image the same again makes the rest."
  type        = string
  nullable    = false

  validation {
    condition     = var.image == "" || can(regex("^[a-z0-9][a-z0-9./:_-]*[a-z0-9](:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?@sha256:[0-9a-f]{64})$", var.image))
    error_message = "image must end with a tag or a digest, as HOST/PROJECT/REPOSITORY/function:0.1.0 or HOST/PROJECT/REPOSITORY/function@sha256:...."
  }
  validation {
    # What stands before the first slash is a host if it has a dot or a port; without a host it is Docker Hub.
    # Source: https://cloud.google.com/run/docs/deploying#images
    condition = !can(regex("^([^/]*[.:][^/]*|localhost)/", var.image)) || anytrue([
      can(regex("^([a-z0-9-]+-)?docker\\.pkg\\.dev/[^/]+/[^/]+/", var.image)),
      can(regex("^([a-z]+\\.)?gcr\\.io/[^/]+/", var.image)),
      can(regex("^docker\\.io/", var.image)),
    ])
    error_message = "image: Cloud Run takes images of REGION-docker.pkg.dev/PROJECT/REPOSITORY/, gcr.io/PROJECT/ and docker.io/. For another registry, as ghcr.io, make a remote repository in Artifact Registry and name the image by that: REGION-docker.pkg.dev/PROJECT/REMOTE_REPOSITORY/OWNER/function:0.1.0."
  }
}

variable "kms_key" {
  description = "A Cloud KMS key (`projects/P/locations/L/keyRings/R/cryptoKeys/K`) in the region for topics and buckets. null: Google's keys."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key == null || can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key))
    error_message = "kms_key must be projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY."
  }
  validation {
    condition     = var.kms_key == null || try(split("/", var.kms_key)[3] == var.region, true)
    error_message = "kms_key must be a key in the region: buckets take no other."
  }
}

variable "labels" {
  description = "Labels of everything that can have some, and of the clusters of `default_cluster_config`."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for key, value in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", key)) && can(regex("^[a-z0-9_-]{1,63}$", value))])
    error_message = "labels: a key is a lower case letter and up to 62 of a-z, 0-9, _ and -; a value 1 to 63 of these (the provider drops empty ones, and plans to add them for ever)."
  }
  validation {
    condition     = length(setintersection(keys(var.labels), ["job_name", "run_id"])) == 0 && length(var.labels) <= 20
    error_message = "labels must be at most 20, and none of them job_name or run_id: the function sets these on clusters itself."
  }
}

variable "log_retention_days" {
  description = "Days after which logs of clusters and output of jobs' drivers are deleted."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.log_retention_days >= 1 && var.log_retention_days <= 36500 && floor(var.log_retention_days) == var.log_retention_days
    error_message = "log_retention_days must be a whole number from 1 to 36500."
  }
}

variable "network" {
  description = <<-EOT
    Where the clusters' machines are: a `network` or a `subnetwork` by name or URI (`projects/HOST/regions/R/subnetworks/S`
    for a shared one; neither: the network called default), their firewall `tags`, and whether they have `external_ips`
    (without them machines reach Google's services only).
  EOT
  type = object({
    network      = optional(string)
    subnetwork   = optional(string)
    tags         = optional(list(string), [])
    external_ips = optional(bool, false)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.network.network == null || var.network.subnetwork == null
    error_message = "network: give network or subnetwork, not both; a subnetwork belongs to one network."
  }
}

variable "notification_channels" {
  description = "Cloud Monitoring channels that alerts go to: `projects/P/notificationChannels/N`."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for channel in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", channel))])
    error_message = "notification_channels: each must be projects/PROJECT/notificationChannels/ID."
  }
  validation {
    # Source: https://cloud.google.com/monitoring/quotas
    condition     = length(var.notification_channels) <= 16
    error_message = "notification_channels must be at most 16, which is what an alert takes."
  }
}

variable "prefix" {
  description = "Begins the names of all resources; the service's name."
  type        = string
  default     = "inline-workflow"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.prefix))
    error_message = "prefix must be 3 to 20 lower case letters, digits and hyphens, begin with a letter and not end with a hyphen: accounts' names have at most 30."
  }
  validation {
    condition     = !can(regex("^goog|google", var.prefix))
    error_message = "prefix must not begin with goog or contain google: no topic and no bucket may be called so."
  }
}

variable "project" {
  description = "Id of the project that everything is made in."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "project must be a project's id: 6 to 30 lower case letters, digits and hyphens. Its number or name will not do."
  }
}

variable "record_retention_days" {
  description = "Days that a run's record is kept after the end of its run was recorded: so long a request_id keeps a request from running again. Longer than requests are kept."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.record_retention_days > var.request_retention_days && var.record_retention_days <= 36500 && floor(var.record_retention_days) == var.record_retention_days
    error_message = "record_retention_days must be a whole number greater than request_retention_days and at most 36500: a request that is replayed after its record is gone would run again."
  }
}

variable "region" {
  description = "Region of the function, the buckets and the clusters."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]+(-[a-z]+)+[0-9]+$", var.region))
    error_message = "region must be a region such as us-central1, not a zone or a multi-region."
  }
}

variable "request_retention_days" {
  description = "Days that the requests' topic keeps messages, so that they can be replayed."
  type        = number
  default     = 7
  nullable    = false

  validation {
    condition     = var.request_retention_days >= 1 && var.request_retention_days <= 31 && floor(var.request_retention_days) == var.request_retention_days
    error_message = "request_retention_days must be a whole number from 1 to 31, which is what Pub/Sub keeps."
  }
}

variable "requesters" {
  description = "IAM members that may publish requests, as `serviceAccount:...` or `group:...`."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for member in var.requesters : can(regex("^(user|group|serviceAccount|principal|principalSet|domain):.+$", member))])
    error_message = "requesters: each must be an IAM member such as serviceAccount:NAME@PROJECT.iam.gserviceaccount.com; not allUsers or allAuthenticatedUsers."
  }
}

variable "settings" {
  description = <<-EOT
    The function's settings, explained in function/docs/operations.md, "Environment". Durations in seconds; a cluster TTL of 0 is none. Metrics
    and alerts need a `log` that lets `inline_workflow` say `info`. `allowed_code_prefixes` must lie where clusters cannot
    write, as in the bucket PROJECT-PREFIX-code. Refused are the function's records, the buckets dataproc and logs, and what
    `cluster_configs` names as config_bucket or temp_bucket; the module knows no other bucket that jobs may write.
  EOT
  type = object({
    allow_inline_queries  = optional(bool, false)
    allowed_code_prefixes = optional(list(string), [])
    capacity_retries      = optional(number, 3)
    capacity_retry_delay  = optional(number, 300)
    cluster_idle_ttl      = optional(number, 1800)
    cluster_max_ttl       = optional(number, 86400)
    log                   = optional(string, "info")
    max_request_age       = optional(number, 21600)
    retry_delay           = optional(number, 10)
    rules                 = optional(string, "enforce")
    submit_lease          = optional(number, 60)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for prefix in var.settings.allowed_code_prefixes : can(regex("^gs://[^/,][^,]*$", prefix))])
    error_message = "settings.allowed_code_prefixes: each must be a gs:// prefix without a comma."
  }
  validation {
    condition     = alltrue([for prefix in var.settings.allowed_code_prefixes : !contains(local.cluster_buckets, split("/", trimprefix(prefix, "gs://"))[0])])
    error_message = "settings.allowed_code_prefixes must lie where clusters cannot write, or a job could choose the code of later ones. They write to ${join(", ", local.cluster_buckets)}. Use the bucket ${local.bucket_names.code}."
  }
  validation {
    # As the function does, which would not start.
    condition     = alltrue([for prefix in var.settings.allowed_code_prefixes : !can(regex("^gs://${local.bucket_names.staging}/*($|(${join("|", local.run_folders)})(/|$))", prefix))])
    error_message = "settings.allowed_code_prefixes must not cover the records of the runs in ${local.bucket_names.staging}: they hold what senders sent."
  }
  validation {
    condition     = var.settings.capacity_retries >= 0 && var.settings.capacity_retries <= 100 && var.settings.capacity_retry_delay >= 1 && var.settings.capacity_retry_delay <= 86400
    error_message = "settings: capacity_retries is 0 to 100, capacity_retry_delay 1 to 86400 seconds."
  }
  validation {
    condition = alltrue([
      var.settings.cluster_idle_ttl == 0 || (var.settings.cluster_idle_ttl >= 300 && var.settings.cluster_idle_ttl <= 1209600),
      var.settings.cluster_max_ttl == 0 || (var.settings.cluster_max_ttl >= 600 && var.settings.cluster_max_ttl <= 1209600),
    ])
    error_message = "settings: cluster_idle_ttl is 300 to 1209600 seconds, cluster_max_ttl 600 to 1209600, or 0 for none."
  }
  validation {
    condition     = var.settings.max_request_age >= 1 && var.settings.max_request_age <= 604800 && var.settings.retry_delay >= 1 && var.settings.retry_delay <= 600
    error_message = "settings: max_request_age is 1 to 604800 seconds, retry_delay 1 to 600."
  }
  validation {
    condition     = contains(["enforce", "warn"], var.settings.rules)
    error_message = "settings.rules must be enforce or warn."
  }
  validation {
    condition     = var.settings.submit_lease >= 1 && var.settings.submit_lease <= 3600
    error_message = "settings.submit_lease must be 1 to 3600 seconds."
  }
  validation {
    condition     = alltrue([for number in values(var.settings) : try(floor(number) == number, true) if can(tonumber(number))])
    error_message = "settings: numbers must be whole."
  }
}

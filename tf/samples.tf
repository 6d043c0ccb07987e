# A job to begin with. The output example_request is a request that runs it, from the bucket of the code; it writes its
# result to the clusters' bucket.

locals {
  scripts = "${path.module}/../fixtures/scripts"
  samples = toset(["log_role.sh", "word_count.py", "words.txt"])

  example_request = jsonencode({
    job_name = "word-count"
    jobs = [{
      step_id = "count"
      pyspark_job = {
        main_python_file_uri = "gs://${local.bucket_names.code}/scripts/word_count.py"
        args = [
          "--input", "gs://${local.bucket_names.code}/scripts/words.txt",
          "--output", "gs://${local.bucket_names.dataproc}/word-count/",
        ]
      }
    }]
    cluster_init_actions = [{
      executable_file   = "gs://${local.bucket_names.code}/scripts/log_role.sh"
      execution_timeout = "60s"
    }]
  })
}

resource "google_storage_bucket_object" "samples" {
  for_each = local.samples

  bucket = google_storage_bucket.code.name
  name   = "scripts/${each.value}"
  source = "${local.scripts}/${each.value}"
}

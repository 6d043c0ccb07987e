# The examples can be planned as they are.

mock_provider "google" {}
mock_provider "google-beta" {}
mock_provider "time" {}

variables {
  project = "my-project"
  region  = "us-central1"
  image   = "us-central1-docker.pkg.dev/my-project/inline-workflow/function:0.1.0"
}

run "example_minimal" {
  command = plan

  module {
    source = "./examples/minimal"
  }

  assert {
    condition     = jsondecode(output.example_request).job_name == "word-count"
    error_message = "the example gives a request to publish"
  }
}

run "example_full" {
  command = plan

  module {
    source = "./examples/full"
  }

  assert {
    condition     = output.history_table == "my-project.nightly_jobs.events"
    error_message = "the example has a history"
  }
}

run "example_two_steps" {
  command = plan

  module {
    source = "./examples/two-steps"
  }

  variables {
    image = ""
  }

  assert {
    condition     = output.image_repository == "us-central1-docker.pkg.dev/my-project/inline-workflow"
    error_message = "the first step makes the repository that the image is pushed to"
  }
}

run "example_two_deployments" {
  command = plan

  module {
    source = "./examples/two-deployments"
  }
}

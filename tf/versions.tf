terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 7, < 9"
    }
    # For google_project_service_identity alone, which the other one lacks.
    google-beta = {
      source  = "hashicorp/google-beta"
      version = ">= 7, < 9"
    }
    # For time_sleep alone, which waits where Google's provider does not: README.md, "Waits".
    time = {
      source  = "hashicorp/time"
      version = ">= 0.9, < 1"
    }
  }
}

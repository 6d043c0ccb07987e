variable "image" {
  description = "The image of both functions, with a tag or a digest."
  type        = string
}

variable "kms_key" {
  description = "A key in the region for topics and buckets of both; null: Google's keys."
  type        = string
  default     = null
}

variable "project" {
  description = "Id of the project."
  type        = string
}

variable "region" {
  description = "Region of the functions and the clusters."
  type        = string
}

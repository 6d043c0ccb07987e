variable "force_destroy" {
  description = "Whether a destroy may delete records, logs and history."
  type        = bool
  default     = false
}

variable "image" {
  description = "The function's image, with a tag or a digest."
  type        = string
}

variable "project" {
  description = "Id of the project."
  type        = string
}

variable "region" {
  description = "Region of the function and the clusters."
  type        = string
}

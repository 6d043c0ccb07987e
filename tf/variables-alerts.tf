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
    condition     = var.alerts.oldest_run_seconds >= 600 && var.alerts.unacked_seconds >= 60
    error_message = "alerts: oldest_run_seconds must be at least 600, unacked_seconds at least 60."
  }
  validation {
    # Logging may count a line ten minutes late; Monitoring looks back 23.5 hours and takes whole minutes.
    condition     = var.alerts.tick_silence_seconds >= 600 && var.alerts.tick_silence_seconds <= 84600 && var.alerts.tick_silence_seconds % 60 == 0
    error_message = "alerts.tick_silence_seconds must be whole minutes, from 600 to 84600 seconds."
  }
}

# Optional: topics and buckets under a key of one's own. Google's agents encrypt and decrypt with it for their services.

resource "google_kms_crypto_key_iam_member" "pubsub" {
  count = var.kms_key == null ? 0 : 1

  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = google_project_service_identity.agents["pubsub.googleapis.com"].member
}

resource "google_kms_crypto_key_iam_member" "storage" {
  count = var.kms_key == null ? 0 : 1

  crypto_key_id = var.kms_key
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = data.google_storage_project_service_account.agent[0].member
}

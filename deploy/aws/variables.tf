variable "bucket_name" {
  description = "The bucket that the trail writes its log files to."
  type        = string
}

variable "bucket_prefix" {
  description = "The trail's prefix in the bucket, with a slash at its end; empty when it has none."
  type        = string
  default     = ""

  validation {
    condition     = var.bucket_prefix == "" || endswith(var.bucket_prefix, "/")
    error_message = "bucket_prefix must end with a slash."
  }
}

variable "kms_key_arn" {
  description = "The KMS key that the trail encrypts its log files with; null when it uses none. Its key policy must allow the role too, where the key is another account's."
  type        = string
  default     = null
}

variable "name" {
  description = "The name of the queue, the rule and the role."
  type        = string
  default     = "catchment"
}

variable "manage_bucket_notification" {
  description = "Whether this module sets the bucket's notification configuration, which replaces what is there."
  type        = bool
  default     = true
}

variable "eventbridge" {
  description = "Whether to make the rule and queue that tell of calls within seconds, in the provider's region."
  type        = bool
  default     = true
}

variable "backfill" {
  description = "Whether the role may list the bucket, which `catchment backfill` needs."
  type        = bool
  default     = true
}

variable "doctor" {
  description = "Whether the role may look at trails and notifications, which `catchment doctor aws` checks."
  type        = bool
  default     = true
}

variable "max_receives" {
  description = "Tries before a message goes to the dead-letter queue."
  type        = number
  default     = 10
}

variable "trusted_principals" {
  description = "ARNs that may assume the role: the role of the machine that Catchment runs on. Empty makes no role; attach the output policy_json instead."
  type        = list(string)
  default     = []
}

variable "external_id" {
  description = "An id that must be given when the role is assumed; null for none."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}

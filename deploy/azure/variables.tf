variable "root_management_group_name" {
  description = "The management group whose changes are wanted, by its id. That of the root group is the tenant's id."
  type        = string
}

variable "resource_group_name" {
  description = "The resource group that is to hold the event hub."
  type        = string
}

variable "subscription_id" {
  description = "The subscription that is to hold the event hub."
  type        = string
}

variable "create_resource_group" {
  description = "Make the resource group. Set to false where it exists."
  type        = bool
  default     = true
}

variable "location" {
  description = "The region of the event hub."
  type        = string
  default     = "westeurope"
}

variable "namespace_name" {
  description = "The Event Hubs namespace; its name is taken once in all of Azure. By default catchment- and the first eight digits of the subscription's id."
  type        = string
  default     = null
}

variable "hub_name" {
  description = "The event hub."
  type        = string
  default     = "catchment"
}

variable "partition_count" {
  description = "Partitions of the event hub. More can be added later in the premium tier only."
  type        = number
  default     = 4
}

variable "retention_days" {
  description = "How long events are kept: as long as Catchment may be down without missing one. The standard tier allows 7 days."
  type        = number
  default     = 7
}

variable "maximum_throughput_units" {
  description = "To how many throughput units the namespace may grow from 1. Each takes 1 MB/s."
  type        = number
  default     = 4
}

variable "principal_id" {
  description = "The object id of the identity that Catchment runs as. Without it, no right to read is granted."
  type        = string
  default     = null
}

variable "stream_subscriptions" {
  description = "Stream the activity log of every subscription below the management group."
  type        = bool
  default     = true
}

variable "stream_entra" {
  description = "Stream the audit log of Entra ID. Needs Security Administrator in Entra ID."
  type        = bool
  default     = true
}

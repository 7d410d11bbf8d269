output "namespace" {
  description = "The namespace, for [sources.<name>.azure_event_hubs]."
  value       = azurerm_eventhub_namespace.logs.name
}

output "hub" {
  description = "The event hub, for the same."
  value       = azurerm_eventhub.logs.name
}

output "consumer_group" {
  description = "The consumer group, for the same."
  value       = azurerm_eventhub_consumer_group.catchment.name
}

output "hub_id" {
  description = "The event hub's resource id: the scope for Azure Event Hubs Data Receiver, where no principal_id was given."
  value       = azurerm_eventhub.logs.id
}

output "configuration" {
  description = "What to put into catchment.toml."
  value       = <<-EOT
    [sources.azure.azure_event_hubs]
    namespace = "${azurerm_eventhub_namespace.logs.name}"
    hub = "${azurerm_eventhub.logs.name}"
    consumer_group = "${azurerm_eventhub_consumer_group.catchment.name}"
  EOT
}

# Streams the activity log of a management group and of its subscriptions, and the audit log of Entra ID, to an event hub.

locals {
  namespace_name      = coalesce(var.namespace_name, "catchment-${substr(var.subscription_id, 0, 8)}")
  resource_group_name = var.create_resource_group ? azurerm_resource_group.logs[0].name : var.resource_group_name

  # Of the activity log, the category that holds changes.
  activity_category = "Administrative"
}

data "azurerm_management_group" "root" {
  name = var.root_management_group_name
}

resource "azurerm_resource_group" "logs" {
  count = var.create_resource_group ? 1 : 0

  name     = var.resource_group_name
  location = var.location
}

resource "azurerm_eventhub_namespace" "logs" {
  name                     = local.namespace_name
  resource_group_name      = local.resource_group_name
  location                 = var.location
  sku                      = "Standard"
  capacity                 = 1
  auto_inflate_enabled     = true
  maximum_throughput_units = var.maximum_throughput_units
  minimum_tls_version      = "1.2"
}

resource "azurerm_eventhub" "logs" {
  name                = var.hub_name
  namespace_name      = azurerm_eventhub_namespace.logs.name
  resource_group_name = local.resource_group_name
  partition_count     = var.partition_count
  message_retention   = var.retention_days
}

resource "azurerm_eventhub_consumer_group" "catchment" {
  name                = "catchment"
  namespace_name      = azurerm_eventhub_namespace.logs.name
  eventhub_name       = azurerm_eventhub.logs.name
  resource_group_name = local.resource_group_name
}

# Diagnostic settings send by a rule of the namespace, and need all three rights.
resource "azurerm_eventhub_namespace_authorization_rule" "diagnostic_settings" {
  name                = "diagnostic-settings"
  namespace_name      = azurerm_eventhub_namespace.logs.name
  resource_group_name = local.resource_group_name
  listen              = true
  send                = true
  manage              = true
}

resource "azurerm_role_assignment" "catchment" {
  count = var.principal_id == null ? 0 : 1

  scope                = azurerm_eventhub.logs.id
  role_definition_name = "Azure Event Hubs Data Receiver"
  principal_id         = var.principal_id
}

# Changes to the group itself and to what belongs to it.
resource "azapi_resource" "management_group_setting" {
  type                      = "Microsoft.Insights/diagnosticSettings@2020-01-01-preview"
  name                      = "catchment"
  parent_id                 = data.azurerm_management_group.root.id
  schema_validation_enabled = false

  body = {
    properties = {
      eventHubAuthorizationRuleId = azurerm_eventhub_namespace_authorization_rule.diagnostic_settings.id
      eventHubName                = azurerm_eventhub.logs.name
      logs                        = [{ category = local.activity_category, enabled = true }]
    }
  }
}

# Changes to resources. If the group's setting sends these too, a record that arrives twice counts once.
resource "azurerm_monitor_diagnostic_setting" "subscription" {
  for_each = var.stream_subscriptions ? toset(data.azurerm_management_group.root.all_subscription_ids) : toset([])

  name                           = "catchment"
  target_resource_id             = "/subscriptions/${each.value}"
  eventhub_authorization_rule_id = azurerm_eventhub_namespace_authorization_rule.diagnostic_settings.id
  eventhub_name                  = azurerm_eventhub.logs.name

  enabled_log {
    category = local.activity_category
  }
}

resource "azapi_resource" "entra_setting" {
  count = var.stream_entra ? 1 : 0

  type                      = "microsoft.aadiam/diagnosticSettings@2017-04-01"
  name                      = "catchment"
  parent_id                 = "/"
  schema_validation_enabled = false

  body = {
    properties = {
      eventHubAuthorizationRuleId = azurerm_eventhub_namespace_authorization_rule.diagnostic_settings.id
      eventHubName                = azurerm_eventhub.logs.name
      logs                        = [{ category = "AuditLogs", enabled = true }]
    }
  }
}

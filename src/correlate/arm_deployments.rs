//! Which deployment of Azure Resource Manager a change is part of.
//!
//! The operations of a deployment have its correlation id, and so do the deployments nested in it
//! (<https://learn.microsoft.com/azure/azure-resource-manager/templates/deployment-history>): the first one started is
//! the one that somebody requested. Its start is logged before the resources it creates, its end after them.

use super::memory::Memory;
use crate::model::{Deployment, DeploymentBegun, RecordInfo};

/// Adds the deployment that a change belongs to.
pub(super) fn complete(begun: &Memory<DeploymentBegun>, record: &mut RecordInfo, asset_id: &str) {
    let correlation = record.operation.request_id.as_deref().filter(|_| record.source.starts_with("//azure/"));
    let Some(first) = correlation.and_then(|correlation| begun.get(correlation)) else { return };
    if record.attribution.deployment.is_none() && !first.id.eq_ignore_ascii_case(asset_id) {
        record.attribution.deployment =
            Some(Deployment { kind: "arm_deployment".into(), id: first.id.clone(), how: "correlationId".into() });
    }
}

/// Whether this deployment is now the first known of its correlation id.
pub(super) fn is_first(begun: &Memory<DeploymentBegun>, deployment: &DeploymentBegun) -> bool {
    begun.get(&deployment.correlation).is_none_or(|known| {
        let same = known.id.eq_ignore_ascii_case(&deployment.id);
        deployment.time < known.time && !same
    })
}

//! A record of the activity log, however it was delivered: by Event Hubs (in the present schema or that of 2017), by
//! the REST API, as an export of a Log Analytics table, or as an Event Grid event.
//!
//! <https://learn.microsoft.com/azure/azure-monitor/essentials/activity-log-schema>

use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_128;

use super::super::Outcome;
use super::arm::ArmId;
use super::fields::{Fields, text_of};
use crate::model::{DeploymentBegun, Phase, Time};

/// The fields of a record.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    /// `Microsoft.Compute/virtualMachines/write`, in the best spelling found.
    pub(super) operation: String,
    pub(super) phase: Phase,
    /// `Created`, `OK`, `NotFound`, …
    pub(super) sub_status: String,
    /// The ARM id, in the best spelling found.
    pub(super) resource_id: String,
    pub(super) correlation: Option<String>,
    pub(super) time: Time,
    pub(super) tenant: Option<String>,
    /// The HTTP method, in upper case.
    pub(super) method: Option<String>,
    pub(super) caller: Option<String>,
    pub(super) ip: Option<String>,
    pub(super) claims: Map<String, Value>,
    pub(super) authorization: Map<String, Value>,
    pub(super) properties: Map<String, Value>,
    pub(super) request: Option<Value>,
    pub(super) response: Option<Value>,
    /// The provider's own id of the record, which some ways of delivery drop.
    pub(super) event_data_id: Option<String>,
}

/// The operation of a deployment.
const DEPLOYMENT: &str = "Microsoft.Resources/deployments/write";

/// The correlation id that stands for none.
const NO_CORRELATION: &str = "00000000-0000-0000-0000-000000000000";

/// The claims that contain the tenant:
/// <https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference>.
const TENANT_CLAIMS: [&str; 2] = ["http://schemas.microsoft.com/identity/claims/tenantid", "tid"];

impl Activity {
    pub(super) fn read(record: &Map<String, Value>) -> Result<Self, Outcome> {
        let fields = Fields(record);
        let identity = fields.object(&["identity"]);
        let identity = Fields(&identity);
        let nested = |names: &[&str]| {
            let own = fields.object(names);
            if own.is_empty() { identity.object(names).into_owned() } else { own.into_owned() }
        };
        let claims = nested(&["claims", "claims_d"]);
        let authorization = nested(&["authorization", "authorization_d"]);
        let properties = fields.object(&["properties", "properties_d"]).into_owned();
        let inner = Fields(&properties);
        let request_line = fields.object(&["httpRequest"]);
        let request_line = Fields(&request_line);
        let operation = ArmId::best_cased(
            [
                fields.text(&["operationNameValue", "operationName"]),
                Fields(&authorization).text(&["action"]),
                inner.text(&["message"]),
            ]
            .into_iter()
            .flatten(),
        )
        .ok_or_else(|| Outcome::rejected("unknown_format", "an activity log record without operationName"))?
        .to_owned();
        let resource_id = resource_id(fields, inner, &authorization).ok_or_else(|| {
            Outcome::rejected("no_asset_named", format!("no asset named: the record of {operation} has no resourceId"))
        })?;
        let status = fields.text(&["activityStatusValue", "resultType", "status", "activityStatus"]);
        let sub_status = fields.text(&["activitySubstatusValue", "resultSignature", "subStatus"]).unwrap_or_default();
        Ok(Self {
            phase: phase(status),
            sub_status: sub_status.rsplit('.').next().unwrap_or_default().to_owned(),
            correlation: fields
                .text(&["correlationId"])
                .filter(|id| *id != NO_CORRELATION && !id.starts_with('/'))
                .map(str::to_ascii_lowercase),
            time: time(fields)?,
            tenant: fields
                .text(&["tenantId"])
                .or_else(|| Fields(&claims).text(&TENANT_CLAIMS))
                .map(str::to_ascii_lowercase),
            method: request_line.text(&["method"]).map(str::to_ascii_uppercase),
            caller: fields.text(&["caller"]).map(str::to_owned),
            ip: address(&[
                fields.text(&["callerIpAddress"]),
                request_line.text(&["clientIpAddress"]),
                Fields(&claims).text(&["ipaddr"]),
            ]),
            request: body(inner, "requestbody"),
            response: body(inner, "responseBody"),
            event_data_id: fields.text(&["eventDataId"]).map(str::to_owned),
            operation,
            resource_id,
            claims,
            authorization,
            properties,
        })
    }

    /// A key shared by all records of the operation; `None` without a correlation id. The `operationId` is of no use:
    /// it differs within operations.
    pub(super) fn operation_key(&self) -> Option<u128> {
        let correlation = self.correlation.as_deref()?;
        let parts = [correlation, &self.operation.to_ascii_lowercase(), &self.resource_id.to_ascii_lowercase()];
        Some(xxh3_128(parts.join("\n").as_bytes()))
    }

    /// The deployment, if the operation is one.
    pub(super) fn deployment(&self) -> Option<DeploymentBegun> {
        let correlation = self.correlation.clone().filter(|_| self.operation.eq_ignore_ascii_case(DEPLOYMENT))?;
        Some(DeploymentBegun { correlation, id: self.resource_id.clone(), time: self.time })
    }

    /// A key that identifies the record, however it was delivered: a hash of its operation, phase, sub-status and time,
    /// or of all its text if it has no correlation id.
    pub(super) fn record_key(&self, text: &str) -> u128 {
        let own = format!("{:?}\n{}\n{}", self.phase, self.sub_status.to_ascii_lowercase(), self.time.millis());
        match self.operation_key() {
            Some(operation) => xxh3_128(format!("{operation:032x}\n{own}").as_bytes()),
            None => xxh3_128(text.as_bytes()),
        }
    }

    /// The last part of the operation's name in lower case: `write`, `delete`, `action`, `read` or another.
    pub(super) fn verb(&self) -> String {
        self.operation.rsplit('/').next().unwrap_or_default().to_ascii_lowercase()
    }

    /// Whether the response says that the resource is new.
    pub(super) fn says_created(&self) -> bool {
        self.sub_status.eq_ignore_ascii_case("created") || self.sub_status == "201"
    }

    /// Whether the response says that the resource existed.
    pub(super) fn says_existed(&self) -> bool {
        self.sub_status.eq_ignore_ascii_case("ok") || self.sub_status == "200"
    }
}

fn resource_id(fields: Fields<'_>, properties: Fields<'_>, authorization: &Map<String, Value>) -> Option<String> {
    let told = fields.text(&["resourceId", "_resourceId", "resourceUri"]).or_else(|| properties.text(&["entity"]));
    // `<resource id>/events/<event>/ticks/<time>`
    let of_event = || fields.text(&["id"]).and_then(|id| id.split_once("/events/")).map(|(id, _)| id);
    let told = told.or_else(of_event)?;
    let spellings = [Fields(authorization).text(&["scope"]), properties.text(&["entity"])].into_iter().flatten();
    ArmId::best_cased(std::iter::once(told).chain(spellings)).map(str::to_owned)
}

fn phase(status: Option<&str>) -> Phase {
    let status = status.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    match status.as_str() {
        "start" | "started" => Phase::Started,
        "success" | "succeeded" | "completed" | "ok" => Phase::Succeeded,
        "fail" | "failed" | "failure" | "error" | "cancel" | "canceled" | "cancelled" | "rejected" | "denied" => {
            Phase::Failed
        }
        _ => Phase::Accepted,
    }
}

fn time(fields: Fields<'_>) -> Result<Time, Outcome> {
    let missing =
        || Outcome::rejected("no_event_time", "no time or eventTimestamp; a change without a time can't be ordered");
    let text = fields.text(&["eventTimestamp", "time", "timeGenerated"]).ok_or_else(missing)?;
    text.parse().map_err(|error| Outcome::rejected("no_event_time", format!("time: {error}")))
}

/// The first IP address. Some have a port (`198.51.100.7:50123`).
pub(super) fn address(candidates: &[Option<&str>]) -> Option<String> {
    candidates.iter().flatten().find_map(|text| {
        let socket = || text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip());
        text.parse::<std::net::IpAddr>().ok().or_else(socket).filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string())
    })
}

/// A body: a non-empty object, possibly as JSON in a string.
fn body(properties: Fields<'_>, name: &str) -> Option<Value> {
    let value = properties.get(&[name])?;
    let value = match text_of(value) {
        Some(text) if value.is_string() => serde_json::from_str(text).ok()?,
        _ => value.clone(),
    };
    value.as_object().is_some_and(|members| !members.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(record: Value) -> Activity {
        Activity::read(record.as_object().unwrap()).unwrap()
    }

    const ID: &str =
        "/subscriptions/0f1e2d3c-0000-4000-8000-000000000001/resourceGroups/Web/providers/Microsoft.Web/sites/Shop";

    #[test]
    fn one_record_is_the_same_in_every_shape() {
        let hub = read(json!({
            "time": "2024-05-06T07:08:09.1234567Z", "resourceId": ID.to_ascii_uppercase(), "operationName": "MICROSOFT.WEB/SITES/WRITE",
            "category": "Administrative", "resultType": "Success", "resultSignature": "Succeeded.Created", "durationMs": "12",
            "callerIpAddress": "192.0.2.10", "correlationId": "9A4F0001-0000-4000-8000-000000000001",
            "identity": { "authorization": { "scope": ID, "action": "Microsoft.Web/sites/write" },
                          "claims": { "http://schemas.microsoft.com/identity/claims/tenantid": "T1" } },
            "properties": "{\"requestbody\":\"{\\\"location\\\":\\\"westeurope\\\"}\"}",
        }));
        let rest = read(json!({
            "eventTimestamp": "2024-05-06T07:08:09.1234567Z", "resourceId": ID, "operationName": { "value": "Microsoft.Web/sites/write" },
            "category": { "value": "Administrative" }, "status": { "value": "Succeeded" }, "subStatus": { "value": "Created" },
            "httpRequest": { "clientIpAddress": "192.0.2.10", "method": "PUT" }, "tenantId": "t1",
            "correlationId": "9a4f0001-0000-4000-8000-000000000001", "eventDataId": "e1",
            "properties": { "requestbody": "{\"location\":\"westeurope\"}" },
        }));
        assert_eq!((hub.operation.as_str(), hub.resource_id.as_str()), ("Microsoft.Web/sites/write", ID));
        assert_eq!((hub.operation_key(), hub.record_key("a")), (rest.operation_key(), rest.record_key("b")));
        assert_eq!((hub.phase, hub.says_created(), hub.verb().as_str()), (Phase::Succeeded, true, "write"));
        assert_eq!((&hub.tenant, &hub.ip, &hub.request), (&rest.tenant, &rest.ip, &rest.request));
        assert_eq!(rest.request, Some(json!({ "location": "westeurope" })));
        let snake = read(json!({
            "event_timestamp": "2024-05-06T07:08:09Z", "resource_id": ID, "operation_name": { "value": "Microsoft.Web/sites/write" },
            "status": { "value": "Started" }, "correlation_id": "9a4f0001-0000-4000-8000-000000000001",
        }));
        assert_eq!((snake.operation_key(), snake.phase), (hub.operation_key(), Phase::Started));
    }

    #[test]
    fn what_a_record_lacks() {
        let bare = json!({ "time": "2024-05-06T07:08:09Z", "resourceId": ID, "operationName": "Microsoft.Web/sites/delete",
                           "correlationId": NO_CORRELATION, "callerIpAddress": "<null>" });
        let bare = read(bare);
        assert_eq!((bare.operation_key(), bare.phase, &bare.ip), (None, Phase::Accepted, &None));
        assert_ne!(bare.record_key("one"), bare.record_key("another"));
        let by_event = json!({ "eventTimestamp": "2024-05-06T07:08:09Z", "id": format!("{ID}/events/e/ticks/1"), "operationName": { "value": "x/write" } });
        assert_eq!(read(by_event).resource_id, ID);
        for (record, code) in [
            (json!({ "time": "2024-05-06T07:08:09Z", "operationName": "x/write" }), "no_asset_named"),
            (json!({ "resourceId": ID, "operationName": "x/write" }), "no_event_time"),
            (json!({ "resourceId": ID, "time": "soon", "operationName": "x/write" }), "no_event_time"),
            (json!({ "resourceId": ID, "time": "2024-05-06T07:08:09Z" }), "unknown_format"),
        ] {
            let found = Activity::read(record.as_object().unwrap());
            assert!(matches!(found, Err(Outcome::Rejected { code: found, .. }) if found == code), "{record}");
        }
        assert_eq!(address(&[None, Some("198.51.100.7:50123")]).as_deref(), Some("198.51.100.7"));
    }
}

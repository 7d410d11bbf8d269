//! Attribution of Azure records: from the claims of the token in an activity record, and from the initiator in an Entra
//! record. Activity records have no user agent: only the client application hints at the method.
//!
//! <https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference>

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::method::{Field, MethodRules, Seen};
use super::activity::{Activity, address};
use super::arm::ArmId;
use super::fields::Fields;
use crate::model::{Attribution, Confidence, Human, Principal, Tool, Workload};

/// `normalizers/azure/apps.toml`: client applications by id. Entries from the operator's folder take precedence.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::normalize) struct Apps {
    pub(in crate::normalize) apps: BTreeMap<String, App>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::normalize) struct App {
    name: String,
    method: Arc<str>,
    confidence: Confidence,
}

impl Apps {
    fn get(&self, id: &str) -> Option<&App> {
        self.apps.get(&id.to_ascii_lowercase())
    }
}

/// The fields that the rules examine.
#[derive(Default)]
struct Told<'r> {
    app_id: Option<&'r str>,
    token_type: Option<&'r str>,
    managed_identity: Option<&'r str>,
    user_agent: Option<&'r str>,
    caller: Option<&'r str>,
}

impl Seen for Told<'_> {
    fn field(&self, field: Field) -> Option<&str> {
        match field {
            Field::AppId => self.app_id,
            Field::TokenType => self.token_type,
            Field::ManagedIdentity => self.managed_identity,
            Field::UserAgent => self.user_agent,
            Field::Caller => self.caller,
            _ => None,
        }
    }
}

fn method(apps: &Apps, rules: &MethodRules, told: &Told<'_>) -> (Arc<str>, String, Confidence, Option<Tool>) {
    if let Some((id, app)) = told.app_id.and_then(|id| Some((id, apps.get(id)?))) {
        let tool = Tool { name: app.name.clone(), version: None };
        return (
            Arc::clone(&app.method),
            format!("client application {id} is {}", app.name),
            app.confidence,
            Some(tool),
        );
    }
    let (method, mut reason, confidence, tool) = rules.method(told);
    if &*method == "other" {
        reason = told.app_id.map_or_else(
            || "no client application in the record".to_owned(),
            |id| format!("client application {id} is unknown; azure/apps.toml can name it"),
        );
    }
    (method, reason, confidence, tool)
}

const CLAIMS: &str = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/";
const MS_CLAIMS: &str = "http://schemas.microsoft.com/identity/claims/";

/// The attribution of an operation in the activity log.
pub(super) fn of_activity(apps: &Apps, rules: &MethodRules, record: &Activity) -> Attribution {
    let claims = Fields(&record.claims);
    let claim = |base: &str, name: &str| claims.text(&[&format!("{base}{name}")]);
    let user = claim(CLAIMS, "upn")
        .or_else(|| claims.text(&["upn", "unique_name"]))
        .or_else(|| claim(CLAIMS, "emailaddress"))
        .or_else(|| record.caller.as_deref().filter(|caller| caller.contains('@')));
    let managed_identity = claims.text(&["xms_mirid"]);
    let app_id = claims.text(&["appid", "azp"]);
    let has_secret = matches!(claims.text(&["appidacr", "azpacr"]), Some("1" | "2"));
    let token_type = match (claims.text(&["idtyp"]), user) {
        (Some(kind), _) => Some(kind),
        (None, Some(_)) => Some("user"),
        (None, None) if app_id.is_some() && has_secret => Some("app"),
        (None, None) => None,
    };
    let told = Told { app_id, token_type, managed_identity, user_agent: None, caller: record.caller.as_deref() };
    let (method, method_reason, confidence, tool) = method(apps, rules, &told);
    let object_id = claim(MS_CLAIMS, "objectidentifier").or_else(|| claims.text(&["oid"]));
    let authn = claims.text(&["http://schemas.microsoft.com/claims/authnmethodsreferences", "amr"]);
    let evidence = Fields(&record.authorization).object(&["evidence"]);
    let kind = match (managed_identity, token_type) {
        (Some(_), _) => "managed_identity",
        (None, Some("user")) => "user",
        (None, Some("app")) => "service_principal",
        _ => principal_kind(Fields(&evidence).text(&["principalType"])),
    };
    let id = object_id.or_else(|| record.caller.as_deref().filter(|caller| !caller.contains('@')));
    let principal = (id.is_some() || user.is_some()).then(|| Principal {
        kind: kind.into(),
        id: id.map(str::to_owned),
        arn: None,
        name: user.or_else(|| claims.text(&["name", "app_displayname"])).or(managed_identity).map(str::to_owned),
        account: record.tenant.clone(),
    });
    Attribution {
        method,
        method_reason,
        confidence,
        tool,
        ip: record.ip.clone(),
        user_agent: None,
        human: user.filter(|_| kind == "user").map(|user| Human { id: user.to_owned(), how: "userName".into() }),
        // The claim lists the authentication methods: `pwd,mfa`.
        mfa: authn.map(|methods| methods.split([',', ' ', '"', '[', ']']).any(|method| method == "mfa")),
        workload: managed_identity.map(|id| workload(id, record.tenant.as_deref().unwrap_or("-"))),
        principal,
        ..Attribution::default()
    }
}

fn principal_kind(told: Option<&str>) -> &'static str {
    match told.map(str::to_ascii_lowercase).as_deref() {
        Some("user") => "user",
        Some("serviceprincipal") => "service_principal",
        Some("group") => "group",
        _ => "unknown",
    }
}

/// The resource that a managed identity belongs to.
fn workload(id: &str, tenant: &str) -> Workload {
    let name = ArmId::parse(id).and_then(ArmId::whole).map(|id| id.asset_name(tenant));
    Workload { kind: "managed_identity".into(), id: id.to_owned(), name, how: "xms_mirid".into() }
}

/// The attribution of an Entra record: from `initiatedBy`, and the user agent and address beside it.
pub(super) fn of_audit(
    apps: &Apps,
    rules: &MethodRules,
    initiated_by: &Map<String, Value>,
    user_agent: Option<&str>,
    (address_told, tenant): (Option<&str>, &str),
) -> Attribution {
    let initiator = Fields(initiated_by);
    let (user, app) = (initiator.object(&["user"]), initiator.object(&["app"]));
    let (user, app) = (Fields(&user), Fields(&app));
    let name = user.text(&["userPrincipalName"]).or_else(|| user.text(&["displayName"]));
    let is_user = name.is_some() || user.text(&["id"]).is_some();
    let app_name = app.text(&["displayName", "servicePrincipalName"]);
    let told = Told {
        app_id: app.text(&["appId"]),
        token_type: if is_user { Some("user") } else { app_name.or(app.text(&["servicePrincipalId"])).map(|_| "app") },
        user_agent,
        caller: name.or(app_name),
        ..Told::default()
    };
    let (method, method_reason, confidence, tool) = method(apps, rules, &told);
    let principal = told.token_type.map(|kind| Principal {
        kind: if kind == "user" { "user" } else { "service_principal" }.into(),
        id: if is_user { user.text(&["id"]) } else { app.text(&["servicePrincipalId", "appId"]) }.map(str::to_owned),
        arn: None,
        name: told.caller.map(str::to_owned),
        account: (tenant != "-").then(|| tenant.to_owned()),
    });
    Attribution {
        method,
        method_reason,
        confidence,
        tool,
        ip: address(&[user.text(&["ipAddress"]), address_told]),
        user_agent: user_agent.map(str::to_owned),
        human: user.text(&["userPrincipalName"]).map(|id| Human { id: id.to_owned(), how: "userName".into() }),
        principal,
        ..Attribution::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn attributed(claims: &Value, caller: Option<&str>) -> Attribution {
        let apps: Apps = toml::from_str(include_str!("../../../normalizers/azure/apps.toml")).unwrap();
        let rules: MethodRules = toml::from_str(include_str!("../../../normalizers/azure/attribution.toml")).unwrap();
        let record = json!({
            "time": "2024-05-06T07:08:09Z", "resourceId": "/subscriptions/s", "operationName": "x/write", "tenantId": "t",
            "callerIpAddress": "192.0.2.10", "identity": { "claims": claims }, "caller": caller,
        });
        of_activity(&apps, &rules, &Activity::read(record.as_object().unwrap()).unwrap())
    }

    #[test]
    fn the_client_application_tells_the_method() {
        let upn = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn";
        for (claims, method, confidence, kind, human) in [
            (
                json!({ "appid": "C44B4083-3BB0-49C1-B47D-974E53CBDF3C", upn: "jane@example.com" }),
                "console",
                Confidence::High,
                "user",
                true,
            ),
            // Other programs borrow the login of the command line.
            (
                json!({ "appid": "04b07795-8ddb-461a-bbee-02f9e1bf7b46", upn: "jane@example.com" }),
                "cli",
                Confidence::Medium,
                "user",
                true,
            ),
            (
                json!({ "appid": "7f1d0000-0000-4000-8000-000000000001", "appidacr": "1", "oid": "o" }),
                "sdk",
                Confidence::Low,
                "service_principal",
                false,
            ),
            (
                json!({ "appid": "7f1d0000-0000-4000-8000-000000000001", "xms_mirid": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Web/sites/a", "oid": "o" }),
                "sdk",
                Confidence::Medium,
                "managed_identity",
                false,
            ),
            (
                json!({ "appid": "7f1d0000-0000-4000-8000-000000000001", upn: "jane@example.com" }),
                "other",
                Confidence::Low,
                "user",
                true,
            ),
        ] {
            let found = attributed(&claims, None);
            assert_eq!((&*found.method, found.confidence), (method, confidence), "{claims}: {}", found.method_reason);
            assert_eq!(found.principal.unwrap().kind, kind, "{claims}");
            assert_eq!(found.human.is_some(), human, "{claims}");
            assert_eq!(found.ip.as_deref(), Some("192.0.2.10"));
        }
    }

    #[test]
    fn second_factors_and_identities_of_resources() {
        let methods = "http://schemas.microsoft.com/claims/authnmethodsreferences";
        assert_eq!(attributed(&json!({ methods: "pwd,mfa" }), None).mfa, Some(true));
        assert_eq!(attributed(&json!({ methods: "rsa" }), None).mfa, Some(false));
        assert_eq!(attributed(&json!({}), Some("jane@example.com")).mfa, None);
        assert_eq!(attributed(&json!({}), Some("jane@example.com")).human.unwrap().id, "jane@example.com");
        let id = "/subscriptions/S/resourcegroups/G/providers/Microsoft.ManagedIdentity/userAssignedIdentities/I";
        let workload = attributed(&json!({ "xms_mirid": id }), None).workload.unwrap();
        assert_eq!(
            workload.name.unwrap().as_str(),
            "asset://azure/s/-/resourcegroups/g/providers/microsoft.managedidentity/userassignedidentities/i"
        );
    }
}

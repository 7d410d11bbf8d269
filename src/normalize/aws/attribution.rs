//! Attribution from one CloudTrail record: who made the call, from where, with what tool.
//!
//! The method is determined by rules (`normalizers/aws/attribution.toml`), the principal by the userIdentity element
//! (<https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-user-identity.html>).

use std::net::IpAddr;

use super::super::method::{Field, MethodRules, Seen};
use super::record::Record;
use super::workload;
use crate::json::Json;
use crate::model::{Assumed, Attribution, Human, OnBehalfOf, Principal};

/// The fields that the rules examine.
struct Facts<'r> {
    identity_type: Option<&'r str>,
    event_type: Option<&'r str>,
    invoked_by: Option<&'r str>,
    user_agent: Option<&'r str>,
    source_address: Option<&'r str>,
    console_session: Option<&'static str>,
}

impl Seen for Facts<'_> {
    fn field(&self, field: Field) -> Option<&str> {
        match field {
            Field::IdentityType => self.identity_type,
            Field::EventType => self.event_type,
            Field::InvokedBy => self.invoked_by,
            Field::UserAgent => self.user_agent,
            Field::SourceAddress => self.source_address,
            Field::ConsoleSession => self.console_session,
            Field::AppId | Field::TokenType | Field::ManagedIdentity | Field::Caller => None,
        }
    }
}

impl MethodRules {
    /// The attribution of a record.
    pub(super) fn attribute(&self, record: &Record<'_>) -> Attribution {
        let identity = record.value("userIdentity").filter(|identity| identity.is_object());
        let of_identity = |path: &[&str]| identity.and_then(|identity| identity.text_at(path));
        let from_console = record.is_true("sessionCredentialFromConsole")
            || of_identity(&["sessionContext", "attributes", "sessionCredentialFromConsole"]) == Some("true");
        let seen = Facts {
            identity_type: of_identity(&["type"]),
            event_type: record.text("eventType"),
            invoked_by: of_identity(&["invokedBy"]),
            // S3 writes the user agent in brackets.
            user_agent: record
                .text("userAgent")
                .map(|agent| agent.strip_prefix('[').and_then(|agent| agent.strip_suffix(']')).unwrap_or(agent)),
            source_address: record.text("sourceIPAddress"),
            console_session: from_console.then_some("true"),
        };
        let (method, method_reason, confidence, tool) = self.method(&seen);
        let principal = identity.map(principal);
        let assumed = identity.and_then(|identity| assumed(identity, principal.as_ref()));
        let workload = identity.zip(principal.as_ref()).and_then(|(identity, principal)| {
            workload::workload(identity, principal, assumed.as_ref(), seen.user_agent)
        });
        let deployment = (&*method == "cloudformation")
            .then(|| workload::stack_of_tags(record.value("requestParameters")?))
            .flatten();
        Attribution {
            method,
            method_reason,
            confidence,
            tool,
            ip: seen.source_address.filter(|address| address.parse::<IpAddr>().is_ok()).map(str::to_owned),
            human: identity.and_then(|identity| human(identity, principal.as_ref(), assumed.as_ref())),
            mfa: of_identity(&["sessionContext", "attributes", "mfaAuthenticated"]).map(|flag| flag == "true"),
            workload,
            deployment,
            on_behalf_of: identity.and_then(on_behalf_of),
            user_agent: seen.user_agent.map(str::to_owned),
            principal,
            assumed,
            detected_by: None,
        }
    }
}

fn principal(identity: Json<'_>) -> Principal {
    let kind: &'static str = match identity.text_at(&["type"]) {
        Some("Root") => "root",
        Some("IAMUser") => "user",
        Some("AssumedRole" | "Role") => "role",
        Some("FederatedUser") => "federated_user",
        Some("IdentityCenterUser") => "identity_center_user",
        Some("SAMLUser") => "saml_user",
        Some("WebIdentityUser") => "web_identity_user",
        Some("Directory") => "directory_user",
        Some("AWSAccount") => "account",
        Some("AWSService") => "service",
        _ => "unknown",
    };
    let own = |key| identity.text_at(&[key]);
    let of_issuer = |key| identity.text_at(&["sessionContext", "sessionIssuer", key]);
    let arn = own("arn");
    let name = own("userName").or_else(|| of_issuer("userName")).or_else(|| match kind {
        "root" => Some("root"),
        "service" => own("invokedBy"),
        // arn:aws:sts::123837392027:assumed-role/deployer/session
        "role" => arn?.split('/').nth(1),
        _ => arn?.rsplit('/').next(),
    });
    let account = own("accountId")
        .or_else(|| of_issuer("accountId"))
        .or_else(|| arn?.split(':').nth(4).filter(|account| !account.is_empty()));
    Principal {
        kind: kind.into(),
        id: own("principalId").map(str::to_owned),
        account: account.map(str::to_owned),
        arn: arn.map(str::to_owned),
        name: name.map(str::to_owned),
    }
}

fn assumed(identity: Json<'_>, principal: Option<&Principal>) -> Option<Assumed> {
    if identity.text_at(&["type"]) != Some("AssumedRole") {
        return None;
    }
    let arn = principal.and_then(|principal| principal.arn.as_deref());
    let id = principal.and_then(|principal| principal.id.as_deref());
    let told = identity.text_at(&["sessionContext", "sessionIssuer", "arn"]);
    let role_arn = told.map(str::to_owned).or_else(|| {
        // arn:aws:sts::123837392027:assumed-role/deployer/session contains the role without its path.
        let (head, tail) = arn?.split_once(":assumed-role/")?;
        Some(format!("{}:role/{}", head.replacen(":sts:", ":iam:", 1), tail.split('/').next()?))
    });
    let session_name = id
        .and_then(|id| id.split_once(':').map(|(_, session)| session))
        .or_else(|| arn.and_then(|arn| arn.split_once(":assumed-role/")?.1.split('/').nth(1)));
    Some(Assumed { role_arn, session_name: session_name.map(str::to_owned), chain: Vec::new() })
}

/// The person, by the strongest evidence in the record.
fn human(identity: Json<'_>, principal: Option<&Principal>, assumed: Option<&Assumed>) -> Option<Human> {
    let found = |id: &str, how: &'static str| Some(Human { id: id.to_owned(), how: how.into() });
    if let Some(source) = identity.text_at(&["sessionContext", "sourceIdentity"]) {
        return found(source, "sourceIdentity");
    }
    if let Some(user) = identity.text_at(&["onBehalfOf", "userId"]) {
        return found(user, "identityCenter");
    }
    let session = assumed.and_then(|assumed| assumed.session_name.as_deref());
    let role = assumed.and_then(|assumed| assumed.role_arn.as_deref()).unwrap_or_default();
    if let Some(session) = session.filter(|_| role.contains("AWSReservedSSO_")) {
        // IAM Identity Center names the session after the directory's user.
        return found(session, "identityCenterSession");
    }
    match principal.map(|principal| (&*principal.kind, principal.name.as_deref())) {
        Some(("user" | "identity_center_user", name)) => found(name?, "userName"),
        Some(("saml_user", name)) => found(name?, "samlSubject"),
        Some(("root", _)) => None,
        // A guess: a session name that looks like a mail address.
        _ => found(session.filter(|session| is_mail_address(session))?, "sessionName"),
    }
}

fn is_mail_address(text: &str) -> bool {
    text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.') && !host.contains('@'))
}

fn on_behalf_of(identity: Json<'_>) -> Option<OnBehalfOf> {
    let user = identity.get("onBehalfOf").filter(|user| user.is_object())?;
    let text = |key| user.text_at(&[key]).map(str::to_owned);
    Some(OnBehalfOf { user_id: text("userId"), identity_store_arn: text("identityStoreArn") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Arena;
    use crate::normalize::redact::Secrets;
    use serde_json::{Value, json};

    fn attributed(record: &Value) -> Attribution {
        let rules: MethodRules = toml::from_str(include_str!("../../../normalizers/aws/attribution.toml")).unwrap();
        let text = record.to_string();
        rules.attribute(&Record::whole(&text, &Arena::new(), &Secrets::default()).unwrap())
    }

    #[test]
    fn methods_by_their_evidence() {
        let agent = |agent: &str| json!({ "userIdentity": { "type": "IAMUser" }, "userAgent": agent, "sourceIPAddress": "192.0.2.10" });
        for (record, method, tool, version) in [
            (
                agent(
                    "APN/1.0 HashiCorp/1.0 Terraform/1.1.2 (+https://www.terraform.io) terraform-provider-aws/3.76.1",
                ),
                "terraform",
                Some("terraform"),
                Some("1.1.2"),
            ),
            (
                agent("aws-sdk-go/1.29.7 (go1.19; linux; amd64) terraform-provider-aws/4.0"),
                "terraform",
                Some("terraform"),
                None,
            ),
            (
                agent("[aws-cli/2.13.0 Python/3.11 md/command#ec2.run-instances]"),
                "cli",
                Some("aws-cli"),
                Some("2.13.0"),
            ),
            (agent("aws-cli/2.13.0 exec-env/CloudShell"), "cli", Some("cloudshell"), None),
            (agent("Boto3/1.34.0 md/Botocore#1.34.0"), "sdk", Some("boto3"), Some("1.34.0")),
            (agent("aws-sdk-go-v2/1.21.0 os/linux"), "sdk", Some("aws-sdk-go-v2"), Some("1.21.0")),
            (agent("[S3Console/0.4, aws-internal/3]"), "console", None, None),
            (agent("Mozilla/5.0 (X11; Linux)"), "console", None, None),
            (agent("console.ec2.amazonaws.com"), "console", None, None),
            (agent("something/1.0"), "api", None, None),
            (agent("-"), "other", None, None),
            (
                json!({ "userIdentity": { "type": "AWSService", "invokedBy": "delivery.logs.amazonaws.com" } }),
                "service",
                Some("delivery.logs.amazonaws.com"),
                None,
            ),
            (
                json!({ "userIdentity": { "type": "AssumedRole", "invokedBy": "autoscaling.amazonaws.com" }, "userAgent": "autoscaling.amazonaws.com" }),
                "service",
                Some("autoscaling.amazonaws.com"),
                None,
            ),
            (
                json!({ "userIdentity": { "type": "AssumedRole" }, "sourceIPAddress": "cloudformation.amazonaws.com" }),
                "cloudformation",
                Some("cloudformation"),
                None,
            ),
            (
                json!({ "userIdentity": { "type": "AssumedRole" }, "userAgent": "AWS Internal", "sessionCredentialFromConsole": "true" }),
                "console",
                None,
                None,
            ),
            (json!({ "userIdentity": null }), "other", None, None),
        ] {
            let attribution = attributed(&record);
            assert_eq!(&*attribution.method, method, "{record}: {}", attribution.method_reason);
            assert_eq!(attribution.tool.as_ref().map(|tool| tool.name.as_str()), tool, "{record}");
            assert_eq!(attribution.tool.and_then(|tool| tool.version).as_deref(), version, "{record}");
        }
    }

    #[test]
    fn a_session_of_a_role_and_the_person_behind_it() {
        let record = json!({ "sourceIPAddress": "AWS Internal", "userIdentity": {
            "type": "AssumedRole", "principalId": "AROAEXAMPLE:jane@example.com",
            "arn": "arn:aws:sts::111122223333:assumed-role/deployer/jane@example.com", "accountId": "111122223333",
            "sessionContext": { "sessionIssuer": {}, "attributes": { "mfaAuthenticated": "false" } } } });
        let attribution = attributed(&record);
        let assumed = attribution.assumed.unwrap();
        assert_eq!(assumed.role_arn.as_deref(), Some("arn:aws:iam::111122223333:role/deployer"));
        assert_eq!(assumed.session_name.as_deref(), Some("jane@example.com"));
        assert_eq!(attribution.principal.unwrap().name.as_deref(), Some("deployer"));
        assert_eq!(attribution.human, Some(Human { id: "jane@example.com".into(), how: "sessionName".into() }));
        assert_eq!((attribution.mfa, attribution.ip), (Some(false), None));
    }

    #[test]
    fn stronger_evidence_of_a_person_wins() {
        let identity = |extra: Value| {
            let mut identity = json!({ "type": "AssumedRole", "principalId": "AROA:i-0123",
                "arn": "arn:aws:sts::111122223333:assumed-role/AWSReservedSSO_Admin_1/release-manager",
                "sessionContext": { "sessionIssuer": { "arn": "arn:aws:iam::111122223333:role/aws-reserved/sso.amazonaws.com/AWSReservedSSO_Admin_1" } } });
            for (pointer, value) in extra.as_object().unwrap() {
                jsonptr::Pointer::parse(pointer).unwrap().assign(&mut identity, value.clone()).unwrap();
            }
            attributed(&json!({ "userIdentity": identity })).human.map(|human| (human.id, human.how.into_owned()))
        };
        assert_eq!(
            identity(json!({ "/sessionContext/sourceIdentity": "alice" })),
            Some(("alice".into(), "sourceIdentity".into()))
        );
        assert_eq!(identity(json!({ "/onBehalfOf/userId": "u-1" })), Some(("u-1".into(), "identityCenter".into())));
        assert_eq!(
            identity(json!({ "/principalId": "AROA:bob" })),
            Some(("bob".into(), "identityCenterSession".into()))
        );
        assert_eq!(identity(json!({ "/sessionContext/sessionIssuer/arn": "arn:aws:iam::1:role/x" })), None);
    }
}

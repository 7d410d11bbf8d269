//! Credentials in a CloudTrail record: those that made the call, and those that it issued.

use super::record::Record;
use crate::json::Json;
use crate::model::{AssetName, Attribution, Caller, Evidence, Session, Time, Workload};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The evidence in the record that relates it to other records.
pub(super) fn evidence(record: &Record<'_>) -> Evidence {
    let of = |member: &str, key| record.value(member).and_then(|value| value.text_at(&[key]));
    let is_deployment = record.text("eventSource") == Some("cloudformation.amazonaws.com");
    Evidence {
        access_key: of("userIdentity", "accessKeyId").map(str::to_owned),
        shared_event_id: record.text("sharedEventID").map(str::to_owned),
        acts_as: of("requestParameters", "roleARN").filter(|_| is_deployment).map(str::to_owned),
    }
}

/// Whether calls of a service may issue temporary credentials.
pub(super) fn hands_out(service: &str) -> bool {
    matches!(service, "sts.amazonaws.com" | "rolesanywhere.amazonaws.com")
}

/// The credentials that a call issued (AssumeRole and its like, GetSessionToken, GetFederationToken; CreateSession of
/// Roles Anywhere). `name` returns the name of an asset for its type, account, region and id.
pub(super) fn session(
    record: &Record<'_>,
    attribution: Attribution,
    name: impl Fn(&str, &str, &str, &str) -> Option<AssetName>,
) -> Option<Session> {
    let response = record.value("responseElements")?;
    let of_set = || response.get("credentialSet")?.as_array()?.first()?.get("credentials");
    let credentials = response.get("credentials").or_else(of_set).filter(|credentials| credentials.is_object())?;
    let access_key = credentials.text_at(&["accessKeyId"])?.to_owned();
    let started = record.text("eventTime")?.parse().ok()?;
    let workload = workload(record, &attribution, name).or(attribution.workload);
    let caller = Caller {
        access_key: evidence(record).access_key,
        principal: attribution.principal,
        role_arn: attribution.assumed.and_then(|assumed| assumed.role_arn),
        human: attribution.human,
        workload,
    };
    Some(Session { access_key, started, expires: credentials.get("expiration").and_then(expiration), caller })
}

/// The machine, function or pod for which AWS itself assumed a role. Then AWS chose the session's name, not a caller.
fn workload(
    record: &Record<'_>,
    attribution: &Attribution,
    name: impl Fn(&str, &str, &str, &str) -> Option<AssetName>,
) -> Option<Workload> {
    let principal = attribution.principal.as_ref().filter(|principal| principal.kind == "service")?;
    let request = record.value("requestParameters")?;
    let session = request.text_at(&["roleSessionName"])?;
    let account = request.text_at(&["roleArn"]).and_then(|arn| arn.split(':').nth(4));
    let region = record.text("awsRegion");
    let named = |provider_type| name(provider_type, account?, region?, session);
    let by_role = |kind: &'static str, name| {
        Some(Workload { kind: kind.into(), id: session.to_owned(), name, how: "assumeRole".into() })
    };
    match principal.name.as_deref()? {
        "ec2.amazonaws.com" if session.starts_with("i-") => by_role("ec2_instance", named("AWS::EC2::Instance")),
        "lambda.amazonaws.com" => by_role("lambda_function", named("AWS::Lambda::Function")),
        "ecs-tasks.amazonaws.com" => by_role("ecs_task", None),
        "pods.eks.amazonaws.com" => pod(request),
        _ => None,
    }
}

/// The pod, from the tags of EKS Pod Identity sessions
/// (<https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html>).
fn pod(request: Json<'_>) -> Option<Workload> {
    let tags = request.get("tags")?.as_array()?;
    let tag = |wanted| tags.iter().find(|tag| tag.text_at(&["key"]) == Some(wanted))?.text_at(&["value"]);
    let id = format!("{}/{}", tag("kubernetes-namespace")?, tag("kubernetes-service-account")?);
    Some(Workload { kind: "kubernetes_service_account".into(), id, name: None, how: "sessionTags".into() })
}

/// An expiration: `Jul 10, 2023, 12:09:47 PM` in most records, RFC 3339 or seconds since 1970 in others.
fn expiration(value: Json<'_>) -> Option<Time> {
    if let Some(seconds) = value.as_i64() {
        return Some(Time::from_millis(seconds.checked_mul(1_000)?));
    }
    // Newer Java writes a narrow no-break space before AM and PM.
    let text = value.as_str()?.replace('\u{202f}', " ");
    text.parse().ok().or_else(|| {
        let civil = DateTime::strptime("%b %d, %Y, %I:%M:%S %p", &text).ok()?;
        Some(Time::from_millis(civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Arena;
    use crate::normalize::{Engine, Outcome};
    use serde_json::{Value, json};

    /// The session that a whole record issues, by the engine with the built-in rules.
    fn told(record: &Value) -> Option<Session> {
        let mut full = json!({ "eventVersion": "1.08", "eventSource": "sts.amazonaws.com", "eventTime": "2024-05-06T07:08:09Z",
            "awsRegion": "eu-west-1", "eventID": "e-1", "recipientAccountId": "111122223333", "readOnly": true });
        full.as_object_mut().unwrap().extend(record.as_object().unwrap().clone());
        match Engine::load(None).unwrap().normalize(full.to_string().as_bytes()) {
            Outcome::Skipped { session, .. } => session.map(|session| *session),
            other => panic!("{other:?}"),
        }
    }

    fn credentials(key: &str) -> Value {
        json!({ "credentials": { "accessKeyId": key, "sessionToken": "t", "expiration": "May 6, 2024, 8:08:09 AM" } })
    }

    #[test]
    fn a_user_takes_a_role() {
        let session = told(&json!({ "eventName": "AssumeRole",
            "userIdentity": { "type": "IAMUser", "arn": "arn:aws:iam::111122223333:user/jane", "userName": "jane",
                              "accountId": "111122223333", "accessKeyId": "AKIAEXAMPLE" },
            "requestParameters": { "roleArn": "arn:aws:iam::111122223333:role/deployer", "roleSessionName": "x" },
            "responseElements": credentials("ASIAEXAMPLE") }))
        .unwrap();
        assert_eq!(session.access_key, "ASIAEXAMPLE");
        assert_eq!(session.expires, Some("2024-05-06T08:08:09Z".parse().unwrap()));
        assert_eq!(session.caller.access_key.as_deref(), Some("AKIAEXAMPLE"));
        assert_eq!(session.caller.human.unwrap().id, "jane");
        assert_eq!((session.caller.role_arn, session.caller.workload), (None, None));
    }

    #[test]
    fn a_role_hands_on_to_a_role() {
        let session = told(&json!({ "eventName": "AssumeRole",
            "userIdentity": { "type": "AssumedRole", "principalId": "AROA:s", "accessKeyId": "ASIA1",
                              "arn": "arn:aws:sts::111122223333:assumed-role/first/s" },
            "responseElements": credentials("ASIA2") }))
        .unwrap();
        assert_eq!(session.caller.role_arn.as_deref(), Some("arn:aws:iam::111122223333:role/first"));
        assert_eq!(session.caller.access_key.as_deref(), Some("ASIA1"));
    }

    #[test]
    fn aws_takes_a_role_for_a_function_a_machine_or_a_pod() {
        let by = |service: &str, session: &str| {
            told(&json!({ "eventName": "AssumeRole", "userIdentity": { "type": "AWSService", "invokedBy": service },
                "requestParameters": { "roleArn": "arn:aws:iam::111122223333:role/r", "roleSessionName": session,
                    "tags": [{ "key": "kubernetes-namespace", "value": "web" }, { "key": "kubernetes-service-account", "value": "api" }] },
                "responseElements": credentials("ASIA1") }))
            .unwrap()
            .caller
            .workload
            .map(|workload| (workload.kind.into_owned(), workload.id, workload.name.map(|name| name.to_string())))
        };
        let told =
            |kind: &str, id: &str, name: Option<&str>| Some((kind.to_owned(), id.to_owned(), name.map(str::to_owned)));
        assert_eq!(
            by("lambda.amazonaws.com", "report"),
            told("lambda_function", "report", Some("asset://aws/111122223333/eu-west-1/lambda/function/report"))
        );
        assert_eq!(
            by("ec2.amazonaws.com", "i-0123456789abcdef0"),
            told(
                "ec2_instance",
                "i-0123456789abcdef0",
                Some("asset://aws/111122223333/eu-west-1/ec2/instance/i-0123456789abcdef0")
            )
        );
        assert_eq!(by("pods.eks.amazonaws.com", "x"), told("kubernetes_service_account", "web/api", None));
        assert_eq!(by("config.amazonaws.com", "x"), None);
    }

    #[test]
    fn a_failed_or_other_call_hands_nothing_out() {
        assert_eq!(
            told(
                &json!({ "eventName": "AssumeRole", "errorCode": "AccessDenied", "responseElements": credentials("ASIA1") })
            ),
            None
        );
        assert_eq!(told(&json!({ "eventName": "GetCallerIdentity" })), None);
        assert_eq!(
            told(
                &json!({ "eventName": "ListBuckets", "eventSource": "s3.amazonaws.com", "responseElements": credentials("ASIA1") })
            ),
            None
        );
    }

    #[test]
    fn expirations_as_records_spell_them() {
        let expected = Some("2024-05-06T20:08:09Z".parse().unwrap());
        for spelled in [
            json!("May 6, 2024, 8:08:09 PM"),
            json!("May 6, 2024, 8:08:09\u{202f}PM"),
            json!("2024-05-06T20:08:09Z"),
            json!(1_715_026_089),
        ] {
            let arena = Arena::new();
            assert_eq!(expiration(Json::copied(&spelled, &arena)), expected, "{spelled}");
        }
        assert_eq!(expiration(Json::Text("soon")), None);
    }
}

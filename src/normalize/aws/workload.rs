//! The program behind a call, and the deployment that it belongs to, from one CloudTrail record.

use crate::json::Json;
use crate::model::{Assumed, Deployment, Principal, Workload};

/// The program that holds the credentials, by the strongest evidence in the record.
pub(super) fn workload(
    identity: Json<'_>,
    principal: &Principal,
    assumed: Option<&Assumed>,
    user_agent: Option<&str>,
) -> Option<Workload> {
    if principal.kind == "web_identity_user" {
        let provider = identity.text_at(&["identityProvider"]).unwrap_or_default();
        return web_identity(provider, principal.name.as_deref()?, "webIdentity");
    }
    let session = assumed?.session_name.as_deref()?;
    let of_session = |kind: &'static str, how: &'static str| {
        Some(Workload { kind: kind.into(), id: session.to_owned(), name: None, how: how.into() })
    };
    let context = identity.get("sessionContext");
    if session.starts_with("i-") {
        let delivered = context.and_then(|context| context.get("ec2RoleDelivery")).is_some();
        return of_session("ec2_instance", if delivered { "ec2RoleDelivery" } else { "sessionName" });
    }
    if let Some(federated) = context.and_then(|context| context.get("webIdFederationData"))
        && let Some(provider) = federated.text_at(&["federatedProvider"])
        && let Some(subject) = subject(federated)
    {
        return web_identity(provider, subject, "webIdFederationData");
    }
    if user_agent.is_some_and(|agent| agent.contains("exec-env/AWS_Lambda_")) {
        return of_session("lambda_function", "executionEnvironment");
    }
    None
}

/// The subject. The attribute is named after the provider: `token.actions.githubusercontent.com:sub`.
fn subject(federated: Json<'_>) -> Option<&str> {
    let attributes = federated.get("attributes")?.as_object()?;
    attributes.iter().find(|(key, _)| key.ends_with(":sub"))?.1.as_str().filter(|subject| !subject.is_empty())
}

/// The workload of a web identity. The form of the subject depends on the identity provider:
/// <https://docs.github.com/en/actions/concepts/security/openid-connect>,
/// <https://docs.gitlab.com/ci/secrets/id_token_authentication/>,
/// <https://docs.aws.amazon.com/eks/latest/userguide/iam-roles-for-service-accounts.html>.
fn web_identity(provider: &str, subject: &str, how: &'static str) -> Option<Workload> {
    let of_kind =
        |kind: &'static str, id: String| Some(Workload { kind: kind.into(), id, name: None, how: how.into() });
    if let Some(account) = subject.strip_prefix("system:serviceaccount:") {
        return of_kind("kubernetes_service_account", account.replacen(':', "/", 1));
    }
    let kind = match provider {
        provider if provider.contains("token.actions.githubusercontent.com") => "github_actions",
        _ if subject.starts_with("project_path:") => "gitlab_ci",
        _ => "web_identity",
    };
    of_kind(kind, subject.to_owned())
}

/// The stack, from the tags that CloudFormation puts on its resources
/// (<https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-properties-resource-tags.html>).
pub(super) fn stack_of_tags(request: Json<'_>) -> Option<Deployment> {
    let id = tag(request, "aws:cloudformation:stack-id").or_else(|| tag(request, "aws:cloudformation:stack-name"))?;
    Some(Deployment { kind: "cloudformation_stack".into(), id: id.to_owned(), how: "stackTags".into() })
}

/// A tag's value, wherever and in whatever form the call contains its tags.
fn tag<'a>(value: Json<'a>, wanted: &str) -> Option<&'a str> {
    match value {
        Json::Array(elements) => elements.iter().find_map(|element| tag(*element, wanted)),
        Json::Object(members) => {
            let text = |key: &&str| value.text_at(&[*key]);
            if ["key", "Key", "tagKey", "TagKey"].iter().any(|key| text(key) == Some(wanted)) {
                return ["value", "Value", "tagValue", "TagValue"].iter().find_map(text);
            }
            let plain = members.get(wanted).and_then(Json::as_str);
            plain.or_else(|| members.iter().find_map(|(_, member)| tag(member, wanted)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Arena;
    use serde_json::{Value, json};

    fn role_session(session: &str) -> (Principal, Assumed) {
        let principal = Principal { kind: "role".into(), id: None, arn: None, name: None, account: None };
        (principal, Assumed { session_name: Some(session.to_owned()), ..Assumed::default() })
    }

    #[test]
    fn programs_by_their_evidence() {
        let github = json!({ "sessionContext": { "webIdFederationData": {
            "federatedProvider": "arn:aws:iam::111122223333:oidc-provider/token.actions.githubusercontent.com",
            "attributes": { "token.actions.githubusercontent.com:sub": "repo:acme/web:ref:refs/heads/main",
                            "token.actions.githubusercontent.com:aud": "sts.amazonaws.com" } } } });
        let eks = json!({ "sessionContext": { "webIdFederationData": {
            "federatedProvider": "arn:aws:iam::111122223333:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE",
            "attributes": { "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE:sub": "system:serviceaccount:web:api" } } } });
        let delivered = json!({ "sessionContext": { "ec2RoleDelivery": "2.0" } });
        for (identity, session, agent, expected) in [
            (&github, "x", None, Some(("github_actions", "repo:acme/web:ref:refs/heads/main", "webIdFederationData"))),
            (&eks, "x", None, Some(("kubernetes_service_account", "web/api", "webIdFederationData"))),
            (&delivered, "i-0abc", None, Some(("ec2_instance", "i-0abc", "ec2RoleDelivery"))),
            (&json!({}), "i-0abc", None, Some(("ec2_instance", "i-0abc", "sessionName"))),
            (
                &json!({}),
                "report",
                Some("Boto3/1.34 exec-env/AWS_Lambda_python3.12"),
                Some(("lambda_function", "report", "executionEnvironment")),
            ),
            (&json!({ "sessionContext": { "webIdFederationData": {} } }), "jane", Some("aws-cli/2"), None),
        ] {
            let (principal, assumed) = role_session(session);
            let arena = Arena::new();
            let found = workload(Json::copied(identity, &arena), &principal, Some(&assumed), agent);
            let found = found.as_ref().map(|found| (&*found.kind, found.id.as_str(), &*found.how));
            assert_eq!(found, expected, "{identity}");
        }
        let user = Principal {
            kind: "web_identity_user".into(),
            name: Some("project_path:acme/web:ref_type:branch:ref:main".into()),
            ..role_session("").0
        };
        assert_eq!(workload(Json::EMPTY, &user, None, None).unwrap().kind, "gitlab_ci");
    }

    fn stack(request: &Value) -> Option<String> {
        let arena = Arena::new();
        stack_of_tags(Json::copied(request, &arena)).map(|deployment| deployment.id)
    }

    #[test]
    fn stacks_by_their_tags_in_every_spelling() {
        let arn = "arn:aws:cloudformation:eu-west-1:111122223333:stack/web/1";
        for request in [
            json!({ "tags": [{ "key": "a", "value": "b" }, { "key": "aws:cloudformation:stack-id", "value": arn }] }),
            json!({ "tagSpecificationSet": { "items": [{ "tags": [{ "key": "aws:cloudformation:stack-name", "value": "web" }, { "Key": "aws:cloudformation:stack-id", "Value": arn }] }] } }),
            json!({ "tags": { "aws:cloudformation:stack-id": arn } }),
        ] {
            assert_eq!(stack(&request).as_deref(), Some(arn), "{request}");
        }
        assert_eq!(stack(&json!({ "tags": [{ "key": "stack", "value": "web" }] })), None);
    }
}

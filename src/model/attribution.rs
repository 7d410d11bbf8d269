//! Attribution: who made a change, from where and with which tool.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::AssetName;

/// Attribution of a change, in the form in which the event shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Attribution {
    /// `console`, `cli`, `powershell`, `sdk`, `terraform`, `pulumi`, `cdk`, `cloudformation`, `ci`, `ide`, `service`,
    /// `api` (a program with a user agent of its own), `other`.
    pub method: Arc<str>,
    /// The evidence for the method, in words.
    pub method_reason: String,
    /// `high` if the provider itself says so, `medium` if only the client does, `low` if it is a guess.
    pub confidence: Confidence,
    /// The tool, if known.
    pub tool: Option<Tool>,
    /// The caller's IP address; null when the provider names one of its own services instead.
    pub ip: Option<String>,
    /// The user agent, without the brackets that some services put around it.
    pub user_agent: Option<String>,
    /// Whose credentials made the call.
    pub principal: Option<Principal>,
    /// The role behind temporary credentials.
    pub assumed: Option<Assumed>,
    /// The person behind the principal, if there is evidence.
    pub human: Option<Human>,
    /// The program behind the principal, if there is evidence.
    pub workload: Option<Workload>,
    /// The deployment that the change is a part of, if there is evidence.
    pub deployment: Option<Deployment>,
    /// Whether the session was authenticated with a second factor; null if unknown.
    pub mfa: Option<bool>,
    /// The user for whom a service or application acted.
    pub on_behalf_of: Option<OnBehalfOf>,
    /// `inventory` if no record reported the change: it was found by comparison with the provider's inventory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detected_by: Option<&'static str>,
}

/// How sure an attribution or a rule is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// The provider itself says so; the rule is known to be correct.
    High,
    /// Only the client says so; the rule's sources do not all agree.
    Medium,
    /// A guess.
    #[default]
    Low,
}

/// A tool and its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// `terraform`, `aws-cli`, `boto3`, `autoscaling.amazonaws.com`, …
    pub name: String,
    /// Its version, if known.
    pub version: Option<String>,
}

/// Whose credentials made the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// `root`, `user`, `role`, `federated_user`, `identity_center_user`, `saml_user`, `web_identity_user`, `account`,
    /// `service`, `directory_user`, `unknown`.
    pub kind: Cow<'static, str>,
    /// The provider's unique id: `AIDA…`, `AROA…:session`.
    pub id: Option<String>,
    /// The ARN of the user or of the session.
    pub arn: Option<String>,
    /// The name of the user or role.
    pub name: Option<String>,
    /// The account that it belongs to.
    pub account: Option<String>,
}

/// The role behind temporary credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assumed {
    /// The role.
    pub role_arn: Option<String>,
    /// The session's name.
    pub session_name: Option<String>,
    /// The roles assumed before it, nearest first, as far as their records are known.
    pub chain: Vec<String>,
}

/// The person behind a principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Human {
    /// A user name or mail address.
    pub id: String,
    /// The evidence, strongest first: `sourceIdentity`, `identityCenter`, `identityCenterSession`, `samlSubject`,
    /// `userName`; `sessionName` is a guess. With the prefix `chain.`, it comes from the call that assumed the role;
    /// with `deployment.`, from the call that started the deployment.
    pub how: Cow<'static, str>,
}

/// The program behind a principal: a machine, a function, a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// `ec2_instance`, `lambda_function`, `ecs_task`, `kubernetes_service_account`, `github_actions`, `gitlab_ci`,
    /// `web_identity`, `x509_certificate`.
    pub kind: Cow<'static, str>,
    /// The provider's id: `i-0abc`, a function's name, `repo:org/repo:ref:refs/heads/main`, `namespace/name`.
    pub id: String,
    /// The workload's asset, if the evidence suffices to name it.
    pub name: Option<AssetName>,
    /// The evidence: `assumeRole` (the provider assumed the role on its behalf), `ec2RoleDelivery`,
    /// `webIdFederationData`, `webIdentity`, `sessionTags`; `sessionName` and `executionEnvironment` are the caller's
    /// own claims. With the prefix `chain.`, it comes from an earlier call that assumed a role.
    pub how: Cow<'static, str>,
}

/// The deployment that a change is a part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// `cloudformation_stack`, `arm_deployment`.
    pub kind: Cow<'static, str>,
    /// The stack's ARN or name; the deployment's ARM id.
    pub id: String,
    /// The evidence: `stackTags` (the provider's own tags on the created asset), `serviceRole` or `samePrincipal` (the
    /// only recent deployment under that role, or by that principal), `correlationId`.
    pub how: Cow<'static, str>,
}

/// The user for whom a service or application acted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OnBehalfOf {
    /// The IAM Identity Center user id.
    pub user_id: Option<String>,
    /// Its identity store.
    pub identity_store_arn: Option<String>,
}

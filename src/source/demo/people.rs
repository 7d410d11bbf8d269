//! The principals of the fictional organisation, with their identity, address and user agent.

use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::scribe::{Call, Place, Scribe, seconds, wire_date};
use crate::model::Time;

/// Everyone and everything that makes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    // Console users with MFA.
    PlatformAdmin,
    SreOnCall,
    SecurityAuditor,
    // Users with access keys, by the command line.
    AppDeveloper,
    DataAnalyst,
    ReleaseBot,
    BackupOperator,
    // The app developer's key, stolen.
    Stranger,
    // People through single sign-on.
    CloudEngineer,
    DataEngineer,
    // A role that the cloud engineer assumes in an emergency.
    Responder,
    // Programs.
    Terraform,
    DataPipeline,
    DeployController,
    // AWS acting for the organisation.
    AutoScaling,
    CloudFormation,
}

/// What kind of principal somebody is to AWS.
enum Kind {
    /// An IAM user in the console.
    ConsoleUser,
    /// An IAM user with an access key.
    KeyUser,
    /// A person of IAM Identity Center, with the permission set.
    SingleSignOn { permission_set: &'static str, console: bool },
    /// A role of the account.
    Role,
    /// A role that an AWS service assumes.
    ServiceRole { service: &'static str },
}

/// The program that makes the calls.
enum Agent {
    Browser,
    Cli,
    Terraform,
    Boto,
    Go,
    Service(&'static str),
}

impl Who {
    fn profile(self) -> (&'static str, Kind, Agent, &'static str) {
        let sso = |permission_set, console| Kind::SingleSignOn { permission_set, console };
        match self {
            Self::PlatformAdmin => ("platform-admin", Kind::ConsoleUser, Agent::Browser, "198.51.100.14"),
            Self::SreOnCall => ("sre-on-call", Kind::ConsoleUser, Agent::Browser, "198.51.100.23"),
            Self::SecurityAuditor => ("security-auditor", Kind::ConsoleUser, Agent::Browser, "198.51.100.31"),
            Self::AppDeveloper => ("app-developer", Kind::KeyUser, Agent::Cli, "198.51.100.47"),
            Self::DataAnalyst => ("data-analyst", Kind::KeyUser, Agent::Cli, "198.51.100.52"),
            Self::ReleaseBot => ("release-bot", Kind::KeyUser, Agent::Cli, "192.0.2.88"),
            Self::BackupOperator => ("backup-operator", Kind::KeyUser, Agent::Cli, "192.0.2.91"),
            Self::Stranger => ("app-developer", Kind::KeyUser, Agent::Cli, "203.0.113.199"),
            Self::CloudEngineer => {
                ("cloud-engineer@example.com", sso("AdministratorAccess", true), Agent::Browser, "198.51.100.62")
            }
            Self::DataEngineer => {
                ("data-engineer@example.com", sso("PowerUserAccess", false), Agent::Cli, "198.51.100.75")
            }
            Self::Responder => ("incident-responder", Kind::Role, Agent::Cli, "198.51.100.62"),
            Self::Terraform => ("terraform-ci", Kind::Role, Agent::Terraform, "192.0.2.200"),
            Self::DataPipeline => ("data-pipeline", Kind::Role, Agent::Boto, "192.0.2.120"),
            Self::DeployController => ("deploy-controller", Kind::Role, Agent::Go, "192.0.2.133"),
            Self::AutoScaling => (
                "AWSServiceRoleForAutoScaling",
                Kind::ServiceRole { service: "autoscaling.amazonaws.com" },
                Agent::Service("autoscaling.amazonaws.com"),
                "autoscaling.amazonaws.com",
            ),
            Self::CloudFormation => (
                "cloud-engineer@example.com",
                sso("AdministratorAccess", false),
                Agent::Service("cloudformation.amazonaws.com"),
                "cloudformation.amazonaws.com",
            ),
        }
    }

    /// The name in records.
    pub(super) fn name(self) -> &'static str {
        self.profile().0
    }

    /// The ARN in error messages.
    pub(super) fn user_arn(self, account: &str) -> String {
        format!("arn:aws:iam::{account}:user/{}", self.name())
    }

    /// The owner of the session: CloudFormation acts in that of the person who called it.
    pub(super) fn same_session_as(self) -> Self {
        match self {
            Self::CloudFormation => Self::CloudEngineer,
            Self::Stranger => Self::AppDeveloper,
            _ => self,
        }
    }
}

/// A session of a principal in one account.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) opened: Time,
    access_key: String,
    name: String,
}

impl Session {
    pub(super) fn open(scribe: &mut Scribe, who: Who) -> Self {
        let (name, kind, ..) = who.profile();
        let session_name = match (who, kind) {
            (Who::Terraform, _) => format!("pipeline-{}", scribe.rng.u32(10_000..99_999)),
            (Who::Responder, _) => Who::CloudEngineer.name().to_owned(),
            (_, Kind::Role) => format!("{name}-{:08x}", scribe.rng.u32(..)),
            (_, Kind::ServiceRole { .. }) => "AutoScaling".to_owned(),
            (_, Kind::ConsoleUser | Kind::KeyUser | Kind::SingleSignOn { .. }) => name.to_owned(),
        };
        Self { opened: scribe.now, access_key: scribe.access_key("ASIA"), name: session_name }
    }

    /// The record of opening the session, and its caller.
    pub(super) fn opening(&self, scribe: &mut Scribe, place: Place, who: Who) -> Option<(Caller, Call)> {
        let (name, kind, ..) = who.profile();
        match (who, kind) {
            (_, Kind::ConsoleUser) => {
                let mut caller = Caller::new(who, place, self, &Scribe::sign_in());
                // The sign-in itself is not part of a session.
                caller.identity = json!({
                    "type": "IAMUser", "principalId": stable_id("AIDA", name, place.account),
                    "arn": who.user_arn(place.account), "accountId": place.account, "userName": name,
                });
                Some((caller, Scribe::sign_in()))
            }
            (Who::Terraform, _) => Some(self.opened_by_pipeline(scribe, place)),
            (Who::Responder, _) => Some(self.opened_by_person(scribe, place)),
            _ => None,
        }
    }

    fn opened_by_pipeline(&self, scribe: &mut Scribe, place: Place) -> (Caller, Call) {
        let subject = "project_path:platform/infrastructure:ref_type:branch:ref:main";
        let provider = identity_provider(place.account);
        let request = json!({
            "roleArn": role_arn(place.account, Who::Terraform.name()), "roleSessionName": self.name,
            "durationSeconds": 3600,
        });
        let mut response = self.credentials(scribe, place, Who::Terraform.name());
        if let Value::Object(response) = &mut response {
            response.insert("subjectFromWebIdentityToken".to_owned(), json!(subject));
            response.insert("provider".to_owned(), json!(provider));
            response.insert("audience".to_owned(), json!("sts.amazonaws.com"));
        }
        let call = Call::new("sts", "AssumeRoleWithWebIdentity", request, response).read_only().resource(
            place.account,
            "AWS::IAM::Role",
            &role_arn(place.account, Who::Terraform.name()),
        );
        let mut caller = Caller::new(Who::Terraform, place, self, &call);
        caller.identity = json!({
            "type": "WebIdentityUser", "principalId": format!("{provider}:sts.amazonaws.com:{subject}"),
            "userName": subject, "identityProvider": provider,
        });
        (caller, call)
    }

    fn opened_by_person(&self, scribe: &mut Scribe, place: Place) -> (Caller, Call) {
        let role = Who::Responder.name();
        let request = json!({
            "roleArn": role_arn(place.account, role), "roleSessionName": self.name, "durationSeconds": 3600,
            "sourceIdentity": Who::CloudEngineer.name(),
        });
        let mut response = self.credentials(scribe, place, role);
        if let Value::Object(response) = &mut response {
            response.insert("sourceIdentity".to_owned(), json!(Who::CloudEngineer.name()));
        }
        let call = Call::new("sts", "AssumeRole", request, response).read_only().resource(
            place.account,
            "AWS::IAM::Role",
            &role_arn(place.account, role),
        );
        let person = scribe.session(place, Who::CloudEngineer);
        (Caller::new(Who::CloudEngineer, place, &person, &call), call)
    }

    fn credentials(&self, scribe: &mut Scribe, place: Place, role: &str) -> Value {
        let expires = Time::from_millis(scribe.now.millis() + 3_600_000);
        json!({
            "credentials": {
                "accessKeyId": self.access_key, "sessionToken": scribe.base64(180), "expiration": wire_date(expires),
            },
            "assumedRoleUser": {
                "assumedRoleId": format!("{}:{}", stable_id("AROA", role, place.account), self.name),
                "arn": format!("arn:aws:sts::{}:assumed-role/{role}/{}", place.account, self.name),
            },
        })
    }
}

/// The caller, as its records show it.
pub(super) struct Caller {
    pub(super) identity: Value,
    pub(super) address: String,
    pub(super) agent: String,
    pub(super) console: bool,
    pub(super) over_tls: bool,
}

impl Caller {
    pub(super) fn new(who: Who, place: Place, session: &Session, call: &Call) -> Self {
        let (name, kind, agent, address) = who.profile();
        let console = matches!(kind, Kind::ConsoleUser | Kind::SingleSignOn { console: true, .. });
        Self {
            identity: identity(who, name, &kind, place.account, session),
            address: address.to_owned(),
            agent: user_agent(&agent, call),
            console,
            over_tls: !matches!(agent, Agent::Service(_)),
        }
    }
}

fn identity(who: Who, name: &str, kind: &Kind, account: &str, session: &Session) -> Value {
    let mfa = matches!(kind, Kind::ConsoleUser).to_string();
    let attributes = json!({ "creationDate": seconds(session.opened), "mfaAuthenticated": mfa });
    match kind {
        Kind::ConsoleUser => json!({
            "type": "IAMUser", "principalId": stable_id("AIDA", name, account), "arn": who.user_arn(account),
            "accountId": account, "accessKeyId": session.access_key, "userName": name,
            "sessionContext": { "attributes": attributes },
        }),
        Kind::KeyUser => json!({
            "type": "IAMUser", "principalId": stable_id("AIDA", name, account), "arn": who.user_arn(account),
            "accountId": account, "accessKeyId": key_of(who, account), "userName": name,
        }),
        Kind::SingleSignOn { permission_set, .. } => {
            let suffix = xxh3_64(format!("{permission_set}{account}").as_bytes());
            let role = format!("AWSReservedSSO_{permission_set}_{suffix:016x}");
            let path = format!("aws-reserved/sso.amazonaws.com/{role}");
            let mut identity = assumed_role(account, &role, &path, session, attributes);
            identity["onBehalfOf"] = json!({
                "userId": format!("{:08x}-4f1c-4d06-9a52-6c1d0b7e3f28", xxh3_64(name.as_bytes()) >> 32),
                "identityStoreArn": "arn:aws:identitystore::111122223333:identitystore/d-9067000000",
            });
            if matches!(who, Who::CloudFormation) {
                identity["invokedBy"] = json!("cloudformation.amazonaws.com");
            }
            identity
        }
        Kind::Role => {
            let mut identity = assumed_role(account, name, name, session, attributes);
            if matches!(who, Who::Terraform) {
                identity["sessionContext"]["webIdFederationData"] =
                    json!({ "federatedProvider": identity_provider(account), "attributes": {} });
            }
            if matches!(who, Who::Responder) {
                identity["sessionContext"]["sourceIdentity"] = json!(Who::CloudEngineer.name());
            }
            identity
        }
        Kind::ServiceRole { service } => {
            let mut identity =
                assumed_role(account, name, &format!("aws-service-role/{service}/{name}"), session, attributes);
            identity["invokedBy"] = json!(service);
            identity
        }
    }
}

fn assumed_role(account: &str, role: &str, path: &str, session: &Session, attributes: Value) -> Value {
    let id = stable_id("AROA", role, account);
    json!({
        "type": "AssumedRole", "principalId": format!("{id}:{}", session.name),
        "arn": format!("arn:aws:sts::{account}:assumed-role/{role}/{}", session.name),
        "accountId": account, "accessKeyId": session.access_key,
        "sessionContext": {
            "sessionIssuer": {
                "type": "Role", "principalId": id, "arn": role_arn(account, path), "accountId": account,
                "userName": role,
            },
            "attributes": attributes,
        },
    })
}

/// An id that is the same for a name in every world: these people existed before it began.
fn stable_id(prefix: &str, name: &str, account: &str) -> String {
    const BASE32: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut rng = fastrand::Rng::with_seed(xxh3_64(format!("{name}@{account}").as_bytes()));
    let tail: String = (0..17).map(|_| char::from(rng.choice(BASE32).copied().unwrap_or(b'A'))).collect();
    format!("{prefix}{tail}")
}

/// The long-lived access key of a command-line user.
pub(super) fn key_of(who: Who, account: &str) -> String {
    let id = stable_id("AKIA", who.same_session_as().name(), account);
    format!("{}EXAMPLE", id.get(..13).unwrap_or_default())
}

fn role_arn(account: &str, path: &str) -> String {
    format!("arn:aws:iam::{account}:role/{path}")
}

fn identity_provider(account: &str) -> String {
    format!("arn:aws:iam::{account}:oidc-provider/ci.example.com")
}

fn user_agent(agent: &Agent, call: &Call) -> String {
    let service = call.service;
    let text = match agent {
        Agent::Browser if service == "s3" => "S3Console/0.4, aws-internal/3 aws-sdk-java/1.12.750 \
             Linux/5.10.223-191.901.amzn2int.x86_64 OpenJDK_64-Bit_Server_VM/25.412-b09 java/1.8.0_412 \
             vendor/Oracle_Corporation cfg/retry-mode/standard"
            .to_owned(),
        Agent::Browser => {
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
                .to_owned()
        }
        Agent::Cli => format!(
            "aws-cli/2.22.7 md/awscrt#0.23.0 ua/2.0 os/linux#6.8.0-49-generic md/arch#x86_64 lang/python#3.12.6 \
             md/pyimpl#CPython cfg/retry-mode#standard md/installer#exe md/prompt#off md/command#{service}.{}",
            kebab_case(call.name)
        ),
        Agent::Terraform => format!(
            "APN/1.0 HashiCorp/1.0 Terraform/1.9.8 (+https://www.terraform.io) terraform-provider-aws/5.78.0 \
             (+https://registry.terraform.io/providers/hashicorp/aws) aws-sdk-go-v2/1.32.5 ua/2.1 os/linux \
             lang/go#1.23.3 md/GOOS#linux md/GOARCH#amd64 api/{service}#1.66.0"
        ),
        Agent::Boto => "Boto3/1.35.70 md/Botocore#1.35.70 ua/2.0 os/linux#5.10.227-239.884.amzn2.x86_64 \
             md/arch#x86_64 lang/python#3.12.7 md/pyimpl#CPython exec-env/AWS_Lambda_python3.12 \
             cfg/retry-mode#legacy Botocore/1.35.70"
            .to_owned(),
        Agent::Go => format!(
            "aws-sdk-go-v2/1.32.5 ua/2.1 os/linux lang/go#1.23.3 md/GOOS#linux md/GOARCH#arm64 \
             exec-env/AWS_ECS_FARGATE api/{service}#1.49.2 app/deploy-controller"
        ),
        Agent::Service(host) => return (*host).to_owned(),
    };
    // S3 puts square brackets around the user agent.
    if service == "s3" { format!("[{text}]") } else { text }
}

/// `CreateFunction20150331v2` → `create-function`.
fn kebab_case(name: &str) -> String {
    let mut kebab = String::new();
    for letter in name.chars().take_while(|letter| !letter.is_ascii_digit()) {
        if letter.is_ascii_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_spelled_as_the_command_line_does() {
        assert_eq!(kebab_case("AuthorizeSecurityGroupIngress"), "authorize-security-group-ingress");
        assert_eq!(kebab_case("UpdateFunctionCode20150331v2"), "update-function-code");
    }

    #[test]
    fn the_stranger_uses_the_developers_key_from_elsewhere() {
        let mut scribe = Scribe::new(1, Time::default());
        let place = Place { account: "111122223333", region: "us-east-1" };
        let call = Call::new("iam", "ListUsers", Value::Null, Value::Null);
        let mut caller = |who| {
            let session = Session::open(&mut scribe, who);
            Caller::new(who, place, &session, &call)
        };
        let (stranger, developer) = (caller(Who::Stranger), caller(Who::AppDeveloper));
        assert_eq!(stranger.identity, developer.identity);
        assert_ne!(stranger.address, developer.address);
    }

    #[test]
    fn a_person_behind_an_emergency_role_is_told() {
        let mut scribe = Scribe::new(1, Time::default());
        let place = Place { account: "111122223333", region: "us-east-1" };
        let session = Session::open(&mut scribe, Who::Responder);
        let (opener, call) = session.opening(&mut scribe, place, Who::Responder).unwrap();
        assert!(opener.identity["arn"].as_str().unwrap().contains("AWSReservedSSO_AdministratorAccess_"));
        assert_eq!(call.response["credentials"]["accessKeyId"], json!(session.access_key));
    }
}

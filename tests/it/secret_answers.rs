//! Calls that carry or answer a secret, many of them under a name that does not say so: nothing of it is left, neither in
//! what becomes of the record nor in what is kept of one that is not understood. The places are those of the services' models
//! and of Azure's REST reference.

use bytes::Bytes;
use catchment::normalize::{Engine, Outcome};
use serde_json::{Value, json};

use crate::support::trail::create_group;

/// What stands where nothing tells a secret but its place.
const PLANTED: &str = "Pl4nted-0f3a9c1e7b5d";

/// Service, call, and where in it the secret stands.
const BY_PLACE: &[(&str, &str, &[&str])] = &[
    ("amplify", "CreateApp", &["/requestParameters/oauthToken", "/requestParameters/basicAuthCredentials"]),
    ("apigateway", "CreateApiKey", &["/responseElements/value", "/requestParameters/value"]),
    (
        "appflow",
        "CreateConnectorProfile",
        &["/requestParameters/connectorProfileConfig/connectorProfileCredentials/datadog/apiKey"],
    ),
    ("appfabric", "CreateAppAuthorization", &["/requestParameters/credential/apiKeyCredential/apiKey"]),
    ("appstream", "CreateStreamingURL", &["/responseElements/streamingURL"]),
    ("bedrock-agentcore", "CreateAgentRuntime", &["/requestParameters/environmentVariables/KEY"]),
    ("airflow", "CreateCliToken", &["/responseElements/cliToken"]),
    ("airflow", "CreateEnvironment", &["/requestParameters/airflowConfigurationOptions/smtp.smtp_x"]),
    ("airflow", "CreateWebLoginToken", &["/responseElements/webToken"]),
    ("chime", "CreateAttendee", &["/responseElements/attendee/joinToken"]),
    ("chime", "CreateBot", &["/responseElements/bot/securityToken"]),
    ("codeartifact", "GetAuthorizationToken", &["/responseElements/authorizationToken"]),
    ("codebuild", "CreateWebhook", &["/responseElements/webhook/secret"]),
    ("codebuild", "ImportSourceCredentials", &["/requestParameters/token"]),
    ("codecatalyst", "CreateAccessToken", &["/responseElements/secret"]),
    ("codepipeline", "PutWebhook", &["/requestParameters/webhook/authenticationConfiguration/secretToken"]),
    (
        "connect",
        "GetFederationToken",
        &["/responseElements/credentials/accessToken", "/responseElements/credentials/refreshToken"],
    ),
    ("connect", "StartChatContact", &["/responseElements/participantToken"]),
    ("cognito-idp", "AssociateSoftwareToken", &["/responseElements/secretCode"]),
    ("datasync", "CreateLocationAzureBlob", &["/requestParameters/sasConfiguration/token"]),
    (
        "dms",
        "CreateEndpoint",
        &["/requestParameters/oracleSettings/securityDbEncryption", "/requestParameters/oracleSettings/asmPassword"],
    ),
    ("ecr", "GetAuthorizationToken", &["/responseElements/authorizationData/0/authorizationToken"]),
    ("ecs", "CreateExpressGatewayService", &["/requestParameters/primaryContainer/environment/0/value"]),
    ("ecs", "ExecuteCommand", &["/responseElements/session/tokenValue"]),
    ("gamelift", "RequestUploadCredentials", &["/responseElements/uploadCredentials/secretAccessKey"]),
    ("iam", "CreateAccessKey", &["/responseElements/accessKey/secretAccessKey"]),
    ("iam", "CreateServiceSpecificCredential", &["/responseElements/serviceSpecificCredential/servicePassword"]),
    (
        "iot",
        "CreateKeysAndCertificate",
        &["/responseElements/keyPair/privateKey", "/responseElements/certificateOwnershipToken"],
    ),
    (
        "iotsecuretunneling",
        "OpenTunnel",
        &["/responseElements/sourceAccessToken", "/responseElements/destinationAccessToken"],
    ),
    (
        "iotwireless",
        "CreateWirelessDevice",
        &["/requestParameters/loRaWAN/otaaV1_1/appKey", "/requestParameters/loRaWAN/otaaV1_1/nwkKey"],
    ),
    ("ivs", "CreateChannel", &["/responseElements/streamKey/value"]),
    ("ivs", "CreateIngestConfiguration", &["/responseElements/ingestConfiguration/streamKey"]),
    ("ivs", "CreateStage", &["/responseElements/participantTokens/0/token"]),
    ("ivschat", "CreateChatToken", &["/responseElements/token"]),
    ("kms", "CreateCustomKeyStore", &["/requestParameters/xksProxyAuthenticationCredential/rawSecretAccessKey"]),
    ("lightsail", "CreateBucketAccessKey", &["/responseElements/accessKey/secretAccessKey"]),
    ("lightsail", "CreateContainerServiceRegistryLogin", &["/responseElements/registryLogin/password"]),
    ("lightsail", "CreateGUISessionAccessDetails", &["/responseElements/sessions/0/url"]),
    ("lightsail", "CreateKeyPair", &["/responseElements/privateKeyBase64"]),
    ("medialive", "CreateChannel", &["/requestParameters/destinations/0/settings/0/streamName"]),
    (
        "medialive",
        "CreateInput",
        &["/requestParameters/destinations/0/streamName", "/responseElements/input/destinations/0/url"],
    ),
    ("mediapackage", "CreateChannel", &["/responseElements/hlsIngest/ingestEndpoints/0/password"]),
    ("mobiletargeting", "UpdateApnsChannel", &["/requestParameters/aPNSChannelRequest/tokenKey"]),
    (
        "mobiletargeting",
        "UpdateGcmChannel",
        &["/requestParameters/gCMChannelRequest/apiKey", "/requestParameters/gCMChannelRequest/serviceJson"],
    ),
    ("quicksight", "GenerateEmbedUrlForRegisteredUser", &["/responseElements/embedUrl"]),
    ("sagemaker", "CreatePresignedDomainUrl", &["/responseElements/authorizedUrl"]),
    ("ssm", "CreateActivation", &["/responseElements/activationCode"]),
    ("ssm", "StartSession", &["/responseElements/tokenValue"]),
    (
        "sso",
        "CreateToken",
        &["/responseElements/accessToken", "/responseElements/refreshToken", "/responseElements/idToken"],
    ),
    ("sso", "RegisterClient", &["/responseElements/clientSecret"]),
    (
        "sso",
        "StartDeviceAuthorization",
        &["/responseElements/deviceCode", "/responseElements/userCode", "/responseElements/verificationUriComplete"],
    ),
    (
        "storagegateway",
        "UpdateChapCredentials",
        &["/requestParameters/secretToAuthenticateInitiator", "/requestParameters/secretToAuthenticateTarget"],
    ),
    ("sts", "AssumeRole", &["/responseElements/credentials/sessionToken"]),
    ("transfer", "ImportHostKey", &["/requestParameters/hostKeyBody"]),
];

/// Service, call, where the secret stands, and what it looks like.
const BY_LOOKS: &[(&str, &str, &str, &str)] = &[
    ("appsync", "CreateApiKey", "/responseElements/apiKey/id", "da2-0a1b2c3d4e5f6g7h8i9j0k1l2m"),
    ("appsync", "DeleteApiKey", "/requestParameters/id", "da2-0a1b2c3d4e5f6g7h8i9j0k1l2m"),
    ("geo", "CreateKey", "/responseElements/key", "v1.public.eyJqdGkiOiI1ZjYyNGJkYS1kZDQ1LTRiMTAi"),
    ("grafana", "CreateWorkspaceApiKey", "/responseElements/key", "eyJrIjoiT0tTcG1pUlY2RnVKZTFVaDFsNFZXdE9ZWmNrMkZYbk"),
    (
        "grafana",
        "CreateWorkspaceServiceAccountToken",
        "/responseElements/serviceAccountToken/key",
        "glsa_0123456789abcdefABCDEF0123456789_89abcdef",
    ),
    ("ivs", "CreateStreamKey", "/responseElements/streamKey/name", "sk_us-west-2_Pl4nted0f3a_9c1e7b5d"),
    (
        "chime",
        "CreateMediaLiveConnectorPipeline",
        "/requestParameters/sinks/0/rTMPConfiguration/url",
        "Pl4nted-0f3a9c1e7b5d",
    ),
    ("chatbot", "CreateSlackChannelConfiguration", "/requestParameters/note", "T0000000/B0000000/Pl4nted0f3a9c1e7b5d"),
    ("ec2", "CreateTags", "/requestParameters/note", "AIzaPl4nted0f3a9c1e7b5dPl4nted0f3a9c1e7"),
    ("ec2", "CreateTags", "/requestParameters/note", "8Q~Pl4nted0f3a9c1e7b5dPl4nted0f3a9c1e"),
];

/// What stands around a secret whose looks alone do not tell it.
fn dressed(secret: &str, call: &str) -> String {
    match call {
        "CreateMediaLiveConnectorPipeline" => format!("rtmps://live.example.com:443/app/{secret}"),
        "CreateSlackChannelConfiguration" => format!("https://hooks.slack.com/services/{secret}"),
        _ => secret.to_owned(),
    }
}

/// Operation of Azure's, the body that it answers, and where in that the secret stands.
const AZURE: &[(&str, &str)] = &[
    ("Microsoft.Storage/storageAccounts/listKeys/action", "/keys/0/value"),
    ("Microsoft.Storage/storageAccounts/regenerateKey/action", "/keys/1/value"),
    ("Microsoft.Storage/storageAccounts/listAccountSas/action", "/accountSasToken"),
    ("Microsoft.Storage/storageAccounts/listServiceSas/action", "/serviceSasToken"),
    ("Microsoft.DocumentDB/databaseAccounts/listKeys/action", "/primaryMasterKey"),
    ("Microsoft.DocumentDB/databaseAccounts/listKeys/action", "/secondaryReadonlyMasterKey"),
    ("Microsoft.DocumentDB/databaseAccounts/listConnectionStrings/action", "/connectionStrings/0/connectionString"),
    ("Microsoft.CognitiveServices/accounts/regenerateKey/action", "/key1"),
    ("Microsoft.ServiceBus/namespaces/authorizationRules/regenerateKeys/action", "/primaryConnectionString"),
    ("Microsoft.EventHub/namespaces/authorizationRules/listKeys/action", "/secondaryKey"),
    ("Microsoft.ContainerRegistry/registries/regenerateCredential/action", "/passwords/0/value"),
    ("Microsoft.ContainerService/managedClusters/listClusterAdminCredential/action", "/kubeconfigs/0/value"),
    ("Microsoft.Compute/disks/beginGetAccess/action", "/accessSAS"),
    ("Microsoft.Web/sites/host/listKeys/action", "/functionKeys/default"),
    ("Microsoft.Web/staticSites/listSecrets/action", "/properties/apiKey"),
];

/// Sets a value, and makes what leads there.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let mut place = document;
    for token in pointer.split('/').skip(1) {
        place = match token.parse::<usize>() {
            Ok(index) => {
                if !place.is_array() {
                    *place = json!([]);
                }
                let elements = place.as_array_mut().unwrap();
                elements.resize(elements.len().max(index + 1), json!({}));
                &mut elements[index]
            }
            Err(_) => {
                if !place.is_object() {
                    *place = json!({});
                }
                &mut place[token]
            }
        };
    }
    *place = value;
}

fn call(service: &str, name: &str, places: &[(&str, String)]) -> Value {
    let mut record = create_group("answer");
    record["eventSource"] = format!("{service}.amazonaws.com").into();
    record["eventName"] = name.into();
    record["requestParameters"] = json!({ "apiId": "a1", "name": "n1" });
    record["responseElements"] = json!({});
    for (place, secret) in places {
        set(&mut record, place, secret.as_str().into());
    }
    record
}

/// What is wrong with what becomes of a record.
fn leaks(engine: &Engine, record: &Value, secret: &str) -> Vec<String> {
    let text = record.to_string();
    assert!(text.contains(secret), "{text}");
    let mut found = Vec::new();
    let kept = engine.redact_rejected(Bytes::from(text.clone().into_bytes()));
    let kept = String::from_utf8_lossy(&kept).into_owned();
    if kept.contains(secret) || !kept.contains("[redacted]") {
        found.push(format!("kept: {kept}"));
    }
    let outcome = engine.normalize(text.as_bytes());
    let told = format!("{outcome:?}");
    if told.contains(secret) || matches!(outcome, Outcome::Changes { .. }) && !told.contains("[redacted]") {
        found.push(format!("told: {told}"));
    }
    found
}

#[test]
fn nothing_is_left_of_secrets_that_calls_of_aws_carry_or_answer() {
    let engine = Engine::load(None).unwrap_or_else(|error| panic!("{error}"));
    let mut found = Vec::new();
    for (service, name, places) in BY_PLACE {
        for place in *places {
            let record = call(service, name, &[(place, PLANTED.to_owned())]);
            let leaks = leaks(&engine, &record, PLANTED);
            found.extend(leaks.into_iter().map(|leak| format!("{service}:{name} {place}: {leak}")));
        }
    }
    for (service, name, place, secret) in BY_LOOKS {
        let record = call(service, name, &[(place, dressed(secret, name))]);
        let leaks = leaks(&engine, &record, secret);
        found.extend(leaks.into_iter().map(|leak| format!("{service}:{name} {place}: {leak}")));
    }
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
}

#[test]
fn nothing_is_left_of_secrets_that_azure_answers() {
    let engine = Engine::load(None).unwrap_or_else(|error| panic!("{error}"));
    let mut found = Vec::new();
    for (operation, place) in AZURE {
        let mut body = json!({});
        set(&mut body, place, PLANTED.into());
        let record = json!({
            "time": "2026-02-11T08:15:42.000Z",
            "resourceId": "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/shop/providers/Microsoft.Storage/storageAccounts/orders",
            "operationName": operation.to_uppercase(), "category": "Administrative", "resultType": "Success", "level": "Informational",
            "callerIpAddress": "192.0.2.77", "correlationId": "0a1b2c3d-0000-4000-8000-000000000001",
            "identity": { "claims": { "name": "jane@example.com" } },
            "properties": { "statusCode": "OK", "responseBody": body.to_string() }
        });
        let leaks = leaks(&engine, &record, PLANTED);
        found.extend(leaks.into_iter().map(|leak| format!("{operation} {place}: {leak}")));
    }
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
}

/// What looks a little like a secret and is none: identities must stay.
#[test]
fn what_is_no_secret_stays() {
    let engine = Engine::load(None).unwrap_or_else(|error| panic!("{error}"));
    for (place, value) in [
        ("/requestParameters/clientToken", "5f624bda-dd45-4b10"),
        ("/responseElements/nextToken", "page-2"),
        ("/requestParameters/apiKey", "k1a2b3c4d5"),
        ("/requestParameters/keyId", "alias/orders"),
        ("/requestParameters/streamName", "clicks"),
        ("/responseElements/streamKey/arn", "arn:aws:ivs:us-west-2:111122223333:stream-key/abcd"),
        ("/responseElements/accessKey/accessKeyId", "AKIAIOSFODNN7EXAMPLE"),
        ("/requestParameters/url", "https://example.com/hooks?id=1"),
        ("/responseElements/credentials/accessKeyId", "ASIAIOSFODNN7EXAMPLE"),
        ("/requestParameters/secretId", "orders/db"),
        ("/requestParameters/kmsMasterKeyId", "alias/orders"),
    ] {
        let record = call("ec2", "CreateVpc", &[(place, value.to_owned())]).to_string();
        let kept = engine.redact_rejected(Bytes::from(record.clone().into_bytes()));
        assert_eq!(String::from_utf8_lossy(&kept), record, "{place}");
    }
}

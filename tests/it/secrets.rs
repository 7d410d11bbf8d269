//! Secrets planted in records, in every place where they are known to stand, are found nowhere afterwards: not on disk,
//! not in what the server answers, not in what it logs.

use std::path::Path;

use base64::Engine as _;
use catchment::log::{EmbeddedLog, EventLog, Retention};
use catchment::metrics::Metrics;
use catchment::model::Seq;
use serde_json::{Value, json};

use crate::support::program::{catchment, finish};
use crate::support::server::{Server, folder, serve};
use crate::support::trail::create_group;

/// Makes secrets and remembers them.
#[derive(Default)]
struct Planted(Vec<String>);

impl Planted {
    /// A secret: nothing else in the test looks like it.
    fn secret(&mut self) -> String {
        let secret = format!("planted{:03}x{:016x}", self.0.len(), fastrand::u64(..));
        self.0.push(secret.clone());
        secret
    }

    /// The same within something, as it is and as base64.
    fn encoded(&mut self, around: &str) -> String {
        let secret = self.secret();
        let encoded = base64::engine::general_purpose::STANDARD.encode(around.replace("{}", &secret));
        self.0.push(encoded.clone());
        encoded
    }

    /// Which of them stand in these bytes.
    fn found_in(&self, bytes: &[u8]) -> Vec<&str> {
        let holds = |secret: &&String| memchr::memmem::find(bytes, secret.as_bytes()).is_some();
        self.0.iter().filter(holds).map(String::as_str).collect()
    }
}

fn call(id: &str, service: &str, name: &str, request: Value, response: Value) -> Value {
    let mut record = create_group(id);
    let members = json!({ "eventSource": format!("{service}.amazonaws.com"), "eventName": name, "requestParameters": request, "responseElements": response });
    record.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    record
}

/// Calls of AWS with secrets where they are known to stand.
fn aws(planted: &mut Planted) -> Vec<Value> {
    let mut s = || planted.secret();
    let mut records = vec![
        call(
            "rds",
            "rds",
            "CreateDBInstance",
            json!({ "dBInstanceIdentifier": "db", "masterUserPassword": s(), "engine": "postgres" }),
            json!({ "dBInstanceIdentifier": "db", "dBInstanceArn": "arn:aws:rds:eu-west-1:123456789012:db:db" }),
        ),
        call(
            "lambda",
            "lambda",
            "CreateFunction20150331",
            json!({ "functionName": "f", "environment": { "variables": { "STRIPE": s(), "DB_URL": format!("postgres://app:{}@db.example.com/x", s()) } } }),
            json!({ "functionName": "f", "functionArn": "arn:aws:lambda:eu-west-1:123456789012:function:f", "environment": { "variables": { "STRIPE": s() } } }),
        ),
        call(
            "ssm",
            "ssm",
            "PutParameter",
            json!({ "name": "/db/password", "type": "SecureString", "value": s() }),
            json!({ "version": 1, "tier": "Standard" }),
        ),
        call(
            "login",
            "iam",
            "CreateLoginProfile",
            json!({ "userName": "jane", "password": s() }),
            json!({ "loginProfile": { "userName": "jane" } }),
        ),
        call(
            "key",
            "iam",
            "CreateAccessKey",
            json!({ "userName": "jane" }),
            json!({ "accessKey": { "userName": "jane", "accessKeyId": "AKIAIOSFODNN7EXAMPLE", "secretAccessKey": s(), "status": "Active" } }),
        ),
        call(
            "role",
            "sts",
            "AssumeRole",
            json!({ "roleArn": "arn:aws:iam::123456789012:role/r", "roleSessionName": "x" }),
            json!({ "credentials": { "accessKeyId": "ASIAIOSFODNN7EXAMPLE", "secretAccessKey": s(), "sessionToken": s(), "expiration": "Feb 3, 2026, 5:05:06 AM" }, "assumedRoleUser": { "assumedRoleId": "AROA:x", "arn": "arn:aws:sts::123456789012:assumed-role/r/x" } }),
        ),
        call(
            "secret",
            "secretsmanager",
            "CreateSecret",
            json!({ "name": "s", "secretString": json!({ "user": "app", "pin": s() }).to_string() }),
            json!({ "arn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:s-b1C2d3" }),
        ),
        call(
            "task",
            "ecs",
            "RegisterTaskDefinition",
            json!({ "family": "t", "containerDefinitions": [{ "name": "c", "image": "i", "environment": [{ "name": "PIN", "value": s() }] }] }),
            json!({ "taskDefinition": { "taskDefinitionArn": "arn:aws:ecs:eu-west-1:123456789012:task-definition/t:1", "family": "t", "containerDefinitions": [{ "name": "c", "environment": [{ "name": "PIN", "value": s() }] }] } }),
        ),
        call(
            "build",
            "codebuild",
            "CreateProject",
            json!({ "name": "p", "environment": { "image": "i", "environmentVariables": [{ "name": "PIN", "value": s(), "type": "PLAINTEXT" }] } }),
            json!({ "project": { "name": "p", "arn": "arn:aws:codebuild:eu-west-1:123456789012:project/p", "environment": { "environmentVariables": [{ "name": "PIN", "value": s() }] } } }),
        ),
        call(
            "stack",
            "cloudformation",
            "CreateStack",
            json!({ "stackName": "st", "parameters": [{ "parameterKey": "Pin", "parameterValue": s() }] }),
            json!({ "stackId": "arn:aws:cloudformation:eu-west-1:123456789012:stack/st/1" }),
        ),
        call(
            "vpn",
            "ec2",
            "CreateVpnConnection",
            json!({ "customerGatewayId": "cgw-1", "type": "ipsec.1" }),
            json!({ "vpnConnection": { "vpnConnectionId": "vpn-1", "customerGatewayConfiguration": format!("<pre_shared_key>{}</pre_shared_key>", s()) } }),
        ),
        // A service that no rule knows, by names and by looks.
        call(
            "unknown",
            "frobnicator",
            "CreateWidget",
            json!({
                "widgetName": "w", "DB_PASSWORD": s(), "headers": { "Authorization": format!("Bearer {}", s()) },
                "url": format!("https://hooks.example.com/in?token={}&a=b", s()), "body": json!({ "nested": json!({ "clientSecret": s() }).to_string() }).to_string(),
                "command": format!("login --password={} --user=app", s()), "pem": format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", s()),
            }),
            json!({ "widgetArn": "arn:aws:frobnicator:eu-west-1:123456789012:widget/w" }),
        ),
        // The operator's own.
        call(
            "own",
            "frobnicator",
            "CreateGadget",
            json!({ "gadgetName": "g", "acmePin": s(), "places": [{ "pin": s() }], "note": format!("acme-{}", s()) }),
            json!({ "gadgetArn": "arn:aws:frobnicator:eu-west-1:123456789012:gadget/g" }),
        ),
    ];
    let user_data = planted.encoded("#!/bin/sh\nexport PASSWORD={}\n");
    records.push(call(
        "boot",
        "ec2",
        "RunInstances",
        json!({ "userData": user_data, "instanceType": "t3.nano" }),
        json!({ "instancesSet": { "items": [{ "instanceId": "i-0a1b2c3d" }] } }),
    ));
    // Those that can't be understood: nothing names the asset, the record breaks off, it is no UTF-8.
    let mut s = || planted.secret();
    records.push(call(
        "unnamed",
        "lambda",
        "CreateFunction20150331",
        json!({ "environment": { "variables": { "PIN": s() } }, "password": s() }),
        json!({}),
    ));
    records.push(json!({ "eventName": "NoSource", "password": s(), "text": format!("AccountKey={};x", s()), "nested": json!({ "refreshToken": s() }).to_string() }));
    records
}

fn azure_write(resource: &str, operation: &str, body: &Value) -> Value {
    json!({
        "time": "2026-02-03T05:00:00Z", "resourceId": format!("/subscriptions/0f1e2d3c-0000-4000-8000-000000000001/resourceGroups/web/providers{resource}"),
        "operationName": operation, "category": "Administrative", "resultType": "Success", "resultSignature": "Succeeded.Created",
        "correlationId": format!("0f1e2d3c-0000-4000-8000-{:012}", resource.len()), "callerIpAddress": "192.0.2.1",
        "tenantId": "0f1e2d3c-0000-4000-8000-0000000000aa", "identity": { "claims": { "appid": "04b07795-8ddb-461a-bbee-02f9e1bf7b46", "name": "Jane Doe" } },
        "properties": { "eventCategory": "Administrative", "statusCode": "Created", "requestbody": body.to_string(), "responseBody": body.to_string() },
    })
}

/// Operations of Azure with secrets where they are known to stand.
fn azure(planted: &mut Planted) -> Vec<Value> {
    let custom_data = planted.encoded("#cloud-config\npassword: {}\n");
    let mut s = || planted.secret();
    vec![
        azure_write(
            "/Microsoft.Compute/virtualMachines/vm",
            "Microsoft.Compute/virtualMachines/write",
            &json!({ "location": "westeurope", "properties": { "osProfile": { "adminUsername": "jane", "adminPassword": s(), "customData": custom_data } } }),
        ),
        azure_write(
            "/Microsoft.KeyVault/vaults/kv/secrets/pin",
            "Microsoft.KeyVault/vaults/secrets/write",
            &json!({ "properties": { "value": s() } }),
        ),
        azure_write(
            "/Microsoft.Web/sites/site/config/appsettings",
            "Microsoft.Web/sites/config/write",
            &json!({ "properties": { "PIN": s(), "WEBSITE": format!("DefaultEndpointsProtocol=https;AccountName=a;AccountKey={}", s()) } }),
        ),
        azure_write(
            "/Microsoft.Sql/servers/db",
            "Microsoft.Sql/servers/write",
            &json!({ "location": "westeurope", "properties": { "administratorLogin": "jane", "administratorLoginPassword": s() } }),
        ),
        azure_write(
            "/Microsoft.App/containerApps/app",
            "Microsoft.App/containerApps/write",
            &json!({ "location": "westeurope", "properties": { "template": { "containers": [{ "name": "c", "env": [{ "name": "PIN", "value": s() }] }] } } }),
        ),
        azure_write(
            "/Microsoft.Storage/storageAccounts/acme",
            "Microsoft.Storage/storageAccounts/write",
            &json!({ "location": "westeurope", "properties": { "sas": format!("https://acme.blob.core.windows.net/c?sv=2022&sig={}&se=2026", s()), "bus": format!("Endpoint=sb://a.example.com/;SharedAccessKeyName=Root;SharedAccessKey={}", s()) } }),
        ),
        azure_write(
            "/Microsoft.Resources/deployments/main",
            "Microsoft.Resources/deployments/write",
            &json!({ "properties": { "parameters": { "dbPassword": { "value": s() } } } }),
        ),
    ]
}

/// What inventories tell.
fn seeds(planted: &mut Planted) -> Vec<(&'static str, Value)> {
    let mut s = || planted.secret();
    vec![
        (
            "config.json",
            json!({ "fileVersion": "1.0", "configurationItems": [{
            "resourceType": "AWS::Lambda::Function", "resourceId": "g", "resourceName": "g", "awsAccountId": "123456789012", "awsRegion": "eu-west-1",
            "ARN": "arn:aws:lambda:eu-west-1:123456789012:function:g", "configurationItemCaptureTime": "2026-02-03T03:00:00Z", "configurationItemStatus": "OK",
            "configuration": { "functionName": "g", "functionArn": "arn:aws:lambda:eu-west-1:123456789012:function:g", "environment": { "variables": { "PIN": s() } }, "authToken": s() } }] }),
        ),
        (
            "terraform.tfstate",
            json!({ "version": 4, "terraform_version": "1.9.0", "resources": [{ "mode": "managed", "type": "aws_db_instance", "name": "db", "instances": [{
            "attributes": { "id": "db2", "arn": "arn:aws:rds:eu-west-1:123456789012:db:db2", "identifier": "db2", "password": s(), "secret_access_key": s() },
            "sensitive_attributes": [[{ "type": "get_attr", "value": "password" }]] }] }] }),
        ),
        // Nothing tells what it is: it goes to quarantine as it came.
        (
            "unknown.json",
            json!({ "fileVersion": "1.0", "configurationItems": [{ "resourceType": "AWS::Lambda::Function", "resourceId": "h", "awsAccountId": "123456789012", "awsRegion": "eu-west-1", "configurationItemCaptureTime": "2026-02-03T03:00:00Z", "configurationItemStatus": "OK", "note": format!("secret={}", s()), "supplementaryConfiguration": { "authToken": s() } }] }),
        ),
    ]
}

/// All that the log in a data directory holds, decoded.
fn stored(data: &Path) -> Vec<u8> {
    let metrics = std::sync::Arc::new(Metrics::new().unwrap());
    let log = EmbeddedLog::open(data, Retention::default(), metrics).unwrap();
    let (mut all, mut after) = (Vec::new(), Seq(log.floor().0 - 1));
    while let Some(last) = log
        .read(after, 1 << 20)
        .unwrap()
        .iter()
        .map(|block| {
            all.extend_from_slice(&block.lines);
            Seq(block.first.0 + block.heads.len() as u64 - 1)
        })
        .last()
    {
        after = last;
    }
    log.for_each_asset(&mut |name, value| {
        all.extend_from_slice(name.as_str().as_bytes());
        all.extend_from_slice(&value);
    })
    .unwrap();
    log.for_each_correlation("", &mut |value| all.extend_from_slice(&value)).unwrap();
    for kept in log.quarantine(0, 1_000).unwrap() {
        all.extend_from_slice(&kept.rejected.bytes);
        all.extend_from_slice(kept.rejected.reason.as_bytes());
    }
    all
}

fn files(folder: &Path, all: &mut Vec<u8>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, all) } else { all.extend(std::fs::read(path).unwrap()) }
    }
}

#[test]
fn planted_secrets_are_found_nowhere() {
    let folder = folder();
    let (data, trail) = (folder.path().join("data"), folder.path().join("trail"));
    std::fs::create_dir(&trail).unwrap();
    let mut planted = Planted::default();
    let records: Vec<Value> = aws(&mut planted).into_iter().chain(azure(&mut planted)).collect();
    let mut text: Vec<u8> = records.iter().flat_map(|record| format!("{record}\n").into_bytes()).collect();
    text.extend(
        format!(
            "{{\"eventSource\":\"x\",\"sessionToken\":\"{}\",\"cut\": \"AccountKey={}",
            planted.secret(),
            planted.secret()
        )
        .into_bytes(),
    );
    text.extend(b"\n{\"eventSource\":\"\xff\",");
    text.extend(format!("\"API_PASSWORD\":\"{}\"}}\n", planted.secret()).into_bytes());
    std::fs::write(trail.join("records.jsonl"), &text).unwrap();
    assert_eq!(planted.found_in(&text).len(), planted.0.iter().filter(|secret| secret.starts_with("planted")).count());
    let seeds: Vec<_> = seeds(&mut planted)
        .into_iter()
        .map(|(name, seed)| {
            let path = folder.path().join(name);
            std::fs::write(&path, seed.to_string()).unwrap();
            path
        })
        .collect();

    let config = format!(
        "data_dir = {data:?}\n[redaction]\nnames = [\"*Pin\"]\npointers = [\"/requestParameters/places/*/pin\"]\npatterns = [\"acme-(planted[0-9a-z]+)\"]\n\
         [sources.trail.file]\npath = {trail:?}\nfollow = false\npoll_millis = 10\n"
    );
    let mut command = serve(folder.path(), &config);
    command.env("CATCHMENT_LOG", "trace");
    let mut server = Server::start(command);
    let mut stream = server.stream("/v1/events?since=1970-01-01T00:00:00Z", &[]);
    server.wait_until("all read", || server.get_json("/v1/sources")["sources"][0]["state"] == "finished");
    let mut import = catchment();
    import.arg("import").arg("--data-dir").arg(&data).args(["--events"]).args(&seeds);
    let imported = finish(&mut import, b"");
    assert!(imported.code == Some(64) && imported.stdout.contains("1 rejected"), "{imported:?}");
    let finished = |source: &Value| source["kind"] == "import" && source["state"] == "finished";
    server.wait_until("the import", || {
        server.get_json("/v1/sources")["sources"].as_array().unwrap().iter().any(finished)
    });
    let rejected = server.get_json("/v1/quarantine?limit=200");
    let kept: Vec<&str> =
        rejected["records"].as_array().unwrap().iter().map(|it| it["record"].as_str().unwrap()).collect();
    for part in ["\"eventID\":\"unnamed\"", "NoSource", "\"cut\":", "API_PASSWORD", "supplementaryConfiguration"] {
        let found = kept.iter().find(|record| record.contains(part));
        assert!(found.is_some_and(|record| record.contains("[redacted]")), "{part}: {found:?} of {kept:#?}");
    }
    let changes = server.metric("catchment_records_total", "outcome=\"changes\"") as usize;
    assert!(changes >= 17, "the others are events: {changes}");

    let events = server.all_events();
    let mut followed = Vec::new();
    while followed.iter().filter(|byte| **byte == b'\n').count() < events.len() {
        followed.extend(stream.next().unwrap().data.into_bytes());
        followed.push(b'\n');
    }
    let answers = [
        "/v1/events?format=ndjson&since=1970-01-01T00:00:00Z&until=0s",
        "/v1/assets?include=configuration&limit=1000",
        "/v1/quarantine?limit=200",
        "/v1/sources",
        "/metrics",
    ];
    for path in answers {
        let (status, body) = server.get(path);
        assert_eq!(status, 200, "{path}");
        assert!(body.len() > 300, "{path}: {body}");
        assert!(planted.found_in(body.as_bytes()).is_empty(), "{path}: {:?}", planted.found_in(body.as_bytes()));
    }
    assert!(planted.found_in(&followed).is_empty(), "the stream: {:?}", planted.found_in(&followed));
    let asset = server.get("/v1/assets/asset://aws/123456789012/eu-west-1/lambda/function/f").1;
    assert!(asset.contains("STRIPE") && asset.contains("[redacted]"), "what is not secret stays: {asset}");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let log = server.rest_of_log();
    assert!(log.contains("intake closed"), "a line of the lowest levels: {log}");
    assert!(planted.found_in(log.as_bytes()).is_empty(), "the log: {:?}", planted.found_in(log.as_bytes()));

    let mut on_disk = Vec::new();
    files(&data, &mut on_disk);
    assert!(planted.found_in(&on_disk).is_empty(), "the files: {:?}", planted.found_in(&on_disk));
    let stored = stored(&data);
    assert!(memchr::memmem::find(&stored, b"[redacted]").is_some(), "the log was read back");
    assert!(planted.found_in(&stored).is_empty(), "the log's contents: {:?}", planted.found_in(&stored));
}

#[test]
fn what_an_operator_calls_secret_is_checked() {
    let folder = folder();
    let path = folder.path().join("catchment.toml");
    std::fs::write(&path, "[redaction]\npatterns = [\"(\"]\npointers = [\"x\"]\n").unwrap();
    let told = finish(catchment().args(["check", "--config"]).arg(&path), b"");
    assert_eq!(told.code, Some(64));
    for part in ["catchment.toml, line 2: redaction.patterns: ", "catchment.toml, line 3: redaction.pointers: "] {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
}

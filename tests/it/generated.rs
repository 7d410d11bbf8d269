//! Every generated rule against a record that was built from the service's model. `normalizers/generate/run` writes both;
//! what the record must give is worked out from the type's templates.

use std::path::{Path, PathBuf};

use catchment::normalize::{Engine, Outcome};
use serde::Deserialize;
use serde_json::{Value, json};

/// One line of `fixtures/aws/generated/<service>.jsonl`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(rename_all = "camelCase")]
struct Case {
    event: String,
    api_version: Option<String>,
    request: Option<Value>,
    response: Option<Value>,
    action: String,
    r#type: String,
    /// The asset's name after account and region.
    name: String,
}

impl Case {
    fn record(&self, service: &str) -> Value {
        json!({
            "eventVersion": "1.09", "eventID": "5c0e7a51-7a7d-4a7e-9d6f-0c6a4d1f2b33",
            "eventSource": format!("{service}.amazonaws.com"), "eventName": self.event, "apiVersion": self.api_version,
            "eventTime": "2025-03-04T05:06:07Z", "awsRegion": "eu-west-1", "recipientAccountId": "111122223333",
            "eventType": "AwsApiCall", "readOnly": false, "managementEvent": true, "eventCategory": "Management",
            "userIdentity": { "type": "IAMUser", "accountId": "111122223333", "userName": "jane" },
            "requestParameters": self.request, "responseElements": self.response,
        })
    }

    /// What is wrong, if something is. `Ok(true)`: a generated rule has told.
    fn check(&self, engine: &Engine, service: &str) -> Result<bool, String> {
        let record = self.record(service);
        let (rule, found) = match engine.normalize(record.to_string().as_bytes()) {
            Outcome::Changes { drafts, .. } => {
                let [draft] = drafts.as_slice() else { return Err(format!("{} assets", drafts.len())) };
                let name = draft.asset.name.to_string();
                let tail = name.splitn(6, '/').nth(5).unwrap_or_default().to_owned();
                let action = format!("{:?}", draft.action).to_lowercase();
                (draft.rule.to_string(), (draft.asset.kind.provider_type.clone(), action, tail))
            }
            other => return Err(format!("{other:?}")),
        };
        if !rule.starts_with("aws/generated/") {
            return if rule.contains("/generic/") { Err(format!("only {rule} knows it")) } else { Ok(false) };
        }
        let action = if self.action == "upsert" { "upsert".to_owned() } else { format!("known({})", self.action) };
        let wanted = (self.r#type.clone(), action, self.name.clone());
        if found == wanted { Ok(true) } else { Err(format!("wanted {wanted:?}, found {found:?}")) }
    }
}

fn files() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(Path::new("fixtures/aws/generated")).unwrap();
    let mut paths: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_generated_rule_names_the_asset_of_its_record() {
    let engine = Engine::load(None).unwrap_or_else(|error| panic!("{error}"));
    engine.check().unwrap_or_else(|error| panic!("{error}"));
    let mut failures = Vec::new();
    let mut told = std::collections::BTreeSet::new();
    for path in files() {
        let service = path.file_stem().unwrap().to_string_lossy().into_owned();
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let case: Case = serde_json::from_str(line).unwrap();
            match case.check(&engine, &service) {
                Ok(true) => drop(told.insert(format!("aws/generated/{service}/{}", case.event))),
                // A rule written by hand has taken its place.
                Ok(false) => {}
                Err(what) => failures.push(format!("{service} {}: {what}", case.event)),
            }
        }
    }
    let generated = engine.rule_names().into_iter().filter(|name| name.starts_with("aws/generated/"));
    failures.extend(generated.filter(|name| !told.contains(&**name)).map(|name| format!("{name}: no record")));
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(told.len() > 5_000, "only {} generated rules were met", told.len());
}

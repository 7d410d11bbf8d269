use super::*;
use crate::json::Arena;
use crate::model::{AssetKind, AssetName};
use crate::normalize::Engine;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn function() -> AssetRef {
    AssetRef {
        kind: Arc::new(AssetKind {
            provider: "aws",
            provider_type: "AWS::Lambda::Function".to_owned(),
            neutral_type: "compute.function".to_owned(),
            display: Vec::new(),
            tags: PointerBuf::from_tokens(["tags"]),
            uid: Vec::new(),
            sets: Vec::new(),
        }),
        name: AssetName::new("aws", "111122223333", "eu-west-1", "lambda/function/resize"),
        id: "resize".to_owned(),
        arn: None,
        arn_is_told: false,
        account: "111122223333".to_owned(),
        region: "eu-west-1".to_owned(),
    }
}

/// `relation name at`, with `+` or `-` in front if added or removed.
fn told(engine: &Engine, before: Option<&Value>, after: &Value, known: &[Association]) -> Vec<String> {
    let (mentions, references) = (&engine.catalog.mentions, &engine.catalog.aws.references);
    let arena = Arena::new();
    let json = |value| Json::copied(value, &arena);
    let found = mentions.associations(references, &function(), before.map(json), json(after), known);
    let line = |association: &Association| {
        let sign = match association.change {
            None => "",
            Some(RelationChange::Added) => "+",
            Some(RelationChange::Removed) => "-",
        };
        let name = association.name.as_str().trim_start_matches("asset://aws/");
        format!("{sign}{} {name} {}", association.relation, association.at.as_ref().unwrap())
    };
    found.iter().map(line).collect()
}

#[test]
fn what_a_configuration_mentions_is_told_with_its_place() {
    let engine = Engine::load(None).unwrap();
    let configuration = json!({
        "functionArn": "arn:aws:lambda:eu-west-1:111122223333:function:resize",
        "role": "arn:aws:iam::111122223333:role/service-role/resizer",
        "kmsKeyId": "1234abcd-12ab-34cd-56ef-1234567890ab",
        "vpcConfig": { "subnetIds": ["subnet-0a1b2c3d", "subnet-0a1b2c3e"], "vpcId": "vpc-0a1b2c3d" },
        "peer": { "groupId": "sg-0a1b2c3d", "userId": "444455556666" },
        "policy": { "Statement": [{ "Principal": { "AWS": "arn:aws:iam::444455556666:role/reader" }, "Resource": "*" }] },
        "unknown": "arn:aws:nimble:eu-west-1:111122223333:studio/s-1",
        "createdBy": "arn:aws:iam::111122223333:user/jane",
        "text": "not-a-reference", "other": "vpc-production", "alias": { "kmsKeyId": "alias/aws/lambda" },
        "tags": { "note": "vpc-0a1b2c3f", "aws:cloudformation:stack-id": "arn:aws:cloudformation:eu-west-1:111122223333:stack/site/0a1b" },
    });
    let found = told(&engine, None, &configuration, &[]);
    for expected in [
        "assumes 111122223333/-/iam/role/resizer /role",
        "encrypted_by 111122223333/eu-west-1/kms/key/1234abcd-12ab-34cd-56ef-1234567890ab /kmsKeyId",
        "in 111122223333/eu-west-1/ec2/subnet/subnet-0a1b2c3d /vpcConfig/subnetIds/0",
        "in 111122223333/eu-west-1/ec2/subnet/subnet-0a1b2c3e /vpcConfig/subnetIds/1",
        "in 111122223333/eu-west-1/ec2/vpc/vpc-0a1b2c3d /vpcConfig/vpcId",
        "uses 444455556666/eu-west-1/ec2/security-group/sg-0a1b2c3d /peer/groupId",
        "grants 444455556666/-/iam/role/reader /policy/Statement/0/Principal/AWS",
        "uses 111122223333/eu-west-1/nimble/studio/s-1 /unknown",
    ] {
        assert!(found.iter().any(|line| line == expected), "{expected}: {found:#?}");
    }
    assert!(found.iter().any(|line| line.starts_with("part_of ") && line.contains("/cloudformation/")), "{found:#?}");
    assert_eq!(found.len(), 9, "and nothing else: {found:#?}");
}

#[test]
fn what_came_and_went_is_marked() {
    let engine = Engine::load(None).unwrap();
    let key = |id: &str| format!("arn:aws:kms:eu-west-1:111122223333:key/{id}");
    let before =
        json!({ "kmsKeyArn": key("old"), "role": "arn:aws:iam::111122223333:role/r", "vpcId": "vpc-0a1b2c3d" });
    let after = json!({ "kmsKeyArn": key("new"), "roleName": "r", "vpcId": "vpc-0a1b2c3d" });
    let expected = [
        "+encrypted_by 111122223333/eu-west-1/kms/key/new /kmsKeyArn",
        "assumes 111122223333/-/iam/role/r /roleName",
        "in 111122223333/eu-west-1/ec2/vpc/vpc-0a1b2c3d /vpcId",
        "-encrypted_by 111122223333/eu-west-1/kms/key/old /kmsKeyArn",
    ];
    assert_eq!(told(&engine, Some(&before), &after, &[]), expected, "a name in place of an ARN is no change");
    assert_eq!(told(&engine, Some(&after), &after, &[]).len(), 3);

    let place = Place { service: "", account: "111122223333", region: "eu-west-1" };
    let by_rule = engine.catalog.aws.references.find("vpc-0a1b2c3d", &place).unwrap().association("in".into(), None);
    assert_eq!(told(&engine, None, &after, &[by_rule]).len(), 2, "what a rule told is not told twice");
}

#[test]
fn beyond_the_bound_no_change_is_claimed() {
    let engine = Engine::load(None).unwrap();
    let many = |from: usize| json!((from..from + MOST + 9).map(|n| format!("subnet-{n:08x}")).collect::<Vec<_>>());
    let found = told(&engine, Some(&many(0)), &many(7), &[]);
    assert_eq!(found.len(), MOST);
    assert!(found.iter().all(|line| line.starts_with("in ")), "{:?}", found.first());
}

proptest! {
    /// Every `at` leads to a text, and what did not change is not marked.
    #[test]
    fn places_lead_to_what_was_found(
        ids in prop::collection::vec("(vpc|subnet|sg|x)-[0-9a-f]{7,9}", 0..12),
        keys in prop::collection::vec("[a-zA-Z~/]{1,6}", 12),
    ) {
        static ENGINE: std::sync::LazyLock<Engine> = std::sync::LazyLock::new(|| Engine::load(None).unwrap());
        let document: Value =
            ids.iter().zip(&keys).map(|(id, key)| (key.clone(), json!([{ "inner": id }]))).collect::<Map<_, _>>().into();
        let (mentions, references) = (&ENGINE.catalog.mentions, &ENGINE.catalog.aws.references);
        let arena = Arena::new();
        let json = Json::copied(&document, &arena);
        for association in mentions.associations(references, &function(), Some(json), json, &[]) {
            let at = association.at.unwrap();
            prop_assert_eq!(at.resolve(&document).unwrap().as_str(), Some(association.id.as_str()));
            prop_assert_eq!(association.change, None);
        }
    }
}

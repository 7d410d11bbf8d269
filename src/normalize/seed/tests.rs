use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::normalize::Engine;

fn engine() -> &'static Engine {
    static ENGINE: std::sync::OnceLock<Engine> = std::sync::OnceLock::new();
    ENGINE.get_or_init(|| Engine::load(None).unwrap())
}

fn document(member: &str, members: Value) -> SeedDocument {
    SeedDocument {
        account: Some("111122223333".to_owned()),
        region: Some("eu-west-1".to_owned()),
        member: member.to_owned(),
        members: members.as_object().unwrap().clone(),
        ..SeedDocument::default()
    }
}

fn names(item: &Value, document: &SeedDocument) -> Vec<String> {
    let found = engine().seeds(item.to_string().as_bytes(), document);
    let seeds = found.seeds.iter().map(|(seed, _)| {
        format!(
            "{} {}",
            seed.draft.asset.kind.provider_type,
            seed.draft.asset.name.as_str().trim_start_matches("asset://")
        )
    });
    let faults = found.faults.iter().map(|(fault, _)| match fault {
        SeedFault::UnknownType(name) => format!("unknown {name}"),
        SeedFault::Rejected { code, .. } => format!("rejected {code}"),
    });
    seeds.chain(faults).collect()
}

#[test]
fn an_item_tells_its_form_and_its_name() {
    let subscription = "/subscriptions/0F1E2D3C-0000-4000-8000-000000000001";
    for (member, members, item, expected) in [
        ("Vpcs", json!({}), json!({ "VpcId": "vpc-1" }), "AWS::EC2::VPC aws/111122223333/eu-west-1/ec2/vpc/vpc-1"),
        (
            "NatGateways",
            json!({}),
            json!({ "SubnetId": "subnet-1", "NatGatewayId": "nat-1", "VpcId": "vpc-1" }),
            "AWS::EC2::NatGateway aws/111122223333/eu-west-1/ec2/natgateway/nat-1",
        ),
        (
            "LoadBalancerDescriptions",
            json!({}),
            json!({ "LoadBalancerName": "old" }),
            "AWS::ElasticLoadBalancing::LoadBalancer aws/111122223333/eu-west-1/elasticloadbalancing/loadbalancer/old",
        ),
        (
            "Volumes",
            json!({}),
            json!({ "VolumeId": "vol-1", "AvailabilityZone": "us-east-1b" }),
            "AWS::EC2::Volume aws/111122223333/us-east-1/ec2/volume/vol-1",
        ),
        (
            "Role",
            json!({}),
            json!({ "RoleName": "a", "Arn": "arn:aws:iam::444455556666:role/x/a" }),
            "AWS::IAM::Role aws/444455556666/-/iam/role/a",
        ),
        (
            "clusters",
            json!({}),
            json!({ "clusterArn": "arn:aws:ecs:eu-west-1:111122223333:cluster/blue", "clusterName": "blue" }),
            "AWS::ECS::Cluster aws/111122223333/eu-west-1/ecs/cluster/blue",
        ),
        (
            "clusterArns",
            json!({}),
            json!("arn:aws:ecs:eu-west-1:111122223333:cluster/blue"),
            "AWS::ECS::Cluster aws/111122223333/eu-west-1/ecs/cluster/blue",
        ),
        (
            "",
            json!({}),
            json!({ "ARN": "arn:aws:secretsmanager:eu-west-1:111122223333:secret:a-b1C2d3", "Name": "a" }),
            "AWS::SecretsManager::Secret aws/111122223333/eu-west-1/secretsmanager/secret/a-b1C2d3",
        ),
        (
            "resources",
            json!({ "terraform_version": "1.9.8" }),
            json!({ "type": "aws_ecs_service", "instances": [{ "attributes": {
                "id": "arn:aws:ecs:eu-west-1:111122223333:service/blue/web", "arn": "arn:aws:ecs:eu-west-1:111122223333:service/blue/web" } }] }),
            "AWS::ECS::Service aws/111122223333/eu-west-1/ecs/service/blue/web",
        ),
        (
            "ResourceDescriptions",
            json!({ "TypeName": "AWS::Logs::LogGroup" }),
            json!({ "Identifier": "/a", "Properties": "{\"LogGroupName\":\"/a\"}" }),
            "AWS::Logs::LogGroup aws/111122223333/eu-west-1/logs/log-group/%2Fa",
        ),
        (
            "data",
            json!({}),
            json!({ "id": format!("{subscription}/resourceGroups/RG"), "name": "RG", "type": "microsoft.resources/subscriptions/resourcegroups" }),
            "Microsoft.Resources/resourceGroups azure/0f1e2d3c-0000-4000-8000-000000000001/-/resourcegroups/rg",
        ),
        (
            "value",
            json!({ "@odata.context": "https://graph.microsoft.com/v1.0/$metadata#servicePrincipals" }),
            json!({ "id": "0F1E2D3C-0000-4000-8000-0000000000BB", "displayName": "ci" }),
            "Microsoft.Graph/ServicePrincipal azure/111122223333/-/entra/serviceprincipal/0f1e2d3c-0000-4000-8000-0000000000bb",
        ),
        ("Foos", json!({}), json!({ "FooId": "1" }), "unknown Foos of an answer of the aws command"),
        ("", json!({}), json!({ "hello": 1 }), "rejected unknown_seed"),
        (
            "configurationItems",
            json!({}),
            json!({ "resourceType": "AWS::EC2::VPC", "resourceId": "vpc-1" }),
            "rejected incomplete_seed",
        ),
        ("Vpcs", json!({}), json!({ "CidrBlock": "10.0.0.0/8" }), "rejected no_asset_named"),
    ] {
        assert_eq!(names(&item, &document(member, members)), [expected], "{item}");
    }
    assert_eq!(names(&json!({ "arn": "arn:aws:x:y:z:w" }), &document("failures", json!({}))), [""; 0]);
}

#[test]
fn terraform_tells_that_there_are_resources_of_azure_and_objects_of_its_directory() {
    let state = document("resources", json!({ "terraform_version": "1.9.8" }));
    let resource = |kind: &str, attributes: Value, sensitive: Value| {
        let instance = json!({ "attributes": attributes, "sensitive_attributes": sensitive });
        json!({ "type": kind, "instances": [instance] })
    };
    let group = "/subscriptions/0f1e2d3c-0000-4000-8000-000000000001/resourceGroups/Web";
    let server = format!("{group}/providers/Microsoft.DBforPostgreSQL/flexibleServers/Db");
    let attributes = json!({ "id": server, "name": "Db", "location": "westeurope", "tags": { "cost_centre": "a" },
        "administrator_password": "hunter2", "sku_name": "GP", "zone": null });
    let password = json!([[{ "type": "get_attr", "value": "administrator_password" }]]);
    let item = resource("azurerm_postgresql_flexible_server", attributes, password);
    let name = "azure/0f1e2d3c-0000-4000-8000-000000000001/-/resourcegroups/web";
    let kind = "Microsoft.DBforPostgreSQL/flexibleServers";
    assert_eq!(names(&item, &state), [format!("{kind} {name}/providers/microsoft.dbforpostgresql/flexibleservers/db")]);
    let found = engine().seeds(item.to_string().as_bytes(), &state);
    let Seed { draft, .. } = &found.seeds[0].0;
    assert!(draft.partial, "most attributes are the provider's own");
    let Some(Step::Replace(configuration)) = draft.steps.first() else { panic!("{:?}", draft.steps) };
    let configuration = configuration.to_value();
    assert_eq!(configuration["tags"], json!({ "cost_centre": "a" }));
    assert_eq!((&configuration["location"], configuration.get("skuName")), (&json!("westeurope"), None));
    assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");

    for (kind, attributes, expected) in [
        (
            "azurerm_resource_group",
            json!({ "id": group, "name": "Web" }),
            format!("Microsoft.Resources/resourceGroups {name}"),
        ),
        (
            "azurerm_key_vault_secret",
            json!({ "id": "https://v.vault.azure.net/secrets/s/1", "name": "s", "value": "hunter2" }),
            "unknown azurerm_key_vault_secret".to_owned(),
        ),
        (
            "azuread_group",
            json!({ "id": "/groups/0F1E2D3C-0000-4000-8000-0000000000BB", "object_id": "0F1E2D3C-0000-4000-8000-0000000000BB", "display_name": "ops" }),
            "Microsoft.Graph/Group azure/111122223333/-/entra/group/0f1e2d3c-0000-4000-8000-0000000000bb".to_owned(),
        ),
        ("azuread_app_role_assignment", json!({ "id": "x" }), "unknown azuread_app_role_assignment".to_owned()),
    ] {
        let item = resource(kind, attributes, json!([]));
        assert_eq!(names(&item, &state), [expected], "{kind}");
    }
    let user = json!({ "object_id": "0f1e2d3c-0000-4000-8000-0000000000aa", "user_principal_name": "jane@example.com",
        "display_name": "Jane", "password": "hunter2" });
    let found = engine().seeds(resource("azuread_user", user, json!([])).to_string().as_bytes(), &state);
    let Some(Step::Replace(configuration)) = found.seeds[0].0.draft.steps.first() else { panic!("{found:?}") };
    assert_eq!(configuration.to_value(), json!({ "userPrincipalName": "jane@example.com", "displayName": "Jane" }));
}

#[test]
fn each_asset_of_an_item_comes_with_its_own_part() {
    let instance = |id: &str| json!({ "InstanceId": id, "InstanceType": "t3.micro" });
    let group = |name: &str| {
        let id = format!("/subscriptions/0f1e2d3c-0000-4000-8000-000000000001/resourceGroups/{name}");
        json!({ "attributes": { "id": id, "name": name }, "sensitive_attributes": [] })
    };
    for (member, members, item, parts) in [
        (
            "Reservations",
            json!({}),
            json!({ "OwnerId": "111122223333", "Instances": [instance("i-0a"), instance("i-0b")] }),
            ["i-0a", "i-0b"],
        ),
        (
            "resources",
            json!({ "terraform_version": "1.9.8" }),
            json!({ "type": "azurerm_resource_group", "instances": [group("first"), group("second")] }),
            ["first", "second"],
        ),
    ] {
        let found = engine().seeds(item.to_string().as_bytes(), &document(member, members));
        assert_eq!(found.seeds.len(), 2, "{found:?}");
        for ((seed, raw), part) in found.seeds.iter().zip(parts) {
            let raw = std::str::from_utf8(raw).unwrap();
            assert!(seed.draft.asset.name.as_str().ends_with(part), "{seed:?}");
            assert!(raw.contains(part) && parts.iter().filter(|part| raw.contains(**part)).count() == 1, "{raw}");
        }
    }
}

#[test]
fn each_fault_of_an_item_comes_with_its_own_part() {
    let instance = |id: &str| json!({ "attributes": { "id": id, "name": "a" }, "sensitive_attributes": [] });
    let group = "/subscriptions/0f1e2d3c-0000-4000-8000-000000000001/resourceGroups";
    let (first, good, second) = (format!("{group}/a/first"), format!("{group}/good"), format!("{group}/a/second"));
    let state = document("resources", json!({ "terraform_version": "1.9.8" }));
    let item = |ids: &[&str]| {
        let instances: Vec<_> = ids.iter().map(|id| instance(id)).collect();
        json!({ "type": "azurerm_resource_group", "instances": instances }).to_string()
    };
    let found = engine().seeds(item(&[&first, &good, &second]).as_bytes(), &state);
    assert_eq!((found.seeds.len(), found.faults.len()), (1, 2), "{found:?}");
    for ((fault, part), id) in found.faults.iter().zip([&first, &second]) {
        let part = std::str::from_utf8(part.as_ref().unwrap()).unwrap();
        assert!(part.contains(id) && !part.contains("good"), "{part}");
        assert!(matches!(fault, SeedFault::Rejected { code: "no_asset_named", reason } if reason.contains(id)));
    }
    let found = engine().seeds(item(&[&first]).as_bytes(), &state);
    assert!(matches!(&found.faults[..], [(SeedFault::Rejected { .. }, None)]), "the item as it came: {found:?}");
}

#[test]
fn an_item_without_a_place_is_told_how_to_get_one() {
    let item = json!({ "VolumeId": "vol-1" });
    let nowhere = SeedDocument { member: "Volumes".to_owned(), ..SeedDocument::default() };
    assert_eq!(names(&item, &nowhere), ["rejected no_account"]);
    let somewhere = SeedDocument { account: Some("111122223333".to_owned()), ..nowhere };
    assert_eq!(names(&item, &somewhere), ["rejected no_region"]);
}

#[test]
fn a_deleted_item_is_a_deletion_of_its_time() {
    let item = json!({ "resourceType": "AWS::EC2::VPC", "resourceId": "vpc-1", "configurationItemStatus": "ResourceDeleted",
        "configurationItemCaptureTime": "2026-02-03T03:00:00.900Z", "awsAccountId": "111122223333", "awsRegion": "eu-west-1" });
    let found = engine().seeds(item.to_string().as_bytes(), &SeedDocument::default());
    let (seed, _) = &found.seeds[0];
    assert_eq!(seed.draft.action, DraftAction::Known(Action::Delete));
    assert_eq!(seed.as_of.to_string(), "2026-02-03T03:00:00.000Z", "an event of the same second comes after");
}

#[test]
fn secrets_are_left_out_by_name_and_by_place() {
    let item = json!({ "FunctionArn": "arn:aws:lambda:eu-west-1:111122223333:function:f", "FunctionName": "f",
        "Environment": { "Variables": { "TOKEN": "hunter2" } }, "MasterUserPassword": "hunter2" });
    let found = engine().seeds(item.to_string().as_bytes(), &document("Configuration", json!({})));
    assert_eq!(found.seeds.len(), 1);
    assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
}

proptest! {
    #[test]
    fn no_item_panics(text in "[\\[\\]{}\":,a-zA-Z/0-9 .-]{0,80}", member in "[A-Za-z]{0,8}") {
        let _ = engine().seeds(text.as_bytes(), &document(&member, json!({ "TypeName": "AWS::EC2::VPC", "terraform_version": "1" })));
    }
}

//! Further resources of the demo: functions, topics, containers and stacks.

use serde_json::{Value, json};

use super::people::Who;
use super::scribe::{Call, Scribe};
use super::site::{Definition, Function, Service, Site, Stack, Topic};

const MOST_FUNCTIONS: usize = 7;
const MOST_TOPICS: usize = 6;
const MOST_SUBSCRIPTIONS: usize = 4;
const MOST_SERVICES: usize = 4;
const MOST_TASKS: usize = 5;
const MOST_STACKS: usize = 3;

fn developer(scribe: &mut Scribe) -> Who {
    const DEVELOPERS: [Who; 5] =
        [Who::DeployController, Who::ReleaseBot, Who::AppDeveloper, Who::DataEngineer, Who::Terraform];
    scribe.pick(&DEVELOPERS).copied().unwrap_or(Who::DeployController)
}

/// Lambda responds to every change with the whole configuration.
fn function_answer(scribe: &mut Scribe, site: &Site, function: &Function) -> Value {
    json!({
        "functionName": function.name, "functionArn": site.arn("lambda", &format!("function:{}", function.name)),
        "runtime": "python3.12", "role": site.iam_arn(&format!("role/{}", function.role)), "handler": "app.handler",
        "codeSize": scribe.rng.u32(20_000..900_000), "description": "", "timeout": function.timeout,
        "memorySize": function.memory, "lastModified": scribe.now.to_string().replace('Z', "+0000"),
        "codeSha256": format!("{}=", scribe.base64(43)), "version": "$LATEST", "environment": {},
        "tracingConfig": { "mode": "PassThrough" }, "revisionId": scribe.uuid(), "state": "Active",
        "lastUpdateStatus": "InProgress", "packageType": "Zip", "architectures": ["arm64"],
        "ephemeralStorage": { "size": 512 }, "snapStart": { "applyOn": "None", "optimizationStatus": "Off" },
    })
}

pub(super) fn create_function(scribe: &mut Scribe, site: &mut Site, who: Who, name: String) -> Option<()> {
    let role = site.roles.iter().find(|role| role.base)?.name.clone();
    let bucket = site.buckets.first()?.name.clone();
    let function = Function { name, role, memory: 256, timeout: 30, permissions: Vec::new() };
    let request = json!({
        "functionName": function.name, "runtime": "python3.12",
        "role": site.iam_arn(&format!("role/{}", function.role)), "handler": "app.handler", "code": { "s3Bucket": bucket, "s3Key": format!("{}.zip", function.name) },
        "description": "", "timeout": function.timeout, "memorySize": function.memory, "publish": false,
        "packageType": "Zip", "architectures": ["arm64"], "environment": {},
        "tags": { "environment": site.environment },
    });
    let response = function_answer(scribe, site, &function);
    scribe.record(site.place, who, Call::new("lambda", "CreateFunction20150331", request, response));
    site.functions.push(function);
    Some(())
}

pub(super) fn new_function(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.functions.len() >= MOST_FUNCTIONS {
        return None;
    }
    let base = scribe.word(&["resize-images", "export-reports", "rotate-tokens", "notify-owners"]);
    let (name, who) = (scribe.name(&format!("{}-{base}", site.short)), developer(scribe));
    create_function(scribe, site, who, name)
}

pub(super) fn change_function(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index(&site.functions)?;
    let bucket = site.buckets.first()?.name.clone();
    let who = developer(scribe);
    let (name, request) = {
        let function = site.functions.get_mut(index)?;
        if scribe.rng.bool() {
            let key = format!("{}.zip", function.name);
            let request = json!({
                "functionName": function.name, "s3Bucket": bucket, "s3Key": key, "publish": false, "dryRun": false,
            });
            ("UpdateFunctionCode20150331v2", request)
        } else {
            function.memory = [128, 256, 512, 1024].into_iter().find(|memory| *memory > function.memory).unwrap_or(128);
            function.timeout = if function.timeout == 30 { 60 } else { 30 };
            let request = json!({
                "functionName": function.name, "memorySize": function.memory, "timeout": function.timeout,
            });
            ("UpdateFunctionConfiguration20150331v2", request)
        }
    };
    let response = function_answer(scribe, site, site.functions.get(index)?);
    scribe.record(site.place, who, Call::new("lambda", name, request, response));
    Some(())
}

/// Allows a topic to call a function, or revokes that.
pub(super) fn permit_function(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index(&site.functions)?;
    let topic = scribe.index_where(&site.topics, |_, topic| !topic.stacked)?;
    let topic = site.topics.get(topic)?.arn.clone();
    let arn = site.arn("lambda", &format!("function:{}", site.functions.get(index)?.name));
    let function = site.functions.get_mut(index)?;
    if let Some(statement) = function.permissions.pop() {
        let request = json!({ "functionName": function.name, "statementId": statement });
        scribe.record(
            site.place,
            Who::Terraform,
            Call::new("lambda", "RemovePermission20150331v2", request, Value::Null),
        );
        return Some(());
    }
    let sid = scribe.name("topic");
    let statement = json!({
        "Sid": sid, "Effect": "Allow", "Principal": { "Service": "sns.amazonaws.com" },
        "Action": "lambda:InvokeFunction",
        "Resource": arn, "Condition": { "ArnLike": { "AWS:SourceArn": topic } },
    });
    let request = json!({
        "functionName": function.name, "statementId": sid, "action": "lambda:InvokeFunction",
        "principal": "sns.amazonaws.com", "sourceArn": topic,
    });
    function.permissions.push(sid);
    let response = json!({ "statement": statement.to_string() });
    scribe.record(site.place, Who::Terraform, Call::new("lambda", "AddPermission20150331v2", request, response));
    Some(())
}

pub(super) fn drop_function(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index(&site.functions).filter(|_| site.functions.len() > 1)?;
    let function = site.functions.remove(index);
    let who = developer(scribe);
    let request = json!({ "functionName": function.name });
    scribe.record(site.place, who, Call::new("lambda", "DeleteFunction20150331", request, Value::Null));
    Some(())
}

pub(super) fn create_topic(scribe: &mut Scribe, site: &mut Site, who: Who, name: &str, stacked: bool) -> String {
    let arn = site.arn("sns", name);
    let request = json!({ "name": name, "tags": [{ "key": "environment", "value": site.environment }] });
    scribe.record(site.place, who, Call::new("sns", "CreateTopic", request, json!({ "topicArn": arn })));
    site.topics.push(Topic { arn: arn.clone(), subscriptions: Vec::new(), stacked });
    arn
}

pub(super) fn subscribe(scribe: &mut Scribe, site: &mut Site, who: Who, topic: &str) -> Option<()> {
    let endpoint = site.arn("sqs", &format!("{}-{}", site.short, scribe.word(&["audit", "alerts", "archive"])));
    let subscription = format!("{topic}:{}", scribe.uuid());
    site.topics.iter_mut().find(|held| held.arn == topic)?.subscriptions.push(subscription.clone());
    let request = json!({ "topicArn": topic, "protocol": "sqs", "endpoint": endpoint, "returnSubscriptionArn": true });
    scribe.record(site.place, who, Call::new("sns", "Subscribe", request, json!({ "subscriptionArn": subscription })));
    Some(())
}

pub(super) fn new_topic(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.topics.len() >= MOST_TOPICS {
        return None;
    }
    let base = scribe.word(&["orders", "alerts", "deployments"]);
    let (name, who) = (scribe.name(&format!("{}-{base}", site.short)), developer(scribe));
    let topic = create_topic(scribe, site, who, &name, false);
    subscribe(scribe, site, who, &topic)
}

pub(super) fn change_topic(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.topics, |_, topic| !topic.stacked)?;
    let who = developer(scribe);
    let topic = site.topics.get_mut(index)?;
    let arn = topic.arn.clone();
    match scribe.rng.u8(..3) {
        0 if topic.subscriptions.len() < MOST_SUBSCRIPTIONS => subscribe(scribe, site, who, &arn),
        1 if topic.subscriptions.len() > 1 => {
            let request = json!({ "subscriptionArn": topic.subscriptions.pop()? });
            scribe.record(site.place, who, Call::new("sns", "Unsubscribe", request, Value::Null));
            Some(())
        }
        _ => {
            let value = scribe.word(&["Orders", "Alerts", "Changes"]);
            let request = json!({ "topicArn": arn, "attributeName": "DisplayName", "attributeValue": value });
            scribe.record(site.place, who, Call::new("sns", "SetTopicAttributes", request, Value::Null));
            Some(())
        }
    }
}

fn delete_topic(scribe: &mut Scribe, site: &mut Site, who: Who, arn: &str) {
    site.topics.retain(|topic| topic.arn != arn);
    scribe.record(site.place, who, Call::new("sns", "DeleteTopic", json!({ "topicArn": arn }), Value::Null));
}

pub(super) fn drop_topic(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.topics, |_, topic| !topic.stacked)?;
    let arn = site.topics.get(index).filter(|_| site.topics.len() > 2)?.arn.clone();
    let who = developer(scribe);
    delete_topic(scribe, site, who, &arn);
    Some(())
}

/// A stack with a topic: a person calls CloudFormation, which makes the calls.
pub(super) fn new_stack(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.stacks.len() >= MOST_STACKS || site.topics.len() >= MOST_TOPICS {
        return None;
    }
    let name = scribe.name(&format!("{}-notifications", site.short));
    let id = site.arn("cloudformation", &format!("stack/{name}/{}", scribe.uuid()));
    let request = json!({
        "stackName": name, "templateURL": "https://s3.amazonaws.com/templates.example.com/notifications.json",
        "parameters": [], "capabilities": ["CAPABILITY_IAM"], "disableRollback": false,
    });
    let call = Call::new("cloudformation", "CreateStack", request, json!({ "stackId": id }));
    scribe.record(site.place, Who::CloudEngineer, call);
    let topic = create_topic(scribe, site, Who::CloudFormation, &format!("{name}-topic"), true);
    site.stacks.push(Stack { name, id, topic });
    Some(())
}

pub(super) fn drop_stack(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index(&site.stacks)?;
    let stack = site.stacks.remove(index);
    let key = if scribe.rng.bool() { stack.name } else { stack.id };
    let call = Call::new("cloudformation", "DeleteStack", json!({ "stackName": key }), Value::Null);
    scribe.record(site.place, Who::CloudEngineer, call);
    delete_topic(scribe, site, Who::CloudFormation, &stack.topic);
    Some(())
}

pub(super) fn create_cluster(scribe: &mut Scribe, site: &mut Site, who: Who) {
    let name = scribe.name(&format!("{}-main", site.short));
    let settings = json!([{ "name": "containerInsights", "value": "enabled" }]);
    let request = json!({ "clusterName": name, "settings": settings, "capacityProviders": ["FARGATE"] });
    let response = json!({ "cluster": {
        "clusterArn": site.arn("ecs", &format!("cluster/{name}")), "clusterName": name, "status": "ACTIVE",
        "registeredContainerInstancesCount": 0, "runningTasksCount": 0, "pendingTasksCount": 0,
        "activeServicesCount": 0, "statistics": [], "tags": [], "settings": settings,
        "capacityProviders": ["FARGATE"], "defaultCapacityProviderStrategy": [],
    }});
    scribe.record(site.place, who, Call::new("ecs", "CreateCluster", request, response));
    site.cluster = Some(name);
}

pub(super) fn register_definition(scribe: &mut Scribe, site: &mut Site, who: Who, family: &str) -> u32 {
    let revision = site.definitions.iter().find(|held| held.family == family).map_or(1, |held| held.revision + 1);
    let registry = format!("{}.dkr.ecr.{}.amazonaws.com", site.place.account, site.place.region);
    let containers = json!([{
        "name": "app", "image": format!("{registry}/{family}:1.{revision}"),
        "cpu": 0, "essential": true, "portMappings": [{ "containerPort": 8080, "hostPort": 8080, "protocol": "tcp" }],
        "environment": [], "mountPoints": [], "volumesFrom": [],
    }]);
    let request = json!({
        "family": family, "networkMode": "awsvpc", "requiresCompatibilities": ["FARGATE"], "cpu": "256",
        "memory": "512", "containerDefinitions": containers,
    });
    let response = json!({ "taskDefinition": {
        "taskDefinitionArn": site.arn("ecs", &format!("task-definition/{family}:{revision}")), "family": family,
        "revision": revision, "status": "ACTIVE", "networkMode": "awsvpc", "compatibilities": ["EC2", "FARGATE"],
        "requiresCompatibilities": ["FARGATE"], "cpu": "256", "memory": "512", "containerDefinitions": containers,
        "volumes": [], "placementConstraints": [], "registeredAt": scribe.wire_date(),
    }});
    scribe.record(site.place, who, Call::new("ecs", "RegisterTaskDefinition", request, response));
    site.definitions.retain(|held| held.family != family);
    site.definitions.push(Definition { family: family.to_owned(), revision });
    revision
}

fn service_answer(site: &Site, cluster: &str, service: &Service) -> Value {
    let definition = site.arn("ecs", &format!("task-definition/{}:{}", service.family, service.revision));
    json!({ "service": {
        "serviceArn": site.arn("ecs", &format!("service/{cluster}/{}", service.name)), "serviceName": service.name,
        "clusterArn": site.arn("ecs", &format!("cluster/{cluster}")), "loadBalancers": [], "serviceRegistries": [],
        "status": "ACTIVE", "desiredCount": service.desired, "runningCount": 0, "pendingCount": 0,
        "launchType": "FARGATE", "taskDefinition": definition, "schedulingStrategy": "REPLICA",
        "createdAt": service.created, "enableECSManagedTags": true, "propagateTags": "NONE",
    }})
}

pub(super) fn create_service(
    scribe: &mut Scribe,
    site: &mut Site,
    who: Who,
    name: String,
    family: &str,
    base: bool,
) -> Option<()> {
    let cluster = site.cluster.clone()?;
    let revision = site.definitions.iter().find(|held| held.family == family)?.revision;
    let subnets: Vec<&str> = site.subnets.iter().filter(|subnet| subnet.base).map(|held| held.id.as_str()).collect();
    let groups: Vec<&str> = site.groups.iter().filter(|group| group.base).map(|held| held.id.as_str()).collect();
    let service = Service { name, family: family.to_owned(), revision, desired: 2, created: scribe.wire_date(), base };
    let request = json!({
        "cluster": cluster, "serviceName": service.name, "taskDefinition": format!("{family}:{revision}"),
        "desiredCount": service.desired, "launchType": "FARGATE",
        "networkConfiguration": { "awsvpcConfiguration": {
            "subnets": subnets, "securityGroups": groups, "assignPublicIp": "DISABLED",
        }},
        "enableECSManagedTags": true,
    });
    let response = service_answer(site, &cluster, &service);
    scribe.record(site.place, who, Call::new("ecs", "CreateService", request, response));
    site.services.push(service);
    Some(())
}

pub(super) fn new_service(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.services.len() >= MOST_SERVICES {
        return None;
    }
    let family = scribe.pick(&site.definitions)?.family.clone();
    let name = scribe.name(&format!("{}-api", site.short));
    create_service(scribe, site, Who::DeployController, name, &family, false)
}

/// A release: a new revision of the task definition, to which the service is then updated. Or only another number of
/// tasks.
pub(super) fn release_service(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let cluster = site.cluster.clone()?;
    let index = scribe.index(&site.services)?;
    let family = site.services.get(index)?.family.clone();
    let revision = scribe.rng.bool().then(|| register_definition(scribe, site, Who::DeployController, &family));
    let service = site.services.get_mut(index)?;
    let mut request = json!({ "cluster": cluster, "service": service.name });
    match revision {
        Some(revision) => {
            service.revision = revision;
            request["taskDefinition"] = json!(format!("{family}:{revision}"));
        }
        None => {
            service.desired = service.desired % 5 + 1;
            request["desiredCount"] = json!(service.desired);
        }
    }
    let response = service_answer(site, &cluster, site.services.get(index)?);
    scribe.record(site.place, Who::DeployController, Call::new("ecs", "UpdateService", request, response));
    Some(())
}

pub(super) fn drop_service(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let cluster = site.cluster.clone()?;
    let index = scribe.index_where(&site.services, |_, service| !service.base)?;
    let service = site.services.remove(index);
    let request = json!({ "cluster": cluster, "service": service.name, "force": true });
    let mut response = service_answer(site, &cluster, &service);
    response["service"]["status"] = json!("DRAINING");
    scribe.record(site.place, Who::DeployController, Call::new("ecs", "DeleteService", request, response));
    Some(())
}

fn task_answer(site: &Site, cluster: &str, arn: &str, status: &str) -> Value {
    json!({
        "taskArn": arn, "clusterArn": site.arn("ecs", &format!("cluster/{cluster}")), "lastStatus": status,
        "desiredStatus": if status == "PROVISIONING" { "RUNNING" } else { "STOPPED" }, "launchType": "FARGATE",
        "cpu": "256", "memory": "512", "containers": [],
    })
}

pub(super) fn run_task(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let cluster = site.cluster.clone().filter(|_| site.tasks.len() < MOST_TASKS)?;
    let definition = scribe.index(&site.definitions)?;
    let definition = site.definitions.get(definition)?;
    let arn = site.arn("ecs", &format!("task/{cluster}/{:032x}", scribe.rng.u128(..)));
    let mut task = task_answer(site, &cluster, &arn, "PROVISIONING");
    task["taskDefinitionArn"] =
        json!(site.arn("ecs", &format!("task-definition/{}:{}", definition.family, definition.revision)));
    let request = json!({
        "cluster": cluster, "taskDefinition": format!("{}:{}", definition.family, definition.revision), "count": 1,
        "launchType": "FARGATE", "startedBy": "nightly-import",
    });
    let response = json!({ "tasks": [task], "failures": [] });
    scribe.record(site.place, Who::DataPipeline, Call::new("ecs", "RunTask", request, response));
    site.tasks.push(arn);
    Some(())
}

pub(super) fn stop_task(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let cluster = site.cluster.clone()?;
    let index = scribe.index(&site.tasks)?;
    let arn = site.tasks.remove(index);
    let request = json!({ "cluster": cluster, "task": arn, "reason": "import is done" });
    let response = json!({ "task": task_answer(site, &cluster, &arn, "DEPROVISIONING") });
    scribe.record(site.place, Who::DataPipeline, Call::new("ecs", "StopTask", request, response));
    Some(())
}

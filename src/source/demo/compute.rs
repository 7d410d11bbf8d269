//! Compute resources of the demo: instances, volumes, snapshots and the scaling group.

use serde_json::{Value, json};

use super::network::engineer;
use super::people::Who;
use super::scribe::{Call, Scribe, items, tag_set, tag_specification};
use super::site::{Instance, Power, ScalingGroup, Site, Volume};

const MOST_INSTANCES: usize = 12;
const MOST_VOLUMES: usize = 8;
const MOST_SNAPSHOTS: usize = 8;
const KINDS: [&str; 4] = ["t3.small", "t3.medium", "m6i.large", "c6i.large"];
const DEVICES: [&str; 4] = ["/dev/sdf", "/dev/sdg", "/dev/sdh", "/dev/sdi"];

/// Starts instances in an existing subnet with existing groups.
pub(super) fn run_instances(
    scribe: &mut Scribe,
    site: &mut Site,
    who: Who,
    groups: &[String],
    name: &str,
    count: usize,
) -> Option<()> {
    // The groups are those of the main network.
    let main = &site.vpcs.first()?.id;
    let subnet = scribe.index_where(&site.subnets, |_, subnet| subnet.vpc == *main)?;
    let subnet = site.subnets.get(subnet)?;
    let (subnet_id, zone, vpc) = (subnet.id.clone(), subnet.zone.clone(), subnet.vpc.clone());
    let network = format!("10.{}.{}", site.vpcs.iter().find(|network| network.id == vpc)?.octet, subnet.octet);
    let kind = scribe.word(&KINDS);
    let scaled = site.scaling.as_ref().filter(|_| who == Who::AutoScaling).map(|scaling| scaling.name.clone());
    let mut tags = vec![("Name", name), ("environment", site.environment)];
    if let Some(scaling) = &scaled {
        tags.push(("aws:autoscaling:groupName", scaling));
    }
    let image = if site.short == "prod" { "ami-0a1b2c3d4e5f60001" } else { "ami-0a1b2c3d4e5f60002" };
    let token = scribe.uuid();
    let group_set = items(groups.iter().map(|id| json!({ "groupId": id })).collect());
    let request = json!({
        "instancesSet": items(vec![json!({ "imageId": image, "minCount": count, "maxCount": count })]),
        "groupSet": group_set, "instanceType": kind, "blockDeviceMapping": {}, "monitoring": { "enabled": false },
        "subnetId": subnet_id, "disableApiTermination": false, "disableApiStop": false, "clientToken": token,
        "tagSpecificationSet": tag_specification("instance", &tags), "ebsOptimized": false,
    });
    let launched: Vec<Value> = (0..count)
        .map(|index| {
            let id = scribe.id("i");
            let address = format!("{network}.{}", scribe.rng.u8(5..250));
            let interface = json!({
                "networkInterfaceId": scribe.id("eni"), "subnetId": subnet_id, "vpcId": vpc,
                "ownerId": site.place.account, "status": "in-use", "privateIpAddress": address, "sourceDestCheck": true,
                "interfaceType": "interface", "groupSet": group_set,
                "attachment": {
                    "deviceIndex": 0, "networkCardIndex": 0, "status": "attaching", "deleteOnTermination": true,
                },
            });
            site.instances.push(Instance {
                id: id.clone(),
                subnet: subnet_id.clone(),
                zone: zone.clone(),
                groups: groups.to_vec(),
                power: Power::Running,
                kind,
                protected: false,
                scaled: scaled.is_some(),
                tags: Vec::new(),
            });
            json!({
                "instanceId": id, "imageId": image, "instanceState": { "code": 0, "name": "pending" },
                "privateDnsName": format!("ip-{}.ec2.internal", address.replace('.', "-")), "amiLaunchIndex": index,
                "productCodes": {}, "instanceType": kind, "launchTime": scribe.now.millis(),
                "placement": { "availabilityZone": zone, "tenancy": "default" }, "monitoring": { "state": "disabled" },
                "subnetId": subnet_id, "vpcId": vpc, "privateIpAddress": address,
                "stateReason": { "code": "pending", "message": "pending" }, "architecture": "x86_64",
                "rootDeviceType": "ebs", "rootDeviceName": "/dev/xvda", "blockDeviceMapping": {},
                "virtualizationType": "hvm", "hypervisor": "xen", "tagSet": tag_set(&tags), "clientToken": token,
                "groupSet": group_set, "sourceDestCheck": true, "networkInterfaceSet": items(vec![interface]),
                "ebsOptimized": false, "enaSupport": true, "cpuOptions": { "coreCount": 1, "threadsPerCore": 2 },
                "metadataOptions": {
                    "state": "pending", "httpTokens": "required", "httpPutResponseHopLimit": 2,
                    "httpEndpoint": "enabled", "httpProtocolIpv4": "enabled", "httpProtocolIpv6": "disabled",
                },
            })
        })
        .collect();
    let response = json!({
        "reservationId": scribe.id("r"), "ownerId": site.place.account, "groupSet": {},
        "instancesSet": items(launched),
    });
    scribe.record(site.place, who, Call::new("ec2", "RunInstances", request, response));
    Some(())
}

/// A call that moves one instance from a state to another.
fn change_power(
    scribe: &mut Scribe,
    site: &Site,
    who: Who,
    name: &'static str,
    id: &str,
    to: (u8, &str),
    from: (u8, &str),
) {
    let mut request = json!({ "instancesSet": items(vec![json!({ "instanceId": id })]) });
    if name == "StopInstances" {
        request["force"] = json!(false);
    }
    let response = json!({ "instancesSet": items(vec![json!({
        "instanceId": id, "currentState": { "code": to.0, "name": to.1 },
        "previousState": { "code": from.0, "name": from.1 },
    })])});
    scribe.record(site.place, who, Call::new("ec2", name, request, response));
}

fn terminate(scribe: &mut Scribe, site: &mut Site, who: Who, index: usize) {
    let instance = site.instances.remove(index);
    let from = if instance.power == Power::Running { (16, "running") } else { (80, "stopped") };
    change_power(scribe, site, who, "TerminateInstances", &instance.id, (32, "shutting-down"), from);
    // AWS detaches volumes and addresses itself.
    for volume in &mut site.volumes {
        volume.attached.take_if(|(holder, _)| *holder == instance.id);
    }
    for address in &mut site.addresses {
        address.association.take_if(|(_, holder)| *holder == instance.id);
    }
}

pub(super) fn new_instance(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.instances.len() >= MOST_INSTANCES {
        return None;
    }
    let group = scribe.pick(&site.groups)?.id.clone();
    let base = scribe.word(&["worker", "web", "batch", "search", "bastion"]);
    let name = scribe.name(&format!("{}-{base}", site.short));
    let who = engineer(scribe);
    let count = if scribe.one_in(4) { 2 } else { 1 };
    run_instances(scribe, site, who, &[group], &name, count)
}

pub(super) fn drop_instance(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.instances, |_, instance| !instance.scaled && !instance.protected)?;
    let who = engineer(scribe);
    (site.instances.len() > 2).then(|| terminate(scribe, site, who, index))
}

pub(super) fn toggle_instance(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.instances, |_, instance| !instance.scaled)?;
    let instance = site.instances.get_mut(index)?;
    let id = instance.id.clone();
    let who = engineer(scribe);
    if instance.power == Power::Running {
        instance.power = Power::Stopped;
        change_power(scribe, site, who, "StopInstances", &id, (64, "stopping"), (16, "running"));
    } else {
        instance.power = Power::Running;
        change_power(scribe, site, who, "StartInstances", &id, (0, "pending"), (80, "stopped"));
    }
    Some(())
}

pub(super) fn modify_instance(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.instances, |_, instance| !instance.scaled)?;
    let group = scribe.pick(&site.groups)?.id.clone();
    let kind = scribe.word(&KINDS);
    let who = engineer(scribe);
    let instance = site.instances.get_mut(index)?;
    let mut request = json!({ "instanceId": instance.id });
    // Only a stopped instance can change its type.
    if instance.power == Power::Stopped && instance.kind != kind {
        instance.kind = kind;
        request["instanceType"] = json!({ "value": kind });
    } else if !instance.groups.contains(&group) {
        instance.groups = vec![group.clone()];
        request["groupSet"] = items(vec![json!({ "groupId": group })]);
    } else {
        instance.protected = !instance.protected;
        request["disableApiTermination"] = json!({ "value": instance.protected });
    }
    scribe.record(site.place, who, Call::ec2_done("ModifyInstanceAttribute", request));
    Some(())
}

pub(super) fn tag_instance(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index(&site.instances)?;
    let key = scribe.word(&["cost-centre", "patch-window", "owner"]);
    let value = scribe.word(&["platform", "data", "payments", "sunday-night"]);
    let who = engineer(scribe);
    let instance = site.instances.get_mut(index)?;
    let resources = items(vec![json!({ "resourceId": instance.id })]);
    let call = if let Some(position) = instance.tags.iter().position(|tag| *tag == key) {
        instance.tags.remove(position);
        Call::ec2_done("DeleteTags", json!({ "resourcesSet": resources, "tagSet": items(vec![json!({ "key": key })]) }))
    } else {
        instance.tags.push(key);
        Call::ec2_done("CreateTags", json!({ "resourcesSet": resources, "tagSet": tag_set(&[(key, value)]) }))
    };
    scribe.record(site.place, who, call);
    Some(())
}

pub(super) fn new_volume(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.volumes.len() >= MOST_VOLUMES {
        return None;
    }
    let zone = scribe.pick(&site.instances)?.zone.clone();
    let (id, token) = (scribe.id("vol"), scribe.uuid());
    let size = scribe.pick(&[20, 50, 100, 200]).copied()?;
    let name = scribe.name(&format!("{}-data", site.short));
    let tags = [("Name", name.as_str()), ("environment", site.environment)];
    let request = json!({
        "size": size.to_string(), "zone": zone, "volumeType": "gp3", "encrypted": true,
        "tagSpecificationSet": tag_specification("volume", &tags), "clientToken": token,
    });
    let response = json!({
        "volumeId": id, "size": size.to_string(), "zone": zone, "status": "creating",
        "createTime": scribe.now.millis(), "volumeType": "gp3", "iops": 3000, "throughput": 125, "encrypted": true,
        "tagSet": tag_set(&tags), "multiAttachEnabled": false,
    });
    let who = engineer(scribe);
    scribe.record(site.place, who, Call::new("ec2", "CreateVolume", request, response));
    site.volumes.push(Volume { id, zone, size, attached: None });
    Some(())
}

pub(super) fn attach_volume(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.volumes, |_, volume| volume.attached.is_none())?;
    let zone = site.volumes.get(index)?.zone.clone();
    let instance = scribe.index_where(&site.instances, |_, instance| instance.zone == zone)?;
    let instance = site.instances.get(instance)?.id.clone();
    let held: Vec<&str> = site
        .volumes
        .iter()
        .filter_map(|volume| volume.attached.as_ref())
        .filter_map(|(holder, device)| (*holder == instance).then_some(device.as_str()))
        .collect();
    let device = DEVICES.into_iter().find(|device| !held.contains(device))?;
    let volume = site.volumes.get_mut(index)?;
    volume.attached = Some((instance.clone(), device.to_owned()));
    let request =
        json!({ "volumeId": volume.id, "instanceId": instance, "device": device, "deleteOnTermination": false });
    let response = json!({
        "volumeId": volume.id, "instanceId": instance, "device": device, "status": "attaching",
        "attachTime": scribe.now.millis(), "deleteOnTermination": false,
    });
    let who = engineer(scribe);
    scribe.record(site.place, who, Call::new("ec2", "AttachVolume", request, response));
    Some(())
}

pub(super) fn detach_volume(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.volumes, |_, volume| volume.attached.is_some())?;
    let volume = site.volumes.get_mut(index)?;
    let (instance, device) = volume.attached.take()?;
    let request = json!({ "volumeId": volume.id, "instanceId": instance, "force": false });
    let response = json!({
        "volumeId": volume.id, "instanceId": instance, "device": device, "status": "detaching",
        "attachTime": scribe.now.millis() - 3_600_000,
    });
    let who = engineer(scribe);
    scribe.record(site.place, who, Call::new("ec2", "DetachVolume", request, response));
    Some(())
}

pub(super) fn grow_volume(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.volumes, |_, volume| volume.size < 800)?;
    let volume = site.volumes.get_mut(index)?;
    let before = volume.size;
    volume.size *= 2;
    let request = json!({ "ModifyVolumeRequest": { "VolumeId": volume.id, "Size": volume.size } });
    let response = json!({ "ModifyVolumeResponse": {
        "xmlns": "http://ec2.amazonaws.com/doc/2016-11-15/", "requestId": scribe.uuid(),
        "volumeModification": {
            "volumeId": volume.id, "modificationState": "modifying", "progress": 0,
            "startTime": scribe.now.to_string(), "originalSize": before, "targetSize": volume.size,
            "originalVolumeType": "gp3", "targetVolumeType": "gp3", "originalIops": 3000, "targetIops": 3000,
        },
    }});
    let who = engineer(scribe);
    scribe.record(site.place, who, Call::new("ec2", "ModifyVolume", request, response));
    Some(())
}

pub(super) fn drop_volume(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.volumes, |_, volume| volume.attached.is_none())?;
    let volume = site.volumes.remove(index);
    let who = engineer(scribe);
    scribe.record(site.place, who, Call::ec2_done("DeleteVolume", json!({ "volumeId": volume.id })));
    Some(())
}

pub(super) fn new_snapshot(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    if site.snapshots.len() >= MOST_SNAPSHOTS {
        return None;
    }
    let volume = scribe.index(&site.volumes)?;
    let volume = site.volumes.get(volume)?;
    let id = scribe.id("snap");
    let tags = [("purpose", "nightly-backup")];
    let request = json!({
        "volumeId": volume.id, "description": "nightly backup",
        "tagSpecificationSet": tag_specification("snapshot", &tags),
    });
    let response = json!({
        "snapshotId": id, "volumeId": volume.id, "status": "pending", "startTime": scribe.now.millis(),
        "ownerId": site.place.account, "volumeSize": volume.size.to_string(), "description": "nightly backup",
        "encrypted": true, "tagSet": tag_set(&tags),
    });
    scribe.record(site.place, Who::BackupOperator, Call::new("ec2", "CreateSnapshot", request, response));
    site.snapshots.push(id);
    Some(())
}

pub(super) fn drop_snapshot(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let index = scribe.index_where(&site.snapshots, |scribe, id| !scribe.pinned.contains(id))?;
    let request = json!({ "snapshotId": site.snapshots.remove(index) });
    scribe.record(site.place, Who::BackupOperator, Call::ec2_done("DeleteSnapshot", request));
    Some(())
}

/// A launch template and the group that starts instances from it.
pub(super) fn create_scaling(scribe: &mut Scribe, site: &mut Site, who: Who, group: &str) -> Option<()> {
    let (template, name) = (scribe.id("lt"), scribe.name(&format!("{}-web", site.short)));
    let request = json!({ "CreateLaunchTemplateRequest": {
        "LaunchTemplateName": name, "ClientToken": scribe.uuid(),
        "LaunchTemplateData": {
            "ImageId": "ami-0a1b2c3d4e5f60001", "InstanceType": "t3.medium",
            "SecurityGroupId": { "tag": 1, "content": group },
        },
    }});
    let response = json!({ "CreateLaunchTemplateResponse": {
        "xmlns": "http://ec2.amazonaws.com/doc/2016-11-15/", "requestId": scribe.uuid(),
        "launchTemplate": {
            "launchTemplateId": template, "launchTemplateName": name, "createTime": scribe.now.to_string(),
            "createdBy": who.user_arn(site.place.account), "defaultVersionNumber": 1, "latestVersionNumber": 1,
        },
    }});
    scribe.record(site.place, who, Call::new("ec2", "CreateLaunchTemplate", request, response));
    let subnets: Vec<&str> =
        site.subnets.iter().filter(|subnet| subnet.base).map(|subnet| subnet.id.as_str()).collect();
    let request = json!({
        "autoScalingGroupName": name, "minSize": 1, "maxSize": 4, "desiredCapacity": 1, "defaultCooldown": 300,
        "vPCZoneIdentifier": subnets.join(","), "healthCheckType": "EC2", "healthCheckGracePeriod": 120,
        "launchTemplate": { "launchTemplateId": template, "version": "$Latest" },
        "tags": [{
            "key": "environment", "value": site.environment, "propagateAtLaunch": true,
            "resourceId": name, "resourceType": "auto-scaling-group",
        }],
    });
    scribe.record(site.place, who, Call::new("autoscaling", "CreateAutoScalingGroup", request, Value::Null));
    site.scaling = Some(ScalingGroup { name: name.clone(), desired: 1, template });
    run_instances(scribe, site, Who::AutoScaling, &[group.to_owned()], &name, 1)
}

/// The load changes, and Auto Scaling follows.
pub(super) fn scale(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let group = site.groups.iter().find(|group| group.base)?.id.clone();
    let desired = scribe.rng.usize(1..=4);
    let scaling = site.scaling.as_mut().filter(|scaling| scaling.desired != desired)?;
    scaling.desired = desired;
    let name = scaling.name.clone();
    let request = json!({ "autoScalingGroupName": name, "desiredCapacity": desired, "honorCooldown": false });
    let who = scribe.pick(&[Who::DeployController, Who::SreOnCall]).copied()?;
    scribe.record(site.place, who, Call::new("autoscaling", "SetDesiredCapacity", request, Value::Null));
    let running = site.instances.iter().filter(|instance| instance.scaled).count();
    if desired > running {
        return run_instances(scribe, site, Who::AutoScaling, &[group], &name, desired - running);
    }
    for _ in desired..running {
        let index = site.instances.iter().position(|instance| instance.scaled)?;
        terminate(scribe, site, Who::AutoScaling, index);
    }
    Some(())
}

pub(super) fn limit_scaling(scribe: &mut Scribe, site: &mut Site) -> Option<()> {
    let (name, template) = site.scaling.as_ref().map(|scaling| (&scaling.name, &scaling.template))?;
    let request = json!({
        "autoScalingGroupName": name, "maxSize": scribe.rng.u8(4..9),
        "launchTemplate": { "launchTemplateId": template, "version": "$Latest" },
    });
    scribe.record(site.place, Who::Terraform, Call::new("autoscaling", "UpdateAutoScalingGroup", request, Value::Null));
    Some(())
}

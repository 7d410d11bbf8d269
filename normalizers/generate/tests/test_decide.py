import pytest

from rulegen import rules
from rulegen.decide import decide


@pytest.mark.parametrize(
    "service, operation, what",
    [
        ("kafka", "DescribeCluster", "read"),
        ("kinesis", "PutRecord", "data"),
        ("codepipeline", "StartPipelineExecution", "operation"),
        ("comprehend", "StartEntitiesDetectionJob", "operation"),
        ("kafka", "CreateCluster", "asset"),
    ],
)
def test_only_what_changes_an_asset_is_one(service, operation, what):
    assert decide(service, operation).what == what


@pytest.mark.parametrize(
    "service, operation, action, kind",
    [
        ("kafka", "CreateCluster", "create", "AWS::MSK::Cluster"),
        ("kafka", "CreateClusterV2", "create", "AWS::MSK::Cluster"),
        ("kafka", "UpdateBrokerCount", "update", "AWS::MSK::Cluster"),
        ("codebuild", "DeleteProject", "delete", "AWS::CodeBuild::Project"),
        ("codebuild", "InvalidateProjectCache", "update", "AWS::CodeBuild::Project"),
        ("neptune-graph", "RestoreGraphFromSnapshot", "create", "AWS::NeptuneGraph::Graph"),
        ("datasync", "UpdateTask", "update", "AWS::DataSync::Task"),
    ],
)
def test_type_and_action(service, operation, action, kind):
    decision = decide(service, operation)
    assert (decision.action, decision.kind.name) == (action, kind)


def test_tags_go_to_whatever_the_arn_names():
    rule = rules.derive_one("kafka", "UntagResource")
    assert rule.keys() == {
        "action": "update",
        "asset": {"by": "arn"},
        "id": "/requestParameters/resourceArn",
        "apply": [{"op": "remove", "at": "/tags", "each": "/requestParameters/tagKeys"}],
    }


def test_what_is_uncertain_is_left_to_the_generic_rules():
    assert rules.derive_one("kafka", "RebootBroker").level == "medium"
    derived = rules.derive({"guardduty", "wellarchitected", "kafka"})
    assert {rule.level for found in derived.values() for rule in found} == {"high", "medium"}
    assert ("kafka.amazonaws.com", "CreateCluster") in derived


def test_a_call_that_only_passes_by_a_type_is_not_about_it():
    # CloudFormation takes a snapshot before it deletes a cluster.
    assert decide("rds", "CreateDBClusterSnapshot").kind.name == "AWS::RDS::DBClusterSnapshot"

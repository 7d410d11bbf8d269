"""One asset gets one name, whichever call tells of it."""

import pytest

from rulegen import records, rules, types
from rulegen.identify import identify, naming_of
from rulegen.decide import decide


def sources(service, operation):
    return identify(decide(service, operation)).sources


def test_an_arn_comes_before_an_id():
    found = sources("cleanrooms", "CreateMembership")
    assert found[0] == "/responseElements/membership/arn"


def test_where_aws_makes_the_id_nothing_but_the_arn_is_taken():
    # cluster/${ClusterName}/${Uuid}
    assert sources("kafka", "CreateCluster") == ["/responseElements/clusterArn"]
    assert sources("kafka", "DeleteCluster") == ["/requestParameters/clusterArn", "/responseElements/clusterArn"]


def test_a_name_is_no_alternative_to_an_id():
    found = sources("appconfig", "CreateEnvironment")
    assert not [one for one in found if one.endswith("/name")]


def test_an_update_does_not_go_by_the_new_name():
    assert not [one for one in sources("appconfig", "UpdateApplication") if one.endswith("/name")]


def test_a_list_gives_an_event_per_element():
    identity = identify(decide("quicksight", "BatchDeleteKnowledgeBase"))
    assert (identity.each, identity.sources) == ("/requestParameters/knowledgeBaseIds", ["@"])


def test_the_other_parts_of_a_name_are_found():
    identity = identify(decide("deadline", "DeleteFleet"))
    assert identity.variables == {"farmId": ["/requestParameters/farmId | arn_resource"]}


@pytest.mark.parametrize(
    "prefix, kind, name",
    [
        ("kafka", "AWS::MSK::Cluster", "kafka/cluster/{clusterName}/{id}"),
        ("xray", "AWS::XRay::Group", "xray/group/{id}"),
        ("codebuild", "AWS::CodeBuild::Project", "codebuild/project/{id}"),
    ],
)
def test_a_name_follows_the_arn_as_far_as_calls_tell_it(prefix, kind, name):
    assert naming_of(types.of_prefix(prefix)[kind]).name == name


def test_every_rule_of_a_type_gives_the_name_of_its_template():
    """The record of each rule holds the ids that its name needs, and the expected name is the type's own."""
    for found in rules.derive({"kafka", "deadline", "xray", "cleanrooms"}).values():
        for rule in found:
            line = records.record("Event", rule, set())
            if not rule.decision.by_arn:
                assert line["name"] == records._rendered(naming_of(rule.decision.kind).name)
            told = str(line.get("request")) + str(line.get("response"))
            assert records.ID in told


def test_every_name_has_the_id_in_it():
    for prefix in ("xray", "kafka", "imagebuilder", "appconfig", "glue", "lightsail", "iotsitewise"):
        for kind in types.of_prefix(prefix).values():
            if not kind.curated:
                assert naming_of(kind).name.count("{id}") == 1, kind.name

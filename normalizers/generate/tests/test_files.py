import tomllib

from rulegen import files, rules, sources, types


def test_generating_again_gives_the_same():
    subset = {"kafka", "elasticloadbalancing", "datasync"}
    first = files.generate(subset)
    types.of_prefix.cache_clear()
    assert files.generate(subset) == first
    assert len(first) >= 4


def test_a_type_is_defined_once_and_not_where_it_is_defined_by_hand():
    defined = set()
    for path, text in files.generate({"kafka", "datasync", "deadline", "appconfig"}).items():
        if path.suffix == ".toml":
            types = set(tomllib.loads(text).get("assets", {}))
            assert not types & defined
            assert not types & set(sources.curated()[0])
            defined |= types
    assert "AWS::MSK::Cluster" in defined


def test_events_written_by_hand_are_not_generated():
    _, curated = sources.curated()
    for source, event in rules.derive({"ec2", "iam", "sqs"}):
        assert (source, event) not in curated


def test_toml_is_read_back():
    value = {"each": "/a/b", "vars": {"x": ["/c | arn_resource"]}, "when": {"/apiVersion": ["1"]}, "partial": True}
    assert tomllib.loads(f"Event = {rules.toml(value)}")["Event"] == value


def test_cloudformation_types_are_known():
    assert "AWS::MSK::Cluster" in sources.cloudformation()

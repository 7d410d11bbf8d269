"""The types of assets of a service: their nouns, ARN templates, and the names that their assets go by."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache

from . import services, sources
from .words import kebab, lower_first, norm

# IAM prefixes of CloudFormation's namespaces, where the permissions of their handlers do not tell.
_PREFIX_OF_NAMESPACE = {
    "AWS::AmazonMQ": "mq", "AWS::ApiGateway": "apigateway", "AWS::ApiGatewayV2": "apigateway",
    "AWS::ApplicationAutoScaling": "application-autoscaling", "AWS::AutoScaling": "autoscaling",
    "AWS::Budgets": "budgets", "AWS::CertificateManager": "acm", "AWS::CloudWatch": "cloudwatch",
    "AWS::CodeDeploy": "codedeploy", "AWS::Cognito": "cognito-idp", "AWS::Config": "config", "AWS::DAX": "dax",
    "AWS::DLM": "dlm", "AWS::DMS": "dms", "AWS::DirectoryService": "ds", "AWS::DocDB": "rds", "AWS::EC2": "ec2",
    "AWS::EFS": "elasticfilesystem", "AWS::EMR": "elasticmapreduce", "AWS::ElastiCache": "elasticache",
    "AWS::ElasticBeanstalk": "elasticbeanstalk", "AWS::ElasticLoadBalancing": "elasticloadbalancing",
    "AWS::ElasticLoadBalancingV2": "elasticloadbalancing", "AWS::Elasticsearch": "es", "AWS::Events": "events",
    "AWS::FSx": "fsx", "AWS::Glue": "glue", "AWS::IAM": "iam", "AWS::IoT": "iot", "AWS::KMS": "kms",
    "AWS::KinesisAnalytics": "kinesisanalytics", "AWS::KinesisAnalyticsV2": "kinesisanalytics",
    "AWS::KinesisFirehose": "firehose", "AWS::Lambda": "lambda", "AWS::Logs": "logs", "AWS::MSK": "kafka",
    "AWS::Neptune": "rds", "AWS::OpenSearchService": "es", "AWS::OpsWorks": "opsworks",
    "AWS::Pinpoint": "mobiletargeting", "AWS::RDS": "rds", "AWS::Redshift": "redshift", "AWS::S3": "s3",
    "AWS::SES": "ses", "AWS::SNS": "sns", "AWS::SQS": "sqs", "AWS::SSM": "ssm", "AWS::SSO": "sso",
    "AWS::StepFunctions": "states", "AWS::WAF": "waf", "AWS::WAFRegional": "waf-regional",
    "AWS::WorkSpaces": "workspaces", "AWS::DSQL": "dsql",
}  # fmt: skip
# Namespaces whose types are named through another namespace's calls, which they share.
_SHADOWED = ("AWS::DocDB::", "AWS::Neptune::", "AWS::Elasticsearch::")
# What operations call a type, beside its own name.
_NOUNS = {
    "AWS::ApplicationAutoScaling::ScalingPolicy": ["scalingpolicy"],
    "AWS::CloudWatch::Alarm": ["metricalarm", "alarm"],
    "AWS::Cognito::UserPoolGroup": ["group"],
    "AWS::Cognito::UserPoolIdentityProvider": ["identityprovider"],
    "AWS::Cognito::UserPoolResourceServer": ["resourceserver"],
    "AWS::Cognito::UserPoolUser": ["user"],
    "AWS::EC2::EC2Fleet": ["fleet"],
    "AWS::EC2::EIP": ["address"],
    "AWS::EC2::EIPAssociation": ["addressassociation"],
    "AWS::EC2::SpotFleet": ["spotfleetrequest"],
    "AWS::EMR::Cluster": ["jobflow"],
    "AWS::IAM::ManagedPolicy": ["policy"],
    "AWS::IAM::OIDCProvider": ["openidconnectprovider"],
    "AWS::Lambda::Url": ["functionurlconfig"],
    "AWS::Route53::RecordSet": ["resourcerecordset"],
    "AWS::SSO::Assignment": ["accountassignment"],
}
_PLACES = ("partition", "region", "account")


@dataclass(frozen=True)
class Template:
    """An ARN template of IAM's: its service and resource, and the variables in it."""

    text: str

    @property
    def variables(self):
        found = re.findall(r"\$\{([^}]*)\}", self.resource)
        return [name for name in found if name.lower() not in _PLACES]

    @property
    def service(self):
        return self.text.split(":", 5)[2]

    @property
    def resource(self):
        return self.text.split(":", 5)[5]

    @property
    def has_region(self):
        return "region" in self.text.split(":", 5)[3].lower()

    @property
    def has_account(self):
        return "account" in self.text.split(":", 5)[4].lower()

    def key(self):
        """What two templates of one resource have in common, whatever their variables are called."""
        return (self.service, re.sub(r"\$\{[^}]*\}", "{}", self.resource).lower())


@dataclass
class AssetType:
    """A type of asset, as rules name it."""

    name: str
    prefix: str
    nouns: set = field(default_factory=set)
    template: Template | None = None
    # The last parts of CloudFormation's primary identifier.
    identifiers: list = field(default_factory=list)
    # IAM's names of the resource.
    resources: set = field(default_factory=set)
    # The templates that a rule file written by hand gives: {"name": ..., "arn": ...}.
    curated: dict | None = None

    @property
    def last(self):
        return re.split(r"::|:", self.name)[-1]

    @property
    def is_cloudformation(self):
        return self.name in sources.cloudformation()


def arn_template(text):
    """`None` where there is no such template, or one that fits every resource."""
    if not isinstance(text, str) or text.count(":") < 5:
        return None
    template = Template(text)
    # Some are several in one text, or run two variables together (framework:${FrameworkName}-${FrameworkId}), so that
    # nobody can tell where one ends.
    is_one = not re.search(r"[, ]|\}[^/:$]*\$\{", template.resource)
    return template if is_one and template.variables and template.service and "$" not in template.service else None


def nouns_of(name):
    namespace, last = name.rsplit("::", 1)
    own, service = norm(last), norm(namespace.split("::")[1])
    nouns = {own, *_NOUNS.get(name, ())}
    # A GuardDuty::GuardDutyFilter is called a Filter.
    if own.startswith(service) and len(own) > len(service) + 2:
        nouns.add(own[len(service) :])
    return nouns


@cache
def _prefixes_of_namespaces():
    votes = defaultdict(Counter)
    for name, schema in sources.cloudformation().items():
        for part in ("create", "delete"):
            for permission in (schema.get("handlers") or {}).get(part, {}).get("permissions", ()):
                votes[name.rsplit("::", 1)[0]][permission.lower().split(":")[0]] += 1
    chosen = {}
    for namespace, counted in votes.items():
        own = norm(namespace.split("::")[-1])
        named = [prefix for prefix, _ in counted.most_common() if norm(prefix) == own]
        chosen[namespace] = (named or [counted.most_common(1)[0][0]])[0]
    return chosen | _PREFIX_OF_NAMESPACE


def prefix_of_type(name):
    namespace = name.rsplit("::", 1)[0]
    if name.startswith("AWS::Cognito::IdentityPool"):
        return "cognito-identity"
    return _prefixes_of_namespaces().get(namespace) or norm(namespace.split("::")[1])


@cache
def of_prefix(prefix):
    """The types of a service: CloudFormation's, those written by hand, then IAM's resources that are neither."""
    found = {}
    for name in sources.cloudformation():
        its = prefix_of_type(name)
        if its == prefix:
            found[name] = _from_cloudformation(name, prefix)
    for name, asset in _curated_of(prefix).items():
        kind = found.setdefault(name, AssetType(name, prefix, _curated_nouns(name)))
        kind.curated = asset
    _add_resources(prefix, found)
    return found


def _from_cloudformation(name, prefix):
    schema = sources.cloudformation()[name]
    identifiers = [pointer.rstrip("/").split("/")[-1] for pointer in schema.get("primaryIdentifier") or ()]
    template = arn_template(sources.cdk().get(name, {}).get("arnTemplate"))
    return AssetType(name, prefix, nouns_of(name), template, identifiers)


def _curated_of(prefix):
    types, _ = sources.curated()
    names = {service for service in sources.services() if services.prefix(service) == prefix}
    hosts = {services.event_source(name) for name in names}
    return {name: asset for name, asset in types.items() if hosts & set(asset["sources"])}


def _curated_nouns(name):
    return nouns_of(name) if "::" in name else {norm(name.split(":")[-1])}


def _add_resources(prefix, found):
    """IAM's resource types: those of a known type lend it their template; the others are types of their own."""
    for resource in sources.iam_resources().get(prefix, {}).values():
        template = arn_template(resource["arn"])
        own = norm(resource["key"])
        kinds = [kind for kind in found.values() if own in kind.nouns or own == norm(kind.name)]
        if not kinds and template:
            kinds = [kind for kind in found.values() if kind.template and kind.template.key() == template.key()]
        for kind in kinds:
            kind.resources.add(resource["key"])
            kind.template = kind.template or template
        if not kinds and template and template.service == prefix:
            name = f"{prefix}:{resource['key']}"
            found[name] = AssetType(name, prefix, {own}, template, [], {resource["key"]})


def is_shadowed(kind):
    return kind.name.startswith(_SHADOWED)


def rule_variable(variable):
    """`AppBundleId` -> `appBundleId`: a variable's name in a rule, where `id` is the asset's own."""
    name = lower_first(re.sub(r"[^A-Za-z0-9]", "", variable))
    return "uid" if name == "id" else name


@dataclass(frozen=True)
class Naming:
    """How the assets of a type are named. `id` and `variables` are the words of the parts that a call must tell."""

    name: str
    arn: str | None
    # The ARN's variable that is the id, or CloudFormation's identifier.
    id: str | None
    # Parts of the name beside the id: name in the rule -> word that it goes by.
    variables: tuple
    is_global: bool


@cache
def _global_services():
    import tomllib

    generic = tomllib.loads((sources.CURATED / "generic.toml").read_text())
    return frozenset(generic["global_services"])


def naming(kind, host, without=frozenset()):
    """The templates of a type. `without`: variables that calls do not tell, which the name can't have.

    The name follows the ARN's service and resource. Where an ARN has no kind (`arn:aws:sns:...:topic-name`), or a type
    has no ARN, the type's own noun stands for it.
    """
    is_global = host in _global_services()
    if kind.curated:
        return _curated_naming(kind)
    template = kind.template
    # The last variable that calls tell is the id: of stack/${StackName}/${Id} the name.
    told = [variable for variable in template.variables if variable not in without] if template else []
    if told and (told[-1] == template.variables[-1] or _is_own(told[-1], kind)):
        own = told[-1]
        parents = [variable for variable in template.variables if variable != own]
        renamed = {variable: f"{{{rule_variable(variable)}}}" for variable in parents} | {own: "{id}"}
        resource = re.sub(r"\$\{([^}]*)\}", lambda match: renamed.get(match.group(1), match.group(0).lower()[1:]), template.resource)
        kept = [variable for variable in told if variable != own]
        tail = _tail(resource, [rule_variable(variable) for variable in parents if variable in without], kind)
        arn = ":".join([
            "arn", "{partition}", template.service,
            "{region}" if template.has_region else "", "{account}" if template.has_account else "", resource,
        ])  # fmt: skip
        variables = tuple((rule_variable(variable), variable) for variable in kept)
        return Naming(f"{template.service}/{tail}", arn, own, variables, is_global or not template.has_region)
    service = kind.template.service if kind.template else host.split(".")[0]
    *parents, own = _own_identifier_last(kind)
    parents = [part for part in parents if part not in without]
    places = "".join(f"{{{rule_variable(part)}}}/" for part in parents)
    variables = tuple((rule_variable(part), part) for part in parents)
    return Naming(f"{service}/{kebab(kind.last)}/{places}{{id}}", None, own, variables, is_global)


def _is_own(variable, kind):
    return any(norm(variable) in (noun + "name", noun + "id", noun + "friendlyname", noun) for noun in kind.nouns)


def _curated_naming(kind):
    own = kind.template.variables[-1] if kind.template else (kind.identifiers or [None])[-1]
    names = re.findall(r"\{([^}]*)\}", kind.curated["name"])
    variables = tuple((name, name) for name in names if name not in ("id", *_PLACES))
    return Naming(kind.curated["name"], kind.curated.get("arn"), own, variables, kind.curated.get("global", False))


def _tail(resource, unknown, kind):
    """`db:{id}` -> `db/{id}`, `{id}` -> `topic/{id}`; parts that calls do not tell are left out."""
    for name in unknown:
        resource = resource.replace(f"{{{name}}}", "")
    parts = [part for part in re.split(r"[/:]", resource) if part and part != "*"]
    if parts[0].startswith("{"):
        parts.insert(0, kebab(kind.last))
    return "/".join(parts)


def _own_identifier_last(kind):
    """CloudFormation's identifier with the type's own part last: [ApiId, RouteId]."""
    parts = [part for part in kind.identifiers if norm(part) not in ("accountid", "awsaccountid", "region")]
    stem = lambda part: re.sub(r"(identifier|id|name|arn)$", "", norm(part))
    own = [part for part in parts if stem(part) in kind.nouns] or [
        part for part in parts if stem(part) and any(noun.endswith(stem(part)) for noun in kind.nouns)
    ]
    last = (own or parts or ["Id"])[-1]
    return [*(part for part in parts if part != last), last]

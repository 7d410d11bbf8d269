"""What an operation does, and to which type of asset: several sources are asked, and what they say is weighed."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache

from . import services, shapes, sources, types
from .words import READ, norm, noun_in, role, singular, split_operation

# Calls on data, messages and computations; no asset changes.
_DATA_VERBS = frozenset(
    "invoke send encrypt decrypt sign verify receive poll execute converse detect classify synthesize translate recognize"
    " search query scan assume retrieve predict respond transact infer compare index filter render evaluate simulate test"
    " validate check estimate preview analyze decode describe get list head select lookup re post report notify resend"
    " acknowledge derive record extract stream optimize calculate meter resolve count read download export view discover"
    " redrive ingest write signal heartbeat rerank forget ask chat upload".split()
)
_DATA_OPERATIONS = {
    "s3": frozenset(
        "PutObject DeleteObject DeleteObjects CopyObject PutObjectAcl PutObjectTagging DeleteObjectTagging"
        " PutObjectLegalHold PutObjectRetention RestoreObject CreateMultipartUpload UploadPart UploadPartCopy"
        " CompleteMultipartUpload AbortMultipartUpload CreateSession RenameObject UpdateObjectEncryption".split()
    ),
    "dynamodb": frozenset("PutItem UpdateItem DeleteItem BatchWriteItem TransactWriteItems ExecuteStatement".split()),
    "kinesis": frozenset(("PutRecord", "PutRecords", "SubscribeToShard")),
    "firehose": frozenset(("PutRecord", "PutRecordBatch")),
    "events": frozenset(("PutEvents", "PutPartnerEvents")),
    "logs": frozenset(("PutLogEvents", "StartQuery", "StopQuery")),
    "cloudwatch": frozenset(("PutMetricData",)),
    "sqs": frozenset("DeleteMessage DeleteMessageBatch ChangeMessageVisibility ChangeMessageVisibilityBatch".split()),
    "kms": frozenset(
        "GenerateDataKey GenerateDataKeyPair GenerateDataKeyWithoutPlaintext GenerateDataKeyPairWithoutPlaintext"
        " GenerateMac GenerateRandom".split()
    ),
    "glacier": frozenset("DeleteArchive InitiateMultipartUpload CompleteMultipartUpload AbortMultipartUpload InitiateJob".split()),
    "xray": frozenset(("PutTraceSegments", "PutTelemetryRecords")),
    "ssm": frozenset(("PutInventory",)),
    "codecommit": frozenset(("PutFile", "DeleteFile", "CreateCommit", "PutCommentReaction", "UpdateComment")),
    "timestream": frozenset(("WriteRecords",)),
}
# What runs and ends by itself: it works on assets, but is none.
_RUNS = (
    "job", "jobs", "task", "execution", "query", "run", "build", "session", "export", "import", "operation", "scan",
    "preview", "request", "analysis", "recommendation", "simulation", "invocation", "engagement", "contact",
    "conversation", "message", "report", "assessmentrun", "batch", "upload", "workflowrun", "pipelineexecution",
    "deployment", "migration", "replay", "experimentrun", "evaluation", "test", "command", "handshake", "statement",
    "transaction", "download", "changeset",
)  # fmt: skip
_RUN_VERBS = frozenset("start stop cancel retry abort resume rerun pause redrive".split())
_ACTION_VERBS = frozenset(
    "start stop submit generate monitor execute evaluate run sample verify confirm complete cancel abort retry resume"
    " pause initiate refresh sync export publish".split()
)
# Weights of what the sources say. They were set on curated services and held against others.
_HANDLER, _HANDLER_SOLE, _NOUN, _RESOURCE = 1.0, 1.5, 6.0, 3.4


@dataclass
class Decision:
    """What is known of an operation."""

    service: str
    operation: str
    verb: str
    noun: str
    # asset, data, operation, read or unresolved
    what: str = "asset"
    action: str | None = None
    kind: types.AssetType | None = None
    # The noun of the call is the type's own: the call is about the asset as a whole.
    exact: bool = False
    # tag or untag, where the call does nothing else.
    tags: str | None = None
    # The ARN that the call gives tells the type.
    by_arn: bool = False
    # The call changes a part of `kind` that has no name of its own.
    part: types.AssetType | None = None
    weight: float = 0.0
    margin: float = 0.0
    evidence: list = field(default_factory=list)


@cache
def _permissions():
    """`service:action` in lower case -> type -> the handlers that need it."""
    found = defaultdict(lambda: defaultdict(set))
    for name, schema in sources.cloudformation().items():
        for handler, needs in (schema.get("handlers") or {}).items():
            for permission in needs.get("permissions", ()):
                found[permission.lower()][name].add(handler)
        for permission in (schema.get("tagging") or {}).get("permissions") or ():
            found[permission.lower()][name].add("tag")
    return found


def iam_action(service, operation):
    return sources.iam_actions().get(services.prefix(service), {}).get(operation.lower())


def access_level(service, operation):
    """`Read`, `Write`, `Tagging` ..., by the Service Authorization Reference, else by the model itself."""
    known = iam_action(service, operation)
    if known:
        return known["accessLevel"]
    model = sources.services()[service]["operations"][operation]
    is_get = (model.get("http") or {}).get("method") in ("GET", "HEAD") and shapes.protocol(service).startswith("rest")
    return "Read" if model.get("readonly") or split_operation(operation)[0] in READ or is_get else "Write"


def decide(service, operation):
    """Everything that is decided of an operation but where its ids are."""
    verb, rest = split_operation(operation)
    decision = Decision(service, operation, verb, singular(norm(rest)))
    level = access_level(service, operation)
    if not ({"Write", "Tagging", "Permissions management"} & set(re.split(r", ", level))):
        decision.what = "read"
        return decision
    if _is_data(service, operation, verb):
        decision.what = "data"
        return decision
    decision.tags = _tagging(service, operation, level)
    if decision.tags and _is_by_arn(service, operation):
        decision.by_arn, decision.action, decision.evidence = True, "update", ["tags by ARN"]
        return decision
    _choose_type(decision)
    if not decision.exact and _is_by_arn(service, operation) and not _is_only_type(decision):
        # PutResourcePolicy: whatever the ARN names is what changes.
        decision.by_arn, decision.kind, decision.action = True, None, "update"
        decision.evidence = ["the ARN tells the type"]
        return decision
    if decision.kind is None:
        decision.what = "unresolved"
        return decision
    decision.action = _action(decision)
    if _is_run(decision):
        decision.what = "operation"
    return decision


def _is_data(service, operation, verb):
    prefix = services.prefix(service)
    if services.is_data(service) or operation in _DATA_OPERATIONS.get(prefix, ()) or operation in _DATA_OPERATIONS.get(service, ()):
        return True
    return verb in _DATA_VERBS


def _tagging(service, operation, level):
    """Calls that give tags or take them, and nothing else."""
    if not re.search(r"(?i)tags?($|ging|OnResource|ForResource|ToResource|FromResource|Resource|s?To|s?From)", operation):
        return None
    inputs = {norm(leaf.path[0][0]) for leaf in shapes.leaves(service, operation, "input")} | _maps(service, operation)
    gives = inputs & {"tags", "taglist", "tagslist", "tagset", "tagstoadd", "resourcetags"}
    takes = inputs & {"tagkeys", "tagkeylist", "tagstoremove", "keys"}
    if operation.startswith(("Untag", "RemoveTags", "DeleteTags", "UntagResource")):
        return "untag" if takes or gives else None
    if operation.startswith(("Tag", "AddTags", "CreateTags", "CreateOrUpdateTags", "ChangeTags", "SetTags")):
        return "tag" if gives else None
    return None


def _maps(service, operation):
    name = shapes.structure(service, operation, "input")
    return {norm(key) for key, (_, of) in shapes.members(service, name).items() if of.get("type") == "map"} if name else set()


TARGETS = frozenset(
    "resourcearn resourcearns resourcearnlist resourceid resourceids resourcename arn resource resourceidentifier"
    " resourceidlist".split()
)


def tag_target(service, operation):
    """The member that says what is tagged, where its name leaves the type open."""
    leaves = [leaf for leaf in shapes.leaves(service, operation, "input", 0) if norm(leaf.name) in TARGETS]
    return next((leaf for leaf in leaves if norm(leaf.name).startswith(("resourcearn", "arn"))), (leaves or [None])[0])


def _is_by_arn(service, operation):
    return tag_target(service, operation) is not None and services.prefix(service) != "ec2"


# ---- the type


def _choose_type(decision):
    prefix = services.prefix(decision.service)
    pool = {name: kind for name, kind in types.of_prefix(prefix).items() if is_in_pool(decision.service, kind)}
    weights, evidence = defaultdict(float), defaultdict(list)

    known = set().union(*(kind.nouns for kind in pool.values())) if pool else set()
    decision.noun = noun_in(decision.noun, known)

    def add(name, weight, why):
        weights[name] += weight
        evidence[name].append(why)

    _ask_handlers(decision, prefix, pool, add)
    _ask_nouns(decision, pool, add)
    _ask_resources(decision, pool, add)
    if not weights:
        return
    ranked = sorted(weights, key=lambda name: (-weights[name], "noun is the type" not in evidence[name], len(name), name))
    best = ranked[0]
    if weights[best] < 1.6 and not any("IAM" in why for why in evidence[best]):
        return
    decision.kind, decision.weight = pool[best], weights[best]
    decision.margin = weights[best] - max((weights[name] for name in ranked[1:]), default=0)
    decision.evidence = evidence[best]
    decision.exact = decision.noun in decision.kind.nouns or decision.noun in map(norm, decision.kind.resources)


# Services that share an IAM prefix, and the namespaces of each.
_NAMESPACES = {
    "elb": "AWS::ElasticLoadBalancing::", "elbv2": "AWS::ElasticLoadBalancingV2::", "apigateway": "AWS::ApiGateway::",
    "apigatewayv2": "AWS::ApiGatewayV2::", "rds": "AWS::RDS::", "kinesisanalytics": "AWS::KinesisAnalytics::",
    "kinesisanalyticsv2": "AWS::KinesisAnalyticsV2::", "ses": "AWS::SES::", "sesv2": "AWS::SES::",
    "waf": "AWS::WAF::", "waf-regional": "AWS::WAFRegional::", "wafv2": "AWS::WAFv2::",
    "opensearch": "AWS::OpenSearchService::", "es": "AWS::Elasticsearch::",
    "bedrock": "AWS::Bedrock::", "bedrock-agent": "AWS::Bedrock::", "lex-models": "AWS::LexModels::", "lexv2-models": "AWS::Lex::",
    "autoscaling": "AWS::AutoScaling::", "cloudfront": "AWS::CloudFront::", "iot": "AWS::IoT::",
    "route53": "AWS::Route53::", "route53domains": "AWS::Route53Domains::",
}  # fmt: skip


def is_in_pool(service, kind):
    """Where services share a prefix, each has the types of its own namespace and those that IAM alone knows."""
    if service in ("elb", "waf", "kinesisanalytics") and "::" not in kind.name:
        return False
    namespace = _NAMESPACES.get(service)
    return not namespace or "::" not in kind.name or kind.name.startswith(namespace) or bool(kind.curated)


def _ask_handlers(decision, prefix, pool, add):
    """CloudFormation's handlers say which calls they need to create, update and delete a type."""
    needs = _permissions().get(f"{prefix}:{decision.operation}".lower(), {})
    found = {name: handlers - {"read", "list"} for name, handlers in needs.items() if name in pool}
    found = {name: handlers for name, handlers in found.items() if handlers}
    for name, handlers in found.items():
        one_way = ("create" in handlers and "delete" not in handlers) or handlers == {"delete"}
        # To delete a cluster takes a snapshot of it first: that is no call on the cluster.
        in_passing = {role(decision.verb)} | handlers == {"create", "delete"} and role(decision.verb) not in handlers
        weight = 0.4 if handlers == {"tag"} or in_passing else _HANDLER_SOLE if one_way else _HANDLER
        add(name, weight, f"CloudFormation needs it to {'+'.join(sorted(handlers))}")
    if len(found) == 1:
        add(next(iter(found)), 1.5, "CloudFormation needs it for this type alone")


def _ask_nouns(decision, pool, add):
    """The noun of the call is the type's, or begins or ends with it."""
    noun = decision.noun
    for name, kind in pool.items():
        share = lambda word: len(word) / max(1, len(noun))
        words = sorted(kind.nouns | {norm(resource) for resource in kind.resources}, key=lambda word: (-len(word), word))
        for word in filter(None, words):
            if noun == word:
                add(name, _NOUN, "noun is the type")
                break
            if len(word) > 3 and noun.startswith(word):
                add(name, 1 + 1.5 * share(word), "noun begins with the type")
                break
            if len(word) > 4 and noun.endswith(word):
                add(name, 0.8 + share(word), "noun ends with the type")
                break
            if len(word) > 6 and word in noun:
                add(name, 0.6, "noun contains the type")
                break


def _ask_resources(decision, pool, add):
    """IAM says which resource types a policy for the action names."""
    action = iam_action(decision.service, decision.operation) or {}
    listed = action.get("resourceTypes", ())
    named = list(dict.fromkeys(one["name"] for one in listed if one.get("required")))
    if not named and len(listed) == 1:
        named = [listed[0]["name"]]
    for resource in named:
        kinds = [name for name, kind in pool.items() if resource in kind.resources or norm(resource) in kind.nouns]
        # Types that share a resource (Aurora's, Neptune's) are told apart by the rest.
        for name in kinds:
            weight = (_RESOURCE if len(named) == 1 else 1.2) / len(kinds) + 0.2
            add(name, weight, f"IAM names {resource}" + (" alone" if len(named) == 1 else ""))


# ---- the action


def _is_only_type(decision):
    return decision.kind is not None and len(types.of_prefix(services.prefix(decision.service))) == 1


def _handlers(decision):
    prefix = services.prefix(decision.service)
    return _permissions().get(f"{prefix}:{decision.operation}".lower(), {}).get(decision.kind.name, set()) - {"read", "list", "tag"}


def _action(decision):
    by_verb, handlers = role(decision.verb), _handlers(decision)
    if decision.tags:
        return "update"
    if decision.exact:
        # A create of the noun that CloudFormation calls to update as well (PutX) is both.
        return "create" if decision.verb == "publish" else by_verb
    makes = decision.verb in ("copy", "restore", "import", "clone", "provision", "purchase", "allocate")
    made = [decision.noun.removeprefix(noun) for noun in decision.kind.nouns if decision.noun.startswith(noun)]
    if makes and any(rest.startswith(("from", "to", "with", "and")) for rest in made):
        return "create"
    # StartX, RunX: CloudFormation creates the type by this call and by no other.
    if "create" in handlers and "update" not in handlers and "delete" not in handlers and not _has_exact(decision, "create"):
        return "create"
    if handlers == {"delete"} and by_verb == "delete" and not _has_exact(decision, "delete"):
        return "delete"
    return "update"


def _has_exact(decision, wanted):
    """Another call of the service does it to the type by name."""
    for operation in sources.services()[decision.service]["operations"]:
        verb, rest = split_operation(operation)
        if role(verb) == wanted and singular(norm(rest)) in decision.kind.nouns:
            return True
    return False


def _is_run(decision):
    if decision.by_arn or decision.tags:
        return False
    vouched = any(why.startswith("CloudFormation needs it to") and "tag" not in why for why in decision.evidence)
    if decision.noun.endswith(_RUNS):
        if decision.exact and decision.kind.is_cloudformation:
            return decision.verb in _RUN_VERBS
        return not vouched or decision.verb in _RUN_VERBS
    return decision.verb in _ACTION_VERBS and not decision.exact and not vouched

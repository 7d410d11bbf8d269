"""From decisions to rules, and to the text of a rule file."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache

from . import shapes, sources, types
from .decide import Decision, decide
from .identify import REQUEST, RESPONSE, Identity, identify, naming_of
from .services import TWINS, event_source, is_data
from .words import SETTING, norm, singular

HIGH, MEDIUM = "high", "medium"
# Members by which calls point to assets of other services: type, relation.
_REFERENCES = {
    "vpcid": ("AWS::EC2::VPC", "in"), "subnetid": ("AWS::EC2::Subnet", "in"), "subnetids": ("AWS::EC2::Subnet", "in"),
    "securitygroupid": ("AWS::EC2::SecurityGroup", "uses"), "securitygroupids": ("AWS::EC2::SecurityGroup", "uses"),
    "vpcsecuritygroupids": ("AWS::EC2::SecurityGroup", "uses"), "kmskeyid": ("AWS::KMS::Key", "encrypted_by"),
    "kmskeyarn": ("AWS::KMS::Key", "encrypted_by"), "kmskey": ("AWS::KMS::Key", "encrypted_by"),
    "kmsmasterkeyid": ("AWS::KMS::Key", "encrypted_by"), "rolearn": ("AWS::IAM::Role", "assumes"),
    "executionrolearn": ("AWS::IAM::Role", "assumes"), "servicerolearn": ("AWS::IAM::Role", "assumes"),
    "instanceid": ("AWS::EC2::Instance", "uses"), "volumeid": ("AWS::EC2::Volume", "uses"),
    "bucketname": ("AWS::S3::Bucket", "uses"), "s3bucketname": ("AWS::S3::Bucket", "uses"),
    "snstopicarn": ("AWS::SNS::Topic", "uses"), "functionarn": ("AWS::Lambda::Function", "uses"),
}  # fmt: skip
_TAG_MEMBERS = ("tags", "taglist", "tagslist", "tagset", "tagstoadd", "resourcetags")
_KEY_MEMBERS = ("tagkeys", "tagkeylist", "tagstoremove", "keys")


@dataclass
class Rule:
    """One rule, and why it says so."""

    decision: Decision
    identity: Identity
    source: str
    level: str
    certainty: float
    apply: list = field(default_factory=list)
    associations: list = field(default_factory=list)
    partial: bool = False
    when: dict = field(default_factory=dict)

    @property
    def asset(self):
        return {"by": "arn"} if self.decision.by_arn else self.decision.kind.name

    def keys(self):
        """The rule as it stands in a file."""
        one = lambda many: many[0] if len(many) == 1 else many
        found = {
            "when": self.when,
            "action": self.decision.action,
            "asset": self.asset,
            "each": self.identity.each,
            "id": one(self.identity.sources),
            "vars": {name: one(where) for name, where in self.identity.variables.items()},
            "apply": self.apply,
            "associations": self.associations,
            "partial": self.partial,
            "confidence": None if self.level == HIGH else self.level,
        }
        return {key: value for key, value in found.items() if value}


def derive(only=None):
    """Every rule, by event source and event name. What is uncertain is left out: the generic rules take it."""
    found = defaultdict(list)
    _, curated = sources.curated()
    for service, model in sources.services().items():
        if service in TWINS or is_data(service) or (only and event_source(service).split(".")[0] not in only):
            continue
        for operation in sorted(model["operations"]):
            key = (event_source(service), operation)
            if key not in curated:
                rule = derive_one(service, operation)
                if rule and rule.level:
                    found[key].append(rule)
    return {key: _told_apart(rules) for key, rules in sorted(found.items()) if _told_apart(rules)}


def derive_one(service, operation):
    decision = decide(service, operation)
    if decision.what != "asset":
        return None
    identity = identify(decision)
    if not identity.found:
        return None
    level, certainty = _level(decision, identity)
    rule = Rule(decision, identity, event_source(service), level, certainty)
    _configure(rule)
    return rule


def _told_apart(rules):
    """Services that share an event source may share a call's name, too: then the API's version tells them apart."""
    if len(rules) < 2:
        return rules
    if all(rule.keys() == rules[0].keys() for rule in rules):
        return rules[:1]
    versions = [sources.services()[rule.decision.service]["metadata"]["apiVersion"] for rule in rules]
    if len(set(versions)) < len(versions):
        return []
    for rule, version in zip(rules, versions, strict=True):
        rule.when = {"/apiVersion": [version, version.replace("-", "_")]}
    return rules


def _level(decision, identity):
    """How sure the rule is, of type, action and id together."""
    if decision.by_arn:
        return (HIGH if identity.certainty >= 0.8 else None), identity.certainty
    kinds = {re.split(r" ", why)[0] for why in decision.evidence}
    if decision.exact and has_lifecycle(decision.service, decision.kind.name):
        kinds.add("lifecycle")
    type_certainty = min(1, decision.weight / 6.5) * 0.6 + min(1, decision.margin / 3) * 0.4
    certainty = round(0.5 * type_certainty + 0.05 * min(len(kinds), 3) + 0.35 * min(1, identity.certainty), 3)
    if kinds == {"IAM"} and not decision.exact:
        certainty = min(certainty, 0.62)
    return (HIGH if certainty >= 0.72 else MEDIUM if certainty >= 0.6 else None), certainty


@cache
def has_lifecycle(service, name):
    """Calls of the service make and remove the type by its own name."""
    from .identify import _exact_operations

    verbs = set(_exact_operations(service, name))
    return bool(verbs & {"create", "put", "register", "import"}) and bool(verbs & {"delete", "deregister", "remove"})


# ---- the configuration


def _configure(rule):
    decision = rule.decision
    if decision.tags:
        rule.apply = _tag_steps(decision)
        return
    if decision.action == "delete" or decision.by_arn or decision.part:
        return
    states_settings = decision.verb in SETTING and (decision.exact or decision.noun.startswith(tuple(decision.kind.nouns)))
    if decision.exact or states_settings:
        _state(rule)
        rule.associations = _associations(rule)


def _tag_steps(decision):
    name = shapes.structure(decision.service, decision.operation, "input")
    inputs = {norm(key): (key, of) for key, (_, of) in shapes.members(decision.service, name).items()}
    pointer = lambda key: f"{REQUEST}/{key[:1].lower()}{key[1:]}"
    if decision.tags == "tag":
        key = next(inputs[word][0] for word in _TAG_MEMBERS if word in inputs)
        return [{"op": "merge", "at": "/tags", "from": f"{pointer(key)} | tag_map"}]
    key, of = next((inputs[word] for word in (*_KEY_MEMBERS, *_TAG_MEMBERS) if word in inputs))
    element = shapes.shape(decision.service, of["member"]["shape"]) if of.get("type") == "list" else {}
    keys = pointer(key)
    if element.get("type") == "structure":
        keys = next((f"{keys}/*/{member[:1].lower()}{member[1:]}" for member in element["members"] if norm(member) in ("key", "tagkey")), keys)
    elif of.get("type") == "map":
        keys = f"{keys} | keys"
    return [{"op": "remove", "at": "/tags", "each": keys}]


def _state(rule):
    """The configuration: of the response where that holds it whole, else what was asked for."""
    decision = rule.decision
    op = "replace" if decision.action == "create" and decision.exact else "merge"
    if rule.identity.each:
        inner = any(where.startswith("@/") for where in rule.identity.sources)
        rule.apply = [{"op": op, "from": "@ | configuration"}] if inner else []
        rule.partial = rule.identity.each.startswith(REQUEST) and inner
        return
    documents = _documents(decision)
    if documents:
        where = [f"{document} | configuration" for document in documents]
        rule.apply = [{"op": op, "from": where[0] if len(where) == 1 else where}]
        return
    step = {"op": op, "from": f"{REQUEST} | configuration"}
    own = _own_members(rule) if op == "merge" else []
    rule.apply, rule.partial = [step | ({"without": own} if own else {})], True


def _own_members(rule):
    """Members that only say which asset it is."""
    places = [*rule.identity.sources, *(place for many in rule.identity.variables.values() for place in many)]
    found = [match.group(1) for place in places if (match := re.match(rf"{REQUEST}/([^/ ]+)( \||$)", place))]
    return list(dict.fromkeys(found))


def _documents(decision):
    """Where the response holds the asset as it is now."""
    service, name = decision.service, shapes.structure(decision.service, decision.operation, "output")
    if not name:
        return []
    members = shapes.members(service, name)
    words = decision.kind.nouns | {decision.noun}
    structures = [(key, of) for key, (_, of) in members.items() if of.get("type") == "structure" and len(of.get("members", {})) >= 4]
    for key, _ in structures:
        own = singular(norm(key))
        if own in words or (len(structures) == 1 and any(len(word) > 4 and word in own for word in words)):
            spelled = key[:1].lower() + key[1:]
            is_query = shapes.protocol(service) == "query" and len(members) == 1
            return [f"{RESPONSE}/{spelled}", *([RESPONSE] if is_query else [])]
    asked = {norm(key) for key in shapes.members(service, shapes.structure(service, decision.operation, "input") or "")}
    known = asked | {norm(key) for key in sources.cloudformation().get(decision.kind.name, {}).get("properties", {})}
    own = {norm(key) for key in members}
    told = {"arn", "id"} | {word + end for word in words for end in ("arn", "id", "name")}
    return [RESPONSE] if len(own & known) >= 4 and len(own & asked) * 2 >= len(asked) and own & told else []


# ---- associations


@cache
def _relations(name):
    """The CDK's relations of a type: member -> type."""
    found = {}
    for key, described in (sources.cdk().get(name, {}).get("properties") or {}).items():
        for reference in described.get("relationshipRefs") or ():
            found.setdefault(norm(key), reference["cloudFormationType"])
    return found


def _associations(rule):
    decision, found = rule.decision, []
    if rule.identity.each:
        return found
    own = set(_own_members(rule))
    related = _relations(decision.kind.name)
    for leaf in shapes.leaves(decision.service, decision.operation, "input", 1):
        word = norm(leaf.name)
        name, relation = _REFERENCES.get(word, (None, None))
        if not name and word in related:
            name, relation = related[word], "uses"
        if not name or name == decision.kind.name or leaf.path[0][1] in own or not _is_named_by_id(name):
            continue
        if any(step[2] for step in leaf.path[:-1]):
            continue
        pointer = leaf.pointer(REQUEST)
        entry = {"relation": relation, "type": name} | ({"each": pointer, "id": "@"} if leaf.many else {"id": pointer})
        if not any(one["type"] == name and one["relation"] == relation for one in found):
            found.append(entry)
    return found


def _is_named_by_id(name):
    """The other asset's name needs nothing but its id, and some rule defines it."""
    kind = kind_named(name)
    return kind is not None and not naming_of(kind).variables


@cache
def kind_named(name):
    prefix = types.prefix_of_type(name) if "::" in name else name.split(":")[0]
    return types.of_prefix(prefix).get(name)


# ---- the text


def assets(derived):
    """The types that the rules and their associations need, and those that only ARNs name, but for those written by hand."""
    needed = {}
    for rules in derived.values():
        for rule in rules:
            kinds = [] if rule.decision.by_arn else [rule.decision.kind]
            kinds += [kind_named(one["type"]) for one in rule.associations]
            for kind in kinds:
                if not kind.curated:
                    needed[kind.name] = (rule.source if kind in kinds[:1] else None) or needed.get(kind.name)
    return needed


def asset_keys(kind):
    naming = naming_of(kind)
    found = {"name": naming.name, "arn": naming.arn, "global": naming.is_global}
    return {key: value for key, value in found.items() if value}


def toml(value):
    """An inline value, as compact as TOML allows."""
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(key)} = {toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    return json.dumps(value)


def _key(text):
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else json.dumps(text)

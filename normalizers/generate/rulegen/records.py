"""Records as CloudTrail would write them, built from the service models, with what must become of them.

A record holds the members that tell the asset, with ids that belong together as the type's templates say, and beside them
every required or id-like member of the request with a value of its own, so that a rule that takes the wrong one shows.
"""

import re

from . import shapes, types
from .identify import REQUEST, RESPONSE, naming_of
from .services import prefix
from .words import norm

ACCOUNT, REGION, ID = "111122223333", "eu-west-1", "own-1"


def record(event, rule, defined):
    """The members of a record that make it different, and what must become of it. `defined`: the types that rules define."""
    own = _own_values(rule, defined)
    line = {
        "event": event,
        "request": _filled(rule, "input", REQUEST, own),
        "response": _filled(rule, "output", RESPONSE, own),
        "action": rule.decision.action,
    }
    line |= _expected(rule, defined)
    line |= {"apiVersion": rule.when["/apiVersion"][0]} if rule.when else {}
    return {key: value for key, value in line.items() if value}


def _own_values(rule, defined):
    """Pointer -> the value that it must have."""
    identity = rule.identity
    place = lambda source: ((identity.each or "") + source[1:] if source.startswith("@") else source).split(" | ")[0]
    found = {place(source): f"{name}-1" for name, many in identity.variables.items() for source in many}
    found |= {place(source): ID for source in identity.id}
    return found | {place(source): _arn(rule, defined) for source in identity.arn}


def _filled(rule, side, root, own):
    members = {}
    for leaf in shapes.leaves(rule.decision.service, rule.decision.operation, side, 2):
        value = own.get(leaf.pointer(root))
        is_stranger = leaf.depth == 0 and leaf.kind == "string" and (leaf.required or norm(leaf.name) in ("id", "name", "arn"))
        if value is None and side == "input" and is_stranger:
            value = f"other-{norm(leaf.name)}"[:24]
        if value is not None:
            _put(members, leaf, value)
    return _with_lists(members)


def _put(members, leaf, value):
    """Sets a leaf of nested members; a list is an object with the key 0 until all are set."""
    place = members
    *outer, (_, spelled, _) = leaf.path
    for _, token, is_list in outer:
        for part in token.split("/"):
            place = place.setdefault(part, {})
        place = place.setdefault(0, {}) if is_list else place
    *outer_tokens, last = spelled.split("/")
    for part in outer_tokens:
        place = place.setdefault(part, {})
    place[last] = [value] if leaf.many else value


def _with_lists(members):
    if not isinstance(members, dict):
        return members
    if 0 in members:
        return [_with_lists(members[0])]
    return {key: _with_lists(value) for key, value in members.items()}


def _arn(rule, defined):
    naming = _naming(rule, defined)
    if naming is None:
        return f"arn:aws:{rule.source.split('.')[0]}:{REGION}:{ACCOUNT}:unheard-of/{ID}"
    return _rendered(naming.arn)


def _expected(rule, defined):
    """The provider type, and the asset's name after the region."""
    kind, naming = _kind(rule, defined), _naming(rule, defined)
    label = rule.source.split(".")[0]
    if naming is None:
        return {"type": f"{label}:unheard-of", "name": f"{label}/unheard-of/{ID}"}
    return {"type": kind.name, "name": _rendered(naming.name)}


def _kind(rule, defined):
    """Of a call that takes any ARN of the service, the first type that has one."""
    if not rule.decision.by_arn:
        return rule.decision.kind
    kinds = types.of_prefix(prefix(rule.decision.service)).values()
    return next((kind for kind in kinds if kind.name in defined and naming_of(kind).arn), None)


def _naming(rule, defined):
    kind = _kind(rule, defined)
    return naming_of(kind) if kind else None


def _rendered(template):
    parts = {"partition": "aws", "region": REGION, "account": ACCOUNT, "id": ID}
    return re.sub(r"\{([^}]*)\}", lambda match: parts.get(match.group(1), f"{match.group(1)}-1"), template)

"""Where a call tells which asset it is about.

One asset must get one name, whichever call tells of it. So it is decided once per type by what its ids are made of (`style`),
and members that hold something else than that, though they are called much like it, are not taken.
"""

import re
from dataclasses import dataclass, field
from functools import cache

from . import shapes, sources, types
from .decide import TARGETS, iam_action, is_in_pool, tag_target
from .services import event_source, prefix, services_of
from .words import norm, noun_in, singular, split_operation

REQUEST, RESPONSE = "/requestParameters", "/responseElements"
_NEVER = frozenset(
    "callerreference clienttoken requestid clientrequesttoken nexttoken creatorrequestid idempotencytoken dryrun"
    " description type operationid changetoken locktoken updatetoken".split()
)


@dataclass
class Identity:
    """The sources of a rule's `each`, `id` and `vars`. An ARN among the ids comes first: the engine takes it apart."""

    naming: types.Naming | None = None
    each: str | None = None
    id: list = field(default_factory=list)
    arn: list = field(default_factory=list)
    variables: dict = field(default_factory=dict)
    # How sure it is that these are the asset's, 0 to 1.
    certainty: float = 0.0
    evidence: list = field(default_factory=list)

    @property
    def found(self):
        return bool(self.id or self.arn)

    @property
    def sources(self):
        return [*self.arn, *self.id]


@dataclass(frozen=True)
class Style:
    """What the ids of a type are."""

    # `id` or `name`, where a type has both; `arn` where nothing but the ARN tells the id; None where there is no doubt.
    kind: str | None
    # The last part of the ARN is the id.
    in_arn: bool


def _words(kind):
    return kind.nouns | {norm(resource) for resource in kind.resources}


@cache
def _exact_operations(service, name):
    """The service's calls whose noun is the type: verb -> operation."""
    kind = _kind(service, name)
    found = {}
    for operation in sources.services()[service]["operations"]:
        verb, rest = split_operation(operation)
        if noun_in(rest, _words(kind)) in _words(kind):
            found.setdefault(verb, operation)
    return found


def _kind(service, name):
    return types.of_prefix(prefix(service))[name]


@cache
def style(service, name):
    """Ids by what the calls that read and delete the type ask for, and what its ARN is made of."""
    kind = _kind(service, name)
    words = _words(kind)
    takes = set()
    for verb, operation in _exact_operations(service, name).items():
        if verb in ("delete", "get", "describe", "terminate", "deregister", "remove", "start", "stop"):
            inputs = {singular(norm(leaf.name)) if leaf.many else norm(leaf.name) for leaf in shapes.leaves(service, operation, "input", 0)}
            for suffix in ("id", "name"):
                if suffix in inputs or any(word + suffix in inputs for word in words):
                    takes.add(suffix)
    variable = norm(kind.template.variables[-1]) if kind.template else ""
    by_arn = "name" if variable.endswith("name") else "id" if variable.endswith("id") else None
    chosen = next(iter(takes)) if len(takes) == 1 else by_arn if takes else None
    if kind.template and _is_version(variable, kind):
        # The last part is a version of what the asset's id is before it.
        return Style(chosen, False)
    differs = chosen == "name" and by_arn == "id" and variable != "resourceid"
    if kind.template and chosen != "name" and _is_made_by_aws(variable, kind):
        return Style("arn", True)
    return Style(chosen if chosen and (len(takes) == 2 or _has_own_id(service, kind)) else None, not differs)


def _is_version(variable, kind):
    """extension/${ExtensionId}/${VersionNumber}, where the type is the extension."""
    parents = {norm(name) for name in kind.template.variables[:-1]}
    own = {word + end for word in _words(kind) for end in ("", "id", "name")}
    return "version" in variable and not kind.last.lower().endswith("version") and bool(parents & own)


def _is_made_by_aws(variable, kind):
    """cluster/${ClusterName}/${Uuid}: the id is beside the name that people give."""
    own = {word + end for word in _words(kind) for end in ("", "id", "name", "identifier")}
    parents = {norm(name) for name in kind.template.variables[:-1]}
    return variable not in own and any(word + "name" in parents for word in _words(kind))


@cache
def _made_operation(service, name):
    exact = _exact_operations(service, name)
    return next((exact[verb] for verb in ("create", "put", "register", "import", "allocate") if verb in exact), None)


def _has_own_id(service, kind):
    """What the service answers to a create has an id beside the name."""
    operation = _made_operation(service, kind.name)
    leaves = shapes.leaves(service, operation, "output", 1) if operation else ()
    own = {"id"} | {word + "id" for word in _words(kind)}
    return any(norm(leaf.name) in own and (leaf.depth == 0 or norm(leaf.path[0][0]) in _words(kind)) for leaf in leaves)


def identify(decision):
    """The sources of the asset that a decided operation is about."""
    service, operation = decision.service, decision.operation
    if decision.by_arn:
        target = tag_target(service, operation)
        return _of_target(target)
    identity = _of_kind(decision)
    if not identity.found or _is_part(decision.kind, service):
        _fold(decision)
        identity = _of_kind(decision) if decision.part else identity
    return identity


def _is_part(kind, service):
    """CloudFormation has types for policies, filters and settings that are parts of something: they have no ARN, the service
    gives them no id, and AWS Config does not list them as resources."""
    if kind.template or kind.curated or _has_own_id(service, kind):
        return False
    return kind.last.endswith("Policy") or kind.name not in sources.config_types()


def _of_kind(decision):
    finder = _Finder(decision)
    sides = ("output", "input") if decision.action in ("create", "upsert") else ("input", "output")
    identity = Identity(finder.naming)
    for side in sides:
        finder.search(side, identity)
        if identity.each:
            break
    finder.find_variables(identity)
    return identity


def _fold(decision):
    """A part that has no name of its own belongs to the asset that the call must name: a policy to its bucket."""
    part = decision.kind
    if part.template and not decision.exact:
        return
    required = [norm(leaf.name) for leaf in shapes.leaves(decision.service, decision.operation, "input", 0) if leaf.required and not leaf.many]
    listed = {one["name"] for one in (iam_action(decision.service, decision.operation) or {}).get("resourceTypes", ())}
    wholes = []
    for kind in types.of_prefix(prefix(decision.service)).values():
        named = any(word + suffix in required for word in _words(kind) for suffix in ("id", "name", "arn", "identifier"))
        if kind is not part and named and (kind.template or kind.curated) and kind.resources & listed and is_in_pool(decision.service, kind):
            wholes.append(kind)
    if len(wholes) == 1:
        decision.kind, decision.part, decision.exact, decision.action = wholes[0], part, False, "update"
        decision.evidence.append(f"a part of {wholes[0].name}, which the call names and IAM lists")


def _of_target(target):
    pointer = target.pointer(REQUEST)
    identity = Identity(certainty=1.0 if "arn" in norm(target.name) else 0.8, evidence=[f"{target.name} is the target"])
    if target.many:
        identity.each, identity.arn = pointer, ["@"]
    else:
        identity.arn = [pointer]
    return identity


def _suffix(word):
    """`id`, `name` or `arn`: what a member is by its own word. An identifier is an id."""
    return next((end for end in ("identifier", "id", "name", "arn") if word.endswith(end)), word).removesuffix("entifier")


class _Finder:
    def __init__(self, decision):
        self.decision = decision
        self.service, self.operation, self.kind = decision.service, decision.operation, decision.kind
        self.style = style(decision.service, decision.kind.name)
        self.naming = naming_of(decision.kind)
        self.words = _words(decision.kind)
        self.creates = decision.action in ("create", "upsert") and decision.exact

    # -- the id

    def search(self, side, identity):
        """Adds the best members of the input or the output."""
        root = REQUEST if side == "input" else RESPONSE
        ranked = []
        for leaf in shapes.leaves(self.service, self.operation, side, 2):
            rated = self._rate(leaf, side)
            if rated:
                ranked.append((rated[0] - 0.06 * leaf.depth + (0.03 if leaf.required else 0), rated, leaf))
        ranked.sort(key=lambda one: -one[0])
        floor = max(0.6, ranked[0][0] - 0.25) if ranked else 1
        kept = [one for one in ranked if one[0] >= floor]
        if identity.found:
            kept = [one for one in kept if self._is_same(one[2], identity)]
        if not kept:
            return
        score, (_, holds, why), leaf = kept[0]
        identity.certainty = max(identity.certainty, min(1.0, score))
        identity.evidence.append(f"{'.'.join(step[0] for step in leaf.path)} ({side}): {why}")
        if leaf.list_at is not None:
            if not identity.found:
                self._each(leaf, root, holds, identity)
            return
        for _, (_, holds, _), leaf in [one for one in kept if one[2].list_at is None][:3]:
            if holds == "arn" or self._is_same(leaf, identity):
                for pointer in self._pointers(leaf, root):
                    self._add(pointer, holds, identity)

    def _is_same(self, leaf, identity):
        """It holds what the ids found so far hold: a name is no alternative to an id."""
        known = {_suffix(norm(re.sub(r" \|.*", "", pointer).split("/")[-1])) for pointer in identity.id}
        return not known or _suffix(norm(leaf.name)) in known

    def _add(self, pointer, holds, identity):
        """An ARN is taken apart by the type's template; without one its last part is the id."""
        if holds == "arn" and not self.naming.arn:
            pointer, holds = f"{pointer} | arn_resource", "id"
        target = identity.arn if holds == "arn" else identity.id
        if pointer not in target:
            target.append(pointer)

    def _each(self, leaf, root, holds, identity):
        """One event per element of a list."""
        at = leaf.list_at
        head = shapes.Member(leaf.name, leaf.path[:at], leaf.required, True, leaf.kind)
        identity.each = head.pointer(root)
        self._add("@" + leaf.pointer("", at), holds, identity)

    def _pointers(self, leaf, root):
        yield leaf.pointer(root)
        output = shapes.structure(self.service, self.operation, "output")
        is_query = shapes.protocol(self.service) == "query" and root == RESPONSE
        if is_query and leaf.depth and len(shapes.members(self.service, output)) == 1:
            # Some services of this protocol answer without the outer structure.
            yield leaf.pointer(root, 1)

    def _rate(self, leaf, side):
        """(score, `arn` or `id`, why), or None where it is not the asset's id."""
        word = norm(leaf.name)
        word = singular(word) if leaf.many else word
        if norm(leaf.path[0][0]).startswith(("fail", "error", "unprocessed", "unsuccessful")):
            return None
        if side == "input" and self.decision.verb in ("copy", "clone"):
            return None
        if word in _NEVER or leaf.kind != "string" and not word.endswith(("id", "number")):
            return None
        home = self._is_home(leaf)
        if leaf.depth and not home and (side == "output" or leaf.depth > 1):
            return None
        if word.endswith("arn") or word.endswith("arns"):
            return self._rate_arn(word, home, leaf, side)
        return self._rate_id(word, home, leaf, side)

    def _is_home(self, leaf):
        """It is a member of the asset itself: `id` in `cluster`, or flat in a call about a cluster."""
        if leaf.depth:
            parents = [singular(norm(step[0])) for step in leaf.path[:-1]]
            return parents[-1] in self.words or any(len(word) > 4 and word in parents[-1] for word in self.words)
        return self.decision.exact

    def _rate_arn(self, word, home, leaf, side):
        if self.kind.template and not self.naming.arn and not self.kind.curated:
            return None
        if not self.kind.template and (self._is_of_another(word[:-3]) or word in self._parts()):
            return None
        if any(word == noun + "arn" for noun in self.words):
            return (1.0, "arn", "the type's ARN")
        if word == "arn" and home:
            return (0.98, "arn", "ARN of the asset itself")
        if word in TARGETS and side == "input" and not self.creates:
            return (0.85, "arn", "the target")
        if word == "arn" and side == "input" and not self.creates and leaf.depth == 0:
            return (0.8, "arn", "an ARN")
        # CloudFormation's own identifier: PipelineArn of a BatchInferencePipeline.
        if home and any(norm(part) == word for part in self.kind.identifiers):
            return (0.95, "arn", "CloudFormation's identifier")
        if self._is_short(word, "arn"):
            return (0.9, "arn", "the end of the type's name")
        return None

    def _is_of_another(self, stem):
        """`clusterArn` where a policy of a cluster is set."""
        kinds = types.of_prefix(self.kind.prefix).values()
        return any(stem in _words(kind) for kind in kinds if kind is not self.kind)

    def _is_short(self, word, suffix):
        """`baselineId` of a PatchBaseline, in a call about one."""
        stem = word[: -len(suffix)]
        return self.decision.exact and len(stem) > 3 and word.endswith(suffix) and any(noun.endswith(stem) for noun in self.words)

    def _rate_id(self, word, home, leaf, side):
        suffix = next((end for end in ("identifier", "id", "name", "key", "number") if word.endswith(end)), None)
        if self.style.kind == "arn":
            return None
        if self.style.kind and suffix in ("id", "name") and suffix != self.style.kind:
            return None
        own = norm(self.naming.id or "")
        specific = len(own) > 4 and own not in ("resourceid", "resourcename")
        if specific and word == own:
            return (0.99, "id", "the ARN's variable")
        for noun in self.words:
            if word in (noun + "id", noun + "identifier"):
                return (0.98, "id", "the type's id")
            if word == noun + "name":
                return (0.96, "id", "the type's name")
            if word == noun and leaf.kind == "string" and len(noun) > 2:
                return (0.85, "id", "the type")
        if not self.kind.template and word == own:
            return (0.95, "id", "CloudFormation's identifier")
        if suffix and leaf.depth == 0 and self._is_short(word, suffix):
            return (0.9, "id", "the end of the type's name")
        if word in ("id", "identifier", "name") and home:
            # A name that an update gives may be the new one.
            renames = word == "name" and self.decision.action == "update" and not leaf.required
            return None if renames else (0.92 if word != "name" else 0.9, "id", "its own")
        if word in ("id", "identifier") and leaf.depth == 0 and leaf.required and side == "input" and not self.creates:
            return (0.78, "id", "the only id" if self._is_only_required(leaf) else "an id")
        if word == "name" and leaf.depth == 0 and self._is_only_required(leaf) and side == "input" and not self.creates:
            return (0.75, "id", "the only name")
        if word in ("resourceid", "resourceidentifier") and side == "input" and not self.creates and word not in self._parts():
            return (0.72, "id", "the target")
        return None

    def _parts(self):
        """The words of the other parts of the name."""
        return {norm(word) for _, word in self.naming.variables}

    def _is_only_required(self, leaf):
        leaves = shapes.leaves(self.service, self.operation, "input", 0)
        return [one.name for one in leaves if one.required] == [leaf.name]

    # -- the other parts of the name

    def find_variables(self, identity):
        if identity.arn and not identity.id:
            # The ARN tells them.
            return
        for name, word in self.naming.variables:
            found = variable_sources(self.service, self.operation, word, self.decision.action, identity.each, self.kind)
            found = [source for source in found if source.split(" | ")[0] not in identity.id]
            if found:
                identity.variables[name] = found
        if identity.found and len(identity.variables) < len(self.naming.variables) and not identity.arn:
            identity.evidence.append("a part of the name is not told")
            identity.id.clear()


def variable_sources(service, operation, word, action, each, kind):
    """Where a call tells another part of the name, such as the cluster of a service."""
    base = norm(word)
    stem = next((base[: -len(end)] for end in ("identifier", "name", "id") if base.endswith(end) and base != end), base)
    wanted = [base, stem + "id", stem + "identifier", stem + "name", stem]
    if _ends_with_id(service, stem):
        wanted.append(stem + "arn")
    if len(stem) < 3 or stem in _words(kind):
        wanted = [base]
    found = []
    sides = ("output", "input") if action == "create" else ("input", "output")
    for side in ("input", "output") if action != "create" else sides:
        root = REQUEST if side == "input" else RESPONSE
        leaves = [leaf for leaf in shapes.leaves(service, operation, side, 1)]
        rated = [(wanted.index(norm(leaf.name)) + 3 * leaf.depth, leaf) for leaf in leaves if norm(leaf.name) in wanted and not leaf.many]
        for _, leaf in sorted(rated, key=lambda one: one[0])[:1]:
            if leaf.list_at is None:
                pointer = leaf.pointer(root)
            else:
                head = shapes.Member(leaf.name, leaf.path[: leaf.list_at], False, True, leaf.kind).pointer(root)
                if head != each:
                    continue
                pointer = "@" + leaf.pointer("", leaf.list_at)
            # A call may take the whole ARN of the other asset in its place.
            found.append(f"{pointer} | arn_resource")
    return found


@cache
def _naming(name, within):
    kind = types.of_prefix(within)[name]
    services = services_of(within)
    untold = set().union(*(untold_variables(service, name) for service in services))
    if kind.template and not all(style(service, name).in_arn for service in services):
        untold.add(kind.template.variables[-1])
    return types.naming(kind, event_source(services[0]) if services else f"{within}.amazonaws.com", frozenset(untold))


def naming_of(kind):
    """The templates of a type: one decision for all services that tell of it."""
    return _naming(kind.name, kind.prefix)


def _ends_with_id(service, stem):
    """The last part of the other type's ARN is the id that it goes by."""
    kinds = [kind for kind in types.of_prefix(prefix(service)).values() if stem in _words(kind)]
    return all(kind.template is None or len(kind.template.variables) == 1 or not _is_made_by_aws(norm(kind.template.variables[-1]), kind) for kind in kinds)


@cache
def untold_variables(service, name):
    """Parts of the ARN that most calls on the type do not tell: only AWS knows them, so names go without."""
    kind = _kind(service, name)
    if kind.curated or not kind.template:
        return frozenset()
    untold = set()
    for variable in kind.template.variables[:-1]:
        told = total = 0
        for verb, operation in _exact_operations(service, name).items():
            if verb in ("delete", "update", "create", "put", "modify"):
                total += 1
                told += bool(variable_sources(service, operation, variable, "update", None, kind)) or _takes_arn(service, operation, kind)
        if total and told < total:
            untold.add(variable)
    return frozenset(untold)


def _takes_arn(service, operation, kind):
    own = {"arn"} | {word + "arn" for word in _words(kind)} | {word + "identifier" for word in _words(kind)}
    leaves = [*shapes.leaves(service, operation, "input", 0), *shapes.leaves(service, operation, "output", 1)]
    return any(norm(leaf.name) in own for leaf in leaves)

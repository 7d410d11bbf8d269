"""The members of an operation's input and output, and how CloudTrail spells them.

CloudTrail lower-cases the first letter of a member's API name. EC2 goes by the names on the wire, and so do its lists:
`{"vpcSet": {"items": [...]}}`.
"""

from dataclasses import dataclass
from functools import cache

from . import sources
from .words import lower_first

SCALARS = ("string", "integer", "long")


@dataclass(frozen=True)
class Member:
    """A scalar member, or a list of them, and the way to it."""

    name: str
    # The members on the way, itself included: (API name, spelled as a part of a JSON Pointer, is a list).
    path: tuple
    required: bool
    many: bool
    kind: str

    @property
    def depth(self):
        return len(self.path) - 1

    @property
    def list_at(self):
        """The number of steps that lead to the outermost list."""
        return next((at for at, step in enumerate(self.path, 1) if step[2]), None)

    def pointer(self, root, start=0):
        return root + "".join(f"/{step[1]}" for step in self.path[start:])


def _escaped(token):
    return token.replace("~", "~0").replace("/", "~1")


@cache
def _model(service):
    return sources.services()[service]


def protocol(service):
    return _model(service)["metadata"]["protocol"]


def _spelled(service, name, member, is_list, is_output):
    """As a part of a JSON Pointer."""
    if service == "s3" and name == "Bucket":
        return "bucketName"
    if protocol(service) != "ec2":
        return _escaped(lower_first(name))
    spelled = _escaped(lower_first(member.get("locationName") or name))
    return f"{spelled}/items" if is_list and is_output else spelled


def shape(service, name):
    return _model(service)["shapes"].get(name) or {}


def structure(service, operation, side):
    """The name of the input's or output's shape."""
    return (_model(service)["operations"][operation].get(side) or {}).get("shape")


def members(service, name):
    """Name -> (member, its shape) of a structure."""
    return {key: (member, shape(service, member["shape"])) for key, member in (shape(service, name).get("members") or {}).items()}


@cache
def leaves(service, operation, side, deepest=2):
    """Scalar members, and lists of them, to a depth."""
    name = structure(service, operation, side)
    return tuple(_leaves(service, name, side == "output", deepest, ())) if name else ()


def _leaves(service, name, is_output, deepest, path):
    required = set(shape(service, name).get("required", ()))
    for key, (member, of) in members(service, name).items():
        is_list = of.get("type") == "list"
        step = (key, _spelled(service, key, member, is_list, is_output), is_list)
        inner = shape(service, of["member"]["shape"]) if is_list else of
        inner_name = of["member"]["shape"] if is_list else member["shape"]
        if inner.get("type") in SCALARS:
            yield Member(key, (*path, step), key in required, is_list, inner["type"])
        elif inner.get("type") == "structure" and len(path) < deepest and not (is_list and any(s[2] for s in path)):
            yield from _leaves(service, inner_name, is_output, deepest, (*path, step))

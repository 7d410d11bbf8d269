"""The words in names: of operations, members and types."""

import re

CREATE = frozenset(
    "create run allocate launch request import restore provision clone copy register issue purchase subscribe build define"
    " onboard install".split()
)
DELETE = frozenset(
    "delete terminate deregister release remove destroy purge unsubscribe retire cancel deprovision offboard uninstall"
    " expire".split()
)
UPSERT = frozenset("put upsert set save".split())
# What states settings in full or in part, so that its members are configuration.
SETTING = frozenset("update modify put set change configure edit patch upsert save".split())
READ = frozenset(
    "get list describe head search query lookup scan check validate preview test discover select view estimate retrieve"
    " download simulate calculate".split()
)


def norm(text):
    """`DBCluster` and `db-cluster` are one word."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def lower_first(text):
    return text[:1].lower() + text[1:]


def kebab(text):
    """`DBInstance` -> `db-instance`, as the generic rules write a noun."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", text)
    return text.lower().replace("_", "-")


def singular(word):
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "aliases")):
        return word[:-2]
    kept = ("ss", "us", "is", "os", "sis", "dns", "rds", "https", "eks", "ecs", "alias")
    return word[:-1] if word.endswith("s") and not word.endswith(kept) else word


def noun_in(rest, known):
    """The noun of a call: what it is among the known ones; CreateClusterV2 makes a cluster where nothing is a ClusterV2."""
    noun = singular(norm(rest))
    bare = re.sub(r"v\d$", "", noun)
    return bare if noun not in known and bare in known else noun


def split_operation(name):
    """`BatchDeleteImage` -> (`delete`, `Image`)."""
    match = re.match(r"^([A-Z][a-z]+)(.*)$", name)
    if not match:
        return name.lower(), ""
    verb, rest = match.group(1).lower(), match.group(2)
    if verb in ("batch", "bulk", "admin", "async") and rest:
        return split_operation(rest)
    return verb, rest


def role(verb):
    """What the verb does to the thing that its noun names."""
    if verb in CREATE:
        return "create"
    if verb in DELETE:
        return "delete"
    return "upsert" if verb in UPSERT else "update"

"""How often derived rules agree with those written by hand, which they never see."""

import tomllib
from collections import Counter

from . import rules, services, sources


def main():
    counted, differing = Counter(), []
    by_hand = _by_hand()
    for service, model in sources.services().items():
        if service in services.TWINS:
            continue
        for operation in model["operations"]:
            written = by_hand.get((services.event_source(service), operation))
            derived = rules.derive_one(service, operation) if written else None
            if not derived or not derived.level or not isinstance(written.get("asset"), str) or derived.decision.by_arn:
                continue
            ours = (derived.decision.kind.name, derived.decision.action)
            theirs = (written["asset"], written["action"])
            kind, action = ours[0] == theirs[0], _is_same_action(ours[1], theirs[1])
            counted[derived.level] += 1
            counted[derived.level, "type"] += kind
            counted[derived.level, "type and action"] += kind and action
            if not (kind and action):
                differing.append(f"{services.event_source(service)} {operation} ({derived.level}): derived {ours}, by hand {theirs}")
    print("\n".join(sorted(differing)))
    for level in (rules.HIGH, rules.MEDIUM):
        told = counted[level] or 1
        shares = ", ".join(f"{name} {counted[level, name] / told:.1%}" for name in ("type", "type and action"))
        print(f"{level}: {counted[level]} calls with a rule by hand; of the same {shares}")
    return 0


def _by_hand():
    """Rules written by hand that say one thing: lists of rules tell more than a derived one can."""
    found = {}
    for path in sources.CURATED.glob("*.toml"):
        file = tomllib.loads(path.read_text())
        service = file.get("service", [])
        for source in [service] if isinstance(service, str) else service:
            for event, rule in file.get("events", {}).items():
                if isinstance(rule, dict) and "skip" not in rule:
                    found[source, event] = rule
    return found


def _is_same_action(ours, theirs):
    return ours == theirs or {ours, theirs} in ({"create", "upsert"}, {"update", "upsert"})

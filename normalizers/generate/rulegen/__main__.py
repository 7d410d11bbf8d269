"""run [--check] [--explain SERVICE:Operation] [--measure]"""

import argparse
import pathlib
import sys
from collections import Counter

from . import decide, files, identify, rules, services, sources


def main():
    parser = argparse.ArgumentParser(prog="run", description="Derives normalizers/aws/generated/ from public models of the services. `run test` runs its own tests.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if anything would change")
    parser.add_argument("--explain", metavar="SERVICE:Operation", help="say what is decided of one operation, and why")
    parser.add_argument("--measure", action="store_true", help="compare with the rules written by hand")
    chosen = parser.parse_args()
    if chosen.explain:
        return explain(chosen.explain)
    if chosen.measure:
        from . import measure

        return measure.main()
    return write(chosen.check)


def write(check_only):
    wanted = files.generate()
    there = {path for folder, ending in ((files.RULES, "toml"), (files.RECORDS, "jsonl")) for path in folder.glob(f"*.{ending}")}
    stale = sorted(path for path in wanted.keys() | there if _text(path) != wanted.get(path))
    for path in [] if check_only else stale:
        if path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
        else:
            path.unlink()
    for path in stale:
        print(f"{'stale' if check_only else 'written'}: {path.relative_to(sources.ROOT)}")
    return 1 if check_only and stale else 0


def _text(path):
    return path.read_text() if path.exists() else None


def explain(asked):
    """What each source says of an operation, and the rule that comes of it."""
    prefix, _, operation = asked.partition(":")
    found = [
        service
        for service, model in sources.services().items()
        if operation in model["operations"] and prefix in (service, services.prefix(service), services.event_source(service).split(".")[0])
    ]
    if not found:
        print(f"no service {prefix!r} has an operation {operation!r}", file=sys.stderr)
        return 1
    for service in found:
        explain_one(service, operation)
    return 0


def explain_one(service, operation):
    decision = decide.decide(service, operation)
    print(f"{service} {operation}: {services.event_source(service)}, access level {decide.access_level(service, operation)}")
    rule = rules.derive_one(service, operation)
    print(f"  what       {decision.what}: {decision.action or '-'} {decision.kind.name if decision.kind else '-'}")
    for why in (rule.decision if rule else decision).evidence:
        print(f"  type       {why}")
    if not rule:
        print("  rule       none: " + ("no id that is the asset's" if decision.what == "asset" else "no asset changes"))
        return
    for why in rule.identity.evidence:
        print(f"  id         {why}")
    print(f"  certainty  {rule.certainty}: {rule.level or 'too low; the generic rules take it'}")
    if (services.event_source(service), operation) in sources.curated()[1]:
        print("  curated    a rule written by hand takes its place")
    if not rule.decision.by_arn:
        print(f"  asset      {rules.toml(rules.asset_keys(rule.decision.kind))}")
    print(f"  rule       {rules.toml(rule.keys())}")


if __name__ == "__main__":
    sys.exit(main())

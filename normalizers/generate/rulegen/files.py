"""The generated files: one of rules per event source, and one of records that show them."""

import json
from collections import defaultdict

from . import catalogue, records, rules, services, sources

RULES = sources.CURATED / "generated"
RECORDS = sources.ROOT / "fixtures" / "aws" / "generated"
_HEAD = "# Made by normalizers/generate/run from public models of the service; `run --explain {label}:{event}` tells why.\n"


def generate(only=None):
    """Path -> text of every file."""
    derived = rules.derive(only)
    by_source = defaultdict(dict)
    for (source, event), found in derived.items():
        by_source[source][event] = found
    homes = _homes(derived)
    defined = {name for types in homes.values() for name in types} | set(sources.curated()[0])
    files = {}
    for source in sorted({*by_source, *homes}):
        label = source.split(".")[0]
        files[RULES / f"{label}.toml"] = _rule_file(source, homes.get(source, ()), by_source.get(source, {}))
        if source in by_source:
            files[RECORDS / f"{label}.jsonl"] = _record_file(by_source[source], defined)
    if not only:
        rule_files = [text for path, text in files.items() if path.suffix == ".toml"]
        files[catalogue.PAGE] = catalogue.page(rule_files)
    return files


def _homes(derived):
    """Event source -> the types that its file defines: each type once, with the service that it belongs to."""
    homes = defaultdict(dict)
    for name in rules.assets(derived):
        kind = rules.kind_named(name)
        hosts = [services.event_source(service) for service in services.services_of(kind.prefix)]
        homes[hosts[0] if hosts else f"{kind.prefix}.amazonaws.com"][name] = kind
    return homes


def _rule_file(source, types, events):
    label = source.split(".")[0]
    lines = [_HEAD.format(label=label, event=next(iter(events), "Event")), f'service = "{source}"\n']
    if types:
        lines.append("\n[assets]\n")
        lines += [f'"{name}" = {rules.toml(rules.asset_keys(types[name]))}\n' for name in sorted(types)]
    if events:
        lines.append("\n[events]\n")
        for event, found in sorted(events.items()):
            keys = [rule.keys() for rule in found]
            lines.append(f"{event} = {rules.toml(keys[0] if len(keys) == 1 else keys)}\n")
    return "".join(lines)


def _record_file(events, defined):
    lines = (records.record(event, rule, defined) for event, found in sorted(events.items()) for rule in found)
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)

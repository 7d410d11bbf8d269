"""Prints the blocks of the Terraform files of a folder as JSON: [{"kind", "labels", "arguments"}]."""

import json
import pathlib
import sys

import hcl2


def bare(value):
    """Without the quotes that the parser leaves around strings and names, and without what it adds."""
    if isinstance(value, str):
        return value[1:-1] if len(value) >= 2 and value[0] == value[-1] == '"' else value
    if isinstance(value, list):
        return [bare(item) for item in value]
    if isinstance(value, dict):
        return {bare(key): bare(item) for key, item in value.items() if not key.startswith("__")}
    return value


def blocks(kind, body):
    labels = []
    while isinstance(body, dict) and not body.get("__is_block__"):
        (label, body), = body.items()
        labels.append(bare(label))
    return {"kind": kind, "labels": labels, "arguments": bare(body)}


found = []
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.tf")):
    for kind, bodies in hcl2.loads(path.read_text()).items():
        if not kind.startswith("__"):
            found += [blocks(kind, body) for body in bodies]
print(json.dumps(found))

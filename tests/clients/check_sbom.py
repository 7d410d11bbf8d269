"""Checks a software bill of materials (CycloneDX 1.6, JSON) against the schema and for what every entry must tell."""

import json
import pathlib
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text = pathlib.Path(sys.argv[1]).read_text()
fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
if fault:
    sys.exit(f"{sys.argv[1]}: {fault}")
bill = json.loads(text)
names = {entry["bom-ref"] for entry in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
used = {entry["ref"] for entry in bill["dependencies"]} | {d for entry in bill["dependencies"] for d in entry["dependsOn"]}
if names != used:
    sys.exit(f"not both listed and used: {sorted(names ^ used)}")
without = [entry["purl"] for entry in bill["components"] if not entry.get("hashes") or not entry["licenses"]]
if without or len(names) < 100:
    sys.exit(f"{len(names)} crates; without hash or licence: {without}")
print(f"{len(names)} crates in the bill of materials")

"""The crates that the program is made of, as cargo resolves them for the targets of deny.toml."""

import collections
import json
import pathlib
import subprocess
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def rules():
    """deny.toml."""
    return tomllib.loads((ROOT / "deny.toml").read_text())


def crates():
    """The root package, and every crate of the shipped program with those that it uses itself: {id: (package, [id])}."""
    used, packages, root = collections.defaultdict(set), {}, None
    for target in rules()["graph"]["targets"]:
        command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
        metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
        packages.update((package["id"], package) for package in metadata["packages"])
        nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
        root = metadata["resolve"]["root"]
        waiting, seen = [root], {root}
        while waiting:
            id = waiting.pop()
            # What only tests use is not shipped; what only builds use has its part in what is.
            shipped = {d["pkg"] for d in nodes[id]["deps"] if any(k["kind"] != "dev" for k in d["dep_kinds"])}
            used[id] |= shipped
            waiting.extend(shipped - seen)
            seen |= shipped
    return packages[root], {id: (packages[id], sorted(other)) for id, other in used.items()}

"""docs/asset-types.md: every neutral type with the provider types that go by it."""

import tomllib
from collections import defaultdict

from . import sources

PAGE = sources.ROOT / "docs" / "asset-types.md"
_HEAD = """# Asset types

What assets are called, whoever provides them (`data.asset.type`), and which types of the providers go by each name
(`data.asset.provider_type`). `normalizers/generate/run` writes this page from `normalizers/taxonomy.toml` and the rules.

An asset of any other type is `unclassified.<service>`; its provider type still says what it is. A provider type is
CloudFormation's where that has one, else `<service>:<resource>` as AWS's Service Authorization Reference calls it; Azure's are those of
its resource providers, Entra's are written `Microsoft.Graph/<kind>`.

"""


def page(generated):
    """The page's text; `generated` are the texts of the generated rule files."""
    taxonomy = sources.taxonomy()
    types = defaultdict(lambda: defaultdict(set))
    for provider in ("aws", "azure"):
        for name, neutral in (*_defined(provider, generated), *_listed(provider, taxonomy)):
            types[neutral][provider].add(name)
    families = defaultdict(list)
    for neutral, meaning in taxonomy["types"].items():
        if neutral != "unclassified":
            families[neutral.split(".")[0]].append((neutral, meaning))
    lines = [_HEAD]
    for family, members in families.items():
        lines.append(f"## {family}\n\n| type | what it is | AWS | Azure |\n|---|---|---|---|\n")
        for neutral, meaning in members:
            cells = (", ".join(f"`{name}`" for name in sorted(types[neutral][provider])) for provider in ("aws", "azure"))
            lines.append(f"| `{neutral}` | {meaning} | {' | '.join(cells)} |\n")
        lines.append("\n")
    return "".join(lines).rstrip() + "\n"


def _defined(provider, generated):
    """The types that rule files define, with what they or the taxonomy call them."""
    texts = [path.read_text() for path in sorted((sources.ROOT / "normalizers" / provider).glob("*.toml"))]
    for text in [*texts, *(generated if provider == "aws" else ())]:
        for name, asset in tomllib.loads(text).get("assets", {}).items():
            neutral = asset.get("type") or neutral_type(provider, name)
            if neutral:
                yield name, neutral


def _listed(provider, taxonomy):
    for name, neutral in taxonomy.get(provider, {}).items():
        # What AWS has in a namespace is defined by the generated files.
        if isinstance(neutral, str) and not (provider == "aws" and name.endswith("*")):
            yield name, neutral


def neutral_type(provider, name):
    """What the taxonomy says of a type, or of every other type of its namespace."""
    table = sources.taxonomy().get(provider, {})
    return table.get(name) or table.get(f"{name.rpartition('::')[0]}::*")

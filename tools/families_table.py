"""The table of model families in docs/models.md, from the registry and from the cases that the tests prove.

python -m tools.families_table           # write it between the markers
python -m tools.families_table --check   # exit code 1 when the table is stale
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from lieq_edge.sources.families import FAMILIES, Family
from lieq_edge.sources.families.experts import ExpertFamily

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- families: made by tools/families_table.py -->", "<!-- end of families -->"


def proof_cases(folder: Path = ROOT / "tests") -> dict[str, list[str]]:
    """Cases of the proofs by family: names of the entries of every ``CASES`` below ``folder``.

    Such a dictionary maps a name to ``(family, options of the tiny model)``; its tests compare llama.cpp with
    transformers. It is read from the source text, so that no heavy library is imported.
    """
    cases: dict[str, list[str]] = {name: [] for name in FAMILIES}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "CASES":
                assert isinstance(node.value, ast.Dict), path
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    case, family = _case(key, value)
                    if family in cases and case not in cases[family]:
                        cases[family].append(case)
    return cases


def _case(key: ast.expr | None, value: ast.expr) -> tuple[str, str]:
    """Name of the case and its family: the first string of the value that names one."""
    assert isinstance(key, ast.Constant)
    assert isinstance(value, ast.Tuple)
    strings = [part.value for part in value.elts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return str(key.value), next((text for text in strings if text in FAMILIES), "")


def render() -> str:
    """The table with its markers."""
    cases = proof_cases()
    rows = ["| family | `model_type` | GGUF | proved equal to transformers |", "|---|---|---|---|"]
    for name, family in FAMILIES.items():
        # Tests name a case by its family first.
        variants = [re.sub(rf"^{name}(?![\w])[ ,]*", "", case) or "plain" for case in cases[name]]
        proved = "; ".join(variants) or "not yet"
        rows.append(f"| {_title(family)} | `{name}` | `{family.architecture}`{_reads(family)} | {proved} |")
    return "\n".join([BEGIN, *rows, END])


def _title(family: Family) -> str:
    return f"{family.title} (mixture of experts)" if isinstance(family, ExpertFamily) else family.title


def _reads(family: Family) -> str:
    """A GGUF file of an architecture that several families share is read as one of them."""
    if family.reads_gguf:
        return ""
    readers = (other for other in FAMILIES.values() if other.reads_gguf and other.architecture == family.architecture)
    if isinstance(family, ExpertFamily):
        return " (run by llama.cpp)"
    return f" (read back as {', '.join(_title(other) for other in readers)})"


def updated(text: str) -> str:
    """``text`` of the page with the table as it is now."""
    head, _, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE.name} has no markers for the table of families")
    return head + render() + tail


def main() -> None:
    """Write the table, or check it."""
    text = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        sys.exit(int(updated(text) != text))
    PAGE.write_text(updated(text), encoding="utf-8")


if __name__ == "__main__":
    main()

"""A model card for the hub: front matter, a table of the files, how they were made, and how to run them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import yaml

from ..errors import InputError
from ..gguf.inspect import FileReport
from ..gguf.types import unportable
from ..system.progress import log
from ..system.terminal import clean, clean_text
from .described import Described
from .naming import ENCODINGS

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!~&$])")
_CONVERSATION = (
    [{"role": "system", "content": "{system prompt}"}, {"role": "user", "content": "{prompt}"}],
    [{"role": "user", "content": "{prompt}"}],
)
# Types with less of the weights than this are not listed.
_SMALL_PART = 0.005
# The ``lieq.*`` values that a card shows, and what it calls them.
_MADE = {
    "version": "lieq-edge",
    "budget": "budget",
    "metric": "metric",
    "rounding": "rounding",
    "bpw": "bits a block weight",
    "nominal_bits": "nominal bits",
    "calibration.name": "calibration text",
    "calibration.tokens": "its tokens",
    "seed": "seed",
    "source_sha256": "SHA-256 of the original",
}


def model_card(
    described: Sequence[Described],
    *,
    repo: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
    languages: Sequence[str] = (),
) -> str:
    """The text of ``README.md`` for some files of one model.

    Args:
        described: the files; what the first one that says so says of the model counts.
        repo: hub id of the repository that they go to, for the commands.
        base_model: hub id of the original, instead of what the files say.
        license: license, instead of what the files say.
        languages: codes of languages, instead of what the files say.

    Raises:
        InputError: the files are of different architectures, or have the same name.
    """
    names = [one.path.name for one in described]
    if len(set(names)) < len(names):
        raise InputError("Two of the files have the same name; rename one of them.")
    architectures = sorted({one.report.architecture for one in described})
    if len(architectures) > 1:
        raise InputError(f"The files are of several models ({', '.join(architectures)}); make a card for each model.")
    first = described[0]
    if base_model is None:
        base_model = next((one.base_model for one in described if one.base_model), None)
        if base_model is None:
            log("The files do not say which model they were made from; --base-model ID names it on the card.")
    front = front_matter(described, base_model=base_model, license=license, languages=languages)
    ordered = sorted(described, key=lambda one: one.report.file_bytes)
    return _template().render(
        front=front,
        name=first.name,
        base_model=base_model,
        rows=[_row(one) for one in ordered],
        made=[(one.path.name, rows) for one in ordered if (rows := _made(one.report))],
        repo=repo,
        file=ordered[0].path.name,
        label=_label(ordered[0].path.name),
        limited=unportable(kind.type for one in described for kind in one.report.types),
        parts=len(ordered[0].model.paths),
        prompt=_prompt(first),
    )


def front_matter(
    described: Sequence[Described],
    *,
    base_model: str | None = None,
    license: str | None = None,
    languages: Sequence[str] = (),
) -> str:
    """The YAML head of a card, without its lines of dashes; the arguments are those of ``model_card``."""
    stated = next((one for one in described if one.license), None)
    document: dict[str, Any] = {}
    if base_model is not None:
        document |= {"base_model": clean(base_model), "base_model_relation": "quantized"}
    if license is not None:
        document["license"] = clean(license)
    elif stated is not None:
        document["license"] = stated.license
        if stated.license_name:
            document["license_name"] = stated.license_name
        if stated.license_link:
            document["license_link"] = stated.license_link
    stated_languages = next((one.languages for one in described if one.languages), ())
    if spoken := [clean(code) for code in languages or stated_languages]:
        document["language"] = spoken
    document["pipeline_tag"] = "text-generation"
    document["library_name"] = "gguf"
    tags = ["gguf", *(["lieq-edge"] if any(one.report.lieq for one in described) else [])]
    tags += [tag for one in described for tag in one.tags]
    document["tags"] = list(dict.fromkeys(tags))
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
    return text


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"plain": _plain, "code": _code, "block": _block, "shell": shlex.quote}
    return environment.from_string((files(__package__) / "card.md.jinja").read_text(encoding="utf-8"))


def _plain(text: Any) -> str:
    """Text of others in Markdown: nothing in it takes effect."""
    return _MARKDOWN.sub(r"\\\1", clean(str(text)))


def _code(text: Any) -> str:
    """A line of code in Markdown, also within a table."""
    line = clean(str(text)).replace("|", "\\|")
    fence = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def _block(text: str) -> str:
    """A block of code in Markdown."""
    lines = clean_text(text)
    fence = "`" * max(3, _longest_run(lines) + 1)
    return f"{fence}text\n{lines}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _label(name: str) -> str | None:
    """The encoding in a file's name, by which Ollama finds it in a repository."""
    match = re.search(r"-([A-Z0-9_]+)\.gguf$", name)
    return match[1] if match and match[1] in ENCODINGS else None


def _row(one: Described) -> dict[str, Any]:
    report, parts = one.report, len(one.model.paths)
    return {
        "name": one.path.name if parts == 1 else f"{one.path.name} and {parts - 1} more",
        "megabytes": f"{report.file_bytes / 1e6:,.1f}",
        "bpw": f"{report.file_bpw:.2f}",
        "types": ", ".join(
            f"{kind.type} {100 * kind.parameters / report.parameters:.0f} %"
            for kind in sorted(report.types, key=lambda kind: -kind.parameters)
            if kind.parameters >= _SMALL_PART * report.parameters
        ),
    }


def _made(report: FileReport) -> list[tuple[str, str]]:
    """Rows on how lieq-edge made a file; none for other files, and those that were changed afterwards."""
    if report.warnings:
        return []
    return [(title, _shown(report.lieq[key])) for key, title in _MADE.items() if key in report.lieq]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _prompt(one: Described) -> str | None:
    """A conversation as the file's template writes it; without a system prompt where that is refused."""
    if one.template is None:
        return None
    for messages in _CONVERSATION:
        try:
            return one.template.render(messages)
        except InputError as error:
            reason = error
    log(f"The card has no prompt format: {reason}")
    return None

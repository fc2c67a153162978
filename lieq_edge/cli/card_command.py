"""``card``: a model card, a Modelfile, and the upload to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import lieq_edge as api

from ..system.progress import log, set_quiet
from .flags import DebugFlag, ForceFlag, JsonFlag, QuietFlag
from .report import print_json


def card(
    files: Annotated[list[Path], typer.Argument(help="GGUF files of one model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model card to write.")] = Path("README.md"),
    modelfile: Annotated[Path, typer.Option(help="Ollama Modelfile to write for the first file.")] = Path("Modelfile"),
    no_modelfile: Annotated[bool, typer.Option("--no-modelfile", help="Write no Modelfile.")] = False,
    upload: Annotated[
        str | None, typer.Option(help="Upload files and card to this hub repository, OWNER/NAME.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    base_model: Annotated[str | None, typer.Option(help="Hub id of the original; default: what the file says.")] = None,
    license_name: Annotated[
        str | None, typer.Option("--license", help="License, e.g. apache-2.0; default: what the file says.")
    ] = None,
    language: Annotated[list[str] | None, typer.Option(help="Language code, e.g. en; can be repeated.")] = None,
    force: ForceFlag = False,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> None:
    """Write a model card and an Ollama Modelfile, and upload the files to the Hugging Face hub."""
    set_quiet(quiet)
    published = api.publish_files(
        files,
        card=out,
        modelfile=None if no_modelfile else modelfile,
        upload=upload,
        private=private,
        base_model=base_model,
        license=license_name,
        languages=language or (),
        force=force,
    )
    written = [published.card, *([] if published.modelfile is None else [published.modelfile])]
    log(f"Written: {', '.join(map(str, written))}")
    if json_output:
        print_json(published)
    elif published.url is not None:
        print(published.url)

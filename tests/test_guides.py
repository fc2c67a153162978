"""Every command and every Python example of the guides runs, on a tiny model."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from runner import run
from tiny import cached_model, sample_text

from lieq_edge.system.progress import Silent, receive_with

GUIDES = Path(__file__).parents[1] / "docs" / "guides"
PAGES = sorted(page for page in GUIDES.glob("*.md") if page.name != "README.md")
# Tiny models have few blocks, and the tests little time.
SHORT = ("--calibration-tokens", "1024", "--context", "64", "--threads", "1")
_COMMAND = re.compile(r"^ {4,}(lieq-edge .*)$", re.MULTILINE)
_YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"as `(\S+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Arguments of every command of a page."""
    return [shlex.split(line)[1:] for line in _COMMAND.findall(page.read_text(encoding="utf-8"))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a model and texts, which is the current one."""
    shutil.copytree(cached_model("llama", hidden=256, intermediate=512, blocks=2), tmp_path / "MODEL")
    (tmp_path / "mine.txt").write_text(sample_text(30_000))
    (tmp_path / "held-out.txt").write_text(sample_text(40_000))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_guide_run(page: Path, folder: Path) -> None:
    for name, content in _FILE.findall(page.read_text(encoding="utf-8")):
        (folder / name).write_text(content)
    for arguments in commands(page):
        more: list[str] = []
        if arguments[0] == "export":
            more = [*SHORT, "--chunks", "2"]
        elif arguments[0] == "plan":
            more = list(SHORT[:2])
        elif arguments[0] == "validate":
            more = ["--threads", "1"] if "--tasks" in arguments else ["--context", "64"]
            if "model.gguf" in arguments and not Path("model.gguf").exists():
                made = run("export", "MODEL", "-b", "Q4_K_M", "-o", "model.gguf", *SHORT, "--no-validate")
                assert made.returncode == 0, made.stderr
        elif arguments[0] == "sweep":
            (request,) = _YAML.findall(page.read_text(encoding="utf-8"))
            short = {"calibration_tokens": 1024, "probe_tokens": 64, "context": 64, "chunks": 2, "threads": 1}
            Path("sweep.yaml").write_text(yaml.safe_dump({**yaml.safe_load(request), **short}))
        elif arguments[0] == "bench":
            more = ["--prompt", "32", "--generate", "8"]
        done = run(*arguments, *more)
        assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stderr}"


def test_there_are_commands_to_run() -> None:
    assert {page.stem for page in PAGES if commands(page)} >= {
        "raspberry-pi",
        "sizes",
        "calibration",
        "ci",
        "sweeps",
        "tasks",
        "troubleshooting",
    }


def test_the_python_examples_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {}
    examples = _CODE.findall((GUIDES / "python.md").read_text(encoding="utf-8"))
    assert len(examples) == 5
    with receive_with(Silent()):  # as in a program: other tests have let the terminal receive everything
        for example in examples:
            exec(example, scope)
    assert Path("model-Q2_K.gguf").is_file()
    assert Path("report.html").is_file()
    printed = capsys.readouterr()
    assert "step 1 of" in printed.out
    assert printed.err == ""


def test_the_workflow_is_yaml_with_commands_of_this_program() -> None:
    (text,) = _YAML.findall((GUIDES / "ci.md").read_text(encoding="utf-8"))
    steps = yaml.safe_load(text)["jobs"]["export"]["steps"]
    exports = [step["run"] for step in steps if "lieq-edge" in step.get("run", "")]
    flags = [part for command in exports for part in shlex.split(command) if part.startswith("--")]
    helped = run("export", "--help").stdout
    assert flags
    assert all(flag in helped for flag in flags)

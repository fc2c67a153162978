"""Uploads by the hub's own library to a server that speaks its API."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, hub
from runner import assert_refused

Make = Callable[..., Path]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as started:
        yield started


@pytest.fixture
def file(tiny_gguf: Make, tmp_path: Path) -> Path:
    path = tmp_path / "Tiny-0.1M-Q8_0.gguf"
    path.write_bytes(tiny_gguf("qwen2").read_bytes())
    return path


def publish(server: Hub, folder: Path, *words: object, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """``lieq-edge card`` with the hub's address: its library reads that when it is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": server.address,
        "HF_HOME": str(folder / "hf"),
        # The protocol of its newer store has a server of its own.
        "HF_HUB_DISABLE_XET": "1",
        **({} if token is None else {"HF_TOKEN": token}),
    }
    return subprocess.run(
        [sys.executable, "-m", "lieq_edge", "card", *map(str, words)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_files_and_card_are_sent(server: Hub, file: Path, tmp_path: Path) -> None:
    done = publish(server, tmp_path, file, "--upload", "me/tiny-GGUF", "--private", "--base-model", "you/tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{server.address}/me/tiny-GGUF\n"
    assert server.repositories == {"me/tiny-GGUF": True}
    assert server.files == {
        ("me/tiny-GGUF", file.name): file.read_bytes(),
        ("me/tiny-GGUF", "README.md"): (tmp_path / "README.md").read_bytes(),
    }
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"llama-cli -hf me/tiny-GGUF -hff {file.name}" in card
    assert "ollama run hf.co/me/tiny-GGUF:Q8_0" in card


def test_what_is_there_is_replaced_with_force_only(server: Hub, file: Path, tmp_path: Path) -> None:
    server.repositories["me/tiny"] = False
    server.files["me/tiny", "README.md"] = b"old"
    refused = publish(server, tmp_path, file, "--upload", "me/tiny")
    assert_refused(refused, "me/tiny has README.md already", "--force")
    assert server.files == {("me/tiny", "README.md"): b"old"}
    done = publish(server, tmp_path, file, "--upload", "me/tiny", "--force")
    assert done.returncode == 0, done.stderr
    assert server.files["me/tiny", "README.md"].startswith(b"---\n")


def test_without_a_token_nothing_is_written(server: Hub, file: Path, tmp_path: Path) -> None:
    assert_refused(publish(server, tmp_path, file, "--upload", "me/tiny", token=None), "HF_TOKEN", "hf auth login")
    assert (server.requests, (tmp_path / "README.md").exists()) == ([], False)


def test_a_wrong_token_is_one_sentence(server: Hub, file: Path, tmp_path: Path) -> None:
    done = publish(server, tmp_path, file, "--upload", "me/tiny", token="hf_wrong")
    assert_refused(done, "does not accept the token")


@pytest.mark.parametrize(
    ("beginning", "status", "words"),
    [
        ("/api/repos/create", 403, "may not write to me/tiny"),
        ("/api/models/me/tiny/preupload", 400, "HTTP status 400"),
        ("/me/tiny.git/info/lfs", 422, "HTTP status 422"),
        ("/api/models/me/tiny/commit", 403, "may not write to me/tiny"),
    ],
)
def test_refusals_are_one_sentence(
    server: Hub, file: Path, tmp_path: Path, beginning: str, status: int, words: str
) -> None:
    server.refusals[beginning] = status
    assert_refused(publish(server, tmp_path, file, "--upload", "me/tiny"), words)
    assert server.files == {}


def test_a_hub_out_of_reach_is_one_sentence(file: Path, tmp_path: Path) -> None:
    with hub() as server:
        pass
    assert_refused(publish(server, tmp_path, file, "--upload", "me/tiny"), "check the network")


def test_a_name_that_is_none_is_refused(server: Hub, file: Path, tmp_path: Path) -> None:
    for name in ("../x/y", "tiny"):
        assert_refused(publish(server, tmp_path, file, "--upload", name), "OWNER/NAME")
    assert server.requests == []

"""The hub's protocol from a server in this process: what is fetched, and what is opened without a network after."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny import cached_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHERS = ("pytorch_model.bin", "consolidated.safetensors", "onnx/model.onnx", "original/model.safetensors", "LICENSE")
CARD = b"---\nlicense: mit\n---\n"


class Hub(ThreadingHTTPServer):
    """One repository ``org/tiny``; ``org/pickled`` is the same without safetensors, ``org/gated`` asks for a login."""

    fetched: set[str]
    folder: Path

    def files(self, repository: str) -> dict[str, bytes]:
        found = {path.name: path.read_bytes() for path in self.folder.iterdir()} | dict.fromkeys(OTHERS, b"other")
        found["README.md"] = CARD
        if repository == "org/pickled":
            found = {name: data for name, data in found.items() if "safetensors" not in name}
        return found


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == [""]:
            return self.send(200, b"hub", body, {})
        if parts[:2] == ["api", "models"]:
            files = self.server.files("/".join(parts[2:4]))
            siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
            document = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            return self.send(200, json.dumps(document | {"downloads": 0, "likes": 0}).encode(), body, {})
        repository, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        if repository == "org/gated":
            return self.send(401, b"", body, {"X-Error-Code": "GatedRepo"})
        if revision not in ("main", "v1", COMMIT):
            return self.send(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
        data = self.server.files(repository).get(name)
        if data is None:
            return self.send(404, b"", body, {"X-Error-Code": "EntryNotFound"})
        if body:
            self.server.fetched.add(name)
        self.send(200, data, body, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def send(self, status: int, data: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    hub = Hub(("127.0.0.1", 0), Handler)
    hub.fetched, hub.folder = set(), cached_model("llama", tied=False, shards=2)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.shutdown()


def plan(server: Hub, cache: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_CACHE": str(cache), "NO_PROXY": "*"}
    program = "from lieq_edge.cli import main; main()"
    command = [sys.executable, "-c", program, "plan", *arguments, "--budget", "4", "--metric", "first"]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings, **more}, timeout=120)


def test_only_one_set_of_weights_is_fetched_and_opened_offline_after(server: Hub, tmp_path: Path) -> None:
    done = plan(server, tmp_path, "org/tiny", "--revision", "v1")
    assert done.returncode == 0, done.stderr
    assert "Fetching org/tiny" in done.stderr
    weights = {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)} | {"model.safetensors.index.json"}
    assert server.fetched == weights | {"config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    again = plan(server, tmp_path, "org/tiny", "--revision", "v1", HF_HUB_OFFLINE="1")
    assert again.stdout == done.stdout, again.stderr
    away = plan(server, tmp_path, "org/tiny", "--revision", "v1", "--quiet", HF_ENDPOINT="http://127.0.0.1:9")
    assert (away.stdout, away.stderr) == (done.stdout, "")


def test_a_cache_without_weights_is_told_offline(server: Hub, tmp_path: Path) -> None:
    """As an interrupted download leaves it."""
    assert plan(server, tmp_path, "org/tiny").returncode == 0
    for path in tmp_path.rglob("*safetensors*"):
        path.unlink()
    done = plan(server, tmp_path, "org/tiny", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "holds org/tiny without its weights, and HF_HUB_OFFLINE is set" in last


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("org/gated",), "log in with 'hf auth login'"),
        (("org/tiny", "--revision", "v2"), "no such revision"),
        (("org/pickled",), "--allow-pickle"),
    ],
)
def test_what_cannot_be_fetched_is_told(server: Hub, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = plan(server, tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.splitlines()[-1]

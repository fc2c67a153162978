"""A server that speaks as much of the hub's API as an upload needs: repositories, LFS objects, and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

TOKEN = "hf_secret"


class Hub(ThreadingHTTPServer):
    """The hub's state.

    Attributes:
        repositories: whether each is private.
        files: contents by repository and name.
        objects: LFS objects by SHA-256.
        refusals: status that a path is answered with, by its beginning.
        requests: methods and paths.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, bool] = {}
        self.files: dict[tuple[str, str], bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.refusals: dict[str, int] = {}
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _answer(self, document: Any, status: int = 200) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        body = self._body()
        self.server.requests.append(f"PUT {self.path}")
        oid = hashlib.sha256(body).hexdigest()
        if self.path != f"/object/{oid}":
            return self._answer({"error": "other content"}, 400)
        self.server.objects[oid] = body
        return self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        self.server.requests.append(f"POST {self.path}")
        for beginning, status in self.server.refusals.items():
            if self.path.startswith(beginning):
                return self._answer({"error": "refused by the test"}, status)
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid credentials"}, 401)
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        _, _, _, owner, name, action, revision = self.path.split("/")
        assert revision == "main"
        repository = f"{owner}/{name}"
        if repository not in self.server.repositories:
            return self._answer({"error": "Repository not found"}, 404)
        if action == "paths-info":
            return self._paths(repository, body.decode())
        if action == "preupload":
            return self._preupload(json.loads(body))
        assert action == "commit", self.path
        return self._commit(repository, body)

    def _create(self, document: dict[str, Any]) -> None:
        repository = f"{document.get('organization') or 'me'}/{document['name']}"
        present = repository in self.server.repositories
        private = bool(document.get("private")) or document.get("visibility") == "private"
        self.server.repositories.setdefault(repository, private)
        url = f"{self.server.address}/{repository}"
        if present:
            return self._answer({"error": "You already created this model repo", "url": url}, 409)
        return self._answer({"url": url, "name": repository})

    def _paths(self, repository: str, body: str) -> None:
        wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        found = [path for path in wanted if (repository, path) in self.server.files]
        self._answer([{"type": "file", "path": path, "size": 1, "oid": "0" * 40} for path in found])

    def _preupload(self, document: dict[str, Any]) -> None:
        def mode(path: str) -> str:
            return "lfs" if path.endswith(".gguf") else "regular"

        names = [file["path"] for file in document["files"]]
        self._answer({"files": [{"path": name, "uploadMode": mode(name), "shouldIgnore": False} for name in names]})

    def _batch(self, document: dict[str, Any]) -> None:
        objects = [
            {**entry, "actions": {"upload": {"href": f"{self.server.address}/object/{entry['oid']}"}}}
            for entry in document["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, repository: str, body: bytes) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.server.files[repository, value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.server.files[repository, value["path"]] = self.server.objects[value["oid"]]
        url = f"{self.server.address}/{repository}/commit/0"
        self._answer({"success": True, "commitOid": "0" * 40, "commitUrl": url})


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub at an address of this machine."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

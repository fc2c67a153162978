"""Load a file with wllama in a browser and ask it something.

    python browser.py BROWSER FOLDER FILE

FOLDER holds ``wllama.html`` and ``node_modules`` with the package.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

SECONDS = 600


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder, and the model; with the headers under which a page may use threads."""

    model: Path

    def translate_path(self, path: str) -> str:
        return str(self.model) if path.startswith("/model.gguf") else super().translate_path(path)

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing: the log is for the page."""


def main() -> None:
    browser_path, folder, file = sys.argv[1:]
    Handler.model = Path(file)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            page = browser.new_page()
            page.on("console", lambda message: print(message.text))
            page.goto(f"http://127.0.0.1:{server.server_port}/wllama.html")
            page.wait_for_function("window.result !== undefined", timeout=1000 * SECONDS)
            result = page.evaluate("window.result")
            browser.close()
        server.shutdown()
    assert "error" not in result, result
    assert result["budget"] == "90MB", result
    assert "Paris" in result["answer"], result
    print(repr(result["answer"]))


if __name__ == "__main__":
    main()

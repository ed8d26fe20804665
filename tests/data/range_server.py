"""An HTTP server of a folder that knows ranges, counts what it gives, and fails on request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Folder(ThreadingHTTPServer):
    """Attributes: `given`, bytes by name; `failures`, how many of the next answers are errors; `links` of folders."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.given, self.failures = root, dict[str, int](), 0
        self.links: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One answer."""

    server: Folder

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, with_content: bool) -> None:
        file = self.server.root / self.path.lstrip("/")
        if self.server.failures and with_content:
            self.server.failures -= 1
            self.send_error(503)
        elif file.is_dir():
            links = self.server.links or [f"/{child.relative_to(self.server.root)}" for child in file.iterdir()]
            self._send(200, "".join(f'<a href="{link}">x</a>' for link in links).encode(), {}, with_content)
        elif not file.is_file():
            self.send_error(404)
        else:
            content, (status, headers) = file.read_bytes(), (200, {"Accept-Ranges": "bytes"})
            headers["ETag"] = str(file.stat().st_mtime_ns)
            if wanted := self.headers.get("Range"):
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                size = len(content)
                content, status = content[int(start) : int(end) + 1], 206
                headers["Content-Range"] = f"bytes {start}-{int(start) + len(content) - 1}/{size}"
            if with_content:
                self.server.given[file.name] = self.server.given.get(file.name, 0) + len(content)
            self._send(status, content, headers, with_content)

    def _send(self, status: int, content: bytes, headers: dict[str, str], with_content: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(root: Path) -> Iterator[Folder]:
    with Folder(root) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()

"""A stand-in of the hub's HTTP interface, as far as `huggingface_hub` calls it to push and to load a model."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

Files = dict[str, bytes]


@dataclass
class Hub:
    """Repositories, and the requests that came.

    Attributes:
        url: address.
        commits: files by repository and commit.
        branches: commit by repository and branch.
        requests: method and path of each request.
        refused: status that every writing request gets; 0 for none.
    """

    url: str = ""
    commits: dict[tuple[str, str], Files] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    refused: int = 0

    def commit(self, repository: str, files: Files, branch: str = "main") -> str:
        """Put files on top of a branch."""
        before = self.files(repository, branch) or {}
        merged = {**before, **files}
        number = hashlib.sha1(b"".join(name.encode() + content for name, content in sorted(merged.items()))).hexdigest()
        self.commits[repository, number] = merged
        self.branches[repository, branch] = number
        return number

    def upload(self, repository: str, folder: Path) -> str:
        """Put a folder's files on the main branch."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return self.commit(repository, {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})

    def files(self, repository: str, revision: str = "main") -> Files | None:
        return self.commits.get((repository, self.branches.get((repository, revision), revision)))

    def number(self, repository: str, revision: str) -> str:
        return self.branches.get((repository, revision), revision)


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, value: object, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = urlsplit(self.path).path
        self.hub.requests.append(f"POST {path}")
        if self.hub.refused:
            self.answer({"error": "no write access"}, self.hub.refused)
        elif path == "/api/repos/create":
            given = json.loads(content)
            name = f"{given['organization']}/{given['name']}"
            self.hub.branches.setdefault((name, "main"), "0" * 40)
            self.hub.commits.setdefault((name, "0" * 40), {})
            self.answer({"url": f"{self.hub.url}/{name}", "name": name, "id": "1"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            names = [entry["path"] for entry in json.loads(content)["files"]]
            self.answer({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        elif "/branch/" in path:
            repository, branch = unquote(path.removeprefix("/api/models/")).split("/branch/")
            self.hub.branches[repository, branch] = self.hub.branches[repository, "main"]
            self.answer({})
        elif "/commit/" in path:
            repository, branch = unquote(path.removeprefix("/api/models/")).split("/commit/")
            lines = [json.loads(line) for line in content.splitlines()]
            entries = [line["value"] for line in lines if line["key"] == "file"]
            files = {entry["path"]: base64.b64decode(entry["content"]) for entry in entries}
            number = self.hub.commit(repository, files, branch)
            url = f"{self.hub.url}/{repository}/commit/{number}"
            self.answer({"commitUrl": url, "commitOid": number, "pullRequestUrl": None, "hookOutput": ""})
        else:
            self.answer({"error": "not here"}, 404)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if path.startswith("/api/models/"):
            repository, _, rest = path.removeprefix("/api/models/").partition("/revision/")
            repository, _, tree = repository.partition("/tree/")
            revision = tree or rest or "main"
            files = self.hub.files(repository, revision)
            if files is None:
                self.missing()
            elif tree:
                oid = hashlib.sha1
                self.answer(
                    [{"type": "file", "path": p, "size": len(c), "oid": oid(c).hexdigest()} for p, c in files.items()]
                )
            else:
                siblings = [{"rfilename": name} for name in files]
                self.answer({"id": repository, "sha": self.hub.number(repository, revision), "siblings": siblings})
        elif "/resolve/" in path:
            repository, _, rest = path.strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            content = (self.hub.files(repository, revision) or {}).get(name)
            if content is None:
                self.missing("EntryNotFound")
            else:
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self.answer(content, ETag=etag, X_Repo_Commit=self.hub.number(repository, revision))
        else:
            self.missing()

    def do_HEAD(self) -> None:
        self.do_GET()

    def missing(self, code: str = "RepoNotFound") -> None:
        self.answer({"error": "not found"}, 404, X_Error_Code=code)


@contextlib.contextmanager
def serving(cache: Path) -> Iterator[Hub]:
    """A hub that `huggingface_hub` finds, as under `HF_ENDPOINT`, with an empty cache."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", hub.url)
            patch.setattr(
                constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
            )
            patch.setattr(constants, "HF_HUB_CACHE", str(cache))
            patch.setattr(constants, "HF_HUB_OFFLINE", False)
            patch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
            yield hub
    finally:
        server.shutdown()
        server.server_close()

"""A local stand-in of the Hub's HTTP API: as much of it as publishing and fetching a dataset needs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_standin"


class Repository:
    """Commits (each a dict of files) and the revisions that name them."""

    def __init__(self) -> None:
        first = hashlib.sha1(b"first").hexdigest()
        self.commits: dict[str, dict[str, bytes]] = {first: {}}
        self.revisions = {"main": first}

    def resolve(self, revision: str) -> str | None:
        return self.revisions.get(revision, revision if revision in self.commits else None)


class Hub(ThreadingHTTPServer):
    """The server; `repositories` is its state."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.unknown: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Routes of the Hub."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, status: int, body: bytes | list[Any] | dict[str, Any] = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, code: str) -> None:
        self.reply(404, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply(401, {"error": "no token"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            status = 409 if name in self.server.repositories else 200
            self.server.repositories.setdefault(name, Repository())
            return self.reply(status, {"url": f"{self.server.endpoint}/datasets/{name}"})
        if path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit|tag)/(.+)", path)
        if not found:
            return self.not_known()
        repository = self.server.repositories[found[1]]
        if found[2] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": files})
        if found[2] == "tag":
            head, tag = repository.resolve(unquote(found[3])), json.loads(body)["tag"]
            if tag in repository.revisions:
                return self.reply(409, {"error": f"Tag reference exists already: {tag}"})
            repository.revisions[tag] = str(head)
            return self.reply(200, {})
        files = dict(repository.commits[repository.revisions[found[3]]])
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                files.pop(entry["value"]["path"], None)
        commit = hashlib.sha1(body).hexdigest()
        repository.commits[commit] = files
        repository.revisions[found[3]] = commit
        return self.reply(
            200,
            {
                "success": True,
                "commitUrl": f"{self.server.endpoint}/datasets/{found[1]}/commit/{commit}",
                "commitOid": commit,
            },
        )

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        if path == "/api/whoami-v2":
            return self.reply(200, {"name": "me", "type": "user", "auth": {"type": "access_token"}})
        if path == "/api/agent-harnesses":  # asked by the library where it takes its caller for an agent
            return self.missing("NotFound")
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+)(/.*)?)?", path)
        if found:
            return self.listing(found, parse_qs(address.query))
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not file:
            return self.not_known()
        repository = self.server.repositories[file[1]]
        commit = repository.resolve(file[2])
        if commit is None:
            return self.missing("RevisionNotFound")
        if file[3] not in repository.commits[commit]:
            return self.missing("EntryNotFound")
        data = repository.commits[commit][file[3]]
        return self.reply(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=commit)

    def do_HEAD(self) -> None:
        self.do_GET()

    def listing(self, found: re.Match[str], options: dict[str, list[str]]) -> None:
        repository = self.server.repositories.get(found[1])
        if repository is None:
            return self.missing("RepoNotFound")
        commit = repository.resolve(found[3] or "main")
        if commit is None:
            return self.missing("RevisionNotFound")
        files = repository.commits[commit]
        if found[2] == "tree":
            return self.reply(
                200,
                [
                    {
                        "type": "file",
                        "path": p,
                        "size": len(d),
                        "oid": hashlib.sha1(b"blob %d\0" % len(d) + d).hexdigest(),
                    }
                    for p, d in sorted(files.items())
                ],
            )
        siblings = [{"rfilename": p} for p in sorted(files)]
        return self.reply(200, {"id": found[1], "sha": commit, "siblings": siblings, "private": True, "tags": []})

    def not_known(self) -> None:
        self.server.unknown.append(f"{self.command} {self.path}")
        self.reply(501, {"error": "the stand-in does not know this route"})


@contextmanager
def hub() -> Iterator[Hub]:
    """A running stand-in."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A Hugging Face hub on this machine: as much of its interface as uploading and downloading a folder needs."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote


class FakeHub:
    """The repositories, by id, of a branch and of a commit alike.

    Attributes:
        files: {(repository, revision): {path: content}}.
        private: repositories that were made private.
        asked: (method, path) of all requests.
        tokens: what requests carried.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()

    def commit_of(self, repository: str, revision: str) -> str:
        """The name of the commit that a revision stands for; a commit stands for itself."""
        if len(revision) == 40:
            return revision
        content = self.files[repository, revision]
        digest = hashlib.sha1(repr(sorted(content.items())).encode()).hexdigest()
        self.files[repository, digest] = dict(content)
        return digest

    @contextmanager
    def serve(self) -> Iterator[str]:
        """The address under which the hub answers inside of the block."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                """Says nothing."""

            def do_GET(self) -> None:
                hub.get(self)

            def do_HEAD(self) -> None:
                hub.get(self)

            def do_POST(self) -> None:
                hub.post(self)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def note(self, request: BaseHTTPRequestHandler) -> list[str]:
        """Remembers a request; returns the parts of its path."""
        path = unquote(request.path.partition("?")[0])
        self.asked.append((request.command, path))
        self.tokens.add(request.headers.get("Authorization"))
        return path.strip("/").split("/")

    def get(self, request: BaseHTTPRequestHandler) -> None:
        """/api/models/USER/NAME/{revision,tree}/REVISION, and /USER/NAME/resolve/REVISION/PATH."""
        parts = self.note(request)
        if parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            repository, revision = "/".join(parts[2:4]), parts[5]
            if (repository, revision) not in self.files:
                known = any(repository == name for name, _ in self.files)
                self.refuse(request, "RevisionNotFound" if known else "RepoNotFound")
                return
            commit = self.commit_of(repository, revision)
            siblings = [{"rfilename": path} for path in self.files[repository, commit]]
            self.answer(request, {"id": repository, "sha": commit, "siblings": siblings, "private": False, "tags": []})
        elif parts[:2] == ["api", "models"] and parts[4:5] == ["tree"]:
            files = self.files["/".join(parts[2:4]), parts[5]]
            digests = {path: hashlib.sha1(content).hexdigest() for path, content in files.items()}
            listed = [{"type": "file", "path": path, "size": len(files[path]), "oid": digests[path]} for path in files]
            self.answer(request, listed)
        elif parts[2:3] == ["resolve"]:
            repository, commit = "/".join(parts[:2]), self.commit_of("/".join(parts[:2]), parts[3])
            content = self.files[repository, commit].get("/".join(parts[4:]))
            if content is None:
                self.refuse(request, "EntryNotFound")
                return
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.send(request, content, {"X-Repo-Commit": commit, "ETag": tag})
        else:
            self.refuse(request, "EntryNotFound")

    def post(self, request: BaseHTTPRequestHandler) -> None:
        """Making a repository or a branch, asking how to upload, and the commit itself."""
        parts = self.note(request)
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            repository = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.files.setdefault((repository, "main"), {})
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.private.add(repository)
            self.answer(request, {"url": f"http://{request.headers['Host']}/{repository}"})
            return
        if parts == ["api", "validate-yaml"]:
            self.answer(request, {"errors": [], "warnings": []})
            return
        repository = "/".join(parts[2:4])
        if parts[4] == "branch":
            self.files.setdefault((repository, parts[5]), dict(self.files[repository, "main"]))
            self.answer(request, {})
        elif parts[4] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.answer(request, {"files": modes})
        elif parts[4] == "commit":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.files[repository, parts[5]][entry["value"]["path"]] = content
            commit = self.commit_of(repository, parts[5])
            url = f"http://{request.headers['Host']}/{repository}/commit/{commit}"
            self.answer(request, {"commitOid": commit, "commitUrl": url})
        else:
            self.refuse(request, "EntryNotFound")

    def answer(self, request: BaseHTTPRequestHandler, content: object) -> None:
        """JSON."""
        self.send(request, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def refuse(self, request: BaseHTTPRequestHandler, code: str) -> None:
        """404, with the reason where the client looks for it."""
        self.send(request, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status=404)

    def send(
        self, request: BaseHTTPRequestHandler, content: bytes, headers: dict[str, str], *, status: int = 200
    ) -> None:
        """The whole answer."""
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)

# SPDX-License-Identifier: Apache-2.0
"""A hub on loopback: the routes that downloads use, large files behind a redirect to another origin, and faults on request."""
import hashlib
import http.server
import json
import os
import re
import socketserver
import threading
import time
import urllib.parse


class Repo:
    """Files of one repository at one commit. name -> bytes, or a path for large ones."""

    def __init__(self, files, gated=False, private=False):
        self.files, self.gated, self.private = files, gated, private
        self.commit = hashlib.sha1(repr(sorted((n, str(len(f))) for n, f in files.items())).encode()).hexdigest()
        self.digests = {}

    def size(self, name):
        f = self.files[name]
        return os.path.getsize(f) if isinstance(f, str) else len(f)

    def large(self, name):
        return isinstance(self.files[name], str) or name.endswith((".safetensors", ".bin"))

    def digest(self, name):
        if name not in self.digests:
            f = self.files[name]
            if self.large(name):
                h = hashlib.sha256()
                if isinstance(f, str):
                    with open(f, "rb") as stream:
                        while piece := stream.read(1 << 20):
                            h.update(piece)
                else:
                    h.update(f)
            else:
                h = hashlib.sha1(b"blob %d\0" % len(f) + f)
            self.digests[name] = h.hexdigest()
        return self.digests[name]


class Hub:
    """with Hub({"org/name": Repo(...)}) as hub: hub.url. Faults are attributes, read at each request."""

    def __init__(self, repos, token="hf_good"):
        self.repos, self.token = repos, token
        self.cut_after = None      # bytes of one answer after which the connection is dropped
        self.fail_times = 0        # answers 503 with Retry-After: 0 so many times
        self.busy_times = 0        # answers 429 with a ratelimit header
        self.ranges = True
        self.corrupt = set()       # names whose bytes arrive wrong, once each
        self.expire_after = None   # requests that a signed address serves before it is refused
        self.rate = None           # bytes per second of one connection
        self.page = 1000           # entries of a listing page
        self.sent = 0              # bytes of contents, all connections
        self.requests = []         # (origin, path, Authorization)
        self.lock = threading.Lock()
        self.signed = {}

    def __enter__(self):
        self.front = self._serve("127.0.0.1")
        self.storage = self._serve("127.0.0.2")
        self.url = "http://127.0.0.1:%d" % self.front.server_address[1]
        self.storage_url = "http://127.0.0.2:%d" % self.storage.server_address[1]
        return self

    def __exit__(self, *_):
        for server in (self.front, self.storage):
            server.shutdown()
            server.server_close()

    def _serve(self, address):
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, address, head=True)

            def do_GET(self):
                hub.answer(self, address)

        class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass

        server = Server((address, 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    # Answers.
    def reply(self, h, status, body=b"", headers=None, head=False):
        h.send_response(status)
        for name, value in (headers or {}).items():
            h.send_header(name, value)
        h.send_header("Content-Length", str(len(body)))
        h.end_headers()
        if not head:
            h.wfile.write(body)

    def refuse(self, h, status, code, message, head=False):
        self.reply(h, status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message}, head)

    def answer(self, h, address, head=False):
        url = urllib.parse.urlsplit(h.path)
        path, query = urllib.parse.unquote(url.path), urllib.parse.parse_qs(url.query)
        with self.lock:
            self.requests.append((address, h.path, h.headers.get("Authorization")))
            if self.fail_times > 0:
                self.fail_times -= 1
                return self.reply(h, 503, b"busy", {"Retry-After": "0"}, head)
            if self.busy_times > 0:
                self.busy_times -= 1
                return self.reply(h, 429, b"slow", {"ratelimit": '"api";r=0;t=1'}, head)
        if address == "127.0.0.2":
            return self.stored(h, path, query, head)
        match = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(revision|tree)/(.+)", path)
        if match:
            return self.api(h, *match.groups(), query, head)
        match = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)", path)
        if match:
            return self.api(h, match.group(1), "revision", "main", query, head)
        match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path)
        if match:
            return self.resolve(h, *match.groups(), head)
        self.refuse(h, 404, "EntryNotFound", "no such route", head)

    def allowed(self, h, name, head):
        repo = self.repos.get(name)
        given = h.headers.get("Authorization")
        authorised = given == "Bearer " + self.token
        if repo is None or (repo.private and not authorised):
            self.refuse(h, 404 if authorised else 401, "RepoNotFound", "Repository not found", head)
            return None
        if repo.gated and not authorised:
            self.refuse(h, 403 if given else 401, "GatedRepo", "Access to model %s is restricted" % name, head)
            return None
        return repo

    def api(self, h, name, what, revision, query, head):
        repo = self.allowed(h, name, head)
        if repo is None:
            return
        if revision not in ("main", "v1", repo.commit):
            return self.refuse(h, 404, "RevisionNotFound", "Invalid rev id: " + revision, head)
        if what == "revision":
            body = {"id": name, "sha": repo.commit, "private": repo.private, "gated": repo.gated,
                    "siblings": [{"rfilename": f} for f in repo.files]}
            return self.reply(h, 200, json.dumps(body).encode(), {"Content-Type": "application/json"}, head)
        names = sorted(repo.files)
        first = int(query.get("cursor", ["0"])[0])
        entries = [{"type": "directory", "path": "folder", "oid": "0" * 40, "size": 0}] if first == 0 else []
        for f in names[first:first + self.page]:
            entry = {"type": "file", "path": f, "size": repo.size(f), "oid": repo.digest(f) if not repo.large(f) else "1" * 40}
            if repo.large(f):
                entry["lfs"] = {"oid": repo.digest(f), "size": repo.size(f), "pointerSize": 134}
            entries.append(entry)
        headers = {"Content-Type": "application/json"}
        if first + self.page < len(names):
            headers["Link"] = '<%s/api/models/%s/tree/%s?recursive=true&cursor=%d>; rel="next"' % (self.url, name, revision,
                                                                                                 first + self.page)
        self.reply(h, 200, json.dumps(entries).encode(), headers, head)

    def resolve(self, h, name, revision, file, head):
        repo = self.allowed(h, name, head)
        if repo is None:
            return
        if revision not in ("main", "v1", repo.commit):
            return self.refuse(h, 404, "RevisionNotFound", "Invalid rev id", head)
        if file not in repo.files:
            return self.refuse(h, 404, "EntryNotFound", "Entry not found", head)
        headers = {"X-Repo-Commit": repo.commit}
        if not repo.large(file):
            headers["ETag"] = '"%s"' % repo.digest(file)
            return self.contents(h, repo, file, headers, head)
        with self.lock:
            key = "%d" % (len(self.signed) + 1)
            self.signed[key] = [name, file, 0]
        headers.update({"X-Linked-Etag": '"%s"' % repo.digest(file), "X-Linked-Size": str(repo.size(file)),
                        "Location": "%s/%s?key=%s" % (self.storage_url, repo.digest(file), key)})
        self.reply(h, 302, b"", headers, head)

    def stored(self, h, path, query, head):
        entry = self.signed.get(query.get("key", [""])[0])
        if entry is None or h.headers.get("Authorization"):
            return self.reply(h, 400, b"a signed address takes no token", head=head)
        entry[2] += 1
        if self.expire_after is not None and entry[2] > self.expire_after:
            return self.reply(h, 403, b"expired", head=head)
        repo = self.repos[entry[0]]
        self.contents(h, repo, entry[1], {"ETag": '"%s"' % repo.digest(entry[1])}, head)

    def contents(self, h, repo, file, headers, head):
        size, begin, status = repo.size(file), 0, 200
        end = size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", h.headers.get("Range", "")) if self.ranges else None
        if match:
            begin = int(match.group(1))
            end = min(size, int(match.group(2)) + 1 if match.group(2) else size)
            if begin >= size:
                return self.reply(h, 416, b"", {"Content-Range": "bytes */%d" % size}, head)
            status = 206
            headers["Content-Range"] = "bytes %d-%d/%d" % (begin, end - 1, size)
        if self.ranges:
            headers["Accept-Ranges"] = "bytes"
        h.send_response(status)
        for name, value in headers.items():
            h.send_header(name, value)
        h.send_header("Content-Length", str(end - begin))
        h.end_headers()
        if head:
            return
        limit = end - begin if self.cut_after is None else min(end - begin, self.cut_after)
        wrong = file in self.corrupt
        self.corrupt.discard(file)
        source = repo.files[file]
        stream = open(source, "rb") if isinstance(source, str) else None
        try:
            sent = 0
            h.wfile.flush()
            if stream and not wrong and not self.rate and self.cut_after is None:
                while sent < limit:
                    n = os.sendfile(h.connection.fileno(), stream.fileno(), begin + sent, min(1 << 20, limit - sent))
                    sent += n
                    with self.lock:
                        self.sent += n
                return
            while sent < limit:
                n = min(1 << 16, limit - sent)
                if stream:
                    stream.seek(begin + sent)
                piece = stream.read(n) if stream else source[begin + sent:begin + sent + n]
                if wrong:
                    piece, wrong = bytes([piece[0] ^ 1]) + piece[1:], False
                h.wfile.write(piece)
                sent += n
                with self.lock:
                    self.sent += n
                if self.rate:
                    time.sleep(n / self.rate)
        finally:
            if stream:
                stream.close()
        if limit < end - begin:
            h.close_connection = True
            h.connection.shutdown(2)

# SPDX-License-Identifier: Apache-2.0
"""MariTalkLocal.start_server, unmodified: it asks functions.maritaca.ai for a download, gets this build's binary from a
stand-in on this machine, starts it under the name maritalk and talks to it."""

import contextlib
import http.server
import json
import os
import pathlib
import socket
import ssl
import subprocess
import tempfile
import threading

from maritalk import MariTalkLocal

from checks import check

HOST = "functions.maritaca.ai"


def stand_in(binary, folder):
    """Answers the two requests of the download over TLS with a certificate of its own."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={HOST}",
                    "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
                   check=True, capture_output=True)
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def send(self, kind, body):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send("application/json", json.dumps({"presigned_url": f"https://{HOST}/maritalk", "model_size": "small"}).encode())

        def do_GET(self):
            self.send("application/octet-stream", pathlib.Path(binary).read_bytes())

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, seen


@contextlib.contextmanager
def resolved_to(port):
    """The one host name leads to the stand-in, as an entry of a name server would."""
    original = socket.getaddrinfo

    def resolve(host, *rest, **more):
        if host == HOST:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        return original(host, *rest, **more)

    socket.getaddrinfo = resolve
    try:
        yield
    finally:
        socket.getaddrinfo = original


def run(binary, model):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        smi = folder / "nvidia-smi"  # start_server reads the CUDA version from it before it downloads
        smi.write_text("#!/bin/sh\necho '| NVIDIA-SMI 555.42  Driver Version: 555.42  CUDA Version: 12.5 |'\n")
        smi.chmod(0o755)
        os.environ.update(PATH=f"{folder}:{os.environ['PATH']}", REQUESTS_CA_BUNDLE=str(folder / "cert.pem"), MODEL_ID=model,
                          SLUICE_HOME=str(folder / "home"))
        for variable in ("AUTH", "SLUICE_AUTH", "SERVED_MODEL_NAME"):
            os.environ.pop(variable, None)
        server, seen = stand_in(binary, folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        client = MariTalkLocal(port=port)
        with resolved_to(server.server_address[1]):
            client.start_server(license="00000-00000", bin_path=str(folder / "bin/maritalk"), cuda_version=12, verbose=False)
        server.shutdown()
        check("maritalk: start_server downloads", seen == [{"license": "00000-00000", "cuda_version": 12}], seen)
        check("maritalk: start_server serves", client.status() == {"status": "idle"}, client.status())
        said = client.generate([{"role": "user", "content": "What is the capital of France?"}], max_tokens=12, do_sample=False)
        check("maritalk: generate after start_server", bool(said["output"]), said)
        process = client.process
        client.stop_server()
        check("maritalk: stop_server ends it", process.wait(30) == 0, process.returncode)

"""Lambda's Runtime API on this machine, and events to send through it.

A function's program is started as by Lambda, with the Runtime API's address in its environment, and requests events from
that address. It is the deployed program, without changes. Must not know what the functions do.
"""

import collections
import http.server
import itertools
import json
import os
import queue
import subprocess
import threading
import time
import urllib.parse

Answer = collections.namedtuple("Answer", "kind payload sent arrived")
"""`kind` is `response`, or `error` for a function that failed; `sent` and `arrived` are `time.perf_counter` seconds."""

SOON_SECONDS = 60  # limit of a call that should take milliseconds, for a busy machine


class Failed(Exception):
    """The program ended, reported that it cannot start, or sent no response."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def _send(self, status, body=b"", headers=()):
        # One write, because two would be delayed by Nagle's algorithm and delayed acknowledgements.
        head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/json"]
        head += [f"{name}: {value}" for name, value in headers]
        self.wfile.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    def do_GET(self):
        if self.path != "/2018-06-01/runtime/invocation/next":
            return self._send(404)
        invocation = self.server.pending.get()
        if invocation is None:  # no more events: closing the connection ends the function
            self.close_connection = True
            return None
        number, event = invocation
        self._send(200, event, [
            ("Lambda-Runtime-Aws-Request-Id", f"request-{number}"),
            ("Lambda-Runtime-Deadline-Ms", str(int((time.time() + 29) * 1000))),
            ("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-central-1:000000000000:function:local"),
            ("Lambda-Runtime-Trace-Id", "Root=1-00000000-000000000000000000000000;Sampled=0"),
        ])

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if "Content-Length" in self.headers \
            else self._chunks()
        arrived = time.perf_counter()
        path = self.path.removeprefix("/2018-06-01/runtime/")
        self._send(202, b"{}")
        if path == "init/error":
            self.server.answers.put((None, "error", body, arrived))
        elif path.startswith("invocation/"):
            _, request, kind = path.split("/")
            self.server.answers.put((request, kind, body, arrived))

    def _chunks(self):
        whole = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pending, self.answers = queue.Queue(), queue.Queue()

    def handle_error(self, *_):
        """Ignores errors of connections, which occur when a function ends."""


class Function:
    """A running program of the function that its folder is named after. Creating it does not wait for the start."""

    def __init__(self, bootstrap, environment, log):
        self._server = _Server()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._numbers = itertools.count(1)
        host, port = self._server.server_address
        name = os.path.basename(os.path.dirname(bootstrap))
        self.started = time.perf_counter()
        self._process = subprocess.Popen([bootstrap], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={
            "PATH": os.environ["PATH"],
            "AWS_LAMBDA_RUNTIME_API": f"{host}:{port}",
            "AWS_LAMBDA_FUNCTION_NAME": name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
            "AWS_LAMBDA_LOG_GROUP_NAME": "local",
            "AWS_LAMBDA_LOG_STREAM_NAME": "local",
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "_HANDLER": name,
            **environment,
        })

    @property
    def pid(self):
        return self._process.pid

    def running(self):
        return self._process.poll() is None

    def invoke(self, event):
        """Sends an event and returns the response. Raises `Failed` if there is none."""
        number = next(self._numbers)
        sent = time.perf_counter()
        self._server.pending.put((number, json.dumps(event).encode()))
        until = sent + SOON_SECONDS
        while True:
            try:
                request, kind, body, arrived = self._server.answers.get(timeout=0.5)
            except queue.Empty:
                if not self.running():
                    raise Failed(f"the program ended with {self._process.returncode}") from None
                if time.perf_counter() > until:
                    raise Failed(f"no response within {SOON_SECONDS} s") from None
                continue
            if request is None:
                raise Failed(f"the program cannot start: {body.decode(errors='replace')}")
            if request == f"request-{number}":
                return Answer(kind, json.loads(body or b"null"), sent, arrived)

    def stop(self):
        self._server.pending.put(None)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def http_event(method, path, route=None, parameters=None, body=None, headers=None, sub=None, signed=False):
    """An event as API Gateway's HTTP API sends it (payload format 2.0), from a player `sub` or a signed caller."""
    path, _, query = path.partition("?")
    key = f"{method} {route or path}"
    authorizer = {}
    if sub is not None:
        authorizer = {"authorizer": {"jwt": {"claims": {"sub": sub}, "scopes": None}}}
    if signed:
        authorizer = {"authorizer": {"iam": {
            "accessKey": "AKIAEXAMPLE", "accountId": "000000000000", "callerId": "AIDAEXAMPLE", "cognitoIdentity": None,
            "principalOrgId": None, "userArn": "arn:aws:iam::000000000000:user/local", "userId": "AIDAEXAMPLE",
        }}}
    return {
        "version": "2.0", "routeKey": key, "rawPath": path, "rawQueryString": query,
        "headers": {"content-type": "application/json", "host": "localhost", **(headers or {})},
        **({"queryStringParameters": dict(urllib.parse.parse_qsl(query))} if query else {}),
        **({"pathParameters": parameters} if parameters else {}),
        "requestContext": {
            "accountId": "000000000000", "apiId": "local", "domainName": "localhost", "domainPrefix": "localhost",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": ""},
            "requestId": "local", "routeKey": key, "stage": "$default", "time": "01/Jan/2026:00:00:00 +0000",
            "timeEpoch": 1767225600000, **authorizer,
        },
        **({"body": body} if body is not None else {}),
        "isBase64Encoded": False,
    }

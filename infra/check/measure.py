"""Measures builds of `join`: size, start, memory, and a warm call.

Usage: measure.py [--starts N] [--calls N] BOOTSTRAP...

Each program is started as by Lambda, and gets one event that makes one request to the table: `DELETE /join` of a player
without a slot. The table is a stand-in on loopback that responds over TLS, as DynamoDB does; its time is part of every
figure, equally for all programs. The programs are started in turn, so that other load on the machine affects all of them
equally. Prints a row per program: medians, and the quartiles of the start.
"""

import argparse
import datetime
import http.server
import io
import ipaddress
import os
import ssl
import statistics
import tempfile
import threading
import zipfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from runtime_api import Function, http_event


class Empty(http.server.BaseHTTPRequestHandler):
    """DynamoDB's endpoint with an empty table."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 2\r\n\r\n{}")


class Quiet(http.server.ThreadingHTTPServer):
    """An HTTP server that ignores errors of connections, which occur when a function ends."""

    daemon_threads = True

    def handle_error(self, *_):
        pass


def certificate(folder):
    """Creates a self-signed certificate for loopback; returns the paths of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
            .add_extension(address, False).sign(key, hashes.SHA256()))
    paths = [os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")]
    pem = serialization.Encoding.PEM
    for path, content in zip(paths, [made.public_bytes(pem), key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())]):
        with open(path, "wb") as file:
            file.write(content)
    return paths


def table(cert, key):
    server = Quiet(("127.0.0.1", 0), Empty)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"https://127.0.0.1:{server.server_address[1]}"


def zipped(path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "bootstrap")
    return len(out.getvalue())


def peak_kib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def run(bootstrap, environment, log, calls):
    """Returns milliseconds to the first response, KiB by then, and milliseconds of each warm call."""
    event = http_event("DELETE", "/join", sub="nobody")
    with Function(bootstrap, environment, log) as function:
        answers = [function.invoke(event)]
        first = (answers[0].arrived - function.started) * 1000
        memory = peak_kib(function.pid)
        answers += [function.invoke(event) for _ in range(calls)]
        for answer in answers:
            assert answer.kind == "response" and answer.payload["statusCode"] == 204, answer
    return first, memory, [(answer.arrived - answer.sent) * 1000 for answer in answers[1:]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=50)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("bootstrap", nargs="+")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "log"), "wb") as log:
        cert, key = certificate(folder)
        environment = {"OWMM_TABLE": "owmm", "OWMM_LOG": "error", "SSL_CERT_FILE": cert, "_HANDLER": "join",
                       "AWS_ENDPOINT_URL_DYNAMODB": table(cert, key)}
        seen = {bootstrap: [] for bootstrap in args.bootstrap}
        for bootstrap in args.bootstrap:  # loads every program into the page cache
            run(bootstrap, environment, log, 0)
        for _ in range(args.starts):
            for bootstrap, runs in seen.items():
                runs.append(run(bootstrap, environment, log, args.calls))
    print(f"{args.starts} starts, {args.calls} warm calls each")
    print("| program | binary MB | zip MB | start to response ms | quartiles | peak MiB | warm ms |")
    print("|---|---|---|---|---|---|---|")
    for bootstrap, runs in seen.items():
        first, memory, warm = zip(*runs)
        low, middle, high = statistics.quantiles(first, n=4)
        warm = statistics.median(ms for run in warm for ms in run) if args.calls else 0
        print(f"| {bootstrap} | {os.path.getsize(bootstrap) / 1e6:.2f} | {zipped(bootstrap) / 1e6:.2f} | {middle:.1f} |"
              f" {low:.1f} to {high:.1f} | {statistics.median(memory) / 1024:.1f} | {warm:.2f} |")


if __name__ == "__main__":
    main()

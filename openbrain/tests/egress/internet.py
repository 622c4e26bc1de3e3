"""The internet of the egress tests: a name server, and servers for HTTP, HTTPS and raw TCP.

Runs in a network namespace of its own. `internet.py DIRECTORY`: static files are served from there,
certificates are read from there, and every name that is asked for is written to `asked` there.
"""

import hashlib
import http.server
import io
import json
import os
import socket
import socketserver
import ssl
import struct
import sys
import tarfile
import threading
import time
import zipfile
import zlib

DIRECTORY = sys.argv[1]
SERVER = "192.0.2.2"
V4, V6 = "203.0.113.5", "2001:db8:1::5"
MEGABYTE = bytes(range(256)) * 4096

ZONE = {
    "www.example": ([V4], [V6]),
    "four.example": ([V4], []),
    "six.example": ([], [V6]),
    "a.wild.example": ([V4], []),
    "b.a.wild.example": ([V4], []),
    "wild.example": ([V4], []),
    "evilwild.example": ([V4], []),
    "several.example": (["203.0.113.77", V4], []),
    "lan.example": (["10.9.9.9"], []),
    "db.internal": (["10.9.9.9"], []),
    "loop.example": (["127.0.0.1"], ["::1"]),
    "meta.example": (["169.254.169.254"], []),
    "own.example": (["192.0.2.1"], []),
    "zero.example": (["0.0.0.0"], []),
    "mapped.example": ([], ["::ffff:127.0.0.1"]),
    "nat64.example": ([], ["64:ff9b::7f00:1"]),
    "sixtofour.example": ([], ["2002:7f00:1::"]),
    "mixed.example": (["10.9.9.9", V4], []),
    "nothing.example": ([], []),
    "slow.example": ([V4], []),
    "cut.example": ([V4], []),
    "noisy.example": ([V4], []),
}
CHAINS = {
    "alias.example": "www.example",
    "alias-lan.example": "lan.example",
    "alias-loop.example": "alias-loop.example",
    "alias-none.example": "none.example",
}
changes = {"n": 0}


def written(name):
    return b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0"


def answer(message, over_tcp):
    at, labels = 12, []
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode("latin-1"))
        at += 1 + message[at]
    kind = struct.unpack(">H", message[at + 1 : at + 3])[0]
    question = message[12 : at + 5]
    name = ".".join(labels).lower()
    with open(os.path.join(DIRECTORY, "asked"), "a") as asked:
        asked.write(f"{name} {kind}\n")
    if name == "silent.example":
        return None
    if name == "garbage.example":
        return os.urandom(60)
    if name == "failing.example":
        return message[:2] + b"\x81\x82\0\1\0\0\0\0\0\0" + question
    if name == "slow.example":
        time.sleep(1.5)
    records, owner = [], name
    while owner in CHAINS and len(records) < 5:
        records.append((owner, 5, written(CHAINS[owner])))
        owner = CHAINS[owner]
    known = owner in ZONE or name in CHAINS and owner in CHAINS
    v4, v6 = ZONE.get(owner, ([], []))
    if name == "changing.example":
        changes["n"] += kind == 1
        known, v4 = True, [V4 if changes["n"] == 1 else "10.9.9.9"]
    if kind == 1:
        records += [(owner, 1, socket.inet_pton(socket.AF_INET, a)) for a in v4]
    if kind == 28:
        records += [(owner, 28, socket.inet_pton(socket.AF_INET6, a)) for a in v6]
    if kind == 16 and known:
        records += [(owner, 16, bytes([4]) + b"text")]
    cut = name == "cut.example" and not over_tcp
    if cut:
        records = []
    flags = 0x8180 | (0x200 if cut else 0) | (0 if known else 3)
    reply = message[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + question
    for owner, kind, data in records:
        ttl = 0 if name == "changing.example" else 60
        reply += written(owner) + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data
    return reply


def serve_names():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((SERVER, 53))

    def one(message, sender):
        reply = answer(message, False)
        if b"noisy" in message:
            # Guesses of somebody else's, before the answer.
            sock.sendto(bytes([message[0] ^ 1]) + reply[1:].replace(socket.inet_aton(V4), b"\x0a\x09\x09\x09"), sender)
            sock.sendto(reply[:12], sender)
        if reply:
            sock.sendto(reply, sender)

    def datagrams():
        while True:
            message, sender = sock.recvfrom(4096)
            threading.Thread(target=one, args=(message, sender), daemon=True).start()

    class Connection(socketserver.StreamRequestHandler):
        def handle(self):
            length = struct.unpack(">H", self.rfile.read(2))[0]
            reply = answer(self.rfile.read(length), True)
            self.wfile.write(struct.pack(">H", len(reply)) + reply)

    socketserver.ThreadingTCPServer.allow_reuse_address = True
    server = socketserver.ThreadingTCPServer((SERVER, 53), Connection)
    threading.Thread(target=datagrams, daemon=True).start()
    threading.Thread(target=server.serve_forever, daemon=True).start()


class Web(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args):
        super().__init__(*args, directory=DIRECTORY)

    def log_message(self, *args):
        pass

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/hello":
            family = "v4" if self.client_address[0].startswith("::ffff:") else "v6"
            return self.text(f"hello over {family}\n".encode())
        if path == "/bytes":
            return self.count(int(query))
        if path == "/trickle":
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            for _ in range(10):
                self.wfile.write(b".")
                self.wfile.flush()
                time.sleep(0.1)
            return None
        return super().do_GET()

    def count(self, length):
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        while length > 0:
            self.wfile.write(MEGABYTE[: min(length, len(MEGABYTE))])
            length -= len(MEGABYTE)

    def do_PUT(self):
        length, crc, left = int(self.headers["Content-Length"]), 0, 0
        left = length
        while left > 0:
            chunk = self.rfile.read(min(left, 1 << 20))
            if not chunk:
                break
            crc, left = zlib.crc32(chunk, crc), left - len(chunk)
        self.text(f"{length - left} {crc}\n".encode())

    def text(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 1024
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, *args):
        pass


def serve_web(port, secure):
    server = Server(("::", port), Web)
    if secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.join(DIRECTORY, "server.pem"))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def serve_raw(port, talk):
    class Connection(socketserver.BaseRequestHandler):
        def handle(self):
            try:
                talk(self.request)
            except OSError:
                pass

    class Raw(socketserver.ThreadingTCPServer):
        address_family = socket.AF_INET6
        request_queue_size = 1024
        daemon_threads = True
        allow_reuse_address = True

    server = Raw(("::", port), Connection)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def echo(sock):
    while chunk := sock.recv(65536):
        sock.sendall(chunk)


def hold(sock):
    """Reads nothing and says nothing."""
    time.sleep(3600)


def speak_first(sock):
    sock.sendall(b"220 ready\n")
    echo(sock)


def swallow(sock):
    """Writes down what arrived when the other side has ended."""
    count = 0
    while chunk := sock.recv(65536):
        count += len(chunk)
    with open(os.path.join(DIRECTORY, "swallowed"), "a") as file:
        file.write(f"{count}\n")


def break_off(sock):
    """Ends with a reset in the middle."""
    sock.sendall(b"half")
    time.sleep(0.1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def put(path, data):
    path = os.path.join(DIRECTORY, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def packages():
    """A package for pip, npm, cargo and go each."""
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("demo.py", "print('demo of pip')\n")
        info = "demo-1.0.dist-info/"
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(info + "RECORD", "demo.py,,\n")
    put("simple/demo/demo-1.0-py3-none-any.whl", wheel.getvalue())
    put("simple/demo/index.html", b'<a href="demo-1.0-py3-none-any.whl">demo-1.0-py3-none-any.whl</a>')

    def tar(files):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as out:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                out.addfile(info, io.BytesIO(text))
        return archive.getvalue()

    module = tar({"package/package.json": b'{"name":"demo","version":"1.0.0"}', "package/index.js": b"console.log('demo of npm')\n"})
    put("npm/demo-1.0.0.tgz", module)
    dist = {"tarball": "https://www.example/npm/demo-1.0.0.tgz", "shasum": hashlib.sha1(module).hexdigest()}
    version = {"name": "demo", "version": "1.0.0", "dist": dist}
    put("npm/demo/index.html", json.dumps({"name": "demo", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}).encode())

    crate = tar({"demo-1.0.0/Cargo.toml": b'[package]\nname="demo"\nversion="1.0.0"\n', "demo-1.0.0/src/lib.rs": b"pub fn demo() -> &'static str { \"demo of cargo\" }\n"})
    put("cargo/dl/demo-1.0.0.crate", crate)
    put("cargo/index/config.json", b'{"dl":"https://www.example/cargo/dl/{crate}-{version}.crate"}')
    line = {"name": "demo", "vers": "1.0.0", "deps": [], "cksum": hashlib.sha256(crate).hexdigest(), "features": {}, "yanked": False}
    put("cargo/index/de/mo/demo", json.dumps(line).encode())

    module = io.BytesIO()
    with zipfile.ZipFile(module, "w") as archive:
        archive.writestr("www.example/demo@v1.0.0/go.mod", "module www.example/demo\n")
        archive.writestr("www.example/demo@v1.0.0/demo.go", 'package demo\n\nfunc Demo() string { return "demo of go" }\n')
    put("go/www.example/demo/@v/list", b"v1.0.0\n")
    put("go/www.example/demo/@v/v1.0.0.info", b'{"Version":"v1.0.0","Time":"2026-01-01T00:00:00Z"}')
    put("go/www.example/demo/@v/v1.0.0.mod", b"module www.example/demo\n")
    put("go/www.example/demo/@v/v1.0.0.zip", module.getvalue())


packages()
serve_names()
for port in (80, 8080):
    serve_web(port, False)
for port in (443, 8443):
    serve_web(port, True)
for port, talk in [(7, echo), (9, hold), (25, speak_first), (26, swallow), (27, break_off), (5432, echo)]:
    serve_raw(port, talk)
print("ready", flush=True)
threading.Event().wait()

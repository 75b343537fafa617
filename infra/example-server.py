"""A complete game server for OWMM, standard library only. A task of infra/servers.yaml without an image runs it.

Both sides send lines of JSON. The first is {"ticket": "..."}; the server echoes the next ones until {"leave": {}}.
"""
import base64, contextlib, hashlib, hmac, json, os, signal, socket, socketserver, sys, threading, time
import urllib.error, urllib.parse, urllib.request

URL, ID, TOKEN = (os.environ["OWMM_" + name] for name in ("URL", "SERVER_ID", "SERVER_TOKEN"))
KEY, connected, turns = hashlib.sha256(TOKEN.encode()).digest(), {}, {}

def owmm(method, path="", body=None):
    data, auth = json.dumps(body).encode() if body else None, {"Authorization": "Bearer " + TOKEN}
    request = urllib.request.Request(f"{URL}/servers/{ID}{path}", data, auth, method=method)
    while True:
        try: return json.loads(urllib.request.urlopen(request, timeout=10).read() or "{}")
        except urllib.error.HTTPError as refusal:
            if refusal.code < 500 and refusal.code != 429: raise
        except OSError: pass
        time.sleep(1)

def check(ticket):
    raw = lambda part: base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    head, claims, signature = ticket.split(".")
    good = hmac.compare_digest(raw(signature), hmac.digest(KEY, f"{head}.{claims}".encode(), "sha256"))
    head, claims = json.loads(raw(head)), json.loads(raw(claims))
    if not (good and head["alg"] == "HS256" and claims["aud"] == ID and claims["exp"] > time.time()):
        raise ValueError("not a ticket for this server")
    return claims["sub"]

@contextlib.contextmanager
def turn(player):
    with turns.setdefault(player, threading.Lock()): yield "/players/" + urllib.parse.quote(player, safe="")

class Visit(socketserver.StreamRequestHandler):
    timeout = 300
    def handle(self):
        say = lambda line: self.wfile.write(json.dumps(line).encode() + b"\n")
        ticket = json.loads(self.rfile.readline())["ticket"]
        with turn(player := check(ticket)) as path:
            placement = owmm("PUT", path, {"ticket": ticket})["placement"]
            before, connected[player] = connected.get(player), self.connection
        with contextlib.suppress(OSError):
            if before: before.shutdown(socket.SHUT_RDWR)
        try:
            say({"welcome": {"player": player, "server": ID}})
            while (line := self.rfile.readline()) and b'"leave"' not in line: say({"echo": json.loads(line)})
        finally:
            with turn(player):
                if connected.get(player) is self.connection:
                    try: owmm("DELETE", f"{path}?placement={placement}")
                    finally: del connected[player]

def listen():
    first, last = map(int, os.environ["OWMM_PORTS"].split("-"))
    for port in range(first, last + 1):
        with contextlib.suppress(OSError): return socketserver.ThreadingTCPServer(("0.0.0.0", port), Visit)
    sys.exit("no port of OWMM_PORTS is free")

signal.signal(signal.SIGTERM, lambda *_: sys.exit())
socketserver.ThreadingTCPServer.daemon_threads = True
server = listen()
threading.Thread(target=server.serve_forever, daemon=True).start()
try:
    reply = owmm("PUT", "", {"address": "auto", "port": server.server_address[1]})
    print("registered", reply, flush=True)
    while reply["state"] != "draining" or connected or reply.get("reserved"):
        time.sleep(reply.get("heartbeatSeconds", 10))
        try:
            reply = {**reply, **owmm("POST", "/heartbeat", {"players": list(connected)})}
            for lost in reply["unknown"]:
                with turn(lost["player"]) as path:
                    if lost["player"] not in connected: owmm("DELETE", f"{path}?placement={lost['placement']}")
        except urllib.error.HTTPError as refusal:
            if refusal.code in (401, 403, 404, 410): raise
            print("heartbeat refused:", refusal, flush=True)
finally: owmm("DELETE")

"""Calls the programs that are deployed through Lambda's Runtime API, with the local stack's table and ECS.

The program `join` is checked against everything that its routes promise. All functions are checked with the lifecycle of
one server, without the local gateway: the checks send the events of API Gateway and EventBridge, and make the calls of
the game server and the player.
"""

import base64
import json
import os
import tempfile
import urllib.parse

from runtime_api import Failed, Function, http_event
from stack import client, until


class Programs:
    """Functions by name, each with a program in a folder of that name, which the first call starts."""

    def __init__(self, folder, stack, log):
        self.folder, self.environment, self.log = folder, stack.environment() | {"OWMM_LOG": "warn"}, log
        self.names = sorted(name for name in os.listdir(folder) if os.path.exists(self.path(name)))
        self.running, self.answered = {}, {}

    def path(self, name):
        return os.path.join(self.folder, name, "bootstrap")

    def invoke(self, name, event):
        """Sends an event to a function's program; returns the payload of its response."""
        if name not in self.running:
            self.running[name] = Function(self.path(name), self.environment, self.log)
        answer = self.running[name].invoke(event)
        self.answered[name] = self.answered.get(name, 0) + 1
        assert answer.kind == "response", f"{name} failed: {answer.payload}"
        return answer.payload

    def call(self, name, method, path, status, route=None, body=None, **rest):
        """Makes an HTTP call, checks status and shape of the response (payload format 2.0) and returns its body."""
        parameters = matched(route, path.partition("?")[0]) if route else None
        body = json.dumps(body) if isinstance(body, (dict, list)) else body
        response = self.invoke(name, http_event(method, path, route, parameters, body, **rest))
        assert isinstance(response.get("statusCode"), int), f"{name}: the response lacks a `statusCode`: {response}"
        assert response["isBase64Encoded"] is False, f"{name}: {response}"
        assert set(response) <= {"statusCode", "headers", "multiValueHeaders", "body", "isBase64Encoded", "cookies"}, response
        assert all(isinstance(value, str) for value in response["headers"].values()), f"{name}: {response['headers']}"
        what = f"{name}: {method} {path} answers {response['statusCode']}, not {status}: {response.get('body')}"
        assert response["statusCode"] == status, what
        if status == 204:
            assert not response.get("body"), f"{name}: {response}"
            return None
        kind = "application/problem+json" if status >= 400 else "application/json"
        assert response["headers"]["content-type"] == kind, f"{name}: {response['headers']}"
        decoded = json.loads(response["body"])
        if status >= 400:
            assert decoded["status"] == status and decoded["code"] and decoded["requestId"], f"{name}: {decoded}"
        if status == 202:
            assert int(response["headers"]["retry-after"]) == decoded["retryAfterSeconds"], f"{name}: {response}"
        return decoded

    def stop(self):
        for function in self.running.values():
            function.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def matched(route, path):
    """Path parameters, decoded as by API Gateway."""
    pairs = zip(route.split("/"), path.split("/"), strict=True)
    return {name[1:-1]: urllib.parse.unquote(part) for name, part in pairs if name.startswith("{")}


def placement(ticket):
    """The placement in a ticket, without a check of its signature."""
    payload = ticket.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"]


def an_unknown_handler_is_refused(programs, listed):
    """Checks that the program ends at once if `_HANDLER` names no function, and logs the names of all functions."""
    name = programs.names[0]
    with tempfile.TemporaryFile() as log:
        with Function(programs.path(name), programs.environment | {"_HANDLER": "bootstrap"}, log) as function:
            try:
                answer = function.invoke({})
            except Failed:
                pass
            else:
                raise AssertionError(f"a program with an unknown handler has responded: {answer}")
        log.seek(0)
        text = log.read().decode()
    missing = [name for name in sorted(listed) if f'"{name}"' not in text]
    assert "bootstrap" in text and not missing, f"the error lacks {missing}: {text}"


def join_follows_its_contract(programs, patience):
    """Checks every documented behaviour of `POST /join` and `DELETE /join` with the program `join` alone."""
    def join(status, **rest):
        return programs.call("join", "POST", "/join", status, **{"sub": "ann", **rest})

    starting = join(202)
    assert starting["status"] == "starting", starting

    def ready():
        response = programs.invoke("join", http_event("POST", "/join", sub="ann"))
        return response["statusCode"] == 200 and json.loads(response["body"])
    first = until("the server that the join has started is ready", ready, patience)
    assert first["server"]["id"] == starting["server"]["id"], (starting, first)
    again = join(200, body={"pool": "default"})
    assert again["server"] == first["server"], (first, again)
    assert placement(again["ticket"]) == placement(first["ticket"]), "a repeated join got another placement"
    assert join(400, body='{"pool":')["code"] == "invalid_body"
    assert join(400, body={"pool": "default", "player": "bob"})["code"] == "invalid_body"
    assert join(404, body={"pool": "nowhere"})["code"] == "unknown_pool"
    assert join(401, sub=None)["code"] == "unauthorized"
    by_header = join(401, sub=None, headers={"authorization": "Bearer ann"})
    assert by_header["code"] == "unauthorized", "the function trusted a header instead of API Gateway's authorizer"
    assert join(401, sub=None, signed=True)["code"] == "unauthorized", "a signed caller was accepted as a player"
    assert join(413, body='"' + "x" * 200_000 + '"')["code"] == "body_too_large"
    assert programs.call("join", "PUT", "/join", 405, sub="ann")["code"] == "method_not_allowed"
    programs.call("join", "DELETE", "/join", 204, sub="ann")
    programs.call("join", "DELETE", "/join", 204, sub="ann")


def the_lifecycle_of_a_server(programs, stack):
    """Plays the lifecycle of a server, from the join that starts it to its stopped task, with every function."""
    ecs = client("ecs", stack.ecs)
    of_server, of_player = "/servers/{serverId}", "/servers/{serverId}/players/{playerId}"

    pool = programs.call("pools", "GET", "/pools/default", 200, "/pools/{pool}", signed=True)
    programs.call("pools", "GET", "/pools/default", 403, "/pools/{pool}")
    programs.call("pools", "PUT", "/pools/default", 200, "/pools/{pool}", pool["settings"], signed=True)

    party = {"players": ["auth0|ann", "bob"]}
    server = programs.call("party", "POST", "/pools/default/join", 202, "/pools/{pool}/join", party, signed=True)["server"]["id"]
    programs.call("party", "POST", "/pools/default/join", 403, "/pools/{pool}/join", party)

    def task():
        tasks = ecs.list_tasks()["taskArns"]
        described = ecs.describe_tasks(tasks=tasks)["tasks"] if tasks else []
        return next((one for one in described if one["startedBy"].startswith(f"{server}/")), None)
    started = until("ECS has the task that the party's join has started", task)
    environment = started["overrides"]["containerOverrides"][0]["environment"]
    token = next(pair["value"] for pair in environment if pair["name"] == "OWMM_SERVER_TOKEN")
    own = {"headers": {"authorization": f"Bearer {token}"}}
    wrong = {"headers": {"authorization": "Bearer wrong"}}

    path, address = f"/servers/{server}", {"address": "198.51.100.7", "port": 7777}
    refused = programs.call("register-server", "PUT", path, 403, of_server, address, **wrong)
    assert refused["code"] == "wrong_token", refused
    assert programs.call("register-server", "PUT", path, 200, of_server, address, **own)["state"] == "ready"

    ready = programs.call("party", "POST", "/pools/default/join", 200, "/pools/{pool}/join", party, signed=True)
    assert ready["server"] == {"id": server, **address}, ready
    tickets = {one["player"]: one["ticket"] for one in ready["players"]}
    alone = programs.call("join", "POST", "/join", 200, sub="auth0|ann")
    assert placement(alone["ticket"]) == placement(tickets["auth0|ann"]), "the player's own join has another placement"

    ann = f"{path}/players/auth0%7Cann"
    programs.call("register-player", "PUT", ann, 403, of_player, {"ticket": tickets["auth0|ann"]}, **wrong)
    connected = programs.call("register-player", "PUT", ann, 200, of_player, {"ticket": tickets["auth0|ann"]}, **own)["placement"]
    heartbeat = programs.call("heartbeat", "POST", f"{path}/heartbeat", 200, f"{of_server}/heartbeat", {"players": []}, **own)
    assert heartbeat["unknown"] == [{"player": "auth0|ann", "placement": connected}], heartbeat

    seen = programs.call("players", "GET", "/players/auth0%7Cann", 200, "/players/{playerId}", signed=True)
    assert seen["seat"]["state"] == "connected" and seen["seat"]["server"] == server, seen
    seen = programs.call("servers", "GET", path, 200, of_server, signed=True)
    assert (seen["connected"], seen["reserved"]) == (1, 1), seen
    listed = programs.call("servers", "GET", "/pools/default/servers", 200, "/pools/{pool}/servers", signed=True)
    assert [one["id"] for one in listed["servers"]] == [server], listed
    launched = programs.call("launch", "POST", "/pools/default/launch", 200, "/pools/{pool}/launch", {"atLeast": 1}, signed=True)
    assert launched == {"started": [], "liveServers": 1, "missing": 0}, launched

    visit = f"{ann}?placement={connected}"
    programs.call("deregister-player", "DELETE", visit, 403, of_player, **wrong)
    programs.call("deregister-player", "DELETE", visit, 204, of_player, **own)
    drained = programs.call("drain", "POST", f"{path}/drain", 200, f"{of_server}/drain", signed=True)
    assert drained["state"] == "draining", drained
    programs.call("deregister-server", "DELETE", path, 204, of_server, **own)

    stopped = {"taskArn": started["taskArn"], "lastStatus": "STOPPED", "startedBy": started["startedBy"]}
    event = {"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": stopped}
    assert programs.invoke("task-stopped", event) is None
    report = programs.invoke("reconcile", {"source": "aws.scheduler"})
    assert isinstance(report, dict), report
    listed = programs.call("servers", "GET", "/pools/default/servers", 200, "/pools/{pool}/servers", signed=True)
    assert listed["servers"] == [], listed

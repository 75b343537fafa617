"""The programs that would be deployed, driven through the Runtime API against the local stack's table and ECS.

`join` is held to all that its route promises. With every function at hand a server's whole life is played through them,
without the local gateway: whoever calls here is API Gateway, EventBridge, the game server and the player at once.
"""

import base64
import json
import os
import tempfile
import urllib.parse

from runtime_api import Failed, Function, http_event
from stack import client, until


class Programs:
    """Functions by name, each with a program in a folder of that name. A program starts when its function is first called."""

    def __init__(self, folder, stack, log):
        self.folder, self.environment, self.log = folder, stack.environment() | {"OWMM_LOG": "warn"}, log
        self.names = sorted(name for name in os.listdir(folder) if os.path.exists(self.path(name)))
        self.running, self.answered = {}, {}

    def path(self, name):
        return os.path.join(self.folder, name, "bootstrap")

    def invoke(self, name, event):
        """What the program answers: the payload that Lambda would get."""
        if name not in self.running:
            self.running[name] = Function(self.path(name), self.environment, self.log)
        answer = self.running[name].invoke(event)
        self.answered[name] = self.answered.get(name, 0) + 1
        assert answer.kind == "response", f"{name} failed: {answer.payload}"
        return answer.payload

    def call(self, name, method, path, status, route=None, body=None, **rest):
        """A call over HTTP: its answer has this status and the shape of payload format 2.0; gives its body."""
        parameters = matched(route, path.partition("?")[0]) if route else None
        body = json.dumps(body) if isinstance(body, (dict, list)) else body
        response = self.invoke(name, http_event(method, path, route, parameters, body, **rest))
        assert isinstance(response.get("statusCode"), int), f"{name}: not API Gateway's shape: {response}"
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
        told = json.loads(response["body"])
        if status >= 400:
            assert told["status"] == status and told["code"] and told["requestId"], f"{name}: {told}"
        if status == 202:
            assert int(response["headers"]["retry-after"]) == told["retryAfterSeconds"], f"{name}: {response}"
        return told

    def stop(self):
        for function in self.running.values():
            function.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def matched(route, path):
    """The path parameters as API Gateway hands them over: decoded."""
    pairs = zip(route.split("/"), path.split("/"), strict=True)
    return {name[1:-1]: urllib.parse.unquote(part) for name, part in pairs if name.startswith("{")}


def placement(ticket):
    """The number of the placement that a ticket is for."""
    payload = ticket.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"]


def an_unknown_handler_is_refused(programs, listed):
    """The program of all functions ends at once where `_HANDLER` names none, and its log has the names of all."""
    name = programs.names[0]
    with tempfile.TemporaryFile() as log:
        with Function(programs.path(name), programs.environment | {"_HANDLER": "bootstrap"}, log) as function:
            try:
                answer = function.invoke({})
            except Failed:
                pass
            else:
                raise AssertionError(f"an unknown handler answers {answer}")
        log.seek(0)
        text = log.read().decode()
    missing = [name for name in sorted(listed) if f'"{name}"' not in text]
    assert "bootstrap" in text and not missing, f"the error lacks {missing}: {text}"


def join_keeps_its_word(programs, patience):
    """Everything that `POST /join` and `DELETE /join` promise, of the program `join` alone."""
    def join(status, **rest):
        return programs.call("join", "POST", "/join", status, **{"sub": "ann", **rest})

    starting = join(202)
    assert starting["status"] == "starting", starting

    def ready():
        response = programs.invoke("join", http_event("POST", "/join", sub="ann"))
        return response["statusCode"] == 200 and json.loads(response["body"])
    first = until("the server that join has started is ready", ready, patience)
    assert first["server"]["id"] == starting["server"]["id"], (starting, first)
    again = join(200, body={"pool": "default"})
    assert again["server"] == first["server"], (first, again)
    assert placement(again["ticket"]) == placement(first["ticket"]), "a repeat got another placement"
    assert join(400, body='{"pool":')["code"] == "invalid_body"
    assert join(400, body={"pool": "default", "player": "bob"})["code"] == "invalid_body"
    assert join(404, body={"pool": "nowhere"})["code"] == "unknown_pool"
    assert join(401, sub=None)["code"] == "unauthorized"
    assert join(401, sub=None, headers={"authorization": "Bearer ann"})["code"] == "unauthorized", "a header was believed"
    assert join(401, sub=None, signed=True)["code"] == "unauthorized", "an operator was taken for a player"
    assert join(413, body='"' + "x" * 200_000 + '"')["code"] == "body_too_large"
    assert programs.call("join", "PUT", "/join", 405, sub="ann")["code"] == "method_not_allowed"
    programs.call("join", "DELETE", "/join", 204, sub="ann")
    programs.call("join", "DELETE", "/join", 204, sub="ann")


def a_servers_whole_life(programs, stack):
    """From the join that starts it to the news that its task has stopped, each step by the program that has its route."""
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
        told = ecs.describe_tasks(tasks=tasks)["tasks"] if tasks else []
        return next((one for one in told if one["startedBy"].startswith(f"{server}/")), None)
    started = until("ECS has the task that the party's join has asked for", task)
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
    assert placement(alone["ticket"]) == placement(tickets["auth0|ann"]), "one of the party got another slot alone"

    ann = f"{path}/players/auth0%7Cann"
    programs.call("register-player", "PUT", ann, 403, of_player, {"ticket": tickets["auth0|ann"]}, **wrong)
    inside = programs.call("register-player", "PUT", ann, 200, of_player, {"ticket": tickets["auth0|ann"]}, **own)["placement"]
    beat = programs.call("heartbeat", "POST", f"{path}/heartbeat", 200, f"{of_server}/heartbeat", {"players": []}, **own)
    assert beat["unknown"] == [{"player": "auth0|ann", "placement": inside}], beat

    seen = programs.call("players", "GET", "/players/auth0%7Cann", 200, "/players/{playerId}", signed=True)
    assert seen["seat"]["state"] == "connected" and seen["seat"]["server"] == server, seen
    seen = programs.call("servers", "GET", path, 200, of_server, signed=True)
    assert (seen["connected"], seen["reserved"]) == (1, 1), seen
    listed = programs.call("servers", "GET", "/pools/default/servers", 200, "/pools/{pool}/servers", signed=True)
    assert [one["id"] for one in listed["servers"]] == [server], listed
    launched = programs.call("launch", "POST", "/pools/default/launch", 200, "/pools/{pool}/launch", {"atLeast": 1}, signed=True)
    assert launched == {"started": [], "liveServers": 1, "missing": 0}, launched

    gone = f"{ann}?placement={inside}"
    programs.call("deregister-player", "DELETE", gone, 403, of_player, **wrong)
    programs.call("deregister-player", "DELETE", gone, 204, of_player, **own)
    drained = programs.call("drain", "POST", f"{path}/drain", 200, f"{of_server}/drain", signed=True)
    assert drained["state"] == "draining", drained
    programs.call("deregister-server", "DELETE", path, 204, of_server, **own)

    stopped = {"taskArn": started["taskArn"], "lastStatus": "STOPPED", "startedBy": started["startedBy"]}
    event = {"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": stopped}
    assert programs.invoke("task-stopped", event) is None
    looked = programs.invoke("reconcile", {"source": "aws.scheduler"})
    assert isinstance(looked, dict), looked
    listed = programs.call("servers", "GET", "/pools/default/servers", 200, "/pools/{pool}/servers", signed=True)
    assert listed["servers"] == [], listed

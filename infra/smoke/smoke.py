"""One player's visit to a deployed OWMM, step by step, with times; then everything is taken down again.

A pool of its own is made (one server, two slots), with what the stack's output PoolSettings says, or what the pool
`default` has where there is no stack. The player joins it; a task starts, registers, lets the player in and out again,
is drained and stops. Then come the latencies of DynamoDB and ECS, and in the end, whatever has happened, the pool, its
items, its task and the player are removed. Exit code 0: every step happened, and nothing was left behind.

The caller needs cloudformation:DescribeStacks, execute-api:Invoke on the API, dynamodb:GetItem, Query and DeleteItem on
the table, ecs:ListTasks, DescribeTasks and StopTask on the cluster's tasks, cloudwatch:GetMetricData and, where the
stack has made a user pool, cognito-idp:AdminCreateUser, AdminSetUserPassword, AdminDeleteUser and InitiateAuth.

What differs without an account, that is with --url: the outputs are the options; the token is taken as it is and makes
its text the player; signatures are not checked; there is no Cognito, no CloudWatch, and a task is a process of this
machine, so that its steps take milliseconds and not the half minute or so of Fargate. Endpoints are those of the AWS
SDKs (AWS_ENDPOINT_URL_DYNAMODB, AWS_ENDPOINT_URL_ECS). infra/smoke/run --local [OPTIONS] starts such a stack for it, with the
example server, and gives these options.

The server must speak the lines of JSON of infra/example-server.py, which a stack without an image runs. For another game, --no-visit leaves the connection out: the slot is then given up by the player.
"""

import argparse
import base64
import contextlib
import datetime
import json
import secrets
import socket
import statistics
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

POLL_SECONDS = 0.5
# What a slow answer may take; API Gateway itself gives up after 30 s.
ANSWER_SECONDS = 35
LATENCY_CALLS = 20
# How often OWMM tries to start a server.
ATTEMPTS = 3


class Missed(Exception):
    """A step that did not happen."""


class Steps:
    """Says what happens, and how long it took."""

    def __init__(self):
        self.number = 0

    @contextlib.contextmanager
    def step(self, what):
        self.number += 1
        print(f"{self.number:3}. {what:64}", end="", flush=True)
        started, told = time.perf_counter(), []
        try:
            yield told.append
        except Exception as error:
            print(f" FAILED after {time.perf_counter() - started:.1f} s: {error}", flush=True)
            raise
        print(f" {(time.perf_counter() - started) * 1000:9.1f} ms  {' '.join(told)}", flush=True)


class Owmm:
    """OWMM's HTTP API, for a player with a token and for an operator who signs."""

    def __init__(self, url, session, token):
        self.url, self.session, self.token = url.rstrip("/"), session, token
        self.took = []

    def call(self, method, path, body=None, signed=False):
        """Status and body."""
        data = json.dumps(body).encode() if body is not None else b""
        request = AWSRequest(method, self.url + path, data=data, headers={"Content-Type": "application/json"})
        if signed:
            credentials = self.session.get_credentials().get_frozen_credentials()
            SigV4Auth(credentials, "execute-api", self.session.region_name).add_auth(request)
        else:
            request.headers["Authorization"] = f"Bearer {self.token}"
        plain = urllib.request.Request(self.url + path, data or None, dict(request.headers), method=method)
        started = time.perf_counter()
        try:
            with urllib.request.urlopen(plain, timeout=ANSWER_SECONDS) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            status, text = refusal.code, refusal.read()
        self.took.append((time.perf_counter() - started) * 1000)
        return status, json.loads(text or b"null")

    def expect(self, status, *call, **rest):
        got, body = self.call(*call, **rest)
        if got != status:
            raise Missed(f"{call[0]} {call[1]} answered {got} instead of {status}: {json.dumps(body)}")
        return body


class Visit:
    """A connection to the game server, in its lines of JSON."""

    def __init__(self, address, port, ticket):
        self.socket = socket.create_connection((address, port), timeout=ANSWER_SECONDS)
        self.lines = self.socket.makefile("rwb")
        self.welcome = self.say({"ticket": ticket})
        if "welcome" not in self.welcome:
            raise Missed(f"the server says {self.welcome}")

    def say(self, line):
        self.lines.write(json.dumps(line).encode() + b"\n")
        self.lines.flush()
        return json.loads(self.lines.readline() or b"null")

    def leave(self):
        self.lines.write(b'{"leave":true}\n')
        self.lines.flush()
        self.lines.readline()
        self.socket.close()


def until(what, look, seconds):
    end = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > end:
            raise Missed(f"not within {seconds} s: {what}")
        time.sleep(POLL_SECONDS)
    return seen


def stack_outputs(session, name):
    (stack,) = session.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def cognito_token(cognito, pool, audience, undo):
    """A user for this visit, removed in the end, and its access token."""
    name, password = f"smoke-{secrets.token_hex(8)}@example.com", f"aA1!{secrets.token_urlsafe(24)}"
    cognito.admin_create_user(UserPoolId=pool, Username=name, MessageAction="SUPPRESS")
    undo.append((f"the user {name}", lambda: cognito.admin_delete_user(UserPoolId=pool, Username=name)))
    cognito.admin_set_user_password(UserPoolId=pool, Username=name, Password=password, Permanent=True)
    signed_in = cognito.initiate_auth(ClientId=audience, AuthFlow="USER_PASSWORD_AUTH",
                                      AuthParameters={"USERNAME": name, "PASSWORD": password})
    return signed_in["AuthenticationResult"]["AccessToken"]


def subject(token):
    """The player that a token is for: its `sub`, or the whole text where it is no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return token
    return json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))["sub"]


def items_of(dynamodb, table, pool):
    """Keys of the pool's frontiers, status and roster."""
    items = dynamodb.query(TableName=table, ConsistentRead=True, KeyConditionExpression="pk = :p",
                           ExpressionAttributeValues={":p": {"S": f"POOL#{pool}"}})["Items"]
    return [(item["pk"]["S"], item["sk"]["S"]) for item in items]


def remove_items(dynamodb, table, pool, player, servers):
    """What the visit has left in the table: OWMM itself would keep a pool for ever, the rest for a day. The roster also
    knows a server of which no answer has told; it is added to `servers`."""
    def delete(pk, sk):
        dynamodb.delete_item(TableName=table, Key={"pk": {"S": pk}, "sk": {"S": sk}})
    delete("POOLS", pool)
    of_pool = items_of(dynamodb, table, pool)
    rostered = {sk.removeprefix("SERVER#") for _, sk in of_pool if sk.startswith("SERVER#")}
    servers += sorted(rostered.difference(servers))
    keys = [(f"PLAYER#{player}", "SEAT"), *((f"SERVER#{server}", "LEDGER") for server in servers), *of_pool]
    for key in keys:
        delete(*key)
    left = items_of(dynamodb, table, pool) + [key for key in keys if "Item" in dynamodb.get_item(
        TableName=table, ConsistentRead=True, Key={"pk": {"S": key[0]}, "sk": {"S": key[1]}})]
    if left:
        raise Missed(f"still in the table: {left}")


def stop_tasks(ecs, cluster, servers, patience):
    """Tasks of any attempt to start these servers."""
    for started_by in (f"{server}/{attempt}" for server in servers for attempt in range(1, ATTEMPTS + 1)):
        for task in ecs.list_tasks(cluster=cluster, startedBy=started_by)["taskArns"]:
            ecs.stop_task(cluster=cluster, task=task, reason="the smoke test is over")
            until(f"{task} has stopped", lambda task=task: stopped(ecs, cluster, task), patience)


def stopped(ecs, cluster, task):
    described = ecs.describe_tasks(cluster=cluster, tasks=[task])["tasks"]
    return not described or described[0]["lastStatus"] == "STOPPED"


def timed(call):
    """Milliseconds of a call, seen from here: of several, the median and the longest."""
    took = []
    for _ in range(LATENCY_CALLS):
        started = time.perf_counter()
        call()
        took.append((time.perf_counter() - started) * 1000)
    return f"median {statistics.median(took):.1f} ms, longest {max(took):.1f} ms of {LATENCY_CALLS}"


def phases(task):
    """Where a task's time went, from its own stamps."""
    known = [(name, task[key]) for name, key in (
        ("created", "createdAt"), ("pull began", "pullStartedAt"), ("pulled", "pullStoppedAt"), ("started", "startedAt"),
        ("connected", "connectivityAt")) if key in task]
    first = known[0][1] if known else None
    return ", ".join(f"{name} +{(at - first).total_seconds():.1f} s" for name, at in sorted(known, key=lambda one: one[1]))


def of_dynamodb(session, table, since, seconds):
    """What CloudWatch says of the table's latency, by operation; it is a minute or two late."""
    cloudwatch = session.client("cloudwatch")
    operations = ["GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "TransactWriteItems"]
    queries = [
        {"Id": f"{statistic.lower()}{index}", "Label": f"{operation} {statistic}", "MetricStat": {
            "Metric": {"Namespace": "AWS/DynamoDB", "MetricName": "SuccessfulRequestLatency", "Dimensions": [
                {"Name": "TableName", "Value": table}, {"Name": "Operation", "Value": operation}]},
            "Period": 60, "Stat": statistic}}
        for index, operation in enumerate(operations) for statistic in ("Average", "Maximum")
    ]

    def look():
        now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=1)
        results = cloudwatch.get_metric_data(MetricDataQueries=queries, StartTime=since, EndTime=now)["MetricDataResults"]
        return {one["Label"]: max(one["Values"]) for one in results if one["Values"]}
    return until("CloudWatch has figures of the table", look, seconds)


def visit(args, session, undo, say):
    began = datetime.datetime.now(datetime.timezone.utc)
    outputs = {"ApiUrl": args.url, "TableName": args.table}
    if not args.url:
        with say.step(f"the outputs of the stack {args.stack}") as tell:
            outputs = stack_outputs(session, args.stack)
            tell(outputs["ApiUrl"])
    token = args.token
    if not token:
        with say.step("a user of the stack's user pool, and its token"):
            if "UserPoolId" not in outputs:
                raise Missed("the stack has made no user pool: give a player's token with --token")
            token = cognito_token(session.client("cognito-idp"), outputs["UserPoolId"], outputs["JwtAudience"], undo)
    owmm, player = Owmm(outputs["ApiUrl"], session, token), subject(token)
    dynamodb, ecs, table = session.client("dynamodb"), session.client("ecs"), outputs["TableName"]
    pool, servers = f"smoke-{secrets.token_hex(4)}", []

    with say.step(f"a pool for this visit: PUT /pools/{pool}"):
        if "PoolSettings" in outputs:
            settings = json.loads(outputs["PoolSettings"])
        else:
            settings = {"task": owmm.expect(200, "GET", "/pools/default", signed=True)["settings"]["task"]}
        settings |= {"capacity": 2, "maxServers": 1, "launchSeconds": args.patience_seconds}
        # In the end the items go first: a task that stops while its server's ledger is there would be started anew.
        cluster = settings["task"]["cluster"]
        undo.append(("tasks that still run", lambda: stop_tasks(ecs, cluster, servers, args.patience_seconds)))
        undo.append(("the pool's, the server's and the player's items", lambda: remove_items(
            dynamodb, table, pool, player, servers)))
        owmm.expect(200, "PUT", f"/pools/{pool}", settings, signed=True)

    with say.step("the player asks for a slot: POST /join") as tell:
        joined = owmm.expect(202, "POST", "/join", {"pool": pool})
        server = joined["server"]["id"]
        servers.append(server)
        tell(f"202, server {server} starts")
    with say.step("ECS has the task that OWMM has asked for") as tell:
        task = until("the ledger names the task", lambda: owmm.expect(
            200, "GET", f"/servers/{server}", signed=True)["task"], args.patience_seconds)
        tell(task)
    with say.step("the task runs"):
        running = until("the task is RUNNING", lambda: next((one for one in ecs.describe_tasks(
            cluster=cluster, tasks=[task])["tasks"] if one["lastStatus"] == "RUNNING"), None), args.patience_seconds)
    with say.step("the server has registered itself; the poll says where it is") as tell:
        def ready():
            status, body = owmm.call("POST", "/join", {"pool": pool})
            if status not in (200, 202):
                raise Missed(f"the poll answered {status}: {json.dumps(body)}")
            return status == 200 and body
        slot = until("the server is ready", ready, args.patience_seconds)
        address, port = slot["server"]["address"], slot["server"]["port"]
        tell(f"{address}:{port}")
        if slot["server"]["id"] != server:
            raise Missed(f"the slot moved from {server} to {slot['server']['id']}")

    def inside():
        seen = owmm.expect(200, "GET", f"/servers/{server}", signed=True)
        return {"connected": seen["connected"], "reserved": seen["reserved"]}
    if not args.no_visit:
        with say.step("the player connects with the ticket and is let in"):
            connection = Visit(address, port, slot["ticket"])
            if connection.welcome["welcome"]["player"] != player:
                raise Missed(f"the server lets {connection.welcome} in")
        with say.step("the server has registered the player"):
            if inside() != {"connected": 1, "reserved": 0}:
                raise Missed(f"OWMM sees {inside()}")
        with say.step("the player plays: a line, and its echo"):
            if (heard := connection.say("hello")) != {"echo": "hello"}:
                raise Missed(f"the server says {heard}")
        with say.step("the player comes back by another connection, the first one still open"):
            connection = Visit(address, port, slot["ticket"])
            if inside() != {"connected": 1, "reserved": 0}:
                raise Missed(f"OWMM sees {inside()}")
        with say.step("the player leaves, and OWMM knows"):
            connection.leave()
            until("nobody is on the server", lambda: inside() == {"connected": 0, "reserved": 0}, args.patience_seconds)
    else:
        with say.step("the player gives the slot up: DELETE /join"):
            owmm.expect(204, "DELETE", "/join")
    with say.step("an operator drains the server; it says goodbye and its task stops") as tell:
        owmm.expect(200, "POST", f"/servers/{server}/drain", {"deadlineSeconds": 30}, signed=True)
        until("the task has stopped", lambda: stopped(ecs, cluster, task), args.patience_seconds)

    print("\nLatencies")
    key = {"pk": {"S": "POOLS"}, "sk": {"S": pool}}
    print(f"  OWMM's API, from here: median {statistics.median(owmm.took):.1f} ms, longest {max(owmm.took):.1f} ms"
          f" of {len(owmm.took)} calls")
    print(f"  DynamoDB GetItem, from here: {timed(lambda: dynamodb.get_item(TableName=table, Key=key))}")
    print(f"  ECS DescribeTasks, from here: {timed(lambda: ecs.describe_tasks(cluster=cluster, tasks=[task]))}")
    print(f"  the task: {phases(running)}")
    if not args.url:
        for label, milliseconds in sorted(of_dynamodb(session, table, began, args.patience_seconds).items()):
            print(f"  DynamoDB, by CloudWatch: {label} {milliseconds:.1f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", default="owmm", help="name of the CloudFormation stack (default: owmm)")
    parser.add_argument("--profile", help="AWS profile")
    parser.add_argument("--region", help="AWS region")
    parser.add_argument("--token", help="a player's token, instead of a user of the stack's user pool")
    parser.add_argument("--patience-seconds", type=int, default=300, help="how long each wait may take (default: 300)")
    parser.add_argument("--no-visit", action="store_true", help="do not connect to the server")
    parser.add_argument("--url", help="OWMM's URL, instead of a stack's; needs --table and --token")
    parser.add_argument("--table", help="the table's name, with --url")
    args = parser.parse_args()
    if args.url and not (args.table and args.token):
        parser.error("--url needs --table and --token")
    session, say, undo, failed = boto3.Session(profile_name=args.profile, region_name=args.region), Steps(), [], 0
    try:
        visit(args, session, undo, say)
    except (Exception, KeyboardInterrupt) as error:
        failed += 1
        print(f"\nerror: {error or type(error).__name__}", file=sys.stderr)
    print("\nTaking down what was made")
    # The last first, and each by itself: what cannot be removed keeps nothing else from being removed.
    for what, remove in reversed(undo):
        try:
            with say.step(what):
                remove()
        except Exception:
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

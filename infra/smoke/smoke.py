"""Plays one player's visit to a deployed OWMM, step by step, with times, and then removes everything that it has created.

The test creates a pool (one server, two slots) with the settings of the stack's output PoolSettings, or without a stack
with those of the pool `default`. The player joins the pool; a task starts, its server registers, the player connects and
leaves, and the server is drained and stops. The test then prints latencies of DynamoDB and ECS. At the end, also after a
failure, it removes the pool, its items, its tasks and the player. Exit code 0: every step and the removal succeeded.

The caller needs cloudformation:DescribeStacks, execute-api:Invoke on the API, dynamodb:GetItem, Query and DeleteItem on
the table, ecs:ListTasks, DescribeTasks and StopTask on the cluster's tasks, cloudwatch:GetMetricData and, where the
stack has made a user pool, cognito-idp:AdminCreateUser, AdminSetUserPassword, AdminDeleteUser and InitiateAuth.

Without an account, that is with --url, the options replace the outputs of a stack; the text of the token is the player's
id; signatures are not checked; there is no Cognito and no CloudWatch; and a task is a process on this machine, so that
its steps take milliseconds instead of about half a minute on Fargate. Endpoints are set by the variables of the AWS SDKs
(AWS_ENDPOINT_URL_DYNAMODB, AWS_ENDPOINT_URL_ECS). infra/smoke/run --local [OPTIONS] starts a local stack with the example
server and passes these options.

The game server must have the protocol of infra/example-server.py, which a stack without an image runs. For another game,
--no-visit skips the connection: the player cancels the reservation instead.
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
# Timeout of a call in seconds; API Gateway ends a call after 30 s.
ANSWER_SECONDS = 35
LATENCY_CALLS = 20
# Attempts of OWMM to start a server.
ATTEMPTS = 3


class Missed(Exception):
    """A step failed."""


class Steps:
    """Prints each step with its time and result."""

    def __init__(self):
        self.number = 0

    @contextlib.contextmanager
    def step(self, what):
        self.number += 1
        print(f"{self.number:3}. {what:64}", end="", flush=True)
        started, results = time.perf_counter(), []
        try:
            yield results.append
        except Exception as error:
            print(f" FAILED after {time.perf_counter() - started:.1f} s: {error}", flush=True)
            raise
        print(f" {(time.perf_counter() - started) * 1000:9.1f} ms  {' '.join(results)}", flush=True)


class Owmm:
    """Client of OWMM's HTTP API, for a player with a token and for an operator with a signature."""

    def __init__(self, url, session, token):
        self.url, self.session, self.token = url.rstrip("/"), session, token
        self.took = []

    def call(self, method, path, body=None, signed=False):
        """Makes a call; returns status and body of the response."""
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
            raise Missed(f"{call[0]} {call[1]} returned {got} instead of {status}: {json.dumps(body)}")
        return body


class Visit:
    """A connection to the game server, with the protocol of infra/example-server.py."""

    def __init__(self, address, port, ticket):
        self.socket = socket.create_connection((address, port), timeout=ANSWER_SECONDS)
        self.lines = self.socket.makefile("rwb")
        self.welcome = self.say({"ticket": ticket})
        if "welcome" not in self.welcome:
            raise Missed(f"the game server did not let the player in: {self.welcome}")

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
    """Creates a user for this visit, which `undo` removes at the end; returns its access token."""
    name, password = f"smoke-{secrets.token_hex(8)}@example.com", f"aA1!{secrets.token_urlsafe(24)}"
    cognito.admin_create_user(UserPoolId=pool, Username=name, MessageAction="SUPPRESS")
    undo.append((f"remove the user {name}", lambda: cognito.admin_delete_user(UserPoolId=pool, Username=name)))
    cognito.admin_set_user_password(UserPoolId=pool, Username=name, Password=password, Permanent=True)
    signed_in = cognito.initiate_auth(ClientId=audience, AuthFlow="USER_PASSWORD_AUTH",
                                      AuthParameters={"USERNAME": name, "PASSWORD": password})
    return signed_in["AuthenticationResult"]["AccessToken"]


def subject(token):
    """The player's id in a token: its `sub`, or the whole text if it is no JWT."""
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
    """Removes the items of the visit; OWMM would keep the pool for ever, and the other items for a day.

    Adds servers to `servers` that are only on the roster and were in no response."""
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
    """Stops the tasks of all attempts to start these servers."""
    for started_by in (f"{server}/{attempt}" for server in servers for attempt in range(1, ATTEMPTS + 1)):
        for task in ecs.list_tasks(cluster=cluster, startedBy=started_by)["taskArns"]:
            ecs.stop_task(cluster=cluster, task=task, reason="the smoke test has ended")
            until(f"{task} has stopped", lambda task=task: stopped(ecs, cluster, task), patience)


def stopped(ecs, cluster, task):
    described = ecs.describe_tasks(cluster=cluster, tasks=[task])["tasks"]
    return not described or described[0]["lastStatus"] == "STOPPED"


def timed(call):
    """Median and maximum duration of repeated calls from this machine, in milliseconds."""
    took = []
    for _ in range(LATENCY_CALLS):
        started = time.perf_counter()
        call()
        took.append((time.perf_counter() - started) * 1000)
    return f"median {statistics.median(took):.1f} ms, longest {max(took):.1f} ms of {LATENCY_CALLS}"


def phases(task):
    """Seconds from a task's creation to each phase, from the times in its description."""
    known = [(name, task[key]) for name, key in (
        ("created", "createdAt"), ("pull began", "pullStartedAt"), ("pulled", "pullStoppedAt"), ("started", "startedAt"),
        ("connected", "connectivityAt")) if key in task]
    first = known[0][1] if known else None
    return ", ".join(f"{name} +{(at - first).total_seconds():.1f} s" for name, at in sorted(known, key=lambda one: one[1]))


def of_dynamodb(session, table, since, seconds):
    """The table's latency by operation, from CloudWatch, whose data is one or two minutes late."""
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
    return until("CloudWatch has latencies of the table", look, seconds)


def visit(args, session, undo, say):
    began = datetime.datetime.now(datetime.timezone.utc)
    outputs = {"ApiUrl": args.url, "TableName": args.table}
    if not args.url:
        with say.step(f"read the outputs of the stack {args.stack}") as tell:
            outputs = stack_outputs(session, args.stack)
            tell(outputs["ApiUrl"])
    token = args.token
    if not token:
        with say.step("create a user in the stack's user pool, and sign in"):
            if "UserPoolId" not in outputs:
                raise Missed("the stack has no user pool: pass a player's token with --token")
            token = cognito_token(session.client("cognito-idp"), outputs["UserPoolId"], outputs["JwtAudience"], undo)
    owmm, player = Owmm(outputs["ApiUrl"], session, token), subject(token)
    dynamodb, ecs, table = session.client("dynamodb"), session.client("ecs"), outputs["TableName"]
    pool, servers = f"smoke-{secrets.token_hex(4)}", []

    with say.step(f"create a pool for this visit: PUT /pools/{pool}"):
        if "PoolSettings" in outputs:
            settings = json.loads(outputs["PoolSettings"])
        else:
            settings = {"task": owmm.expect(200, "GET", "/pools/default", signed=True)["settings"]["task"]}
        settings |= {"capacity": 2, "maxServers": 1, "launchSeconds": args.patience_seconds}
        # The items are removed first: OWMM would start a task again that stops while its server's ledger exists.
        cluster = settings["task"]["cluster"]
        undo.append(("stop the tasks that still run", lambda: stop_tasks(ecs, cluster, servers, args.patience_seconds)))
        undo.append(("remove the items of pool, server and player", lambda: remove_items(
            dynamodb, table, pool, player, servers)))
        owmm.expect(200, "PUT", f"/pools/{pool}", settings, signed=True)

    with say.step("the player joins: POST /join") as tell:
        joined = owmm.expect(202, "POST", "/join", {"pool": pool})
        server = joined["server"]["id"]
        servers.append(server)
        tell(f"202, server {server} starts")
    with say.step("OWMM has recorded the server's task") as tell:
        task = until("the ledger names the task", lambda: owmm.expect(
            200, "GET", f"/servers/{server}", signed=True)["task"], args.patience_seconds)
        tell(task)
    with say.step("the task runs"):
        running = until("the task is RUNNING", lambda: next((one for one in ecs.describe_tasks(
            cluster=cluster, tasks=[task])["tasks"] if one["lastStatus"] == "RUNNING"), None), args.patience_seconds)
    with say.step("the server has registered; the join returns its address") as tell:
        def ready():
            status, body = owmm.call("POST", "/join", {"pool": pool})
            if status not in (200, 202):
                raise Missed(f"the repeated join returned {status}: {json.dumps(body)}")
            return status == 200 and body
        slot = until("the server is ready", ready, args.patience_seconds)
        address, port = slot["server"]["address"], slot["server"]["port"]
        tell(f"{address}:{port}")
        if slot["server"]["id"] != server:
            raise Missed(f"the slot moved from {server} to {slot['server']['id']}")

    def players():
        seen = owmm.expect(200, "GET", f"/servers/{server}", signed=True)
        return {"connected": seen["connected"], "reserved": seen["reserved"]}
    if not args.no_visit:
        with say.step("the player connects with the ticket"):
            connection = Visit(address, port, slot["ticket"])
            if connection.welcome["welcome"]["player"] != player:
                raise Missed(f"the game server welcomed another player: {connection.welcome}")
        with say.step("OWMM has the player as connected"):
            if players() != {"connected": 1, "reserved": 0}:
                raise Missed(f"GET /servers has {players()}")
        with say.step("the player sends a line and gets its echo"):
            if (echo := connection.say("hello")) != {"echo": "hello"}:
                raise Missed(f"the game server sent {echo}")
        with say.step("the player reconnects while the first connection is open"):
            connection = Visit(address, port, slot["ticket"])
            if players() != {"connected": 1, "reserved": 0}:
                raise Missed(f"GET /servers has {players()}")
        with say.step("the player leaves, and OWMM has no claims on the server"):
            connection.leave()
            until("the server has no claims", lambda: players() == {"connected": 0, "reserved": 0}, args.patience_seconds)
    else:
        with say.step("the player cancels the reservation: DELETE /join"):
            owmm.expect(204, "DELETE", "/join")
    with say.step("an operator drains the server; it deregisters and its task stops") as tell:
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
    parser.add_argument("--token", help="a player's token, in place of a new user in the stack's user pool")
    parser.add_argument("--patience-seconds", type=int, default=300, help="maximum of each wait (default: 300)")
    parser.add_argument("--no-visit", action="store_true", help="do not connect to the server")
    parser.add_argument("--url", help="OWMM's URL, in place of a stack's; needs --table and --token")
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
    print("\nRemoving everything that was created")
    # In reverse order. A removal that fails does not prevent the others.
    for what, remove in reversed(undo):
        try:
            with say.step(what):
                remove()
        except Exception:
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

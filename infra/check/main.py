"""Runs the checks of infra/check/run, which documents the options."""

import argparse
import contextlib
import functools
import graphlib
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request

os.environ.update(AWS_DEFAULT_REGION="eu-central-1", AWS_ACCESS_KEY_ID="local", AWS_SECRET_ACCESS_KEY="local",
                  AWS_EC2_METADATA_DISABLED="true", SAM_CLI_TELEMETRY="0")
for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
    os.environ.pop(name, None)

import samcli.yamlhelper
from moto.server import ThreadedMotoServer
from samcli.lib.translate.sam_template_validator import SamTemplateValidator
from samtranslator.public.translator import ManagedPolicyLoader

import artefacts
import compare
from deployment import Deployment, load, order
from measure import zipped
from stack import ROOT, client, local_stack, until

sys.path.append(os.path.join(ROOT, "infra", "smoke"))
import smoke

OUT = os.path.join(ROOT, "target", "check")
PROGRAMS = os.path.join(OUT, "programs")
TRANSFORMED = os.path.join(OUT, "transformed.json")
COMPANIONS = [f"infra/{name}" for name in sorted(os.listdir(os.path.join(ROOT, "infra"))) if name.endswith(".yaml")]
# Maximum time of a game server on this machine from RunTask to its registration.
PATIENCE_SECONDS = 120
# The same maximum if the functions are compiled first.
WATCH_SECONDS = 1800


class Log:
    """The log file of a check, with the output of all its commands. The end of it is printed if the check fails."""

    def __init__(self, title):
        self.path = os.path.join(OUT, title.replace(" ", "-") + ".log")
        self.file = open(self.path, "wb", buffering=0)

    def run(self, *command, **environment):
        self.file.write(f"$ {' '.join(command)}\n".encode())
        subprocess.run(command, cwd=ROOT, stdout=self.file, stderr=self.file, stdin=subprocess.DEVNULL, check=True,
                       env={**os.environ, **environment})

    def tail(self):
        with open(self.path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-40:])


def sam_validate(log, _):
    log.run("sam", "validate", "--lint", "--template-file", "template.yaml", "--region", "eu-central-1")
    return "template.yaml"


def cfn_lint(log, _):
    # Every warning is a failure; informational notes are not.
    log.run("cfn-lint", "--non-zero-exit-code", "warning", "template.yaml", *COMPANIONS)
    return f"template.yaml and {len(COMPANIONS)} more"


def transform(log, _):
    template = load(os.path.join(ROOT, "template.yaml"))
    translated = SamTemplateValidator(template, ManagedPolicyLoader(None), None, "eu-central-1").get_translated_template_if_valid()
    with open(TRANSFORMED, "w", encoding="utf-8") as file:
        json.dump(samcli.yamlhelper.yaml_parse(translated), file, indent=1)
    # W3002 is about local paths of nested templates, which `sam package` replaces by URLs of its bucket.
    log.run("cfn-lint", "--non-zero-exit-code", "warning", "--ignore-checks", "W3002", "--template", TRANSFORMED)
    # A planted cycle must be found.
    try:
        order({"Resources": {"A": {"Properties": {"Of": {"Ref": "B"}}}, "B": {"DependsOn": "A"}}})
    except graphlib.CycleError:
        pass
    else:
        raise AssertionError("order() did not find the planted cycle")
    resources = order(load(TRANSFORMED))
    for companion in COMPANIONS:
        order(load(os.path.join(ROOT, companion)))
    return f"{len(resources)} resources, no cycle"


def members(log, _):
    """Checks that cargo lambda builds only the functions, so that no other program or its features are included."""
    ran = subprocess.run(["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"], cwd=ROOT,
                         stdout=subprocess.PIPE, stderr=log.file, check=True)
    metadata = json.loads(ran.stdout)
    build = metadata["metadata"]["lambda"]["build"]
    compare.same("workspace.metadata.lambda.build.packages in Cargo.toml", build["packages"], ["functions"])
    compare.same("other packages to build", [name for name in ("workspace", "all", "exclude") if name in build], [])
    (package,) = (one for one in metadata["packages"] if one["name"] == "functions")
    programs = {one["name"] for one in package["targets"] if "bin" in one["kind"]}
    compare.same("programs of the package `functions`", sorted(programs), sorted(compare.function_names() | {"functions"}))
    return f"{len(compare.function_names())} functions, {len(programs)} programs"


def sam_build(log, _):
    """Builds what `sam deploy` uploads, and checks that SAM builds one program for all functions, once."""
    log.run("sam", "build", "--no-cached", RUSTUP="false")
    with open(log.path, encoding="utf-8", errors="replace") as file:
        builds = [line for line in file if "Building codeuri:" in line]
    assert len(builds) == 1, f"SAM must build once, not {len(builds)} times: {builds}"
    built = os.path.join(ROOT, ".aws-sam", "build")
    shutil.rmtree(PROGRAMS, ignore_errors=True)
    contents = set()
    for logical, resource in load(os.path.join(built, "template.yaml"))["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            code = os.path.join(built, resource["Properties"]["CodeUri"])
            compare.same(f"files of {logical}", os.listdir(code), ["bootstrap"])
            with open(os.path.join(code, "bootstrap"), "rb") as file:
                contents.add(hashlib.file_digest(file, "sha256").hexdigest())
            program(resource["Properties"]["Handler"], os.path.join(code, "bootstrap"))
    compare.same("functions that are built", sorted(os.listdir(PROGRAMS)), sorted(compare.function_names()))
    assert len(contents) == 1, f"all functions must have the same program, not {len(contents)} different ones"
    return sizes("join") + f" for {len(compare.function_names())} functions"


def cargo_lambda_build(log, _):
    log.run("cargo", "lambda", "build", "--release", "--locked", "--bin", "join", RUSTUP="false")
    shutil.rmtree(PROGRAMS, ignore_errors=True)
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
    program("join", os.path.join(target, "lambda", "join", "bootstrap"))
    return sizes("join")


def debug_build(log, _):
    """Builds the program of all functions without optimizations, in place of the deployed build."""
    log.run("cargo", "build", "--locked", "--workspace", "--bin", "functions")
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
    shutil.rmtree(PROGRAMS, ignore_errors=True)
    for name in compare.function_names():
        program(name, os.path.join(target, "debug", "functions"))
    return f"1 program for {len(compare.function_names())} functions"


def program(name, path):
    os.makedirs(os.path.join(PROGRAMS, name))
    os.symlink(path, os.path.join(PROGRAMS, name, "bootstrap"))


def sizes(name):
    """Size of a function's program, and of its zip."""
    path = os.path.join(PROGRAMS, name, "bootstrap")
    return f"{os.path.getsize(path) / 1e6:.2f} MB, zip {zipped(path) / 1e6:.2f} MB"


def join_program(log, _):
    with local_stack(log.file) as stack, artefacts.Programs(PROGRAMS, stack, log.file) as programs:
        artefacts.join_follows_its_contract(programs, PATIENCE_SECONDS)
        return f"{programs.answered['join']} events to join"


def all_functions(log, _):
    # A task is an idle process: this check makes the calls of the game server itself.
    with local_stack(log.file, "--game-server", "sleep 3600", "--reconcile-seconds", "3600") as stack, \
            artefacts.Programs(PROGRAMS, stack, log.file) as programs:
        compare.same("functions with a program", programs.names, sorted(compare.function_names()))
        artefacts.the_lifecycle_of_a_server(programs, stack)
        silent = set(programs.names) - set(programs.answered)
        assert not silent, f"no event was sent to {sorted(silent)}"
        artefacts.an_unknown_handler_is_refused(programs, compare.function_names())
        return f"{sum(programs.answered.values())} events to {len(programs.names)} functions"


def smoke_user(deployed):
    """Creates and removes the smoke test's user in the stack's user pool, and checks the token's subject."""
    cognito, pool, undo = deployed.clients("cognito-idp"), deployed.outputs["UserPoolId"], []
    token = smoke.cognito_token(cognito, pool, deployed.outputs["JwtAudience"], undo)
    (user,) = cognito.list_users(UserPoolId=pool)["Users"]
    attributes = {one["Name"]: one["Value"] for one in user["Attributes"]}
    compare.same("the token's subject", smoke.subject(token), attributes["sub"])
    for _, remove in undo:
        remove()
    compare.same("users that are left", cognito.list_users(UserPoolId=pool)["Users"], [])


def deploy_one(log, url):
    """Checks that `cargo lambda deploy` replaces the code of an existing function and changes nothing else."""
    functions = client("lambda", url)
    before = functions.get_function(FunctionName="owmm-join")["Configuration"]
    log.run("cargo", "lambda", "deploy", "owmm-join", "--binary-path", os.path.join(PROGRAMS, "join", "bootstrap"),
            "--endpoint-url", url)
    after = functions.get_function(FunctionName="owmm-join")["Configuration"]
    assert after["CodeSha256"] != before["CodeSha256"], "the function's code has not changed"
    for what in ("Role", "Environment", "MemorySize", "Timeout", "Runtime", "Handler"):
        compare.same(f"the function's {what}", after[what], before[what])


# Stacks to create: one with all defaults, and one with other parameters.
STACKS = {
    "defaults": {},
    "EC2": {"Capacity": "ec2", "MaxHosts": 7, "InstanceType": "c7i.xlarge", "Encryption": "aws-managed", "LogDays": 7,
            "Tracing": "PassThrough", "PlayerConcurrency": 40, "ServerConcurrency": 30},
}


def services(log, _):
    """Creates the resources of the transformed template in an emulator of AWS's APIs, and checks them."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs a line per call
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url, made = f"http://{host}:{port}", 0
        with local_stack(log.file) as stack:
            clients = functools.cache(lambda service: client(service, url))
            for title, parameters in STACKS.items():
                log.file.write(f"the stack {title}: {parameters}\n".encode())
                urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST")).close()
                deployed = Deployment(load(TRANSFORMED), clients, ROOT, parameters)
                made += len(deployed.made) + sum(len(inner.made) for inner in deployed.nested.values())
                compare.table(deployed, client("dynamodb", stack.dynamodb), stack.table)
                compare.parameters(deployed)
                by_arn = compare.functions(deployed)
                compare.routes(deployed, by_arn)
                compare.rules(deployed, by_arn)
                compare.alarms(deployed)
                compare.game_server(deployed, stack.url)
                smoke_user(deployed)
        if os.path.exists(os.path.join(PROGRAMS, "join")):
            deploy_one(log, url)
    finally:
        server.stop()
    return (f"{len(STACKS)} stacks, {made} resources made, table, {len(compare.operations())} routes, 2 rules, "
            f"{len(compare.ALARMS)} alarms")


def watch(log, _):
    """Checks that `cargo lambda watch` serves the functions behind the local gateway."""
    # The socket reserves the port until the stack is up; otherwise its gateway could get this port and call itself.
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    with local_stack(log.file, "--functions", f"http://127.0.0.1:{port}") as stack:
        free.close()
        environment = stack.environment() | {"AWS_REGION": "eu-central-1"}
        command = ["cargo", "lambda", "watch", "--wait", "--ignore-changes", "-A", "127.0.0.1", "-P", str(port)]
        with running(log, command, environment):
            def call(method, path, authorization, body=None):
                request = urllib.request.Request(stack.url + path, body, {"Authorization": authorization}, method=method)
                try:
                    with urllib.request.urlopen(request, timeout=60) as answer:
                        return answer.status, json.load(answer)
                except urllib.error.HTTPError as refusal:
                    return refusal.code, json.load(refusal)

            def ready():
                status, body = call("POST", "/join", "Bearer ann")
                return status == 200 and body
            # The first calls compile the functions, and the gateway ends a call after 30 s. The game server retries too.
            slot = until("a slot on a ready server, through cargo lambda", ready, WATCH_SECONDS)
            status, seen = call("GET", f"/servers/{slot['server']['id']}", "AWS4-HMAC-SHA256 any")
            compare.same("the server's reservations", (status, seen["reserved"]), (200, 1))
            status, refused = call("POST", "/join", "Bearer ann", b"{")
            assert status == 400 and not refused["requestId"].startswith("local-"), f"not by cargo lambda: {refused}"
            compare.same("a join without a token", call("POST", "/join", "none")[0], 401)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/lambda-url/servers/pools/default/servers", timeout=60)
            except urllib.error.HTTPError as refusal:
                compare.same("an operator's route past the gateway", refusal.code, 403)
            else:
                raise AssertionError("an operator's route is open past the gateway")
    return "join, register-server, heartbeat, servers"


@contextlib.contextmanager
def running(log, command, environment):
    """Runs a program and its children until the end of the block."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=log.file, stderr=log.file, stdin=subprocess.DEVNULL,
                               env={**os.environ, **environment}, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def smoke_run(log, _):
    log.run("infra/smoke/run", "--local")
    with open(log.path, encoding="utf-8") as file:
        return f"{sum(' ms' in line and line[:3].strip().isdigit() for line in file)} steps"


TEMPLATE = [
    ("what is built", members),
    ("sam validate --lint", sam_validate),
    ("cfn-lint", cfn_lint),
    ("transformed template", transform),
]
LATER = [
    ("services of AWS", services),
    ("smoke test on a local stack", smoke_run),
]
# Checks of every run, and the additional ones with and without --fast.
ONE = [
    *TEMPLATE,
    ("cargo lambda build of join", cargo_lambda_build),
    ("join through the Runtime API", join_program),
    *LATER,
]
WHOLE = [
    *ONE,
    ("sam build", sam_build),
    ("all functions through the Runtime API", all_functions),
    ("cargo lambda watch", watch),
]
FAST = [
    *ONE,
    ("debug build of the program of all functions", debug_build),
    ("all functions through the Runtime API", all_functions),
]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--only")
    options = parser.parse_args()
    os.makedirs(OUT, exist_ok=True)
    rows = []
    for title, check in FAST if options.fast else WHOLE:
        if options.only and options.only not in title:
            continue
        print(f"-- {title}", flush=True)
        started, log = time.monotonic(), Log(title)
        try:
            result, good = check(log, options), True
        except Exception as error:
            log.file.write(traceback.format_exc().encode())
            result, good = f"FAILED: {str(error).splitlines()[0] if str(error) else repr(error)}", False
            print(log.tail(), flush=True)
        rows.append((title, result, good, time.monotonic() - started))
    width = max((len(title) for title, *_ in rows), default=0)
    print(f"\n{'check':{width}}  seconds  result")
    for title, result, _, seconds in rows:
        print(f"{title:{width}}  {seconds:7.1f}  {result}")
    failed = sum(not good for *_, good, _ in rows)
    print(f"\n{len(rows) - failed} passed, {failed} failed. Logs are in {os.path.relpath(OUT, ROOT)}.")
    return 0 if rows and not failed else 1


if __name__ == "__main__":
    sys.exit(main())

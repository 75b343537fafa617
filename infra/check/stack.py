"""The local stack as a program, and AWS clients for its two endpoints."""

import contextlib
import os
import shlex
import subprocess
import time

import boto3
from botocore.config import Config

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
START_SECONDS = 60
CREDENTIALS = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "eu-central-1"}


def client(service, url):
    """A client of boto3 for an endpoint on this machine."""
    return boto3.client(service, endpoint_url=url, config=Config(retries={"total_max_attempts": 1}), **CREDENTIALS)


class Stack:
    """Where a running stack listens."""

    def __init__(self, lines):
        words = [line.split() for line in lines]
        self.dynamodb, self.table = next((line[1], line[3]) for line in words if line[0] == "dynamodb")
        self.ecs, self.url = (next(line[1] for line in words if line[0] == name) for name in ("ecs", "ready"))

    def environment(self):
        """What a function has to know to work on this stack."""
        return {"OWMM_TABLE": self.table, "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb, "AWS_ENDPOINT_URL_ECS": self.ecs}


@contextlib.contextmanager
def local_stack(log, *arguments):
    """A stack of its own, up until the end of the block."""
    cargo = ["cargo", "run", "--quiet", "--locked", "--", "--no-demo", "--port", "0", *arguments]
    log.write(f"$ {shlex.join(cargo)}\n".encode())
    log.flush()
    process = subprocess.Popen(cargo, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        lines = []
        for line in process.stdout:  # ends with the process
            lines.append(line)
            if line.startswith("ready "):
                break
        else:
            raise RuntimeError("the local stack did not start; the log says why")
        yield Stack(lines)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(what, look, seconds=START_SECONDS):
    """Looks until there is something, or fails by naming what was waited for."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.05)
    return seen

"""Runs the local stack's program, and creates AWS clients for its endpoints."""

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
    """A boto3 client for an endpoint on this machine."""
    return boto3.client(service, endpoint_url=url, config=Config(retries={"total_max_attempts": 1}), **CREDENTIALS)


class Stack:
    """Endpoints and table of a running stack, read from its output."""

    def __init__(self, lines):
        words = [line.split() for line in lines]
        self.dynamodb, self.table = next((line[1], line[3]) for line in words if line[0] == "dynamodb")
        self.ecs, self.url = (next(line[1] for line in words if line[0] == name) for name in ("ecs", "ready"))

    def environment(self):
        """Environment variables of a function that uses this stack."""
        return {"OWMM_TABLE": self.table, "AWS_ENDPOINT_URL_DYNAMODB": self.dynamodb, "AWS_ENDPOINT_URL_ECS": self.ecs}


@contextlib.contextmanager
def local_stack(log, *arguments):
    """Runs a local stack until the end of the block."""
    cargo = ["cargo", "run", "--quiet", "--locked", "--", "--no-demo", "--port", "0", *arguments]
    log.write(f"$ {shlex.join(cargo)}\n".encode())
    log.flush()
    process = subprocess.Popen(cargo, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        lines = []
        for line in process.stdout:  # the loop ends when the process ends
            lines.append(line)
            if line.startswith("ready "):
                break
        else:
            raise RuntimeError("the local stack did not start; its output is in the log")
        yield Stack(lines)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(what, look, seconds=START_SECONDS):
    """Calls `look` until its result is true, and returns it. Raises `TimeoutError` with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.05)
    return seen

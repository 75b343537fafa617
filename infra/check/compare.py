"""Reads the deployed resources from the services and compares them with their specification.

The specification is never the template: it is the OpenAPI document, the table of the local stack, the list of functions,
and the format of AWS's events.
"""

import base64
import ipaddress
import json
import os
import urllib.request

import yaml
from moto.events.models import EventPattern

from stack import ROOT

HTTP_METHODS = {"get", "put", "post", "delete", "patch"}


def same(what, found, meant):
    assert found == meant, f"{what}: found {json.dumps(found, default=str)}, expected {json.dumps(meant, default=str)}"


def operations():
    """Route → (function, kind of caller), from openapi.yaml."""
    with open(os.path.join(ROOT, "openapi.yaml"), encoding="utf-8") as file:
        document = yaml.safe_load(file)
    return {
        f"{method.upper()} {path}": (operation["x-owmm-function"], *(name for need in operation["security"] for name in need))
        for path, item in document["paths"].items() for method, operation in item.items() if method in HTTP_METHODS
    }


def function_names():
    """Names of all functions, from functions/src/bin, which a test compares with the list in functions/src/lib.rs."""
    return {name.removesuffix(".rs") for name in os.listdir(os.path.join(ROOT, "functions", "src", "bin"))}


def parameters(deployed):
    """Checks that each parameter, given or by default, has its effect on the resources."""
    described = deployed.clients("dynamodb").describe_table(TableName=deployed.outputs["TableName"])["Table"]
    own_key = deployed.parameters["Encryption"] == "aws-managed"
    same("the table's own key", described.get("SSEDescription", {}).get("Status") == "ENABLED", own_key)
    client, reserved = deployed.clients("lambda"), {}
    servers = {"register-server", "heartbeat", "register-player", "deregister-player", "deregister-server"}
    for name in function_names():
        function = client.get_function(FunctionName=f"owmm-{name}")
        same(f"{name}'s tracing", function["Configuration"]["TracingConfig"]["Mode"], deployed.parameters["Tracing"])
        reserved[name] = function.get("Concurrency", {}).get("ReservedConcurrentExecutions", 0)
    set_aside = {"join": "PlayerConcurrency"} | dict.fromkeys(servers, "ServerConcurrency")
    groups = deployed.clients("logs").describe_log_groups(logGroupNamePrefix="/aws/lambda/owmm-")["logGroups"]
    kept = {group["logGroupName"].removeprefix("/aws/lambda/owmm-"): group["retentionInDays"] for group in groups}
    same("days for which logs are kept", dict(sorted(kept.items())), dict.fromkeys(sorted(function_names()), int(deployed.parameters["LogDays"])))
    meant = {name: int(deployed.parameters[set_aside[name]]) if name in set_aside else 0 for name in function_names()}
    same("reserved concurrency", dict(sorted(reserved.items())), dict(sorted(meant.items())))


def table(deployed, local, name):
    """Compares the table with the local stack's, and checks the settings that only AWS has."""
    def shape(described):
        ordered = lambda items, key: sorted(items, key=lambda item: item[key])
        return {
            "keys": described["KeySchema"],
            "attributes": ordered(described["AttributeDefinitions"], "AttributeName"),
            "indexes": [
                {"name": index["IndexName"], "keys": index["KeySchema"], "projection": index["Projection"]}
                for index in ordered(described.get("GlobalSecondaryIndexes", []), "IndexName")
            ],
            "billing": described["BillingModeSummary"]["BillingMode"],
        }

    def ttl(client, table_name):
        described = client.describe_time_to_live(TableName=table_name)["TimeToLiveDescription"]
        return described["TimeToLiveStatus"], described["AttributeName"]
    client = deployed.clients("dynamodb")
    own = deployed.outputs["TableName"]
    described = client.describe_table(TableName=own)["Table"]
    same("the table", shape(described), shape(local.describe_table(TableName=name)["Table"]))
    same("time to live", ttl(client, own), ttl(local, name))
    same("deletion protection", described["DeletionProtectionEnabled"], True)
    backups = client.describe_continuous_backups(TableName=own)["ContinuousBackupsDescription"]
    recovery = backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
    same("point-in-time recovery", recovery, "ENABLED")


def functions(deployed):
    """Checks that every function has its handler and table, and a timeout below 30 s if it has a route."""
    pages = deployed.clients("lambda").get_paginator("list_functions").paginate()
    names = {one["FunctionName"].removeprefix("owmm-"): one for page in pages for one in page["Functions"]}
    same("functions", sorted(names), sorted(function_names()))
    routed = {function for function, *_ in operations().values()}
    for name, one in names.items():
        same(f"{name}'s runtime", (one["Runtime"], one["Handler"]), ("provided.al2023", name))
        same(f"{name}'s table", one["Environment"]["Variables"]["OWMM_TABLE"], deployed.outputs["TableName"])
        assert name not in routed or one["Timeout"] < 30, f"the timeout of {name} is not below API Gateway's 30 s"
    return {one["FunctionArn"]: name for name, one in names.items()}


def routes(deployed, by_arn):
    """Checks that the routes are exactly the operations of openapi.yaml, each with its function and authorizer."""
    client = deployed.clients("apigatewayv2")
    (api,) = client.get_apis()["Items"]
    integrations = {one["IntegrationId"]: one for one in client.get_integrations(ApiId=api["ApiId"])["Items"]}
    callers = {"JWT": "player", "AWS_IAM": "operator", "NONE": "server"}
    found = {}
    for route in client.get_routes(ApiId=api["ApiId"])["Items"]:
        integration = integrations[route["Target"].removeprefix("integrations/")]
        same(f"payload of {route['RouteKey']}", integration["PayloadFormatVersion"], "2.0")
        arn = integration["IntegrationUri"].split("/functions/")[1].removesuffix("/invocations")
        found[route["RouteKey"]] = (by_arn[arn], callers[route["AuthorizationType"]])
        if route["AuthorizationType"] == "JWT":
            jwt = client.get_authorizer(ApiId=api["ApiId"], AuthorizerId=route["AuthorizerId"])["JwtConfiguration"]
            same("the players' tokens", (jwt["Issuer"], jwt["Audience"]),
                 (deployed.outputs["JwtIssuer"], [deployed.outputs["JwtAudience"]]))
    same("routes", dict(sorted(found.items())), dict(sorted(operations().items())))
    for route, (name, _) in found.items():
        allowed(deployed, by_arn, name, "apigateway.amazonaws.com", f"{api['ApiId']}/*/{route.replace(' ', '', 1)}")
    (stage,) = client.get_stages(ApiId=api["ApiId"])["Items"]
    same("the stage", (stage["StageName"], stage["AutoDeploy"]), ("$default", True))
    signed = {route for route, (_, caller) in found.items() if caller == "operator"} - {"POST /pools/{pool}/join"}
    same("routes with a throttle of their own", sorted(stage["RouteSettings"]), sorted(signed))
    assert stage["DefaultRouteSettings"]["ThrottlingRateLimit"] > 0, stage


def allowed(deployed, by_arn, name, service, source):
    """Checks that the service may call the function for this source ARN, in which a path parameter is `*`."""
    arn = next(arn for arn, one in by_arn.items() if one == name)
    statements = json.loads(deployed.clients("lambda").get_policy(FunctionName=arn)["Policy"])["Statement"]

    def plain(text):
        return "/".join("*" if part.startswith("{") else part for part in text.split("/"))
    fits = [
        one for one in statements if one["Principal"]["Service"] == service
        and plain(one["Condition"]["ArnLike"]["AWS:SourceArn"]).endswith(plain(source))
    ]
    assert fits, f"{service} may not call {name} for {source}: {statements}"


def rules(deployed, by_arn):
    """Checks that reconcile runs every minute, and task-stopped for each stopped task of this table only."""
    client = deployed.clients("events")
    found = {}
    for rule in client.list_rules()["Rules"]:
        (target,) = client.list_targets_by_rule(Rule=rule["Name"])["Targets"]
        found[by_arn[target["Arn"]]] = rule
        allowed(deployed, by_arn, by_arn[target["Arn"]], "events.amazonaws.com", f"rule/{rule['Name']}")
    same("functions with a rule", sorted(found), ["reconcile", "task-stopped"])
    same("the schedule", (found["reconcile"]["ScheduleExpression"], found["reconcile"]["State"]), ("rate(1 minute)", "ENABLED"))
    cluster = deployed.clients("ecs").describe_clusters(clusters=[deployed.outputs["Cluster"]])["clusters"][0]["clusterArn"]
    detail = {"clusterArn": cluster, "group": f"owmm:{deployed.outputs['TableName']}", "lastStatus": "STOPPED",
              "startedBy": "01KAP3X7M8Q2V5R9T4W6Y0ZBCD/1"}
    event = {"id": "1", "version": "0", "account": "123456789012", "time": "2026-01-01T00:00:00Z", "region": "eu-central-1",
             "resources": [], "source": "aws.ecs", "detail-type": "ECS Task State Change"}

    # Uses the emulator's own matching, because its TestEventPattern returns nothing.
    pattern = EventPattern(None, json.loads(found["task-stopped"]["EventPattern"]))

    def matches(**differs):
        return pattern.matches_event(event | {"detail": detail | differs})
    same("the rule matches a stopped task", matches(), True)
    for differs in ({"lastStatus": "RUNNING"}, {"group": "owmm:another"}, {"clusterArn": f"{cluster}-2"}):
        same(f"the rule matches a task with {differs}", matches(**differs), False)


# Alarm → its metric. The alarm's description in template.yaml says what it means.
ALARMS = {
    "MassLapse": ("OWMM", "MassLapses", "Function", "owmm-reconcile"),
    "LaunchPaused": ("OWMM", "LaunchPaused", "Function", "owmm-reconcile"),
    "FailedPools": ("OWMM", "FailedPools", "Function", "owmm-reconcile"),
    "ReconcileErrors": ("AWS/Lambda", "Errors", "FunctionName", "owmm-reconcile"),
    "ReconcileSilent": ("AWS/Lambda", "Invocations", "FunctionName", "owmm-reconcile"),
    "ApiErrors": ("AWS/ApiGateway", "5xx", "ApiId", None),
    "JoinThrottles": ("AWS/Lambda", "Throttles", "FunctionName", "owmm-join"),
    "HeartbeatThrottles": ("AWS/Lambda", "Throttles", "FunctionName", "owmm-heartbeat"),
    "ReconcileThrottles": ("AWS/Lambda", "Throttles", "FunctionName", "owmm-reconcile"),
    "TaskStoppedThrottles": ("AWS/Lambda", "Throttles", "FunctionName", "owmm-task-stopped"),
    "TableThrottles": ("AWS/DynamoDB", "WriteThrottleEvents", "TableName", None),
    "LostEvents": ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", None),
}


def alarms(deployed):
    """Checks that each alarm watches its metric; missing data is breaching for ReconcileSilent only."""
    client = deployed.clients("cloudwatch")
    found = {one["AlarmName"].removeprefix("owmm-"): one for one in client.describe_alarms()["MetricAlarms"]}
    same("alarms", sorted(found), sorted(ALARMS))
    api = deployed.clients("apigatewayv2").get_apis()["Items"][0]["ApiId"]
    (lost,) = deployed.clients("sqs").list_queues()["QueueUrls"]
    there = {"ApiId": api, "TableName": deployed.outputs["TableName"], "QueueName": lost.rsplit("/", 1)[1]}
    for name, (namespace, metric, dimension, value) in ALARMS.items():
        one = found[name]
        same(f"the metric of {name}", (one["Namespace"], one["MetricName"], one["Dimensions"]),
             (namespace, metric, [{"Name": dimension, "Value": value or there[dimension]}]))
        missing = "breaching" if name == "ReconcileSilent" else "notBreaching"
        same(f"{name} on missing data", one["TreatMissingData"], missing)


def game_server(deployed, url):
    """Checks the cluster, the task definition, and that OWMM accepts the output PoolSettings."""
    ecs = deployed.clients("ecs")
    (cluster,) = ecs.describe_clusters(clusters=[deployed.outputs["Cluster"]])["clusters"]
    same("the cluster", cluster["status"], "ACTIVE")
    definition = ecs.describe_task_definition(taskDefinition=deployed.outputs["TaskDefinition"])["taskDefinition"]
    settings = json.loads(deployed.outputs["PoolSettings"])
    (container,) = definition["containerDefinitions"]
    same("the container", container["name"], settings["task"]["container"])
    same("its stop timeout", container["stopTimeout"], 120)
    on_ec2 = deployed.parameters["Capacity"] == "ec2"
    kind = ("host", ["EC2"]) if on_ec2 else ("awsvpc", ["FARGATE"])
    same("the launch type", (definition["networkMode"], definition["requiresCompatibilities"]), kind)
    same("a network interface of its own", "subnets" in settings["task"], not on_ec2)
    if on_ec2:
        ec2_hosts(deployed, cluster)
    else:
        providers = [one["capacityProvider"] for one in cluster["defaultCapacityProviderStrategy"]]
        same("capacity", providers, ["FARGATE", "FARGATE_SPOT"])
    same("its roles", (definition["taskRoleArn"], definition["executionRoleArn"]),
         (deployed.outputs["TaskRoleArn"], deployed.outputs["ExecutionRoleArn"]))
    groups = [one["GroupId"] for one in deployed.clients("ec2").describe_security_groups()["SecurityGroups"]]
    assert set(settings["task"].get("securityGroups", [])) <= set(groups), (settings, groups)
    subnets = [one["SubnetId"] for one in deployed.clients("ec2").describe_subnets()["Subnets"]]
    assert set(settings["task"].get("subnets", [])) <= set(subnets), (settings, subnets)
    network(deployed)
    # OWMM accepts the settings and returns them.
    request = urllib.request.Request(f"{url}/pools/deployed", deployed.outputs["PoolSettings"].encode(), method="PUT",
                                     headers={"Authorization": "AWS4-HMAC-SHA256 any"})
    with urllib.request.urlopen(request) as answer:
        taken = json.load(answer)
    for name, value in settings["task"].items():
        same(f"the pool's {name}", taken["settings"]["task"][name], value)


def network(deployed):
    """Checks that the two subnets share the whole block of the created network."""
    ec2, block = deployed.clients("ec2"), ipaddress.ip_network(deployed.parameters["NetworkCidr"])
    (vpc,) = (one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"] if one["CidrBlock"] == str(block))
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    same("the subnets", sorted(one["CidrBlock"] for one in subnets), sorted(map(str, block.subnets())))


def ec2_hosts(deployed, cluster):
    """Checks that hosts join the cluster, that ECS scales their group, and that hosts with tasks are protected."""
    (strategy,) = cluster["defaultCapacityProviderStrategy"]
    ecs = deployed.clients("ecs")
    (provider,) = ecs.describe_capacity_providers(capacityProviders=[strategy["capacityProvider"]])["capacityProviders"]
    settings = provider["autoScalingGroupProvider"]
    same("scaling", (settings["managedScaling"]["status"], settings["managedTerminationProtection"]), ("ENABLED", "ENABLED"))
    (group,) = deployed.clients("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    same("the provider's group", settings["autoScalingGroupArn"], group["AutoScalingGroupARN"])
    same("its hosts", (group["MinSize"], group["MaxSize"], group["NewInstancesProtectedFromScaleIn"]),
         (0, int(deployed.parameters["MaxHosts"]), True))
    (version,) = deployed.clients("ec2").describe_launch_template_versions(
        LaunchTemplateId=group["LaunchTemplate"]["LaunchTemplateId"])["LaunchTemplateVersions"]
    host = version["LaunchTemplateData"]
    start = base64.b64decode(host["UserData"]).decode()
    assert f"ECS_CLUSTER={cluster['clusterName']}" in start, start
    same("credentials of a host", host["MetadataOptions"]["HttpTokens"], "required")
    same("a host's type", host["InstanceType"], deployed.parameters["InstanceType"])

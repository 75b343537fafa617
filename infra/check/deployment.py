"""Deploys a CloudFormation template resource by resource through the services' APIs, at an emulator's endpoint.

Replaces CloudFormation for the resource types that OWMM uses, because the emulators' own CloudFormation skips HTTP APIs,
rules and alarms without an error. Properties are converted to API parameters by the services' models (botocore's), which
refuse unknown names and values of a wrong type, as AWS does. Must not know the purpose of OWMM's resources.
"""

import base64
import graphlib
import io
import json
import os
import re
import zipfile

import samcli.yamlhelper

PSEUDO = {
    "AWS::AccountId": "123456789012", "AWS::Partition": "aws", "AWS::Region": "eu-central-1", "AWS::StackName": "owmm",
    "AWS::URLSuffix": "amazonaws.com", "AWS::StackId": "arn:aws:cloudformation:eu-central-1:123456789012:stack/owmm/0",
}
NOTHING = object()  # AWS::NoValue


def load(path):
    with open(path, encoding="utf-8") as file:
        return samcli.yamlhelper.yaml_parse(file.read())


def mentioned(node):
    """Yields the names that a part of a template refers to, in any intrinsic function."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "Ref":
                yield value
            elif key == "Fn::GetAtt":
                yield value.split(".")[0] if isinstance(value, str) else value[0]
            elif key == "Fn::Sub":
                text, own = (value, {}) if isinstance(value, str) else value
                yield from (name.split(".")[0] for name in re.findall(r"\$\{([^!}]+)}", text) if name not in own)
                yield from mentioned(own)
            else:
                yield from mentioned(value)
    elif isinstance(node, list):
        for item in node:
            yield from mentioned(item)


def order(template):
    """Names of the resources, each after those that it needs. Raises `graphlib.CycleError` if they form a cycle."""
    resources = template["Resources"]
    needs = {}
    for name, resource in resources.items():
        after = resource.get("DependsOn", [])
        after = {after} if isinstance(after, str) else set(after)
        needs[name] = (after | set(mentioned(resource))) & set(resources)
    return list(graphlib.TopologicalSorter(needs).static_order())


class Deployment:
    """A deployed template. `made` has `Ref` and attributes of each resource, by its logical id."""

    def __init__(self, template, clients, folder, parameters=None):
        self.template, self.clients, self.folder = template, clients, folder
        defaults = {name: one.get("Default") for name, one in template.get("Parameters", {}).items()}
        self.parameters = {name: self.public(template, name, value) for name, value in (defaults | (parameters or {})).items()}
        missing = [name for name, value in self.parameters.items() if value is None]
        assert not missing, f"parameters without a value: {missing}"
        self.made, self.nested, self.skipped = {}, {}, []
        for name in order(template):
            resource = template["Resources"][name]
            if not self.holds(resource.get("Condition")):
                self.skipped.append(name)
                continue
            maker = MAKERS.get(resource["Type"])
            assert maker, f"{name}: infra/check/deployment.py has no maker for {resource['Type']}"
            try:
                self.made[name] = maker(self, name, self.resolve(resource.get("Properties", {})))
            except Exception as error:
                error.add_note(f"while making {name} ({resource['Type']})")
                raise
        self.outputs = {
            name: self.resolve(output["Value"]) for name, output in template.get("Outputs", {}).items()
            if self.holds(output.get("Condition"))
        }

    def public(self, template, name, value):
        """A parameter's value; for the name of a public SSM parameter, the value of that parameter."""
        if not template["Parameters"][name]["Type"].startswith("AWS::SSM::Parameter::Value"):
            return value
        return self.clients("ssm").get_parameter(Name=value)["Parameter"]["Value"]

    def holds(self, condition):
        return condition is None or self.resolve(self.template["Conditions"][condition])

    def reference(self, name):
        if name == "AWS::NoValue":
            return NOTHING
        if name in PSEUDO:
            return PSEUDO[name]
        return self.parameters[name] if name in self.parameters else self.made[name][0]

    def attribute(self, name, attribute):
        return self.made[name][1][attribute]

    def resolve(self, node):
        """Evaluates the intrinsic functions in a part of the template."""
        if isinstance(node, list):
            return [value for value in map(self.resolve, node) if value is not NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (key, value), = node.items()
            if key in FUNCTIONS:
                return FUNCTIONS[key](self, value)
        pairs = ((key, self.resolve(value)) for key, value in node.items())
        return {key: value for key, value in pairs if value is not NOTHING}

    def substitute(self, value):
        text, own = (value, {}) if isinstance(value, str) else value

        def one(match):
            name = match[1]
            if name in own:
                return str(self.resolve(own[name]))
            name, _, attribute = name.partition(".")
            return str(self.attribute(name, attribute) if attribute else self.reference(name))
        return re.sub(r"\$\{([^!}]+)}", one, text)

    def call(self, service, operation, properties, **more):
        """Calls an operation of a service's API with a resource's properties."""
        client = self.clients(service)
        method = client.meta.method_to_api_mapping[operation]
        shape = client.meta.service_model.operation_model(method).input_shape
        return getattr(client, operation)(**fitted(shape, {**properties, **more}, operation))


def fitted(shape, value, where):
    """Converts a value to the API's model: CloudFormation has names in another case, and numbers as strings."""
    kind = shape.type_name
    if kind == "structure":
        names = {name.lower(): name for name in shape.members}
        unknown = [name for name in value if name.lower() not in names]
        assert not unknown, f"{where} has no parameter {unknown}"
        return {
            names[name.lower()]: fitted(shape.members[names[name.lower()]], one, f"{where}.{name}")
            for name, one in value.items()
        }
    if kind == "list":
        return [fitted(shape.member, one, where) for one in value]
    if kind == "map":
        return {name: fitted(shape.value, one, f"{where}.{name}") for name, one in value.items()}
    if kind in ("integer", "long"):
        return int(value)
    if kind in ("double", "float"):
        return float(value)
    if kind == "boolean":
        return value if isinstance(value, bool) else {"true": True, "false": False}[value]
    if kind == "string":
        return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
    return value


def get_attribute(deployment, value):
    name, attribute = value.split(".", 1) if isinstance(value, str) else value
    return deployment.attribute(name, attribute)


def equals(deployment, value):
    left, right = deployment.resolve(value)
    return str(left) == str(right)


FUNCTIONS = {
    "Ref": Deployment.reference,
    "Condition": Deployment.holds,
    "Fn::GetAtt": get_attribute,
    "Fn::Sub": Deployment.substitute,
    "Fn::If": lambda it, value: it.resolve(value[1] if it.holds(value[0]) else value[2]),
    "Fn::Equals": equals,
    "Fn::Not": lambda it, value: not it.resolve(value[0]),
    "Fn::And": lambda it, value: all(map(it.resolve, value)),
    "Fn::Or": lambda it, value: any(map(it.resolve, value)),
    "Fn::Base64": lambda it, value: base64.b64encode(it.resolve(value).encode()).decode(),
    "Fn::Join": lambda it, value: value[0].join(map(str, it.resolve(value[1]))),
    "Fn::Split": lambda it, value: it.resolve(value[1]).split(value[0]),
    "Fn::Select": lambda it, value: it.resolve(value[1])[int(value[0])],
    "Fn::GetAZs": lambda it, value: [f"{PSEUDO['AWS::Region']}{zone}" for zone in "abc"],
    "Fn::Cidr": lambda it, value: cidr(*it.resolve(value)),
}


def cidr(block, count, bits):
    import ipaddress
    blocks = ipaddress.ip_network(block).subnets(new_prefix=32 - int(bits))
    return [str(next(blocks)) for _ in range(int(count))]


def arn(service):
    return f"arn:aws:{service}:{PSEUDO['AWS::Region']}:{PSEUDO['AWS::AccountId']}"


def titled(name):
    """The name that CloudFormation generates for a resource without one, without the random suffix."""
    return f"{PSEUDO['AWS::StackName']}-{name}"


def without(properties, *names):
    return {name: value for name, value in properties.items() if name not in names}


def table(it, name, properties):
    own = without(properties, "TimeToLiveSpecification", "PointInTimeRecoverySpecification")
    if "SSESpecification" in own:
        own["SSESpecification"] = {"Enabled": own["SSESpecification"]["SSEEnabled"]}
    own.setdefault("TableName", titled(f"{name}-1"))
    made = it.call("dynamodb", "create_table", own)["TableDescription"]
    named = {"TableName": made["TableName"]}
    if "TimeToLiveSpecification" in properties:
        it.call("dynamodb", "update_time_to_live", named, TimeToLiveSpecification=properties["TimeToLiveSpecification"])
    if "PointInTimeRecoverySpecification" in properties:
        it.call("dynamodb", "update_continuous_backups", named,
                PointInTimeRecoverySpecification=properties["PointInTimeRecoverySpecification"])
    return made["TableName"], {"Arn": made["TableArn"]}


def log_group(it, name, properties):
    group = properties["LogGroupName"]
    it.call("logs", "create_log_group", {"logGroupName": group})
    it.call("logs", "put_retention_policy", {"logGroupName": group}, retentionInDays=properties["RetentionInDays"])
    return group, {"Arn": f"{arn('logs')}:log-group:{group}:*"}


def role(it, name, properties):
    own = without(properties, "Policies", "ManagedPolicyArns")
    made = it.call("iam", "create_role", own, RoleName=properties.get("RoleName", titled(name)))["Role"]
    for policy in properties.get("Policies", []):
        it.call("iam", "put_role_policy", policy, RoleName=made["RoleName"])
    for managed in properties.get("ManagedPolicyArns", []):
        it.call("iam", "attach_role_policy", {"RoleName": made["RoleName"], "PolicyArn": managed})
    return made["RoleName"], {"Arn": made["Arn"]}


def role_policy(it, name, properties):
    it.call("iam", "put_role_policy", properties)
    return properties["PolicyName"], {}


def queue(it, name, properties):
    title = properties.get("QueueName", titled(name))
    attributes = {key: str(value).lower() for key, value in without(properties, "QueueName", "Tags").items()}
    url = it.call("sqs", "create_queue", {"QueueName": title, "Attributes": attributes})["QueueUrl"]
    return url, {"QueueName": title, "Arn": f"{arn('sqs')}:{title}"}


def user_pool(it, name, properties):
    made = it.call("cognito-idp", "create_user_pool", without(properties, "UserPoolName"), PoolName=properties["UserPoolName"])
    return made["UserPool"]["Id"], {"Arn": made["UserPool"]["Arn"]}


def user_pool_client(it, name, properties):
    made = it.call("cognito-idp", "create_user_pool_client", properties)
    return made["UserPoolClient"]["ClientId"], {}


def function(it, name, properties):
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("bootstrap", "#!/bin/sh\n")
    own = without(properties, "Code", "Tags", "ReservedConcurrentExecutions")
    tags = {tag["Key"]: tag["Value"] for tag in properties.get("Tags", [])}
    made = it.call("lambda", "create_function", own, Code={"ZipFile": code.getvalue()}, Tags=tags)
    if "ReservedConcurrentExecutions" in properties:
        it.call("lambda", "put_function_concurrency", {"FunctionName": made["FunctionName"]},
                ReservedConcurrentExecutions=properties["ReservedConcurrentExecutions"])
    return made["FunctionName"], {"Arn": made["FunctionArn"]}


def permission(it, name, properties):
    it.call("lambda", "add_permission", properties, StatementId=name)
    return name, {}


def event_invoke_config(it, name, properties):
    it.call("lambda", "put_function_event_invoke_config", properties)
    return name, {}


def http_api(it, name, properties):
    """Imports an OpenAPI document: creates authorizers, and a route with its integration for each operation."""
    body = properties["Body"]
    api = it.call("apigatewayv2", "create_api", {"Name": body["info"]["title"], "ProtocolType": "HTTP"})["ApiId"]
    authorizers = {}
    for title, scheme in body.get("components", {}).get("securitySchemes", {}).items():
        if scheme.get("x-amazon-apigateway-authtype") == "awsSigv4":
            authorizers[title] = {"AuthorizationType": "AWS_IAM"}
            continue
        settings = scheme["x-amazon-apigateway-authorizer"]
        made = it.call("apigatewayv2", "create_authorizer", {
            "ApiId": api, "Name": title, "AuthorizerType": "JWT", "IdentitySource": [settings["identitySource"]],
            "JwtConfiguration": settings["jwtConfiguration"]})
        authorizers[title] = {"AuthorizationType": "JWT", "AuthorizerId": made["AuthorizerId"]}
    for path, operations in body["paths"].items():
        for method, operation in operations.items():
            target = operation["x-amazon-apigateway-integration"]
            integration = it.call("apigatewayv2", "create_integration", {
                "ApiId": api, "IntegrationType": target["type"].upper(), "IntegrationMethod": target["httpMethod"],
                "IntegrationUri": target["uri"], "PayloadFormatVersion": target["payloadFormatVersion"]})
            needed = [title for need in operation.get("security", []) for title in need]
            assert len(needed) <= 1, f"{method} {path}: {needed}"
            it.call("apigatewayv2", "create_route", {
                "ApiId": api, "RouteKey": f"{method.upper()} {path}", "Target": f"integrations/{integration['IntegrationId']}",
                **(authorizers[needed[0]] if needed else {"AuthorizationType": "NONE"})})
    return api, {"ApiId": api}


def stage(it, name, properties):
    it.call("apigatewayv2", "create_stage", without(properties, "Tags"))
    return properties["StageName"], {}


def rule(it, name, properties):
    title = properties.get("Name", titled(name))
    made = it.call("events", "put_rule", without(properties, "Targets", "Name"), Name=title)["RuleArn"]
    it.call("events", "put_targets", {"Rule": title, "Targets": properties["Targets"]})
    return title, {"Arn": made}


def alarm(it, name, properties):
    it.call("cloudwatch", "put_metric_alarm", properties)
    return properties["AlarmName"], {}


def dashboard(it, name, properties):
    it.call("cloudwatch", "put_dashboard", properties)
    return properties["DashboardName"], {}


def nested(it, name, properties):
    template = load(os.path.join(it.folder, properties["TemplateURL"]))
    inner = it.nested[name] = Deployment(template, it.clients, it.folder, properties.get("Parameters"))
    return name, {f"Outputs.{output}": value for output, value in inner.outputs.items()}


def cluster(it, name, properties):
    made = it.call("ecs", "create_cluster", without(properties, "ClusterSettings"), settings=properties.get("ClusterSettings", []))
    return made["cluster"]["clusterName"], {"Arn": made["cluster"]["clusterArn"]}


def capacity_providers(it, name, properties):
    it.call("ecs", "put_cluster_capacity_providers", properties)
    return name, {}


def instance_profile(it, name, properties):
    title = titled(name)
    made = it.call("iam", "create_instance_profile", {"InstanceProfileName": title})["InstanceProfile"]
    for one in properties["Roles"]:
        it.call("iam", "add_role_to_instance_profile", {"InstanceProfileName": title, "RoleName": one})
    return title, {"Arn": made["Arn"]}


def launch_template(it, name, properties):
    made = it.call("ec2", "create_launch_template", properties, LaunchTemplateName=titled(name))["LaunchTemplate"]
    return made["LaunchTemplateId"], {"LatestVersionNumber": made["LatestVersionNumber"]}


def hosts(it, name, properties):
    title = titled(name)
    subnets = properties["VPCZoneIdentifier"]
    subnets = subnets if isinstance(subnets, str) else ",".join(subnets)
    it.call("autoscaling", "create_auto_scaling_group", without(properties, "VPCZoneIdentifier"),
            AutoScalingGroupName=title, VPCZoneIdentifier=subnets)
    return title, {}


def capacity_provider(it, name, properties):
    group_provider = dict(properties["AutoScalingGroupProvider"])
    # CloudFormation accepts a name here too, the API only an ARN.
    named = it.clients("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[group_provider["AutoScalingGroupArn"]])
    group_provider["AutoScalingGroupArn"] = named["AutoScalingGroups"][0]["AutoScalingGroupARN"]
    title = titled(name)
    it.call("ecs", "create_capacity_provider", {"name": title, "autoScalingGroupProvider": group_provider})
    return title, {}


def task_definition(it, name, properties):
    made = it.call("ecs", "register_task_definition", properties)["taskDefinition"]["taskDefinitionArn"]
    return made, {"TaskDefinitionArn": made}


def ec2(operation, answer, key, **attributes):
    """Returns a maker for an EC2 resource that one operation creates, with the keys of its id and attributes."""
    def make(it, name, properties):
        made = it.call("ec2", operation, without(properties, "Tags", "MapPublicIpOnLaunch", "EnableDnsSupport", "EnableDnsHostnames"))
        made = made.get(answer, made)
        return made.get(key, name), {name: made[key] for name, key in attributes.items()}
    return make


def security_group(it, name, properties):
    own = {"GroupName": titled(name), "Description": properties["GroupDescription"], "VpcId": properties["VpcId"]}
    group = it.call("ec2", "create_security_group", own)["GroupId"]
    ranges = [{"IpProtocol": one["IpProtocol"], "FromPort": one["FromPort"], "ToPort": one["ToPort"],
               "IpRanges": [{"CidrIp": one["CidrIp"]}]} for one in properties.get("SecurityGroupIngress", [])]
    it.call("ec2", "authorize_security_group_ingress", {"GroupId": group, "IpPermissions": ranges})
    return group, {"GroupId": group}


MAKERS = {
    "AWS::AutoScaling::AutoScalingGroup": hosts,
    "AWS::ApiGatewayV2::Api": http_api,
    "AWS::ApiGatewayV2::Stage": stage,
    "AWS::CloudFormation::Stack": nested,
    "AWS::CloudWatch::Alarm": alarm,
    "AWS::CloudWatch::Dashboard": dashboard,
    "AWS::Cognito::UserPool": user_pool,
    "AWS::Cognito::UserPoolClient": user_pool_client,
    "AWS::DynamoDB::Table": table,
    "AWS::EC2::InternetGateway": ec2("create_internet_gateway", "InternetGateway", "InternetGatewayId"),
    "AWS::EC2::LaunchTemplate": launch_template,
    "AWS::EC2::Route": ec2("create_route", "", "RouteTableId"),
    "AWS::EC2::RouteTable": ec2("create_route_table", "RouteTable", "RouteTableId"),
    "AWS::EC2::SecurityGroup": security_group,
    "AWS::EC2::Subnet": ec2("create_subnet", "Subnet", "SubnetId"),
    "AWS::EC2::SubnetRouteTableAssociation": ec2("associate_route_table", "", "AssociationId"),
    "AWS::EC2::VPC": ec2("create_vpc", "Vpc", "VpcId"),
    "AWS::EC2::VPCGatewayAttachment": ec2("attach_internet_gateway", "", "InternetGatewayId"),
    "AWS::ECS::CapacityProvider": capacity_provider,
    "AWS::ECS::Cluster": cluster,
    "AWS::ECS::ClusterCapacityProviderAssociations": capacity_providers,
    "AWS::ECS::TaskDefinition": task_definition,
    "AWS::Events::Rule": rule,
    "AWS::IAM::InstanceProfile": instance_profile,
    "AWS::IAM::Role": role,
    "AWS::IAM::RolePolicy": role_policy,
    "AWS::Lambda::EventInvokeConfig": event_invoke_config,
    "AWS::Lambda::Function": function,
    "AWS::Lambda::Permission": permission,
    "AWS::Logs::LogGroup": log_group,
    "AWS::SQS::Queue": queue,
}

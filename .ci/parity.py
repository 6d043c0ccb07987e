#!/usr/bin/env python3
"""Parity with Google's Python client, from outside: each case goes as an event to the running function, and what a Dataproc
server on Google's own Python types receives is compared with what Google's client would have sent.

The cases are those of the corpus (its README: format, merge, forms) and others from parity_cases.py, made from the message
descriptors with the client as the judge. Each case meets two functions, one with RULES=warn and one with RULES=enforce.
Before them come LOADS, many requests at a time.

    python3 -m venv target/parity
    target/parity/bin/pip install google-cloud-dataproc==5.32.0 google-cloud-pubsub==2.44.0 google-cloud-storage==3.17.1
    target/parity/bin/python .ci/parity.py --function target/debug/function --emulator target/debug/emulator \
        --corpus fixtures/corpus
"""
import argparse, base64, collections, concurrent.futures, contextlib, hashlib, http.client, json, pathlib, random, re, socket
import subprocess, sys, tempfile, time, uuid

import grpc
from google.cloud._storage_v2 import types as storage
from google.longrunning import operations_pb2
from google.pubsub_v1 import types as pubsub

from parity_cases import PROJECT, Request, client, generate, strict_cluster, strict_request

BUCKET, OBJECT = "staging", "config/cluster-config.json"
NAMESPACE = uuid.UUID("3b9bf381-1a68-5b24-b98f-b7e103449df9")
Outcome = collections.namedtuple("Outcome", "status sent metadata event")

# --- The services and the functions ---------------------------------------------------------------------------------------


def serve_dataproc(received, load):
    """InstantiateInline on Google's types; every other method is UNIMPLEMENTED, for no case goes on after its submission.
    `load` has the `pause` before each answer, the number of `threads`, and further `options` of the server."""

    def instantiate(request, context):
        time.sleep(load.get("pause", 0))
        received.append((request, dict(context.invocation_metadata())))
        return operations_pb2.Operation(name=f"{request.parent}/operations/{uuid.uuid4()}")

    method = grpc.unary_unary_rpc_method_handler(
        instantiate, Request.pb().FromString, operations_pb2.Operation.SerializeToString)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(load.get("threads", 2)),
                         options=[("grpc.max_receive_message_length", 1 << 26), *load.get("options", [])])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(
        "google.cloud.dataproc.v1.WorkflowTemplateService", {"InstantiateInlineWorkflowTemplate": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return f"127.0.0.1:{port}", server


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Function:
    """One process of the function, and the Dataproc that it talks to."""

    def __init__(self, binary, region, rules, emulator, log, load={}):
        self.received, self.region, self.rules = [], region, rules
        self.dataproc, self.server = serve_dataproc(self.received, load)
        self.port = free_port()
        self.process = subprocess.Popen([binary], stdout=log, stderr=log, env={
            "PORT": str(self.port), "GOOGLE_CLOUD_PROJECT": PROJECT, "REGION": region, "STAGING_BUCKET": BUCKET,
            "RESPONSE_TOPIC": "responses", "TICK_TOPIC": "ticks", "RULES": rules, "DATAPROC_EMULATOR_HOST": self.dataproc,
            "PUBSUB_EMULATOR_HOST": emulator, "STORAGE_EMULATOR_HOST_GRPC": emulator})
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            time.sleep(0.05)
        self.http = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)

    def post(self, message_id, data):
        """Sends a request. Answers the status, and what reached Dataproc meanwhile."""
        self.received.clear()
        return self.send(self.http, message_id, data), list(self.received)

    def send(self, connection, message_id, data):
        """Sends a request as Eventarc does. Answers the status."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        message = {"data": base64.b64encode(data).decode(), "messageId": message_id, "publishTime": now}
        connection.request("POST", "/", json.dumps({"message": message, "subscription": "s"}), {
            "content-type": "application/json", "ce-specversion": "1.0", "ce-id": message_id, "ce-time": now,
            "ce-source": f"//pubsub.googleapis.com/projects/{PROJECT}/topics/requests",
            "ce-type": "google.cloud.pubsub.topic.v1.messagePublished"})
        response = connection.getresponse()
        response.read()
        return response.status


class World:
    def __init__(self, arguments, log):
        self.stack = contextlib.ExitStack()
        empty = self.stack.enter_context(tempfile.TemporaryDirectory())
        command = [arguments.emulator, "serve", "--listen", "127.0.0.1:0", "--project", PROJECT, "--topic", "responses",
                   "--objects", f"{BUCKET}={empty}"]
        emulator = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.stack.callback(emulator.kill)
        self.address = emulator.stdout.readline().split()[-1]
        channel = grpc.insecure_channel(self.address)
        self.write = channel.stream_unary("/google.storage.v2.Storage/WriteObject",
                                          storage.WriteObjectRequest.serialize, storage.WriteObjectResponse.deserialize)
        subscribe = channel.unary_unary("/google.pubsub.v1.Subscriber/CreateSubscription",
                                        pubsub.Subscription.serialize, pubsub.Subscription.deserialize)
        self.pull_call = channel.unary_unary("/google.pubsub.v1.Subscriber/Pull",
                                             pubsub.PullRequest.serialize, pubsub.PullResponse.deserialize)
        self.acknowledge = channel.unary_unary("/google.pubsub.v1.Subscriber/Acknowledge",
                                               pubsub.AcknowledgeRequest.serialize, lambda answer: answer)
        self.subscription = f"projects/{PROJECT}/subscriptions/parity"
        subscribe(pubsub.Subscription(name=self.subscription, topic=f"projects/{PROJECT}/topics/responses"))
        self.arguments, self.log, self.functions, self.config, self.count = arguments, log, {}, None, 0

    def function(self, region, rules, load={}):
        if (region, rules) not in self.functions:
            function = Function(self.arguments.function, region, rules, self.address, self.log, load)
            self.stack.callback(function.process.kill)
            self.functions[region, rules] = function
        return self.functions[region, rules]

    def put_config(self, content):
        if content != self.config:
            spec = storage.WriteObjectSpec(resource=storage.Object(name=OBJECT, bucket=f"projects/_/buckets/{BUCKET}"))
            self.write(iter([storage.WriteObjectRequest(write_object_spec=spec, write_offset=0, finish_write=True,
                                                        checksummed_data=storage.ChecksummedData(content=content))]))
            self.config = content

    def pull(self):
        """The messages of the response topic since the last time."""
        answer = self.pull_call(pubsub.PullRequest(subscription=self.subscription, max_messages=1000), timeout=10)
        ids = [message.ack_id for message in answer.received_messages]
        if ids:
            self.acknowledge(pubsub.AcknowledgeRequest(subscription=self.subscription, ack_ids=ids))
        return [message.message for message in answer.received_messages]

    def run(self, region, rules, config, request):
        """A request's whole way: what was answered, what Dataproc received, and the event about it."""
        self.put_config(config)
        self.count += 1
        message_id = f"case-{self.count}"
        status, sent = self.function(region, rules).post(message_id, request)
        events = [message for message in self.pull() if message.attributes.get("ce-messageid") == message_id]
        if status != 204 or len(events) != 1 or len(sent) > 1:
            raise Deviation(f"status {status}, {len(events)} events, {len(sent)} workflows")
        event = json.loads(events[0].data) | {"type": events[0].attributes["ce-type"].rsplit(".", 1)[-1]}
        return Outcome(status, sent[0][0] if sent else None, sent[0][1] if sent else {}, event)


# --- Judging --------------------------------------------------------------------------------------------------------------


class Deviation(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Deviation(text)


def without_differences_by_design(message, run_id):
    """Checks what this project adds to every message, and takes it away."""
    copy = Request.pb()()
    copy.CopyFrom(message)
    cluster = copy.template.placement.managed_cluster
    # Both are derived from the deployment and the run.
    region = message.parent.rsplit("/", 1)[-1]
    key = hashlib.sha256(f"{PROJECT}/{region}/{BUCKET}".encode()).digest()[:16]
    digits = base64.b32encode(bytes(a ^ b for a, b in zip(uuid.UUID(run_id).bytes, key))).decode().lower()[:20]
    check(re.fullmatch("[a-z][a-z0-9-]*", cluster.cluster_name) and cluster.cluster_name.endswith(f"-{digits}-1")
          and len(cluster.cluster_name) <= 35, f"cluster_name {cluster.cluster_name}")
    check(copy.request_id == str(uuid.uuid5(uuid.UUID(bytes=key), f"{run_id}/1")), f"request_id {copy.request_id}")
    for owner in [cluster, *copy.template.jobs]:
        check(owner.labels.pop("run_id", None) == run_id and owner.labels.pop("job_name", None) is not None,
              "labels of the run")
    cluster.ClearField("cluster_name")
    copy.ClearField("request_id")
    return copy


def judge(world, case):
    """`expected` is the client's bytes or none if it refuses, `places` where the fault is, `lenient` whether it may be refused."""
    arguments = case["region"], case["config"], case["request"]
    warn = world.run(arguments[0], "warn", *arguments[1:])
    enforce = world.run(arguments[0], "enforce", *arguments[1:])
    kind, violations = warn.event["type"], warn.event.get("violations", [])
    name = json.dumps(["message", f"projects/{PROJECT}/topics/requests", f"case-{world.count - 1}"], separators=(",", ":"))
    if not case.get("names_run"):
        check(warn.event["run_id"] == str(uuid.uuid5(NAMESPACE, name)), f"run_id {warn.event['run_id']}")
    if warn.sent is None:
        check(kind == "rejected" and violations, f"neither sent nor rejected with violations: {warn.event}")
        check(enforce.sent is None and enforce.event["type"] == "rejected", "RULES=enforce takes what warn refuses")
        if case["expected"] is not None:
            repeated = all(violation["reason"].startswith("repeated key") for violation in violations)
            check(case["lenient"] or repeated, f"refused, but Google's client takes it: {violations}")
        elif case["places"]:
            found = {(violation["document"], violation["path"]) for violation in violations}
            check(found & set(case["places"]), f"refused at {violations}, not at {case['places']}")
        return
    check(kind == "submitted", f"sent, but told as {kind}")
    check(case["expected"] is not None, "taken, but Google's client refuses it")
    parent = f"projects%2F{PROJECT}%2Fregions%2F{case['region']}"
    check(warn.metadata.get("x-goog-request-params") == f"parent={parent}", f"routing {warn.metadata}")
    sent = without_differences_by_design(warn.sent, warn.event["run_id"])
    expected = Request.pb().FromString(case["expected"])
    expected.template.placement.managed_cluster.ClearField("cluster_name")
    check(sent == expected, f"sent {sent}\nnot {expected}")
    warnings = warn.event.get("warnings", [])
    if warnings:
        check(enforce.event.get("violations") == warnings, f"other violations than warnings: {enforce.event}, {warnings}")
        check(enforce.sent is None and all(rule["path"] for rule in warnings), f"enforced: {enforce.event}, {warnings}")
    else:
        check(enforce.sent is not None, f"RULES=enforce refuses it without a warning: {enforce.event}")
        check(without_differences_by_design(enforce.sent, enforce.event["run_id"]) == expected, "RULES=enforce differs")


# --- Load -----------------------------------------------------------------------------------------------------------------

# The server is gRPC's C core, as Google's own servers are. With its default limits it ends a connection that pings too often.
LOADS = {
    "a burst": (300, 0, {"threads": 64}),
    "a burst that waits for streams": (300, 0, {"threads": 64, "options": [("grpc.max_concurrent_streams", 10)]}),
    "a slow service": (60, 0.05, {"threads": 64, "pause": 2.5}),
}


def judge_load(world, number, requests, interval, load):
    """Each of so many requests, with `interval` seconds between them, is acked, and its submission is answered, once."""
    region = f"us-load{number}"
    world.put_config(json.dumps({"default_cluster_config": {"cluster_name": "default", "config": {}}}).encode())
    data = json.dumps({"jobs": [{"step_id": "one", "pyspark_job": {"main_python_file_uri": "gs://b/main.py"}}]}).encode()
    function = world.function(region, "warn", load)

    def send(number):
        time.sleep(number * interval)
        connection = http.client.HTTPConnection("127.0.0.1", function.port, timeout=30)
        return function.send(connection, f"{region}-{number}", data)

    with concurrent.futures.ThreadPoolExecutor(requests) as threads:
        statuses = collections.Counter(threads.map(send, range(requests)))
    runs = {request.request_id for request, _ in function.received}
    kinds = collections.Counter(message.attributes["ce-type"].rsplit(".", 1)[-1] for message in world.pull())
    check(statuses == {204: requests} and kinds == {"submitted": requests}, f"answered {dict(statuses)}, told {dict(kinds)}")
    check(len(function.received) == len(runs) == requests, f"{len(function.received)} submissions of {len(runs)} runs")


# --- Cases ----------------------------------------------------------------------------------------------------------------


def text(case, key):
    raw = case.get(f"{key}_raw")
    return (json.dumps(case[key], ensure_ascii=False) if raw is None else raw).encode("utf-8", "surrogatepass")


def corpus_case(case):
    error, config, request = case["expect"].get("error"), text(case, "config"), text(case, "request")
    made = {"id": case["id"], "region": case["env"]["region"], "config": config, "request": request,
            "lenient": bool(case.get("quirks")), "expected": None, "places": []}
    if not error:
        return made | {"expected": base64.b64decode(case["expect"]["request_b64"])}
    places = error.get("source_paths") or [f"{error['source']}:{error['source_path']}"]
    made["places"] = [tuple(place.split(":", 1)) for place in places]
    if case.get("request_raw") is None and case.get("config_raw") is None:
        # What this project takes beyond the client is judged by what it means.
        made["expected"] = client(strict_cluster(case["config"]), strict_request(case["request"]), made["region"])
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--function", required=True)
    parser.add_argument("--emulator", required=True)
    parser.add_argument("--corpus", required=True, type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--generate", type=int, default=750, help="cases to make beyond the corpus")
    parser.add_argument("--only", default="", help="cases whose id contains this")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    cases = [corpus_case(json.loads(line)) for line in (arguments.corpus / "cases.jsonl").read_text().splitlines()]
    cases += generate(arguments.generate, chance)
    passed, failed = 0, 0
    with tempfile.TemporaryFile() as log:
        world = World(arguments, log)
        with world.stack:
            for number, (name, (requests, interval, load)) in enumerate(LOADS.items()):
                if arguments.only not in name:
                    continue
                try:
                    judge_load(world, number, requests, interval, load)
                    passed += 1
                except (Deviation, OSError) as deviation:
                    failed += 1
                    print(f"{name}: {deviation}")
            for case in cases:
                if arguments.only not in case["id"]:
                    continue
                try:
                    judge(world, case)
                    passed += 1
                except (Deviation, OSError, grpc.RpcError) as deviation:
                    failed += 1
                    print(f"{case['id']}: {deviation}\n  request {case['request'][:300]}\n  config {case['config'][:300]}")
    print(f"{passed} passed, {failed} failed (seed {arguments.seed})")
    sys.exit(failed > 0 or passed == 0)


if __name__ == "__main__":
    main()

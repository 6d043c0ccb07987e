"""REST in front of the emulator, which speaks gRPC: what gcloud and tf/smoke.py call of Pub/Sub, Dataproc and Cloud Logging.

Requests are read and answers are written with Google's own message types, so that an unknown field or a wrong form is
refused. What the emulator does not have is made here from what it does have: the filter of a subscription is applied to what
is pulled, clusters are those of the workflows that run, and log entries are the audit events on their way to the function.
"""
import base64, http.client, http.server, json, re, threading, urllib.parse

import grpc
from google.cloud._storage_v2 import types as storage
from google.cloud.dataproc_v1 import types as dataproc
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2, json_format
from google.pubsub_v1 import types as pubsub

TOKEN = "token-of-the-smoke-test"
HTTP_STATUS = {"INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403,
               "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "RESOURCE_EXHAUSTED": 429, "UNIMPLEMENTED": 501, "UNAVAILABLE": 503,
               "DEADLINE_EXCEEDED": 504}


class Refused(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status, self.message = status, message


class Services:
    """The server, and what a test asks of it. A contrary one leaves clusters behind, ignores the filters of operations.list,
    and logs no last entry."""

    def __init__(self, bucket, contrary=False):
        self.bucket, self.contrary = bucket, contrary
        self.calls, self.entries, self.filters, self.probe_labels, self.function = [], [], {}, {}, None
        services = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                status, answer = services.answer(self.command, self.path, self.headers, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def connect(self, emulator):
        channel = grpc.insecure_channel(emulator)

        def method(path, request, response):
            of = lambda type: type.pb() if hasattr(type, "pb") else type
            return channel.unary_unary(path, of(request).SerializeToString, of(response).FromString)

        publisher, subscriber = "/google.pubsub.v1.Publisher/", "/google.pubsub.v1.Subscriber/"
        operations = "/google.longrunning.Operations/"
        self.create_topic = method(publisher + "CreateTopic", pubsub.Topic, pubsub.Topic)
        self.publish = method(publisher + "Publish", pubsub.PublishRequest, pubsub.PublishResponse)
        self.create = method(subscriber + "CreateSubscription", pubsub.Subscription, pubsub.Subscription)
        self.list_subscriptions = method(subscriber + "ListSubscriptions", pubsub.ListSubscriptionsRequest,
                                         pubsub.ListSubscriptionsResponse)
        self.delete = method(subscriber + "DeleteSubscription", pubsub.DeleteSubscriptionRequest, empty_pb2.Empty)
        self.pull = method(subscriber + "Pull", pubsub.PullRequest, pubsub.PullResponse)
        self.acknowledge = method(subscriber + "Acknowledge", pubsub.AcknowledgeRequest, empty_pb2.Empty)
        self.instantiate = method("/google.cloud.dataproc.v1.WorkflowTemplateService/InstantiateInlineWorkflowTemplate",
                                  dataproc.InstantiateInlineWorkflowTemplateRequest, operations_pb2.Operation)
        self.get_operation = method(operations + "GetOperation", operations_pb2.GetOperationRequest, operations_pb2.Operation)
        self.list_operations = method(operations + "ListOperations", operations_pb2.ListOperationsRequest,
                                      operations_pb2.ListOperationsResponse)
        self.cancel_operation = method(operations + "CancelOperation", operations_pb2.CancelOperationRequest, empty_pb2.Empty)
        self.list_objects = method("/google.storage.v2.Storage/ListObjects", storage.ListObjectsRequest,
                                   storage.ListObjectsResponse)
        self.read_object = channel.unary_stream("/google.storage.v2.Storage/ReadObject",
                                                storage.ReadObjectRequest.pb().SerializeToString,
                                                storage.ReadObjectResponse.pb().FromString)

    # From HTTP to a call.

    def answer(self, method, target, headers, body):
        url = urllib.parse.urlsplit(target)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(url.query).items()}
        try:
            if url.path == "/audit":
                return self.audit(headers, body)
            if headers.get("authorization") != f"Bearer {TOKEN}":
                raise Refused("UNAUTHENTICATED", "Request had invalid authentication credentials.")
            parsed = json.loads(body) if body else {}
            self.calls.append((method, url.path, query, parsed))
            return 200, self.route(method, url.path, query, parsed)
        except Refused as refused:
            return self.refusal(refused.status, refused.message)
        except grpc.RpcError as error:
            return self.refusal(error.code().name, error.details())
        except (ValueError, json_format.Error) as error:
            return self.refusal("INVALID_ARGUMENT", str(error))

    def refusal(self, status, message):
        code = HTTP_STATUS.get(status, 500)
        return code, {"error": {"code": code, "message": message, "status": status}}

    def route(self, method, path, query, body):
        routes = [
            ("POST", r"/v1/(projects/[^/]+/topics/[^/]+):publish", self.rest_publish),
            ("PUT", r"/v1/(projects/[^/]+/subscriptions/[^/]+)", self.rest_create),
            ("DELETE", r"/v1/(projects/[^/]+/subscriptions/[^/]+)", self.rest_delete),
            ("POST", r"/v1/(projects/[^/]+/subscriptions/[^/]+):pull", self.rest_pull),
            ("POST", r"/v1/(projects/[^/]+/subscriptions/[^/]+):acknowledge", self.rest_acknowledge),
            ("POST", r"/v1/(projects/[^/]+/regions/[^/]+)/workflowTemplates:instantiateInline", self.rest_instantiate),
            ("GET", r"/v1/(projects/[^/]+/regions/[^/]+/operations/[^/:]+)", self.rest_get_operation),
            ("GET", r"/v1/(projects/[^/]+/regions/[^/]+/operations)", self.rest_list_operations),
            ("POST", r"/v1/(projects/[^/]+/regions/[^/]+/operations/[^/:]+):cancel", self.rest_cancel_operation),
            ("GET", r"/v1/(projects/[^/]+/regions/[^/]+)/clusters", self.rest_list_clusters),
            ("POST", r"/v2/(entries):list", self.rest_list_entries),
        ]
        query.pop("alt", None)
        for verb, pattern, handle in routes:
            match = re.fullmatch(pattern, path)
            if match and verb == method:
                return handle(match[1], query, body)
        raise Refused("NOT_FOUND", f"{method} {path} is not served")

    def of(self, type, body, **fields):
        return json_format.ParseDict({**body, **fields}, type.pb()() if hasattr(type, "pb") else type())

    # Pub/Sub.

    def rest_publish(self, topic, query, body):
        return json_format.MessageToDict(self.publish(self.of(pubsub.PublishRequest, body, topic=topic)))

    def rest_create(self, name, query, body):
        # The part of the filter language that is used here.
        match = re.fullmatch(r'attributes\.(\w+) = "([^"]*)"', body.get("filter", ""))
        if not match:
            raise Refused("INVALID_ARGUMENT", f"filter: {body.get('filter')}")
        created = self.create(self.of(pubsub.Subscription, body, name=name))
        self.filters[name] = match.groups()
        return json_format.MessageToDict(created)

    def rest_delete(self, name, query, body):
        return json_format.MessageToDict(self.delete(self.of(pubsub.DeleteSubscriptionRequest, {}, subscription=name)))

    def rest_pull(self, name, query, body):
        answer = self.pull(self.of(pubsub.PullRequest, body, subscription=name))
        key, value = self.filters[name]
        foreign = [one for one in answer.received_messages if one.message.attributes.get(key) != value]
        if foreign:
            ack_ids = [one.ack_id for one in foreign]
            self.acknowledge(self.of(pubsub.AcknowledgeRequest, {"ackIds": ack_ids}, subscription=name))
            for one in foreign:
                answer.received_messages.remove(one)
        return json_format.MessageToDict(answer)

    def rest_acknowledge(self, name, query, body):
        return json_format.MessageToDict(self.acknowledge(self.of(pubsub.AcknowledgeRequest, body, subscription=name)))

    # Dataproc.

    def rest_instantiate(self, parent, query, body):
        request = self.of(dataproc.InstantiateInlineWorkflowTemplateRequest, query, parent=parent, template=body)
        cluster = request.template.placement.managed_cluster
        self.probe_labels[cluster.cluster_name] = dict(cluster.labels)
        return json_format.MessageToDict(self.instantiate(request))

    def rest_get_operation(self, name, query, body):
        return json_format.MessageToDict(self.get_operation(self.of(operations_pb2.GetOperationRequest, {}, name=name)))

    def rest_list_operations(self, name, query, body):
        query = {**query, "pageSize": int(query.get("pageSize", 0))}
        if self.contrary:
            query.pop("filter", None)
        request = self.of(operations_pb2.ListOperationsRequest, query, name=name)
        return json_format.MessageToDict(self.list_operations(request))

    def rest_cancel_operation(self, name, query, body):
        request = self.of(operations_pb2.CancelOperationRequest, {}, name=name)
        return json_format.MessageToDict(self.cancel_operation(request))

    def operations(self, parent):
        listed = self.list_operations(self.of(operations_pb2.ListOperationsRequest, {}, name=f"{parent}/operations"))
        return json_format.MessageToDict(listed).get("operations", [])

    def rest_list_clusters(self, parent, query, body):
        match = re.fullmatch(r"labels\.(\w+) = ([\w-]+)", query.get("filter", ""))
        if not match:
            raise Refused("INVALID_ARGUMENT", f"filter: {query.get('filter')}")
        labels = self.labels()
        clusters = []
        for operation in self.operations(parent):
            metadata = operation["metadata"]
            name = metadata.get("clusterName", "")
            of_cluster = next((labels[base] for base in labels if base and base in name), {})
            # A cluster is there from its creation on, until its workflow has ended.
            there = metadata.get("clusterUuid") and (self.contrary or not operation.get("done"))
            if there and of_cluster.get(match[1]) == match[2]:
                clusters.append({"clusterName": name, "clusterUuid": metadata["clusterUuid"], "labels": of_cluster})
        return {"clusters": clusters}

    def labels(self):
        """The labels of clusters by a part of their names: what the function has recorded of its runs, and the probe's."""
        found = dict(self.probe_labels)
        bucket = f"projects/_/buckets/{self.bucket}"
        listed = self.list_objects(self.of(storage.ListObjectsRequest, {"parent": bucket, "prefix": "runs/"}))
        for one in listed.objects:
            read = self.read_object(self.of(storage.ReadObjectRequest, {"bucket": bucket, "object": one.name}))
            record = json.loads(b"".join(part.checksummed_data.content for part in read))
            cluster = dataproc.WorkflowTemplate.pb().FromString(base64.b64decode(record["template"])).placement.managed_cluster
            # Without the attempt.
            found[cluster.cluster_name.rsplit("-", 1)[0]] = dict(cluster.labels)
        return found

    # The audit log.

    def audit(self, headers, body):
        """Keeps the entry, and hands the event on to the function."""
        self.entries.append(json.loads(body))
        connection = http.client.HTTPConnection(self.function, timeout=15)
        passed_on = {key: value for key, value in headers.items() if key.lower().startswith(("ce-", "content-type"))}
        connection.request("POST", "/", body, passed_on)
        response = connection.getresponse()
        response.read()
        return response.status, {}

    def rest_list_entries(self, _, query, body):
        terms = [re.fullmatch(r'([\w.]+)(=|:)"([^"]*)"', term) for term in body.get("filter", "").split(" AND ")]
        if not all(terms):
            raise Refused("INVALID_ARGUMENT", f"filter: {body.get('filter')}")

        def holds(entry, path, relation, value):
            for name in path.split("."):
                entry = entry.get(name, {}) if isinstance(entry, dict) else {}
            return entry == value if relation == "=" else isinstance(entry, str) and value in entry

        logged = [entry for entry in self.entries if not (self.contrary and entry["operation"].get("last"))]
        found = [entry for entry in logged if all(holds(entry, *term.groups()) for term in terms)]
        found.sort(key=lambda entry: entry["timestamp"], reverse=body.get("orderBy") != "timestamp asc")
        return {"entries": found[:body.get("pageSize", 1000)]}

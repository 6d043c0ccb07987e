#!/usr/bin/env python3
"""Tries a deployed inline-workflow: publishes requests, follows their events, checks what comes of them, and prints what
Dataproc does where its documentation is silent.

It costs money: three clusters as the configuration of the example's job_name has them, for 3 to 8 minutes each and at the
same time, and one of a single machine for about 2 minutes (--skip-probe leaves it out). If Dataproc takes a repeated
request_id for a new workflow, up to three more of these are begun and cancelled at once. With machines of 4 vCPUs, a master
and two workers, have a quota of 40 vCPUs and expect well below one US dollar.

Everything it starts has the label smoke=ID. It needs gcloud, logged in as somebody who may publish, create subscriptions,
start and cancel workflows, list clusters and operations, and read logs (roles/pubsub.editor, roles/dataproc.editor with
roles/iam.serviceAccountUser on the clusters' account, roles/logging.viewer); and Terraform, for what is not given as a flag.

Exit code: 0 if everything expected came about, 1 if not, 2 if it could not begin, 130 after Ctrl-C.
"""
import argparse, base64, collections, copy, datetime, json, os, pathlib, queue, re, secrets, signal, subprocess, sys
import threading, time, urllib.error, urllib.parse, urllib.request, uuid

TYPE_PREFIX = "inlineworkflow.dataproc.run.v1."
ENDS = {"succeeded", "failed", "cancelled", "rejected"}
INSTANTIATE_INLINE = "google.cloud.dataproc.v1.WorkflowTemplateService.InstantiateInlineWorkflowTemplate"
POLL_SECONDS = 2
# An access token lives for an hour; gcloud hands out a cached one with some minutes left.
TOKEN_SECONDS = 240
MOST_PAGES = 40
PULL_TROUBLES = 5
# Once the runs have ended, every other answer is due at once; Pub/Sub's redelivery may take a while.
QUIET_SECONDS = 90


class Trouble(Exception):
    """Something that could not be done, in words for the user."""


class Refusal(Trouble):
    """gcloud has said no, so that nothing was done."""


class NotReady(Exception):
    """Why it cannot begin."""


# --- What was deployed ----------------------------------------------------------------------------------------------------


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        prog="smoke.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Project, region, topics and the example are taken from Terraform's outputs where they are not given.")
    parser.add_argument("--project", metavar="P",
                        type=matching(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "a project id"))
    parser.add_argument("--region", metavar="R", type=matching(r"[a-z]+-[a-z]+[0-9]+", "a region, as us-central1"))
    parser.add_argument("--requests-topic", metavar="T", type=topic, help="short id, or projects/P/topics/T")
    parser.add_argument("--responses-topic", metavar="T", type=topic, help="likewise")
    parser.add_argument("--prefix", type=matching("[a-z][a-z0-9-]*", "lower-case letters, digits and hyphens"),
                        help="the topics are PREFIX-requests and PREFIX-responses, unless they are given")
    parser.add_argument("--example-request", metavar="FILE", type=pathlib.Path, help="JSON of a request that succeeds")
    parser.add_argument("--tf", metavar="DIRECTORY", type=pathlib.Path, default=pathlib.Path(__file__).parent,
                        help="where Terraform's outputs are read (default: %(default)s)")
    parser.add_argument("--timeout", metavar="MINUTES", type=positive, default=30,
                        help="for all requests together to come to their ends (default: %(default)s)")
    parser.add_argument("--patience", metavar="SECONDS", type=positive, default=180,
                        help="for what comes late: the last audit log entry, clusters to go (default: %(default)s)")
    parser.add_argument("--skip-probe", action="store_true", help="do not start a workflow beside the function")
    parser.add_argument("--report", metavar="PATH", type=pathlib.Path,
                        help="write expectations, findings and events there, as JSON")
    parser.add_argument("--dataproc-endpoint", metavar="URL",
                        default=os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_DATAPROC"),
                        help="default: CLOUDSDK_API_ENDPOINT_OVERRIDES_DATAPROC, which gcloud follows too, or the region's")
    return parser.parse_args(arguments)


def matching(pattern, what):
    def check(text):
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return text
    return check


def topic(text):
    name = r"(projects/[^/]+/topics/)?[A-Za-z][A-Za-z0-9._~+%-]{2,254}"
    return matching(name, "a topic: a short id or projects/P/topics/T")(text)


def positive(text):
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < 1e5:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def deployment(arguments):
    """Fills in what no flag gives. Afterwards topics are full names, and the example is an object."""
    if arguments.prefix:
        arguments.requests_topic = arguments.requests_topic or f"{arguments.prefix}-requests"
        arguments.responses_topic = arguments.responses_topic or f"{arguments.prefix}-responses"
    names = ["project", "region", "requests_topic", "responses_topic", "example_request"]
    missing = [name for name in names if getattr(arguments, name) is None]
    if missing:
        outputs = terraform_outputs(arguments.tf, missing)
        absent = [name for name in missing if not isinstance(outputs.get(name), str) or not outputs[name]]
        if absent:
            raise NotReady(f"Terraform in {arguments.tf} has no output {', '.join(absent)}: run terraform apply there first, "
                           f"or give {', '.join(flag(name) for name in absent)}")
        if arguments.project and outputs.get("project", arguments.project) != arguments.project:
            raise NotReady(f"--project is {arguments.project}, but Terraform's outputs in {arguments.tf} are of "
                           f"{outputs['project']}; without it, {', '.join(flag(name) for name in missing)} must be given")
        for name in missing:
            setattr(arguments, name, outputs[name])
    for name in ("requests_topic", "responses_topic"):
        if not getattr(arguments, name).startswith("projects/"):
            setattr(arguments, name, f"projects/{arguments.project}/topics/{getattr(arguments, name)}")
    text, place = arguments.example_request, "the output example_request"
    if isinstance(text, pathlib.Path):
        place = str(text)
        try:
            text = text.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise NotReady(f"--example-request {place}: {error}") from error
    arguments.example_request = example(text, place)
    regional = f"https://{arguments.region}-dataproc.googleapis.com"
    arguments.dataproc_endpoint = (arguments.dataproc_endpoint or regional).rstrip("/")


def flag(name):
    return "--" + name.replace("_", "-")


def terraform_outputs(directory, missing):
    advice = f"give {', '.join(flag(name) for name in missing)}"
    try:
        done = subprocess.run(["terraform", f"-chdir={directory}", "output", "-json"], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        raise NotReady(f"terraform is not on the PATH; without it, {advice}") from error
    except subprocess.TimeoutExpired as error:
        raise NotReady(f"terraform output does not answer; without it, {advice}") from error
    if done.returncode:
        raise NotReady(f"terraform output failed in {directory}; without it, {advice}\n{done.stderr.strip()}")
    return {name: output.get("value") for name, output in json.loads(done.stdout).items()}


def example(text, place):
    try:
        request = json.loads(text)
    except ValueError as error:
        raise NotReady(f"{place} is not JSON: {error}") from error
    runs = isinstance(request, dict) and request.get("action", "run") == "run"
    if not runs or not isinstance(request.get("job_name"), str):
        raise NotReady(f"{place} is not a request to run something, with a job_name")
    if script_of(request) is None:
        raise NotReady(f"{place}: jobs name no script (main_python_file_uri or the like), so none can be made to fail")
    return request


def script_of(request):
    """The object and key that name the first script of a request."""
    for job in request.get("jobs") or []:
        for of_type in job.values() if isinstance(job, dict) else []:
            for key in of_type if isinstance(of_type, dict) else []:
                if re.fullmatch(r"(main_\w+|query)_file_uri|(main\w+|query)FileUri", key):
                    return of_type, key
    return None


# --- gcloud, and the API where gcloud has no command ----------------------------------------------------------------------

running = set()


def gcloud(*arguments, limit=90):
    """Runs gcloud, which a Ctrl-C at the terminal must not reach: it is needed for cleaning up. What it printed."""
    name = "gcloud " + " ".join(word for word in arguments[:3] if re.fullmatch("[a-z-]+", word))
    try:
        process = subprocess.Popen(["gcloud", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, start_new_session=True)
    except OSError as error:
        raise Trouble(f"gcloud cannot be started: {error}") from error
    running.add(process)
    try:
        printed, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise Trouble(f"{name}: no answer within {limit} s") from error
    finally:
        if process.poll() is None:
            kill(process)
            process.communicate()
        running.discard(process)
    if process.returncode:
        raise Refusal(f"{name}: {' '.join(errors.split())[-600:] or f'exit code {process.returncode}'}")
    return printed


def kill(process):
    try:
        # gcloud is a shell script: the program itself is its child.
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def gcloud_json(*arguments, limit=90):
    return json.loads(gcloud(*arguments, "--format=json", limit=limit) or "null")


Answer = collections.namedtuple("Answer", "status body")


class Dataproc:
    """Dataproc's REST API, for what gcloud cannot say: a request_id of one's own, any filter, answers as they are."""

    def __init__(self, endpoint, project, region):
        self.endpoint, self.parent = endpoint, f"projects/{project}/regions/{region}"
        self.lock, self.token, self.token_until = threading.Lock(), None, 0

    def access_token(self, anew):
        with self.lock:
            if anew or time.monotonic() > self.token_until:
                self.token = gcloud("auth", "print-access-token").strip()
                self.token_until = time.monotonic() + TOKEN_SECONDS
            return self.token

    def call(self, method, path, body=None, **query):
        """One call, repeated only when the token was refused. The service's own refusals are answers."""
        url = f"{self.endpoint}/v1/{path}" + ("?" + urllib.parse.urlencode(query) if query else "")
        for anew in (False, True):
            headers = {"authorization": f"Bearer {self.access_token(anew)}", "content-type": "application/json"}
            data = None if body is None else json.dumps(body).encode()
            try:
                request = urllib.request.Request(url, data, headers, method=method)
                with urllib.request.urlopen(request, timeout=60) as response:
                    return Answer(response.status, json.loads(response.read() or b"{}"))
            except urllib.error.HTTPError as error:
                text = error.read().decode(errors="replace")
                try:
                    answer = Answer(error.code, json.loads(text))
                except ValueError:
                    answer = Answer(error.code, {"error": {"message": text[:500]}})
                if error.code != 401:
                    break
            except (OSError, ValueError) as error:
                raise Trouble(f"{method} {url.split('?')[0]}: {error}") from error
        return answer

    def get(self, path, **query):
        """A call that may be repeated when the service or the way to it stumbles."""
        for attempt in range(4):
            try:
                answer = self.call("GET", path, **query)
                if answer.status not in (429, 500, 502, 503, 504):
                    return answer
                trouble = Trouble(f"GET {path}: {refusal(answer)}")
            except Trouble as error:
                trouble = error
            time.sleep(POLL_SECONDS * (attempt + 1))
        raise trouble

    def operation(self, name):
        answer = self.get(name)
        if answer.status != 200:
            raise Trouble(f"operations.get {name}: {refusal(answer)}")
        return answer.body

    def operations(self, filter):
        """Every page of operations.list: the status, and the operations by their names."""
        found, token = {}, ""
        for _ in range(MOST_PAGES):
            query = {"pageSize": 500} | ({"filter": filter} if filter else {}) | ({"pageToken": token} if token else {})
            answer = self.get(f"{self.parent}/operations", **query)
            if answer.status != 200:
                return answer, {}
            found.update((operation["name"], operation) for operation in answer.body.get("operations", []))
            token = answer.body.get("nextPageToken")
            if not token:
                return answer, found
        raise Trouble(f"operations.list: more than {MOST_PAGES} pages of 500")


def refusal(answer):
    error = answer.body.get("error", {}) if isinstance(answer.body, dict) else {}
    return f"{answer.status} {error.get('status', '')} {' '.join(str(error.get('message', '')).split())}".strip()


def metadata(operation):
    return operation.get("metadata", {})


# --- One smoke test -------------------------------------------------------------------------------------------------------


class Event:
    def __init__(self, received):
        message = received["message"]
        self.attributes, self.message_id = message.get("attributes", {}), message.get("messageId")
        self.published = message.get("publishTime")
        self.readable, self.data = True, {}
        try:
            # gcloud prints bytes in the alphabet of URLs; the API itself has the other one.
            self.data = dict(json.loads(base64.b64decode((message.get("data") or "").translate(str.maketrans("-_", "+/")))))
        except (ValueError, TypeError):
            self.readable = False
        self.id, self.run_id = self.attributes.get("ce-id", ""), self.attributes.get("ce-runid", "")
        self.case = self.attributes.get("case", "")
        self.word = self.attributes.get("ce-type", "").removeprefix(TYPE_PREFIX)

    def line(self):
        steps = ", ".join(f"{step.get('step_id')} {str(step.get('state')).lower()}" for step in self.data.get("steps", []))
        cluster = self.data.get("cluster", {}).get("name")
        parts = [f"{self.case:<9}  {self.word:<10}  {self.data.get('job_name', '')}  {self.run_id[:8]}",
                 cluster and f"cluster {cluster}", steps, error_text(self.data.get("error"))]
        return "  ".join(part for part in parts if part)


def error_text(error):
    return " ".join(f"{error.get('code')}: {error.get('message')}".split())[:300] if error else ""


def say(text):
    print(f"{datetime.datetime.now():%H:%M:%S}  {text}", flush=True)


class Smoke:
    def __init__(self, arguments):
        self.arguments, self.id = arguments, secrets.token_hex(4)
        self.dataproc = Dataproc(arguments.dataproc_endpoint, arguments.project, arguments.region)
        self.deadline = time.monotonic() + arguments.timeout * 60
        self.subscription = f"projects/{arguments.project}/subscriptions/smoke-{self.id}"
        # Each message that is sent, by its name, and the events that it or its run caused.
        self.sent, self.requests, self.events = {}, {}, []
        self.incoming, self.stopping, self.subscribed = queue.Queue(), threading.Event(), False
        self.expectations, self.findings, self.troubles = [], [], []
        self.clusters_of_example, self.clusters_left, self.filters_tried = [], None, False
        self.probe_thread, self.probe_operations, self.probe_finished = None, set(), False

    # Messages out, events in.

    def publish(self, case, request):
        """Sends one message. Its attributes come back with its events."""
        self.requests[case] = request
        printed = gcloud_json("pubsub", "topics", "publish", self.arguments.requests_topic,
                              f"--message={json.dumps(request)}", f"--attribute=smoke={self.id},case={case}")
        ids = printed.get("messageIds") if isinstance(printed, dict) else printed
        self.sent[case] = ids[0] if isinstance(ids, list) else ids
        say(f"{case:<9}  published   as message {self.sent[case]}")

    def of(self, case, *words):
        return [event for event in self.events if event.case == case and (not words or event.word in words)]

    def end(self, case):
        return next(iter(self.of(case, *ENDS)), None)

    def named(self):
        """The last event of the example that names its cluster."""
        return next((event for event in reversed(self.of("example")) if event.data.get("cluster", {}).get("name")), None)

    def run_request(self, case):
        request = copy.deepcopy(self.arguments.example_request)
        request["request_id"] = f"smoke-{self.id}-{case}"
        request["labels"] = {**request.get("labels", {}), "smoke": self.id}
        if case == "failing":
            of_type, key = script_of(request)
            of_type[key] = f"{of_type[key].rpartition('/')[0]}/not_there_{self.id}"
        return request

    def subscribe(self):
        # A subscription of its own, so that nobody's is drained; gone after a day even if this process is killed.
        self.subscribed = True
        try:
            gcloud("pubsub", "subscriptions", "create", self.subscription, f"--topic={self.arguments.responses_topic}",
                   f'--message-filter=attributes.smoke = "{self.id}"', "--enable-message-ordering", "--ack-deadline=60",
                   "--message-retention-duration=1h", "--expiration-period=24h")
        except Refusal:
            self.subscribed = False
            raise
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        troubles = 0
        while not self.stopping.is_set():
            try:
                received = gcloud_json("pubsub", "subscriptions", "pull", self.subscription, "--auto-ack", "--limit=100",
                                       limit=300)
                troubles = 0
            except (Trouble, ValueError) as trouble:
                troubles += 1
                if troubles == PULL_TROUBLES:
                    self.incoming.put(trouble)
                    return
                self.stopping.wait(POLL_SECONDS)
                continue
            for one in received or []:
                self.incoming.put(Event(one))

    # The course of things.

    def converse(self):
        """Sends everything and follows it to its end, or until the time is up."""
        example = self.run_request("example")
        for case in ("example", "failing", "cancelled"):
            self.publish(case, self.run_request(case))
        self.publish("invalid", {**copy.deepcopy(self.arguments.example_request), "jbos": []})
        validate = {**self.run_request("validate"), "action": "validate"}
        del validate["request_id"]
        self.publish("validate", validate)
        last = time.monotonic()
        while not self.settled():
            if time.monotonic() > self.deadline:
                self.troubles.append(f"not everything came to an end within {self.arguments.timeout:g} minutes")
                return
            if not self.unended() and not self.probing() and time.monotonic() > last + QUIET_SECONDS:
                self.troubles.append(f"all runs have ended, and nothing else has come for {QUIET_SECONDS} s")
                return
            try:
                event = self.incoming.get(timeout=1)
            except queue.Empty:
                continue
            if isinstance(event, Exception):
                raise event
            if event.attributes.get("smoke") == self.id:
                self.events.append(event)
                say(event.line())
                if not event.readable:
                    self.troubles.append(f"the data of event {event.id} in message {event.message_id} is not a JSON object")
                self.react(event, example)
                last = time.monotonic()

    def react(self, event, example):
        if event.case == "example" and event.word == "submitted" and "duplicate" not in self.sent:
            self.publish("duplicate", example)
            self.publish("status", {"action": "status", "run_id": event.run_id})
        if self.ran() and "again" not in self.sent:
            self.publish("again", example)
        if event.case == "cancelled" and event.word == "submitted" and "cancel" not in self.sent:
            self.publish("cancel", {"action": "cancel", "run_id": event.run_id})
        wanted = not self.arguments.skip_probe and self.probe_thread is None
        if event.case == "validate" and event.word == "validated" and wanted:
            self.probe_thread = threading.Thread(target=self.guarded, args=(probe, self, event), daemon=True)
            self.probe_thread.start()
        if event.case == "example" and not self.end("example") and not self.clusters_of_example:
            self.clusters_of_example = self.clusters(f"labels.run_id = {event.run_id}")
        if event.word in ENDS and event.data.get("operation") and not self.filters_tried and self.named():
            # One workflow has ended and others may run: now a filter shows what it does.
            self.filters_tried = True
            self.guarded(try_filters, self)

    def guarded(self, step, *arguments):
        try:
            step(*arguments)
        except Trouble as trouble:
            self.troubles.append(str(trouble))
            say(f"{step.__name__}: {trouble}")

    def settled(self):
        answers = all(self.of(case, "answered", "validated", "rejected")
                      for case in ("invalid", "validate", "status", "cancel") if case in self.sent)
        repeated = all(self.repetition(case) for case in ("duplicate", "again") if case in self.sent)
        return not self.unended() and answers and repeated and not self.probing()

    def ran(self):
        """Whether the example has come to an end after it was submitted."""
        end = self.end("example")
        return end is not None and end.word != "rejected" and "duplicate" in self.sent

    def probing(self):
        return self.probe_thread is not None and self.probe_thread.is_alive()

    def repetition(self, case):
        """The event that a repeated request caused: one that was told before, in another message of Pub/Sub's."""
        end = self.end("example")
        for at, event in enumerate(self.events):
            earlier = [other for other in self.events[:at] if other.id == event.id and other.message_id != event.message_id]
            after_end = end is not None and event.id == end.id
            if event.case == "example" and earlier and after_end == (case == "again"):
                return event
        # The first repetition may be of the end already, if the run was quick.
        of_end = [event for event in self.events if end is not None and event.id == end.id]
        if case == "duplicate" and len({event.message_id for event in of_end}) >= 3:
            return of_end[1]
        return None

    def clusters(self, filter):
        try:
            found = gcloud_json("dataproc", "clusters", "list", f"--region={self.arguments.region}",
                                f"--project={self.arguments.project}", f"--filter={filter}")
        except Trouble as trouble:
            self.troubles.append(str(trouble))
            return []
        return [cluster["clusterName"] for cluster in found or []]

    def wait_for_clusters(self):
        """The clusters that are still there when the patience is at its end."""
        until = time.monotonic() + self.arguments.patience
        while True:
            known = len(self.troubles)
            left = self.clusters(f"labels.smoke = {self.id}")
            if not left and len(self.troubles) == known:
                self.clusters_left = []
                return
            if time.monotonic() > until:
                self.clusters_left = left if left else None
                return
            time.sleep(5)

    def find(self, fact, text, evidence):
        self.findings.append({"fact": fact, "finding": text, "evidence": evidence})

    # The end, whatever happened.

    def unended(self):
        """What was sent to run and has not ended; and what should not have run at all, and does."""
        runs = {"example", "failing", "cancelled"} & self.requests.keys()
        runs |= {event.case for event in self.events if event.word in ("submitted", "progressed")}
        return sorted(case for case in runs if self.end(case) is None)

    def stop_what_runs(self):
        """Cancels what has not ended: by the function, so that it tries nothing again, and at Dataproc itself."""
        self.stopping.set()
        if self.probe_thread is not None:
            self.probe_thread.join(60)
        for case in self.unended():
            run_ids = {event.run_id for event in self.of(case)}
            names = [{"run_id": run_id} for run_id in run_ids] or [
                {key: self.requests[case][key] for key in ("job_name", "request_id")}]
            for name in names:
                self.guarded(self.publish, f"stop-{case}", {"action": "cancel", **name})
            operations = {event.data["operation"] for event in self.of(case) if event.data.get("operation")}
            for operation in operations:
                self.guarded(cancel, self, operation)
        if not self.probe_finished:
            for operation in sorted(self.probe_operations):
                self.guarded(cancel, self, operation)

    def clean_up(self):
        if self.subscribed:
            self.guarded(gcloud, "pubsub", "subscriptions", "delete", self.subscription)
        for process in list(running):
            kill(process)


def cancel(smoke, operation):
    gcloud("dataproc", "operations", "cancel", operation, f"--region={smoke.arguments.region}",
           f"--project={smoke.arguments.project}", "--quiet")


# --- What google-facts.md calls unconfirmed -------------------------------------------------------------------------------


def probe(smoke, validated):
    """Starts a workflow beside the function, with the example's cluster but on one machine, and repeats its request_id."""
    dataproc, request_id = smoke.dataproc, str(uuid.uuid4())
    template = single_node(validated.data.get("template"), smoke.id)
    name = template["placement"]["managedCluster"]["clusterName"]

    def instantiate(when):
        began = time.monotonic()
        path = f"{dataproc.parent}/workflowTemplates:instantiateInline"
        answer = dataproc.call("POST", path, template, requestId=request_id)
        operation = answer.body.get("name") if answer.status == 200 else None
        if operation:
            smoke.probe_operations.add(operation)
        say(f"probe      {when}: {operation or refusal(answer)}")
        return {"when": when, "status": answer.status, "seconds": round(time.monotonic() - began, 2), "operation": operation,
                "body": answer.body}

    def repeat(when):
        answer = instantiate(when)
        if answer["operation"] and answer["operation"] != first["operation"]:
            cancel(smoke, answer["operation"])
        return answer

    first = instantiate("first call")
    answered = time.monotonic()
    if not first["operation"]:
        raise Trouble(f"the probe's InstantiateInline was refused: {first['status']} {json.dumps(first['body'])[:400]}")
    seen = []

    def look():
        operation = dataproc.operation(first["operation"])
        shown = {"state": metadata(operation).get("state"), "clusterName": metadata(operation).get("clusterName"),
                 "clusterUuid": metadata(operation).get("clusterUuid"), "done": operation.get("done", False)}
        if not seen or shown != {key: seen[-1][key] for key in shown}:
            seen.append({"seconds": round(time.monotonic() - answered, 1), **shown})
        return operation

    def wait(condition, what, minutes):
        until = time.monotonic() + minutes * 60
        while not condition(operation := look()):
            if time.monotonic() > until or smoke.stopping.wait(POLL_SECONDS):
                raise Trouble(f"the probe's workflow {first['operation']}: not {what} within {minutes} minutes, or stopped")
        return operation

    look()
    answers = [repeat("repeated at once")]
    running = lambda operation: operation.get("done") or metadata(operation).get("state") == "RUNNING" and \
        metadata(operation).get("clusterName")
    wait(running, "running with a cluster name", 5)
    answers.append(repeat("repeated while it runs"))
    cancel(smoke, first["operation"])
    ended = wait(lambda operation: operation.get("done"), "ended after its cancellation", 10)
    answers.append(repeat("repeated after its end"))
    for operation in smoke.probe_operations - {first["operation"]}:
        until = time.monotonic() + 600
        while not dataproc.operation(operation).get("done"):
            if time.monotonic() > until or smoke.stopping.wait(POLL_SECONDS):
                raise Trouble(f"the probe's second workflow {operation} does not end after its cancellation")
    smoke.probe_finished = True
    meaning = lambda answer: ("the same operation" if answer["operation"] == first["operation"] else
                              f"a second workflow, {answer['operation']}" if answer["operation"] else
                              f"refused: {refusal(Answer(answer['status'], answer['body']))}")
    smoke.find("repeated request_id", "; ".join(f"{answer['when']}: {meaning(answer)}" for answer in answers),
               {"request_id": request_id, "answers": [first, *answers]})
    in_answer = metadata(first["body"]).get("clusterName")
    named = next((look for look in seen if look["clusterName"]), None)
    fits = named and named["clusterName"].startswith(name)
    smoke.find("cluster_name in the operation",
               f"in the answer of InstantiateInline: {in_answer or 'not there'}; by operations.get: "
               + (f"{named['seconds']} s after it, in state {named['state']}, as {named['clusterName']} "
                  f"({'the name asked for and a suffix' if fits else 'NOT beginning with the name asked for'}: {name})"
                  if named else "never"), {"asked for": name, "seen": seen})
    smoke.find("the end of a cancelled workflow", ending(ended), ended)


def single_node(template, smoke_id):
    """The template of a validated event, cut down to its first step on one machine."""
    if not isinstance(template, dict) or not template.get("jobs") or "managedCluster" not in template.get("placement", {}):
        raise Trouble("there was nothing to probe with: the validated event holds no template with jobs and a managed cluster")
    template = copy.deepcopy(template)
    job = template["jobs"][0]
    template["jobs"] = [job]
    for key in ("prerequisiteStepIds", "labels"):
        job.pop(key, None)
    cluster = template["placement"]["managedCluster"]
    cluster["clusterName"] = f"smoke-{smoke_id}"
    labels = {key: value for key, value in cluster.get("labels", {}).items() if key not in ("run_id", "job_name")}
    cluster["labels"] = {**labels, "smoke": smoke_id}
    config = cluster.setdefault("config", {})
    for key in ("workerConfig", "secondaryWorkerConfig", "autoscalingConfig", "auxiliaryNodeGroups"):
        config.pop(key, None)
    config.setdefault("masterConfig", {})["numInstances"] = 1
    config.setdefault("softwareConfig", {}).setdefault("properties", {})["dataproc:dataproc.allow.zero.workers"] = "true"
    # Should everything else fail, it goes by itself.
    config.setdefault("lifecycleConfig", {})["autoDeleteTtl"] = "1800s"
    config["lifecycleConfig"].pop("autoDeleteTime", None)
    return template


def ending(operation):
    graph = metadata(operation).get("graph", {})
    nodes = ", ".join(f"{node.get('stepId')} {node.get('state')}" for node in graph.get("nodes", []))
    error = operation.get("error")
    said = f"error {error.get('code')} {' '.join(str(error.get('message')).split())[:200]}" if error else \
        f"no error, response {json.dumps(operation.get('response'))}"
    return f"done {operation.get('done', False)}, state {metadata(operation).get('state')}, {said}; nodes: {nodes or 'none'}"


def look_at_ends(smoke):
    for case in ("example", "failing"):
        end = smoke.end(case)
        if end is not None and end.data.get("operation"):
            operation = smoke.dataproc.operation(end.data["operation"])
            smoke.find(f"the operation of a run that {end.word}", ending(operation), operation)


Filter = collections.namedtuple("Filter", "text required allowed")


def filters(cluster, run_id):
    """What a filter must give, and what it may give, told from an operation itself."""
    active = lambda operation: not operation.get("done")
    workflow = lambda operation: metadata(operation).get("@type", "").endswith(".WorkflowMetadata")
    of_cluster = lambda operation: metadata(operation).get("clusterName") == cluster
    labelled = lambda operation: metadata(operation).get("labels", {}).get("run_id") == run_id
    both = lambda operation: active(operation) and workflow(operation)
    return [
        Filter("status.state = ACTIVE", active, active),
        # The function's own, when it looks for a workflow whose submission got no answer.
        Filter("operationType = WORKFLOW", workflow, workflow),
        Filter("status.state = ACTIVE AND operationType = WORKFLOW", both, both),
        Filter(f"clusterName = {cluster}", of_cluster, of_cluster),
        # A workflow's metadata shows no labels; if it counts as labelled like its cluster, that is right too.
        Filter(f"labels.run_id = {run_id}", labelled, lambda operation: labelled(operation) or of_cluster(operation)),
    ]


def try_filters(smoke):
    """Compares each filtered list with the whole list, taken before and after it, for operations come and go."""
    event = smoke.named()
    if event is None:
        raise Trouble("the filters of operations.list were not tried: no event of the example names its cluster")
    answer, before = smoke.dataproc.operations("")
    if answer.status != 200:
        raise Trouble(f"operations.list without a filter: {refusal(answer)}")
    rows = [{"filter": "", "status": 200, "count": len(before), "verdict": "the whole list"}]
    for filter in filters(event.data["cluster"]["name"], event.run_id):
        answer, got = smoke.dataproc.operations(filter.text)
        _, after = smoke.dataproc.operations("")
        told = verdict(filter, got, before, after) if answer.status == 200 else f"refused: {refusal(answer)}"
        rows.append({"filter": filter.text, "status": answer.status, "count": len(got), "of": len(after),
                     "operations": sorted(got)[:20], "verdict": told})
        before = after
    smoke.find("filters of operations.list", "\n".join(
        f"{row['filter'] or '(none)':<52} {row['status']}  {row['count']:>4}  {row['verdict']}" for row in rows), rows)


def verdict(filter, got, before, after):
    everything = before.keys() & after.keys()
    required = {name for name in everything if filter.required(before[name]) and filter.required(after[name])}
    states = [*before.items(), *after.items(), *got.items()]
    allowed = {name for name, operation in states if filter.allowed(operation)}
    missing, extra = required - got.keys(), got.keys() - allowed
    if not missing and not extra:
        if not got:
            return "nothing came, and nothing shows that anything should have"
        return "no proof: it holds for every operation there is" if everything <= required else "honoured"
    if everything <= got.keys():
        return "IGNORED: the whole list came"
    return f"neither honoured nor ignored: {len(missing)} missing, {len(extra)} too many"


def read_audit_log(smoke):
    """The entries of the example's InstantiateInline call; the last one comes some time after the workflow's end."""
    operation = next((event.data["operation"] for event in smoke.of("example") if event.data.get("operation")), None)
    if operation is None:
        raise Trouble("the audit log was not read: no event of the example names its operation")
    filter = (f'protoPayload.serviceName="dataproc.googleapis.com" AND protoPayload.methodName="{INSTANTIATE_INLINE}" AND '
              f'operation.id:"{operation.rpartition("/")[2]}"')
    patience = f"within {smoke.arguments.patience:g} s of the end"
    until = time.monotonic() + smoke.arguments.patience
    while True:
        entries = gcloud_json("logging", "read", filter, f"--project={smoke.arguments.project}", "--order=asc",
                              "--limit=50") or []
        whole = any(entry.get("operation", {}).get("last") for entry in entries)
        if whole or time.monotonic() > until:
            break
        time.sleep(5)
    if not entries:
        return smoke.find("audit log of the call", f"no entry {patience}", {"filter": filter})
    told = [f"{len(entries)} entries; operation.id is "
            + ("the operation's full name" if entries[0]["operation"].get("id") == operation else
               f"{entries[0]['operation'].get('id')}, NOT the operation's full name")]
    for place, entry in (("first", entries[0]), ("last", entries[-1])):
        payload = entry.get("protoPayload", {})
        told.append(f"{place}: operation.first {entry.get('operation', {}).get('first', False)}, operation.last "
                    f"{entry.get('operation', {}).get('last', False)}, status {json.dumps(payload.get('status'))}, response "
                    f"{json.dumps(payload.get('response'))[:300]}, protoPayload has {', '.join(sorted(payload))}")
    if not whole:
        told.append(f"none with operation.last {patience}")
    smoke.find("audit log of the call", "\n".join(told), {"filter": filter, "entries": entries})


# --- Judging --------------------------------------------------------------------------------------------------------------


def judge(smoke):
    def expect(text, holds, evidence):
        smoke.expectations.append({"expected": text, "ok": bool(holds), "evidence": evidence})

    first = lambda case, word: next(iter(smoke.of(case, word)), None)
    example, failing = smoke.end("example"), smoke.end("failing")
    started = first("example", "submitted")
    expect("the example is submitted and succeeds", started and example and example.word == "succeeded",
           course(smoke, "example"))
    name = smoke.named() and smoke.named().data["cluster"]["name"]
    expect("its cluster is found by the label run_id", name and name in smoke.clusters_of_example,
           f"listed: {', '.join(smoke.clusters_of_example) or 'none'}; told: {name}")
    blamed = [step for step in failing.data.get("steps", []) if step.get("root_cause")] if failing else []
    why = "".join(f"; {step.get('step_id')}: " + " ".join(str(step.get("error")).split())[:300] for step in blamed)
    expect("a missing script fails, with a step's error as the root cause",
           failing and failing.word == "failed" and any(step.get("error") for step in blamed), course(smoke, "failing") + why)
    answer, cancelled = first("cancel", "answered"), first("cancelled", "submitted")
    expect("a cancel is answered", answer and cancelled and answer.data.get("found") and answer.run_id == cancelled.run_id,
           course(smoke, "cancel"))
    ended = smoke.end("cancelled")
    expect("the run then ends as cancelled", ended and ended.word == "cancelled", course(smoke, "cancelled"))
    for case, text in (("duplicate", "the same request while it runs repeats an event of the run"),
                       ("again", "the same request after the end repeats the end")):
        event = smoke.repetition(case)
        expect(text, event, f"{event.id} in message {event.message_id}" if event else sent_or_not(smoke, case))
    runs = {event.run_id for case in ("example", "duplicate", "again") for event in smoke.of(case)}
    expect("all three are one run", started and "again" in smoke.sent and len(runs) == 1,
           ", ".join(sorted(runs)) or "no event")
    of_run = workflows_of(smoke, started) if started else []
    expect("and one workflow", len(of_run) == 1, ", ".join(of_run) or "none found")
    rejected = first("invalid", "rejected")
    paths = [violation.get("path") for violation in rejected.data.get("violations", [])] if rejected else []
    expect("an unknown key is rejected, with its path", "jbos" in paths,
           f"{course(smoke, 'invalid')}; violations of {paths}")
    validated = first("validate", "validated")
    expect("validate shows the template", validated and validated.data.get("template"), course(smoke, "validate"))
    status = first("status", "answered")
    expect("status tells of the run", status and status.data.get("found") and started and status.run_id == started.run_id,
           f"{course(smoke, 'status')}; state {status.data.get('state')}" if status else course(smoke, "status"))
    ends = {case: {event.id for event in smoke.of(case, *ENDS)} for case in ("example", "failing", "cancelled")}
    expect("every run has exactly one end", all(len(ids) == 1 for ids in ends.values()),
           ", ".join(f"{case} {len(ids)}" for case, ids in ends.items()))
    expect("every cluster is gone", smoke.clusters_left == [],
           "none listed" if smoke.clusters_left == [] else ", ".join(smoke.clusters_left or ["could not be listed"]))
    facts = {finding["fact"] for finding in smoke.findings}
    wanted = [] if smoke.arguments.skip_probe else ["repeated request_id", "cluster_name in the operation"]
    for fact in [*wanted, "audit log of the call", "filters of operations.list"]:
        expect(f"finding: {fact}", fact in facts, "see below" if fact in facts else "not found out; see the troubles below")


def course(smoke, case):
    """What became of a message, in a few words."""
    if not smoke.of(case):
        return sent_or_not(smoke, case)
    words = [event.word for event in smoke.of(case)]
    errors = [error_text(event.data.get("error")) for event in smoke.of(case) if event.data.get("error")]
    return ", ".join(dict.fromkeys(words)) + (f" ({errors[-1]})" if errors else "")


def sent_or_not(smoke, case):
    return "no event" if case in smoke.sent else "not sent: what it follows did not come about"


def workflows_of(smoke, started):
    """The workflows whose cluster's name shows the run, as the function itself recognises them."""
    names = [event.data.get("cluster", {}).get("name") for event in smoke.of(started.case)]
    digits = next((found[0] for name in names if name and (found := re.findall(r"-[a-z2-7]{20}-", name))), None)
    if digits is None:
        return []
    try:
        _, operations = smoke.dataproc.operations("")
    except Trouble as trouble:
        smoke.troubles.append(str(trouble))
        return []
    return sorted(name for name, operation in operations.items()
                  if digits in metadata(operation).get("clusterName", "")
                  and metadata(operation).get("@type", "").endswith(".WorkflowMetadata"))


def tell(smoke):
    print("\nExpectations")
    for row in smoke.expectations:
        print(f"  {'ok    ' if row['ok'] else 'FAILED'}  {row['expected']}\n            {row['evidence']}")
    print("\nFindings")
    for finding in smoke.findings:
        text = finding["finding"].replace("\n", "\n    ")
        print(f"  {finding['fact']}\n    {text}")
    if smoke.troubles:
        print("\nTroubles")
        for trouble in dict.fromkeys(smoke.troubles):
            print(f"  {trouble}")
    failed = sum(not row["ok"] for row in smoke.expectations)
    print(f"\n{len(smoke.expectations) - failed} ok, {failed} failed (label smoke={smoke.id})")
    return failed == 0


def write_report(smoke, path):
    events = [{"case": event.case, "message_id": event.message_id, "published": event.published,
               "attributes": event.attributes, "data": event.data} for event in smoke.events]
    report = {"id": smoke.id, "project": smoke.arguments.project, "region": smoke.arguments.region,
              "expectations": smoke.expectations, "findings": smoke.findings, "troubles": smoke.troubles, "events": events}
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    arguments = parse_arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.report:
            # Better now than when all is done and paid for.
            arguments.report.touch()
        deployment(arguments)
        smoke = Smoke(arguments)
        smoke.dataproc.access_token(anew=True)
    except (NotReady, Trouble, OSError) as trouble:
        print(f"smoke.py: {trouble}", file=sys.stderr)
        return 2
    print(f"project {arguments.project}, region {arguments.region}, label smoke={smoke.id}; Ctrl-C cancels and cleans up")
    try:
        try:
            smoke.subscribe()
        except Trouble as trouble:
            print(f"smoke.py: {trouble}", file=sys.stderr)
            return 2
        smoke.guarded(smoke.converse)
        smoke.stop_what_runs()
        if not smoke.filters_tried:
            smoke.guarded(try_filters, smoke)
        smoke.guarded(look_at_ends, smoke)
        smoke.guarded(read_audit_log, smoke)
        smoke.wait_for_clusters()
        judge(smoke)
    except KeyboardInterrupt:
        say(f"interrupted: cancelling what runs. gcloud dataproc clusters list --project={arguments.project} "
            f"--region={arguments.region} --filter='labels.smoke = {smoke.id}' shows what is left")
        smoke.stop_what_runs()
        if arguments.report:
            write_report(smoke, arguments.report)
        return 130
    finally:
        smoke.clean_up()
    good = tell(smoke)
    if arguments.report:
        write_report(smoke, arguments.report)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

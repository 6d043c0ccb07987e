"""Cases beyond the corpus, with Google's Python client as the judge of each: every form of every kind of field, random
documents, and texts that are wrong or odd."""
import collections, json

from google.cloud import dataproc_v1 as dataproc
from google.protobuf.descriptor import FieldDescriptor as F

PROJECT = "test-project"
Request = dataproc.InstantiateInlineWorkflowTemplateRequest

# --- The judge ------------------------------------------------------------------------------------------------------------


def client(config, request, region="us-central1"):
    """What Google's client sends for the baseline's merge of both; none if it refuses."""
    try:
        entry = config.get(request.get("job_name"), config.get("default_cluster_config"))
        expected = (entry, dict), (request.get("job_name") or "", str), (request.get("cluster_init_actions") or [], list)
        if not all(isinstance(value, kind) for value, kind in expected) or request.get("cluster_init_actions") == "":
            return None
        entry = dict(entry)
        if request.get("cluster_init_actions"):
            cluster = dict(entry.get("config") or {})
            cluster["initialization_actions"] = [*(cluster.get("initialization_actions") or []),
                                                 *request["cluster_init_actions"]]
            entry["config"] = cluster
        template = {"jobs": request["jobs"], "placement": {"managed_cluster": entry}}
        return Request.serialize(Request({"parent": f"projects/{PROJECT}/regions/{region}", "template": template}))
    except Exception:  # whatever it is, the client refuses
        return None


def strict(value, message):
    """The value with its camelCase keys and its durations as numbers in the client's forms."""
    if message.full_name == "google.protobuf.Duration" and type(value) in (int, float):
        return f"{value:.9f}s"
    if not isinstance(value, dict) or message.GetOptions().map_entry:
        return value
    names, made = {field.json_name: field for field in message.fields} | dict(message.fields_by_name), {}
    for key, inner in value.items():
        field = names.get(key)
        name = field.name if field else key
        if name in made:
            return {"": None}  # the client, too, refuses two spellings of a field
        if field is not None and field.message_type and not field.message_type.GetOptions().map_entry:
            many = isinstance(inner, list)
            inner = [strict(one, field.message_type) for one in inner] if many else strict(inner, field.message_type)
        made[name] = inner
    return made


def strict_cluster(config):
    if not isinstance(config, dict):
        return config
    return {key: strict(entry, dataproc.ManagedCluster.pb().DESCRIPTOR) for key, entry in config.items()}


def strict_request(request):
    if not isinstance(request, dict):
        return request
    made = dict(request)
    for key, kind in [("jobs", dataproc.OrderedJob), ("cluster_init_actions", dataproc.NodeInitializationAction)]:
        if isinstance(request.get(key), list):
            made[key] = [strict(one, kind.pb().DESCRIPTOR) for one in request[key]]
    return made


# --- The forms -----------------------------------------------------------------------------------------------------------

# Each form: a JSON value, and the place of its fault below the field's own (none: the client decides whether there is one).
# "?" marks leniencies of the client (the corpus README's quirks), which may be refused.
BIG = 10**30
SCALARS = {
    "string": ["x", "", "ünï\0😀", 1, True, [], {}, ["x"]],
    "int32": [0, 1, -7, 2**31 - 1, -(2**31), 2**31, -(2**31) - 1, "1", 1.0, True, 1.5, [], {}],
    "int64": [0, 5, "5", "-5", 2**63 - 1, str(-(2**63)), 2**63, "?", " 5 ", "1_0", "+5", 5.9, True, "!", "5.0", "1e3", "0x10",
              "", str(BIG), [], {}],
    "bool": [True, False, "?", 0, 1, 2, "!", "true", 1.0, [], {}],
    "double": [0, 1.5, -3, 1e300, 0.1, "?", True, "!", "1.5", "", BIG**20, [], {}],
    "duration": [{"seconds": 1800}, {"seconds": 1, "nanos": 5}, {}, "1800s", "1.5s", "-0.5s", "0s", 1800, 1800.5, "?", " 1s",
                 "+1s", "1_0s", "1.s", "01s", {"seconds": 1, "nanos": 2 * 10**9}, {"seconds": 1, "nanos": -1}, "!", "1800",
                 "30m", "1e3s", ".5s", "", "315576000001s", True, [], ({"seconds": "5"}, ".seconds"),
                 ({"seconds": 5.0}, ".seconds"), ({"nanos": True}, ".nanos"), ({"hours": 1}, ".hours")],
    "timestamp": [{"seconds": 5}, {}, "2030-01-31T23:59:59Z", "2030-01-31T23:59:59.123456789+02:00", "1969-12-31T23:00:00Z",
                  "?", "2030-1-1T0:0:0Z", "2030-01-01T00:00:00+2:00", "2030-01-01T00:00:00.Z", "!", 5, "2030-01-31t23:59:59z",
                  "2030-01-31T23:59:59", "2030-01-31", "2030-01-31T23:59:59-0800", "2030-06-30T23:59:60Z", "2030-02-30T00:00:00Z",
                  "0000-01-01T00:00:00Z", "2030-01-01T00:00:00.1234567890Z", [], ({"minutes": 1}, ".minutes")],
    "message": [{}, 1, "x", True, [1], ({"zz_unknown": None}, ".zz_unknown"), ({"self": 1}, ".self"), ({"_pb": 1}, "._pb")],
    "map": [{}, {"k": "v", "ключ": "", "": "x"}, ({"k": 1}, '["k"]'), ({"k": None}, '["k"]'), ({"a": "b", "c": []}, '["c"]'),
            1, True, "x", "?", [["a", "b"]], ["ab"], [], "", [{"key": "a", "value": "b"}]],
}
KINDS = {F.TYPE_STRING: "string", F.TYPE_INT32: "int32", F.TYPE_INT64: "int64", F.TYPE_BOOL: "bool", F.TYPE_DOUBLE: "double"}
GOOD = {"string": "x", "int32": 3, "int64": "9", "bool": True, "double": 0.5, "message": {}, "duration": "60.5s",
        "timestamp": "2031-02-28T10:00:00.5-08:00"}


def kind_of(field):
    if field.enum_type:
        return "enum"
    if field.message_type:
        name = field.message_type.full_name
        return {"google.protobuf.Duration": "duration", "google.protobuf.Timestamp": "timestamp"}.get(name, "message")
    return KINDS[field.type]


def good(field):
    """A value that a field takes."""
    if field.message_type and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        return {"k": value.enum_type.values[-1].name if value.enum_type else "v"}
    one = field.enum_type.values[-1].name if field.enum_type else GOOD[kind_of(field)]
    return [one] if field.is_repeated else one


def forms(field):
    """Every (value, place of the fault or none, lenient) to try at a field."""
    if field.message_type and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        # The texts of the plain maps are no names of an enum: those have entries of their own.
        plain = [form for form in spread(SCALARS["map"]) if not (value.enum_type and form[0] and isinstance(form[0], dict))]
        return plain + enum_map(value)
    kind = kind_of(field)
    if kind == "enum":
        names = [value.name for value in field.enum_type.values]
        single = [*names, field.enum_type.values[-1].number, "?", 9999, -1, "!", names[-1].lower() + "_", "1", "", 1.0, True, []]
    else:
        single = SCALARS[kind]
    if not field.is_repeated:
        return spread([None, *single])
    sound = good(field)[0]
    lists = [([sound, value], f"[1]{below}", lenient) for value, below, lenient in spread(single)]
    # A null in a list is refused; a single value in the place of a list is, or is one of the client's leniencies.
    return [([sound, None], "[1]", False), ([], "", False), *lists] + spread([1, True, "?", "abc", {}, "", {"k": 1}])


def enum_map(value):
    if not value.enum_type:
        return []
    names = [one.name for one in value.enum_type.values]
    return [({"a": names[0], "b": names[-1]}, "", False), ({"a": "NOPE"}, '["a"]', False), ({"a": 2}, "", False)]


def spread(values):
    made, lenient = [], False
    for value in values:
        if value in ("?", "!") and isinstance(value, str):
            lenient = value == "?"
        elif isinstance(value, tuple):
            made.append((*value, lenient))
        else:
            made.append((value, "", lenient))
    return made


def places(message, path=(), depth=0):
    """Every field below a message, as the keys and indexes that lead to it."""
    for field in message.fields:
        here = (*path, field.name)
        yield here, field
        inner = field.message_type
        if inner and not inner.GetOptions().map_entry and kind_of(field) == "message" and depth < 5:
            yield from places(inner, (*here, 0) if field.is_repeated else here, depth + 1)


ROOTS = [("request", ("jobs", 0), dataproc.OrderedJob), ("request", ("cluster_init_actions", 0), dataproc.NodeInitializationAction),
         ("config", ("default_cluster_config",), dataproc.ManagedCluster)]


def documents(root, path, value):
    """A config and a request with one value at a place, the rest as small as it can be."""
    for key in reversed(path):
        value = [value] if key == 0 else {key: value}
    _, at, _ = root
    if at[0] == "jobs":
        base = {"step_id": "step-a"} | ({} if path[0].endswith("_job") else {"spark_job": {"main_class": "M"}})
        return {"default_cluster_config": {"config": {}}}, {"jobs": [base | value]}
    request = {"job_name": "a b", "jobs": [{"step_id": "step-a", "hive_job": {"query_file_uri": "gs://b/q"}}]}
    if at[0] == "cluster_init_actions":
        entry = {"config": {"initialization_actions": [{"executable_file": "gs://b/own"}]}}
        return {"default_cluster_config": {}, "a b": entry}, request | {"cluster_init_actions": [value]}
    return {"default_cluster_config": {"config": {}} | value}, request


def written(path):
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def form_cases(chance, each):
    """Every form of every kind of field, each at some fields."""
    groups = collections.defaultdict(list)
    for root in ROOTS:
        for path, field in places(root[2].pb().DESCRIPTOR):
            for index, form in enumerate(forms(field)):
                groups[kind_of(field), field.is_repeated, index].append((root, path, form))
            for group, key in [("camel", field.json_name), ("near", field.name + "x")]:
                groups[group].append((root, (*path[:-1], key), (good(field), "", False)))
    for group, members in groups.items():
        for root, path, (value, below, lenient) in chance.sample(members, min(each, len(members))):
            document, at, _ = root
            case = made_case(f"{group}: {written(path)} = {json.dumps(value)[:60]}", *documents(root, path, value), lenient)
            yield case | {"places": [(document, written((*at, *path)) + below)]}


def made_case(name, config, request, lenient=False):
    expected = client(strict_cluster(config), strict_request(request))
    return {"id": name, "region": "us-central1", "config": json.dumps(config).encode(), "places": [], "lenient": lenient,
            "request": json.dumps(request).encode(), "expected": expected}


def random_value(chance, field, depth):
    if field.message_type and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        return {f"k{index}": chance.choice(list(value.enum_type.values_by_name) if value.enum_type else ["v", "", "ü"])
                for index in range(chance.randrange(3))}
    kind = kind_of(field)
    strictly = [value for value, below, lenient in spread(SCALARS.get(kind, []))[:3] if not lenient and not below]

    def one():
        if kind == "message":
            return random_message(chance, field.message_type, depth + 1)
        return chance.choice([value.name for value in field.enum_type.values] if kind == "enum" else strictly)
    return [one() for _ in range(chance.randrange(3))] if field.is_repeated else one()


def random_message(chance, message, depth=0):
    """A message with some fields of every kind in strict forms, one member of each oneof at most."""
    made, oneofs = {}, set()
    for field in chance.sample(list(message.fields), len(message.fields)):
        oneof = field.containing_oneof
        if chance.random() < 0.5 / (depth + 0.5) and (oneof is None or oneof.name not in oneofs):
            made[field.name] = random_value(chance, field, depth)
            oneofs.add(oneof and oneof.name)
    return made


def random_cases(chance, count):
    for number in range(count):
        steps = [random_message(chance, dataproc.OrderedJob.pb().DESCRIPTOR) for _ in range(chance.randrange(1, 4))]
        actions = [random_message(chance, dataproc.NodeInitializationAction.pb().DESCRIPTOR) for _ in range(chance.randrange(3))]
        entries = {name: random_message(chance, dataproc.ManagedCluster.pb().DESCRIPTOR) for name in ["default_cluster_config", "j"]}
        request = {"job_name": chance.choice(["j", "J", " j", None]), "jobs": steps, "cluster_init_actions": actions}
        yield made_case(f"random {number}", entries, request)


def text_cases():
    """What is wrong, or odd, with the text itself."""
    config, job = b'{"default_cluster_config":{"config":{}}}', b'{"step_id":"step-a","pig_job":{"query_file_uri":"gs://b/q"}}'
    whole = b'{"jobs":[' + job + b"]}"
    for data in [b"", b"{", b"null", b"[]", b"1", b'"x"', b"{}", whole + b"}", whole[:-1], whole.replace(b'"', b"'"), b"\xff" + whole,
                 whole.decode().encode("utf-16"), b"[" * 100_000, b'{"a":' * 100_000, b"\0", whole.replace(b"b/q", b"\xc3\x28"),
                 whole.replace(b":[", b":[,"), whole.replace(b"step-a", b"step-\n"), whole.replace(b'"gs://b/q"', b'"\\ud800"')]:
        yield data, config
    for data in [b"", b"{", b"[]", b"null", b"\xff", b'{"default_cluster_config":1}', b'{"default_cluster_config":null}', b"{}",
                 b'{"default_cluster_config":{"config":{}},"default_cluster_config":{"config":{}}}', b"[" * 100_000]:
        yield whole, data


def text_case(number, request, config):
    return {"id": f"text {number}", "region": "us-central1", "config": config, "request": request, "expected": None,
            "places": [], "lenient": False}


def generate(count, chance):
    """As many cases as asked for: all odd texts, and the rest forms and random documents in equal parts."""
    texts = [text_case(number, request, config) for number, (request, config) in enumerate(text_cases())]
    rest = max(0, count - len(texts))
    forms_made = list(form_cases(chance, 3))
    forms_made = chance.sample(forms_made, min(len(forms_made), rest - rest // 3))
    return (texts + forms_made + list(random_cases(chance, rest - len(forms_made))))[:count]

//! No field of Dataproc's is dropped: every one that the descriptor knows is filled, rendered, sent and found again.

use std::collections::BTreeSet;

use inline_workflow::{proto_json, template};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};
use serde_json::{Value as Json, json};

use super::{OBJECT, options, render};

/// The longest list of members that exclude each other: OrderedJob's job types.
const CHOICES: usize = 10;

#[test]
fn every_field_is_on_the_wire() {
    let mut found = BTreeSet::new();
    for choice in 0..CHOICES * CHOICES {
        let entry = fill(&proto_json::dataproc("ManagedCluster"), choice, "entry");
        let job = fill(&proto_json::dataproc("OrderedJob"), choice, "job");
        let action = fill(&proto_json::dataproc("NodeInitializationAction"), choice, "action");
        let config = json!({"default_cluster_config": entry}).to_string();
        let request = json!({"jobs": [job], "cluster_init_actions": [action]}).to_string();
        let (_, rendered, violations) = render(&request, &config, &options());
        assert!(violations.iter().all(|violation| violation.fault.can_be_waived()), "{violations:?}");
        let bytes = template::encode(&rendered.unwrap().template);
        let sent = DynamicMessage::decode(proto_json::dataproc("WorkflowTemplate"), bytes).unwrap();

        let placement = message_in(&sent, "placement");
        let cluster = message_in(&placement, "managed_cluster");
        compare(&cluster, &entry, &mut found);
        let jobs = sent.get_field_by_name("jobs").unwrap().into_owned();
        compare(jobs.as_list().unwrap()[0].as_message().unwrap(), &job, &mut found);
        let actions = message_in(&cluster, "config").get_field_by_name("initialization_actions").unwrap().into_owned();
        compare(actions.as_list().unwrap().last().unwrap().as_message().unwrap(), &action, &mut found);
    }
    let mut known = BTreeSet::new();
    reach(&proto_json::dataproc("ManagedCluster"), &mut known);
    reach(&proto_json::dataproc("OrderedJob"), &mut known);
    let missing: Vec<_> = known.difference(&found).collect();
    assert!(missing.is_empty(), "not on the wire: {missing:?}");
    assert!(known.len() > 200, "the descriptor has {} fields", known.len());

    let recent: Json = serde_json::from_str(include_str!("../../../../fixtures/corpus/recent_fields.json")).unwrap();
    for field in recent["fields"].as_array().unwrap() {
        let name = format!("google.cloud.dataproc.v1.{}", field.as_str().unwrap());
        assert!(found.contains(&name), "{name} is new in the API and not on the wire");
    }
    for value in recent["enum_values"].as_array().unwrap() {
        let (name, value) = value.as_str().unwrap().split_once('=').unwrap();
        let descriptor = proto_json::pool().get_enum_by_name(&format!("google.cloud.dataproc.v1.{name}")).unwrap();
        assert!(descriptor.get_value_by_name(value).is_some(), "{name} has no {value}");
    }
}

#[test]
fn the_descriptor_is_a_part_of_the_whole_one() {
    let whole = DescriptorPool::decode(include_bytes!("../../data/dataproc_v1.binpb").as_slice()).unwrap();
    let mut fields = 0;
    for message in proto_json::pool().all_messages().filter(|message| message.fields().len() > 0) {
        let same = whole.get_message_by_name(message.full_name()).unwrap();
        assert_eq!(message.descriptor_proto().field, same.descriptor_proto().field, "{}", message.full_name());
        for (field, same) in message.fields().zip(same.fields()) {
            assert_eq!(field.options().encode_to_vec(), same.options().encode_to_vec(), "{}", field.full_name());
            fields += 1;
        }
    }
    assert!(fields > 300, "{fields} fields");
}

/// A document with every field of a message; of those that exclude each other, the one of number `choice`.
fn fill(descriptor: &MessageDescriptor, choice: usize, path: &str) -> Json {
    match descriptor.full_name() {
        "google.protobuf.Duration" => return json!("3600.000000001s"),
        "google.protobuf.Timestamp" => return json!("2030-01-31T23:59:59.000000001Z"),
        _ => {}
    }
    let is_chosen = |field: &FieldDescriptor| {
        field.containing_oneof().is_none_or(|oneof| {
            let members: Vec<_> = oneof.fields().map(|member| member.number()).collect();
            assert!(members.len() <= CHOICES, "{} has too many members", oneof.full_name());
            // Further down, the choices are others: a job's own oneofs must not depend on its type.
            let choice = if path.contains('.') { choice / CHOICES } else { choice % CHOICES };
            members[choice % members.len()] == field.number()
        })
    };
    let member = |field: FieldDescriptor| {
        let path = format!("{path}.{}", field.name());
        let value = if field.is_map() {
            let kind = field.kind();
            let value = kind.as_message().unwrap().map_entry_value_field().kind();
            json!({"key": fill_one(&value, choice, &path)})
        } else if field.is_list() {
            json!([fill_one(&field.kind(), choice, &path), fill_one(&field.kind(), choice, &path)])
        } else {
            fill_one(&field.kind(), choice, &path)
        };
        (field.name().to_owned(), value)
    };
    descriptor.fields().filter(is_chosen).map(member).collect()
}

fn fill_one(kind: &Kind, choice: usize, path: &str) -> Json {
    match kind {
        Kind::Message(descriptor) => fill(descriptor, choice, path),
        Kind::Enum(descriptor) => json!(descriptor.values().last().unwrap().name()),
        Kind::String => json!(path),
        Kind::Bool => json!(true),
        Kind::Double => json!(0.25),
        Kind::Int32 => json!(-7),
        Kind::Int64 => json!("9007199254740993"),
        other => panic!("{path} has a kind that this test does not know: {other:?}"),
    }
}

/// Compares what was sent with the document that asked for it, and notes each field that is there.
fn compare(sent: &DynamicMessage, document: &Json, found: &mut BTreeSet<String>) {
    let read = |text: &str| template::to_json(sent).as_str() == Some(text);
    if let Json::String(text) = document {
        assert!(read(text), "{sent} is not {text}");
        return;
    }
    for (key, expected) in document.as_object().unwrap() {
        let field = proto_json::field(&sent.descriptor(), key);
        assert!(sent.has_field(&field), "{} is not on the wire", field.full_name());
        found.insert(field.full_name().to_owned());
        let value = sent.get_field(&field);
        match (value.as_ref(), expected) {
            (Value::Map(entries), Json::Object(members)) => {
                let entry = field.kind().as_message().unwrap().clone();
                found.extend(
                    [entry.map_entry_key_field(), entry.map_entry_value_field()]
                        .map(|field| field.full_name().to_owned()),
                );
                let value = entries.iter().find(|(key, _)| key.as_str() == Some("key")).unwrap().1;
                compare_one(value, &members["key"], &entry.map_entry_value_field(), found);
            }
            (Value::List(elements), Json::Array(expected)) => {
                // The init actions of the request come after those of the entry.
                assert!(elements.len() >= expected.len(), "{} in {OBJECT}", field.full_name());
                for (value, expected) in elements.iter().zip(expected) {
                    compare_one(value, expected, &field, found);
                }
            }
            (value, expected) => compare_one(value, expected, &field, found),
        }
    }
}

fn compare_one(value: &Value, expected: &Json, field: &FieldDescriptor, found: &mut BTreeSet<String>) {
    let is_equal = match value {
        Value::Message(message) => return compare(message, expected, found),
        // The base name replaces an illegal one.
        Value::String(_) if field.full_name() == "google.cloud.dataproc.v1.ManagedCluster.cluster_name" => true,
        Value::String(text) => expected == text,
        Value::Bool(value) => expected == value,
        Value::F64(value) => expected == value,
        Value::I32(value) => expected == value,
        Value::I64(value) => expected == &value.to_string(),
        Value::EnumNumber(number) => {
            let kind = field.kind();
            kind.as_enum().unwrap().get_value(*number).is_some_and(|value| expected == value.name())
        }
        _ => false,
    };
    assert!(is_equal, "{} is {value}, not {expected}", field.full_name());
}

/// The names of all fields below a message.
fn reach(descriptor: &MessageDescriptor, known: &mut BTreeSet<String>) {
    if descriptor.package_name() != "google.cloud.dataproc.v1" {
        return;
    }
    for field in descriptor.fields() {
        if known.insert(field.full_name().to_owned())
            && let Kind::Message(inner) = field.kind()
        {
            reach(&inner, known);
        }
    }
}

fn message_in(message: &DynamicMessage, name: &str) -> DynamicMessage {
    message.get_field_by_name(name).unwrap().as_message().unwrap().clone()
}

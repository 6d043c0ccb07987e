//! A JSON value as a protobuf message: every member is looked up in the message's descriptor, every fault is kept with
//! its path, and nothing is guessed.
//!
//! prost-reflect's own JSON decoder cannot do this: it stops at the first fault, lets a repeated key win silently,
//! takes `"1"` and `1.0` for an int32, and refuses durations as `{"seconds": 5}`, which Google's Python client takes.
//! The forms that are taken are the strict ones of that client (`fixtures/corpus/README.md`), and beyond them camelCase
//! keys and durations as numbers of seconds.

mod schema;
mod well_known;

use std::collections::{HashMap, HashSet};

use base64::Engine;
use prost_reflect::{
    DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};

use schema::{Behaviour, behaviours_of};
pub use schema::{dataproc, field, pool};

use crate::json;
use crate::violation::{Faults, excerpt, similar};

/// How many legal names a reason lists.
const MAX_NAMES: usize = 20;

/// Reads an object as a message. What cannot be read is left out of it and reported as a decoding fault; REQUIRED
/// fields that are missing and OUTPUT_ONLY ones that are given are reported as broken rules.
pub fn message(value: &json::Value, descriptor: &MessageDescriptor, faults: &mut Faults) -> DynamicMessage {
    match descriptor.full_name() {
        "google.protobuf.Duration" => return well_known::duration(value, descriptor, faults),
        "google.protobuf.Timestamp" => return well_known::timestamp(value, descriptor, faults),
        _ => {}
    }
    match value {
        json::Value::Object(members) => object(members, descriptor, faults),
        other => {
            faults.decoding(other.mismatch("an object"));
            DynamicMessage::new(descriptor.clone())
        }
    }
}

/// A member that was read: its field, its key as written, and what became of it.
struct Given<'a> {
    field: FieldDescriptor,
    key: &'a str,
    is_null: bool,
    is_sound: bool,
}

fn object(members: &[(String, json::Value)], descriptor: &MessageDescriptor, faults: &mut Faults) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut given: Vec<Given<'_>> = Vec::new();
    for (key, value) in members {
        let Some(field) = field_named(descriptor, key) else {
            faults.member(key, |faults| unknown_field(key, descriptor, faults));
            continue;
        };
        let first = given.iter().find(|other| other.field.number() == field.number());
        let is_repeated = first.is_some();
        if let Some(first) = first {
            faults.repetition(key, first.key, field.name());
        } else if let Some(other) = other_of_oneof(&given, &field, value) {
            let reason = format!("{key} and {other} exclude each other, only one of them may be given");
            faults.member(key, |faults| faults.decoding(reason));
        }
        let before = faults.count();
        let decoded = faults.member(key, |faults| field_value(value, &field, faults));
        if is_repeated {
            continue;
        }
        if let Some(decoded) = decoded {
            message.set_field(&field, decoded);
        }
        let is_null = matches!(value, json::Value::Null);
        given.push(Given { field, key, is_null, is_sound: faults.count() == before });
    }
    check_behaviours(&message, &given, faults);
    message
}

/// The field of a key: its name in the .proto file, or that name in camelCase.
pub fn field_named(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(key).or_else(|| descriptor.get_field_by_json_name(key))
}

/// The key of a member that excludes `field`. null does not count as given, here as in protobuf.
fn other_of_oneof<'a>(given: &[Given<'a>], field: &FieldDescriptor, value: &json::Value) -> Option<&'a str> {
    let oneof = field.containing_oneof()?;
    if matches!(value, json::Value::Null) {
        return None;
    }
    let mut others = given.iter().filter(|other| !other.is_null);
    others.find(|other| other.field.containing_oneof().as_ref() == Some(&oneof)).map(|other| other.key)
}

fn check_behaviours(message: &DynamicMessage, given: &[Given<'_>], faults: &mut Faults) {
    for (field, behaviour) in behaviours_of(&message.descriptor()) {
        let member = given.iter().find(|member| member.field.number() == field.number());
        let key = member.map_or(field.name(), |member| member.key);
        match behaviour {
            // What was given and could not be read has its fault already.
            Behaviour::Required if !message.has_field(field) && member.is_none_or(|member| member.is_sound) => {
                faults.member(key, |faults| faults.rule("required"));
            }
            Behaviour::OutputOnly if message.has_field(field) => {
                faults.member(key, |faults| faults.rule("only the service sets this field"));
            }
            Behaviour::Required | Behaviour::OutputOnly => {}
        }
    }
}

/// Reads a field's value; nothing if it is null, which is the same as absent.
pub fn field_value(value: &json::Value, field: &FieldDescriptor, faults: &mut Faults) -> Option<Value> {
    if matches!(value, json::Value::Null) {
        None
    } else if field.is_map() {
        map(value, field, faults)
    } else if field.is_list() {
        list(value, &field.kind(), faults)
    } else {
        single(value, &field.kind(), faults)
    }
}

fn list(value: &json::Value, kind: &Kind, faults: &mut Faults) -> Option<Value> {
    let json::Value::Array(elements) = value else {
        faults.decoding(value.mismatch("an array"));
        return None;
    };
    let mut list = Vec::with_capacity(elements.len());
    for (index, element) in elements.iter().enumerate() {
        list.extend(faults.element(index, |faults| single(element, kind, faults)));
    }
    Some(Value::List(list))
}

fn map(value: &json::Value, field: &FieldDescriptor, faults: &mut Faults) -> Option<Value> {
    let kind = field.kind();
    let (Some(entry), json::Value::Object(members)) = (kind.as_message(), value) else {
        faults.decoding(value.mismatch("an object"));
        return None;
    };
    let (key_kind, value_kind) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
    let mut map = HashMap::with_capacity(members.len());
    let mut keys = HashSet::with_capacity(members.len());
    for (key, value) in members {
        faults.entry(key, |faults| {
            if !keys.insert(key.as_str()) {
                faults.decoding("repeated key");
            }
            let decoded = single(value, &value_kind, faults);
            if let (Some(key), Some(decoded)) = (map_key(key, &key_kind, faults), decoded) {
                map.entry(key).or_insert(decoded);
            }
        });
    }
    Some(Value::Map(map))
}

fn map_key(key: &str, kind: &Kind, faults: &mut Faults) -> Option<MapKey> {
    let read = match kind {
        Kind::String => Some(MapKey::String(key.into())),
        Kind::Bool => key.parse().ok().map(MapKey::Bool),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => key.parse().ok().map(MapKey::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => key.parse().ok().map(MapKey::I64),
        Kind::Uint32 | Kind::Fixed32 => key.parse().ok().map(MapKey::U32),
        Kind::Uint64 | Kind::Fixed64 => key.parse().ok().map(MapKey::U64),
        // protobuf has no other keys
        _ => None,
    };
    if read.is_none() {
        faults.decoding(format!("the key is no {kind:?}"));
    }
    read
}

/// Reads one value that is neither a list nor a map. null is none.
fn single(value: &json::Value, kind: &Kind, faults: &mut Faults) -> Option<Value> {
    match kind {
        Kind::Message(descriptor) => {
            let before = faults.count();
            let message = message(value, descriptor, faults);
            // A message with faults in it is kept: it is present.
            (faults.count() == before || matches!(value, json::Value::Object(_))).then_some(Value::Message(message))
        }
        Kind::Enum(descriptor) => enumeration(value, descriptor, faults).map(Value::EnumNumber),
        _ => scalar(value, kind).map_err(|reason| faults.decoding(reason)).ok(),
    }
}

fn scalar(value: &json::Value, kind: &Kind) -> Result<Value, String> {
    match kind {
        Kind::String => match value {
            json::Value::String(text) => Ok(Value::String(text.clone())),
            other => Err(other.mismatch("a string")),
        },
        Kind::Bool => match value {
            json::Value::Bool(value) => Ok(Value::Bool(*value)),
            other => Err(other.mismatch("true or false")),
        },
        Kind::Bytes => match value {
            json::Value::String(text) => match base64::engine::general_purpose::STANDARD.decode(text) {
                Ok(bytes) => Ok(Value::Bytes(bytes.into())),
                Err(_) => Err("not base64".into()),
            },
            other => Err(other.mismatch("a string in base64")),
        },
        Kind::Double => float(value).map(Value::F64),
        Kind::Float => {
            let value = float(value)? as f32;
            if value.is_finite() { Ok(Value::F32(value)) } else { Err("too large for a float".into()) }
        }
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(value, false, i32::MIN, i32::MAX).map(Value::I32),
        Kind::Uint32 | Kind::Fixed32 => integer(value, false, u32::MIN, u32::MAX).map(Value::U32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(value, true, i64::MIN, i64::MAX).map(Value::I64),
        Kind::Uint64 | Kind::Fixed64 => integer(value, true, u64::MIN, u64::MAX).map(Value::U64),
        Kind::Message(_) | Kind::Enum(_) => Err(format!("no scalar: {kind:?}")),
    }
}

/// Reads an integer; `or_text` takes its digits as text too, as protobuf's JSON form writes integers of 64 bits.
fn integer<T: std::str::FromStr + std::fmt::Display>(
    value: &json::Value,
    or_text: bool,
    least: T,
    most: T,
) -> Result<T, String> {
    let expected = if or_text { "an integer, or its decimal digits as a string" } else { "an integer" };
    let digits = match value {
        json::Value::Number(text) if json::is_integer(text) => text,
        json::Value::String(text) if or_text && is_decimal(text) => text,
        other => return Err(other.mismatch(expected)),
    };
    // The text is an integer, so only its size can be wrong.
    digits.parse().map_err(|_| format!("{} is out of range ({least} to {most})", excerpt(digits)))
}

fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn float(value: &json::Value) -> Result<f64, String> {
    let json::Value::Number(text) = value else {
        return Err(value.mismatch("a number"));
    };
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("{} is too large for a number of 64 bits", excerpt(text))),
    }
}

/// Reads an enum: a name, or a number. A number without a name is sent as it is, so that an operator need not wait
/// for a newer descriptor.
fn enumeration(value: &json::Value, descriptor: &EnumDescriptor, faults: &mut Faults) -> Option<i32> {
    let read = match value {
        json::Value::String(name) => match descriptor.get_value_by_name(name) {
            Some(value) => Ok(value.number()),
            None => Err(unknown_name(name, descriptor)),
        },
        json::Value::Number(text) if json::is_integer(text) => integer(value, false, i32::MIN, i32::MAX),
        other => Err(other.mismatch("a name or a number of an enum")),
    };
    read.map_err(|reason| faults.decoding(reason)).ok()
}

fn unknown_name(name: &str, descriptor: &EnumDescriptor) -> String {
    let names: Vec<_> = descriptor.values().map(|value| value.name().to_owned()).collect();
    let suggestion = similar(name, names.iter().map(String::as_str));
    let suggestion = suggestion.map_or(String::new(), |name| format!(", did you mean {name}?"));
    let more = if names.len() > MAX_NAMES { ", …" } else { "" };
    let listed = names[..names.len().min(MAX_NAMES)].join(", ");
    format!("unknown name {:?}{suggestion} (legal: {listed}{more})", excerpt(name))
}

fn unknown_field(key: &str, descriptor: &MessageDescriptor, faults: &mut Faults) {
    // A hostile document may have a million unknown keys: no suggestion for those that nobody will see.
    if faults.are_many() {
        return faults.decoding("unknown field");
    }
    let names: Vec<_> = descriptor.fields().map(|field| field.name().to_owned()).collect();
    if let Some(name) = similar(key, names.iter().map(String::as_str)) {
        return faults.decoding(format!("unknown field, did you mean {name}?"));
    }
    // The key may stand one level too high.
    let owner = descriptor.fields().find(|field| match field.kind() {
        Kind::Message(inner) => !field.is_map() && field_named(&inner, key).is_some(),
        _ => false,
    });
    match owner {
        Some(owner) => faults.decoding(format!("unknown field here, {} has one of this name", owner.name())),
        None => faults.decoding("unknown field"),
    }
}

//! Every kind of field that protobuf has, written and read again. Dataproc uses but some of them.

use std::collections::HashMap;

use inline_workflow::wire;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, Value};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FieldOptions, FileDescriptorProto, MessageOptions,
    field_descriptor_proto::{Label, Type},
};

/// A message `All` with fields of each type: one, a packed list where it can be, a list, a map by strings; and a map by
/// each type that can be a key.
fn all() -> DynamicMessage {
    let types: Vec<Type> =
        (1..=18).filter_map(|number| Type::try_from(number).ok()).filter(|kind| *kind != Type::Group).collect();
    let mut fields = Vec::new();
    let mut nested = vec![DescriptorProto { name: Some("Inner".into()), ..field_of("text", 1, Type::String).1 }];
    let mut number = 0;
    for kind in types {
        let name = kind.as_str_name().to_lowercase();
        let is_number = !matches!(kind, Type::String | Type::Bytes | Type::Message);
        for (suffix, label, packed) in [
            ("one", Label::Optional, None),
            ("many", Label::Repeated, Some(false)),
            ("packed", Label::Repeated, Some(true)),
        ] {
            if packed == Some(true) && !is_number {
                continue;
            }
            number += 1;
            let (mut field, _) = field_of(&format!("{name}_{suffix}"), number, kind);
            field.set_label(label);
            field.options =
                packed.filter(|_| is_number).map(|packed| FieldOptions { packed: Some(packed), ..Default::default() });
            fields.push(field);
        }
        let is_key = is_number && !matches!(kind, Type::Double | Type::Float | Type::Enum);
        let maps = [Some((Type::String, kind)), is_key.then_some((kind, Type::String))];
        for (key, value) in maps.into_iter().flatten() {
            number += 1;
            let entry = format!("Map{number}Entry");
            let mut field = field_of(&format!("map{number}"), number, Type::Message).0;
            field.set_label(Label::Repeated);
            field.type_name = Some(format!(".t.All.{entry}"));
            fields.push(field);
            nested.push(DescriptorProto {
                name: Some(entry),
                field: vec![field_of("key", 1, key).0, field_of("value", 2, value).0],
                options: Some(MessageOptions { map_entry: Some(true), ..Default::default() }),
                ..Default::default()
            });
        }
    }
    let choice = prost_types::EnumDescriptorProto {
        name: Some("Choice".into()),
        value: (0..2)
            .map(|number| prost_types::EnumValueDescriptorProto {
                name: Some(format!("C{number}")),
                number: Some(number),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let message = DescriptorProto {
        name: Some("All".into()),
        field: fields,
        nested_type: nested,
        enum_type: vec![choice],
        ..Default::default()
    };
    let file = FileDescriptorProto {
        name: Some("t.proto".into()),
        package: Some("t".into()),
        syntax: Some("proto3".into()),
        message_type: vec![message],
        ..Default::default()
    };
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_proto(file).unwrap();
    DynamicMessage::new(pool.get_message_by_name("t.All").unwrap())
}

/// A field, and a message that has only it.
fn field_of(name: &str, number: i32, kind: Type) -> (FieldDescriptorProto, DescriptorProto) {
    let mut field = FieldDescriptorProto { name: Some(name.into()), number: Some(number), ..Default::default() };
    field.set_type(kind);
    field.set_label(Label::Optional);
    field.type_name = match kind {
        Type::Message => Some(".t.All.Inner".into()),
        Type::Enum => Some(".t.All.Choice".into()),
        _ => None,
    };
    (field.clone(), DescriptorProto { field: vec![field], ..Default::default() })
}

/// Something that is not the default of its kind.
fn value(kind: &prost_reflect::Kind) -> Value {
    use prost_reflect::Kind;
    match kind {
        Kind::Double => Value::F64(-1.5e300),
        Kind::Float => Value::F32(0.1),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(i32::MIN),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(i64::MIN + 1),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(u32::MAX),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(u64::MAX),
        Kind::Bool => Value::Bool(true),
        Kind::String => Value::String("é".repeat(100)),
        Kind::Bytes => Value::Bytes(vec![0, 255].into()),
        Kind::Enum(_) => Value::EnumNumber(-7),
        Kind::Message(descriptor) => {
            let mut inner = DynamicMessage::new(descriptor.clone());
            inner.set_field_by_name("text", Value::String("x".repeat(20_000)));
            Value::Message(inner)
        }
    }
}

fn key(kind: &prost_reflect::Kind) -> MapKey {
    match value(kind) {
        Value::Bool(key) => MapKey::Bool(key),
        Value::I32(key) => MapKey::I32(key),
        Value::I64(key) => MapKey::I64(key),
        Value::U32(key) => MapKey::U32(key),
        Value::U64(key) => MapKey::U64(key),
        Value::String(key) => MapKey::String(key),
        other => panic!("{other:?} is no key"),
    }
}

#[test]
fn every_kind_of_field_is_written_as_it_is_read() {
    let mut message = all();
    let descriptor = prost_reflect::ReflectMessage::descriptor(&message);
    for field in descriptor.fields() {
        let written = if field.is_map() {
            let kind = field.kind();
            let entry = kind.as_message().unwrap();
            let key = key(&entry.map_entry_key_field().kind());
            Value::Map(HashMap::from([(key, value(&entry.map_entry_value_field().kind()))]))
        } else if field.is_list() {
            Value::List(vec![value(&field.kind()); 3])
        } else {
            value(&field.kind())
        };
        message.set_field(&field, written);
    }
    assert!(descriptor.fields().len() > 60);
    assert!(descriptor.fields().all(|field| message.has_field(&field)));
    let bytes = wire::encode(&message);
    assert_eq!(DynamicMessage::decode(descriptor, bytes.as_slice()).unwrap(), message);
    // And as prost-reflect writes it: fields by their numbers, lists packed where they are to be.
    assert_eq!(bytes, message.encode_to_vec());
}

#[test]
fn what_is_not_set_is_not_written() {
    assert!(wire::encode(&all()).is_empty());
}

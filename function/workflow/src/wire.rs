//! A dynamic message on the wire.
//!
//! prost-reflect measures a message before it writes it, and so everything below it, once for each level above: a third of
//! the time that rendering a template took. Here a message is written, and its length put in front of it.

use prost::encoding::{self, WireType};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, Value};

/// The message's bytes. Fields that its descriptor does not know are left out, and extensions: a
/// message that was made by its descriptor has none. Nor are there groups, which only proto2 knows.
pub fn encode(message: &DynamicMessage) -> Vec<u8> {
    let mut out = Vec::new();
    write_message(message, &mut out);
    out
}

fn write_message(message: &DynamicMessage, out: &mut Vec<u8>) {
    for (field, value) in message.fields() {
        match (value, field.kind()) {
            (Value::Map(entries), Kind::Message(entry)) => {
                let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
                for (key, value) in entries {
                    write_delimited(field.number(), out, |out| {
                        write_value(&key_field, &key.clone().into(), &key_field.kind(), out);
                        write_value(&value_field, value, &value_field.kind(), out);
                    });
                }
            }
            (value, kind) => write_value(&field, value, &kind, out),
        }
    }
}

/// A field's value, or its values.
fn write_value(field: &FieldDescriptor, value: &Value, kind: &Kind, out: &mut Vec<u8>) {
    let number = field.number();
    macro_rules! write_number {
        ($codec:ident, $variant:ident) => {
            match value {
                Value::$variant(value) => encoding::$codec::encode(number, value, out),
                Value::List(values) => {
                    let values: Vec<_> = values
                        .iter()
                        .filter_map(|value| match value {
                            Value::$variant(value) => Some(*value),
                            _ => None,
                        })
                        .collect();
                    match field.is_packed() {
                        true => encoding::$codec::encode_packed(number, &values, out),
                        false => encoding::$codec::encode_repeated(number, &values, out),
                    }
                }
                _ => {}
            }
        };
    }
    match kind {
        Kind::Double => write_number!(double, F64),
        Kind::Float => write_number!(float, F32),
        Kind::Int32 => write_number!(int32, I32),
        Kind::Int64 => write_number!(int64, I64),
        Kind::Uint32 => write_number!(uint32, U32),
        Kind::Uint64 => write_number!(uint64, U64),
        Kind::Sint32 => write_number!(sint32, I32),
        Kind::Sint64 => write_number!(sint64, I64),
        Kind::Fixed32 => write_number!(fixed32, U32),
        Kind::Fixed64 => write_number!(fixed64, U64),
        Kind::Sfixed32 => write_number!(sfixed32, I32),
        Kind::Sfixed64 => write_number!(sfixed64, I64),
        Kind::Bool => write_number!(bool, Bool),
        Kind::Enum(_) => write_number!(int32, EnumNumber),
        Kind::String | Kind::Bytes | Kind::Message(_) => {
            let values = value.as_list().unwrap_or(std::slice::from_ref(value));
            for value in values {
                match value {
                    Value::String(text) => encoding::string::encode(number, text, out),
                    Value::Bytes(bytes) => encoding::bytes::encode(number, bytes, out),
                    Value::Message(message) => write_delimited(number, out, |out| write_message(message, out)),
                    _ => {}
                }
            }
        }
    }
}

fn write_delimited(number: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    encoding::encode_key(number, WireType::LengthDelimited, out);
    let start = out.len();
    write(out);
    let length = out.len() - start;
    let mut prefix = Vec::with_capacity(encoding::encoded_len_varint(length as u64));
    encoding::encode_varint(length as u64, &mut prefix);
    out.splice(start..start, prefix);
}

//! JSON objects read member by member. The values remain text, so that an envelope can be read however deep its values nest
//! and whatever is wrong inside them. Of a repeated key the last value counts, as in most JSON parsers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use cloudevents::Data;
use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The members of an object: the key, and the value as JSON text.
pub(crate) type Members<'a> = BTreeMap<String, Cow<'a, str>>;

/// More than any event has. Without a limit a body of 16 MiB could become millions of map entries.
const MAX_MEMBERS: usize = 1024;

/// Data with more values is not parsed: a body of 16 MiB with a value every few bytes would take a hundred times its size as
/// a tree. It remains text, and the handler decides whether to parse it.
const MAX_TREE_VALUES: usize = 1 << 18;

/// The members of the object that `text` is.
///
/// # Errors
/// The text is not JSON, is not an object, or has more than [`MAX_MEMBERS`].
pub(crate) fn members(text: &str) -> Result<Members<'_>, serde_json::Error> {
    // Checked here, because serde_json's error would quote the value, and errors are logged.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(serde_json::Error::custom("it does not begin with `{`"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = deserializer.deserialize_map(MembersVisitor)?;
    deserializer.end()?;
    Ok(members)
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::new();
        while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
            members.insert(key, Cow::Borrowed(value.get()));
            if members.len() > MAX_MEMBERS {
                return Err(A::Error::custom(format_args!("more than {MAX_MEMBERS} members")));
            }
        }
        Ok(members)
    }
}

/// The inverse of [`members`].
pub(crate) fn object(members: &Members<'_>) -> String {
    let mut text = String::from("{");
    for (key, value) in members {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&quote(key));
        text.push(':');
        text.push_str(value);
    }
    text.push('}');
    text
}

/// A string as JSON text.
pub(crate) fn quote(string: &str) -> String {
    Value::from(string).to_string()
}

/// The string in a JSON text; None if the text is another value.
pub(crate) fn string(text: &str) -> Option<String> {
    serde_json::from_str(text).ok()
}

/// An id: a string that is not empty, or a whole number, because some senders forget the quotes.
pub(crate) fn id(text: &str) -> Option<String> {
    let number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if number { Some(text.to_owned()) } else { string(text).filter(|id| !id.is_empty()) }
}

/// JSON as an event's data: parsed if possible, otherwise the bytes as they were sent (not JSON, nested too deeply, a number
/// out of range, too many values). The handler decides what to tell the sender.
pub(crate) fn data(text: impl AsRef<[u8]> + Into<Vec<u8>>) -> Data {
    let bytes = text.as_ref();
    if values_at_most(bytes, MAX_TREE_VALUES)
        && let Ok(tree) = serde_json::from_slice(bytes)
    {
        return Data::Json(tree);
    }
    Data::Binary(text.into())
}

/// Counts the characters outside strings that separate values.
fn values_at_most(text: &[u8], most: usize) -> bool {
    let (mut values, mut in_string, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b':' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values <= most
}

#[cfg(test)]
mod tests;

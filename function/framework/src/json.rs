//! JSON objects read member by member: values stay text, so that neither their depth nor a bad value inside of them
//! keeps an envelope from being read. A repeated key counts as its last value, as JSON parsers commonly have it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use cloudevents::Data;
use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The members of an object: key -> the value's JSON text.
pub(crate) type Members<'a> = BTreeMap<String, Cow<'a, str>>;

/// No event has as many attributes; a body of 16 MiB could otherwise become millions of map entries.
const MAX_MEMBERS: usize = 1024;

/// Up to here data becomes a tree. A body of 16 MiB with a value every few bytes would take a hundred times its size as one;
/// it stays text, for the handler to refuse or to parse as it sees fit.
const MAX_TREE_VALUES: usize = 1 << 18;

/// Fails when the text is no JSON, no object, or has more than [`MAX_MEMBERS`].
pub(crate) fn members(text: &str) -> Result<Members<'_>, serde_json::Error> {
    // serde_json's own words would quote the value found, and errors are logged.
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

/// The string that a JSON text stands for, if it is one.
pub(crate) fn string(text: &str) -> Option<String> {
    serde_json::from_str(text).ok()
}

/// An id: a string that is not empty, or a whole number written as one by a careless sender.
pub(crate) fn id(text: &str) -> Option<String> {
    let number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if number { Some(text.to_owned()) } else { string(text).filter(|id| !id.is_empty()) }
}

/// JSON as an event's data: a tree where one can be made, else the bytes as they came (no JSON, nested too deeply for a
/// tree, numbers out of range, too many values). What to tell the sender about them is the handler's to say.
pub(crate) fn data(text: impl AsRef<[u8]> + Into<Vec<u8>>) -> Data {
    let bytes = text.as_ref();
    if values_at_most(bytes, MAX_TREE_VALUES)
        && let Ok(tree) = serde_json::from_slice(bytes)
    {
        return Data::Json(tree);
    }
    Data::Binary(text.into())
}

/// Counts what separates values outside of strings.
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
mod tests {
    use super::*;

    #[test]
    fn members_are_read_whatever_their_values_hold() {
        let deep = format!("{{\"id\":\"7\",\"deep\":{}{},\"big\":1e999}}", "[".repeat(200_000), "]".repeat(200_000));
        let members = members(&deep).unwrap();
        assert_eq!(members["id"], "\"7\"");
        assert_eq!(members["deep"].len(), 400_000);
        assert_eq!(members["big"], "1e999");
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_object_gives_it_back() {
        let members = members(r#" {"a":1, "b\/":[1, 2],"a":{"x":"\/"}} "#).unwrap();
        assert_eq!(object(&members), r#"{"a":{"x":"\/"},"b/":[1, 2]}"#);
        assert_eq!(object(&Members::new()), "{}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "null", "[]", "1", "\"a\"", "{", "{\"a\":}", "{} {}", "{\"a\":1,}"] {
            assert!(members(text).is_err(), "{text}");
        }
        let many: Vec<String> = (0..=MAX_MEMBERS).map(|n| format!("\"{n}\":0")).collect();
        assert!(members(&format!("{{{}}}", many.join(","))).is_err());
        assert!(members(&format!("{{{}}}", many[1..].join(","))).is_ok());
    }

    #[test]
    fn ids_are_strings_or_whole_numbers() {
        assert_eq!(id("\"a\\/b\"").as_deref(), Some("a/b"));
        assert_eq!(id("1234567890123456789012").as_deref(), Some("1234567890123456789012"));
        for nonsense in ["", "\"\"", "null", "1.5", "-1", "{}", "\"\\ud800\""] {
            assert_eq!(id(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn data_is_a_tree_only_where_one_can_be_made() {
        assert_eq!(data(r#"{"a":[0.1,18446744073709551615]}"#), Data::Json(serde_json::json!({"a": [0.1, u64::MAX]})));
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let wide = format!("[{}0]", "0,".repeat(MAX_TREE_VALUES));
        for text in ["{", "1e999", "\"\\ud800\"", &deep, &wide] {
            assert_eq!(data(text), Data::Binary(text.as_bytes().to_vec()));
        }
        let commas = format!("\"\\\"{}\"", ",".repeat(MAX_TREE_VALUES + 1));
        assert!(matches!(data(commas), Data::Json(Value::String(_))), "commas inside of strings are no values");
    }
}

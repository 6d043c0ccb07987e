//! A JSON document as its author wrote it: repeated keys, key order and the text of numbers are kept.
//!
//! Why not serde_json's own reader: what goes to Dataproc is checked field by field, and every fault is reported at
//! once, with its path. serde_json stops at a lone surrogate, at `NaN` and at `1e400`, wherever they stand (so that one
//! of them in the configuration of another job would harm every job), and it keeps no decimal text, so that
//! `1800.000000001` seconds could not be read exactly.

mod reader;

use std::{collections::BTreeMap, fmt::Write};

use serde::{Serialize, Serializer};

pub use reader::{MAX_DEPTH, MAX_VALUES, SyntaxError, parse};

/// A JSON value. Members of an object stand in the order of the text, repeated keys included.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    /// The number as it was written.
    Number(String),
    String(String),
    Array(Vec<Value>),
    Object(Vec<(String, Value)>),
    /// Python's JSON writer makes it and its reader takes it, but no field can hold it.
    Flawed(Flaw),
}

/// See [`Value::Flawed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// `NaN`, `Infinity` or `-Infinity`.
    NotFinite,
    /// A string with half of a surrogate pair.
    LoneSurrogate,
    /// The member's key has half of a surrogate pair, which stands in the key as its escape.
    LoneSurrogateInKey,
}

impl Flaw {
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFinite => "NaN and Infinity are no JSON numbers",
            Self::LoneSurrogate => "the text has half of a surrogate pair, which is no character",
            Self::LoneSurrogateInKey => "the key has half of a surrogate pair, which is no character",
        }
    }
}

impl Value {
    /// What it is, with its article, for a reason.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(text) if is_integer(text) => "an integer",
            Self::Number(_) => "a number with a fraction or an exponent",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
            Self::Flawed(Flaw::NotFinite) => "no number",
            Self::Flawed(Flaw::LoneSurrogate | Flaw::LoneSurrogateInKey) => "no Unicode text",
        }
    }

    /// Why it is not what was `expected`, with its article.
    pub fn mismatch(&self, expected: &str) -> String {
        match self {
            Self::Flawed(flaw) => flaw.reason().into(),
            other => format!("expected {expected}, got {}", other.kind()),
        }
    }

    /// The same text for every way to write the same document: keys sorted, no space, numbers in their shortest form.
    /// An integer stays apart from a number with a fraction. Of repeated keys all are kept.
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        self.write_canonical(&mut text);
        text
    }

    fn write_canonical(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(text) => out.push_str(&canonical_number(text)),
            Self::String(text) => write_string(text, out),
            Self::Array(elements) => {
                out.push('[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    element.write_canonical(out);
                }
                out.push(']');
            }
            Self::Object(members) => write_object(members.iter(), out),
            Self::Flawed(flaw) => {
                let _ = write!(out, "{flaw:?}");
            }
        }
    }
}

/// For people to read. Of repeated keys the last stays; a number that nobody else could hold becomes its text.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null | Self::Flawed(_) => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(text) => serialize_number(text, serializer),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(elements) => serializer.collect_seq(elements),
            Self::Object(members) => {
                let members: BTreeMap<_, _> = members.iter().map(|(key, value)| (key, value)).collect();
                serializer.collect_map(members)
            }
        }
    }
}

/// [`Value::canonical`] of an object with these members.
pub fn canonical_object<'a>(members: impl Iterator<Item = &'a (String, Value)>) -> String {
    let mut text = String::new();
    write_object(members, &mut text);
    text
}

fn write_object<'a>(members: impl Iterator<Item = &'a (String, Value)>, out: &mut String) {
    let mut sorted: Vec<_> = members.collect();
    sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
    out.push('{');
    for (index, (key, value)) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string(key, out);
        out.push(':');
        value.write_canonical(out);
    }
    out.push('}');
}

/// Whether a JSON number was written without fraction and exponent.
pub fn is_integer(number: &str) -> bool {
    !number.contains(['.', 'e', 'E'])
}

fn canonical_number(text: &str) -> String {
    if is_integer(text) {
        return if text == "-0" { "0".into() } else { text.into() };
    }
    match text.parse::<f64>() {
        // Debug writes the shortest digits that read back as the same number, and always a fraction or an exponent.
        Ok(value) if value.is_finite() => format!("{value:?}"),
        _ => text.into(),
    }
}

fn serialize_number<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    if is_integer(text) {
        if let Ok(value) = text.parse() {
            return serializer.serialize_i64(value);
        }
        if let Ok(value) = text.parse() {
            return serializer.serialize_u64(value);
        }
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => serializer.serialize_f64(value),
        _ => serializer.serialize_str(text),
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut rest = text;
    while let Some(place) = rest.find(|character| matches!(character, '"' | '\\' | ..' ')) {
        out.push_str(&rest[..place]);
        match rest.as_bytes()[place] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => {
                let _ = write!(out, "\\u{control:04x}");
            }
        }
        // Each of them is one byte.
        rest = &rest[place + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

/// The longest key that a path shows; a longer one is cut, so that paths stay readable and small.
const MAX_PATH_KEY: usize = 256;

/// Adds a key to a path: `.key`, or `["the key"]` if it is no plain name.
pub fn push_key(path: &mut String, key: &str) {
    let plain = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && key.len() <= MAX_PATH_KEY
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !plain {
        return push_map_key(path, key);
    }
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// Adds the key of a map's entry to a path: `["key"]`.
pub fn push_map_key(path: &mut String, key: &str) {
    let mut quoted = String::new();
    match key.char_indices().nth(MAX_PATH_KEY) {
        None => write_string(key, &mut quoted),
        Some((end, _)) => write_string(&format!("{}…", &key[..end]), &mut quoted),
    }
    path.push('[');
    // The escape of a lone surrogate (see `Flaw`) must not be escaped again.
    let mut rest = quoted.as_str();
    while let Some(at) = rest.find("\\\\ud") {
        let (before, after) = rest.split_at(at);
        path.push_str(before);
        path.push_str(if is_end_of_surrogate(&after[4..]) { "\\ud" } else { "\\\\ud" });
        rest = &after[4..];
    }
    path.push_str(rest);
    path.push(']');
}

fn is_end_of_surrogate(text: &str) -> bool {
    text.starts_with(['8', '9', 'a', 'b', 'c', 'd', 'e', 'f'])
        && text.as_bytes().get(..3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// Adds the index of a list's element to a path: `[2]`.
pub fn push_index(path: &mut String, index: usize) {
    let _ = write!(path, "[{index}]");
}

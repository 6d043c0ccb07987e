//! A JSON document as its author wrote it: repeated keys, key order and the text of numbers are kept.
//!
//! Why not serde_json's own reader: what goes to Dataproc is checked field by field, and every fault is reported at
//! once, with its path. serde_json stops at a lone surrogate, at `NaN` and at `1e400`, wherever they stand (so that one
//! of them in the configuration of another job would harm every job), and it keeps no decimal text, so that
//! `1800.000000001` seconds could not be read exactly.

use std::fmt::Write;

/// How deep arrays and objects may be nested. The deepest place of a workflow template is about 15 levels down.
pub const MAX_DEPTH: usize = 100;

/// How many values a document may have. It bounds the memory of a tree of empty arrays, the worst case; a message of
/// Eventarc's 512 KB cannot have that many.
pub const MAX_VALUES: usize = 500_000;

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

/// The text is no JSON document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The innermost value that had begun, `jobs[2].pyspark_job`; empty for the document itself.
    pub path: String,
    pub message: String,
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
            Self::Object(members) => {
                let mut sorted: Vec<_> = members.iter().collect();
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
            Self::Flawed(flaw) => {
                let _ = write!(out, "{flaw:?}");
            }
        }
    }

    /// For records and events. Of repeated keys the last stays; a number that serde_json cannot hold becomes its text.
    pub fn to_serde(&self) -> serde_json::Value {
        match self {
            Self::Null | Self::Flawed(_) => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Number(text) => number_to_serde(text),
            Self::String(text) => text.as_str().into(),
            Self::Array(elements) => elements.iter().map(Self::to_serde).collect(),
            Self::Object(members) => members.iter().map(|(key, value)| (key.clone(), value.to_serde())).collect(),
        }
    }
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

fn number_to_serde(text: &str) -> serde_json::Value {
    if is_integer(text) {
        if let Ok(value) = text.parse::<i64>() {
            return value.into();
        }
        if let Ok(value) = text.parse::<u64>() {
            return value.into();
        }
    }
    let float = text.parse().ok().and_then(serde_json::Number::from_f64);
    float.map_or_else(|| text.into(), serde_json::Value::Number)
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
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
    path.push_str(&quoted.replace("\\\\ud", "\\ud"));
    path.push(']');
}

/// Adds the index of a list's element to a path: `[2]`.
pub fn push_index(path: &mut String, index: usize) {
    let _ = write!(path, "[{index}]");
}

/// Reads a document: UTF-8, with or without a byte order mark, and nothing after its value.
///
/// # Errors
///
/// The text is empty, not UTF-8, not JSON (`NaN`, `Infinity` and lone surrogates are left to whoever needs the value),
/// nested deeper than [`MAX_DEPTH`], or has more than [`MAX_VALUES`] values.
pub fn parse(text: &[u8]) -> Result<Value, SyntaxError> {
    let (valid, invalid) = match std::str::from_utf8(text) {
        Ok(text) => (text, None),
        Err(error) => {
            let (valid, _) = text.split_at(error.valid_up_to());
            // The part before the fault is UTF-8; it is needed to say where the fault is.
            (std::str::from_utf8(valid).unwrap_or_default(), Some(error.valid_up_to()))
        }
    };
    let text = valid.strip_prefix('\u{feff}').unwrap_or(valid);
    let mut reader = Reader { text, at: 0, values: 0 };
    if let Some(offset) = invalid {
        reader.at = text.len();
        return Err(reader.error(format!("not UTF-8 (byte {offset} of the document)")));
    }
    reader.space();
    if reader.at == text.len() {
        return Err(reader.error("the document is empty"));
    }
    let value = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.error("there is more text after the document's end"));
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    /// Byte offset, always at a character's boundary.
    at: usize,
    values: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Steps over `token` if it comes next.
    fn take(&mut self, token: &str) -> bool {
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        let before = &self.text[..self.at];
        let line = before.rsplit('\n').next().unwrap_or_default();
        SyntaxError {
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            path: String::new(),
            message: message.into(),
        }
    }

    /// What stands here instead of what was expected.
    fn unexpected(&self, expected: &str) -> SyntaxError {
        match self.text[self.at..].chars().next() {
            None => self.error(format!("expected {expected}, the document ends here")),
            Some(found) => self.error(format!("expected {expected}, found {found:?}")),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.error(format!("the document has more than {MAX_VALUES} values")));
        }
        match self.peek() {
            Some(b'{' | b'[') if depth == MAX_DEPTH => {
                Err(self.error(format!("nested deeper than {MAX_DEPTH} levels")))
            }
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => {
                let (text, sound) = self.string()?;
                Ok(if sound { Value::String(text) } else { Value::Flawed(Flaw::LoneSurrogate) })
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.take("true") => Ok(Value::Bool(true)),
            _ if self.take("false") => Ok(Value::Bool(false)),
            _ if self.take("null") => Ok(Value::Null),
            _ if self.take("NaN") || self.take("Infinity") => Ok(Value::Flawed(Flaw::NotFinite)),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.at += 1;
        let mut members = Vec::new();
        self.space();
        if self.take("}") {
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key in double quotes"));
            }
            let (key, sound) = self.string()?;
            self.space();
            if !self.take(":") {
                return Err(self.unexpected("':'"));
            }
            self.space();
            let value = self.value(depth).map_err(|error| error.within(|path| push_key(path, &key)))?;
            members.push((key, if sound { value } else { Value::Flawed(Flaw::LoneSurrogateInKey) }));
            self.space();
            if self.take("}") {
                return Ok(Value::Object(members));
            }
            if !self.take(",") {
                return Err(self.unexpected("',' or '}'"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        self.at += 1;
        let mut elements = Vec::new();
        self.space();
        if self.take("]") {
            return Ok(Value::Array(elements));
        }
        loop {
            self.space();
            let index = elements.len();
            elements.push(self.value(depth).map_err(|error| error.within(|path| push_index(path, index)))?);
            self.space();
            if self.take("]") {
                return Ok(Value::Array(elements));
            }
            if !self.take(",") {
                return Err(self.unexpected("',' or ']'"));
            }
        }
    }

    fn number(&mut self) -> Result<Value, SyntaxError> {
        let start = self.at;
        if self.take("-") && self.take("Infinity") {
            return Ok(Value::Flawed(Flaw::NotFinite));
        }
        if !self.take("0") {
            self.digits()?;
        }
        if self.take(".") {
            self.digits()?;
        }
        if self.take("e") || self.take("E") {
            if !self.take("+") {
                self.take("-");
            }
            self.digits()?;
        }
        Ok(Value::Number(self.text[start..self.at].into()))
    }

    fn digits(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected("a digit")) } else { Ok(()) }
    }

    /// The text of a string, and whether it is sound; in one that is not, lone surrogates stand as their escapes.
    fn string(&mut self) -> Result<(String, bool), SyntaxError> {
        self.at += 1;
        let mut text = String::new();
        let mut sound = true;
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < b' ');
            let plain = plain.unwrap_or(rest.len());
            text.push_str(&rest[..plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok((text, sound));
                }
                Some(b'\\') => sound &= self.escape(&mut text)?,
                None => return Err(self.error("the document ends inside a string")),
                Some(_) => {
                    return Err(self.error("a control character in a string must be escaped"));
                }
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<bool, SyntaxError> {
        let escaped = match self.text.as_bytes().get(self.at + 1) {
            Some(b'u') => return self.unicode_escape(text),
            Some(plain @ (b'"' | b'\\' | b'/')) => char::from(*plain),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            _ => return Err(self.error("a backslash that escapes nothing")),
        };
        text.push(escaped);
        self.at += 2;
        Ok(true)
    }

    fn unicode_escape(&mut self, text: &mut String) -> Result<bool, SyntaxError> {
        let Some(unit) = self.code_unit() else {
            return Err(self.error("\\u needs four hexadecimal digits"));
        };
        let first = self.at;
        self.at += 6;
        let second = if (0xd800..0xdc00).contains(&unit) { self.code_unit() } else { None };
        let character = match second {
            Some(low @ 0xdc00..0xe000) => {
                self.at += 6;
                char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00))
            }
            _ => char::from_u32(unit),
        };
        match character {
            Some(character) => text.push(character),
            None => text.push_str(&self.text[first..first + 6].to_ascii_lowercase()),
        }
        Ok(character.is_some())
    }

    /// The UTF-16 unit of a `\uXXXX` that stands here.
    fn code_unit(&self) -> Option<u32> {
        let digits = self.text[self.at..].strip_prefix("\\u")?.get(..4)?;
        // from_str_radix alone would take a sign.
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
    }
}

impl SyntaxError {
    /// For a violation of the whole document.
    pub fn reason(&self) -> String {
        if self.path.is_empty() { format!("not JSON: {self}") } else { format!("not JSON: {self} (in {})", self.path) }
    }

    /// Puts the segment that `push` writes in front of the path.
    fn within(mut self, push: impl FnOnce(&mut String)) -> Self {
        let mut path = String::new();
        push(&mut path);
        if !self.path.is_empty() && !self.path.starts_with('[') {
            path.push('.');
        }
        path.push_str(&self.path);
        self.path = path;
        self
    }
}

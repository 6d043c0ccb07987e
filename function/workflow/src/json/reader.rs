//! The text of a JSON document, read into its tree.

use super::{Flaw, Value, push_index, push_key};

/// How deep arrays and objects may be nested. The deepest place of a workflow template is about 15 levels down.
pub const MAX_DEPTH: usize = 100;

/// How many values a document may have. It bounds the memory of a tree of empty arrays, the worst case; a message of
/// Eventarc's 512 KB cannot have that many.
pub const MAX_VALUES: usize = 500_000;

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

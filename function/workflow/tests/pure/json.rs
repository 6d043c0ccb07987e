use inline_workflow::json::{Flaw, MAX_DEPTH, MAX_VALUES, Value, parse};

#[test]
fn keeps_what_a_map_would_lose() {
    let value = parse(br#"{"b": 1, "a": 1.0, "b": [null, true]}"#).unwrap();
    let number = |text: &str| Value::Number(text.into());
    let list = Value::Array(vec![Value::Null, Value::Bool(true)]);
    let members = [("b", number("1")), ("a", number("1.0")), ("b", list)];
    assert_eq!(value, Value::Object(members.map(|(key, value)| (key.into(), value)).to_vec()));
}

#[test]
fn a_fault_has_its_line_and_column() {
    let cases: [(&[u8], &str); 24] = [
        (b"", "line 1, column 1: the document is empty"),
        (b" \n ", "line 2, column 2: the document is empty"),
        (b"{", "line 1, column 2: expected a key in double quotes, the document ends here"),
        (b"{'a':1}", "line 1, column 2: expected a key in double quotes, found '\\''"),
        (b"{\"a\":1} x", "line 1, column 9: there is more text after the document's end"),
        (b"{\"a\":1}\n{}", "line 2, column 1: there is more text after the document's end"),
        (b"{\"a\":1,}", "line 1, column 8: expected a key in double quotes, found '}'"),
        (b"{\"a\" 1}", "line 1, column 6: expected ':', found '1'"),
        (b"{\"a\":1 \"b\"}", "line 1, column 8: expected ',' or '}', found '\"'"),
        (b"[1 2]", "line 1, column 4: expected ',' or ']', found '2'"),
        (b"[1,", "line 1, column 4: expected a value, the document ends here"),
        (b"[01]", "line 1, column 3: expected ',' or ']', found '1'"),
        (b"[+1]", "line 1, column 2: expected a value, found '+'"),
        (b"[1.]", "line 1, column 4: expected a digit, found ']'"),
        (b"[1e]", "line 1, column 4: expected a digit, found ']'"),
        (b"[-]", "line 1, column 3: expected a digit, found ']'"),
        (b"nul", "line 1, column 1: expected a value, found 'n'"),
        (b"[\"a\x01\"]", "line 1, column 4: a control character in a string must be escaped"),
        (b"[\"a\nb\"]", "line 1, column 4: a control character in a string must be escaped"),
        (b"[\"\\x\"]", "line 1, column 3: a backslash that escapes nothing"),
        (b"[\"\\u12\"]", "line 1, column 3: \\u needs four hexadecimal digits"),
        (b"[\"\\u+123\"]", "line 1, column 3: \\u needs four hexadecimal digits"),
        (b"[\"abc", "line 1, column 6: the document ends inside a string"),
        ("[\"é\", \u{e000}".as_bytes(), "line 1, column 7: expected a value, found '\\u{e000}'"),
    ];
    for (text, expected) in cases {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn a_fault_has_the_path_of_its_place() {
    let path = |text: &str| parse(text.as_bytes()).unwrap_err().path;
    assert_eq!(path(r#"{"jobs": [{}, {"pig_job": {"x y": tru}}]}"#), r#"jobs[1].pig_job["x y"]"#);
    assert_eq!(path(r#"{"a": 1, "b" }"#), "");
    assert_eq!(path("[[], [[1, x]]]"), "[1][0][1]");
}

#[test]
fn text_that_is_not_utf_8_is_refused_where_it_begins_to_be() {
    let error = parse(b"{\"a\":\n \"\xc3\xa9\xff\"}").unwrap_err();
    assert_eq!(error.to_string(), "line 2, column 4: not UTF-8 (byte 10 of the document)");
    assert_eq!(
        parse(b"\xff\xfe{\x00").unwrap_err().to_string(),
        "line 1, column 1: not UTF-8 (byte 0 of the document)"
    );
}

#[test]
fn a_byte_order_mark_is_skipped_at_the_beginning_only() {
    assert_eq!(parse("\u{feff}{}".as_bytes()).unwrap(), Value::Object(Vec::new()));
    assert!(parse("\u{feff}\u{feff}{}".as_bytes()).is_err());
    assert_eq!(parse("\u{feff}".as_bytes()).unwrap_err().message, "the document is empty");
}

#[test]
fn strings_are_unescaped() {
    let text = |json: &str| parse(json.as_bytes()).unwrap();
    let string = |text: &str| Value::String(text.into());
    assert_eq!(text(r#""\"\\\/\b\f\n\r\t\u00e9\u0000""#), string("\"\\/\u{8}\u{c}\n\r\té\0"));
    assert_eq!(text(r#""\ud83d\ude80 🚀""#), string("🚀 🚀"));
}

#[test]
fn what_no_field_can_hold_is_no_syntax_error() {
    let value = |json: &str| parse(json.as_bytes()).unwrap();
    for json in ["NaN", "Infinity", "-Infinity"] {
        assert_eq!(value(json), Value::Flawed(Flaw::NotFinite));
    }
    for json in [r#""\ud800""#, r#""a\udfffb""#, r#""\ud800\ud800""#, r#""\ud800x""#, r#""\ud800\n""#] {
        assert_eq!(value(json), Value::Flawed(Flaw::LoneSurrogate), "{json}");
    }
    let flawed = Value::Object(vec![("\\ud800".into(), Value::Flawed(Flaw::LoneSurrogateInKey))]);
    assert_eq!(value(r#"{"\uD800": 1}"#), flawed);
}

#[test]
fn depth_and_number_of_values_are_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
    assert_eq!(parse(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err().message, "nested deeper than 100 levels");
    assert!(parse("[".repeat(1_000_000).as_bytes()).is_err());
    let long = |values: usize| format!("[{}0]", "0,".repeat(values - 2));
    assert!(parse(long(MAX_VALUES).as_bytes()).is_ok());
    assert!(parse(long(MAX_VALUES + 1).as_bytes()).is_err());
}

#[test]
fn the_canonical_text_does_not_depend_on_how_it_was_written() {
    let canonical = |json: &str| parse(json.as_bytes()).unwrap().canonical();
    assert_eq!(
        canonical(" {\"b\" : [1, 2.50, -0, 1e3], \"a\":\"\\u00e9\\/\\n\"} "),
        "{\"a\":\"é/\\n\",\"b\":[1,2.5,0,1000.0]}"
    );
    assert_eq!(canonical("[1, 1.0, true, null]"), "[1,1.0,true,null]");
    assert_eq!(canonical("123456789012345678901234567890"), "123456789012345678901234567890");
    assert_ne!(canonical("[1]"), canonical("[\"1\"]"));
    // Numbers that no float holds stay apart.
    assert_ne!(canonical("1e400"), canonical("1e401"));
}

#[test]
fn serde_gets_the_same_values() {
    let value = parse(br#"{"a": [1, -2, 18446744073709551615, 1.5, 1e400], "b": {"c": "d", "e": false}}"#).unwrap();
    let expected = serde_json::json!({"a": [1, -2, u64::MAX, 1.5, "1e400"], "b": {"c": "d", "e": false}});
    assert_eq!(serde_json::to_value(&value).unwrap(), expected);
}

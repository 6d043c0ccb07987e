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
fn what_is_not_an_object_is_rejected() {
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
    assert!(matches!(data(commas), Data::Json(Value::String(_))), "commas inside strings do not separate values");
}

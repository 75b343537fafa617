//! Readable errors for invalid JSON.

/// Explains why a text is not valid JSON, with line and column. Replaces the messages of `serde_json` that only a
/// programmer understands, and keeps the others.
pub(crate) fn in_words(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let why = match text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text) {
        "EOF while parsing an object" => "expected the rest of an object and its `}`, found the end of the text",
        "EOF while parsing a list" => "expected the rest of a list and its `]`, found the end of the text",
        "EOF while parsing a string" => "expected the rest of a string and its closing `\"`, found the end of the text",
        "EOF while parsing a value" => "expected a value, found the end of the text",
        "expected value" | "expected ident" => {
            "expected a value: a string in double quotes, a number, true, false, null, a list or an object"
        }
        "key must be a string" => r#"expected the name of a field in double quotes, as in {"capacity": 60}"#,
        "trailing comma" => "expected another entry after the comma, or no comma",
        "trailing characters" => "expected nothing after the object",
        other => other,
    };
    format!("it is not valid JSON: {why}, at line {line}, column {column}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_error_for_invalid_json_has_a_reason_and_a_position() {
        for (text, expected) in [
            ("", "expected a value, found the end of the text, at line 1, column 0"),
            ("{", "expected the rest of an object and its `}`, found the end of the text, at line 1, column 1"),
            (
                "capacity: 5",
                "expected a value: a string in double quotes, a number, true, false, null, a list or an object, at line 1, column 1",
            ),
            (
                "{capacity: 5}",
                "expected the name of a field in double quotes, as in {\"capacity\": 60}, at line 1, column 2",
            ),
            ("{\n\"capacity\": 5,\n}", "expected another entry after the comma, or no comma, at line 3, column 1"),
            ("{\"capacity\" 5}", "expected `:`, at line 1, column 13"),
            ("{} x", "expected nothing after the object, at line 1, column 4"),
        ] {
            let error = serde_json::from_str::<Value>(text).unwrap_err();
            assert_eq!(in_words(&error), format!("it is not valid JSON: {expected}"), "{text}");
        }
    }
}

//! Error messages about invalid JSON. Owns the translation of `serde_json`'s messages; must not know the purpose of the
//! text.

use std::fmt;

use serde_json::error::Category;

/// Example of a JSON object, for the message about a text that is none.
const EXAMPLE: &str = r#"{"name": "value"}"#;

/// A text is not the expected JSON object. The message says what was expected, what was found, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadJson {
    /// Path of the field; `None` for the whole text.
    field: Option<String>,
    /// Whether the text is valid JSON, and only its content is wrong.
    is_json: bool,
    /// What was expected, what was found, and where.
    why: String,
}

impl BadJson {
    /// Translates an error of `serde_json`, with the path that `serde_path_to_error` reports (`.` for the whole text).
    pub(super) fn new(path: &str, error: &serde_json::Error) -> Self {
        // The path ends in `?` if the name of a field could not be parsed.
        let path = path.strip_suffix('?').map_or(path, |path| path.trim_end_matches('.'));
        let field = (!matches!(path, "" | ".")).then(|| path.to_owned());
        Self { field, is_json: error.classify() == Category::Data, why: in_words(error) }
    }

    /// Returns the error for a text that does not begin with `{`; `None` if it does.
    pub(super) fn no_object(bytes: &[u8]) -> Option<Self> {
        let start = bytes.iter().position(|byte| !b" \t\r\n".contains(byte)).unwrap_or(bytes.len());
        let (before, rest) = bytes.split_at_checked(start)?;
        let found = match String::from_utf8_lossy(rest.get(..rest.len().min(4))?).chars().next() {
            Some('{') => return None,
            Some(found) => format!("`{}`", found.escape_debug()),
            None => "the end of the text".to_owned(),
        };
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
        let why = format!("expected an object, as in {EXAMPLE}, found {found}, at line {line}, column {column}");
        Some(Self { field: None, is_json: true, why })
    }

    /// Renders the error as a sentence without full stop. `what` names the text, as in `The body`.
    pub fn of(&self, what: &str) -> String {
        match (&self.field, self.is_json) {
            // For an unknown or missing field the reason has the field's name, and the path names the enclosing object.
            (None, true) => format!("{what} is refused: {}", self.why),
            (Some(field), true) => format!("`{field}` is refused: {}", self.why),
            (None, false) => format!("{what} is not valid JSON: {}", self.why),
            (Some(field), false) => format!("{what} is not valid JSON in `{field}`: {}", self.why),
        }
    }
}

impl fmt::Display for BadJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.of("the text"))
    }
}

impl std::error::Error for BadJson {}

/// Translates an error of `serde_json` and adds its place. Columns count from 1; 0 means before the first character.
fn in_words(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let text = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    let why = if error.classify() == Category::Data { mismatch(text) } else { syntax(text).to_owned() };
    if line == 0 { why } else { format!("{why}, at line {line}, column {column}") }
}

/// Translates a syntax error of `serde_json`. Messages that are clear already are kept.
fn syntax(text: &str) -> &str {
    match text {
        "EOF while parsing an object" => "expected the rest of an object and its `}`, found the end of the text",
        "EOF while parsing a list" => "expected the rest of a list and its `]`, found the end of the text",
        "EOF while parsing a string" => "expected the rest of a string and its closing `\"`, found the end of the text",
        "EOF while parsing a value" => "expected a value, found the end of the text",
        "expected value" | "expected ident" => {
            "expected a value: a string in double quotes, a number, true, false, null, a list or an object"
        }
        "key must be a string" => r#"expected the name of a field in double quotes, as in {"name": "value"}"#,
        "trailing comma" => "expected another entry after the comma, or no comma",
        "trailing characters" => "expected nothing after the object",
        "invalid escape" => r"expected an escape of JSON after the backslash, such as \n or \u00e9",
        "invalid unicode code point" => "expected text in UTF-8",
        "recursion limit exceeded" => "expected less nesting",
        other => other,
    }
}

/// Translates a type error of `serde_json` from Rust's type names to those of JSON.
fn mismatch(text: &str) -> String {
    let found = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "));
    let Some((found, expected)) = found.and_then(|text| text.rsplit_once(", expected ")) else {
        return text.to_owned();
    };
    let expected = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        other => other,
    };
    let found = match found {
        "sequence" => "a list",
        "map" => "an object",
        other => other,
    };
    format!("expected {expected}, found {found}")
}

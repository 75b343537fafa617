//! Splits Rust source into identifiers and punctuation with line numbers, without comments and contents of literals.
//!
//! This is enough to find the paths in a file; it is not a parser.

/// A token of Rust source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// An identifier, or one character of punctuation. Literals are one `"`.
    pub(crate) text: String,
    /// Line number, from 1.
    pub(crate) line: usize,
}

impl Token {
    pub(crate) fn is_name(&self) -> bool {
        self.text.starts_with(|it: char| it.is_alphabetic() || it == '_')
    }
}

/// Splits source text into tokens.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut scan = Scan { rest: text, line: 1, found: Vec::new() };
    while scan.next() {}
    scan.found
}

struct Scan<'a> {
    rest: &'a str,
    line: usize,
    found: Vec<Token>,
}

impl Scan<'_> {
    /// Takes one token, comment or space; returns false at the end.
    fn next(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        if first.is_whitespace() {
            self.skip(first.len_utf8());
        } else if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.skip(block_comment(self.rest));
        } else if let Some(length) = string(self.rest) {
            self.keep("\"", length);
        } else if first == '\'' {
            match character(self.rest) {
                Some(length) => self.keep("\"", length),
                // A lifetime: skips the quote and the name.
                None => self.skip(1 + word(self.rest.get(1..).unwrap_or_default())),
            }
        } else if first.is_ascii_digit() {
            self.keep("\"", word(self.rest));
        } else if first.is_alphabetic() || first == '_' {
            let length = word(self.rest);
            let text = self.rest.get(..length).unwrap_or_default().to_owned();
            self.keep(&text, length);
        } else {
            self.keep(&first.to_string(), first.len_utf8());
        }
        true
    }

    fn keep(&mut self, text: &str, length: usize) {
        self.found.push(Token { text: text.to_owned(), line: self.line });
        self.skip(length);
    }

    fn skip(&mut self, length: usize) {
        let (taken, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        self.line += taken.matches('\n').count();
        self.rest = rest;
    }
}

fn word(text: &str) -> usize {
    text.find(|it: char| !it.is_alphanumeric() && it != '_').unwrap_or(text.len())
}

/// Length of the block comment at the start of `text`, with nested ones.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of the string literal at the start of `text`, with its prefix and hashes; `None` if there is none.
fn string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|it| {
        let rest = text.strip_prefix(it).unwrap_or_default();
        text.starts_with(it) && (rest.starts_with('"') || it.ends_with('r') && rest.starts_with("#"))
    })?;
    let rest = text.get(prefix.len()..)?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    // `r#name` is an identifier.
    let inner = rest.get(hashes..)?.strip_prefix('"')?;
    let begin = prefix.len() + hashes + 1;
    if prefix.ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(inner.find(&end).map_or(text.len(), |at| begin + at + end.len()));
    }
    Some(begin + quoted(inner, '"'))
}

/// Length of the character literal at the start of `text`; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let first = inner.chars().next()?;
    let second = inner.get(first.len_utf8()..)?;
    (first == '\\' || second.starts_with('\'')).then(|| 1 + quoted(inner, '\''))
}

/// Length of `inner` up to the closing quote, inclusive.
fn quoted(inner: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, it) in inner.char_indices() {
        match it {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            it if it == quote => return at + it.len_utf8(),
            _ => (),
        }
    }
    inner.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        tokens(source).into_iter().map(|it| it.text).collect()
    }

    #[test]
    fn comments_strings_and_lifetimes_give_no_names() {
        let source = "a /* b /* c */ d */ \"e \\\" f\" r#\"g \" h\"# 'i' '\\'' b\"j\" &'k l // m\nn 1_u64 r\"o\"";
        assert_eq!(texts(source), ["a", "\"", "\"", "\"", "\"", "\"", "&", "l", "n", "\"", "\""]);
    }

    #[test]
    fn a_token_has_its_line_number() {
        let lines: Vec<usize> = tokens("a\n/* \n */ \"\n\" b").into_iter().map(|it| it.line).collect();
        assert_eq!(lines, [1, 3, 4]);
    }
}

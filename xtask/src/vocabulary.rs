//! The step `vocabulary`: no word that was replaced is used again.
//!
//! The list is `xtask/vocabulary.txt`; its first lines say how an old word is found.

use std::collections::{BTreeMap, BTreeSet};

use crate::shell::{self, Failure, Outcome};

const LIST: &str = "xtask/vocabulary.txt";

/// Files that may contain old words: the list itself, and documents about the project's history.
const EXEMPT: &[&str] = &[LIST, "CHANGELOG.md", "verify/FINDINGS.md"];

/// Maximum of printed lines per rule; all lines are counted.
const SHOWN: usize = 5;

/// A line of the list: old words, and what to write instead.
struct Rule {
    old: Vec<String>,
    new: String,
}

/// One line with an old word.
#[derive(Debug, PartialEq, Eq)]
struct Hit {
    file: String,
    line: usize,
    text: String,
}

/// Runs the step on the project.
pub(crate) fn check() -> Outcome {
    let rules = rules(include_str!("../vocabulary.txt"))?;
    let mut hits: BTreeMap<usize, Vec<Hit>> = BTreeMap::new();
    for file in shell::tracked_files()? {
        if is_checked(&file) {
            find(&rules, &file, &shell::read(&file)?, &mut hits);
        }
    }
    for (index, found) in &hits {
        let Some(rule) = rules.get(*index) else { continue };
        println!("{:5}  {}  -> {}", found.len(), rule.old.join(" | "), rule.new);
        for hit in found.iter().take(SHOWN) {
            println!("         {}:{}: {}", hit.file, hit.line, hit.text);
        }
    }
    if hits.is_empty() {
        println!("no line uses a word of the {} rules", rules.len());
        return Ok(());
    }
    let lines: usize = hits.values().map(Vec::len).sum();
    Err(Failure::new(format!("{lines} lines use words of {} rules; {LIST} says what to write instead", hits.len())))
}

fn is_checked(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or_default();
    let is_text = [".rs", ".md", ".yaml", ".yml", ".py"].iter().any(|it| name.ends_with(it));
    (is_text || name == "Cargo.toml" || name == "run" || file.starts_with("fuzz/seeds/")) && !EXEMPT.contains(&file)
}

/// Reads the list.
fn rules(list: &str) -> Result<Vec<Rule>, Failure> {
    let lines = list.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let rules = lines.map(|(index, line)| {
        let wrong = |why: String| Failure::new(format!("{LIST}:{}: {why}", index + 1));
        let (old, new) = line.split_once(" => ").ok_or_else(|| wrong("the line lacks ` => `".to_owned()))?;
        let old: Vec<String> = old.split(" | ").map(|it| it.trim().to_owned()).collect();
        if old.iter().any(String::is_empty) {
            return Err(wrong("an old word is empty".to_owned()));
        }
        Ok(Rule { old, new: new.trim().to_owned() })
    });
    rules.collect()
}

fn find(rules: &[Rule], file: &str, text: &str, hits: &mut BTreeMap<usize, Vec<Hit>>) {
    for (index, rule) in rules.iter().enumerate() {
        let lines: BTreeSet<usize> = rule.old.iter().flat_map(|old| lines_with(text, old)).collect();
        for line in lines {
            let text = text.lines().nth(line - 1).unwrap_or_default().trim().to_owned();
            hits.entry(index).or_default().push(Hit { file: file.to_owned(), line, text });
        }
    }
}

/// Line numbers, from 1, with a word or phrase. Where it begins or ends with a letter, it must be a whole word.
fn lines_with<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_letter = |it: Option<char>| it.is_some_and(|it| it.is_alphanumeric() || it == '_');
    let found = text.match_indices(word).filter(move |&(at, _)| {
        let before = text.get(..at).and_then(|it| it.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|it| it.chars().next());
        let goes_back = is_letter(before) && is_letter(word.chars().next());
        let goes_on = is_letter(after) && is_letter(word.chars().next_back());
        !goes_back && !goes_on
    });
    found.map(|(at, _)| text.get(..at).unwrap_or_default().matches('\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(line: &str) -> usize {
        let rules = rules(include_str!("../vocabulary.txt")).unwrap();
        let mut hits = BTreeMap::new();
        find(&rules, "a.rs", line, &mut hits);
        hits.len()
    }

    #[test]
    fn a_planted_old_word_is_found_with_its_line() {
        let rules = rules("# old => new\nfee | foo => bar\n").unwrap();
        let mut hits = BTreeMap::new();
        find(&rules, "a.rs", "food foo_d\n  let foo = 1 + foo;\n", &mut hits);
        assert_eq!(hits[&0], [Hit { file: "a.rs".to_owned(), line: 2, text: "let foo = 1 + foo;".to_owned() }]);
    }

    #[test]
    fn the_projects_list_finds_old_words() {
        // Split, so that this file itself contains none of them.
        let planted = [
            concat!("a: &Sta", "mp"),
            concat!("Good", "bye::new()"),
            concat!("it says good", "bye"),
            concat!("Ask", "::Seat"),
            concat!("owmm::domain::tee", "th"),
            concat!("INSI", "DE  COM", "ING"),
            concat!("how often the pool is looked ", "after"),
        ];
        for line in planted {
            assert!(hits(line) > 0, "{line}");
        }
    }

    #[test]
    fn the_projects_list_leaves_ordinary_words_alone() {
        let fine = [
            "let timestamp = now; // a benchmark of the frontier",
            "a task, a mask, `Task::new`, Passing, gateway, Gateway",
            "look up after that, the next word, remarkable",
            "Placement, Assignment, Claim::Reserved, concurrentLaunches",
        ];
        for line in fine {
            assert_eq!(hits(line), 0, "{line}");
        }
    }

    #[test]
    fn a_malformed_line_of_the_list_is_reported_with_its_number() {
        assert!(rules("a => b\nnothing").err().unwrap().to_string().starts_with("xtask/vocabulary.txt:2: "));
        assert!(rules("a |  | c => b").is_err());
    }
}

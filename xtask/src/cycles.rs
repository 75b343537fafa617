//! The step `cycles`: the files of a crate have no import cycle, and the crates of the workspace have none.
//!
//! A file imports another file if it names an item that the other one defines, with `use` or with a path in its code.
//! A name that a parent re-exports counts as an import of the file that defines it, so a facade is no cycle. The
//! re-export itself counts only if the parent's own code uses the name. `mod` declarations and code under `cfg(test)`
//! do not count. Macros are not expanded, so a path that only a macro produces is not found.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    shell::{self, Failure, Outcome},
    source::{Token, tokens},
};

/// Text of the project's files, by path.
type Files = BTreeMap<String, String>;

/// For each file or crate, what it imports, with the place of the first such import.
type Graph = BTreeMap<String, BTreeMap<String, Place>>;

/// Place of an import.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: String,
    line: usize,
}

/// Maximum of re-exports that are followed for one name, which ends circular chains.
const RE_EXPORTS: usize = 16;

/// Runs the step on the project.
pub(crate) fn check() -> Outcome {
    let mut files = Files::new();
    for file in shell::tracked_files()? {
        if file.ends_with(".rs") || file == "Cargo.toml" || file.ends_with("/Cargo.toml") {
            files.insert(file.clone(), shell::read(&file)?);
        }
    }
    let (crates, modules) = (roots(&files), graph_of_crates(&files));
    let mut found = cycles(&modules);
    for root in &crates {
        found.extend(cycles(&Crate::read(root, &files).graph()));
    }
    found.sort();
    found.dedup();
    if found.is_empty() {
        println!("{} programs and libraries, without a cycle", crates.len());
        return Ok(());
    }
    for cycle in &found {
        println!("{cycle}");
    }
    Err(Failure::new(format!("{} import cycles; remove one import of each", found.len())))
}

/// Root files of libraries, programs and tests, as cargo finds them.
fn roots(files: &Files) -> Vec<String> {
    let mut roots = Vec::new();
    for manifest in files.keys().filter(|it| it.ends_with("Cargo.toml")) {
        let folder = manifest.strip_suffix("Cargo.toml").unwrap_or_default();
        for file in files.keys() {
            let Some(inside) = file.strip_prefix(folder) else { continue };
            let parts: Vec<&str> = inside.split('/').collect();
            let is_root = match parts.as_slice() {
                ["build.rs"] | ["src", "lib.rs" | "main.rs"] => true,
                ["src", "bin", it] | ["tests" | "examples" | "benches", it] => it.ends_with(".rs"),
                ["src", "bin", _, "main.rs"] | ["tests" | "examples" | "benches", _, "main.rs"] => true,
                _ => false,
            };
            if is_root {
                roots.push(file.clone());
            }
        }
    }
    roots
}

/// Dependencies between the crates of the workspace, including development dependencies.
fn graph_of_crates(files: &Files) -> Graph {
    let mut named = BTreeMap::new();
    for (manifest, text) in files.iter().filter(|(it, _)| it.ends_with("Cargo.toml")) {
        let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        if let Some(name) = name.filter(|_| text.contains("[package]")) {
            named.insert(name.to_owned(), (manifest, text));
        }
    }
    let mut graph = Graph::new();
    for (name, (manifest, text)) in &named {
        let imports: &mut BTreeMap<String, Place> = graph.entry(name.clone()).or_default();
        let mut is_dependencies = false;
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('[') {
                is_dependencies = line.trim_end_matches(']').ends_with("dependencies");
            }
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if is_dependencies && dependency != name && named.contains_key(dependency) {
                let place = Place { file: (*manifest).clone(), line: index + 1 };
                imports.entry(dependency.to_owned()).or_insert(place);
            }
        }
    }
    graph
}

/// Modules of one library or program, in the order in which they were found; the first is the root.
struct Crate {
    modules: Vec<Module>,
}

#[derive(Default)]
struct Module {
    file: String,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    imports: Vec<Import>,
    /// Paths of at least two names in its code.
    paths: Vec<(Vec<String>, usize)>,
    /// Every name in its code, without imports.
    names: BTreeSet<String>,
    /// Items that it defines.
    defines: BTreeSet<String>,
}

/// One name of a `use`.
struct Import {
    path: Vec<String>,
    /// Its name in the importing module; `None` for `*`.
    name: Option<String>,
    line: usize,
    is_re_export: bool,
}

/// Target of a path: a module, or an item of a module.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Module(usize),
    Item(usize),
}

impl Crate {
    fn read(root: &str, files: &Files) -> Crate {
        let mut read = Crate { modules: Vec::new() };
        let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        read.add(root, &folder, None, files);
        read
    }

    /// Adds the module of a file and its child modules, which are in `folder`.
    fn add(&mut self, file: &str, folder: &str, parent: Option<usize>, files: &Files) -> usize {
        let this = self.modules.len();
        self.modules.push(Module { file: file.to_owned(), parent, ..Module::default() });
        let tokens = tokens(files.get(file).map(String::as_str).unwrap_or_default());
        Reader { read: self, files, tokens: &tokens, at: 0 }.module(this, folder);
        this
    }

    fn module(&mut self, index: usize) -> Option<&mut Module> {
        self.modules.get_mut(index)
    }

    /// Resolves a path in the module `from`. `None` if its target is outside the crate, or in the module itself.
    fn resolve(&self, from: usize, path: &[String], left: usize) -> Option<Target> {
        let module = self.modules.get(from)?;
        let (first, rest) = path.split_first()?;
        let start = match first.as_str() {
            "crate" => Target::Module(0),
            "self" => Target::Module(from),
            "super" => Target::Module(module.parent?),
            name if module.defines.contains(name) => return None,
            name => self.member(from, name, left)?,
        };
        self.walk(start, rest, left)
    }

    fn walk(&self, start: Target, path: &[String], left: usize) -> Option<Target> {
        let mut at = start;
        for name in path {
            let Target::Module(module) = at else { return Some(at) };
            at = match name.as_str() {
                "super" => Target::Module(self.modules.get(module)?.parent?),
                "self" => at,
                // An undeclared name comes from a macro and belongs to the module.
                name => self.member(module, name, left).unwrap_or(Target::Item(module)),
            };
        }
        Some(at)
    }

    /// Resolves a name in a module: a child module, an item, or the target of an import.
    fn member(&self, index: usize, name: &str, left: usize) -> Option<Target> {
        let left = left.checked_sub(1)?;
        let module = self.modules.get(index)?;
        if let Some(&child) = module.children.get(name) {
            return Some(Target::Module(child));
        }
        if module.defines.contains(name) {
            return Some(Target::Item(index));
        }
        let named = module.imports.iter().filter(|it| it.name.as_deref() == Some(name));
        // The first name of an import is not resolved by that import, so `use x::x` does not refer to itself.
        let mut found = named.filter_map(|it| self.origin(index, it, left));
        found.next().or_else(|| {
            let globs = module.imports.iter().filter(|it| it.name.is_none());
            globs.filter_map(|it| self.origin(index, it, left)).find_map(|target| match target {
                Target::Module(other) if other != index => self.member(other, name, left),
                _ => None,
            })
        })
    }

    fn origin(&self, index: usize, import: &Import, left: usize) -> Option<Target> {
        let (first, rest) = import.path.split_first()?;
        let module = self.modules.get(index)?;
        let start = match first.as_str() {
            "crate" => Target::Module(0),
            "self" => Target::Module(index),
            "super" => Target::Module(module.parent?),
            name => match module.children.get(name) {
                Some(&child) => Target::Module(child),
                None if module.defines.contains(name) => Target::Item(index),
                None if import.name.as_deref() == Some(name) => return None,
                None => self.member(index, name, left)?,
            },
        };
        self.walk(start, rest, left)
    }

    /// Imports between the files of the crate.
    fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        for (index, module) in self.modules.iter().enumerate() {
            let mut add = |target: Option<Target>, line: usize| {
                // Importing a module is no import of its file; naming an item through the module is.
                let Some(Target::Item(other)) = target else { return };
                let Some(other) = self.modules.get(other) else { return };
                if other.file != module.file {
                    let imports = graph.entry(module.file.clone()).or_default();
                    let place = Place { file: module.file.clone(), line };
                    imports.entry(other.file.clone()).or_insert(place);
                }
            };
            for import in &module.imports {
                let is_used = import.name.as_ref().is_some_and(|name| module.names.contains(name));
                if import.is_re_export && !is_used {
                    continue;
                }
                match self.origin(index, import, RE_EXPORTS) {
                    Some(Target::Module(other)) if import.name.is_none() => add(Some(Target::Item(other)), import.line),
                    target => add(target, import.line),
                }
            }
            for (path, line) in &module.paths {
                add(self.resolve(index, path, RE_EXPORTS), *line);
            }
        }
        graph
    }
}

/// Reads the tokens of a file.
struct Reader<'a> {
    read: &'a mut Crate,
    files: &'a Files,
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    fn text(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map(|it| it.text.as_str()).unwrap_or_default()
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map(|it| it.line).unwrap_or_default()
    }

    fn is_name(&self, ahead: usize) -> bool {
        self.tokens.get(self.at + ahead).is_some_and(Token::is_name)
    }

    fn is_path_separator(&self, ahead: usize) -> bool {
        self.text(ahead) == ":" && self.text(ahead + 1) == ":"
    }

    /// Reads up to the brace that closes the module, or the end of the file.
    fn module(&mut self, this: usize, folder: &str) {
        let mut depth = 0_usize;
        while self.at < self.tokens.len() {
            match self.text(0) {
                "{" => depth += 1,
                "}" if depth == 0 => return,
                "}" => depth -= 1,
                "#" if self.text(1) == "[" || self.text(1) == "!" && self.text(2) == "[" => {
                    if self.attribute() {
                        self.skip_item();
                    }
                    continue;
                }
                "mod" if self.is_name(1) => {
                    self.child(this, folder);
                    continue;
                }
                "use" if self.is_name(1) || matches!(self.text(1), "{" | ":") => {
                    self.import(this);
                    continue;
                }
                // The path in `pub(in path)` is no import.
                "pub" if self.text(1) == "(" => {
                    self.at += 2;
                    while !matches!(self.text(0), ")" | "") {
                        self.at += 1;
                    }
                }
                "struct" | "enum" | "union" | "trait" | "type" | "fn" | "const" | "static" if self.is_name(1) => {
                    let name = self.text(1).to_owned();
                    if depth == 0 {
                        self.define(this, name);
                    }
                }
                "macro_rules" if self.text(1) == "!" => {
                    let name = self.text(2).to_owned();
                    self.define(this, name);
                }
                _ if self.is_name(0) => {
                    self.path(this);
                    continue;
                }
                _ => (),
            }
            self.at += 1;
        }
    }

    fn define(&mut self, this: usize, name: String) {
        if let Some(module) = self.read.module(this) {
            module.defines.insert(name);
        }
    }

    /// Skips an attribute; returns whether it limits the next item to tests.
    fn attribute(&mut self) -> bool {
        let begin = self.at;
        while !matches!(self.text(0), "[" | "") {
            self.at += 1;
        }
        self.group("[", "]");
        let within = self.tokens.get(begin..self.at).unwrap_or_default();
        let names: Vec<&str> = within.iter().filter(|it| it.is_name()).map(|it| it.text.as_str()).collect();
        matches!(names.as_slice(), ["cfg", "test"] | ["cfg", "all", "test", ..])
    }

    /// Skips a group of tokens in brackets, from its opening bracket.
    fn group(&mut self, open: &str, close: &str) {
        let mut depth = 0_usize;
        while self.at < self.tokens.len() {
            if self.text(0) == open {
                depth += 1;
            } else if self.text(0) == close {
                depth -= 1;
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }

    /// Skips an item up to its semicolon or its closing brace.
    fn skip_item(&mut self) {
        while self.at < self.tokens.len() {
            match self.text(0) {
                ";" => {
                    self.at += 1;
                    return;
                }
                "{" => return self.group("{", "}"),
                "(" => self.group("(", ")"),
                "[" => self.group("[", "]"),
                _ => self.at += 1,
            }
        }
    }

    /// Reads `mod name;` or `mod name { ... }`.
    fn child(&mut self, this: usize, folder: &str) {
        let name = self.text(1).to_owned();
        let inside = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let child = match self.text(2) {
            ";" => {
                self.at += 3;
                let file = [format!("{inside}.rs"), format!("{inside}/mod.rs")]
                    .into_iter()
                    .find(|it| self.files.contains_key(it));
                // The compiler reports a missing file.
                let Some(file) = file else { return };
                self.read.add(&file, &inside, Some(this), self.files)
            }
            "{" => {
                self.at += 3;
                let file = self.read.modules.get(this).map(|it| it.file.clone()).unwrap_or_default();
                let child = self.read.modules.len();
                self.read.modules.push(Module { file, parent: Some(this), ..Module::default() });
                self.module(child, &inside);
                self.at += 1;
                child
            }
            _ => {
                self.at += 1;
                return;
            }
        };
        if let Some(module) = self.read.module(this) {
            module.children.insert(name, child);
        }
    }

    /// Reads `use` up to its semicolon.
    fn import(&mut self, this: usize) {
        let before = self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map(|it| it.text.as_str());
        let is_re_export = matches!(before, Some("pub" | ")"));
        self.at += 1;
        let mut found = Vec::new();
        self.tree(&[], &mut found);
        self.at += 1;
        if let Some(module) = self.read.module(this) {
            for (path, name, line) in found {
                if name.as_deref() != Some("_") {
                    module.imports.push(Import { path, name, line, is_re_export });
                } else {
                    // `as _` imports a trait for its methods, so the trait counts as used.
                    module.imports.push(Import { path, name, line, is_re_export: false });
                }
            }
        }
    }

    fn tree(&mut self, prefix: &[String], found: &mut Vec<(Vec<String>, Option<String>, usize)>) {
        let mut path = prefix.to_vec();
        loop {
            let line = self.line();
            match self.text(0) {
                "{" => {
                    self.at += 1;
                    while !matches!(self.text(0), "}" | "") {
                        self.tree(&path, found);
                        if self.text(0) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "*" => {
                    self.at += 1;
                    found.push((path, None, line));
                    return;
                }
                _ if self.is_name(0) => {
                    let name = self.text(0).to_owned();
                    self.at += 1;
                    if name == "self" && !path.is_empty() {
                        let last = path.last().cloned();
                        return found.push((path, self.alias().or(last), line));
                    }
                    path.push(name.clone());
                    if !self.is_path_separator(0) {
                        return found.push((path, self.alias().or(Some(name)), line));
                    }
                    self.at += 2;
                }
                // Skips a leading `::` and tokens that are no import.
                "" | ";" => return,
                _ => self.at += 1,
            }
        }
    }

    fn alias(&mut self) -> Option<String> {
        let name = (self.text(0) == "as").then(|| self.text(1).to_owned())?;
        self.at += 2;
        Some(name)
    }

    /// Reads a name and the names that `::` joins to it.
    fn path(&mut self, this: usize) {
        let before = self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map(|it| it.text.clone());
        let line = self.line();
        let mut path = vec![self.text(0).to_owned()];
        self.at += 1;
        while self.is_path_separator(0) && self.is_name(2) {
            path.push(self.text(2).to_owned());
            self.at += 3;
        }
        // `.name` is a field or a method, and `::name` the rest of a path that began with a type.
        let is_start = !matches!(before.as_deref(), Some("." | ":")) || self.is_annotation(&path);
        let Some(module) = self.read.module(this) else { return };
        if let Some(first) = path.first().filter(|_| is_start) {
            module.names.insert(first.clone());
        }
        if path.len() > 1 && is_start {
            module.paths.push((path, line));
        }
    }

    /// Whether the path just read follows a single colon, like a type, and not `::`.
    fn is_annotation(&self, path: &[String]) -> bool {
        let begin = self.at.checked_sub(3 * path.len() - 2);
        let text = |back: usize| {
            begin.and_then(|it| it.checked_sub(back)).and_then(|it| self.tokens.get(it)).map(|it| it.text.as_str())
        };
        text(1) == Some(":") && text(2) != Some(":")
    }
}

/// Cycles of a graph, each once: for each import in a cycle, the shortest one, with the places of its imports.
fn cycles(graph: &Graph) -> Vec<String> {
    let mut found: BTreeMap<BTreeSet<&String>, String> = BTreeMap::new();
    for (from, imports) in graph {
        for to in imports.keys() {
            let Some(back) = shortest(graph, to, from) else { continue };
            // From `from` to `to`, and back to `from`.
            let mut nodes = vec![from];
            nodes.extend(back);
            let lines = nodes.windows(2).filter_map(|pair| {
                let [from, to] = pair else { return None };
                let place = graph.get(*from)?.get(*to)?;
                Some(format!("  {}:{}: {from} imports {to}", place.file, place.line))
            });
            let text =
                std::iter::once(format!("cycle of {}:", nodes.len() - 1)).chain(lines).collect::<Vec<_>>().join("\n");
            found.entry(nodes.into_iter().collect()).or_insert(text);
        }
    }
    found.into_values().collect()
}

/// The shortest path from one node to another, including both.
fn shortest<'a>(graph: &'a Graph, from: &'a String, to: &'a String) -> Option<Vec<&'a String>> {
    let mut came: BTreeMap<&String, &String> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        if node == to {
            let mut way = vec![node];
            while let Some(before) = way.last().and_then(|last| came.get(*last)) {
                way.push(before);
            }
            way.reverse();
            return Some(way);
        }
        for next in graph.get(node).into_iter().flat_map(BTreeMap::keys) {
            if next != from && !came.contains_key(next) {
                came.insert(next, node);
                queue.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> Files {
        files.iter().map(|&(file, text)| (file.to_owned(), text.to_owned())).collect()
    }

    fn cycles_of(sources: &[(&str, &str)]) -> Vec<String> {
        cycles(&Crate::read("src/lib.rs", &files(sources)).graph())
    }

    #[test]
    fn a_planted_cycle_of_two_files_is_found_with_the_line_of_each_import() {
        let found = cycles_of(&[
            ("src/lib.rs", "mod a;\nmod b;"),
            ("src/a.rs", "\nuse crate::b::B;\npub struct A(B);"),
            ("src/b.rs", "pub struct B;\nfn f() { let _: super::a::A; }"),
        ]);
        assert_eq!(
            found,
            ["cycle of 2:\n  src/a.rs:2: src/a.rs imports src/b.rs\n  src/b.rs:2: src/b.rs imports src/a.rs"]
        );
    }

    #[test]
    fn a_planted_cycle_of_three_files_is_found() {
        let found = cycles_of(&[
            ("src/lib.rs", "mod a; mod b; mod c;"),
            ("src/a.rs", "use crate::{b::{B, Other}};\npub struct A(B);"),
            ("src/b.rs", "use crate::c; pub struct B(c::C);"),
            ("src/c.rs", "pub struct C; impl crate::a::A {}"),
        ]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("cycle of 3:\n  src/a.rs:1: src/a.rs imports src/b.rs"), "{found:?}");
    }

    #[test]
    fn a_name_that_a_parent_re_exports_counts_as_an_import_of_the_file_that_defines_it() {
        let parent = "mod a; mod b; pub use a::A; pub(crate) use b::*;";
        let a = ("src/p/a.rs", "use super::B; pub struct A;");
        let one_way = [("src/lib.rs", "mod p;"), ("src/p/mod.rs", parent), a, ("src/p/b.rs", "pub struct B;")];
        assert_eq!(cycles_of(&one_way), Vec::<String>::new());
        let both =
            [("src/lib.rs", "mod p;"), ("src/p/mod.rs", parent), a, ("src/p/b.rs", "use crate::p::A; pub struct B;")];
        let found = cycles_of(&both);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("src/p/a.rs:1: src/p/a.rs imports src/p/b.rs"), "{found:?}");
    }

    #[test]
    fn a_parent_that_uses_what_its_child_defines_and_the_other_way_round_is_a_cycle() {
        let found = cycles_of(&[
            ("src/lib.rs", "mod p;"),
            ("src/p.rs", "mod a; pub use a::A; pub struct P; fn f() -> A { A }"),
            ("src/p/a.rs", "use super::P; pub struct A;"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn a_parent_that_only_re_exports_what_its_child_defines_does_not_import_it() {
        let parent = "mod a; pub use a::A; pub struct P;";
        let sources =
            [("src/lib.rs", "mod p;"), ("src/p.rs", parent), ("src/p/a.rs", "use super::P; pub struct A(P);")];
        assert_eq!(cycles_of(&sources), Vec::<String>::new());
    }

    #[test]
    fn declarations_visibility_tests_comments_and_strings_are_no_imports() {
        let found = cycles_of(&[
            ("src/lib.rs", "mod a;\nmod b;"),
            ("src/a.rs", "use crate::b::B; pub struct A(B);"),
            (
                "src/b.rs",
                "//! [crate::a::A]\npub struct B; pub(in crate::a) fn f() { \"crate::a::A\"; }\n\
                 #[cfg(test)]\nmod tests { use crate::a::A; }\n#[cfg(test)] use crate::a::A;",
            ),
        ]);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn a_path_through_an_imported_module_counts_as_an_import_of_what_it_names() {
        let found = cycles_of(&[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "use crate::b as other; pub struct A; fn f() -> other::B { x.other::<u8>() }"),
            ("src/b.rs", "use crate::a::{self}; pub struct B(a::A);"),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn a_cycle_between_crates_is_found_also_through_development_dependencies() {
        let manifest = |name: &str, rest: &str| format!("[package]\nname = \"{name}\"\n{rest}");
        let (a, b) = (
            manifest("a", "[dependencies]\nb.workspace = true"),
            manifest("b", "[dev-dependencies]\na = { path = \"../a\" }"),
        );
        let found = cycles(&graph_of_crates(&files(&[("a/Cargo.toml", &a), ("b/Cargo.toml", &b)])));
        assert_eq!(found, ["cycle of 2:\n  a/Cargo.toml:4: a imports b\n  b/Cargo.toml:4: b imports a"]);
        let b = manifest("b", "[features]\na = []");
        assert!(cycles(&graph_of_crates(&files(&[("a/Cargo.toml", &a), ("b/Cargo.toml", &b)]))).is_empty());
    }
}

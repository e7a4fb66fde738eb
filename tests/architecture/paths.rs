//! Which module names which: the paths of a crate's source, followed through what it re-exports.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::source::{Token, is_word, tokens};

/// A module, by its names from the root of its crate.
pub(crate) type Module = Vec<String>;

/// A path as it is written somewhere.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) file: String,
    pub(crate) line: usize,
    /// The module that it is written in.
    pub(crate) module: Module,
    pub(crate) segments: Vec<String>,
    /// The same with the names that `use` brought in put in full.
    pub(crate) whole: Vec<String>,
    /// In code that only tests see.
    pub(crate) test: bool,
    /// A field or method: a name that leads nowhere.
    member: bool,
}

/// The source of one crate, read.
#[derive(Debug, Default)]
pub(crate) struct Crate {
    /// Every path and name.
    pub(crate) written: Vec<Written>,
    test_modules: BTreeSet<Module>,
    names: HashMap<Module, Names>,
}

/// The names that a module gives a meaning to.
#[derive(Debug, Default)]
struct Names {
    /// Modules within it.
    children: HashSet<String>,
    /// What a name that was brought in by `use` stands for.
    bound: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    defined: HashSet<String>,
}

/// A path of names is followed through so many re-exports at most: they may go round.
const DEPTH: usize = 16;

impl Crate {
    /// Reads files of a crate, given as paths below its `src` and their texts.
    pub(crate) fn read(files: &[(String, String)]) -> Self {
        let mut found = Self::default();
        for (path, _) in files {
            found.add_module(module_of(path));
        }
        // Parents first: they say which of their modules only tests see.
        let mut ordered: Vec<_> = files.iter().collect();
        ordered.sort_by_key(|(path, _)| module_of(path).len());
        for (path, text) in ordered {
            let module = module_of(path);
            let test = found.test_modules.iter().any(|own| module.starts_with(own));
            File {
                found: &mut found,
                file: path,
                tokens: &tokens(text),
                at: 0,
                depth: 0,
                nested: vec![(module, test, 0)],
            }
            .read();
        }
        let mut written = std::mem::take(&mut found.written);
        for own in written.iter_mut().filter(|own| !own.member) {
            own.whole = found.expand(&own.module, &own.segments);
        }
        found.written = written;
        found
    }

    fn add_module(&mut self, module: Module) {
        for length in 0..module.len() {
            let above = self.names.entry(module[..length].to_vec()).or_default();
            above.children.insert(module[length].clone());
        }
        self.names.entry(module).or_default();
    }

    /// The modules at the root of the crate.
    pub(crate) fn top(&self) -> impl Iterator<Item = &String> {
        self.names
            .get(&Module::new())
            .into_iter()
            .flat_map(|root| &root.children)
    }

    /// The path with the names that `use` brought in put in full.
    fn expand(&self, module: &Module, segments: &[String]) -> Vec<String> {
        self.expand_within(module, segments, DEPTH)
    }

    fn expand_within(&self, module: &Module, segments: &[String], depth: usize) -> Vec<String> {
        let Some((first, rest)) = segments.split_first() else {
            return Vec::new();
        };
        let names = self.names.get(module);
        let own = match first.as_str() {
            "crate" => return segments.to_vec(),
            "self" => module.clone(),
            "super" => return above(module, segments),
            _ if names.is_some_and(|names| names.children.contains(first)) => join(module, first),
            _ => match names.and_then(|names| names.bound.get(first)) {
                Some(bound) if depth > 0 && bound != segments => {
                    let whole = [bound, rest].concat();
                    return self.expand_within(module, &whole, depth - 1);
                }
                _ => return segments.to_vec(),
            },
        };
        [&["crate".to_owned()], &own[..], rest].concat()
    }

    /// Every module of this crate that a path leads through, the last one where its item stands.
    pub(crate) fn touched(&self, written: &Written) -> Vec<Module> {
        let mut touched = Vec::new();
        if written.whole.first().is_some_and(|first| first == "crate") {
            self.follow(&written.module, &written.whole, &mut touched, DEPTH);
        }
        touched
    }

    fn follow(
        &self,
        module: &Module,
        segments: &[String],
        touched: &mut Vec<Module>,
        depth: usize,
    ) {
        let whole = self.expand(module, segments);
        let Some(("crate", names)) = whole.split_first().map(|(a, b)| (a.as_str(), b)) else {
            return;
        };
        let mut here = Module::new();
        for (at, name) in names.iter().enumerate() {
            let Some(known) = self.names.get(&here) else {
                break;
            };
            if known.children.contains(name) {
                here.push(name.clone());
                continue;
            }
            touched.push(here.clone());
            if depth == 0 || known.defined.contains(name) {
                return;
            }
            if let Some(bound) = known.bound.get(name) {
                let rest = [bound, &names[at + 1..]].concat();
                return self.follow(&here, &rest, touched, depth - 1);
            }
            let glob = known.globs.iter().find(|glob| self.has(&here, glob, name));
            if let Some(glob) = glob {
                let rest = [glob, &names[at..]].concat();
                self.follow(&here, &rest, touched, depth - 1);
            }
            return;
        }
        touched.push(here);
    }

    /// Whether what a glob brings in has this name.
    fn has(&self, module: &Module, glob: &[String], name: &str) -> bool {
        let whole = self.expand(module, glob);
        let known = whole.split_first().filter(|(first, _)| *first == "crate");
        known
            .and_then(|(_, module)| self.names.get(module))
            .is_some_and(|known| {
                known.defined.contains(name)
                    || known.bound.contains_key(name)
                    || known.children.contains(name)
            })
    }
}

/// The path in full that begins with `super`.
fn above(module: &Module, segments: &[String]) -> Vec<String> {
    let parent = module[..module.len().saturating_sub(1)].to_vec();
    match segments.get(1).map(String::as_str) {
        Some("super") => above(&parent, &segments[1..]),
        _ => [&["crate".to_owned()], &parent[..], &segments[1..]].concat(),
    }
}

fn join(module: &Module, name: &str) -> Module {
    let mut joined = module.clone();
    joined.push(name.to_owned());
    joined
}

/// The module that a file below `src` holds.
fn module_of(path: &str) -> Module {
    let names: Module = path
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    match names.last().map(String::as_str) {
        Some("lib" | "main" | "mod") => names[..names.len() - 1].to_vec(),
        _ => names,
    }
}

/// A file as it is read.
struct File<'a> {
    found: &'a mut Crate,
    file: &'a str,
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// Modules written out within each other: name, whether only tests see it, and the depth of
    /// braces around it.
    nested: Vec<(Module, bool, usize)>,
}

impl File<'_> {
    fn word(&self, ahead: usize) -> &str {
        let token = self.tokens.get(self.at + ahead);
        token.map_or("", |token| &token.text)
    }

    fn module(&self) -> Module {
        let (module, _, _) = &self.nested[self.nested.len() - 1];
        module.clone()
    }

    fn names(&mut self) -> &mut Names {
        let module = self.module();
        self.found.names.entry(module).or_default()
    }

    fn read(&mut self) {
        let mut test = false;
        while self.at < self.tokens.len() {
            let length = match self.word(0) {
                "#" if self.says(&["#", "[", "cfg", "(", "test", ")", "]"]) => {
                    test = true;
                    7
                }
                "{" => {
                    self.depth += 1;
                    1
                }
                "}" => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.nested.len() > 1 && self.nested[self.nested.len() - 1].2 == self.depth {
                        self.nested.pop();
                    }
                    1
                }
                "mod" if is_word(self.word(1)) => {
                    self.open_module(std::mem::take(&mut test));
                    2
                }
                "use" if self.word(1) != "<" => {
                    self.at += 1;
                    let within = std::mem::take(&mut test);
                    self.tree(&[], within);
                    1
                }
                "struct" | "enum" | "trait" | "type" | "const" | "static" | "fn" | "union" => {
                    test = false;
                    let name = self.word(1).to_owned();
                    self.names().defined.insert(name);
                    2
                }
                word if is_word(word) => self.path(),
                _ => 1,
            };
            self.at += length;
        }
    }

    fn says(&self, words: &[&str]) -> bool {
        (0..words.len()).all(|ahead| self.word(ahead) == words[ahead])
    }

    fn open_module(&mut self, test: bool) {
        let (outer, above) = (self.module(), self.nested[self.nested.len() - 1].1);
        let own = join(&outer, self.word(1));
        let test = test || above;
        if test {
            self.found.test_modules.insert(own.clone());
        }
        self.found.add_module(own.clone());
        if self.word(2) == "{" {
            self.nested.push((own, test, self.depth));
        }
    }

    /// A path of an expression or a type; its length in tokens.
    fn path(&mut self) -> usize {
        let after = self
            .at
            .checked_sub(1)
            .map(|at| self.tokens[at].text.as_str());
        let mut segments = vec![self.word(0).to_owned()];
        let mut length = 1;
        while self.word(length) == "::" && is_word(self.word(length + 1)) {
            segments.push(self.word(length + 1).to_owned());
            length += 2;
        }
        // In the visibility of an item it names whom it is shown to.
        if after != Some("in") {
            let member = matches!(after, Some("." | "::"));
            self.write(self.tokens[self.at].line, segments, false, member);
        }
        length
    }

    fn write(&mut self, line: usize, segments: Vec<String>, test: bool, member: bool) {
        let (module, above, _) = self.nested[self.nested.len() - 1].clone();
        self.found.written.push(Written {
            file: self.file.to_owned(),
            line,
            module,
            whole: segments.clone(),
            segments,
            test: test || above,
            member,
        });
    }

    /// What one `use`, or one branch of it, brings in; ends before what follows it.
    fn tree(&mut self, before: &[String], test: bool) {
        let mut path = before.to_vec();
        // `::name` is another crate; so is every name that no module has.
        if self.word(0) == "::" {
            self.at += 1;
        }
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        loop {
            match self.word(0) {
                "{" => {
                    self.at += 1;
                    while !matches!(self.word(0), "}" | "") {
                        self.tree(&path, test);
                        if self.word(0) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "*" => {
                    self.at += 1;
                    self.names().globs.push(path.clone());
                    return self.write(line, path, test, false);
                }
                // `a::{self}` is `a`.
                "self" if !path.is_empty() => {}
                word => path.push(word.to_owned()),
            }
            self.at += 1;
            if self.word(0) != "::" {
                break;
            }
            self.at += 1;
        }
        let mut name = path.last().cloned().unwrap_or_default();
        if self.word(0) == "as" {
            name = self.word(1).to_owned();
            self.at += 2;
        }
        // `use a;` within itself would go round.
        if path.len() > 1 || path[0] != name {
            self.names().bound.insert(name, path.clone());
        }
        self.write(line, path, test, false);
    }
}

#[cfg(test)]
#[path = "paths_tests.rs"]
mod tests;

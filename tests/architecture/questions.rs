//! Functions named `is_` or `has_` ask: they take `&self`, or no self, and answer yes or no.

use std::collections::BTreeSet;

use crate::source::{Token, tokens};
use crate::{root, sources};

/// Questions that act or wait, or answer with more than yes or no, each with what it is to be named.
const NOT_QUESTIONS: [(&str, &str, &str); 0] = [];

/// Functions named as questions that are none, with their lines.
fn false_questions(source: &str) -> Vec<(usize, String)> {
    let tokens = tokens(source);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let name = word(at + 1);
        if word(at) != "fn" || !name.starts_with("is_") && !name.starts_with("has_") {
            continue;
        }
        let open = parameters(&tokens, at + 2);
        let mut depth = 0_u32;
        let close = (open..tokens.len()).find(|at| {
            match word(*at) {
                "(" => depth += 1,
                ")" => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let close = close.unwrap_or(open);
        // `self`, `&self`, `&'a self`, `self: &Rc<Self>`, or none of them.
        let first: Vec<&str> = (open + 1..close)
            .map(word)
            .take_while(|own| *own != ",")
            .collect();
        let changes = first.contains(&"self") && first.contains(&"mut");
        let after: Vec<&str> = (close + 1..close + 5).map(word).collect();
        let answers =
            after.starts_with(&["-", ">", "bool"]) && matches!(after[3], "{" | ";" | "where");
        let waits = at > 0 && word(at - 1) == "async";
        if changes || waits || !answers {
            found.push((tokens[at].line, name.to_owned()));
        }
    }
    found
}

/// Where the parameters of a function open, whose generic ones may begin at `at`.
fn parameters(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_i32;
    let mut before = "";
    for (at, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" if depth == 0 => return at,
            "<" => depth += 1,
            // Of `->` it closes nothing.
            ">" if before != "-" => depth -= 1,
            _ => {}
        }
        before = &token.text;
    }
    tokens.len()
}

#[test]
fn questions_do_not_act() {
    let (mut faults, mut excepted) = (Vec::new(), BTreeSet::new());
    for path in sources(root()) {
        let file = path
            .strip_prefix(root())
            .unwrap()
            .to_string_lossy()
            .into_owned();
        for (line, name) in false_questions(&std::fs::read_to_string(&path).unwrap()) {
            if NOT_QUESTIONS
                .iter()
                .any(|(own, known, _)| *own == file && *known == name)
            {
                excepted.insert((file.clone(), name));
            } else {
                faults.push(format!(
                    "{file}:{line}: `{name}` must take `&self` and return bool, or be named as a command"
                ));
            }
        }
    }
    for (file, name, _) in NOT_QUESTIONS {
        if !excepted.contains(&(file.to_owned(), name.to_owned())) {
            faults.push(format!(
                "{file}: `{name}` is a question now, or gone: remove its exception"
            ));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn questions_that_act_are_found() {
    for text in [
        "fn is_a(&mut self) -> bool {",
        "fn is_a(&self) {",
        "fn has_a(&self) -> Option<bool> {",
        "fn is_a(&self) -> Result<bool, E> {",
        "async fn is_a(&self) -> bool {",
        "fn is_a<'a, F: Fn(u8)>(self: &'a mut Self, f: F) -> bool {",
        "fn is_a(mut self) -> bool {",
    ] {
        assert_eq!(false_questions(text).len(), 1, "{text}");
    }
    for text in [
        "fn is_a(&self) -> bool {",
        "fn is_a(self: &Rc<Self>, other: &mut Vec<u8>) -> bool {",
        "fn has_a(text: &str) -> bool {",
        "fn is_a<F: Fn(u8) -> bool>(&self, f: F) -> bool {",
        "fn has_a(&self) -> bool where Self: Sized {",
        "fn is_a(self) -> bool;",
        "fn isolate(&mut self) {",
        "// fn is_a(&mut self)",
    ] {
        assert_eq!(false_questions(text), [], "{text}");
    }
}

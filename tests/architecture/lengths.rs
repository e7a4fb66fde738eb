//! No function of production code is longer than 70 lines, comments and empty lines left out.

use crate::source::{Token, is_word, tokens};
use crate::{root, sources};

/// The most lines of code of a function, from `fn` to its last brace.
const LONGEST: usize = 70;

/// Functions that are longer, and how long they may be: what is one table is easier to read whole, the others are to
/// be cut, and may not grow.
const EXCEPTED: [(&str, &str, usize); 11] = [
    // Tables: a row for each counter, rejection, option or kind of trouble.
    ("core/src/stats.rs", "rows", 224),
    ("core/src/mesh/words.rs", "describe", 96),
    ("observability/src/families/mqtt.rs", "sessions", 71),
    ("simulations/src/bin/finback-sim.rs", "main", 168),
    ("simulations/src/simulator/server.rs", "misbehave", 72),
    // Steps one after another, which share much of what they find.
    ("core/src/mesh/resolved.rs", "of", 94),
    ("protocols/http/src/forward/sending.rs", "send", 78),
    ("registry/src/layout/rules/properties.rs", "write", 71),
    ("simulations/src/broker/state.rs", "connect", 76),
    ("simulations/src/compare/proxies.rs", "finback", 84),
    ("src/running.rs", "start", 91),
];

/// Where the braces close that open at or after `at`; the end of the item where none do.
fn end(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0_u32;
    for (at, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => return at,
            "}" => depth -= 1,
            ";" if depth == 0 => return at,
            _ => {}
        }
    }
    tokens.len().saturating_sub(1)
}

/// Where the body of a function opens whose name stands at `at`, if it has one: a type may hold braces and semicolons
/// in brackets only.
fn body(tokens: &[Token], at: usize) -> Option<usize> {
    let mut depth = 0_u32;
    for (at, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "{" if depth == 0 => return Some(at),
            ";" if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The functions of a file that are too long, with their lines, modules of tests left out.
fn long(source: &str) -> Vec<(usize, String, usize)> {
    let tokens = tokens(source);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_test = ["cfg", "(", "test", ")", "]"]
            .iter()
            .enumerate()
            .all(|(offset, wanted)| word(at + offset) == *wanted);
        if is_test {
            at = end(&tokens, at + 5);
        } else if word(at) == "fn"
            && is_word(word(at + 1))
            && let Some(open) = body(&tokens, at + 1)
        {
            let own = &tokens[at..=end(&tokens, open)];
            let mut lines: Vec<usize> = own.iter().map(|token| token.line).collect();
            lines.dedup();
            let length = lines.len();
            if length > LONGEST {
                found.push((tokens[at].line, word(at + 1).to_owned(), length));
            }
        }
        at += 1;
    }
    found
}

#[test]
fn functions_are_short() {
    let mut faults = Vec::new();
    let mut excepted = Vec::new();
    for path in sources(root()) {
        let file = path.strip_prefix(root()).unwrap().to_string_lossy();
        let of_tests = |part: &str| matches!(part, "tests" | "tests.rs" | "fuzz" | "examples");
        if file.split('/').any(of_tests) {
            continue;
        }
        for (line, name, length) in long(&std::fs::read_to_string(&path).unwrap()) {
            let own = EXCEPTED
                .iter()
                .find(|(own, known, _)| *own == file && *known == name);
            match own {
                Some(own) if length <= own.2 => excepted.push((own.0, own.1)),
                _ => faults.push(format!("{file}:{line}: `{name}` has {length} lines")),
            }
        }
    }
    assert!(faults.is_empty(), "over {LONGEST}:\n{}", faults.join("\n"));
    for (file, name, _) in EXCEPTED {
        let is_long = excepted.contains(&(file, name));
        assert!(is_long, "{file}: `{name}` is short: remove its exception");
    }
}

#[test]
fn long_functions_are_found() {
    let body = "let a = 1;\n".repeat(70);
    let found = long(&format!("fn f(a: [u8; 3]) -> u8 {{\n{body}}}\n"));
    assert_eq!(found, [(1, "f".to_owned(), 72)]);
    assert_eq!(long("trait T { fn f(&self); fn g() {} }"), []);
    assert_eq!(
        long(&format!("struct A(fn(u8) -> u8);\nmod a {{\n{body}}}")),
        []
    );
    let test =
        format!("#[cfg(test)]\n#[expect(a, reason = \"\")]\nmod tests {{ fn f() {{\n{body}}} }}");
    assert_eq!(long(&test), []);
    let after = format!("{test}\nfn g() {{\n{body}}}");
    assert_eq!(long(&after).len(), 1);
}

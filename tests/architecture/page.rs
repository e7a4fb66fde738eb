//! ARCHITECTURE.md names files, folders and items that are there.

use std::collections::BTreeSet;

use crate::source::{Token, is_word, tokens};
use crate::{root, sources};

/// What stands between backquotes in a page, outside of blocks.
fn quoted(page: &str) -> Vec<&str> {
    page.lines()
        .filter(|line| !line.starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// What a page names and nobody has: files and folders by the ends of their paths, items by each of
/// their names.
fn missing<'a>(page: &'a str, paths: &BTreeSet<String>, words: &BTreeSet<String>) -> Vec<&'a str> {
    let ends_so = |own: &String, name: &str| own == name || own.ends_with(&format!("/{name}"));
    let is_there = |name: &str| {
        if let Some(folder) = name.strip_suffix('/') {
            let within = format!("{folder}/");
            paths
                .iter()
                .any(|own| own.starts_with(&within) || own.contains(&format!("/{within}")))
        } else if name.ends_with(".rs") {
            paths.iter().any(|own| ends_so(own, name))
        } else {
            name.split("::").all(|word| words.contains(word))
        }
    };
    let is_name = |name: &&str| {
        let item = name.split("::").all(is_word) && !name.contains(['-', '.', ' ', '/']);
        let named_as_one = name.contains("::") || name.starts_with(char::is_uppercase);
        let path =
            !name.contains(['*', '<', ' ']) && (name.ends_with('/') || name.ends_with(".rs"));
        item && named_as_one || path
    };
    let all = quoted(page).into_iter();
    all.filter(is_name).filter(|name| !is_there(name)).collect()
}

#[test]
fn the_page_names_what_is_there() {
    let (mut paths, mut words) = (BTreeSet::new(), BTreeSet::new());
    for path in sources(root()) {
        let own = path.strip_prefix(root()).unwrap();
        paths.insert(own.to_string_lossy().into_owned());
        let text = std::fs::read_to_string(&path).unwrap();
        words.extend(tokens(&text).into_iter().map(|token| token.text));
    }
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let missing = missing(&page, &paths, &words);
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md names {missing:?}, and nobody has them"
    );
    assert!(quoted(&page).len() > 100);
}

#[test]
fn names_that_nobody_has_are_found() {
    let paths = BTreeSet::from(["core/src/driver/pool.rs".to_owned()]);
    let words = BTreeSet::from(["Pool".to_owned(), "choose".to_owned()]);
    let page = "`pool.rs` `driver/` `Pool::choose` `protocols/<name>/` `limits.idle` `cargo test`";
    assert_eq!(missing(page, &paths, &words), [""; 0]);
    let page = "`spool.rs` `pool/` `Pool::take` `Client`, `pool` `driver/protocol.rs`";
    let found = missing(page, &paths, &words);
    assert_eq!(
        found,
        [
            "spool.rs",
            "pool/",
            "Pool::take",
            "Client",
            "driver/protocol.rs"
        ]
    );
}

#[test]
fn every_word_has_its_neighbours() {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, words) = page.split_once("\n## Words\n").unwrap();
    let rows: Vec<&str> = words.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows[0].contains("Envoy") && rows[0].contains("HAProxy") && rows[0].contains("Dubbo"));
    assert!(rows.len() > 30);
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let is_whole = cells.len() == 5 && cells.iter().all(|cell| !cell.is_empty());
        assert!(is_whole, "{row}");
    }
}

/// Rows of the table of decisions: a file, and a function in it.
fn decisions(page: &str) -> Vec<(&str, &str)> {
    let (_, rest) = page.split_once("<!-- decided: begin -->").unwrap();
    let (table, _) = rest.split_once("<!-- decided: end -->").unwrap();
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let named = quoted(row);
        (named[named.len() - 2], named[named.len() - 1])
    })
    .collect()
}

/// Whether a function that begins here has a body.
fn has_body(function: &[Token]) -> bool {
    let mut depth = 0;
    for token in function {
        match &*token.text {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "{" if depth == 0 => return true,
            ";" if depth == 0 => return false,
            _ => {}
        }
    }
    false
}

#[test]
fn decisions_stand_where_the_page_says() {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let decisions = decisions(&page);
    assert!(decisions.len() > 10, "{decisions:?}");
    for (path, function) in decisions {
        let text = std::fs::read_to_string(root().join(path));
        let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
        let tokens = tokens(&text);
        let starts = tokens.windows(2).enumerate();
        let mut starts =
            starts.filter(|(_, pair)| pair[0].text == "fn" && pair[1].text == function);
        // What a trait only asks for decides nothing.
        let is_there = starts.any(|(at, _)| has_body(&tokens[at..]));
        assert!(is_there, "{path} has no function `{function}` with a body");
    }
}

//! Core as it stands against its floors, and small sources that break them.

use super::*;
use crate::{crate_source, root};

#[test]
fn every_floor_uses_only_what_is_below() {
    let source = crate_source("core/src");
    let faults = faults(&FLOORS, &source);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    // If no path is understood, the lines above prove nothing.
    let leads_to = |from: &str, to: &str| {
        source.written.iter().any(|written| {
            written.module.first().is_some_and(|own| own == from)
                && source
                    .touched(written)
                    .iter()
                    .any(|module| module.first().is_some_and(|own| own == to))
        })
    };
    for (from, to) in [
        ("driver", "mesh"),
        ("mesh", "cluster"),
        ("cluster", "net"),
        ("net", "stats"),
    ] {
        assert!(leads_to(from, to), "{from} is not seen to use {to}");
    }
}

#[test]
fn every_module_of_core_stands_on_one_floor() {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("core/src")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        found.insert(name.trim_end_matches(".rs").to_owned());
    }
    found.remove("lib");
    let mut listed: Vec<_> = FLOORS
        .iter()
        .flat_map(|floor| floor.modules)
        .copied()
        .collect();
    listed.sort_unstable();
    assert_eq!(listed, found.iter().map(String::as_str).collect::<Vec<_>>());
    for (at, floor) in FLOORS.iter().enumerate() {
        let below: Vec<_> = FLOORS[..at].iter().map(|floor| floor.name).collect();
        let upwards = floor.may_use.iter().find(|other| !below.contains(other));
        assert_eq!(
            upwards, None,
            "{} may use a floor that is not below",
            floor.name
        );
    }
}

#[test]
fn folders_of_core_stand_in_no_circle() {
    let ordered = order(&crate_source("core/src"));
    let ordered = ordered.unwrap_or_else(|circle| panic!("in a circle:\n{}", circle.join("\n")));
    let place = |name: &str| ordered.iter().position(|own| own == name);
    assert!(place("clock") < place("cluster") && place("cluster") < place("mesh"));
}

#[test]
fn the_page_shows_the_floors() {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, after) = page.split_once("<!-- floors: begin -->\n").unwrap();
    let (shown, _) = after.split_once("<!-- floors: end -->").unwrap();
    let table = table();
    assert!(
        shown == table,
        "ARCHITECTURE.md must say between its marks:\n{table}"
    );
}

fn tried(files: &[(&str, &str)]) -> Vec<String> {
    let lib = ("lib.rs", "pub use driver::Task;");
    let driver = ("driver.rs", "pub struct Task;");
    let all = [lib, driver].into_iter().chain(files.iter().copied());
    let owned: Vec<_> = all
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .collect();
    faults(&FLOORS, &Crate::read(&owned))
}

#[test]
fn a_use_of_a_floor_above_is_found() {
    for (file, text) in [
        ("mesh/view.rs", "use super::super::driver::Task;"),
        ("mesh.rs", "use crate::{clock, driver::{Task}};"),
        ("cluster.rs", "fn f() { crate::driver::Task; }"),
        ("route.rs", "use crate::Task;"),
        ("net/dial.rs", "use crate::cluster::Cluster;"),
        ("mesh.rs", "use crate::net::ClientTls;"),
        (
            "frame.rs",
            "mod a { mod b { use super::super::super::route::Route; } }",
        ),
    ] {
        let below = [
            ("cluster.rs", "pub struct Cluster;"),
            ("net.rs", ""),
            ("route.rs", ""),
        ];
        let mut files: Vec<_> = below
            .into_iter()
            .filter(|(path, _)| *path != file)
            .collect();
        files.push((file, text));
        let found = tried(&files);
        assert_eq!(found.len(), 1, "{file}: {text}: {found:?}");
        assert!(
            found[0].starts_with(&format!("core/src/{file}:1: ")),
            "{found:?}"
        );
    }
    assert_eq!(
        tried(&[
            ("mesh.rs", "use crate::cluster::Cluster;"),
            ("cluster.rs", "")
        ]),
        [""; 0]
    );
}

#[test]
fn a_word_that_a_floor_must_not_name_is_found() {
    for (file, text) in [
        (
            "mesh.rs",
            "use tokio::time::Instant; fn f() { Instant::now(); }",
        ),
        ("mesh.rs", "use tokio::{net::TcpStream};"),
        (
            "mesh.rs",
            "use tokio::time as t; fn f() { t::Instant::now(); }",
        ),
        ("mesh.rs", "fn f() { tokio::task::yield_now(); }"),
        ("mesh.rs", "fn f(w: &W) { w.spawn(); }"),
        ("mesh.rs", "fn f(s: Socket) {}"),
        ("frame.rs", "use tokio::sync::Notify;"),
    ] {
        let found = tried(&[(file, text)]);
        assert!(!found.is_empty(), "{text}");
        assert!(
            found[0].starts_with(&format!("core/src/{file}:1: ")),
            "{found:?}"
        );
    }
    let instant = "use tokio::time::Instant; fn f(at: Instant) {}";
    let of_a_test = "#[cfg(test)] mod tests { fn f() { Instant::now(); } }";
    assert_eq!(
        tried(&[("mesh.rs", instant), ("route.rs", of_a_test)]),
        [""; 0]
    );
}

#[test]
fn a_circle_is_found() {
    let read = |balance: &str| {
        let files = [
            ("balance.rs", balance),
            ("outlier.rs", "use crate::balance::Ask;"),
        ];
        let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
        order(&Crate::read(&files))
    };
    assert_eq!(
        read(""),
        Ok(vec!["balance".to_owned(), "outlier".to_owned()])
    );
    assert!(read("fn f() { crate::outlier::Outlier; }").is_err());
    let only_in_tests = "#[cfg(test)] mod tests { use crate::outlier::Outlier; }";
    assert!(read(only_in_tests).is_ok());
}

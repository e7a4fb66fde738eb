//! Paths of small sources, and where they lead.

use super::*;

fn read(files: &[(&str, &str)]) -> Crate {
    let owned = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    Crate::read(&owned.collect::<Vec<_>>())
}

/// The modules that one file's paths lead through, by top-level name.
fn reached(files: &[(&str, &str)], file: &str) -> BTreeSet<String> {
    let found = read(files);
    let own = found.written.iter().filter(|written| written.file == file);
    own.flat_map(|written| found.touched(written))
        .filter_map(|module| module.first().cloned())
        .collect()
}

const DRIVER: (&str, &str) = ("driver.rs", "pub mod worker; pub struct Task;");
const WORKER: (&str, &str) = ("driver/worker.rs", "pub struct Worker;");

#[test]
fn names_above_are_resolved() {
    let view = ("mesh/view.rs", "use super::super::driver::worker::Worker;");
    let found = reached(&[DRIVER, WORKER, ("mesh.rs", "mod view;"), view], view.0);
    assert_eq!(found, BTreeSet::from(["driver".to_owned()]));
}

#[test]
fn groups_renames_and_globs_are_opened() {
    for text in [
        "use crate::{clock, driver::{self, worker::Worker as W}};",
        "use crate::driver as d; fn f() { d::worker::Worker; }",
        "pub use crate::driver::*;",
        "mod inner { use super::super::driver::Task; }",
        "fn f(x: &crate::driver::Task) {}",
        "use crate::driver; fn f() -> Box<dyn driver::worker::Worker> {}",
    ] {
        let found = reached(&[DRIVER, WORKER, ("mesh.rs", text)], "mesh.rs");
        assert!(found.contains("driver"), "{text}: {found:?}");
    }
}

#[test]
fn re_exports_are_followed_to_where_the_item_stands() {
    let lib = (
        "lib.rs",
        "pub mod driver; pub mod mesh; pub use driver::Task;",
    );
    let mesh = (
        "mesh.rs",
        "pub(crate) use crate::driver::worker::Worker as Hand;",
    );
    for (text, expected) in [
        ("use crate::Task;", vec!["driver"]),
        ("use crate::mesh::Hand;", vec!["driver", "mesh"]),
        ("use crate::mesh::*; ", vec!["mesh"]),
        (
            "use crate::mesh; fn f() { mesh::Hand::new() }",
            vec!["driver", "mesh"],
        ),
    ] {
        let files = [lib, DRIVER, WORKER, mesh, ("route.rs", text)];
        let found: Vec<_> = reached(&files, "route.rs").into_iter().collect();
        assert_eq!(found, expected, "{text}");
    }
    let through_a_glob = ("a.rs", "pub use crate::driver::*;");
    let files = [
        DRIVER,
        WORKER,
        through_a_glob,
        ("route.rs", "use crate::a::Task;"),
    ];
    assert!(reached(&files, "route.rs").contains("driver"));
}

#[test]
fn what_is_not_code_reaches_nothing() {
    for text in [
        "/// See [`crate::driver::Task`].\nstruct A;",
        "fn f() { let a = \"crate::driver::Task\"; }",
        "pub(in crate::driver) struct A;",
        "use std::net::driver;",
    ] {
        let found = reached(&[DRIVER, WORKER, ("mesh.rs", text)], "mesh.rs");
        assert!(!found.contains("driver"), "{text}: {found:?}");
    }
}

#[test]
fn code_of_tests_is_told_apart() {
    let files = [
        (
            "a.rs",
            "use crate::b::X;\n#[cfg(test)]\nmod tests { use crate::b::Y; }\nuse crate::b::Z;",
        ),
        ("b.rs", "#[cfg(test)]\nmod cases;"),
        ("b/cases.rs", "use super::V;"),
    ];
    let found = read(&files);
    let of_tests = found
        .written
        .iter()
        .filter(|written| written.test && written.segments.len() > 1);
    let last: Vec<_> = of_tests
        .map(|written| {
            (
                written.line,
                written.segments[written.segments.len() - 1].as_str(),
            )
        })
        .collect();
    assert_eq!(last, [(3, "Y"), (1, "V")]);
}

#[test]
fn names_are_put_in_full() {
    let found = read(&[("a.rs", "use tokio::time::{self, Instant as I};")]);
    let module = vec!["a".to_owned()];
    let full = |path: &str| {
        let segments: Vec<_> = path.split("::").map(str::to_owned).collect();
        found.expand(&module, &segments).join("::")
    };
    assert_eq!(full("I::now"), "tokio::time::Instant::now");
    assert_eq!(full("time::sleep"), "tokio::time::sleep");
    assert_eq!(full("Vec::new"), "Vec::new");
}

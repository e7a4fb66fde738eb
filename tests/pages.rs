//! Pages of the guide say what the code does: tables and names that both have are compared.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use finback_core::frame::Outcome;
use finback_core::mesh;
use finback_core::record::Ending;
use finback_core::rejection::Rejection;

fn text(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What stands between two marks of a page.
fn marked<'a>(page: &'a str, mark: &str) -> &'a str {
    let begin = format!("<!-- {mark}: begin -->\n");
    let (_, after) = page.split_once(&begin).unwrap();
    let (shown, _) = after.split_once(&format!("<!-- {mark}: end -->")).unwrap();
    shown
}

#[test]
fn the_guide_shows_the_table_of_verdicts() {
    let page = text("docs/configuration.md");
    let table = mesh::table();
    assert!(
        marked(&page, "verdicts") == table,
        "docs/configuration.md must say between its marks:\n{table}"
    );
}

#[test]
fn the_guide_lists_what_the_admin_port_serves() {
    let page = text("docs/admin.md");
    let table = finback::admin::endpoints::table();
    assert!(
        marked(&page, "admin") == table,
        "docs/admin.md must say between its marks:\n{table}"
    );
}

#[test]
fn the_guide_explains_every_attribute_of_a_span() {
    let page = text("docs/tracing.md");
    let mut table = "| attribute | what it says |\n|---|---|\n".to_owned();
    for (name, meaning) in finback_observability::trace::ATTRIBUTES {
        table.push_str(&format!("| `{name}` | {meaning} |\n"));
    }
    assert!(
        marked(&page, "attributes") == table,
        "docs/tracing.md must say between its marks:\n{table}"
    );
}

#[test]
fn the_guide_explains_every_outcome() {
    let page = text("docs/metrics.md");
    let answers = [
        Outcome::Success,
        Outcome::Exception,
        Outcome::Invalid,
        Outcome::Failed,
        Outcome::Refused,
        Outcome::TimedOut,
    ];
    let answers = answers.map(Ending::Answered).into_iter();
    let rejections = Rejection::ALL.into_iter().map(Ending::Rejected);
    let others = [Ending::Sent, Ending::Abandoned];
    for ending in answers.chain(rejections).chain(others) {
        let quoted = format!("`{}`", ending.name());
        let rows = page.lines().filter(|line| line.starts_with("| `"));
        let names = rows.filter_map(|row| row.split(" | ").next());
        let count = names.filter(|names| names.contains(&quoted)).count();
        assert_eq!(count, 1, "{quoted} is not explained once");
    }
}

#[test]
fn the_guide_explains_every_field_of_an_access_log() {
    let page = text("docs/observing.md");
    let rows: String = finback::access_log::FIELDS
        .iter()
        .map(|(name, _, meaning)| format!("| `{name}` | {meaning} |\n"))
        .collect();
    let table = format!("| field | meaning |\n|---|---|\n{rows}");
    assert!(
        marked(&page, "fields") == table,
        "docs/observing.md must say between its marks:\n{table}"
    );
}

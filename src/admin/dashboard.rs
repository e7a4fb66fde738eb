//! The dashboard: a page, a style and a script, which are part of the binary.

use hyper::StatusCode;

use super::conversation::Answer;

pub(super) fn page() -> Answer {
    let text = include_str!("dashboard/page.html");
    Answer::new(StatusCode::OK, "text/html; charset=utf-8", text)
}

pub(super) fn style() -> Answer {
    let text = include_str!("dashboard/dashboard.css");
    Answer::new(StatusCode::OK, "text/css; charset=utf-8", text)
}

pub(super) fn script() -> Answer {
    let text = concat!(
        include_str!("dashboard/dom.js"),
        include_str!("dashboard/dashboard.js"),
        include_str!("dashboard/topology.js"),
    );
    Answer::new(StatusCode::OK, "text/javascript; charset=utf-8", text)
}

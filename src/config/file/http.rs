//! HTTP settings of a route as they may be written: changes to requests and responses.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::forms::forms;
use crate::config::units::Placed;

/// An answer of the route's own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// Its status, 200 to 599.
    pub status: u16,
    /// Its body. Default: nothing.
    #[serde(default)]
    pub body: String,
    /// Its type. Default: `text/plain; charset=utf-8`.
    pub content_type: Option<String>,
}

/// Where to ask instead; what is left out stays as it was asked for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308. Default: 302.
    pub status: Option<u16>,
    /// `http` or `https`. Default: http.
    pub scheme: Option<String>,
    /// Another host.
    pub host: Option<String>,
    /// Another path.
    pub path: Option<PathChange>,
}

/// What the endpoint is asked for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// Another host.
    pub host: Option<String>,
    /// Another path.
    pub path: Option<PathChange>,
}

/// Another path: a text, or a change of the one there is.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub enum PathChange {
    /// This path.
    Whole(String),
    /// A change.
    Change(PathRule),
}

forms!(
    PathChange,
    "a path such as /new, { prefix: /old, with: /new } or { regex: TEXT, with: TEXT }",
    Whole,
    map Change(PathRule)
);

/// A change of a path. Either `prefix` or `regex`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathRule {
    /// How paths begin that are changed.
    pub prefix: Option<String>,
    /// A regular expression; what it finds first is changed.
    pub regex: Option<String>,
    /// What takes its place; `$1` is the expression's first group.
    pub with: String,
}

/// Changes of headers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Headers {
    /// Taken away, before anything is set or added.
    #[serde(default)]
    pub remove: Vec<Placed<String>>,
    /// Set to one value.
    #[serde(default)]
    pub set: BTreeMap<String, Placed<String>>,
    /// Added beside those there are.
    #[serde(default)]
    pub add: BTreeMap<String, Placed<String>>,
}

//! Words of local replies, which the mesh gives in a service's place: what happened, and what to look at.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::record::About;
use crate::rejection::Rejection;
use crate::route::{Destination, Route};

use super::exchange::Exchange;

impl Exchange {
    /// What the caller reads when the mesh answers: what happened, and what to look at. The endpoint's
    /// address is not among it unless the listener says so.
    pub(crate) fn explain(&self, rejection: Rejection) -> String {
        self.describe(rejection, self.resolved.origin.reveals, false)
    }

    /// The same for the log, where the endpoint's address always stands.
    pub(crate) fn explain_in_full(&self, rejection: Rejection) -> String {
        self.describe(rejection, true, true)
    }

    /// The configured cluster that had no endpoint for it. One that was looked up has the call's own name.
    fn lacking_cluster(&self) -> Option<&Arc<Cluster>> {
        let is_configured = |route: &Arc<Route>| matches!(route.to, Destination::Clusters(_));
        let lacking = self.mishaps.as_ref()?.lacking.as_ref();
        lacking.filter(|_| self.selected_route().is_some_and(is_configured))
    }

    /// Why it is not let pass.
    fn denied(&self, call: &str, routes: &str) -> String {
        match self.selected_route() {
            _ if self.refusal().is_some() => format!("{call} is not allowed"),
            Some(route) if matches!(route.to, Destination::Treatment) => format!(
                "route '{}' of table '{routes}' answers by itself, and not in this protocol; {call} goes nowhere",
                route.name
            ),
            Some(route) if route.treatment.is_some() && self.routed == Err(Rejection::Denied) => {
                format!(
                    "what route '{}' of table '{routes}' does with calls is not for this protocol; {call} goes nowhere",
                    route.name
                )
            }
            _ => format!("{call} is not allowed"),
        }
    }

    fn describe(&self, rejection: Rejection, reveals: bool, in_full: bool) -> String {
        let key = &self.resolved.key;
        let mut call = String::new();
        if !key.group.is_empty() {
            call.push_str(&key.group);
            call.push('/');
        }
        call.push_str(&key.service);
        if !key.version.is_empty() {
            call.push(':');
            call.push_str(&key.version);
        }
        if !key.method.is_empty() {
            call.push('.');
            call.push_str(&key.method);
        }
        let endpoint = match self.endpoint().filter(|_| reveals) {
            Some(address) => format!("endpoint {address}"),
            None => "the endpoint".to_owned(),
        };
        let routes = &self.resolved.origin.table;
        let what = match rejection {
            Rejection::NoRoute => format!("no route of table '{routes}' matches {call}"),
            Rejection::NoService => {
                format!("the registry knows no provider of {call}; is it registered?")
            }
            Rejection::NoEndpoint => match self.lacking_cluster() {
                Some(cluster) => {
                    let endpoints = cluster.endpoints();
                    let trouble = endpoints.trouble.as_ref().filter(|_| reveals);
                    let why = trouble.map_or_else(String::new, |why| format!(": {why}"));
                    format!(
                        "cluster '{}' has no endpoint that may take {call} now{why}",
                        cluster.name()
                    )
                }
                None => format!(
                    "no endpoint may take {call} now; are any registered, with that subset?"
                ),
            },
            // Why, with the endpoint's address, stands in the log: it is nobody's business outside.
            Rejection::ConnectFailed if self.no_tls => {
                format!("TLS handshake with the endpoint failed for {call}; nothing was sent")
            }
            Rejection::ConnectFailed => {
                format!("cannot connect to {endpoint} for {call}; nothing was sent")
            }
            Rejection::ConnectionLost => {
                format!("the connection to {endpoint} was lost while {call} was in flight")
            }
            Rejection::DeadlineExceeded if self.looking_up => format!(
                "the registry did not answer within {:?} who serves {call}",
                self.deadline.since(self.started)
            ),
            Rejection::DeadlineExceeded => format!(
                "{endpoint} did not answer {call} within {:?}",
                self.deadline.since(self.started)
            ),
            Rejection::Overloaded => {
                format!("too many calls are in flight to take {call}: a limit is reached")
            }
            Rejection::Limited => match self.refusal().and_then(|own| own.retry_after) {
                Some(later) => format!(
                    "too many calls come to take {call}: a rate limit is reached; try again in {} ms",
                    later.as_millis().max(1)
                ),
                None => format!("too many calls come to take {call}: a rate limit is reached"),
            },
            Rejection::Denied => self.denied(&call, routes),
            Rejection::Unauthenticated => format!("{call} needs a caller that proves who it is"),
            Rejection::BadRequest => "the request cannot be read".to_owned(),
            Rejection::TooLarge => "the request is longer than the limit".to_owned(),
            Rejection::Draining => format!("shutting down; {call} was not finished"),
        };
        match self.refusal() {
            Some(refusal) if in_full => {
                let by = self.filter();
                let rule = &refusal.rule;
                format!(
                    "[finback] {what}: {} (filter '{by}', rule '{rule}')",
                    refusal.text
                )
            }
            Some(refusal) if !refusal.text.is_empty() => {
                format!("[finback] {what}: {}", refusal.text)
            }
            _ => format!("[finback] {what}"),
        }
    }
}

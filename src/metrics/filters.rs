//! Filters: what they decided.

use finback_core::filter::DecisionKey;
use finback_core::metric::Family;
use finback_observability::{MetricSink, MetricValue};

static DECISIONS: Family = Family::counter(
    "finback_filter_decisions_total",
    "decisions",
    &["filter", "rule", "decision"],
    "What filters decided: `denied`, `would_deny` (a dry run), `limited`, `delayed` and so on; the rule is empty where none applied.",
);

/// Puts what filters decided into a sink.
pub(super) fn collect(decisions: &[(DecisionKey, u64)], sink: &mut dyn MetricSink) {
    sink.family(&DECISIONS);
    for ((filter, rule, decision), count) in decisions {
        sink.series(&[filter, rule, decision], MetricValue::Count(*count));
    }
}

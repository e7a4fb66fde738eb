//! Filters: what each does, who names it, and what it decided.

use finback_core::mesh::Mesh;
use serde_json::{Value, json};

/// All filters.
pub(super) fn list(mesh: &Mesh) -> Value {
    let routing = mesh.routing();
    let decisions = mesh.filter_decisions();
    let tables = routing.tables();
    let tables: Vec<_> = tables.iter().filter_map(|own| routing.table(own)).collect();
    let filters = routing.filters().map(|(name, filter)| {
        let routes = tables.iter().flat_map(|table| {
            let own = table.routes.iter().filter(|own| own.filters.contains(name));
            own.map(|own| format!("{}/{}", table.name, own.name))
        });
        let decided = decisions
            .iter()
            .filter(|((own, ..), count)| own == name && *count > 0);
        let decided = decided.map(|((_, rule, decision), count)| {
            json!({ "rule": &**rule, "decision": decision, "count": count })
        });
        json!({
            "filter": &**name,
            "kind": filter.kind(),
            "does": filter.describe(),
            "listeners": routing.listeners_with(name),
            "routes": routes.collect::<Vec<_>>(),
            "decided": decided.collect::<Vec<_>>(),
        })
    });
    filters.collect()
}

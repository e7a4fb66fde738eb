//! Route tables: which routes there are, and how often each was taken.

use finback_core::mesh::Mesh;
use serde_json::{Value, json};

use super::explain::route;

/// All tables, of each at most so many routes.
pub(super) fn list(mesh: &Mesh, limit: usize) -> Value {
    let hits = mesh.route_hits();
    let routing = mesh.routing();
    let names = routing.tables();
    let tables = names.iter().filter_map(|name| routing.table(name));
    tables
        .map(|table| {
            let taken = |route: &std::sync::Arc<str>| {
                let place = (table.name.clone(), route.clone());
                hits.get(&place).copied().unwrap_or(0)
            };
            let routes = table.routes.iter().take(limit).map(|own| {
                let mut value = route(own);
                value["hits"] = taken(&own.name).into();
                value
            });
            json!({
                "table": &*table.name,
                "routes": routes.collect::<Vec<_>>(),
                "all": table.routes.len(),
                "no_route": taken(&"".into()),
            })
        })
        .collect()
}

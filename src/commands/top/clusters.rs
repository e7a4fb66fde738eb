//! `finback top --clusters`: which clusters are called, what limits them, and which endpoints are ejected.

use finback_core::text::Escaped;
use serde_json::Value;

use super::fitted;

/// What stands beside the name: endpoints, calls in flight, limit, calls shed, ejections.
const BESIDE: usize = 51;

/// The clusters as the admin port lists them.
pub(super) struct Clusters(Vec<Row>);

/// One of them.
struct Row {
    name: String,
    available: usize,
    endpoints: usize,
    in_flight: u64,
    /// The limit that was found out, and the calls that it turned away.
    found: Option<(u64, u64)>,
    ejections: u64,
}

impl Clusters {
    pub(super) fn read(value: &Value) -> Option<Self> {
        let mut rows = Vec::new();
        for own in value.as_array()? {
            let endpoints = own["endpoints"].as_array()?;
            let available = endpoints.iter().filter(|each| each["available"] == true);
            let found = &own["concurrency"];
            rows.push(Row {
                name: own["name"].as_str()?.to_owned(),
                available: available.count(),
                endpoints: endpoints.len(),
                in_flight: own["in_flight"].as_u64()?,
                found: found["limit"].as_u64().zip(found["shed"].as_u64()),
                ejections: own["ejections"].as_u64()?,
            });
        }
        Some(Self(rows))
    }

    /// As many rows as fit, those with the most calls first; calls shed are those since `before`.
    pub(super) fn table(&self, before: &Self, seconds: f64, height: usize, width: usize) -> String {
        let names = width.saturating_sub(BESIDE).max(12);
        let mut text = format!(
            "{} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
            fitted("CLUSTER", names),
            "ENDPOINTS",
            "IN FLIGHT",
            "LIMIT",
            "SHED/S",
            "EJECTIONS"
        );
        let mut rows: Vec<_> = self.0.iter().collect();
        rows.sort_by(|a, b| (b.in_flight, &a.name).cmp(&(a.in_flight, &b.name)));
        let room = height.saturating_sub(3).max(1);
        for row in rows.iter().take(room) {
            let former = before.0.iter().find(|own| own.name == row.name);
            let former = former.and_then(|own| own.found).map_or(0, |(_, shed)| shed);
            let (limit, shed) = match row.found {
                Some((limit, shed)) => {
                    let shed = shed.saturating_sub(former) as f64 / seconds.max(0.001);
                    (limit.to_string(), super::number(shed))
                }
                None => ("-".to_owned(), "-".to_owned()),
            };
            text.push_str(&format!(
                "{} {:>9} {:>9} {limit:>9} {shed:>9} {:>9}\n",
                fitted(&Escaped(&row.name).to_string(), names),
                format!("{}/{}", row.available, row.endpoints),
                row.in_flight,
                row.ejections
            ));
        }
        match rows.len().saturating_sub(room) {
            _ if rows.is_empty() => text.push_str("there is no cluster\n"),
            0 => {}
            left => text.push_str(&format!("and {left} more\n")),
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn clusters(shed: u64) -> Clusters {
        let endpoints = json!([{ "available": true }, { "available": false }]);
        let value = json!([
            { "name": "free", "in_flight": 1, "ejections": 0, "concurrency": null, "endpoints": [] },
            {
                "name": "limited", "in_flight": 7, "ejections": 3, "endpoints": endpoints,
                "concurrency": { "limit": 40, "shed": shed }
            },
        ]);
        Clusters::read(&value).unwrap_or(Clusters(Vec::new()))
    }

    #[test]
    fn a_row_says_what_bounds_a_cluster() {
        let text = clusters(30).table(&clusters(10), 2.0, 24, 80);
        let words = |at: usize| {
            let line = text.lines().nth(at).unwrap_or_default();
            line.split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(words(1), ["limited", "1/2", "7", "40", "10.0", "3"]);
        assert_eq!(words(2), ["free", "0/0", "1", "-", "-", "0"]);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }

    #[test]
    fn a_table_fits_into_its_terminal() {
        let many = (0..50).map(
            |n| json!({ "name": format!("c{n}"), "in_flight": n, "ejections": 0, "endpoints": [] }),
        );
        let own = Clusters::read(&many.collect()).unwrap_or(Clusters(Vec::new()));
        let text = own.table(&own, 1.0, 10, 80);
        assert_eq!(text.lines().count(), 9, "{text}");
        assert!(text.contains("and 43 more"), "{text}");
    }
}

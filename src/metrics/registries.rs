//! Registries: whether they answer, and what is registered there on behalf of applications.

use finback_core::metric::Family;
use finback_core::text;
use finback_observability::{MetricSink, MetricValue};
use finback_registry::{RegistrationStatus, RegistryStatus};

use super::MAX_LABEL;

const REGISTRY: &[&str] = &["registry"];

/// Reads one number.
type Read = fn(&RegistryStatus) -> MetricValue<'static>;

static FAMILIES: [(Family, Read); 8] = [
    (
        Family::gauge(
            "finback_registry_connected",
            "1",
            REGISTRY,
            "1 while a registry's servers answer, and let us read what they did before; a file can be read.",
        ),
        |own| MetricValue::Count(own.connected.into()),
    ),
    (
        Family::gauge(
            "finback_registry_stale_seconds",
            "seconds",
            REGISTRY,
            "For how long a registry's servers have not answered, or something could not be read.",
        ),
        |own| MetricValue::Number(own.stale.as_secs_f64()),
    ),
    (
        Family::gauge(
            "finback_registry_services",
            "services",
            REGISTRY,
            "Services followed in a registry.",
        ),
        |own| MetricValue::Count(own.services as u64),
    ),
    (
        Family::gauge(
            "finback_registry_services_waiting",
            "services",
            REGISTRY,
            "Services of which nothing is known yet.",
        ),
        |own| MetricValue::Count(own.waiting as u64),
    ),
    (
        Family::gauge(
            "finback_registry_services_protected",
            "services",
            REGISTRY,
            "Services whose providers vanished all at once: the last ones are kept for `empty_protection`.",
        ),
        |own| MetricValue::Count(own.protected as u64),
    ),
    (
        Family::gauge(
            "finback_registry_services_from_disk",
            "services",
            REGISTRY,
            "Services known from the snapshot of an earlier run only.",
        ),
        |own| MetricValue::Count(own.from_disk as u64),
    ),
    (
        Family::gauge(
            "finback_registry_reads_failing",
            "reads",
            REGISTRY,
            "Reads that a registry refuses or fails, or a file that is wrong; what was read last stays.",
        ),
        |own| MetricValue::Count(own.failing_reads as u64),
    ),
    (
        Family::gauge(
            "finback_registry_names_failing",
            "names",
            REGISTRY,
            "Host names that do not resolve any more; their last addresses stay.",
        ),
        |own| MetricValue::Count(own.failing_names as u64),
    ),
];

static REGISTERED: Family = Family::gauge(
    "finback_registered",
    "1",
    &[
        "registry", "layout", "service", "version", "group", "address",
    ],
    "1 while a local service stands in its registry.",
);

/// Puts registries into a sink.
pub(super) fn collect(
    registries: &[RegistryStatus],
    registrations: &[RegistrationStatus],
    sink: &mut dyn MetricSink,
) {
    for (family, value) in &FAMILIES {
        sink.family(family);
        for registry in registries {
            sink.series(&[&registry.name], value(registry));
        }
    }
    sink.family(&REGISTERED);
    for status in registrations {
        let own = &status.registration;
        let address = format!("{}:{}", own.host, own.port);
        let cut = |name| text::cut(name, MAX_LABEL);
        let labels = [
            &*own.registry,
            own.layout.name(),
            cut(&own.service),
            cut(&own.version),
            cut(&own.group),
            &address,
        ];
        sink.series(&labels, MetricValue::Count(status.held.into()));
    }
}

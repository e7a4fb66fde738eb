//! What rules in a registry cost: one document of conditions for each service, and those of services
//! that nobody has.

use std::time::{Duration, Instant};

use super::{Scale, Server, Writer, fill, service, start_finback};
use crate::process::{cpu_nanos, rss_kib};

/// Conditions of one document.
const CONDITIONS: usize = 10;
/// Documents that are changed, one by one.
const CHANGES: usize = 50;
/// Where Dubbo's configuration centre is.
const CENTRE: &str = "/dubbo/config/dubbo";

/// Measures, and prints a Markdown table.
pub(super) async fn run(scale: &Scale, documents: usize) -> anyhow::Result<()> {
    println!(
        "| registry | services x providers | documents | seconds to the first snapshot | CPU s | RSS MiB | CPU ms per changed document |"
    );
    println!("|---|---|---|---|---|---|---|");
    for store in ["zookeeper", "etcd"] {
        let (server, writer) = Server::start(store).await?;
        fill(&writer, 0..scale.services, scale.providers).await?;
        measure(&server, &writer, 0, scale).await?;
        writer.folder(CENTRE).await?;
        for number in 0..documents {
            writer.put(&path(number), &document(number, 0)).await?;
        }
        measure(&server, &writer, documents, scale).await?;
    }
    Ok(())
}

/// A document of the service of this number: as in Dubbo, its version and group stand empty there.
fn path(number: usize) -> String {
    format!("{CENTRE}/{}::.condition-router", service(number))
}

fn document(number: usize, change: usize) -> String {
    let key = service(number);
    let mut text = format!(
        "configVersion: v3.0\nscope: service\nforce: false\nruntime: true\nenabled: true\nkey: {key}\nconditions:\n"
    );
    for condition in 0..CONDITIONS {
        text += &format!("  - \"method=find{condition} & lane=gray{change} => host=10.0.*\"\n");
    }
    text
}

async fn measure(
    server: &Server,
    writer: &Writer,
    documents: usize,
    scale: &Scale,
) -> anyhow::Result<()> {
    let (finback, _, took) = start_finback(server, scale.services, scale).await?;
    let pid = finback.pid();
    let cpu = cpu_nanos(pid)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rss = rss_kib(pid)?;
    let quiet = cpu_nanos(pid)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let per_second = cpu_nanos(pid)?.saturating_sub(quiet) / 2;
    let (before, began) = (cpu_nanos(pid)?, Instant::now());
    let changes = CHANGES.min(documents);
    for number in 0..changes {
        writer.set(&path(number), &document(number, 1)).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let idle = per_second as f64 * began.elapsed().as_secs_f64();
    let change = (cpu_nanos(pid)?.saturating_sub(before) as f64 - idle) / 1e6;
    println!(
        "| {} | {} x {} | {documents} | {:.1} | {:.2} | {:.1} | {:.2} |",
        server.store,
        scale.services,
        scale.providers,
        took.as_secs_f64(),
        cpu as f64 / 1e9,
        rss as f64 / 1024.0,
        change / changes.max(1) as f64,
    );
    Ok(())
}

//! The first connection to a registry's servers: where none can be made, that is told at once, with the
//! server's address and the reason.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpStream;

use super::Reporter;

/// Clients of servers that answer are connected sooner than this, and nothing is asked beside them.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long one server may take to accept a connection.
const ACCEPT: Duration = Duration::from_secs(3);
/// A server that accepts and then says nothing is told of after this.
const SILENCE: Duration = Duration::from_secs(5);

/// Awaits `connecting`. Clients try every server again and again before they give up; until the first
/// report, a look beside them says much earlier what is the matter.
pub(super) async fn connect<T>(
    connecting: impl Future<Output = T>,
    servers: &[String],
    reporter: &Reporter,
) -> T {
    let mut connecting = pin!(connecting);
    if reporter.has_reported() {
        return connecting.await;
    }
    let looking = async {
        tokio::time::sleep(HEAD_START).await;
        trouble(servers).await
    };
    tokio::select! {
        connected = &mut connecting => return connected,
        why = looking => reporter.lost(&why),
    }
    connecting.await
}

/// Why no connection could be made. What a client says who has tried all its servers names neither them
/// nor their reasons; a look at each does.
pub(super) async fn reason(servers: &[String], why: &str) -> String {
    let looks = join_all(servers.iter().map(|server| look(server))).await;
    let found: Vec<String> = looks.into_iter().flatten().collect();
    if found.is_empty() {
        return format!("{}: {why}", servers.join(","));
    }
    found.join("; ")
}

/// What keeps every one of the servers from answering.
async fn trouble(servers: &[String]) -> String {
    let looks = join_all(servers.iter().map(|server| look(server))).await;
    let silent = servers.iter().zip(&looks).filter(|(_, why)| why.is_none());
    let silent: Vec<String> = silent
        .map(|(server, _)| format!("{server}: takes connections and does not answer"))
        .collect();
    if silent.is_empty() {
        return looks.into_iter().flatten().collect::<Vec<_>>().join("; ");
    }
    tokio::time::sleep(SILENCE).await;
    let refused = looks.into_iter().flatten();
    silent
        .into_iter()
        .chain(refused)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Why one server takes no connection; `None` if it does.
async fn look(server: &str) -> Option<String> {
    match tokio::time::timeout(ACCEPT, TcpStream::connect(server)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(format!("{server}: {error}")),
        Err(_) => Some(format!("{server}: no answer within {ACCEPT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_server_is_named_with_its_reason() {
        // Nobody listens on the port of a listener that is gone.
        let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|own| own.local_addr());
        let gone = gone.map(|own| own.to_string()).unwrap_or_default();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").ok();
        let address = silent.as_ref().and_then(|own| own.local_addr().ok());
        let address = address.map(|own| own.to_string()).unwrap_or_default();
        let said = trouble(std::slice::from_ref(&gone)).await;
        assert!(
            said.starts_with(&format!("{gone}: Connection refused")),
            "{said}"
        );
        let said = trouble(&[gone.clone(), address.clone()]).await;
        assert!(
            said.starts_with(&format!(
                "{address}: takes connections and does not answer; {gone}: "
            )),
            "{said}"
        );
    }
}

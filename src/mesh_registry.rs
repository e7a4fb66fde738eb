//! SOFA-RPC's mesh registry: five requests over HTTP by which a Java application registers with and
//! looks up through its sidecar (SOFA-RPC's registry-mesh).

mod listening;
mod publications;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use finback_core::clock::{Clock, Now};
use finback_core::frame::NAME_LIMIT;
use finback_core::log_limit::LogLimit;
use finback_core::text::Escaped;
use finback_registry::{LayoutKind, Registries};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use self::publications::Publications;
use crate::config::MeshRegistry;

/// The longest body that is read.
const MAX_BODY: usize = 64 * 1024;
/// Connections at a time.
const CONNECTIONS: usize = 64;
/// How long a request's head may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until the runtime ends. What the application says is kept in the folder, if there is one.
pub async fn serve(
    listener: TcpListener,
    config: MeshRegistry,
    registries: Arc<Registries>,
    folder: Option<PathBuf>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let outbound = config.outbound;
    let publications = Publications::open(config, registries, folder.as_deref()).await;
    tokio::spawn(publications.clone().keep());
    loop {
        // The semaphore is never closed, so that this cannot fail.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "mesh registry cannot accept; pausing");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let publications = publications.clone();
        tokio::spawn(async move {
            let answering = service_fn(|request| answer(request, outbound, &publications));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), answering);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "mesh registry connection ended");
            }
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    outbound: SocketAddr,
    publications: &Publications,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if request.method() != Method::POST {
        return Ok(respond(
            StatusCode::METHOD_NOT_ALLOWED,
            &failure("only POST is served here"),
        ));
    }
    let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return Ok(respond(
                StatusCode::BAD_REQUEST,
                &failure(&error.to_string()),
            ));
        }
    };
    Ok(match handle(&path, &body, outbound, publications).await {
        Ok(answer) => respond(StatusCode::OK, &answer),
        Err((status, why)) => respond(status, &failure(&why)),
    })
}

fn failure(why: &str) -> Value {
    json!({ "success": false, "errorMessage": why })
}

fn respond(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    response
}

/// The part of every request that we need.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    #[serde(default)]
    service_name: String,
    provider_meta_info: Option<ProviderMeta>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProviderMeta {
    #[serde(default)]
    app_name: Option<String>,
}

async fn handle(
    path: &str,
    body: &[u8],
    outbound: SocketAddr,
    publications: &Publications,
) -> Result<Value, (StatusCode, String)> {
    let asked: Asked = serde_json::from_slice(body).map_err(|error| refused(error.to_string()))?;
    let done = json!({ "success": true, "errorMessage": null });
    match path {
        "/configs/application" => Ok(done),
        "/services/subscribe" => {
            // Whoever subscribes will call soon: the service is looked up now.
            let service = one_name(&asked.service_name)?;
            static SUBSCRIBED: LogLimit = LogLimit::usual();
            if let Some(left_out) = SUBSCRIBED.admit(now()) {
                let service = Escaped(&service);
                tracing::info!(%service, %outbound, left_out, "application subscribes");
            }
            publications.subscribe(&service).await;
            Ok(json!({
                "success": true,
                "errorMessage": null,
                "serviceName": asked.service_name,
                "datas": [format!("{outbound}?v=4.0&p=1&_SERIALIZETYPE=hessian2&app_name=finback")],
            }))
        }
        "/services/unsubscribe" => {
            publications
                .unsubscribe(&one_name(&asked.service_name)?)
                .await;
            Ok(done)
        }
        "/services/publish" => {
            let service = one_name(&asked.service_name)?;
            let application = asked.provider_meta_info.and_then(|meta| meta.app_name);
            let application = application.unwrap_or_else(|| "finback".to_owned());
            if !is_parameter(&application) {
                return Err(refused("appName is none that a registry can have"));
            }
            static PUBLISHED: LogLimit = LogLimit::usual();
            if let Some(left_out) = PUBLISHED.admit(now()) {
                let service = Escaped(&service);
                tracing::info!(%service, left_out, "application publishes");
            }
            match publications.publish(&service, &application).await {
                true => Ok(done),
                false => Err(refused("the application publishes too many services")),
            }
        }
        "/services/unpublish" => {
            publications
                .unpublish(&one_name(&asked.service_name)?)
                .await;
            Ok(done)
        }
        _ => {
            let why = format!("nothing at {}", Escaped(path));
            Err((StatusCode::NOT_FOUND, why))
        }
    }
}

/// A service's name in one form, if registries can have it.
fn one_name(name: &str) -> Result<String, (StatusCode, String)> {
    let (interface, unique_id) = split(name)?;
    Ok(match unique_id {
        "" => format!("{interface}:1.0"),
        unique_id => format!("{interface}:1.0:{unique_id}"),
    })
}

fn refused(why: impl Into<String>) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, why.into())
}

/// The time, for what is logged at a bounded rate.
fn now() -> Now {
    static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::start);
    CLOCK.now()
}

/// Interface and unique id of `interface:1.0` or `interface:1.0:uniqueId`, if registries can have
/// them: they become a path, and parameters of a URL.
fn split(name: &str) -> Result<(&str, &str), (StatusCode, String)> {
    let mut parts = name.splitn(3, ':');
    let interface = parts.next().unwrap_or_default();
    let unique_id = parts.nth(1).unwrap_or_default();
    if interface.is_empty() {
        return Err(refused("serviceName is missing"));
    }
    if !LayoutKind::Sofa.is_name(interface) {
        return Err(refused(
            "serviceName is not a name that a registry can have",
        ));
    }
    if !is_parameter(unique_id) {
        return Err(refused("the unique id is none that a registry can have"));
    }
    Ok((interface, unique_id))
}

/// Whether a text can be a parameter's value in a provider's URL.
fn is_parameter(text: &str) -> bool {
    let ends_it = |char: char| char.is_control() || matches!(char, '&' | '#' | '=');
    text.len() <= NAME_LIMIT && !text.contains(ends_it)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_are_taken_apart() {
        assert_eq!(split("a.B:1.0").unwrap(), ("a.B", ""));
        assert_eq!(split("a.B:1.0:blue").unwrap(), ("a.B", "blue"));
        assert_eq!(split("a.B").unwrap(), ("a.B", ""));
        assert!(split("").is_err());
    }

    #[test]
    fn names_that_no_registry_can_have_are_refused_and_not_tried() {
        let longest = "x".repeat(NAME_LIMIT);
        assert!(split(&format!("{longest}:1.0:{longest}")).is_ok());
        let long = "x".repeat(60_000);
        for name in [
            "a/../../b",
            "a/b",
            "..",
            ".",
            "a\nb",
            "a\u{0}b",
            "a\u{85}b",
            ":1.0",
            &long,
            &format!("a.B:1.0:{long}"),
            "a.B:1.0:x\ny",
            "a.B:1.0:x&interface=c.D",
            "a.B:1.0:x=y",
        ] {
            let (status, why) = split(name).unwrap_err();
            assert_eq!(status, StatusCode::BAD_REQUEST, "{name:?}");
            assert!(why.len() < 100, "{why}");
        }
        assert!(is_parameter("shop"));
        assert!(!is_parameter("shop\r\n"));
        assert!(!is_parameter(&long));
    }
}

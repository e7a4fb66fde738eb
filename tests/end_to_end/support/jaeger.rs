//! A real Jaeger of the tests' own, asked over its API.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::peer::built;
use super::process::Process;
use super::{eventually, free_port, temporary_folder};

const PATIENCE: Duration = Duration::from_secs(20);

/// A running Jaeger; dropping it kills it.
pub(crate) struct Jaeger {
    /// Where it takes OTLP by gRPC, and by HTTP.
    pub(crate) grpc: String,
    pub(crate) http: String,
    query: u16,
    process: Process,
}

/// A span as Jaeger has it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: Option<String>,
    pub(crate) name: String,
    pub(crate) service: String,
    /// In microseconds since 1970.
    pub(crate) began: u64,
    pub(crate) took: u64,
    pub(crate) tags: HashMap<String, String>,
}

impl Span {
    /// Whose work it is: `server`, `client`, `producer`.
    pub(crate) fn kind(&self) -> &str {
        self.tag("span.kind")
    }

    /// An attribute, or "".
    pub(crate) fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map_or("", String::as_str)
    }

    fn of(span: &Value, processes: &Value) -> Self {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let tags = span["tags"].as_array().unwrap();
        let references = span["references"].as_array().unwrap();
        Self {
            trace: text(&span["traceID"]),
            id: text(&span["spanID"]),
            parent: references.first().map(|own| text(&own["spanID"])),
            name: text(&span["operationName"]),
            service: text(&processes[text(&span["processID"])]["serviceName"]),
            began: span["startTime"].as_u64().unwrap(),
            took: span["duration"].as_u64().unwrap(),
            tags: tags
                .iter()
                .map(|tag| (text(&tag["key"]), text(&tag["value"])))
                .collect(),
        }
    }
}

impl Jaeger {
    /// Starts one and waits until it answers.
    pub(crate) fn start() -> Self {
        Self::start_with("", "http")
    }

    /// The same, whose receivers speak TLS with these keys.
    pub(crate) fn start_secure(certificate: &str, key: &str) -> Self {
        let tls = format!(", tls: {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}");
        Self::start_with(&tls, "https")
    }

    fn start_with(tls: &str, scheme: &str) -> Self {
        let (query, other, grpc, http) = (free_port(), free_port(), free_port(), free_port());
        let config = temporary_folder().join("jaeger.yaml");
        let text = format!(
            r#"
service:
  extensions: [ jaeger_storage, jaeger_query ]
  pipelines: {{ traces: {{ receivers: [ otlp ], exporters: [ jaeger_storage_exporter ] }} }}
  telemetry: {{ metrics: {{ level: none }}, logs: {{ level: warn }} }}
extensions:
  jaeger_storage: {{ backends: {{ memory: {{ memory: {{ max_traces: 100000 }} }} }} }}
  jaeger_query:
    storage: {{ traces: memory }}
    http: {{ endpoint: "127.0.0.1:{query}" }}
    grpc: {{ endpoint: "127.0.0.1:{other}" }}
receivers:
  otlp:
    protocols:
      grpc: {{ endpoint: "127.0.0.1:{grpc}"{tls} }}
      http: {{ endpoint: "127.0.0.1:{http}"{tls} }}
exporters: {{ jaeger_storage_exporter: {{ trace_storage: memory }} }}
"#
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(built("jaeger/jaeger"));
        let process = Process::start("jaeger", command.arg("--config").arg(config));
        let jaeger = Self {
            grpc: format!("{scheme}://127.0.0.1:{grpc}"),
            http: format!("{scheme}://127.0.0.1:{http}"),
            query,
            process,
        };
        eventually("jaeger", PATIENCE, || jaeger.try_ask("/api/services"));
        for port in [grpc, http] {
            eventually("its receivers", PATIENCE, || {
                TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())
            });
        }
        jaeger
    }

    /// Sends it a signal, such as `STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// The spans of one trace, by when they began, once there are so many.
    pub(crate) fn trace(&self, id: &str, spans: usize) -> Vec<Span> {
        eventually("the trace", PATIENCE, || {
            let found = self.try_ask(&format!("/api/traces/{id}"))?;
            let mut all: Vec<Span> = Self::spans(&found);
            all.sort_by_key(|own| own.began);
            match all.len() >= spans {
                true => Ok(all),
                false => Err(format!("{all:#?}")),
            }
        })
    }

    /// All spans of a service, once there are so many.
    pub(crate) fn service(&self, name: &str, spans: usize) -> Vec<Span> {
        eventually("spans", PATIENCE, || {
            let all = self.service_now(name)?;
            match all.len() >= spans {
                true => Ok(all),
                false => Err(format!("{} of {spans}: {all:#?}", all.len())),
            }
        })
    }

    /// All spans of a service that are there.
    pub(crate) fn service_now(&self, name: &str) -> Result<Vec<Span>, String> {
        let path = format!("/api/traces?service={name}&limit=100000&lookback=1h");
        let mut all = Self::spans(&self.try_ask(&path)?);
        // What it finds is whole traces.
        all.retain(|own| own.service == name);
        Ok(all)
    }

    /// What it says of itself in its resource.
    pub(crate) fn resource(&self, id: &str) -> HashMap<String, String> {
        let found = self.try_ask(&format!("/api/traces/{id}")).unwrap();
        let processes = found["data"][0]["processes"].as_object().unwrap();
        let process = processes.values().next().unwrap();
        let mut all: HashMap<String, String> = HashMap::new();
        for tag in process["tags"].as_array().unwrap() {
            let value = tag["value"].to_string();
            all.insert(
                tag["key"].as_str().unwrap().to_owned(),
                value.trim_matches('"').to_owned(),
            );
        }
        let service = process["serviceName"].as_str().unwrap();
        all.insert("service.name".to_owned(), service.to_owned());
        all
    }

    fn spans(found: &Value) -> Vec<Span> {
        let traces = found["data"].as_array().cloned().unwrap_or_default();
        let of = |own: &Value| -> Vec<Span> {
            let spans = own["spans"].as_array().unwrap().iter();
            spans
                .map(|span| Span::of(span, &own["processes"]))
                .collect()
        };
        traces.iter().flat_map(of).collect()
    }

    fn try_ask(&self, path: &str) -> Result<Value, String> {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.query))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().map_err(|error| error.to_string())?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
        serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))
    }
}

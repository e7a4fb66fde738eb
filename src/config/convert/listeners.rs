//! Listeners: addresses, what is spoken there, and what each protocol bounds.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;

use finback_core::driver::{ListenerSpec, Protocol};

use super::super::Wrong;
use super::super::file;
use super::super::folder::Folder;
use super::super::units::{Placed, Size, Time};
use super::rocketmq::OfListener;
use super::{
    Names, Result, Wrongs, address, filters, known, logs, proxies, rocketmq, set, set_time,
};
use crate::access_log::AccessLogConfig;
use crate::protocols;
use crate::rocketmq::BrokerListeners;
use crate::tls::{PairFiles, ServerFiles};

/// All listeners, with what is kept beside core's words for them.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) specs: Vec<ListenerSpec>,
    /// The files of each one's TLS.
    pub(super) tls: Vec<Option<Placed<ServerFiles>>>,
    pub(super) access_logs: Vec<(Arc<str>, AccessLogConfig)>,
    /// Those that speak RocketMQ.
    pub(super) rocketmq: Vec<OfListener>,
    /// The filters that all calls of each one pass, by its name.
    pub(super) filters: BTreeMap<Arc<str>, Arc<[Arc<str>]>>,
    /// Where each one's address stands, by name.
    pub(super) places: Vec<(Arc<str>, (u64, u64))>,
}

impl Listeners {
    /// Who has listeners stand for RocketMQ's brokers, by the names of their parents.
    pub(super) fn brokers(&self) -> Vec<(Arc<str>, Arc<BrokerListeners>)> {
        let all = self.rocketmq.iter();
        all.map(|own| (own.name.clone(), own.brokers.clone()))
            .collect()
    }
}

pub(super) fn listeners(
    listeners: Placed<Vec<file::Listener>>,
    frame: Frame,
    names: &Names,
    folder: &Folder<'_>,
    wrongs: &mut Wrongs,
) -> Listeners {
    let mut all = Listeners::default();
    for listener in listeners.value {
        let added = add_listener(&mut all, listener, frame, names, folder);
        wrongs.one(added);
    }
    all
}

pub(super) fn add_listener(
    all: &mut Listeners,
    mut listener: file::Listener,
    frame: Frame,
    names: &Names,
    folder: &Folder<'_>,
) -> Result<()> {
    let place = listener.address.place;
    let access_log = listener.access_log.take();
    let filters = filters::named(std::mem::take(&mut listener.filters), &names.filters)?;
    let rocketmq = rocketmq::settings(
        listener.rocketmq.take(),
        listener.protocol.as_ref(),
        frame,
        names,
        folder,
    )?;
    let brokers = rocketmq
        .as_ref()
        .map(|own| BrokerListeners::new(own.value.clone()));
    let spoken = rocketmq.as_ref().zip(brokers.as_ref());
    let spoken = spoken.map(|(own, brokers)| protocols::RocketMq {
        settings: own.value.clone(),
        brokers: brokers.clone(),
    });
    let (spec, tls) = listener_spec(listener, frame, spoken, names, folder)?;
    if all.specs.iter().any(|other| other.name == spec.name) {
        let message = format!("two listeners are called `{}`; rename one", spec.name);
        return Err(Wrong::at(place, message));
    }
    let clash = |other: &ListenerSpec| other.address == spec.address;
    if spec.address.port() != 0 && all.specs.iter().any(clash) {
        let message = format!("two listeners have the address {}; move one", spec.address);
        return Err(Wrong::at(place, message));
    }
    if let Some(placed) = access_log {
        let place = placed.place;
        let config = logs::access_log(placed, folder)?;
        // One file is written by one thread, which knows one way of moving it away.
        let path = |own: &AccessLogConfig| own.target.to_string();
        let differs = |own: &(Arc<str>, AccessLogConfig)| {
            path(&own.1) == path(&config) && own.1.target != config.target
        };
        if all.access_logs.iter().any(differs) {
            let message = "another listener writes there, with another `rotate`; write the same";
            return Err(Wrong::at(place, message));
        }
        all.access_logs.push((spec.name.clone(), config));
    }
    if let (Some(Placed { place, .. }), Some(brokers)) = (rocketmq, brokers) {
        all.rocketmq.push(OfListener {
            name: spec.name.clone(),
            place,
            brokers,
        });
    }
    if !filters.is_empty() {
        all.filters.insert(spec.name.clone(), filters);
    }
    all.places.push((spec.name.clone(), place));
    all.tls.push(tls);
    all.specs.push(spec);
    Ok(())
}

/// How long frames may be.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    /// As configured.
    pub(super) most: Option<usize>,
    /// What may wait for a client: no frame is longer.
    pub(super) queue_hard: usize,
}

pub(super) fn listener_spec(
    from: file::Listener,
    frame: Frame,
    rocketmq: Option<protocols::RocketMq>,
    names: &Names,
    folder: &Folder<'_>,
) -> Result<(ListenerSpec, Option<Placed<ServerFiles>>)> {
    let address = address(&from.address.value, from.address.place)?;
    known(&names.tables, "route table", &from.routes)?;
    let auto = from.protocol.as_ref().is_none_or(|own| own.value == "auto");
    let tcp_fallback = match from.tcp_fallback {
        Some(Placed { value: true, place }) if !auto => {
            let message = "`tcp_fallback` is for `protocol: auto`; take one of them away";
            return Err(Wrong::at(place, message));
        }
        given => given.is_some_and(|given| given.value),
    };
    let settings = protocols::Settings {
        tcp_fallback,
        max_frame: frame.most,
        queue_hard: frame.queue_hard,
        opaque_service: from.opaque_service,
        mqtt: mqtt_bounds(from.mqtt, from.protocol.as_ref(), frame.most)?,
        http: http_bounds(from.http, from.protocol.as_ref())?,
        rocketmq,
    };
    let protocols = match &from.protocol {
        None => protocols::named("auto", &settings).unwrap_or_default(),
        Some(name) => protocols::named(&name.value, &settings).ok_or_else(|| {
            let all = protocols::names().join(", ");
            let message = format!(
                "no protocol is called `{}`; write auto or one of: {all}",
                name.value
            );
            Wrong::at(name.place, message)
        })?,
    };
    let tls = match from.tls {
        None => None,
        Some(tls) => Some(server_files(tls, &protocols, folder)?),
    };
    let proxies = proxies::proxies(from.trusted_proxies, from.proxy_protocol, &protocols)?;
    let spec = ListenerSpec {
        pinned: None,
        stats: Arc::default(),
        proxies,
        name: from.name.unwrap_or_else(|| address.to_string()).into(),
        address,
        protocols,
        routes: from.routes.value.as_str().into(),
        tls: None,
        reveal_endpoints: from.reveal_endpoints,
        settings: format!("{settings:?} {:?}", tls.as_ref().map(|tls| &tls.value)).into(),
    };
    Ok((spec, tls))
}

pub(super) fn mqtt_bounds(
    from: Option<Placed<file::MqttListener>>,
    protocol: Option<&Placed<String>>,
    max_frame: Option<usize>,
) -> Result<finback_mqtt::Config> {
    let mut config = finback_mqtt::Config::default();
    set(&mut config.packet, max_frame);
    let Some(Placed { value, place }) = from else {
        return Ok(config);
    };
    expect_spoken(finback_mqtt::NAME, protocol, place)?;
    set_time(&mut config.connect_timeout, value.connect_timeout);
    set_time(&mut config.connack_timeout, value.connack_timeout);
    set_time(&mut config.auth_timeout, value.auth_timeout);
    set_time(&mut config.answer_timeout, value.answer_timeout);
    set(
        &mut config.subscriptions,
        value.subscriptions.map(NonZeroUsize::get),
    );
    config.origins = value
        .origins
        .into_iter()
        .map(origin)
        .collect::<Result<_>>()?;
    set(
        &mut config.connect_packet,
        value.connect_packet.map(|Size(own)| own),
    );
    set(
        &mut config.connecting,
        value.connecting.map(NonZeroUsize::get),
    );
    config.connect_rate = value.connect_rate.map(NonZeroU32::get);
    Ok(config)
}

/// An origin as browsers write it (RFC 6454, section 6.1): nothing else could ever match.
pub(super) fn origin(Placed { value, place }: Placed<String>) -> Result<String> {
    let host = value.split_once("://");
    let is_origin = host.is_some_and(|(scheme, host)| {
        let letters = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        !scheme.is_empty()
            && !host.is_empty()
            && letters(&value)
            && !host.contains(['/', '*', '?', '#'])
    });
    if is_origin {
        return Ok(value);
    }
    let message = format!("`{value}` is not an origin; write one such as https://app.acme.test");
    Err(Wrong::at(place, message))
}

pub(super) fn http_bounds(
    from: Option<Placed<file::HttpListener>>,
    protocol: Option<&Placed<String>>,
) -> Result<finback_http::Config> {
    let mut config = finback_http::Config::default();
    let Some(Placed { value, place }) = from else {
        return Ok(config);
    };
    expect_spoken(finback_http::NAME, protocol, place)?;
    for (own, head) in [
        (&mut config.head, value.header_size),
        (&mut config.response_head, value.response_header_size),
    ] {
        if let Some(Placed {
            value: Size(most),
            place,
        }) = head
        {
            if !(1..=finback_http::MOST_HEAD).contains(&most) {
                let message = "headers have up to 256KiB in all; write no more, and not 0";
                return Err(Wrong::at(place, message));
            }
            *own = most;
        }
    }
    set(&mut config.normalize_path, value.normalize_path);
    set(&mut config.proxy_100_continue, value.proxy_100_continue);
    set(&mut config.h2c_upgrade, value.h2c_upgrade);
    if let Some(Placed { value, place }) = value.header_count {
        let most = finback_http::MOST_HEADERS;
        if value.get() > most {
            let message = format!("{value} headers are too many; write {most} at most");
            return Err(Wrong::at(place, message));
        }
        config.headers = value.get();
    }
    set(&mut config.target, value.uri_size.map(|Size(own)| own));
    set_time(&mut config.head_timeout, value.header_timeout);
    let rate = value.body_rate.map(|Size(own)| own as u64);
    set(&mut config.body_rate, rate);
    set(&mut config.streams, value.streams.map(NonZeroU32::get));
    set(&mut config.requests, value.requests);
    config.idle = value.idle.map(|Time(own)| own).or(config.idle);
    Ok(config)
}

/// Refuses bounds of a protocol that the listener does not speak.
pub(super) fn expect_spoken(
    name: &str,
    protocol: Option<&Placed<String>>,
    place: (u64, u64),
) -> Result<()> {
    if protocol.is_some_and(|own| own.value != name && own.value != "auto") {
        let message = format!("`{name}` is for listeners that speak it; take it away");
        return Err(Wrong::at(place, message));
    }
    Ok(())
}

pub(super) fn server_files(
    Placed { value, place }: Placed<file::ListenerTls>,
    protocols: &[Arc<dyn Protocol>],
    folder: &Folder<'_>,
) -> Result<Placed<ServerFiles>> {
    if value.certificates.is_empty() {
        return Err(Wrong::at(place, "TLS needs a certificate; write one"));
    }
    if value.client_optional && value.client_ca.is_none() {
        let message = "`client_optional` needs a `client_ca` to check the others by";
        return Err(Wrong::at(place, message));
    }
    if value.close_expired && value.client_ca.is_none() {
        let message = "`close_expired` needs a `client_ca` whose certificates may end; write one";
        return Err(Wrong::at(place, message));
    }
    let revoked = revoked(value.crl, value.client_ca.as_ref(), "client_ca", folder)?;
    let pairs = value.certificates.into_iter();
    // HTTP/2 is preferred where both are spoken, whoever else begins as HTTP/1.1.
    let mut application: Vec<_> = protocols
        .iter()
        .flat_map(|own| own.application_protocols().iter().map(|name| name.to_vec()))
        .collect();
    application.sort_by_key(|name| name == b"http/1.1");
    application.dedup();
    let value = ServerFiles {
        pairs: pairs
            .map(|pair| PairFiles {
                chain: folder.join(pair.certificate),
                key: folder.join(pair.key),
                ocsp: pair.ocsp.map(|ocsp| folder.join(ocsp)),
            })
            .collect(),
        client_authorities: value.client_ca.map(|ca| folder.join(ca)),
        revoked,
        client_optional: value.client_optional,
        close_expired: value.close_expired,
        plain: value.plain,
        application,
    };
    Ok(Placed { value, place })
}

/// Files of revocation lists, which say nothing without the authorities that are trusted.
pub(super) fn revoked(
    lists: Vec<Placed<String>>,
    authorities: Option<&String>,
    key: &str,
    folder: &Folder<'_>,
) -> Result<Vec<PathBuf>> {
    match lists.first() {
        Some(first) if authorities.is_none() => {
            let message = format!("`crl` needs a `{key}` whose certificates it revokes; write one");
            Err(Wrong::at(first.place, message))
        }
        _ => Ok(lists.iter().map(|list| folder.join(&list.value)).collect()),
    }
}

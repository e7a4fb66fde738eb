//! Registries: servers and how to get in, or lists.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU16;
use std::time::Duration;

use finback_registry::{
    Bridge, DnsConfig, Eager, EtcdConfig, HttpConfig, LayoutKind, ListedService, Registration,
    RegistryConfig, Roots, ServersConfig, StoreConfig, TlsConfig, ZooKeeperConfig,
};

use super::clusters::instances;
use super::{Names, Result, address, known, layout, named, set_time};
use crate::config::file::{self, Registry};
use crate::config::folder::Folder;
use crate::config::units::Placed;
use crate::config::{MeshRegistry, Wrong};

/// Sessions shorter or longer than this are slips of the keyboard.
const SESSION: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// The port of host names that state none.
const HTTP: u16 = 80;
/// How often a host name is asked for again.
const REFRESH: Duration = Duration::from_secs(5);
/// How often a list is asked for again.
const LIST_REFRESH: Duration = Duration::from_secs(30);

pub(super) fn registry_spec(
    registry: Placed<Registry>,
    folder: &Folder<'_>,
) -> Result<RegistryConfig> {
    let Placed { value, place } = registry;
    let kinds = [
        value.zookeeper.is_some(),
        value.etcd.is_some(),
        value.file.is_some(),
        value.memory.is_some(),
        value.dns.is_some(),
        value.http.is_some(),
    ];
    if kinds.iter().filter(|kind| **kind).count() != 1 {
        let message =
            "write exactly one of `zookeeper`, `etcd`, `file`, `memory`, `dns` and `http`";
        return Err(Wrong::at(place, message));
    }
    if value.zookeeper.is_some() || value.etcd.is_some() {
        return servers(value, place, folder);
    }
    let bare = value.user.is_none()
        && value.tls.is_none()
        && value.session.is_none()
        && value.empty_protection.is_none()
        && value.eager.is_empty();
    if !bare {
        let message = "this kind of registry needs nothing but itself; take the other keys away";
        return Err(Wrong::at(place, message));
    }
    if let Some(dns) = value.dns {
        let mut config = DnsConfig {
            port: dns.port.map_or(HTTP, NonZeroU16::get),
            refresh: REFRESH,
        };
        set_time(&mut config.refresh, dns.refresh);
        return Ok(RegistryConfig::Dns(config));
    }
    if let Some(http) = value.http {
        return list(http);
    }
    match (value.file, value.memory) {
        (Some(path), _) => Ok(RegistryConfig::File(folder.join(path))),
        (None, services) => memory(services.unwrap_or_default()),
    }
}

fn list(from: file::HttpList) -> Result<RegistryConfig> {
    let Placed { value, place } = from.url;
    let url = value.parse::<http::Uri>().ok();
    let url = url.filter(|url| url.scheme_str() == Some("http") && url.host().is_some());
    let Some(url) = url else {
        let message = format!(
            "`{value}` is not the URL of a list; write one such as http://10.0.0.9:8080/rocketmq/nsaddr"
        );
        return Err(Wrong::at(place, message));
    };
    let mut config = HttpConfig {
        url,
        refresh: LIST_REFRESH,
    };
    set_time(&mut config.refresh, from.refresh);
    Ok(RegistryConfig::Http(config))
}

fn servers(from: Registry, place: (u64, u64), folder: &Folder<'_>) -> Result<RegistryConfig> {
    let login = login(&from, folder)?;
    let tls = from.tls.map(|tls| tls_config(tls, folder)).transpose()?;
    let store = match (from.zookeeper, from.etcd) {
        (Some(servers), _) => {
            let mut config = zookeeper(servers)?;
            set_time(&mut config.session, from.session);
            if config.session < SESSION.0 || config.session > SESSION.1 {
                let message = "a session lasts 1s to 10m; 20s suits most";
                return Err(Wrong::at(place, message));
            }
            config.tls = tls;
            let how = from
                .authentication
                .as_ref()
                .map(|how| (&*how.value, how.place));
            match (login, how) {
                (None, None) => {}
                (None, Some((_, place))) => {
                    let message = "to log in there must be a `user` too";
                    return Err(Wrong::at(place, message));
                }
                (Some((user, password)), None | Some(("digest", _))) => {
                    config.digest = Some(format!("{user}:{password}"));
                }
                (Some(login), Some(("sasl", _))) => config.sasl = Some(login),
                (Some(_), Some((other, place))) => {
                    let message = format!("cannot log in by `{other}`; write digest or sasl");
                    return Err(Wrong::at(place, message));
                }
            }
            StoreConfig::ZooKeeper(config)
        }
        (None, servers) => {
            if let Some(how) = from.authentication {
                let message = "etcd knows only user and password; take the key away";
                return Err(Wrong::at(how.place, message));
            }
            if from.session.is_some() {
                let message = "etcd has no sessions; take the key `session` away";
                return Err(Wrong::at(place, message));
            }
            StoreConfig::Etcd(EtcdConfig {
                servers: servers.map(etcd).transpose()?.unwrap_or_default(),
                user: login,
                tls,
            })
        }
    };
    let mut config = ServersConfig::new(store);
    set_time(&mut config.empty_protection, from.empty_protection);
    config.roots = base_paths(from.base_paths)?;
    config.eager = from
        .eager
        .into_iter()
        .map(|eager| {
            Ok(Eager {
                layout: layout(&eager.layout)?,
                services: eager.services,
            })
        })
        .collect::<Result<_>>()?;
    Ok(RegistryConfig::Servers(Box::new(config)))
}

/// User and password, if there is a user.
fn login(from: &Registry, folder: &Folder<'_>) -> Result<Option<(String, String)>> {
    let Some(user) = &from.user else {
        return match &from.password_file {
            Some(file) => Err(Wrong::at(file.place, "a password needs a `user` too")),
            None => Ok(None),
        };
    };
    let password = match (&from.password, &from.password_file) {
        (Some(password), None) => password.clone(),
        (None, Some(file)) => folder.secret(file)?,
        _ => {
            let message = "a user needs exactly one of `password` and `password_file`";
            return Err(Wrong::at(user.place, message));
        }
    };
    Ok(Some((user.value.clone(), password)))
}

fn tls_config(tls: file::Tls, folder: &Folder<'_>) -> Result<TlsConfig> {
    let identity = match (tls.certificate, tls.key) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            Some((folder.join(certificate.value), folder.join(key.value)))
        }
        (Some(lonely), None) | (None, Some(lonely)) => {
            let message = "a certificate and its `key` belong together; write both";
            return Err(Wrong::at(lonely.place, message));
        }
    };
    Ok(TlsConfig {
        authorities: tls.ca.map(|ca| folder.join(ca)),
        identity,
    })
}

fn zookeeper(servers: Placed<String>) -> Result<ZooKeeperConfig> {
    if let Some((scheme, rest)) = servers.value.split_once("://") {
        let message = format!("no `{scheme}://` is needed; write {rest}");
        return Err(Wrong::at(servers.place, message));
    }
    let hosts = servers.value.split('/').next().unwrap_or_default();
    for server in hosts.split(',') {
        let port = server.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            let message = format!("`{server}` is not a server; write host:port,host:port/chroot");
            return Err(Wrong::at(servers.place, message));
        }
    }
    Ok(ZooKeeperConfig::open(servers.value))
}

fn etcd(servers: Placed<file::Servers>) -> Result<Vec<String>> {
    let list = match servers.value {
        file::Servers::One(server) => server.split(',').map(str::to_owned).collect(),
        file::Servers::Many(servers) => servers,
    };
    for server in &list {
        let bare = ["http://", "https://"]
            .iter()
            .find_map(|scheme| server.strip_prefix(scheme))
            .unwrap_or(server);
        let port = bare.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            let message =
                format!("`{server}` is not a server; write host:port or https://host:port");
            return Err(Wrong::at(servers.place, message));
        }
    }
    if list.is_empty() {
        let message = "etcd without a server; write host:port";
        return Err(Wrong::at(servers.place, message));
    }
    Ok(list)
}

fn base_paths(from: file::BasePaths) -> Result<Roots> {
    let mut roots = Roots::default();
    for (to, from) in [
        (&mut roots.dubbo, from.dubbo),
        (&mut roots.services, from.services),
        (&mut roots.sofa, from.sofa),
        (&mut roots.native, from.native),
    ] {
        let Some(from) = from else { continue };
        if !from.value.starts_with('/') || from.value.ends_with('/') || from.value.contains("//") {
            let message = format!(
                "`{}` is not a path; write one such as /acme/dubbo",
                from.value
            );
            return Err(Wrong::at(from.place, message));
        }
        *to = from.value;
    }
    if let Some(grpc) = from.grpc {
        roots.grpc = grpc.value.trim_end_matches('/').to_owned();
    }
    Ok(roots)
}

fn memory(services: Vec<file::Service>) -> Result<RegistryConfig> {
    let mut seen = HashSet::new();
    let mut listed = Vec::new();
    for from in services {
        let place = from.service.place;
        let service = named(from.service)?;
        if !seen.insert((service.clone(), from.version.clone(), from.group.clone())) {
            let message = format!("service `{service}` is listed twice; list all endpoints once");
            return Err(Wrong::at(place, message));
        }
        listed.push(ListedService {
            service,
            version: from.version,
            group: from.group,
            instances: instances(from.endpoints)?,
        });
    }
    Ok(RegistryConfig::Memory(listed))
}

/// The name of a registry that can be written to.
fn writable(name: Placed<String>, names: &Names) -> Result<String> {
    known(&names.registries, "registry", &name)?;
    if names.lists.contains(&name.value) {
        let message = format!(
            "`{}` has no servers; only ZooKeeper and etcd can be written to",
            name.value
        );
        return Err(Wrong::at(name.place, message));
    }
    Ok(name.value)
}

fn target(name: &Placed<String>) -> Result<LayoutKind> {
    match layout(name)? {
        LayoutKind::DubboApp => {
            let message = "a bridge cannot write the application level; write dubbo";
            Err(Wrong::at(name.place, message))
        }
        layout => Ok(layout),
    }
}

/// What is to be registered; the services of one instance of a Dubbo application together.
pub(super) fn registrations(all: Vec<file::Register>, names: &Names) -> Result<Vec<Registration>> {
    let mut registrations: Vec<Registration> = Vec::new();
    for from in all {
        let place = from.address.place;
        let own = registration(from, names)?;
        let is_same = |other: &&mut Registration| {
            other.layout == LayoutKind::DubboApp
                && own.layout == LayoutKind::DubboApp
                && (&other.registry, &other.application) == (&own.registry, &own.application)
                && (&other.host, other.port) == (&own.host, own.port)
        };
        match registrations.iter_mut().find(is_same) {
            Some(instance) if instance.check != own.check => {
                let message = "the services of one application and address need the same `check`";
                return Err(Wrong::at(place, message));
            }
            Some(instance) => instance.also.push(own),
            None => registrations.push(own),
        }
    }
    Ok(registrations)
}

fn registration(from: file::Register, names: &Names) -> Result<Registration> {
    let layout = layout(&from.layout)?;
    let at = address(&from.address.value, from.address.place)?;
    let is_dubbo = layout.framework() == LayoutKind::Dubbo;
    if is_dubbo && at.ip().is_loopback() {
        let message = "Dubbo's consumers never connect to loopback; write this host's address";
        return Err(Wrong::at(from.address.place, message));
    }
    if layout == LayoutKind::DubboApp {
        let message = "an application needs its name; write `application`";
        let name = from.application.as_deref();
        let name = name.ok_or_else(|| Wrong::at(from.layout.place, message))?;
        if !LayoutKind::DubboApp.is_name(name) || name.contains(',') {
            let message = format!("`{name}` is not a name that an application can have");
            return Err(Wrong::at(from.layout.place, message));
        }
    }
    if let Some((name, value)) = from.parameters.first_key_value()
        && !layout.has_parameters()
    {
        let message = format!(
            "`{name}`: the layout {} knows no parameters; write `labels`",
            layout.name()
        );
        return Err(Wrong::at(value.place, message));
    }
    Ok(Registration {
        registry: writable(from.registry, names)?,
        layout,
        service: named(from.service)?,
        version: from.version,
        group: from.group,
        protocol: from
            .protocol
            .unwrap_or_else(|| layout.usual_protocol().to_owned()),
        host: at.ip().to_string(),
        port: at.port(),
        weight: from.weight.unwrap_or(100),
        application: from.application.unwrap_or_else(|| "finback".to_owned()),
        labels: texts(layout, from.labels)?,
        parameters: texts(layout, from.parameters)?,
        check: from
            .check
            .map(|check| address(&check.value, check.place))
            .transpose()?,
        also: Vec::new(),
    })
}

/// Labels or parameters that a registration can have.
fn texts(
    layout: LayoutKind,
    from: BTreeMap<String, Placed<String>>,
) -> Result<BTreeMap<String, String>> {
    from.into_iter()
        .map(|(name, value)| match layout.refuses(&name, &value.value) {
            Some(why) => Err(Wrong::at(value.place, why)),
            None => Ok((name, value.value)),
        })
        .collect()
}

pub(super) fn bridge(from: file::Bridge, names: &Names) -> Result<Bridge> {
    let place = from.to.place;
    let source = (
        writable(from.from.value.registry, names)?,
        layout(&from.from.value.layout)?,
    );
    let to = (
        writable(from.to.value.registry, names)?,
        target(&from.to.value.layout)?,
    );
    if source == to {
        let message = "a bridge from a place to itself; write another registry or layout";
        return Err(Wrong::at(place, message));
    }
    if from.services.value.is_empty() {
        let message = "a bridge for no service; write names, such as com.acme.*";
        return Err(Wrong::at(from.services.place, message));
    }
    Ok(Bridge {
        from: source,
        to,
        services: from.services.value,
        address: from
            .address
            .map(|own| address(&own.value, own.place))
            .transpose()?,
        protocol: from.protocol,
    })
}

pub(super) fn mesh_registry(from: file::MeshRegistry, names: &Names) -> Result<MeshRegistry> {
    let or = |given: Option<Placed<String>>, default: &str| match given {
        Some(given) => address(&given.value, given.place),
        None => address(default, (0, 0)),
    };
    Ok(MeshRegistry {
        registry: writable(from.registry, names)?,
        application: or(from.application, "127.0.0.1:12200")?,
        advertise: address(&from.advertise.value, from.advertise.place)?,
        outbound: or(from.outbound, "127.0.0.1:12220")?,
        address: address(&from.address.value, from.address.place)?,
    })
}

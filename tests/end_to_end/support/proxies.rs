//! nginx and HAProxy, in front of the proxy under test or behind it.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::process::Process;
use super::{eventually, free_port, temporary_folder};

const PATIENCE: Duration = Duration::from_secs(20);

/// A running nginx or HAProxy; dropping it kills it.
pub(crate) struct Proxy {
    process: Process,
    pub(crate) address: String,
}

impl Proxy {
    /// nginx with this in `server`, in which PORT is a free port, and this in `http`.
    pub(crate) fn nginx(http: &str, server: &str) -> Self {
        let (folder, port) = (temporary_folder(), free_port());
        let f = folder.display();
        let server = server.replace("PORT", &format!("127.0.0.1:{port}"));
        let text = format!(
            "worker_processes 1; daemon off; pid {f}/pid; error_log stderr error;\n\
             events {{ worker_connections 2000; }}\n\
             http {{ access_log off; client_body_temp_path {f}; proxy_temp_path {f};\n\
             fastcgi_temp_path {f}; uwsgi_temp_path {f}; scgi_temp_path {f};\n{http}\n\
             server {{ {server} }} }}\n"
        );
        let path = folder.join("nginx.conf");
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(&folder).arg("-c").arg(path);
        Self::begin("nginx", "nginx-light", command, port)
    }

    /// HAProxy with these sections, in which PORT is the address to bind.
    pub(crate) fn haproxy(sections: &str) -> Self {
        let (folder, port) = (temporary_folder(), free_port());
        let sections = sections.replace("PORT", &format!("127.0.0.1:{port}"));
        let text = format!(
            "global\n log stdout format raw local0\ndefaults\n mode http\n timeout client 30s\n \
             timeout connect 5s\n timeout server 30s\n timeout tunnel 30s\n{sections}\n"
        );
        let path = folder.join("haproxy.cfg");
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(path);
        Self::begin("haproxy", "haproxy", command, port)
    }

    fn begin(name: &str, package: &str, mut command: Command, port: u16) -> Self {
        let program = format!("/usr/sbin/{name}");
        assert!(
            Path::new(&program).exists(),
            "{program} is missing: run `make peers`, or `apt-get install {package}`"
        );
        let process = Process::start(name, &mut command);
        let address = format!("127.0.0.1:{port}");
        eventually(name, PATIENCE, || {
            TcpStream::connect(&address).map_err(|error| error.to_string())
        });
        Self { process, address }
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }
}

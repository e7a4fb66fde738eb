//! nginx as an endpoint under TLS.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::authority::Authority;
use super::process::Process;
use super::{eventually, free_port, temporary_folder};

const PATIENCE: Duration = Duration::from_secs(10);

/// A running nginx that answers `fine`; dropping it ends it.
pub(crate) struct Nginx {
    pub(crate) port: u16,
    folder: PathBuf,
    process: Option<Process>,
}

impl Nginx {
    /// With a certificate of an authority, and more words of its `server`.
    pub(crate) fn start(authority: &Authority, name: &str, more: &str) -> Self {
        let (port, folder) = (free_port(), temporary_folder());
        let (f, a) = (folder.display(), authority.folder.display());
        let settings = format!(
            "daemon off;\nworker_processes 1;\npid {f}/pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\n access_log off;\n client_body_temp_path {f};\n proxy_temp_path {f};\n \
             fastcgi_temp_path {f};\n uwsgi_temp_path {f};\n scgi_temp_path {f};\n server {{\n  \
             listen 127.0.0.1:{port} ssl;\n  ssl_certificate {a}/{name}.pem;\n  \
             ssl_certificate_key {a}/{name}.key;\n  {more}\n  location / {{ return 200 fine; }}\n }}\n}}\n"
        );
        std::fs::write(folder.join("nginx.conf"), settings).unwrap();
        let mut own = Self {
            port,
            folder,
            process: None,
        };
        own.restart();
        own
    }

    /// Ends it, and begins it anew.
    pub(crate) fn restart(&mut self) {
        drop(self.process.take());
        eventually("the port to be free", PATIENCE, || {
            let bound = std::net::TcpListener::bind(("127.0.0.1", self.port));
            bound.map(drop).map_err(|error| error.to_string())
        });
        let settings = self.folder.join("nginx.conf");
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(&self.folder).arg("-c").arg(settings);
        self.process = Some(Process::start("nginx", &mut command));
        eventually("nginx", PATIENCE, || {
            let made = std::net::TcpStream::connect(("127.0.0.1", self.port));
            made.map(drop).map_err(|error| error.to_string())
        });
    }
}

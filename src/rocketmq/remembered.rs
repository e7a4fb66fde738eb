//! Addresses of brokers, on disk: clients go on with the ports that they were told before a restart.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Name;

/// A broker as a file remembers it.
#[derive(Serialize, Deserialize)]
pub(super) struct Remembered {
    #[serde(flatten)]
    pub(super) name: Name,
    pub(super) slot: u16,
}

/// Where a listener's brokers are remembered.
pub(super) fn file(folder: &Path, listener: &str) -> PathBuf {
    // Two names never become one.
    let plain = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || byte == b'-' => char::from(byte).to_string(),
        byte => format!("%{byte:02x}"),
    };
    let name: String = listener.bytes().map(plain).collect();
    folder.join(format!("rocketmq-{name}.json"))
}

/// Those that were remembered; none if that cannot be read.
pub(super) fn read(file: &Path) -> Vec<Remembered> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "cannot read where brokers of RocketMQ were");
            return Vec::new();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "cannot read where brokers of RocketMQ were");
        Vec::new()
    })
}

/// Replaces a file in one step.
pub(super) fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let draft = file.with_extension("json.new");
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, file)
}

//! The addresses in use as a JSON file, for whoever asked for port 0.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

/// Writes `{"c2s": "127.0.0.1:40001", …}`: of each listener the first address. The file appears whole
/// or not at all.
///
/// # Errors
/// If the file cannot be written.
pub(crate) fn write(path: &Path, addresses: &[(&'static str, SocketAddr)]) -> io::Result<()> {
    let mut ports = serde_json::Map::new();
    for (key, address) in addresses {
        ports
            .entry(name(key))
            .or_insert_with(|| address.to_string().into());
    }
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(serde_json::Value::Object(ports).to_string().as_bytes())?;
    drop(file);
    std::fs::rename(temporary, path)
}

/// The address of one listener, as [`write()`] wrote it.
pub(crate) fn read(path: &Path, listener: &str) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(path).ok()?;
    let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
    ports.get(listener)?.as_str()?.parse().ok()
}

/// `c2s.direct_tls_listen` is `c2s_direct_tls` in the file.
fn name(key: &str) -> String {
    key.trim_end_matches("listen")
        .trim_end_matches(['.', '_'])
        .replace('.', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listener_is_named_by_its_first_address() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ports.json");
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = [
            ("c2s.listen", address(1)),
            ("c2s.listen", address(2)),
            ("c2s.direct_tls_listen", address(3)),
            ("http.listen", address(4)),
            ("http.tls_listen", address(5)),
            ("admin.listen", address(6)),
        ];
        write(&path, &addresses).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "c2s": "127.0.0.1:1", "c2s_direct_tls": "127.0.0.1:3", "http": "127.0.0.1:4",
            "http_tls": "127.0.0.1:5", "admin": "127.0.0.1:6",
        });
        assert_eq!(json, expected);
        assert_eq!(read(&path, "admin"), Some(address(6)));
        assert_eq!(read(&path, "s2s"), None);
    }
}

//! Clients written with slixmpp, as programs that exit with 0 if their story went well.

use std::path::Path;

use crate::server::{TestServer, run};

/// Ann at one node and Ben at another, or both at the same; `direct_tls` instead of STARTTLS.
pub async fn two_users(ann: &TestServer, ben: &TestServer, direct_tls: bool) {
    ann.add_user("ann").await;
    ben.add_user("ben").await;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = here.join(".venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing; tests/run makes it",
        python.display()
    );
    let mut command = std::process::Command::new(python);
    command.arg(here.join("slixmpp/two_users.py"));
    let listener = if direct_tls { "c2s_direct_tls" } else { "c2s" };
    for (who, server) in [("ann", ann), ("ben", ben)] {
        command
            .arg(format!("--{who}"))
            .arg(server.address(listener).to_string());
        // The library checks the certificate, so it gets the node's own.
        command
            .arg(format!("--{who}-ca"))
            .arg(server.data_dir().join("self-signed.pem"));
    }
    if direct_tls {
        command.arg("--direct-tls");
    }
    let output = run(command, "").await;
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

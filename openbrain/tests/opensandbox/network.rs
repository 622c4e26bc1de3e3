//! Network policies, in force.

use openbrain::Status;
use tokio::net::TcpListener;

use crate::{
    docker,
    lab::{Lab, python, run},
    server::STARTS,
};

/// A listener at the machine's address on the engine's network.
async fn listener() -> TcpListener {
    let network = docker::ask("GET", "/networks/bridge").await;
    let gateway = network["IPAM"]["Config"][0]["Gateway"].as_str().unwrap().to_owned();
    TcpListener::bind((gateway, 0)).await.unwrap()
}

const CONNECT: &str = r#"
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()
except OSError as error:
    sys.exit(f"refused: {error}")
"#;

#[test]
fn a_run_without_network_cannot_connect() {
    run("policy", async |lab: &Lab| {
        let listener = listener().await;
        let address = listener.local_addr().unwrap();
        let mut exec = python(CONNECT);
        if let openbrain::Command::Argv(arguments) = &mut exec.command {
            arguments.extend([address.ip().to_string(), address.port().to_string()]);
        }
        let _no_starts = STARTS.read().await;
        let engine = lab.engine();
        let denied = engine.run(exec.clone().allow_network(false)).await.unwrap();
        assert_eq!(denied.status, Status::Exited(1));
        assert!(denied.stderr_text().starts_with("refused"), "{denied:?}");
        assert_eq!(denied.isolation.network, "none");
        // The same without the policy: it is the policy that refuses.
        let (allowed, accepted) = tokio::join!(engine.run(exec), listener.accept());
        assert_eq!(allowed.unwrap().status, Status::Exited(0));
        accepted.unwrap();
    });
}

//! Servers of a test's own, which it can kill and configure.

use std::{fs, net::TcpListener, process::Stdio, time::Duration};

use openbrain::opensandbox::Client;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    sync::RwLock,
    time::sleep,
};

use crate::lab::{connection, variable};

/// A starting server removes every egress sidecar whose sandbox does not exist yet. So no server
/// starts while a test makes a sandbox with a policy.
pub(crate) static STARTS: RwLock<()> = RwLock::const_new(());

/// See the module.
#[derive(Debug)]
pub(crate) struct Server {
    home: TempDir,
    port: u16,
    docker_host: Option<String>,
    process: Option<Child>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(None, |config| config).await
    }

    /// A server on an engine at `docker_host`, whose configuration is changed by `edit`.
    pub(crate) async fn with(
        docker_host: Option<String>,
        edit: impl FnOnce(String) -> String,
    ) -> Self {
        let home = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let template = fs::read_to_string(variable("CONFIG")).unwrap();
        let config = template
            .replace("@PORT@", &port.to_string())
            .replace("@STATE@", home.path().to_str().unwrap());
        fs::write(home.path().join("server.toml"), edit(config)).unwrap();
        let mut server = Self { home, port, docker_host, process: None };
        server.restart().await;
        server
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills it, as a crash does.
    pub(crate) async fn kill(&mut self) {
        self.process.take().unwrap().kill().await.unwrap();
    }

    /// Starts it again, at the same address.
    pub(crate) async fn restart(&mut self) {
        let _starts = STARTS.write().await;
        let log = fs::File::create(self.home.path().join("log")).unwrap();
        let mut command = Command::new(variable("SERVER"));
        command.arg("--config").arg(self.home.path().join("server.toml"));
        command
            .env("HOME", self.home.path())
            .envs(self.docker_host.as_ref().map(|host| ("DOCKER_HOST", host)));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = command.kill_on_drop(true).spawn().unwrap();
        let client = Client::new(connection(&format!("http://{}", self.address()))).unwrap();
        while client.health().await.is_err() {
            let log = || fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
            assert!(process.try_wait().unwrap().is_none(), "the server ended: {}", log());
            sleep(Duration::from_millis(50)).await;
        }
        self.process = Some(process);
    }
}

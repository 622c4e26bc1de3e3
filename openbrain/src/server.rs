//! What openbrain has on the server of the settings.

use crate::{
    backend::opensandbox::{self, ServerSandbox},
    engine::Engine,
    error::{Error, Result},
    spec::ServerSpec,
};

impl Engine {
    /// The sandboxes that openbrain has on the OpenSandbox server of the settings, of whatever
    /// process and machine. A command that runs there has one; what was left behind by a process
    /// that was killed is there until the server deletes it.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// for sandbox in openbrain::Engine::load()?.sandboxes().await? {
    ///     println!("{} {} {:?}", sandbox.id, sandbox.state.as_str(), sandbox.host);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `invalid_settings` when they name no server, and whatever keeps the server from answering.
    pub async fn sandboxes(&self) -> Result<Vec<ServerSandbox>> {
        opensandbox::list(&self.server()?).await
    }

    /// Deletes a sandbox of openbrain on the OpenSandbox server of the settings, and says whether it
    /// was there. A command that runs in it ends with `sandbox_lost`.
    ///
    /// # Errors
    ///
    /// As [`Engine::sandboxes`]; `policy_denied` for one that openbrain did not make.
    pub async fn kill_sandbox(&self, id: &str) -> Result<bool> {
        opensandbox::kill(&self.server()?, id).await
    }

    fn server(&self) -> Result<ServerSpec> {
        self.settings().security.sandbox.server()?.ok_or_else(|| {
            Error::settings("no OpenSandbox server is configured").with_remedy(
                "name it by `--server-url`, OPENBRAIN_SERVER_URL or `security.sandbox.server_url`; \
                 embedded sandboxes end with their commands",
            )
        })
    }
}

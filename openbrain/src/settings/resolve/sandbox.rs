//! From a request for a sandbox that stays open to a [`SessionSpec`].

use crate::{
    caller::Caller,
    error::{Error, Result},
    new_sandbox::NewSandbox,
    settings::Settings,
    spec::{Place, SessionSpec, Spec},
};

impl Settings {
    /// Fills in what the request for a sandbox leaves open and applies the policy, as
    /// [`Settings::resolve_for`] does for one command of this caller. Pure.
    ///
    /// # Errors
    ///
    /// As [`Settings::resolve_for`]; `invalid_request` also for an image without a server, and for names
    /// that cannot be kept.
    pub fn resolve_sandbox(&self, new: NewSandbox, caller: &Caller) -> Result<SessionSpec> {
        new.check_names()?;
        let spec = self.resolve_for(new.as_exec(), caller)?;
        let Spec { mut place, timeout, workdir, env, limits, warnings, .. } = spec;
        match (&mut place, new.image) {
            (_, None) => {}
            (Place::Opensandbox(_, server), Some(image)) => server.image = image,
            (Place::Embedded(_) | Place::Direct, Some(image)) => {
                return Err(Error::invalid(format!(
                    "the embedded engine has no images, and `{image}` was asked for"
                ))
                .with_remedy(
                    "leave the image out to see this machine's system directories, or set \
                     `security.sandbox.server_url` to an OpenSandbox server",
                ));
            }
        }
        let command_timeout = self.security.sandbox.timeout;
        let timeout = timeout.unwrap_or(command_timeout);
        let (name, labels) = (new.name, new.labels);
        Ok(SessionSpec {
            place,
            name,
            labels,
            timeout,
            command_timeout,
            workdir,
            env,
            limits,
            warnings,
        })
    }
}

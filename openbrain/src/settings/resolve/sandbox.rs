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
    /// that cannot be kept; `policy_denied` for an image that a remote caller chooses.
    pub fn resolve_sandbox(&self, new: NewSandbox, caller: &Caller) -> Result<SessionSpec> {
        new.check_names()?;
        let spec = self.resolve_for(new.as_exec(), caller)?;
        let Spec { mut place, timeout, workdir, env, limits, warnings, .. } = spec;
        match (&mut place, new.image) {
            (_, None) => {}
            (Place::Opensandbox(_, server), Some(image)) if image == server.image => {}
            (Place::Opensandbox(..), Some(image)) if caller.is_remote() => {
                return Err(Error::denied(format!(
                    "the settings do not let callers choose the image `{image}`"
                ))
                .with_remedy("leave it out; the key is `security.sandbox.image`"));
            }
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
        match (&mut place, new.rootfs) {
            (_, None) => {}
            (Place::Embedded(sandbox), Some(rootfs)) => {
                if caller.is_remote() {
                    self.check_path(&rootfs)?;
                }
                sandbox.rootfs = Some(rootfs);
            }
            (Place::Opensandbox(..) | Place::Direct, Some(_)) => {
                return Err(Error::invalid("an OpenSandbox server takes no `rootfs` of this host")
                    .with_remedy(
                        "name an image that the server can pull, or `runtime: embedded`",
                    ));
            }
        }
        let usual = self.security.sandbox.timeout;
        let command_timeout = match caller.is_remote() {
            true => usual.min(self.server.max_timeout),
            false => usual,
        };
        let timeout = timeout.unwrap_or(usual);
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

#[cfg(test)]
mod tests {
    use crate::{Caller, ErrorKind, NewSandbox, Place, Settings, Surface};

    #[test]
    fn an_image_is_for_a_server_and_its_own_user() {
        let local = Settings::default();
        let new = || NewSandbox::default().image("python:3.12");
        let error = local.resolve_sandbox(new(), &Caller::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        let mut served = Settings::default();
        served.security.sandbox.server_url = Some("http://localhost:1".into());
        let spec = served.resolve_sandbox(new(), &Caller::default()).unwrap();
        let Place::Opensandbox(_, server) = spec.place else { panic!() };
        assert_eq!(server.image, "python:3.12");
        let remote = Caller::new(Surface::Rest);
        let error = served.resolve_sandbox(new(), &remote).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PolicyDenied);
        served.security.sandbox.image = "python:3.12".into();
        served.resolve_sandbox(new(), &remote).unwrap();
    }

    #[test]
    fn a_rootfs_is_for_the_embedded_engine_and_below_what_callers_may_see() {
        let mut settings = Settings::default();
        settings.server.allowed_mounts = vec!["/srv/images".into()];
        let new = |path: &str| NewSandbox::default().rootfs(path);
        let (own, remote) = (Caller::default(), Caller::new(Surface::Rest));
        let spec = settings.resolve_sandbox(new("/anywhere"), &own).unwrap();
        let Place::Embedded(sandbox) = spec.place else { panic!() };
        assert_eq!(sandbox.rootfs.as_deref(), Some(std::path::Path::new("/anywhere")));
        settings.resolve_sandbox(new("/srv/images/a"), &remote).unwrap();
        for path in ["/anywhere", "/srv/images/../../etc", "images"] {
            assert!(settings.resolve_sandbox(new(path), &remote).is_err(), "{path}");
        }
        settings.security.sandbox.server_url = Some("http://localhost:1".into());
        let error = settings.resolve_sandbox(new("/srv/images/a"), &own).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.remedy().is_some());
    }

    #[test]
    fn names_are_what_every_place_can_keep() {
        let resolve = |new| Settings::default().resolve_sandbox(new, &Caller::default());
        resolve(NewSandbox::default().name("a-name_1.0").label("k", "v")).unwrap();
        for bad in ["", "-a", "a-", "a b", "a/b", "\u{e9}", &"a".repeat(64)] {
            for new in [NewSandbox::default().name(bad), NewSandbox::default().label("k", bad)] {
                assert_eq!(resolve(new).unwrap_err().kind(), ErrorKind::InvalidRequest, "{bad}");
            }
        }
    }

    #[test]
    fn a_request_reads_back_from_json() {
        let new = NewSandbox::default().name("n").timeout(std::time::Duration::from_secs(600));
        let json = serde_json::to_value(&new).unwrap();
        assert_eq!(json, serde_json::json!({"name": "n", "timeout": 600}));
        assert_eq!(serde_json::from_value::<NewSandbox>(json).unwrap(), new);
        assert!(serde_json::from_str::<NewSandbox>(r#"{"tiemout": 1}"#).is_err());
    }
}

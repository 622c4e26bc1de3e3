//! The request for a sandbox that stays open, as plain data.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    exec::{Command, Exec},
    sandbox::{Limits, Mount},
    units::serde_seconds,
};

/// How many labels a sandbox may have.
pub(crate) const MOST_LABELS: usize = 64;

/// Bytes of the longest name, label and value of a label.
pub(crate) const LONGEST_NAME: usize = 63;

/// A sandbox that stays open, and what everything in it is given.
///
/// Made by [`Sandbox::builder`](crate::Sandbox::builder). Everything that is left out is decided by
/// the [`Settings`](crate::Settings), once, when the sandbox is created: no command in it can have
/// more.
///
/// ```no_run
/// # async fn demo() -> openbrain::Result<()> {
/// use std::time::Duration;
/// use openbrain::{Exec, Sandbox};
///
/// let sandbox = Sandbox::builder()
///     .timeout(Duration::from_secs(600))
///     .mount("/path/to/workspace")
///     .create()
///     .await?;
/// sandbox.run(Exec::new("make")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NewSandbox {
    /// Image of the sandbox, on an OpenSandbox server; the embedded engine has none. Absent: that of
    /// the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Directory of this host with an unpacked image, whose system the sandbox has in place of that of
    /// this host; on an OpenSandbox server there is none. Nothing is ever written to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    /// A name for people: up to 63 letters, digits, `-`, `_` and `.`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Up to 64 labels, each part as a name is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Seconds until the sandbox ends with everything in it, or a text such as `10m`. Absent:
    /// `security.sandbox.timeout_seconds`.
    #[serde(with = "serde_seconds", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_seconds::Seconds>")]
    pub timeout: Option<Duration>,
    /// Environment variables of every command in it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory of commands that name none. Absent: `/workspace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
    /// Host directories to make visible.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Host paths to make visible, read-only, at the same place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<PathBuf>,
    /// Whether the sandbox may reach the network. Absent: as the settings say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_network: Option<bool>,
    /// As [`Exec::allowed_ports`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_ports: Option<Vec<u16>>,
    /// As [`Exec::allowed_domains`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_domains: Option<Vec<String>>,
    /// As [`Exec::allowed_hosts`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_hosts: Option<Vec<String>>,
    /// Resource limits of everything in it together that differ from those of the settings;
    /// `output` and `open_files` are limits of each command.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Limits,
}

impl NewSandbox {
    /// Takes this image instead of that of the settings.
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.image = Some(image.into());
        self
    }

    /// Takes the system of the sandbox from a directory of this host with an unpacked image, as
    /// `debootstrap` and `docker export` make them, in place of the system of this host.
    ///
    /// Its top directories are seen under a layer that is thrown away; nothing is ever written to it.
    /// What every sandbox has of its own lies above them: `/dev`, `/proc`, `/run`, `/tmp`, `/var/tmp`,
    /// `/home/sandbox` and `/workspace`, and of `/etc` the user, `hosts`, `hostname` and
    /// `resolv.conf`. The walls are the same.
    ///
    /// ```no_run
    /// # async fn demo() -> openbrain::Result<()> {
    /// use openbrain::{Exec, Sandbox};
    ///
    /// let sandbox = Sandbox::builder().rootfs("/srv/images/bookworm").create().await?;
    /// sandbox.run(Exec::new("cat /etc/os-release")).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "image_directory")]
    pub fn rootfs(mut self, directory: impl Into<PathBuf>) -> Self {
        self.rootfs = Some(directory.into());
        self
    }

    /// Names the sandbox.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds a label.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Ends the sandbox with everything in it after this time.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets an environment variable of every command.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets the working directory of commands that name none.
    pub fn workdir(mut self, path: impl Into<PathBuf>) -> Self {
        self.workdir = Some(path.into());
        self
    }

    /// Mounts a host directory at `/workspace`, read-write, as the working directory.
    #[doc(alias = "volume")]
    pub fn mount(self, source: impl Into<PathBuf>) -> Self {
        self.mount_at(Mount::workspace(source))
    }

    /// Mounts a host path as the [`Mount`] says.
    pub fn mount_at(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Makes a host path visible, read-only, at the same place.
    pub fn expose(mut self, path: impl Into<PathBuf>) -> Self {
        self.expose.push(path.into());
        self
    }

    /// Allows or forbids the network.
    pub fn allow_network(mut self, allow: bool) -> Self {
        self.allow_network = Some(allow);
        self
    }

    /// Allows the network for this name, as [`Exec::allow_domain`] does.
    pub fn allow_domain(mut self, name: impl Into<String>) -> Self {
        self.allowed_domains.get_or_insert_default().push(name.into());
        self
    }

    /// Allows a private service beside the public ones, as [`Exec::allow_host`] does.
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.allowed_hosts.get_or_insert_default().push(host.into());
        self
    }

    /// Sets resource limits; absent fields keep the values of the settings.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The sandbox as a request for one command, which the settings know how to judge: all but what
    /// only a sandbox that stays open has.
    pub(crate) fn as_exec(&self) -> Exec {
        let new = self.clone();
        Exec {
            sandbox: Some(true),
            timeout: new.timeout,
            workdir: new.workdir,
            env: new.env,
            mounts: new.mounts,
            expose: new.expose,
            allow_network: new.allow_network,
            allowed_ports: new.allowed_ports,
            allowed_domains: new.allowed_domains,
            allowed_hosts: new.allowed_hosts,
            limits: new.limits,
            ..Exec::of(Command::Argv(vec!["true".into()]))
        }
    }

    /// Refuses names that not every place to run can keep.
    pub(crate) fn check_names(&self) -> Result<()> {
        if self.labels.len() > MOST_LABELS {
            return Err(Error::invalid(format!("a sandbox has at most {MOST_LABELS} labels"))
                .with_remedy("leave some out"));
        }
        let pairs = self.labels.iter().flat_map(|(name, value)| [name, value]);
        for text in self.name.iter().chain(pairs) {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let ends = [text.chars().next(), text.chars().last()];
            let ends_well = ends.iter().all(|c| c.is_some_and(|c| c.is_ascii_alphanumeric()));
            if text.len() > LONGEST_NAME || !text.chars().all(plain) || !ends_well {
                return Err(Error::invalid(format!("`{text}` cannot be a name or label"))
                    .with_remedy(
                        "use up to 63 letters, digits, `-`, `_` and `.`, the first and the last a \
                         letter or digit",
                    ));
            }
        }
        Ok(())
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

//! Sandboxes that several processes of one user work in.
//!
//! The process that has created a sandbox [hosts](host) it: it owns it, and answers at a socket of its own.
//! Another one [joins](guest): it is handed the way in and starts commands itself, so that what they read
//! and write passes by nobody. What only the owner can tell or do goes through the socket.

mod guest;
mod host;
mod wire;

use std::{
    collections::BTreeMap,
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

pub(crate) use self::guest::{Enter, Entry};
pub use self::{guest::Joined, host::Shared};
use crate::{
    error::{Error, Result},
    output::BackendName,
    session::{Runner, Sandbox},
    spec::ServerSpec,
};

/// What is told of a sandbox that is shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSandbox {
    /// Its name, unique and unguessable.
    pub id: String,
    /// The name for people.
    pub name: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    pub backend: BackendName,
    /// When it was shared.
    #[serde(with = "crate::units::serde_time")]
    pub created_at: SystemTime,
    /// When it ends with everything in it.
    #[serde(with = "crate::units::serde_time")]
    pub expires_at: SystemTime,
    /// Whether its processes stand still.
    pub paused: bool,
    /// How many commands run in its background.
    pub commands: usize,
}

/// The directory in which sandboxes of this user have their sockets.
#[derive(Debug)]
struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

/// What the name of a socket ends in.
const SUFFIX: &str = ".sock";

impl Directory {
    /// Opens the directory, which is made where it is not there yet.
    fn open(path: &Path) -> Result<Self> {
        let cannot = |what: &str, error: std::io::Error| {
            Error::system(format!("cannot {what} `{}`", path.display()), error).with_remedy(
                "sandboxes are shared by sockets there; XDG_RUNTIME_DIR names another place",
            )
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| cannot("make the directory", e))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| cannot("open the directory", e.into()))?;
        let found = fs::File::from(fd.try_clone().map_err(|e| cannot("open the directory", e))?)
            .metadata()
            .map_err(|e| cannot("look at the directory", e))?;
        let own = rustix::process::geteuid().as_raw();
        if found.uid() != own || found.mode() & 0o077 != 0 {
            let path = path.display();
            return Err(Error::denied(format!(
                "the directory `{path}` is not yours alone: whoever can write to it could pose as \
                 your sandboxes"
            ))
            .with_remedy(format!("remove it, or take it back: `chmod 700 {path}`")));
        }
        // Who owns the way there could lead it elsewhere.
        let parent = path.parent().map_or(Ok(own), |path| Ok(fs::symlink_metadata(path)?.uid()));
        let owner = parent.map_err(|e| cannot("look at the way to the directory", e))?;
        if ![0, own].contains(&owner) {
            return Err(Error::denied(format!(
                "the way to the directory `{}` belongs to user {owner}",
                path.display()
            ))
            .with_remedy("name another place with XDG_RUNTIME_DIR"));
        }
        Ok(Self { fd, path: path.to_owned() })
    }

    fn again(&self) -> Result<Self> {
        let fd =
            self.fd.try_clone().map_err(|e| Error::system("cannot duplicate a directory", e))?;
        Ok(Self { fd, path: self.path.clone() })
    }

    /// The path of a socket, short enough for an address of any directory (`unix(7)`: 108 bytes).
    fn socket(&self, id: &str) -> PathBuf {
        format!("/proc/self/fd/{}/{id}{SUFFIX}", self.fd.as_raw_fd()).into()
    }

    fn remove(&self, id: &str) {
        let _ = rustix::fs::unlinkat(&self.fd, format!("{id}{SUFFIX}"), AtFlags::empty());
    }

    /// The ids of those that are here, or were.
    fn ids(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.path).map_err(|e| {
            Error::system(format!("cannot list the directory `{}`", self.path.display()), e)
                .with_remedy("it is yours alone, with mode 700; `chmod 700` takes it back")
        })?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let ids = names.filter_map(|name| name.strip_suffix(SUFFIX).map(str::to_owned));
        // One that nobody listens at yet has a name that is no id.
        let mut ids: Vec<_> = ids.filter(|id| is_id(id)).collect();
        ids.sort();
        Ok(ids)
    }
}

/// Makes a sandbox one that others can join.
pub(crate) fn share(sandbox: Sandbox, directory: &Path) -> Result<Shared> {
    Shared::new(sandbox, Directory::open(directory)?)
}

/// The sandboxes that are shared in a directory.
pub(crate) async fn list(directory: &Path) -> Result<Vec<SharedSandbox>> {
    let directory = Directory::open(directory)?;
    let mut found = Vec::new();
    for id in directory.ids()? {
        found.extend(guest::about(&directory, &id).await?);
    }
    found.sort_by_key(|sandbox: &SharedSandbox| sandbox.created_at);
    Ok(found)
}

/// Joins the sandbox with this id or name. `key` knows the key of its server, and `enter` every backend.
pub(crate) async fn join(
    name: &str,
    directory: &Path,
    key: impl FnOnce(&mut ServerSpec),
    enter: Enter,
    runner: Arc<dyn Runner>,
) -> Result<Joined> {
    let place = Directory::open(directory)?;
    if is_id(name) && place.ids()?.iter().any(|id| id == name) {
        return Joined::new(&place, name, key, enter, runner).await;
    }
    let all = list(directory).await?;
    let named: Vec<_> = all.iter().filter(|one| one.name.as_deref() == Some(name)).collect();
    match named[..] {
        [one] => Joined::new(&place, &one.id, key, enter, runner).await,
        [] => Err(guest::none(name)),
        _ => {
            let ids: Vec<_> = named.iter().map(|one| one.id.as_str()).collect();
            Err(Error::invalid(format!("several sandboxes are named `{name}`"))
                .with_remedy(format!("give the id: {}", ids.join(", "))))
        }
    }
}

/// Whether a text can be the id of a sandbox, and so a name in the directory.
fn is_id(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text.len() <= 100 && text.chars().all(plain)
}

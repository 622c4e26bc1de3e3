//! Host paths that a request makes visible: opened and checked before anything is built.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::host::{Host, Kind, SystemEntry};
use crate::{
    backend::contained,
    error::{Error, Result},
    sandbox::{Mount, MountMode},
    spec::SandboxSpec,
};

/// A host path, held open.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path without symbolic links, for processes that must open it again.
    pub(crate) path: PathBuf,
    /// Absolute path in the sandbox.
    pub(crate) target: PathBuf,
    pub(crate) mode: MountMode,
    pub(crate) kind: Kind,
    /// Device and inode: what is mounted must be what was checked.
    pub(crate) identity: FileId,
    /// Who owns it, on the host.
    pub(crate) owner: (u32, u32),
    pub(crate) fd: OwnedFd,
}

/// Device and inode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) inode: u64,
}

impl Source {
    /// Whether it is the same file in the same place, with the same owner.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let Self { path, target, mode, kind, identity, owner, fd: _ } = self;
        (path, target, mode, kind, identity, owner)
            == (&other.path, &other.target, &other.mode, &other.kind, &other.identity, &other.owner)
    }
}

/// How many paths one sandbox may be given; each takes a few of the helper's registers.
const MAX_SOURCES: usize = 48;

/// Opens everything that the request makes visible, parents before what is mounted inside them.
pub(crate) fn open(sandbox: &SandboxSpec) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for mount in &sandbox.mounts {
        sources.push(open_mount(mount, sandbox.within.as_deref())?);
    }
    for path in &sandbox.expose {
        let already = sources.iter().any(|s: &Source| s.target == *path);
        let is_there = sandbox.rootfs.is_none() && is_system(path);
        if !already && !is_there {
            sources.push(open_exposed(path, sandbox.within.as_deref())?);
        }
    }
    if sources.len() > MAX_SOURCES {
        return Err(Error::invalid(format!("more than {MAX_SOURCES} mounts and exposed paths"))
            .with_remedy("mount a common parent directory"));
    }
    sources.sort_by_key(|source| source.target.components().count());
    check_nesting(&sources)?;
    Ok(sources)
}

fn open_mount(mount: &Mount, within: Option<&[PathBuf]>) -> Result<Source> {
    let found = find(&mount.source, within, "mount")?;
    let source = found.becomes(&mount.target, mount.mode)?;
    if is_whole_or_own(&source.path) {
        return Err(Error::invalid(format!("`{}` cannot be mounted", mount.source.display()))
            .with_remedy("mount a directory of yours, not the system: its /proc is a way out"));
    }
    if source.kind == Kind::File && mount.target == Path::new(crate::sandbox::WORKSPACE) {
        let path = mount.source.display();
        return Err(Error::invalid(format!("mount source `{path}` is not a directory"))
            .with_remedy(format!("mount a directory, or name a place: {path}:/data/FILE:ro")));
    }
    if source.kind == Kind::File && mount.mode == MountMode::Overlay {
        return Err(Error::invalid(format!("`{}` is not a directory", mount.source.display()))
            .with_remedy("only directories can be mounted as overlay; use ro for a file"));
    }
    Ok(source)
}

/// Opens the directory that is to be the system of a sandbox.
pub(super) fn open_rootfs(path: &Path, within: Option<&[PathBuf]>) -> Result<Source> {
    let found = find(path, within, "rootfs")?;
    let source = found.becomes(Path::new("/"), MountMode::Overlay)?;
    if is_whole_or_own(&source.path) || source.kind != Kind::Directory {
        return Err(Error::invalid(format!("`{}` cannot be a rootfs", path.display()))
            .with_remedy("name a directory with an unpacked image"));
    }
    Ok(source)
}

fn open_exposed(path: &Path, within: Option<&[PathBuf]>) -> Result<Source> {
    let refused = || {
        Error::invalid(format!("`{}` cannot be exposed", path.display()))
            .with_remedy("expose the directories that the command needs, not the whole system")
    };
    if is_whole_or_own(path) {
        return Err(refused());
    }
    let source = find(path, within, "exposed path")?.becomes(path, MountMode::Ro)?;
    // A link or `..` may lead there as well.
    if is_whole_or_own(&source.path) { Err(refused()) } else { Ok(source) }
}

/// Whether a path is the whole system, or belongs to what every sandbox has of its own.
fn is_whole_or_own(path: &Path) -> bool {
    let top = path.components().nth(1);
    top.is_none_or(|top| ["proc", "dev", "sys"].iter().any(|own| top.as_os_str() == *own))
}

/// A host path that was found.
struct Found {
    /// Path without symbolic links.
    path: PathBuf,
    fd: OwnedFd,
}

/// Opens a path that the request names; `within` is where it must stay.
fn find(path: &Path, within: Option<&[PathBuf]>, what: &str) -> Result<Found> {
    let failed = |e: io::Error| {
        let remedy = match e.kind() {
            io::ErrorKind::NotFound => "create it first: nothing is created on the host",
            _ => "check that you may enter it",
        };
        Error::invalid(format!("{what} `{}` cannot be used", path.display()))
            .with_source(e)
            .with_remedy(remedy)
    };
    if let Some(roots) = within {
        let fd = contained::open(path, roots, failed)?;
        // What was opened has a path of its own, which is for those who must open it again; they
        // compare what they find with what this is.
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        return Ok(Found { path: fs::read_link(link).map_err(failed)?, fd });
    }
    let real = fs::canonicalize(path).map_err(failed)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&real, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    Ok(Found { path: real, fd })
}

impl Found {
    /// What the sandbox has of it.
    fn becomes(self, target: &Path, mode: MountMode) -> Result<Source> {
        let Self { path, fd } = self;
        let file = fs::File::from(fd);
        let meta = file
            .metadata()
            .map_err(|e| Error::system(format!("cannot look at `{}`", path.display()), e))?;
        let kind = if meta.is_dir() { Kind::Directory } else { Kind::File };
        Ok(Source {
            path,
            target: target.into(),
            mode,
            kind,
            identity: FileId {
                major: rustix::fs::major(meta.dev()),
                minor: rustix::fs::minor(meta.dev()),
                inode: meta.ino(),
            },
            owner: (meta.uid(), meta.gid()),
            fd: file.into(),
        })
    }
}

/// Whether a path is visible anyhow.
fn is_system(path: &Path) -> bool {
    Host::get().system.iter().any(|entry| match entry {
        SystemEntry::Directory(directory) => path.starts_with(directory),
        SystemEntry::Link(..) => false,
    })
}

/// A mount inside another one needs its mount point there already: making it would write to the
/// host.
fn check_nesting(sources: &[Source]) -> Result<()> {
    for (at, inner) in sources.iter().enumerate() {
        let outer =
            sources[..at].iter().rev().find(|outer| inner.target.starts_with(&outer.target));
        let Some(outer) = outer else { continue };
        let rest = inner.target.strip_prefix(&outer.target).unwrap_or(&inner.target);
        let point = outer.path.join(rest);
        let (inner, outer) = (inner.target.display(), outer.path.display());
        let Ok(real) = fs::canonicalize(&point) else {
            return Err(Error::invalid(format!("mount point `{inner}` does not exist"))
                .with_remedy(format!("create `{}` in `{outer}` first", rest.display())));
        };
        // In the sandbox the link would lead elsewhere than here, and the mount with it.
        if real != point {
            return Err(Error::invalid(format!("mount point `{inner}` is behind a symbolic link"))
                .with_remedy(format!("make `{}` in `{outer}` a directory", rest.display())));
        }
    }
    Ok(())
}

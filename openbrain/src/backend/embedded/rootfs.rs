//! A directory of the host as the system of a sandbox: an unpacked image, in place of the host's own
//! system directories.
//!
//! What is in it is somebody else's: nothing here follows a link in it. Each of its top directories
//! becomes the lower layer of an overlay, and whatever the sandbox has of its own below them is put
//! into the upper layer before there is an overlay, where no link can be in the way.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};

use super::{
    etc,
    host::{Kind, SystemEntry},
    mounts::{Tree, attach, make_directory, place_file, relative, symlink, write_file},
    root::{OWN, SCRATCH, overlay_at},
    sources::{self, Source},
};
use crate::{
    backend::helper::Register,
    beneath,
    changes::Given,
    error::{Error, Result},
    spec::SandboxSpec,
};

/// Top directories that every sandbox has of its own.
const OWN_TOPS: [&str; 6] = ["dev", "proc", "run", "sys", "tmp", "workspace"];

/// Where the upper layers are, below the scratch file system.
const LAYERS: &str = "rootfs-layers";

/// How many top directories there may be; each is a file system of its own.
const MOST_TOPS: usize = 64;

/// The longest list of users or groups that is taken over.
const MOST_USERS: u64 = 256 * 1024;

/// An unpacked image, looked at and held open.
#[derive(Debug)]
pub(crate) struct Rootfs {
    pub(crate) source: Source,
    /// Its directories and links at the top; paths are absolute.
    entries: Vec<SystemEntry>,
    /// Its lists of users and groups.
    passwd: String,
    group: String,
}

/// Opens the image that the request names, if any.
pub(crate) fn open(sandbox: &SandboxSpec) -> Result<Option<Rootfs>> {
    let Some(path) = &sandbox.rootfs else { return Ok(None) };
    let source = sources::open_rootfs(path, sandbox.within.as_deref())?;
    let cannot = |error: io::Error| {
        Error::invalid(format!("rootfs `{}` cannot be used", path.display()))
            .with_source(error)
            .with_remedy("name a directory with an unpacked image: `bin`, `etc`, `lib`, `usr`, …")
    };
    let entries = tops(&source).map_err(cannot)?;
    let (passwd, group) = (text(&source, "etc/passwd"), text(&source, "etc/group"));
    Ok(Some(Rootfs { source, entries, passwd, group }))
}

/// The entries of the image at its top, but for those that every sandbox has of its own.
fn tops(source: &Source) -> io::Result<Vec<SystemEntry>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(&source.fd, ".", flags, Mode::empty())?;
    let mut entries = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") || OWN_TOPS.contains(&name) {
            continue;
        }
        let path = Path::new("/").join(name);
        let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => entries.push(SystemEntry::Directory(path)),
            FileType::Symlink if name == "etc" => {
                return Err(io::Error::new(io::ErrorKind::NotADirectory, "its `etc` is a link"));
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&directory, name, Vec::new())?;
                let target = String::from_utf8_lossy(target.as_bytes()).into_owned();
                entries.push(SystemEntry::Link(path, target.into()));
            }
            _ => {}
        }
        if entries.len() > MOST_TOPS {
            let what = format!("it has more than {MOST_TOPS} directories at its top");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
    }
    if entries.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has no directories"));
    }
    Ok(entries)
}

/// The text of a regular file of the image that is not behind a link; nothing for any other.
fn text(source: &Source, path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let read = || -> io::Result<String> {
        let file = rustix::fs::openat2(&source.fd, path, flags, Mode::empty(), resolve)?;
        let file = File::from(file);
        let meta = file.metadata()?;
        // What the image's own users may not read is not for the sandbox's.
        if !meta.is_file() || meta.file_type().is_fifo() || meta.mode() & 0o004 == 0 {
            return Ok(String::new());
        }
        let mut text = String::new();
        file.take(MOST_USERS).read_to_string(&mut text)?;
        Ok(text)
    };
    read().unwrap_or_default()
}

/// A list of users or groups of the image, with a line for the sandbox's own in the place of others of
/// its name or number.
fn with_own(list: &str, own: &str, id: u32) -> String {
    let number = id.to_string();
    let is_other = |line: &&str| {
        let mut fields = line.split(':');
        let name = fields.next().unwrap_or_default();
        !line.is_empty() && name != etc::USER && fields.nth(1) != Some(&number)
    };
    let mut text = String::new();
    for line in list.lines().filter(is_other).chain([own]) {
        text += line;
        text.push('\n');
    }
    text
}

impl Rootfs {
    /// Whether the image has a directory of this name at its top.
    fn has(&self, name: &str) -> bool {
        self.directories().any(|path| path == Path::new("/").join(name))
    }

    /// Its top directories, as the sandbox sees them.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.entries.iter().filter_map(|entry| match entry {
            SystemEntry::Directory(path) => Some(path.as_path()),
            SystemEntry::Link(..) => None,
        })
    }

    /// Puts the image into the new root; `mounts` are what will be mounted on it. Whether it brought
    /// its own `/etc`.
    pub(super) fn build(
        &self,
        to: &mut Tree<'_>,
        image: Register,
        mounts: &[Source],
        etc_files: &[(&'static str, String)],
    ) -> bool {
        let lower = PathBuf::from(SCRATCH).join("rootfs");
        let layers = PathBuf::from(SCRATCH).join(LAYERS);
        make_directory(to, &lower, 0o700);
        make_directory(to, &layers, 0o700);
        attach(to, image, &lower);
        for entry in &self.entries {
            match entry {
                SystemEntry::Link(path, content) => symlink(to, content, &relative(path)),
                SystemEntry::Directory(path) => {
                    let top = relative(path);
                    let upper = layers.join(&top).join("upper");
                    let work = layers.join(&top).join("work");
                    make_directory(to, &layers.join(&top), 0o755);
                    make_directory(to, &upper, 0o755);
                    make_directory(to, &work, 0o755);
                    let own = OWN.iter().map(|(path, ..)| (PathBuf::from(path), Kind::Directory));
                    let all = mounts.iter().map(|mount| (relative(&mount.target), mount.kind));
                    for (point, kind) in own.chain(all) {
                        if let Ok(rest) = point.strip_prefix(&top) {
                            make_point(to, &upper, rest, kind);
                        }
                    }
                    if top == Path::new("etc") {
                        self.make_etc(to, &upper, etc_files);
                    }
                    make_directory(to, &top, 0o755);
                    overlay_at(to, &lower.join(&top), &upper, &work, &top);
                }
            }
        }
        self.has("etc")
    }

    fn make_etc(&self, to: &mut Tree<'_>, upper: &Path, files: &[(&'static str, String)]) {
        for (name, given) in self.etc(files) {
            let path = upper.join(name);
            match given {
                Given::File(content) => write_file(to, &path.to_string_lossy(), &content),
                Given::Link(target) => symlink(to, &target, &path),
            }
        }
    }

    /// What of `/etc` is the sandbox's own: its users, and how names are found. `files` are those of a
    /// sandbox without an image.
    pub(super) fn etc(&self, files: &[(&'static str, String)]) -> Vec<(&'static str, Given)> {
        let own = |name: &str| files.iter().find(|(file, _)| *file == name).map(|(_, text)| text);
        let line = |name: &str| {
            let prefix = format!("{}:", etc::USER);
            let text = own(name).map(String::as_str).unwrap_or_default();
            text.lines().find(|line| line.starts_with(&prefix)).unwrap_or_default().to_owned()
        };
        let id = |line: &str| line.split(':').nth(2).and_then(|id| id.parse().ok());
        let mut given = Vec::new();
        for (name, list) in [("passwd", &self.passwd), ("group", &self.group)] {
            let line = line(name);
            let text = match list.is_empty() {
                true => own(name).cloned().unwrap_or_default(),
                false => with_own(list, &line, id(&line).unwrap_or_default()),
            };
            given.push((name, Given::File(text.into_bytes())));
        }
        for name in ["hosts", "hostname", "resolv.conf"] {
            given.push((name, Given::File(own(name).cloned().unwrap_or_default().into_bytes())));
        }
        given.push(("mtab", Given::Link("/proc/self/mounts".into())));
        given
    }

    /// Opens one of its top directories.
    pub(super) fn open_top(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(beneath::open(&self.source.fd, &relative(path), flags, resolve)?)
    }
}

/// Where, in the scratch file system, what is written to a top directory lies.
pub(super) fn upper_layer(top: &Path) -> PathBuf {
    Path::new(LAYERS).join(relative(top)).join("upper")
}

/// Makes what will be mounted on, in a layer that nobody else has written to.
fn make_point(to: &mut Tree<'_>, upper: &Path, rest: &Path, kind: Kind) {
    let mut at = upper.to_owned();
    let parts: Vec<_> = rest.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    let directories = if kind == Kind::Directory { parts.len() } else { parts.len().max(1) - 1 };
    for part in &parts[..directories.min(parts.len())] {
        at.push(part);
        make_directory(to, &at, 0o755);
    }
    if let (Kind::File, Some(name)) = (kind, parts.last()) {
        place_file(to, &at.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::with_own;

    #[test]
    fn the_own_user_takes_the_place_of_others() {
        let list = "root:x:0:0::/root:/bin/bash\nubuntu:x:1000:1000::/:/bin/sh\n\nsandbox:x:5:5::/:\nnobody:x:65534:65534::/:";
        let own = "sandbox:x:1000:1000:sandbox:/home/sandbox:/bin/sh";
        let expected = format!("root:x:0:0::/root:/bin/bash\nnobody:x:65534:65534::/:\n{own}\n");
        assert_eq!(with_own(list, own, 1000), expected);
    }
}

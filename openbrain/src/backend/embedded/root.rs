//! The sandbox's file system as system calls: an empty root, and what is let in.
//!
//! Everything of the host is cloned first, while the host's tree is still in view; then the new root
//! covers `/proc`, which always exists, and is filled with relative paths; then it becomes `/`.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use super::{
    etc,
    host::{EtcEntry, Host, Identity, Kind, SystemEntry},
    mounts::{
        Cloned, EMPTY_PATH, ID_MAPPED, NO_DEV, NO_EXEC, NO_SUID, OPEN_TREE_CLONE, READ_ONLY,
        RECURSIVE, Tree, attach, attach_beneath, attribute_args, attribute_block, clone_tree,
        file_system, make_directory, make_mount_point, place, relative, set_attributes, symlink,
        try_write, write, write_file,
    },
    rootfs::Rootfs,
    sources::Source,
};
use crate::{
    backend::helper::{Arg, Program, Register, Section, wire},
    sandbox::MountMode,
    spec::System,
};

const IN: Section = Section::Inside;

/// Where the new root is mounted until it becomes `/`.
const COVERED: &str = "/proc";
/// The sized file system that takes everything the sandbox writes: its root is where the new `/proc`
/// will cover it, and its directories are cloned to their places.
pub(super) const SCRATCH: &str = "proc";
/// Where the upper layers of overlays are, out of the sandbox's sight.
const LAYERS: &str = "proc/layers";
/// The same, below the scratch file system.
pub(super) const UPPER_LAYERS: &str = "layers";
/// What parts of `/proc` are covered with.
const EMPTY_FILE: &str = "proc/empty-file";
const EMPTY_DIRECTORY: &str = "proc/empty-directory";

/// Directories of the sandbox that are its own: `(path, name in the scratch file system, mode)`.
pub(super) const OWN: [(&str, &str, u32); 6] = [
    ("run", "run", 0o755),
    ("var/tmp", "var-tmp", 0o1777),
    ("dev/shm", "shm", 0o1777),
    ("home/sandbox", "home", 0o700),
    ("workspace", "workspace", 0o755),
    ("tmp", "tmp", 0o1777),
];

/// Directories below `/usr` that belong to the sandbox's user when it is an overlay.
pub(super) const USR: [&str; 8] = [
    "local",
    "local/bin",
    "local/etc",
    "local/include",
    "local/lib",
    "local/sbin",
    "local/share",
    "local/share/man",
];

/// Device files that are let in.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];

/// Links below `/dev`.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("pts/ptmx", "dev/ptmx"),
];

/// What the file system is built from.
pub(crate) struct Root<'a> {
    pub(crate) host: &'a Host,
    pub(crate) identity: Identity,
    pub(crate) sources: &'a [Source],
    /// What the system is taken from in place of the host's; its descriptor follows the sources'.
    pub(crate) rootfs: Option<&'a Rootfs>,
    /// Number of the first source's descriptor in the helper.
    pub(crate) first_fd: i32,
    pub(crate) system: System,
    /// Size of everything that is written outside of mounts, in bytes.
    pub(crate) disk: Option<u64>,
    /// Memory of the sandbox, in bytes.
    pub(crate) memory: Option<u64>,
    /// Whether the library is handed what the sandbox writes.
    pub(crate) hands_over: bool,
    /// Who answers the sandbox's questions for names.
    pub(crate) name_server: Option<Ipv4Addr>,
}

impl Root<'_> {
    /// As root, sources are cloned by the monitor, which can reach them and can make them belong to
    /// the sandbox's user; returns their mounts.
    pub(crate) fn prepare(&self, to: &mut Program) -> Vec<Register> {
        let mut mounts = Vec::new();
        if self.identity == Identity::Root {
            let mut owners: Vec<((u32, u32), Register)> = Vec::new();
            for (fd, source) in (self.first_fd..).zip(self.all_sources()) {
                let known = owners.iter().find(|(owner, _)| *owner == source.owner);
                let namespace = match known {
                    Some((_, namespace)) => *namespace,
                    None => id_map_namespace(to, source.owner),
                };
                owners.push((source.owner, namespace));
                mounts.push(clone_as_owner(to, source, fd, namespace));
            }
        }
        mounts
    }

    /// Everything of the host that is held open.
    fn all_sources(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().chain(self.rootfs.map(|rootfs| &rootfs.source))
    }

    /// Builds the file system and makes it `/`.
    pub(crate) fn build(&self, to: &mut Program, prepared: &[Register]) {
        let mut sources = self.clone_sources(to, prepared);
        let image = self.rootfs.and_then(|rootfs| Some((rootfs, sources.pop()?)));
        let (system, etc) = match image {
            Some(_) => (Vec::new(), Vec::new()),
            None => (self.clone_system(to), self.clone_etc(to)),
        };
        let devices = clone_devices(to);

        let to = &mut Tree::new(to);
        // The host's changes to its own tree are no longer ours.
        let private = Arg::from(libc::MS_REC | libc::MS_PRIVATE);
        let (none, slash) = (to.text(""), to.text("/"));
        to.call(
            IN,
            libc::SYS_mount,
            [none, slash, none, private, 0.into()],
            "leave the host's mounts",
        );
        let root = self.make_root(to);
        let etc_files = etc::files(self.identity.inside(), self.name_server);
        let has_etc = image
            .is_some_and(|(rootfs, image)| rootfs.build(to, image.mount, self.sources, &etc_files));
        self.make_own_directories(to);
        for (target, content) in system.iter().filter_map(|(c, link)| Some((c, link.as_ref()?))) {
            symlink(to, content, &target.target);
        }
        let directories = system.into_iter().filter(|(_, link)| link.is_none()).map(|(c, _)| c);
        for directory in directories {
            let overlay = self.system == System::Overlay && directory.target == Path::new("usr");
            place(to, &directory);
            if overlay {
                overlay_usr(to);
            }
        }
        if !has_etc {
            self.make_etc(to, &etc_files, &etc);
        }
        make_devices(to, &devices);
        for (cloned, source) in sources.iter().zip(self.sources) {
            make_mount_point(to, cloned);
            attach_beneath(to, cloned);
            if source.mode == MountMode::Overlay {
                overlay(to, &cloned.target);
            }
        }
        self.make_proc(to);
        set_attributes(to, IN, root, READ_ONLY, 0, "make the root read-only");
        pivot(to);
    }

    /// Clones the sources: opened again by the sandbox's own user, and compared with what was
    /// checked, because a descriptor from another mount namespace cannot be cloned.
    fn clone_sources(&self, to: &mut Program, prepared: &[Register]) -> Vec<Cloned> {
        let mut cloned = Vec::new();
        for (index, source) in self.all_sources().enumerate() {
            let mount = match prepared.get(index) {
                Some(mount) => *mount,
                None => clone_checked(to, source),
            };
            let target = relative(&source.target);
            cloned.push(Cloned { mount, target, kind: source.kind });
        }
        cloned
    }

    /// System directories, and links with their content.
    fn clone_system(&self, to: &mut Program) -> Vec<(Cloned, Option<PathBuf>)> {
        let mut entries = Vec::new();
        for entry in &self.host.system {
            entries.push(match entry {
                SystemEntry::Directory(path) => (clone_read_only(to, path, Kind::Directory), None),
                SystemEntry::Link(path, content) => {
                    let nothing = Program::child();
                    let target = relative(path);
                    (Cloned { mount: nothing, target, kind: Kind::File }, Some(content.clone()))
                }
            });
        }
        entries
    }

    /// What of the host's `/etc` is not copied.
    fn clone_etc(&self, to: &mut Program) -> Vec<Cloned> {
        let bound = self.host.etc.iter().filter_map(|entry| match entry {
            EtcEntry::Bind(path, kind) => Some(clone_read_only(to, path, *kind)),
            EtcEntry::Copy(..) => None,
        });
        bound.collect()
    }

    /// An empty root, entered, and the scratch file system in it.
    fn make_root(&self, to: &mut Tree<'_>) -> Register {
        let root = file_system(to, "tmpfs", &[("size", "16m"), ("mode", "0755")], NO_SUID | NO_DEV);
        attach(to, root, Path::new(COVERED));
        to.call(IN, libc::SYS_fchdir, [root.into()], "enter the new root");
        for path in ["dev", "dev/pts", "etc", "proc"] {
            make_directory(to, Path::new(path), 0o755);
        }
        let size = self.disk.map(|bytes| bytes.to_string());
        // An inode costs kernel memory of about this size, which no size limit counts.
        let inodes = self.disk.map(|bytes| (bytes / 1024).clamp(1024, 1 << 20).to_string());
        let mut options = vec![("mode", "0755")];
        options.extend(size.as_deref().map(|size| ("size", size)));
        options.extend(inodes.as_deref().map(|inodes| ("nr_inodes", inodes)));
        let scratch = file_system(to, "tmpfs", &options, NO_SUID | NO_DEV);
        attach(to, scratch, Path::new(SCRATCH));
        root
    }

    fn make_own_directories(&self, to: &mut Tree<'_>) {
        for (path, name, mode) in OWN {
            let hidden = PathBuf::from(SCRATCH).join(name);
            make_directory(to, &hidden, mode);
            let text = to.text(hidden.as_os_str());
            // `mkdir(2)` applies the mask of the host process.
            let args = [Arg::from(libc::AT_FDCWD), text, mode.into(), 0.into()];
            to.call(IN, libc::SYS_fchmodat, args, "set the mode of a directory");
            let mount = clone_tree(to, &hidden);
            place(to, &Cloned { mount, target: path.into(), kind: Kind::Directory });
        }
        make_directory(to, Path::new(LAYERS), 0o700);
        if self.hands_over {
            hand_over_scratch(to);
        }
    }

    fn make_etc(&self, to: &mut Tree<'_>, own: &[(&str, String)], bound: &[Cloned]) {
        for (name, content) in own {
            write_file(to, &format!("etc/{name}"), content.as_bytes());
        }
        let of_the_host = if self.rootfs.is_some() { &[][..] } else { &self.host.etc };
        for entry in of_the_host {
            if let EtcEntry::Copy(name, content) = entry {
                write_file(to, &format!("etc/{name}"), content);
            }
        }
        symlink(to, Path::new("/proc/self/mounts"), Path::new("etc/mtab"));
        bound.iter().for_each(|entry| place(to, entry));
    }

    /// A `/proc` of the sandbox's own processes, with what tells about the machine covered.
    fn make_proc(&self, to: &mut Tree<'_>) {
        let covers = self.make_covers(to);
        let proc = file_system(to, "proc", &[], NO_SUID | NO_DEV | NO_EXEC);
        attach(to, proc, Path::new("proc"));
        // One more user namespace, made below, and then no other.
        write_file(to, "proc/sys/user/max_user_namespaces", b"1");
        // These are counted for the host's user, who needs some as well; and System V segments that
        // nobody maps are counted nowhere else. Older kernels have no such files for a namespace.
        try_write(to, "proc/sys/user/max_inotify_instances", "64");
        let pages = self.memory.map_or(u64::MAX >> 12, |bytes| bytes / 4096);
        try_write(to, "proc/sys/kernel/shmall", &pages.to_string());
        for name in &self.host.proc_read_only {
            let path = Path::new("proc").join(name);
            let mount = clone_tree(to, &path);
            set_attributes(to, IN, mount, READ_ONLY, 0, "make a part of /proc read-only");
            attach(to, mount, &path);
        }
        for cover in covers {
            attach(to, cover.mount, &cover.target);
        }
    }

    /// Empty files and directories of our own to cover parts of `/proc` with: nothing that the
    /// sandbox could swap (CVE-2025-31133). They lie in the scratch file system, out of sight.
    fn make_covers(&self, to: &mut Tree<'_>) -> Vec<Cloned> {
        make_directory(to, Path::new(EMPTY_DIRECTORY), 0o555);
        write_file(to, EMPTY_FILE, b"");
        let mut covers = Vec::new();
        for (name, kind) in &self.host.proc_masks {
            let cover = match kind {
                Kind::File => EMPTY_FILE,
                Kind::Directory => EMPTY_DIRECTORY,
            };
            let mount = clone_tree(to, Path::new(cover));
            let attributes = READ_ONLY | NO_SUID | NO_DEV | NO_EXEC;
            set_attributes(to, IN, mount, attributes, 0, "make a cover read-only");
            covers.push(Cloned { mount, target: Path::new("proc").join(name), kind: *kind });
        }
        covers
    }
}

/// A user namespace in which the owner of a source is the sandbox's user.
fn id_map_namespace(to: &mut Program, (uid, gid): (u32, u32)) -> Register {
    let section = Section::Before;
    let sleeper = to.park(section, libc::CLONE_NEWUSER);
    let (user, group) = Identity::Root.outside();
    for (file, from, onto) in [("uid_map", uid, user), ("gid_map", gid, group)] {
        let fd = to.open_proc(section, sleeper, file, libc::O_WRONLY | libc::O_CLOEXEC);
        write(to, section, fd, format!("{from} {onto} 1").as_bytes(), "map the owner of a mount");
        to.release(section, fd);
    }
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    let namespace = to.open_proc(section, sleeper, "ns/user", flags);
    let kill = [sleeper.into(), libc::SIGKILL.into()];
    to.call(section, libc::SYS_kill, kill, "end a process");
    let wait = [sleeper.into(), 0.into(), 0.into(), 0.into()];
    to.call(section, libc::SYS_wait4, wait, "reap a process");
    to.release(section, sleeper);
    namespace
}

/// Clones a source with its owner mapped to the sandbox's user, so that what the sandbox writes
/// belongs to the owner, and nothing else of the owner's is in reach.
fn clone_as_owner(to: &mut Program, source: &Source, fd: i32, namespace: Register) -> Register {
    let section = Section::Before;
    let path = to.text("");
    let flags = OPEN_TREE_CLONE | RECURSIVE | EMPTY_PATH | libc::O_CLOEXEC as u32;
    let name = source.path.display();
    let args = [fd.into(), path, flags.into()];
    let mount = to.keep(section, libc::SYS_open_tree, args, format!("clone the mount of `{name}`"));
    let attributes = NO_SUID | NO_DEV | ID_MAPPED | read_only(source.mode);
    let block = attribute_block(to, attributes);
    to.store(section, namespace, block.plus(24));
    let args = attribute_args(to, mount, block);
    let what = format!(
        "make `{name}` belong to the sandbox's user (its file system may not support id-mapped mounts)"
    );
    to.call(section, libc::SYS_mount_setattr, args, what);
    to.blame_request(section);
    mount
}

/// Clones a source after comparing it with what was checked.
fn clone_checked(to: &mut Program, source: &Source) -> Register {
    const STATX_INO: u32 = 0x100;
    let name = source.path.display();
    let path = to.text(source.path.as_os_str());
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let args = [libc::AT_FDCWD.into(), path, flags.into(), 0.into()];
    let fd = to.keep(IN, libc::SYS_openat, args, format!("open `{name}`"));
    let (found, none) = (to.data(&[0; 256]), to.text(""));
    let args = [fd.into(), none, EMPTY_PATH.into(), STATX_INO.into(), found.into()];
    to.call(IN, libc::SYS_statx, args, format!("look at `{name}`"));
    let id = source.identity;
    let device = u64::from(id.major) | u64::from(id.minor) << 32;
    let what = format!("mount `{name}`: it was replaced meanwhile");
    to.expect(IN, found.plus(32), id.inode, what.clone());
    to.expect(IN, found.plus(136), device, what);
    let flags = OPEN_TREE_CLONE | RECURSIVE | EMPTY_PATH | libc::O_CLOEXEC as u32;
    let args = [fd.into(), none, flags.into()];
    let mount = to.keep(IN, libc::SYS_open_tree, args, format!("clone the mount of `{name}`"));
    to.release(IN, fd);
    let attributes = NO_SUID | NO_DEV | read_only(source.mode);
    set_attributes(to, IN, mount, attributes, RECURSIVE, format!("restrict `{name}`"));
    mount
}

/// The lower layer of an overlay is never written to either.
fn read_only(mode: MountMode) -> u64 {
    match mode {
        MountMode::Rw => 0,
        MountMode::Ro | MountMode::Overlay => READ_ONLY,
    }
}

fn clone_read_only(to: &mut Program, path: &Path, kind: Kind) -> Cloned {
    let mount = clone_tree(to, path);
    let attributes = READ_ONLY | NO_SUID | NO_DEV;
    let what = format!("make `{}` read-only", path.display());
    set_attributes(to, IN, mount, attributes, RECURSIVE, what);
    Cloned { mount, target: relative(path), kind }
}

fn clone_devices(to: &mut Program) -> Vec<Cloned> {
    DEVICES
        .iter()
        .map(|name| {
            let path = Path::new("/dev").join(name);
            let mount = clone_tree(to, &path);
            set_attributes(to, IN, mount, NO_SUID | NO_EXEC, 0, "restrict a device");
            Cloned { mount, target: relative(&path), kind: Kind::File }
        })
        .collect()
}

fn make_devices(to: &mut Tree<'_>, devices: &[Cloned]) {
    devices.iter().for_each(|device| place(to, device));
    let options = [("ptmxmode", "0666"), ("mode", "0620")];
    let terminals = file_system(to, "devpts", &options, NO_SUID | NO_EXEC);
    attach(to, terminals, Path::new("dev/pts"));
    for (content, path) in DEVICE_LINKS {
        symlink(to, Path::new(content), Path::new(path));
    }
}

/// The name of the layer over a directory of the new root. No two have the same: two overlays that
/// share an upper layer are undefined.
fn layer_name(target: &Path) -> String {
    target.to_string_lossy().replace('-', "-0").replace('/', "-1").replace('\\', "-2")
}

/// Where, in the scratch file system, what is written to an overlay lies.
pub(super) fn upper_layer(target: &Path) -> PathBuf {
    Path::new(UPPER_LAYERS).join(format!("{}-upper", layer_name(&relative(target))))
}

/// Hands the scratch file system to the library, which then has what was written when the sandbox is
/// gone.
fn hand_over_scratch(to: &mut Tree<'_>) {
    let path = to.text(SCRATCH);
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let args = [libc::AT_FDCWD.into(), path, flags.into(), 0.into()];
    let what = "hand over what the sandbox writes";
    let scratch = to.keep(IN, libc::SYS_openat, args, what);
    to.hand_over(IN, wire::REPORT_FD.into(), wire::report::SCRATCH, &[scratch], what);
    to.call(IN, libc::SYS_close, [scratch.into()], "close a directory");
    to.release(IN, scratch);
}

/// Puts a throw-away layer over a directory of the new root.
fn overlay(to: &mut Tree<'_>, target: &Path) {
    let name = layer_name(target);
    let upper = PathBuf::from(LAYERS).join(format!("{name}-upper"));
    let work = PathBuf::from(LAYERS).join(format!("{name}-work"));
    make_directory(to, &upper, 0o755);
    make_directory(to, &work, 0o755);
    overlay_at(to, target, &upper, &work, target);
}

/// Mounts an overlay of these layers.
pub(super) fn overlay_at(to: &mut Program, lower: &Path, upper: &Path, work: &Path, target: &Path) {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    // The lower layers are a list with colons between them.
    let lower = text(lower).replace('\\', "\\\\").replace(':', "\\:");
    let (upper, work) = (text(upper), text(work));
    let options = [("lowerdir", &*lower), ("upperdir", &*upper), ("workdir", &*work)];
    let mut all = vec![("userxattr", "")];
    all.extend(options);
    let mount = file_system(to, "overlay", &all, NO_SUID | NO_DEV);
    attach(to, mount, target);
    to.release(IN, mount);
}

/// `/usr` under a throw-away layer, in which `/usr/local` belongs to the sandbox's user.
fn overlay_usr(to: &mut Tree<'_>) {
    for path in [""].iter().chain(&USR) {
        let path = PathBuf::from(format!("{LAYERS}/usr-upper")).join(path);
        make_directory(to, &path, 0o755);
    }
    overlay(to, Path::new("usr"));
}

/// The new root becomes `/`, and the host's tree is gone.
fn pivot(to: &mut Program) {
    let dot = to.text(".");
    to.call(IN, libc::SYS_pivot_root, [dot, dot], "change the root");
    let detach = Arg::from(libc::MNT_DETACH);
    to.call(IN, libc::SYS_umount2, [dot, detach], "detach the host's tree");
    let slash = to.text("/");
    to.call(IN, libc::SYS_chdir, [slash], "enter the new root");
}

/// What the sandbox may write to, as it sees it.
pub(crate) fn writable(
    sources: &[Source],
    system: System,
    rootfs: Option<&Rootfs>,
) -> Vec<(PathBuf, Kind)> {
    let read_only = |path: &Path| {
        let mount = sources.iter().find(|source| source.target == path);
        mount.is_some_and(|source| source.mode == MountMode::Ro)
    };
    let own = OWN.iter().map(|(path, ..)| (Path::new("/").join(path), Kind::Directory));
    let own = own.filter(|(path, _)| !path.starts_with("/dev"));
    let others = ["/dev", "/proc"].map(|path| (PathBuf::from(path), Kind::Directory));
    let mounts = sources.iter().filter(|source| source.mode != MountMode::Ro);
    let mounts = mounts.map(|source| (source.target.clone(), source.kind));
    let has_usr = system == System::Overlay && rootfs.is_none();
    let usr = has_usr.then(|| (PathBuf::from("/usr"), Kind::Directory));
    let image = rootfs.into_iter().flat_map(Rootfs::directories);
    let image = image.map(|path| (path.to_owned(), Kind::Directory));
    let all = own.chain(others).chain(mounts).chain(usr).chain(image);
    all.filter(|(path, _)| !read_only(path)).collect()
}

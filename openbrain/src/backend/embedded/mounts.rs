//! The calls that file systems are built from: mounts that are not attached yet, mount points, files.

use std::{
    borrow::Cow,
    collections::HashSet,
    ops::{Deref, DerefMut},
    path::{Component, Path, PathBuf},
};

use super::host::Kind;
use crate::backend::helper::{Arg, Data, Program, Register, Section};

const IN: Section = Section::Inside;

// Attributes of mounts (`mount_setattr(2)`).
pub(super) const READ_ONLY: u64 = 1;
pub(super) const NO_SUID: u64 = 2;
pub(super) const NO_DEV: u64 = 4;
pub(super) const NO_EXEC: u64 = 8;
pub(super) const ID_MAPPED: u64 = 0x10_0000;

pub(super) const OPEN_TREE_CLONE: u32 = 1;
pub(super) const RECURSIVE: u32 = 0x8000;
pub(super) const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
pub(super) const MOVE_FROM_EMPTY_PATH: u32 = 4;
pub(super) const FSCONFIG_SET_STRING: i32 = 1;
pub(super) const FSCONFIG_CREATE: i32 = 6;

/// A program that remembers which directories it has made.
pub(super) struct Tree<'a> {
    program: &'a mut Program,
    made: HashSet<PathBuf>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(program: &'a mut Program) -> Self {
        Self { program, made: HashSet::new() }
    }
}

impl Deref for Tree<'_> {
    type Target = Program;

    fn deref(&self) -> &Program {
        self.program
    }
}

impl DerefMut for Tree<'_> {
    fn deref_mut(&mut self) -> &mut Program {
        self.program
    }
}

/// Something of the host, cloned and not yet in its place.
pub(super) struct Cloned {
    pub(super) mount: Register,
    pub(super) target: PathBuf,
    pub(super) kind: Kind,
}

/// A new file system that is not attached yet.
pub(super) fn file_system(
    to: &mut Program,
    kind: &'static str,
    options: &[(&str, &str)],
    attributes: u64,
) -> Register {
    const FSOPEN_CLOEXEC: u32 = 1;
    let name = to.text(kind);
    let what = format!("make a {kind} file system");
    let context = to.keep(IN, libc::SYS_fsopen, [name, FSOPEN_CLOEXEC.into()], what.clone());
    for (key, value) in options {
        let flag = value.is_empty();
        let (key, value) = (to.text(key), to.text(value));
        let command = if flag { 0 } else { FSCONFIG_SET_STRING };
        let value = if flag { 0.into() } else { value };
        let args = [context.into(), command.into(), key, value, 0.into()];
        to.call(IN, libc::SYS_fsconfig, args, what.clone());
    }
    let args = [context.into(), FSCONFIG_CREATE.into(), 0.into(), 0.into(), 0.into()];
    to.call(IN, libc::SYS_fsconfig, args, what.clone());
    let args = [context.into(), 1.into(), attributes.into()];
    let mount = to.keep(IN, libc::SYS_fsmount, args, what);
    to.release(IN, context);
    mount
}

/// Clones the mount at a path with everything mounted below it.
pub(super) fn clone_tree(to: &mut Program, path: &Path) -> Register {
    let text = to.text(path.as_os_str());
    let flags = OPEN_TREE_CLONE | RECURSIVE | libc::O_CLOEXEC as u32;
    let args = [libc::AT_FDCWD.into(), text, flags.into()];
    to.keep(IN, libc::SYS_open_tree, args, format!("clone the mount of `{}`", path.display()))
}

pub(super) fn set_attributes(
    to: &mut Program,
    section: Section,
    mount: Register,
    attributes: u64,
    flags: u32,
    what: impl Into<Cow<'static, str>>,
) {
    let block = attribute_block(to, attributes);
    let mut args = attribute_args(to, mount, block);
    args[2] = (EMPTY_PATH | flags).into();
    to.call(section, libc::SYS_mount_setattr, args, what);
}

/// A `struct mount_attr` that sets attributes.
pub(super) fn attribute_block(to: &mut Program, attributes: u64) -> Data {
    to.words([attributes.into(), 0.into(), 0.into(), 0.into()])
}

pub(super) fn attribute_args(to: &mut Program, mount: Register, block: Data) -> [Arg; 5] {
    let none = to.text("");
    [mount.into(), none, (EMPTY_PATH | RECURSIVE).into(), block.into(), 32.into()]
}

/// Makes the mount point of something cloned, and attaches it there.
pub(super) fn place(to: &mut Tree<'_>, cloned: &Cloned) {
    make_mount_point(to, cloned);
    attach(to, cloned.mount, &cloned.target);
}

/// Attaches a source. Its mount point may lie in a mount that somebody is writing to: no link on the
/// way there counts.
pub(super) fn attach_beneath(to: &mut Program, cloned: &Cloned) {
    const BENEATH_WITHOUT_LINKS: u64 = 0x08 | 0x04 | 0x02;
    const ONTO_EMPTY_PATH: u32 = 0x40;
    let name = cloned.target.display();
    let path = to.text(cloned.target.as_os_str());
    // A `struct open_how`: flags, mode, resolve.
    let flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
    let how = to.words([flags.into(), 0.into(), BENEATH_WITHOUT_LINKS.into()]);
    let args = [libc::AT_FDCWD.into(), path, how.into(), 24.into()];
    let point = to.keep(IN, libc::SYS_openat2, args, format!("open the mount point `/{name}`"));
    let (none, flags) = (to.text(""), MOVE_FROM_EMPTY_PATH | ONTO_EMPTY_PATH);
    let args = [cloned.mount.into(), none, point.into(), none, flags.into()];
    to.call(IN, libc::SYS_move_mount, args, format!("mount on `/{name}`"));
    to.call(IN, libc::SYS_close, [point.into()], "close a directory");
    to.release(IN, point);
}

pub(super) fn make_mount_point(to: &mut Tree<'_>, cloned: &Cloned) {
    let parents: Vec<&Path> = cloned.target.ancestors().skip(1).collect();
    for parent in parents.iter().rev().filter(|parent| **parent != Path::new("")) {
        make_directory(to, parent, 0o755);
    }
    match cloned.kind {
        Kind::Directory => make_directory(to, &cloned.target, 0o755),
        Kind::File => place_file(to, &cloned.target),
    }
}

/// Makes an empty file; one that exists already is as good.
pub(super) fn place_file(to: &mut Program, path: &Path) {
    let path = to.text(path.as_os_str());
    let args = [libc::AT_FDCWD.into(), path, 0o100444.into(), 0.into()];
    to.try_call(IN, libc::SYS_mknodat, args);
}

pub(super) fn attach(to: &mut Program, mount: Register, target: &Path) {
    let (none, path) = (to.text(""), to.text(target.as_os_str()));
    let args = [mount.into(), none, libc::AT_FDCWD.into(), path, MOVE_FROM_EMPTY_PATH.into()];
    to.call(IN, libc::SYS_move_mount, args, format!("mount on `/{}`", target.display()));
}

/// Makes a directory; one that exists already is as good.
pub(super) fn make_directory(to: &mut Tree<'_>, path: &Path, mode: u32) {
    if !to.made.insert(path.to_owned()) {
        return;
    }
    let path = to.text(path.as_os_str());
    to.try_call(IN, libc::SYS_mkdirat, [libc::AT_FDCWD.into(), path, mode.into()]);
}

pub(super) fn symlink(to: &mut Program, content: &Path, path: &Path) {
    let args = [to.text(content.as_os_str()), libc::AT_FDCWD.into(), to.text(path.as_os_str())];
    to.call(IN, libc::SYS_symlinkat, args, format!("link `/{}`", path.display()));
}

pub(super) fn write_file(to: &mut Program, path: &str, content: &[u8]) {
    let name = to.text(path);
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC;
    let args = [libc::AT_FDCWD.into(), name, flags.into(), 0o644.into()];
    let fd = to.keep(IN, libc::SYS_openat, args, format!("write `/{path}`"));
    if !content.is_empty() {
        write(to, IN, fd, content, format!("write `/{path}`"));
    }
    to.call(IN, libc::SYS_close, [fd.into()], "close a file");
    to.release(IN, fd);
}

/// Writes to a file that may not be there, or not take it.
pub(super) fn try_write(to: &mut Program, path: &str, content: &str) {
    let name = to.text(path);
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    let fd = to.try_keep(IN, libc::SYS_openat, [libc::AT_FDCWD.into(), name, flags.into()]);
    let data = to.data(content.as_bytes());
    to.try_call(IN, libc::SYS_write, [fd.into(), data.into(), (content.len() as u64).into()]);
    to.try_call(IN, libc::SYS_close, [fd.into()]);
    to.release(IN, fd);
}

/// Writes bytes in one call, as files of `/proc` want it.
pub(super) fn write(
    to: &mut Program,
    section: Section,
    fd: Register,
    content: &[u8],
    what: impl Into<Cow<'static, str>>,
) {
    let data = to.data(content);
    let args = [fd.into(), data.into(), (content.len() as u64).into()];
    to.call(section, libc::SYS_write, args, what);
}

/// The path below the new root.
pub(super) fn relative(path: &Path) -> PathBuf {
    path.components().filter(|c| matches!(c, Component::Normal(_))).collect()
}

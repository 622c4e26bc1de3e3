//! What a command in a sandbox gets: its environment and its terminal.

use std::{ffi::OsString, path::Path};

use super::etc;
use crate::{
    backend::helper::{Arg, CommandPlan, Descriptors, Program, Register, Section, wire},
    exec::TerminalSize,
    sandbox::WORKSPACE,
    spec::Spec,
};

/// A terminal of the sandbox's own: its slave becomes the command's standard streams, its master
/// goes to the library. It has its size before the command can ask for it.
pub(super) fn make_terminal(
    to: &mut Program,
    socket: Arg,
    descriptors: Descriptors,
    size: TerminalSize,
) -> [Register; 2] {
    const TIOCSPTLCK: u64 = 0x4004_5431;
    const TIOCGPTPEER: u64 = 0x5441;
    let inside = Section::Inside;
    let path = to.text("/dev/pts/ptmx");
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let args = [libc::AT_FDCWD.into(), path, flags.into(), 0.into()];
    let master = to.keep(inside, libc::SYS_openat, args, "open a pseudo-terminal");
    let unlocked = to.data(&[0; 8]);
    let args = [master.into(), TIOCSPTLCK.into(), unlocked.into()];
    to.call(inside, libc::SYS_ioctl, args, "unlock the pseudo-terminal");
    let TerminalSize { rows, cols } = size;
    let window = to.data(&[rows, cols, 0, 0].map(u16::to_ne_bytes).concat());
    let args = [master.into(), libc::TIOCSWINSZ.into(), window.into()];
    to.call(inside, libc::SYS_ioctl, args, "set the size of the pseudo-terminal");
    let args = [master.into(), TIOCGPTPEER.into(), flags.into()];
    let slave =
        to.keep(inside, libc::SYS_ioctl, args, "open the other side of the pseudo-terminal");
    for target in 0..3 {
        let args = [slave.into(), descriptors.get(target), 0.into()];
        to.call(inside, libc::SYS_dup3, args, "use the pseudo-terminal");
    }
    let what = "hand over the pseudo-terminal";
    to.hand_over(inside, socket, wire::report::TERMINAL, &[master], what);
    [master, slave]
}

/// The last steps of a command, whatever kind of sandbox it runs in.
pub(super) fn plan(
    spec: &Spec,
    descriptors: Descriptors,
    rlimits: Vec<(u32, u64)>,
) -> CommandPlan<'_> {
    CommandPlan {
        env: environment(spec),
        descriptors,
        terminal: spec.tty.is_some(),
        workdir: Some(spec.workdir.as_deref().unwrap_or(Path::new(WORKSPACE))),
        rlimits,
    }
}

/// A clean base, and what the request sets; nothing of the host's.
fn environment(spec: &Spec) -> Vec<(OsString, OsString)> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let base = [
        ("PATH", path),
        ("HOME", etc::HOME),
        ("USER", etc::USER),
        ("LOGNAME", etc::USER),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
    ];
    let terminal = spec.tty.map(|_| ("TERM", "xterm-256color"));
    let base = base.into_iter().chain(terminal);
    let mut env: Vec<(OsString, OsString)> = base
        .filter(|(name, _)| !spec.env.contains_key(*name))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    env.extend(spec.env.iter().map(|(name, value)| (name.into(), value.into())));
    env
}

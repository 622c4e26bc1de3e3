//! Pseudo-terminals: ours and the command's.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::Stdio,
};

use rustix::{
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::support::{Going, Place, Ran};

/// A terminal of 30 lines of 100 characters: our end, and the end of the command under test.
pub(crate) fn terminal() -> (OwnedFd, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    resize(&ours, 30, 100);
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (ours, theirs)
}

pub(crate) fn resize(terminal: &OwnedFd, rows: u16, cols: u16) {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

fn echoes(terminal: &File) -> bool {
    tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ECHO)
}

#[test]
fn no_command_on_a_terminal_is_a_hint_and_no_hang() {
    let (_ours, theirs) = terminal();
    let place = Place::new();
    let mut command = place.command(&["exec", "--sandbox"]);
    command.stdin(theirs);
    Ran::of(command, b"").code(125).complains("Usage: openbrain exec");
}

#[test]
fn a_terminal_of_its_own_needs_none_of_ours() {
    let ran = Place::new().run(&["exec", "-T", "-t", "30", "test -t 0 && test -t 1 && stty size"]);
    assert_eq!(ran.code(0).stdout, "24 80\r\n");
}

#[test]
fn a_pipe_is_typed_into_the_terminal() {
    let ran =
        Place::new().run_with(&["exec", "-T", "-t", "30", "read line; echo got $line"], "it\n");
    assert!(ran.code(0).stdout.ends_with("got it\r\n"));
}

#[test]
fn the_end_of_the_input_is_typed_too() {
    let place = Place::new();
    for input in ["", "line\n", "no line"] {
        let ran = place.run_with(&["exec", "-T", "-t", "30", "cat >/dev/null; echo end"], input);
        assert!(ran.code(0).stdout.ends_with("end\r\n"));
    }
    let ran = place.run(&["exec", "-T", "-n", "-t", "30", "cat; echo end"]).code(0);
    assert!(ran.stdout.ends_with("end\r\n"), "{ran:#?}");
}

#[test]
fn the_terminal_has_our_size_and_is_restored() {
    let (ours, theirs) = terminal();
    let mut keyboard = File::from(ours.try_clone().unwrap());
    let place = Place::new();
    let script = "stty size; read line; echo got $line";
    let mut command = place.command(&["exec", "--tty", "-t", "30", script]);
    command.stdin(theirs.try_clone().unwrap());
    let mut going = Going::of(command);
    going.wait_for("30 100");
    assert!(!echoes(&theirs), "raw while the command runs");
    keyboard.write_all(b"typed\n").unwrap();
    going.wait_for("got typed");
    assert_eq!(going.end(), Some(0));
    assert!(echoes(&theirs), "restored afterwards");
}

#[test]
fn an_interrupt_is_typed() {
    let (ours, theirs) = terminal();
    let mut keyboard = File::from(ours);
    let place = Place::new();
    let script = "trap 'kill $!; exit 3' INT; sleep 60 & echo ready; wait";
    let mut command = place.command(&["exec", "--tty", "-t", "30", script]);
    command.stdin(theirs.try_clone().unwrap());
    let mut going = Going::of(command);
    going.wait_for("ready");
    keyboard.write_all(b"\x03").unwrap();
    assert_eq!(going.end(), Some(3));
    assert!(echoes(&theirs));
}

#[test]
fn a_new_size_is_passed_on() {
    let (ours, theirs) = terminal();
    let place = Place::new();
    let script = "trap 'kill $!; stty size; exit 0' WINCH; sleep 60 & echo ready; wait";
    let mut command = place.command(&["exec", "--tty", "-t", "30", script]);
    command.stdin(theirs);
    let mut going = Going::of(command);
    going.wait_for("ready");
    resize(&ours, 40, 120);
    // Only a terminal that is the controlling one of openbrain sends the signal by itself.
    going.signal(Signal::WINCH);
    going.wait_for("40 120");
    assert_eq!(going.end(), Some(0));
}

#[test]
fn our_terminal_is_restored_after_an_error() {
    let (_ours, theirs) = terminal();
    let place = Place::new();
    let mut command = place.command(&["exec", "--tty", "--", "no-such-program"]);
    command.stdin(theirs.try_clone().unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(127), "{text}");
    assert!(echoes(&theirs));
}

#[test]
fn a_sandbox_has_a_terminal_too() {
    if !crate::support::sandboxes() {
        return;
    }
    let script = "test -t 1 && stty size; read line; echo got $line";
    let place = Place::new();
    let ran = place.run_with(&["exec", "--sandbox", "-q", "-T", "-t", "30", script], "it\n");
    let text = ran.code(0).stdout;
    assert!(text.contains("24 80\r\n") && text.ends_with("got it\r\n"), "{text:?}");
}

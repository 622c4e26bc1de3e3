//! Signals that openbrain gets.
//!
//! The scripts wait with `wait` or `exec`: a shell that is about to start a program may lose a
//! signal (dash does, between `vfork` and `exec`).

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};

use crate::support::{Going, Place, openbrain};

/// Starts a script that says when it is ready. Its deadline is for a test that fails.
fn start(script: &str) -> (Place, Going) {
    let place = Place::new();
    let mut going = place.start(&["exec", "-t", "30", script]);
    going.wait_for("ready");
    (place, going)
}

#[test]
fn an_interrupt_ends_the_command() {
    let (_place, going) = start("echo ready; exec sleep 60");
    going.signal(Signal::INT);
    assert_eq!(going.end(), Some(130));
}

#[test]
fn an_interrupt_is_the_command_s_to_handle() {
    let (_place, going) = start("trap 'kill $!; exit 3' INT; sleep 60 & echo ready; wait");
    going.signal(Signal::INT);
    assert_eq!(going.end(), Some(3));
}

#[test]
fn a_second_interrupt_kills() {
    let (_place, mut going) = start("trap 'echo got' INT; sleep 60 & echo ready; wait; wait");
    going.signal(Signal::INT);
    going.wait_for("got");
    going.signal(Signal::INT);
    assert_eq!(going.end(), Some(130));
}

#[test]
fn a_termination_ends_the_command_whatever_it_does() {
    let (_place, mut going) =
        start("(trap '' TERM; exec sleep 60) & trap 'echo got' TERM; echo ready; wait; wait");
    going.signal(Signal::TERM);
    going.wait_for("got");
    assert_eq!(going.end(), Some(143));
}

#[test]
fn a_hangup_ends_the_command() {
    let (_place, going) = start("echo ready; exec sleep 60");
    going.signal(Signal::HUP);
    assert_eq!(going.end(), Some(129));
}

#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let place = Place::new();
    let mut shell = std::process::Command::new("sh");
    place.surround(&mut shell);
    shell.args(["-c", r#"trap "" HUP; exec "$0" exec -t 30 "echo ready; exec sleep 60""#]);
    shell.arg(openbrain());
    let mut going = Going::of(shell);
    going.wait_for("ready");
    going.signal(Signal::HUP);
    going.signal(Signal::INT);
    assert_eq!(going.end(), Some(130));
}

#[test]
fn a_signal_ends_us_though_nobody_reads() {
    let place = Place::new();
    let mut going = place.start(&["exec", "-t", "30", "echo ready; yes"]);
    going.wait_for("ready");
    going.signal(Signal::TERM);
    assert_eq!(going.end_unread(), Some(143));
}

#[test]
fn json_tells_of_the_end() {
    let place = Place::new();
    let fifo = place.path().join("ready");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let going = place.start(&["exec", "--json", "-t", "30", "echo > ready; exec sleep 60"]);
    // Reading ends when the command has written.
    std::fs::read(&fifo).unwrap();
    going.signal(Signal::INT);
    let (code, text) = going.end_with_output();
    let result: serde_json::Value = serde_json::from_str(&text).unwrap();
    // The command may be running before openbrain has heard of it.
    let told = result["signal"] == 2 || result["error"]["code"] == "cancelled";
    assert!(code == Some(130) && told, "{code:?} {text}");
}

#[test]
fn a_sandboxed_command_gets_signals_too() {
    if !crate::support::sandboxes() {
        return;
    }
    let place = Place::new();
    let handler = "trap 'exit 3' INT; echo ready; sleep 60 & wait";
    let deaf = "trap '' TERM; echo ready; sleep 60 & wait";
    for (script, signal, code) in [(handler, Signal::INT, 3), (deaf, Signal::TERM, 143)] {
        let mut going = place.start(&["exec", "--sandbox", "-q", "-t", "30", script]);
        going.wait_for("ready");
        going.signal(signal);
        assert_eq!(going.end(), Some(code), "{script}");
    }
}

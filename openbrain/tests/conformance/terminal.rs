//! Commands on a pseudo-terminal.

use std::time::Duration;

use openbrain::{ErrorKind, Event, Status, Stdin, TerminalSize};
use tokio::io::AsyncWriteExt;

use crate::{
    support::{Fixture, until},
    trees,
};

pub(crate) async fn a_terminal_has_its_size(f: &Fixture) {
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size && tty | cut -c 1-9";
    let output = f.run(f.shell(script).tty(24, 80)).await;
    assert_eq!(output.stdout_text(), "24 80\r\n/dev/pts/\r\n");
    assert!(output.success());
}

pub(crate) async fn a_terminal_can_be_resized(f: &Fixture) {
    let script = "trap 'stty size; kill $!; exit 3' WINCH; sleep 1000 & echo ready; wait";
    let mut process = f.spawn(f.shell(script).tty(24, 80)).await;
    until(&mut process, "ready").await;
    process.handle().resize(TerminalSize { rows: 40, cols: 132 });
    until(&mut process, "40 132\r\n").await;
    assert_eq!(process.wait().await.unwrap().status, Status::Exited(3));
}

pub(crate) async fn a_terminal_is_typed_on(f: &Fixture) {
    let script = "stty -echo; echo ready; read one; echo \"<$one>\"; cat; echo end; cat; echo all";
    let mut process = f.spawn(f.shell(script).tty(24, 80).stdin(Stdin::Pipe)).await;
    let mut stdin = process.take_stdin().unwrap();
    until(&mut process, "ready").await;
    stdin.write_all(b"a line\n").await.unwrap();
    until(&mut process, "<a line>").await;
    // Control-D at the start of a line is the end of the input.
    stdin.write_all(b"more\n\x04").await.unwrap();
    until(&mut process, "more\r\nend").await;
    stdin.write_all(b"half a line").await.unwrap();
    drop(stdin);
    until(&mut process, "half a lineall").await;
    assert!(process.wait().await.unwrap().success());
}

pub(crate) async fn the_input_of_a_terminal_ends(f: &Fixture) {
    let count = || f.argv(["wc", "-c"]).tty(24, 80);
    assert_eq!(f.run(count()).await.stdout_text(), "0\r\n");
    assert_eq!(f.run(count().stdin(Stdin::Pipe)).await.stdout_text(), "0\r\n");
    // The terminal repeats what is typed.
    let counted = f.run(count().stdin_bytes("a\nb")).await.stdout_text();
    assert_eq!(counted, "a\r\nb3\r\n");
    let error = f.refused(count().stdin(Stdin::File("/etc/passwd".into()))).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
}

pub(crate) async fn errors_arrive_in_the_output(f: &Fixture) {
    let output = f.run(f.shell("echo out; echo err >&2; exit 3").tty(24, 80)).await;
    assert_eq!(output.stdout_text(), "out\r\nerr\r\n");
    assert_eq!((output.stderr.total, output.status), (0, Status::Exited(3)));
}

/// No shell: one that is about to start a program may lose the signal.
pub(crate) async fn control_c_interrupts(f: &Fixture) {
    let mut process = f.spawn(f.argv(["cat"]).tty(24, 80).stdin(Stdin::Pipe)).await;
    let mut stdin = process.take_stdin().unwrap();
    stdin.write_all(b"ready\n").await.unwrap();
    // Once from the terminal, once from the command.
    until(&mut process, "ready\r\nready\r\n").await;
    stdin.write_all(b"\x03").await.unwrap();
    assert_eq!(process.wait().await.unwrap().status, Status::Signaled(libc::SIGINT));
}

pub(crate) async fn without_a_terminal_there_is_none(f: &Fixture) {
    let script = "test -t 0 || test -t 1 || test -t 2 || (: </dev/tty) 2>/dev/null; echo $?";
    let output = f.run(f.shell(script)).await;
    assert_ne!(output.stdout_text(), "0\n");
}

pub(crate) async fn deadline_ends_a_terminal(f: &Fixture) {
    let (exec, mut leash) = trees::DAEMON.plant(f);
    let exec = exec.tty(24, 80).timeout(Duration::from_millis(300));
    let mut process = f.spawn(exec).await;
    until(&mut process, "so far").await;
    trees::DAEMON.up(&mut leash).await;
    let event = process.next_event().await.unwrap();
    let Some(Event::Ended(output)) = event else { panic!("{event:?}") };
    assert_eq!(output.status, Status::TimedOut);
    assert!(!leash.is_held());
}

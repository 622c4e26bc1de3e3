//! Commands on a pseudo-terminal.

use std::time::Duration;

use openbrain::{Event, Status, TerminalSize};
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
    let script = "stty -echo; echo ready; read one; echo \"<$one>\"; cat; echo end";
    let mut process = f.spawn(f.shell(script).tty(24, 80)).await;
    let mut stdin = process.take_stdin().unwrap();
    until(&mut process, "ready").await;
    stdin.write_all(b"a line\n").await.unwrap();
    until(&mut process, "<a line>").await;
    // Control-D at the start of a line is the end of the input.
    stdin.write_all(b"more\n\x04").await.unwrap();
    until(&mut process, "more\r\nend").await;
    assert!(process.wait().await.unwrap().success());
}

pub(crate) async fn errors_arrive_in_the_output(f: &Fixture) {
    let output = f.run(f.shell("echo out; echo err >&2; exit 3").tty(24, 80)).await;
    assert_eq!(output.stdout_text(), "out\r\nerr\r\n");
    assert_eq!((output.stderr.total, output.status), (0, Status::Exited(3)));
}

pub(crate) async fn control_c_interrupts(f: &Fixture) {
    let mut process = f.spawn(f.shell("echo ready; sleep 1000; echo no").tty(24, 80)).await;
    until(&mut process, "ready").await;
    process.take_stdin().unwrap().write_all(b"\x03").await.unwrap();
    let output = process.wait().await.unwrap();
    assert_eq!(output.status, Status::Signaled(libc::SIGINT));
    assert!(!output.stdout_text().contains("no"));
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

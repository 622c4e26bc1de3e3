//! What a command reads.

use std::{process::Stdio, time::Duration};

use openbrain::{ErrorKind, Stdin};
use tokio::io::AsyncWriteExt;

use crate::support::{Fixture, text, until};

const MANY: usize = 10 << 20;

pub(crate) async fn nothing_is_end_of_file_at_once(f: &Fixture) {
    let output = f.run(f.argv(["cat"])).await;
    assert!(output.success() && output.stdout.bytes.is_empty());
}

pub(crate) async fn bytes_are_read(f: &Fixture) {
    let all: Vec<u8> = (0..=255).collect();
    let output = f.run(f.argv(["cat"]).stdin_bytes(all.clone())).await;
    assert_eq!(output.stdout.bytes, all);
}

pub(crate) async fn no_bytes_are_end_of_file(f: &Fixture) {
    let output = f.run(f.argv(["cat"]).stdin_bytes("")).await;
    assert!(output.success() && output.stdout.bytes.is_empty());
}

/// The library opens it: it need not be visible in a sandbox, nor readable for its user.
pub(crate) async fn a_file_is_read(f: &Fixture) {
    let file = f.file("input", "from a file\n", 0o600);
    let output = f.run(f.argv(["cat"]).stdin(Stdin::File(file))).await;
    assert_eq!(output.stdout_text(), "from a file\n");
}

pub(crate) async fn a_missing_file_is_refused(f: &Fixture) {
    let file = f.directory().join("missing");
    let error = f.refused(f.argv(["cat"]).stdin(Stdin::File(file.clone()))).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains(text(&file)), "{error:?}");
}

pub(crate) async fn a_directory_is_refused(f: &Fixture) {
    let error = f.refused(f.argv(["cat"]).stdin(Stdin::File(f.directory().into()))).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
}

pub(crate) async fn a_pipe_is_written_while_the_command_runs(f: &Fixture) {
    let mut process = f.spawn(f.argv(["cat"]).stdin(Stdin::Pipe)).await;
    let mut stdin = process.take_stdin().unwrap();
    assert!(process.take_stdin().is_none());
    for line in ["one\n", "two\n"] {
        stdin.write_all(line.as_bytes()).await.unwrap();
        assert_eq!(until(&mut process, "\n").await, line);
    }
    drop(stdin);
    let output = process.wait().await.unwrap();
    assert!(output.success() && output.stdout.bytes.is_empty());
}

pub(crate) async fn a_pipe_that_nobody_takes_is_closed(f: &Fixture) {
    let output = f.run(f.argv(["cat"]).stdin(Stdin::Pipe)).await;
    assert!(output.success());
}

pub(crate) async fn a_program_that_reads_nothing_is_not_held(f: &Fixture) {
    let exec = f.argv(["true"]).stdin_bytes(vec![7; MANY]).timeout(Duration::from_secs(50));
    let output = f.run(exec).await;
    assert!(output.success());
    assert!(output.duration < Duration::from_secs(5), "{:?}", output.duration);
}

pub(crate) async fn much_input_comes_back(f: &Fixture) {
    let input: Vec<u8> = (0..MANY).map(|i| (i / 3) as u8).collect();
    let output = f.run(f.argv(["cat"]).stdin_bytes(input.clone())).await;
    assert_eq!((output.stdout.total, output.stdout.truncated), (MANY as u64, false));
    assert!(output.stdout.bytes == input);
}

pub(crate) async fn the_input_of_the_host_can_be_inherited(f: &Fixture) {
    if f.is_own_process() {
        let output = f.run(f.argv(["cat"]).stdin(Stdin::Inherit)).await;
        assert_eq!(output.stdout_text(), "from the caller\n");
        return;
    }
    let mut child = f.own_process().stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"from the caller\n").await.unwrap();
    drop(stdin);
    assert!(child.wait().await.unwrap().success());
}

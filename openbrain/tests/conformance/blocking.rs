//! The form for programs without an async runtime.

use std::thread;

use openbrain::{ErrorKind, Exec, Output, Result, Status};

use crate::support::Fixture;

/// On a thread that has no runtime.
fn outside(f: &Fixture, exec: Exec) -> Result<Output> {
    thread::scope(|scope| scope.spawn(|| f.engine.run_blocking(exec)).join().unwrap())
}

fn is_right(output: &Output) {
    assert_eq!(output.status, Status::Exited(3));
    assert_eq!((output.stdout_text().as_str(), output.stderr_text().as_str()), ("in\n", "err\n"));
}

fn command(f: &Fixture) -> Exec {
    f.shell("cat; echo err >&2; exit 3").stdin_bytes("in\n")
}

pub(crate) async fn blocking_works_without_a_runtime(f: &Fixture) {
    is_right(&outside(f, command(f)).unwrap());
}

pub(crate) async fn blocking_works_inside_a_runtime(f: &Fixture) {
    is_right(&f.engine.run_blocking(command(f)).unwrap());
}

pub(crate) async fn blocking_errors_are_the_same(f: &Fixture) {
    let exec = f.argv(["no-such-program"]);
    let expected = f.refused(exec.clone()).await;
    assert_eq!(expected.kind(), ErrorKind::CommandNotFound);
    for result in [outside(f, exec.clone()), f.engine.run_blocking(exec)] {
        assert_eq!(result.unwrap_err().to_json(), expected.to_json());
    }
}

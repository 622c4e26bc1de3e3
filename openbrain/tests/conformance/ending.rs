//! The ways to end a command before its time.

use std::{sync::mpsc, thread, time::Instant};

use openbrain::{ErrorKind, Exec, Process, Status, Stdin};
use tokio::io::AsyncWriteExt;

use crate::{
    support::{Fixture, Leash, UP, runtime, until},
    trees::{self, AT_ONCE, Tree},
};

pub(crate) async fn cancel_leaves_nothing(f: &Fixture) {
    end_all(f, Process::cancel).await;
}

pub(crate) async fn kill_leaves_nothing(f: &Fixture) {
    end_all(f, Process::kill).await;
}

async fn end_all(f: &Fixture, end: impl Fn(&Process)) {
    for tree in &trees::ALL {
        let (process, mut leash) = grow(f, tree).await;
        tree.up(&mut leash).await;
        let started = Instant::now();
        end(&process);
        let output = process.wait().await.unwrap();
        let elapsed = started.elapsed();
        leash.is_gone(&output).await;
        assert!(elapsed < AT_ONCE, "{elapsed:?} for {tree:?}");
        assert_eq!(output.status, Status::Cancelled);
        assert_eq!((output.exit_code(), output.signal()), (None, None));
        assert_eq!(output.stdout_text(), "so far\n");
    }
}

async fn grow(f: &Fixture, tree: &Tree) -> (Process, Leash) {
    let (exec, leash) = tree.plant(f);
    (f.spawn(exec).await, leash)
}

pub(crate) async fn dropping_the_process_leaves_nothing(f: &Fixture) {
    for tree in &trees::ALL {
        let (process, mut leash) = grow(f, tree).await;
        tree.up(&mut leash).await;
        drop(process);
        leash.released().await;
    }
}

/// A handle does not keep its process alive.
pub(crate) async fn dropping_the_process_beside_a_handle_leaves_nothing(f: &Fixture) {
    let (process, mut leash) = grow(f, &trees::DAEMON).await;
    trees::DAEMON.up(&mut leash).await;
    let handle = process.handle();
    drop(process);
    leash.released().await;
    handle.ended().await;
}

pub(crate) async fn cancelling_again_and_again_gives_no_more_time(f: &Fixture) {
    let (process, mut leash) = grow(f, &trees::IGNORES_TERM).await;
    trees::IGNORES_TERM.up(&mut leash).await;
    let started = Instant::now();
    let handle = process.handle();
    let insist = async {
        loop {
            handle.cancel();
            tokio::task::yield_now().await;
        }
    };
    let output = tokio::select! {
        output = process.wait() => output.unwrap(),
        () = insist => unreachable!(),
    };
    assert_eq!(output.status, Status::Cancelled);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
}

pub(crate) async fn signal_zero_does_nothing(f: &Fixture) {
    let process = f.spawn(f.shell("read line; echo $line").stdin(Stdin::Pipe)).await;
    let mut process = process;
    for signal in [0, -1, 65, i32::MIN] {
        process.signal(signal);
    }
    let mut stdin = process.take_stdin().unwrap();
    stdin.write_all(b"still here\n").await.unwrap();
    drop(stdin);
    assert_eq!(process.wait().await.unwrap().stdout_text(), "still here\n");
}

pub(crate) async fn dropping_the_future_leaves_nothing(f: &Fixture) {
    for tree in &trees::ALL {
        let (exec, mut leash) = tree.plant(f);
        tokio::select! {
            output = f.run(exec) => panic!("{tree:?} ended: {output:?}"),
            () = tree.up(&mut leash) => {}
        }
        leash.released().await;
    }
}

pub(crate) async fn dropping_the_runtime_leaves_nothing(f: &Fixture) {
    for tree in &trees::ALL {
        let (exec, mut leash) = tree.plant(f);
        let other = OtherRuntime::spawn(f, exec);
        tree.up(&mut leash).await;
        // The process lives on, without anything that could drive it.
        let process = other.stop();
        leash.released().await;
        drop(process);
    }
}

pub(crate) async fn a_process_without_its_runtime_is_an_error(f: &Fixture) {
    let (exec, mut leash) = trees::GRANDCHILD.plant(f);
    let other = OtherRuntime::spawn(f, exec);
    trees::GRANDCHILD.up(&mut leash).await;
    let error = other.stop().wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.remedy().unwrap().contains("runtime"), "{error:?}");
    leash.released().await;
}

/// A process on a runtime of another thread.
struct OtherRuntime {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<Process>,
}

impl OtherRuntime {
    fn spawn(f: &Fixture, exec: Exec) -> Self {
        let engine = f.engine.clone();
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = runtime();
            let process = runtime.block_on(engine.spawn(exec)).unwrap();
            let _ = stopped.recv();
            drop(runtime);
            process
        });
        Self { stop, thread }
    }

    /// Ends the runtime and returns the process.
    fn stop(self) -> Process {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

pub(crate) async fn a_signal_reaches_the_command(f: &Fixture) {
    let script = "trap 'kill $!; exit 7' INT; sleep 1000 & echo ready; wait";
    let mut process = f.spawn(f.shell(script)).await;
    until(&mut process, "ready\n").await;
    process.signal(libc::SIGINT);
    assert_eq!(process.wait().await.unwrap().status, Status::Exited(7));
    let mut process = f.spawn(f.shell("echo ready; exec sleep 1000")).await;
    until(&mut process, "ready\n").await;
    process.signal(libc::SIGUSR1);
    assert_eq!(process.wait().await.unwrap().status, Status::Signaled(libc::SIGUSR1));
}

pub(crate) async fn a_handle_works_from_another_task(f: &Fixture) {
    let (process, mut leash) = grow(f, &trees::GRANDCHILD).await;
    let handle = process.handle();
    let ending = tokio::spawn(async move {
        trees::GRANDCHILD.up(&mut leash).await;
        handle.cancel();
        leash
    });
    let output = process.wait().await.unwrap();
    assert_eq!(output.status, Status::Cancelled);
    ending.await.unwrap().is_gone(&output).await;
}

pub(crate) async fn a_handle_is_harmless_after_the_end(f: &Fixture) {
    let process = f.spawn(f.shell("exit 3")).await;
    let handle = process.handle();
    assert_eq!(process.wait().await.unwrap().status, Status::Exited(3));
    handle.signal(libc::SIGTERM);
    handle.cancel();
    handle.kill();
    let mut process = f.spawn(f.shell("exit 4")).await;
    while let Some(event) = process.next_event().await.unwrap() {
        let openbrain::Event::Ended(output) = event else { panic!("{event:?}") };
        assert_eq!(output.status, Status::Exited(4));
    }
    process.cancel();
    process.kill();
    assert!(process.next_event().await.unwrap().is_none());
}

pub(crate) async fn cancel_is_gentle(f: &Fixture) {
    let script = format!("trap 'echo bye; exit 0' TERM; sleep 1000 & {UP}; wait");
    let mut leash = f.leash();
    let process = f.spawn(leash.hold(f, f.shell(script))).await;
    leash.up(1).await;
    process.cancel();
    let output = process.wait().await.unwrap();
    assert_eq!((output.status, output.stdout_text().as_str()), (Status::Cancelled, "bye\n"));
    assert!(!leash.is_held());
}

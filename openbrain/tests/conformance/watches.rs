//! What happens to the files of a sandbox, while it happens.

use std::{io, path::Path, time::Duration};

use openbrain::{ErrorKind, FileChangeKind, FileWatch, NewSandbox};
use tokio::time::timeout;

use crate::{
    files::shell,
    ports::{PORT, ask, serving},
    support::Fixture,
};

use FileChangeKind::{Attributes, Created, Lost, Modified, Removed};

/// Everything up to the creation of a file, which is not told.
async fn until(watch: &mut FileWatch, last: &str) -> Vec<(FileChangeKind, String, bool)> {
    let mut told = Vec::new();
    loop {
        let change = watch.next().await.unwrap().expect("the watch goes on");
        if change.path == Path::new(last) {
            return told;
        }
        let path = change.path.to_str().unwrap().to_owned();
        told.push((change.kind, path, change.is_directory));
    }
}

pub(crate) async fn changes_are_told_as_they_happen(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    shell(&sandbox, "mkdir -p /tmp/w/deep/er; echo 1 >/tmp/w/deep/er/file; ln -s /tmp /tmp/w/link")
        .await;
    let mut watch = sandbox.files().watch("/tmp/w").await.unwrap();
    let script = "cd /tmp/w; echo 2 >>deep/er/file; chmod 600 deep/er/file; mv deep/er/file deep/moved; \
                  rm deep/moved; touch /tmp/beside; mkdir 'new\n'; rmdir 'new\n'; mkdir end";
    shell(&sandbox, script).await;
    let told = until(&mut watch, "end").await;
    let told: Vec<_> = told.iter().map(|(kind, path, is)| (*kind, path.as_str(), *is)).collect();
    let expected = [
        (Modified, "deep/er/file", false),
        (Attributes, "deep/er/file", false),
        (Removed, "deep/er/file", false),
        (Created, "deep/moved", false),
        (Removed, "deep/moved", false),
        (Created, "new\n", true),
        (Removed, "new\n", true),
    ];
    assert_eq!(told, expected);
    // By whatever other way.
    sandbox.files().write("/tmp/w/by/verb", "x").await.unwrap();
    shell(&sandbox, "touch /tmp/w/last").await;
    let told = until(&mut watch, "last").await;
    assert!(told.contains(&(Created, "by".into(), true)), "{told:?}");
    assert!(told.contains(&(Created, "by/verb".into(), false)), "{told:?}");
}

/// Directories that come and go are watched by their name at the time.
pub(crate) async fn new_directories_are_watched(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    shell(&sandbox, "mkdir -p /tmp/w /tmp/elsewhere/sub; touch /tmp/elsewhere/sub/old").await;
    let mut watch = sandbox.files().watch("/tmp/w").await.unwrap();
    shell(&sandbox, "cd /tmp/w; mkdir -p a/b/c; mv /tmp/elsewhere in; touch one").await;
    let told = until(&mut watch, "one").await;
    for (path, is_directory) in [("a", true), ("in", true), ("in/sub", true), ("in/sub/old", false)]
    {
        assert!(told.contains(&(Created, path.into(), is_directory)), "{path}: {told:?}");
    }
    shell(&sandbox, "cd /tmp/w; touch a/b/c/file in/sub/new; mv a moved; touch two").await;
    let told = until(&mut watch, "two").await;
    for (kind, path) in
        [(Created, "a/b/c/file"), (Created, "in/sub/new"), (Removed, "a"), (Created, "moved")]
    {
        assert!(told.iter().any(|(k, p, _)| (*k, p.as_str()) == (kind, path)), "{path}: {told:?}");
    }
    shell(
        &sandbox,
        "cd /tmp/w; touch moved/b/c/again; mv in /tmp/out; touch /tmp/out/sub/unseen three",
    )
    .await;
    let told = until(&mut watch, "three").await;
    assert!(told.contains(&(Created, "moved/b/c/again".into(), false)), "{told:?}");
    assert!(!told.iter().any(|(_, path, _)| path.contains("unseen")), "{told:?}");
    // With the directory itself the watch ends.
    shell(&sandbox, "rm -r /tmp/w").await;
    while watch.next().await.unwrap().is_some() {}
}

pub(crate) async fn a_watch_that_cannot_keep_up_says_so(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    shell(&sandbox, "mkdir -p /tmp/w/old/er /tmp/out").await;
    // The queue of the kernel has 16384 places (`max_queued_events`), and there is room on the way.
    let flood = "cd /tmp/w; n=$(cat /proc/sys/fs/inotify/max_queued_events); i=0; \
                 while [ $i -lt $((n * 2 + 40000)) ]; do : >a; : >b; i=$((i + 1)); done";
    let mut watch = sandbox.files().watch("/tmp/w").await.unwrap();
    shell(&sandbox, &format!("{flood}; mkdir -p new/est; mv old /tmp/out")).await;
    let lost = async {
        while let Some(change) = watch.next().await.unwrap() {
            if change.kind == Lost {
                return;
            }
        }
    };
    lost.await;
    // What has come in between is watched, and what has gone is not.
    shell(&sandbox, "cd /tmp/w; touch new/est/file /tmp/out/old/er/unseen last").await;
    let told = until(&mut watch, "last").await;
    assert!(told.contains(&(Created, "new/est/file".into(), false)), "{told:?}");
    assert!(!told.iter().any(|(_, path, _)| path.contains("unseen")), "{told:?}");
    // The end of the directory is not missed either.
    shell(&sandbox, &format!("{flood}; rm -r /tmp/w")).await;
    let end = async { while watch.next().await.unwrap().is_some() {} };
    timeout(Duration::from_secs(60), end).await.expect("the watch has ended");
}

pub(crate) async fn what_cannot_be_watched_is_told(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    shell(&sandbox, "touch /tmp/file; mkdir /tmp/w").await;
    for (path, reason) in
        [("/tmp/none", io::ErrorKind::NotFound), ("/tmp/file", io::ErrorKind::NotADirectory)]
    {
        let error = sandbox.files().watch(path).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.io_kind()),
            (ErrorKind::FileFailed, Some(reason)),
            "{error}"
        );
    }
    let script = "mkdir /tmp/many; cd /tmp/many; i=0; while [ $i -lt 4100 ]; do echo $i; i=$((i + 1)); \
                  done | xargs mkdir";
    shell(&sandbox, script).await;
    let error = sandbox.files().watch("/tmp/many").await.unwrap_err();
    assert_eq!(error.io_kind(), Some(io::ErrorKind::StorageFull), "{error}");
    assert!(error.remedy().is_some());
    let mut watch = sandbox.files().watch("/tmp/w").await.unwrap();
    sandbox.kill().await.unwrap();
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
}

/// The time that a sandbox had at first says nothing of one that was renewed.
pub(crate) async fn watches_and_connections_last_as_long_as_the_sandbox(f: &Fixture) {
    let (first, long) = (Duration::from_secs(2), Duration::from_secs(100));
    let sandbox = f.create(NewSandbox::default().timeout(first)).await;
    sandbox.renew(long).await.unwrap();
    shell(&sandbox, "mkdir /tmp/w").await;
    let _server = serving(&sandbox, "serve(echo)").await;
    let mut watch = sandbox.files().watch("/tmp/w").await.unwrap();
    let mut connection = sandbox.connect(PORT).await.unwrap();
    shell(&sandbox, "sleep 2; mkdir /tmp/w/one; touch /tmp/w/last").await;
    assert_eq!(until(&mut watch, "last").await, [(Created, "one".into(), true)]);
    assert_eq!(ask(&mut connection, b"still there?").await, b"still there?");
}

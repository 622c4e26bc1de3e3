//! Changes of a sandbox that stays open.

use openbrain::{Exec, Mount, MountMode, NewSandbox};
use tokio::runtime::Runtime;

use crate::support::{Host, snapshot, told};

fn with_sandbox(host: &Host, case: impl AsyncFnOnce(openbrain::Sandbox)) {
    Runtime::new().unwrap().block_on(async {
        let mount = Mount::new(host.tree(), "/workspace", MountMode::Overlay);
        let new = NewSandbox::default().mount_at(mount);
        case(host.engine.create(new).await.unwrap()).await;
    });
}

#[test]
fn an_open_sandbox_tells_what_its_commands_changed_until_now() {
    let host = Host::with(&[("a", "a\n"), ("d/b", "b\n")]);
    with_sandbox(&host, async |sandbox| {
        assert!(sandbox.changes().await.unwrap().is_empty());
        sandbox.run(Exec::new("echo x >> a")).await.unwrap();
        assert_eq!(told(&sandbox.changes().await.unwrap()), ["M a"]);
        sandbox.files().write("n", "n").await.unwrap();
        sandbox.run(Exec::new("rm -r d; echo t > /tmp/t")).await.unwrap();
        let changes = sandbox.changes().await.unwrap();
        assert_eq!(told(&changes), ["M a", "D d", "D d/b", "A n"]);
        assert_eq!(changes.entries.last().unwrap().to_string(), "A /tmp/t");
    });
}

#[test]
fn changes_of_an_open_sandbox_are_applied() {
    let host = Host::with(&[("a", "a\n"), ("d/b", "b\n")]);
    with_sandbox(&host, async |sandbox| {
        let command = crate::support::snapshot_command("/workspace");
        let script = format!("echo x >> a; mv d e; ln a c; {command}");
        let output = sandbox.run(Exec::new(script)).await.unwrap();
        let mut saved = sandbox.changes().await.unwrap().save(&host.saved()).unwrap().unwrap();
        drop(sandbox);
        saved.apply(&[]).unwrap();
        assert_eq!(snapshot(&host.tree()), crate::support::lines(&output.stdout_text()));
    });
}

#[test]
fn what_changed_since_the_report_is_not_saved_as_if_it_were_reported() {
    let host = Host::with(&[("a", "a\n")]);
    with_sandbox(&host, async |sandbox| {
        sandbox.run(Exec::new("echo first > a")).await.unwrap();
        let mut changes = sandbox.changes().await.unwrap();
        sandbox.run(Exec::new("echo then > a")).await.unwrap();
        let error = changes.save(&host.saved()).unwrap_err();
        assert_eq!(error.code(), "file_failed", "{error}");
        assert_eq!(std::fs::read_dir(host.saved()).unwrap().count(), 0);
    });
}

#[test]
fn a_killed_sandbox_has_no_changes_to_tell() {
    let host = Host::new();
    with_sandbox(&host, async |sandbox| {
        sandbox.kill().await.unwrap();
        assert_eq!(sandbox.changes().await.unwrap_err().code(), "sandbox_lost");
    });
}

#[test]
fn a_command_in_an_open_sandbox_has_no_report_of_its_own() {
    let host = Host::new();
    with_sandbox(&host, async |sandbox| {
        let error = sandbox.run(Exec::new("true").changes()).await.unwrap_err();
        assert_eq!(error.code(), "invalid_request");
        assert!(error.remedy().unwrap().contains("sandbox"), "{error:?}");
    });
}

//! Changes of a sandbox that stays open.

use openbrain::{Engine, Exec, Mount, MountMode, NewSandbox, Settings, System};
use tokio::runtime::Runtime;

use crate::{
    image::unpack_image,
    support::{Host, snapshot, told},
};

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
        assert!(error.remedy().unwrap().contains("again when nothing writes"), "{error:?}");
        assert_eq!(std::fs::read_dir(host.saved()).unwrap().count(), 0);
    });
}

#[test]
fn what_is_missing_of_tmp_holds_up_no_mount() {
    let host = Host::with(&[("a", "a\n")]);
    let deep = "import os; os.chdir('/tmp')\nfor n in range(3000):\n  os.mkdir('d' * 50); os.chdir('d' * 50)";
    with_sandbox(&host, async |sandbox| {
        sandbox.run(Exec::new("echo b > a")).await.unwrap();
        sandbox.run(Exec::script("python", deep)).await.unwrap();
        let mut changes = sandbox.changes().await.unwrap();
        assert!(changes.truncated);
        changes.save(&host.saved()).unwrap().unwrap().apply(&[]).unwrap();
        assert_eq!(host.read("a"), "b\n");
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

#[test]
fn what_is_written_to_an_image_is_told() {
    for system in [System::Ro, System::Overlay] {
        let host = Host::with(&[("a", "a\n")]);
        let (image, data) = (host.beside("image"), host.beside("data"));
        unpack_image(&image);
        std::fs::create_dir(&data).unwrap();
        let before = snapshot(&image);
        let mut settings = Settings::default();
        settings.security.sandbox.system = system;
        let new = NewSandbox::default()
            .rootfs(&image)
            .mount_at(Mount::new(host.tree(), "/workspace", MountMode::Overlay))
            .mount_at(Mount::new(&data, "/usr/share/deep/data", MountMode::Rw))
            .mount_at(Mount::new(&data, "/opt/app/data", MountMode::Rw));
        Runtime::new().unwrap().block_on(async {
            let sandbox = Engine::new(settings).create(new).await.unwrap();
            let changes = sandbox.changes().await.unwrap();
            // What openbrain has put there is not what a command did.
            assert!(changes.is_empty(), "{changes:?}");
            let script =
                "echo x >> /etc/passwd; rm /etc/hosts /var/lib/file; echo y > /opt/app/file
                          mkdir /opt/new; echo n > /usr/bin/n; echo w > w; echo t > /var/tmp/t
                          echo ID=image > /etc/os-release; echo d > /opt/app/data/d";
            let output = sandbox.run(Exec::new(script)).await.unwrap();
            assert!(output.success(), "{}", output.stderr_text());
            let mut changes = sandbox.changes().await.unwrap();
            let lines: Vec<_> = changes.entries.iter().map(ToString::to_string).collect();
            let expected = [
                "A /workspace/w",
                "A /var/tmp/t",
                "D /etc/hosts",
                "M /etc/passwd",
                "M /opt/app/file",
                "A /opt/new",
                "A /usr/bin/n",
                "D /var/lib/file",
            ];
            assert_eq!(lines, expected);
            // Compared is with what the sandbox had.
            let diff = changes.entries[3].diff.as_deref().unwrap();
            let added = diff.lines().skip(2).filter(|line| line.starts_with(['+', '-']));
            assert_eq!(added.collect::<Vec<_>>(), ["+x"], "{diff}");
            assert!(diff.contains(" sandbox:x:"), "{diff}");
            // They go with the sandbox: there is no mount that they could be applied to.
            let mut saved = changes.save(&host.saved()).unwrap().unwrap();
            drop(sandbox);
            assert_eq!(saved.apply(&[]).unwrap().paths.len(), 1);
        });
        assert_eq!(host.read("w"), "w\n");
        assert_eq!(snapshot(&image), before);
    }
}

/// Without an image, an overlay of the system has directories that are the user's.
#[test]
fn what_is_written_to_the_system_is_told() {
    let mut settings = Settings::default();
    settings.security.sandbox.system = System::Overlay;
    Runtime::new().unwrap().block_on(async {
        let sandbox = Engine::new(settings).create(NewSandbox::default()).await.unwrap();
        assert!(sandbox.changes().await.unwrap().is_empty());
        sandbox.run(Exec::new("echo x > /usr/local/bin/x")).await.unwrap();
        let changes = sandbox.changes().await.unwrap();
        let lines: Vec<_> = changes.entries.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["A /usr/local/bin/x"]);
    });
}

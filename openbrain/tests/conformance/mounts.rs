//! Host directories in a sandbox.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
};

use openbrain::{ErrorKind, Mount, MountMode};

use crate::support::{Fixture, entries, text};

fn content(f: &Fixture, name: &str) -> Option<String> {
    fs::read_to_string(f.directory().join(name)).ok()
}

pub(crate) async fn a_workspace_is_written_through(f: &Fixture) {
    f.file("old", "old\n", 0o644);
    let exec =
        f.shell("cat old; echo more >> old; mkdir d; echo new > d/new; pwd").mount(f.directory());
    let output = f.run(exec).await;
    assert_eq!(output.stdout_text(), "old\n/workspace\n", "{}", output.stderr_text());
    assert_eq!(content(f, "old").as_deref(), Some("old\nmore\n"));
    assert_eq!(content(f, "d/new").as_deref(), Some("new\n"));
}

/// Root's sandbox is a user that owns nothing; an ordinary user's is that user.
pub(crate) async fn what_is_written_belongs_to_the_owner(f: &Fixture) {
    let owner = match rustix::process::geteuid().as_raw() {
        0 => 12_321,
        user => user,
    };
    if rustix::process::geteuid().is_root() {
        chown(f.directory(), Some(owner), Some(owner)).unwrap();
    }
    let output = f.run(f.shell("touch file; stat -c %U file").mount(f.directory())).await;
    assert_eq!(output.stdout_text(), "sandbox\n", "{}", output.stderr_text());
    assert_eq!(fs::metadata(f.directory().join("file")).unwrap().uid(), owner);
}

pub(crate) async fn a_read_only_mount_is_never_written(f: &Fixture) {
    f.file("old", "old\n", 0o666);
    let mount = Mount::new(f.directory(), "/data", MountMode::Ro);
    let script = "cd /data; cat old; touch new; echo x >> old; rm -f old; chmod 777 old; echo end";
    let output = f.run(f.shell(script).mount_at(mount)).await;
    assert_eq!(output.stdout_text(), "old\nend\n");
    assert_eq!(output.stderr_text().lines().count(), 4, "{}", output.stderr_text());
    assert_eq!(entries(f.directory()), [f.directory().join("old")]);
    assert_eq!(content(f, "old").as_deref(), Some("old\n"));
}

pub(crate) async fn an_overlay_is_thrown_away(f: &Fixture) {
    f.file("old", "old\n", 0o644);
    f.file("below/other", "other\n", 0o644);
    let mount = Mount::new(f.directory(), "/data", MountMode::Overlay);
    let script = "cd /data && echo x >> old && cat old && rm below/other && echo y > new && ls";
    for _ in 0..2 {
        let output = f.run(f.shell(script).mount_at(mount.clone())).await;
        assert_eq!(output.stdout_text(), "old\nx\nbelow\nnew\nold\n", "{}", output.stderr_text());
    }
    assert_eq!(content(f, "old").as_deref(), Some("old\n"));
    assert_eq!(content(f, "below/other").as_deref(), Some("other\n"));
    assert_eq!(content(f, "new"), None);
}

pub(crate) async fn a_server_mounts_no_overlay(f: &Fixture) {
    let mount = Mount::new(f.directory(), "/data", MountMode::Overlay);
    let error = f.refused(f.argv(["true"]).mount_at(mount)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains("`/data`"), "{error:?}");
    assert!(error.remedy().unwrap().contains("embedded"), "{error:?}");
}

pub(crate) async fn several_mounts_are_apart(f: &Fixture) {
    let one = f.file("one/file", "1\n", 0o644);
    f.file("two/file", "2\n", 0o644);
    let exec = f
        .shell("cat /a/file /workspace/file /one/name; touch /workspace/new; ls /a")
        .mount(f.directory().join("two"))
        .mount_at(Mount::new(f.directory().join("one"), "/a", MountMode::Rw))
        .mount_at(Mount::new(one, "/one/name", MountMode::Ro));
    assert_eq!(f.run(exec).await.stdout_text(), "1\n2\n1\nfile\n");
    assert!(f.directory().join("two/new").exists());
}

pub(crate) async fn an_exposed_path_is_readable_in_place(f: &Fixture) {
    let tool = f.file("tools/tool", "#!/bin/sh\necho works\n", 0o755);
    let script = format!("{0}; touch {0} {0}x", text(&tool));
    let output = f.run(f.shell(script).expose(f.directory().join("tools"))).await;
    assert_eq!(output.stdout_text(), "works\n");
    assert_eq!(output.stderr_text().lines().count(), 2, "{}", output.stderr_text());
    assert_eq!(entries(f.directory().join("tools")), [tool]);
}

pub(crate) async fn what_is_not_exposed_is_absent(f: &Fixture) {
    let file = f.file("file", "secret\n", 0o644);
    let output = f.run(f.argv(["cat", text(&file)])).await;
    assert_eq!(output.stdout_text(), "");
    assert!(output.stderr_text().contains("No such file"), "{}", output.stderr_text());
}

pub(crate) async fn a_workspace_without_mount_is_ephemeral(f: &Fixture) {
    let script = "ls -A /workspace ~ /tmp; touch /workspace/a ~/b /tmp/c && echo written >&2";
    let first = f.run(f.shell(script)).await;
    let second = f.run(f.shell(script)).await;
    assert_eq!(first.stderr_text(), "written\n");
    assert_eq!(second.stdout_text(), first.stdout_text());
}

pub(crate) async fn two_mounts_at_one_target_are_refused(f: &Fixture) {
    let mount = Mount::new(f.directory(), "/data", MountMode::Ro);
    let error = f.refused(f.argv(["true"]).mount_at(mount.clone()).mount_at(mount)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(error.to_string(), "two mounts at `/data`");
}

pub(crate) async fn a_missing_mount_is_named(f: &Fixture) {
    let missing = f.directory().join("missing");
    let error = f.refused(f.argv(["true"]).mount(&missing)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains(&format!("`{}`", text(&missing))), "{error:?}");
    assert!(!missing.exists());
    let error = f.refused(f.argv(["true"]).expose(&missing)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains(&format!("`{}`", text(&missing))), "{error:?}");
}

pub(crate) async fn a_file_is_no_workspace(f: &Fixture) {
    let file = f.file("file", "", 0o644);
    let error = f.refused(f.argv(["true"]).mount(&file)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains(text(&file)), "{error:?}");
}

pub(crate) async fn a_mount_needs_a_sandbox(f: &Fixture) {
    let touch = f.shell(format!("touch {}/marker", text(f.directory())));
    for exec in [
        touch.clone().mount(f.directory()),
        touch.clone().expose(f.directory()),
        touch.clone().allow_network(false),
    ] {
        let error = f.refused(exec).await;
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.remedy().unwrap().contains("--sandbox"), "{error:?}");
    }
    assert!(entries(f.directory()).is_empty());
}

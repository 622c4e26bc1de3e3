//! What the report says.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use openbrain::{ChangeKind, Changes, EntryKind, Exec, Mount, MountMode, NoDiff, Status, System};

use crate::support::{Host, told};

#[test]
fn every_kind_of_change_is_told() {
    let host = Host::with(&[
        ("kept", "kept\n"),
        ("edited", "one\ntwo\n"),
        ("gone", "gone\n"),
        ("mode", "mode\n"),
        ("dir/inside", "inside\n"),
        ("dir/deep/inner", "inner\n"),
        ("to_dir", "file\n"),
        ("to_file/x", "x\n"),
    ]);
    host.link("link", "kept");
    let changes = host.changes(
        "echo three >> edited; rm gone; chmod 600 mode; rm -r dir; ln -sfn edited link
         rm to_dir; mkdir to_dir; echo y > to_dir/y; rm -r to_file; echo f > to_file
         mkdir new; echo n > new/n; mkfifo pipe; ln -s nowhere dangling",
    );
    let expected = [
        "A dangling",
        "D dir",
        "D dir/deep",
        "D dir/deep/inner",
        "D dir/inside",
        "M edited",
        "D gone",
        "M link",
        "M mode",
        "A new",
        "A new/n",
        "A pipe",
        "T to_dir",
        "A to_dir/y",
        "T to_file",
        "D to_file/x",
    ];
    assert_eq!(told(&changes), expected);
    let find = |name: &str| {
        let path = Path::new("/workspace").join(name);
        changes.entries.iter().find(|change| change.path == path).unwrap()
    };
    let edited = find("edited");
    assert_eq!((edited.kind, edited.size, edited.mode & 0o700), (EntryKind::File, Some(14), 0o600));
    assert_eq!(edited.mount.as_deref(), Some(Path::new("/workspace")));
    let diff = "--- a/edited\n+++ b/edited\n@@ -1,2 +1,3 @@\n one\n two\n+three\n";
    assert_eq!(edited.diff.as_deref(), Some(diff));
    let mode = find("mode");
    assert_eq!((mode.mode, mode.old_mode, &mode.diff), (0o600, Some(0o644), &None));
    assert_eq!(
        find("gone").diff.as_deref(),
        Some("--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n")
    );
    assert_eq!(find("link").target.as_deref(), Some(Path::new("edited")));
    assert_eq!(find("to_dir").old_kind, Some(EntryKind::File));
    assert_eq!(find("to_file").old_kind, Some(EntryKind::Directory));
    assert_eq!(find("pipe").kind, EntryKind::Fifo);
    assert_eq!(changes.counts(), [5, 5, 6]);
    assert!(!changes.truncated);
}

#[test]
fn what_is_the_same_again_has_not_changed() {
    let host = Host::with(&[("a", "a\n"), ("d/b", "b\n"), ("d/c", "c\n")]);
    host.link("l", "a");
    let changes = host.changes(
        "touch a; : >> d/b; cp d/c x; mv x d/c; chmod 600 a; chmod 644 a
         rm -r d/b; echo b > d/b; ln -sfn a l; mkdir e; rmdir e; echo t > t; rm t",
    );
    assert_eq!(told(&changes), [""; 0]);
}

#[test]
fn a_directory_made_anew_hides_what_was_in_it() {
    let host =
        Host::with(&[("d/old", "1"), ("d/same", "2"), ("d/sub/deep", "3"), ("d/sub/x", "4")]);
    let changes = host.changes(
        "rm -r d; mkdir -p d/sub; printf 2 > d/same; printf new > d/new; printf 3 > d/sub/deep",
    );
    assert_eq!(told(&changes), ["A d/new", "D d/old", "D d/sub/x"]);
}

#[test]
fn renames_are_told_as_deleted_and_added() {
    let host =
        Host::with(&[("a", "a\n"), ("dir/x", "x\n"), ("dir/sub/y", "y\n"), ("into/z", "z\n")]);
    let changes = host.changes("mv a b; mv dir into/moved; mkdir n; echo n > n/n; mv n o");
    let expected = [
        "D a",
        "A b",
        "D dir",
        "D dir/sub",
        "D dir/sub/y",
        "D dir/x",
        "A into/moved",
        "A into/moved/sub",
        "A into/moved/sub/y",
        "A into/moved/x",
        "A o",
        "A o/n",
    ];
    assert_eq!(told(&changes), expected);
}

#[test]
fn hard_links_are_told_by_the_path_that_they_share() {
    let host = Host::with(&[("old", "old\n"), ("kept", "kept\n")]);
    let changes = host.changes("echo 1 > a; ln a b; ln a c; ln kept k; ln old z; echo 2 >> old");
    assert_eq!(told(&changes), ["A a", "A b", "A c", "A k", "M old", "A z"]);
    let links: Vec<_> =
        changes.entries.iter().map(|change| change.hard_link_to.as_deref()).take(6).collect();
    let path = |text| Some(Path::new(text));
    let (a, kept, old) = (path("/workspace/a"), path("/workspace/kept"), path("/workspace/old"));
    assert_eq!(links, [None, a, a, kept, None, old]);
}

#[test]
fn what_the_sandbox_has_of_its_own_is_told_and_saved_for_nobody() {
    let host = Host::new();
    let script =
        "echo t > /tmp/t; echo h > ~/h; mkdir /var/tmp/v; echo r > /run/r; echo s > /dev/shm/s";
    let mut changes =
        host.engine.run_blocking(Exec::new(script).sandbox().changes()).unwrap().changes.unwrap();
    let told: Vec<String> = changes.entries.iter().map(ToString::to_string).collect();
    let expected = ["A /run/r", "A /var/tmp/v", "A /dev/shm/s", "A /home/sandbox/h", "A /tmp/t"];
    assert_eq!(told, expected);
    assert!(changes.entries.iter().all(|change| change.mount.is_none()));
    assert!(changes.save(&host.saved()).unwrap().is_none());
    assert!(!host.saved().exists());
}

#[test]
fn a_sandbox_that_does_nothing_has_changed_nothing() {
    let host = Host::with(&[("a/b/c", "")]);
    let mount = |source: &Path, target: &str, mode| Mount::new(source, target, mode);
    let inside = host.path("a");
    let mut settings = openbrain::Settings::default();
    settings.security.sandbox.system = System::Overlay;
    let engine = openbrain::Engine::new(settings);
    // Mount points of its own directories are no changes either, be they directories or files.
    let exec = Exec::new("true")
        .sandbox()
        .mount_at(mount(&host.tree(), "/workspace", MountMode::Overlay))
        .mount_at(mount(&inside, "/tmp/x/y", MountMode::Overlay))
        .mount_at(mount(&inside, "/usr/local/lib/x", MountMode::Ro))
        .mount_at(mount(&inside.join("b/c"), "/home/sandbox/f/c", MountMode::Ro))
        .mount_at(mount(&inside, "/workspace/a", MountMode::Rw))
        .changes();
    let changes = engine.run_blocking(exec).unwrap().changes.unwrap();
    assert!(changes.is_empty(), "{changes:?}");
}

#[test]
fn system_directories_under_a_layer_are_told() {
    let mut settings = openbrain::Settings::default();
    settings.security.sandbox.system = System::Overlay;
    let engine = openbrain::Engine::new(settings);
    let exec = Exec::new("echo x > /usr/local/bin/x; mkdir /usr/local/lib/n").sandbox().changes();
    let changes = engine.run_blocking(exec).unwrap().changes.unwrap();
    let told: Vec<String> = changes.entries.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["A /usr/local/bin/x", "A /usr/local/lib/n"]);
}

#[test]
fn what_is_no_short_text_has_no_diff() {
    let host = Host::with(&[("long", "x"), ("binary", "x")]);
    let changes = host.changes("head -c 300000 /dev/zero > long; printf 'a\\0' > binary");
    let why: Vec<_> = changes.entries.iter().map(|change| change.no_diff).collect();
    assert_eq!(why, [Some(NoDiff::Binary), Some(NoDiff::TooLarge)]);
}

#[test]
fn names_of_any_bytes_are_told_exactly() {
    let host = Host::new();
    let changes = host.changes("printf x > \"$(printf 'new\\nline')\"; printf x > \"$(printf '\\377')\"; ln -s \"$(printf 'to\\376')\" l");
    let names: Vec<&[u8]> =
        changes.entries.iter().map(|change| change.path.as_os_str().as_bytes()).collect();
    assert_eq!(names, [&b"/workspace/l"[..], b"/workspace/new\nline", b"/workspace/\xff"]);
    assert_eq!(changes.entries[1].to_string(), r#"A "/workspace/new\nline""#);
    let json = serde_json::to_string(&changes).unwrap();
    let back: Changes = serde_json::from_str(&json).unwrap();
    assert_eq!(back.entries, changes.entries);
    assert!(json.contains(r#"{"base64":"#), "{json}");
}

#[test]
fn a_file_that_nobody_may_read_is_told() {
    let host = Host::with(&[("m", "m\n")]);
    let changes =
        host.changes("echo x > f; chmod 0 f; mkdir d; echo y > d/y; chmod 0 d; chmod 0 m");
    assert_eq!(told(&changes), ["A d", "A d/y", "A f", "M m"]);
    assert_eq!(
        changes.entries.iter().map(|change| change.mode).collect::<Vec<_>>(),
        [0, 0o644, 0, 0]
    );
    let diff = "--- /dev/null\n+++ b/f\n@@ -0,0 +1 @@\n+x\n";
    assert_eq!(changes.entries[2].diff.as_deref(), Some(diff));
    assert!(!changes.truncated);
}

#[test]
fn a_command_that_was_killed_has_changed_what_it_has() {
    let host = Host::new();
    let exec = host.shell("echo x > x; sleep 1000").timeout(Duration::from_millis(500));
    let output = host.engine.run_blocking(exec).unwrap();
    assert_eq!(output.status, Status::TimedOut);
    assert_eq!(told(&output.changes.unwrap()), ["A x"]);
}

#[test]
fn several_mounts_are_apart() {
    let host = Host::with(&[("a/x", "1"), ("b/x", "1")]);
    let mount = |name: &str, target: &str| Mount::new(host.path(name), target, MountMode::Overlay);
    let exec = Exec::new("echo 2 > /data/a/x; echo 3 > /data/a-1b/x; cp /data/a/x /tmp/x")
        .sandbox()
        .changes();
    let exec = exec.mount_at(mount("a", "/data/a")).mount_at(mount("b", "/data/a-1b"));
    let changes = host.engine.run_blocking(exec).unwrap().changes.unwrap();
    let told: Vec<_> =
        changes.entries.iter().map(|change| (change.to_string(), change.mount.clone())).collect();
    let expected = [
        ("M /data/a/x".to_owned(), Some(PathBuf::from("/data/a"))),
        ("M /data/a-1b/x".to_owned(), Some("/data/a-1b".into())),
        ("A /tmp/x".to_owned(), None),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_read_write_mount_has_no_changes_to_report() {
    let host = Host::new();
    let exec = Exec::new("echo x > x").sandbox().mount(host.tree()).changes();
    let changes = host.engine.run_blocking(exec).unwrap().changes.unwrap();
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(host.read("x"), "x\n");
}

#[test]
fn changes_are_there_only_when_they_are_asked_for() {
    let host = Host::new();
    let output = host.engine.run_blocking(Exec::new("true").sandbox()).unwrap();
    assert!(output.changes.is_none());
    assert!(serde_json::to_value(&output).unwrap().get("changes").is_none());
    let output = host.run("true");
    let json = serde_json::to_value(&output).unwrap();
    assert_eq!(json["changes"], serde_json::json!({"entries": [], "truncated": false}));
}

#[test]
fn where_nobody_knows_them_changes_are_refused() {
    let host = Host::new();
    let error = host.engine.run_blocking(Exec::new("true").direct().changes()).unwrap_err();
    assert_eq!(error.code(), "invalid_request", "{error}");
    let mut settings = openbrain::Settings::default();
    settings.security.sandbox.server_url = Some("http://localhost:1".into());
    let engine = openbrain::Engine::new(settings);
    let error = engine.run_blocking(Exec::new("true").sandbox().changes()).unwrap_err();
    assert_eq!(error.code(), "invalid_request", "{error}");
    assert!(error.remedy().unwrap().contains("embedded"), "{error:?}");
}

#[test]
fn the_host_stays_as_it_is() {
    let host = Host::with(&[("a", "a"), ("d/b", "b")]);
    fs::set_permissions(host.path("a"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("a", host.path("l")).unwrap();
    let before = crate::support::snapshot(&host.tree());
    let changes = host.changes("rm -r d l; echo x > a; echo y > y");
    assert_eq!(changes.counts(), [1, 1, 3]);
    assert_eq!(crate::support::snapshot(&host.tree()), before);
    assert!(changes.entries.iter().any(|change| change.change == ChangeKind::Deleted));
}

//! What somebody does who wants openbrain to read or write elsewhere, to wait, or to have no end.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    time::{Duration, Instant},
};

use openbrain::{EntryKind, Exec, Mount, MountMode};
use rustix::fs::{CWD, Mode};

use crate::support::{Host, snapshot, told};

/// A host with something beside the tree that must stay as it is.
fn guarded() -> (Host, PathBuf, Vec<String>) {
    let host = Host::with(&[("d/file", "old\n"), ("d/gone", "gone\n"), ("d/sub/x", "x\n")]);
    let outside = host.beside("outside");
    fs::create_dir_all(outside.join("sub")).unwrap();
    for (path, content) in [("file", "old\n"), ("gone", "gone\n"), ("sub/x", "x\n")] {
        fs::write(outside.join(path), content).unwrap();
    }
    let before = snapshot(&outside);
    (host, outside, before)
}

const SCRIPT: &str =
    "echo new > d/file; rm d/gone; echo n > d/new; mkdir d/made; echo m > d/made/m; rm -r d/sub";

#[test]
fn a_directory_swapped_for_a_link_leads_nowhere() {
    let (host, outside, before) = guarded();
    let mut saved = host.save(SCRIPT);
    fs::rename(host.path("d"), host.path("e")).unwrap();
    symlink(&outside, host.path("d")).unwrap();
    let error = host.refused(&mut saved, &[]);
    assert_eq!(error.code(), "conflict", "{error}");
    for path in ["d/new", "d/made", "d/gone", "d/sub"] {
        assert_eq!(host.refused(&mut saved, &[path]).code(), "conflict", "{path}");
    }
    assert_eq!(snapshot(&outside), before);
}

#[test]
fn a_file_swapped_for_a_link_or_a_pipe_is_refused() {
    let (host, outside, before) = guarded();
    let mut saved = host.save(SCRIPT);
    fs::remove_file(host.path("d/file")).unwrap();
    symlink(outside.join("file"), host.path("d/file")).unwrap();
    assert_eq!(host.refused(&mut saved, &[]).code(), "conflict");
    fs::remove_file(host.path("d/file")).unwrap();
    rustix::fs::mkfifoat(CWD, host.path("d/file"), Mode::RUSR).unwrap();
    assert_eq!(host.refused(&mut saved, &[]).code(), "conflict");
    symlink(outside.join("created"), host.path("d/new")).unwrap();
    assert_eq!(host.refused(&mut saved, &["d/new"]).code(), "conflict");
    assert_eq!(snapshot(&outside), before);
}

#[test]
fn links_that_the_sandbox_makes_are_not_followed() {
    let (host, outside, before) = guarded();
    let out = outside.to_str().unwrap();
    // In place of a directory with the same names, and as new files.
    host.apply(&format!(
        "rm -r d; ln -s {out} d; ln -s {out}/file file; ln -s {out} dir; ln -s /proc/self/root root; ln -s .. up"
    ));
    assert_eq!(fs::read_link(host.path("d")).unwrap(), outside);
    assert_eq!(snapshot(&outside), before);
}

#[test]
fn the_report_follows_no_link_of_the_host_either() {
    let (host, outside, _) = guarded();
    host.link("away", &outside);
    let changes = host.changes("rm away; mkdir away; echo secret > away/file; echo q > away/q");
    assert_eq!(told(&changes), ["T away", "A away/file", "A away/q"]);
    // Nothing of what lies where the link led is in a diff.
    assert!(changes.entries[1].diff.as_deref().unwrap().starts_with("--- /dev/null"));
}

#[test]
fn pipes_sockets_and_devices_hold_nobody() {
    let host = Host::with(&[("file", "x"), ("dir/f", "f")]);
    rustix::fs::mkfifoat(CWD, host.path("hostpipe"), Mode::RUSR | Mode::WUSR).unwrap();
    let changes = host.changes(
        "rm file hostpipe; mkfifo file pipe; echo x > hostpipe; mkfifo dir/p
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'",
    );
    assert_eq!(told(&changes), ["A dir/p", "T file", "T hostpipe", "A pipe", "A sock"]);
    let mut changes = changes;
    let mut saved = changes.save(&host.saved()).unwrap().unwrap();
    let applied = saved.apply(&[]).unwrap();
    assert_eq!(applied.skipped, [PathBuf::from("/workspace/sock")]);
    assert_eq!(host.read("hostpipe"), "x\n");
    assert!(!host.path("sock").exists());
}

#[test]
fn a_device_of_the_sandbox_is_no_whiteout() {
    let host = Host::new();
    // Where there is nothing below, a command may make such a device itself (`mknod(2)`).
    let script = "import os, stat\n\
                  try: os.mknod('/tmp/w', 0o600 | stat.S_IFCHR, 0)\n\
                  except PermissionError: open('/tmp/w', 'w')";
    let exec = Exec::script("python", script).sandbox().changes();
    let changes = host.engine.run_blocking(exec).unwrap().changes.unwrap();
    let told: Vec<_> = changes.entries.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["A /tmp/w"]);
}

#[test]
fn what_the_sandbox_could_not_read_is_in_no_diff() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // The directory belongs to somebody else, who could delete what is in it.
    let host = Host::with(&[("secret", "the secret\n"), ("own", "own\n")]);
    std::os::unix::fs::chown(host.tree(), Some(4321), Some(4321)).unwrap();
    std::os::unix::fs::chown(host.path("own"), Some(4321), Some(4321)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(host.path("secret"), mode).unwrap();
    let changes =
        host.changes("! cat secret 2>/dev/null; rm -f own; rm -f secret 2>/dev/null || :");
    assert_eq!(told(&changes)[0], "D own");
    assert!(!serde_json::to_string(&changes).unwrap().contains("the secret"));
    assert!(changes.entries[0].diff.is_some());
}

#[test]
fn a_hundred_thousand_files_are_told_and_no_more() {
    let host = Host::new();
    let script = "import os\nfor n in range(100_001): os.close(os.open(str(n), os.O_CREAT))";
    let mount = Mount::new(host.tree(), "/workspace", MountMode::Overlay);
    let exec = Exec::script("python", script).sandbox().mount_at(mount).changes();
    let started = Instant::now();
    let output = host.engine.run_blocking(exec).unwrap();
    assert!(output.success(), "{}", output.stderr_text());
    let mut changes = output.changes.unwrap();
    assert_eq!(changes.entries.len(), 100_000);
    assert!(changes.truncated);
    assert!(started.elapsed() < Duration::from_secs(50));
    let error = changes.save(&host.saved()).unwrap_err();
    assert_eq!(error.code(), "invalid_request", "{error}");
    assert!(!host.saved().exists());
}

#[test]
fn a_tree_without_bottom_has_an_end() {
    let host = Host::new();
    let script = "import os\nfor n in range(3000):\n  os.mkdir('d' * 50); os.chdir('d' * 50)";
    let mount = Mount::new(host.tree(), "/workspace", MountMode::Overlay);
    let exec = Exec::script("python", script).sandbox().mount_at(mount).changes();
    let output = host.engine.run_blocking(exec).unwrap();
    assert!(output.success(), "{}", output.stderr_text());
    let changes = output.changes.unwrap();
    assert!(changes.truncated);
    assert!(
        changes.entries.len() > 50
            && changes.entries.iter().all(|change| change.kind == EntryKind::Directory)
    );
}

#[test]
fn a_huge_sparse_file_costs_what_is_in_it() {
    let host = Host::new();
    fs::File::create(host.path("both")).unwrap().set_len(1 << 42).unwrap();
    let changes =
        host.changes("truncate -s 7T new; printf x >> both; truncate -s 4398046511104 both");
    assert_eq!(told(&changes), ["A new"]);
}

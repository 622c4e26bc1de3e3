//! What somebody does who wants openbrain to read or write elsewhere, to wait, or to have no end.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use openbrain::{EntryKind, Exec, Mount, MountMode, NewSandbox};
use rustix::fs::{CWD, Mode, RenameFlags, renameat_with};

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

/// Somebody does this all the time, while something else is done.
fn meanwhile<T>(disturb: impl Fn() + Sync, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                disturb();
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Gives each of two names to what the other one had.
fn exchange(one: &Path, other: &Path) {
    let _ = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
}

#[test]
fn what_is_swapped_while_changes_are_applied_leads_nowhere() {
    let (mut applied, mut refused) = (0, 0);
    for _ in 0..25 {
        let (host, outside, before) = guarded();
        for n in 0..20 {
            host.write(&format!("d/more/{n}"), "old\n");
        }
        symlink(&outside, host.beside("link")).unwrap();
        let mut saved = host.save(format!("{SCRIPT}; for f in d/more/*; do echo new > $f; done"));
        meanwhile(
            || exchange(&host.path("d"), &host.beside("link")),
            || match saved.apply(&[]) {
                Ok(_) => applied += 1,
                Err(error) => {
                    assert!(["conflict", "file_failed"].contains(&error.code()), "{error}");
                    refused += 1;
                }
            },
        );
        assert_eq!(snapshot(&outside), before);
    }
    assert!(refused > 0, "{applied} applied");
}

/// Whoever owns the directory gives the names of what is being made to something else.
#[test]
fn what_is_swapped_in_is_not_given_away() {
    let is_root = rustix::process::geteuid().is_root();
    for _ in 0..15 {
        let host = Host::with(&[("gone", "gone\n")]);
        let outside = host.beside("outside");
        fs::create_dir(&outside).unwrap();
        fs::create_dir(outside.join("directory")).unwrap();
        for name in ["file", "directory/file"] {
            fs::write(outside.join(name), "of somebody else").unwrap();
        }
        rustix::fs::mkfifoat(CWD, outside.join("pipe"), Mode::RUSR).unwrap();
        if is_root {
            std::os::unix::fs::chown(host.tree(), Some(4321), Some(4321)).unwrap();
        }
        let look = || {
            ["file", "pipe", "directory", "directory/file"].map(|name| {
                let meta = fs::symlink_metadata(outside.join(name)).unwrap();
                (meta.uid(), meta.mode())
            })
        };
        let before = look();
        let mut saved = host.save(
            "for n in 1 2 3 4 5 6 7 8 9; do mkdir d$n; chmod 777 d$n; mkfifo p$n; chmod 666 p$n
             echo $n > f$n; ln -s x l$n; done",
        );
        let disturb = || {
            for entry in fs::read_dir(host.tree()).unwrap().flatten() {
                let path = entry.path();
                if path.to_string_lossy().contains("/.openbrain-") && fs::remove_file(&path).is_ok()
                {
                    let _ = fs::hard_link(outside.join("file"), &path);
                    let _ = fs::hard_link(outside.join("pipe"), &path);
                } else if path.to_string_lossy().contains("/.openbrain-") {
                    exchange(&path, &outside.join("directory"));
                    exchange(&path, &outside.join("directory"));
                }
            }
        };
        // Whether it fails is a matter of who is faster.
        let _ = meanwhile(disturb, || saved.apply(&[]));
        if outside.join("directory/file").exists() {
            assert_eq!(look(), before);
        }
    }
}

/// What is below an overlay is the host's, and somebody there may do the same.
#[test]
fn what_is_swapped_while_a_live_sandbox_is_reported_leads_nowhere() {
    let (host, outside, _) = guarded();
    symlink(&outside, host.beside("link")).unwrap();
    fs::write(outside.join("file"), "secret\n").unwrap();
    let before = snapshot(&outside);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mount = Mount::new(host.tree(), "/workspace", MountMode::Overlay);
        let sandbox = host.engine.create(NewSandbox::default().mount_at(mount)).await.unwrap();
        let swap = format!(
            "mkdir in; ln -s {} to; echo open > in/file; echo open > one; mkfifo pipe; rm -r d/sub
             while :; do mv -T in was; mv -T to in; mv -T in to; mv -T was in; mv -T one kept
             mv -T pipe one; mv -T one pipe; mv -T kept one; echo x >> d/file; done",
            outside.display()
        );
        let swapping = sandbox.spawn(Exec::new(swap)).await.unwrap();
        let disturb = || exchange(&host.path("d"), &host.beside("link"));
        for _ in 0..40 {
            let report = sandbox.changes();
            let changes = tokio::task::block_in_place(|| {
                let handle = tokio::runtime::Handle::current();
                meanwhile(disturb, || handle.block_on(report))
            });
            let mut changes = changes.unwrap();
            let json = serde_json::to_string(&changes).unwrap();
            assert!(!json.contains("secret\\n"), "{json}");
            if let Ok(Some(saved)) = changes.save(&host.saved()) {
                let contents =
                    fs::read_dir(host.saved().join(saved.id()).join("contents")).unwrap();
                for content in contents {
                    let content = fs::read_to_string(content.unwrap().path()).unwrap();
                    assert!(!content.contains("secret"), "{content}");
                }
                saved.discard().unwrap();
            }
        }
        drop(swapping);
    });
    assert_eq!(snapshot(&outside), before);
}

/// A command writes on for ever, and makes a hole of what it has written.
#[test]
fn a_file_that_moves_on_is_not_saved_for_ever() {
    const MOVES_ON: &str = "\
import ctypes, os
libc = ctypes.CDLL(None)
f = os.open('f', os.O_CREAT | os.O_RDWR)
piece, at = b'x' * (1 << 20), 0
while True:
    os.pwrite(f, piece, at)
    if at > 8 << 20:
        libc.fallocate(f, 3, ctypes.c_long(0), ctypes.c_long(at - (4 << 20)))
    at += len(piece)
";
    let host = Host::new();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mount = Mount::new(host.tree(), "/workspace", MountMode::Overlay);
        let sandbox = host.engine.create(NewSandbox::default().mount_at(mount)).await.unwrap();
        let writer = sandbox.spawn(Exec::script("python", MOVES_ON)).await.unwrap();
        while sandbox.files().stat("f").await.map_or(0, |entry| entry.size) < 20 << 20 {}
        let started = Instant::now();
        for _ in 0..10 {
            let mut changes = sandbox.changes().await.unwrap();
            // Between two writes the file is what was reported, for as long as the writer has to wait.
            match changes.save(&host.saved()) {
                Ok(saved) => saved.unwrap().discard().unwrap(),
                Err(error) => assert_eq!(error.code(), "file_failed", "{error}"),
            }
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        assert_eq!(fs::read_dir(host.saved()).unwrap().count(), 0);
        drop(writer);
    });
}

/// A report must fit into a message between processes (64 MiB), whatever its names are.
#[test]
fn long_names_are_told_up_to_a_limit() {
    let host = Host::new();
    let script = "import os\n\
                  for n in range(15): os.mkdir('\\x01' * 240); os.chdir('\\x01' * 240)\n\
                  for n in range(4000): os.close(os.open('\\x01' * 200 + str(n), os.O_CREAT))";
    let mount = Mount::new(host.tree(), "/workspace", MountMode::Overlay);
    let exec = Exec::script("python", script).sandbox().mount_at(mount).changes();
    let output = host.engine.run_blocking(exec).unwrap();
    assert!(output.success(), "{}", output.stderr_text());
    let changes = output.changes.unwrap();
    assert!(changes.truncated && changes.entries.len() > 500, "{}", changes.entries.len());
    let json = serde_json::to_vec(&changes).unwrap();
    assert!(json.len() < 32 << 20, "{}", json.len());
}

/// Hard links tell of the first path each time.
#[test]
fn links_are_told_up_to_a_limit() {
    let host = Host::new();
    let script = "import os\n\
                  top = os.getcwd()\n\
                  for n in range(15): os.mkdir('\\x01' * 240); os.chdir('\\x01' * 240)\n\
                  open('f', 'w')\n\
                  for n in range(4000): os.link('f', f'{top}/{n}')";
    let mount = Mount::new(host.tree(), "/workspace", MountMode::Overlay);
    let exec = Exec::script("python", script).sandbox().mount_at(mount).changes();
    let output = host.engine.run_blocking(exec).unwrap();
    assert!(output.success(), "{}", output.stderr_text());
    let changes = output.changes.unwrap();
    let json = serde_json::to_vec(&changes).unwrap();
    assert!(changes.truncated && json.len() < 32 << 20, "{}", json.len());
}

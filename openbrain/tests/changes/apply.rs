//! What becomes of the host.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use openbrain::{Exec, Mount, MountMode, SavedChanges, Status};

use crate::support::{Host, snapshot, told};

#[test]
fn the_host_has_what_the_sandbox_saw() {
    let host = Host::with(&[
        ("edited", "one\ntwo\n"),
        ("gone", "gone\n"),
        ("mode", "mode\n"),
        ("dir/inside", "inside\n"),
        ("dir/deep/inner", "inner\n"),
        ("to_dir", "file\n"),
        ("to_file/x/y", "x\n"),
        ("to_link/z", "z\n"),
        ("opaque/a", "a\n"),
        ("opaque/b", "b\n"),
    ]);
    host.link("link", "edited");
    let applied = host.apply(
        "echo three >> edited; rm gone; chmod 751 mode; rm -r dir; ln -sfn gone link
         rm to_dir; mkdir to_dir; echo y > to_dir/y; rm -r to_file; echo f > to_file
         rm -r to_link; ln -s edited to_link; rm -r opaque; mkdir opaque; echo c > opaque/c
         mkdir -p new/er; echo n > new/er/n; chmod 555 new/er; mkfifo pipe; chmod 620 pipe
         printf x > \"$(printf 'new\\nline\\377')\"; ln edited hard; ln -s a sl; ln sl sl2; : > empty",
    );
    assert!(applied.skipped.is_empty());
    assert!(fs::symlink_metadata(host.path("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn hard_links_stay_links() {
    let host = Host::with(&[("old", "old\n"), ("kept", "kept\n"), ("d/x", "x")]);
    host.apply("echo 1 > a; ln a d/b; ln kept k; ln old z; echo 2 >> old; ln -f old d/x; ln -s s l; ln l l2");
    let inode = |path| fs::symlink_metadata(host.path(path)).unwrap().ino();
    assert_eq!(inode("a"), inode("d/b"));
    assert_eq!(inode("kept"), inode("k"));
    assert_eq!(inode("l"), inode("l2"));
    assert_eq!([inode("old"), inode("old")], [inode("z"), inode("d/x")]);
}

#[test]
fn holes_stay_holes() {
    let host = Host::with(&[("old", "x")]);
    host.apply(
        "truncate -s 1T huge; printf end | dd of=huge bs=1 seek=1099511627773 conv=notrunc status=none
         truncate -s 8G old; printf begin | dd of=old bs=1 conv=notrunc status=none; truncate -s 3G none",
    );
    for (path, size) in [("huge", 1 << 40), ("old", 8 << 30), ("none", 3 << 30)] {
        let meta = fs::metadata(host.path(path)).unwrap();
        assert_eq!(meta.len(), size);
        assert!(meta.blocks() < 1024, "{path}: {}", meta.blocks());
    }
}

#[test]
fn times_are_those_of_the_sandbox_and_owners_those_of_the_mount() {
    let host = Host::with(&[("old", "old")]);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(host.tree(), Some(4321), Some(4322)).unwrap();
        std::os::unix::fs::chown(host.path("old"), Some(4321), Some(4322)).unwrap();
    }
    host.apply(
        "echo new > old; touch -d '2001-02-03 04:05:06 UTC' old; mkdir d; ln -s x d/l; mkfifo d/p; : > d/f",
    );
    let meta = fs::metadata(host.path("old")).unwrap();
    let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(981_173_106);
    assert_eq!(meta.modified().unwrap(), expected);
    let owner = fs::metadata(host.tree()).unwrap();
    for path in ["old", "d", "d/l", "d/p", "d/f"] {
        let meta = fs::symlink_metadata(host.path(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (owner.uid(), owner.gid()), "{path}");
    }
}

#[test]
fn no_file_becomes_set_user_id() {
    // Where the sandbox may set them at all.
    let host = Host::new();
    host.apply("cp /bin/sh new; chmod 755 new; chmod 6755 new || :; mkdir d; chmod 1777 d; chmod 3777 d || :");
    let mode = |path| fs::metadata(host.path(path)).unwrap().mode() & 0o6777;
    assert_eq!([mode("new"), mode("d")], [0o755, 0o777]);
}

#[test]
fn named_paths_are_applied_and_the_rest_stays() {
    let host = Host::with(&[("a", "a"), ("b", "b"), ("d/x", "x"), ("d/y", "y"), ("e", "e")]);
    let mut saved = host
        .save("echo A > a; echo B > b; rm -r d; mkdir -p n/m; echo 1 > n/m/1; echo 2 > n/2; rm e");
    let apply = |saved: &mut SavedChanges, paths: &[&str]| {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let applied = saved.apply(&paths).unwrap().paths;
        applied
            .iter()
            .map(|path| path.strip_prefix("/workspace").unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        apply(&mut saved, &["/workspace/a", "./d"]),
        ["a", "d", "d/x", "d/y"].map(PathBuf::from)
    );
    assert_eq!(told(&saved.changes()), ["M b", "D e", "A n", "A n/2", "A n/m", "A n/m/1"]);
    // The directory comes along, and nothing else in it.
    assert_eq!(apply(&mut saved, &["n/m/1"]), ["n", "n/m", "n/m/1"].map(PathBuf::from));
    assert_eq!(
        [host.path("n/2").exists(), host.path("d").exists(), host.path("e").exists()],
        [false, false, true]
    );
    let id = saved.id().to_owned();
    drop(saved);
    let mut saved = SavedChanges::load(&host.saved(), &id).unwrap();
    assert_eq!(told(&saved.changes()), ["M b", "D e", "A n/2"]);
    let error = host.refused(&mut saved, &["a"]);
    assert_eq!(error.code(), "invalid_request", "{error}");
    assert_eq!(apply(&mut saved, &[]), ["b", "e", "n/2"].map(PathBuf::from));
    assert_eq!([host.read("b"), host.read("n/2")], ["B\n", "2\n"]);
    assert!(SavedChanges::load(&host.saved(), &id).is_err());
    assert_eq!(fs::read_dir(host.saved()).unwrap().count(), 0);
}

#[test]
fn links_of_the_host_do_not_hold_each_other_up() {
    for parts in [&[&["a"][..], &["b"], &["d"]][..], &[&[]]] {
        let host = Host::with(&[("a", "same"), ("d/x", "x")]);
        for link in ["b", "d/c", "d/e"] {
            fs::hard_link(host.path("a"), host.path(link)).unwrap();
        }
        let mut saved = host.save("rm a; echo other > b; rm -r d");
        for part in parts {
            saved.apply(&part.iter().map(PathBuf::from).collect::<Vec<_>>()).unwrap();
        }
        assert_eq!(host.read("b"), "other\n");
        assert!(!host.path("d").exists());
    }
}

/// An ordinary user has to let itself in, which is no change of the host's.
#[test]
fn read_only_directories_are_deleted_and_replaced() {
    let host = Host::with(&[("gone/a/x", "x"), ("gone/y", "y"), ("file/z", "z"), ("kept/k", "k")]);
    for path in ["gone/a", "gone", "file", "kept"] {
        fs::set_permissions(host.path(path), fs::Permissions::from_mode(0o555)).unwrap();
    }
    host.apply(
        "chmod -R u+w .; rm -r gone file; echo f > file; echo n > kept/n; rm kept/k; chmod 555 kept",
    );
}

/// What a script changes in two overlays: `one` and `two` of the tree.
fn save_of_two(host: &Host, script: &str) -> SavedChanges {
    let mount = |name: &str| Mount::new(host.path(name), format!("/{name}"), MountMode::Overlay);
    let exec = Exec::new(script).sandbox().mount_at(mount("one")).mount_at(mount("two")).changes();
    let output = host.engine.run_blocking(exec).unwrap();
    assert!(output.success(), "{}", output.stderr_text());
    output.changes.unwrap().save(&host.saved()).unwrap().unwrap()
}

#[test]
fn a_file_of_two_mounts_holds_up_neither() {
    for parts in [&[&["/one"][..], &["/two"]][..], &[&[]]] {
        let host = Host::with(&[("one/a", "same"), ("two/x", "x")]);
        fs::hard_link(host.path("one/a"), host.path("two/b")).unwrap();
        let mut saved = save_of_two(&host, "echo 1 > /one/a; echo 2 > /two/b");
        for part in parts {
            saved.apply(&part.iter().map(PathBuf::from).collect::<Vec<_>>()).unwrap();
        }
        assert_eq!([host.read("one/a"), host.read("two/b")], ["1\n", "2\n"]);
    }
}

#[test]
fn a_mount_that_is_gone_holds_up_no_other() {
    let host = Host::with(&[("one/a", "a"), ("two/b", "b")]);
    let mut saved = save_of_two(&host, "echo 1 > /one/a; echo 2 > /two/b");
    fs::rename(host.path("two"), host.beside("moved")).unwrap();
    assert_eq!(host.refused(&mut saved, &[]).code(), "file_failed");
    saved.apply(&["/one".into()]).unwrap();
    assert_eq!(host.read("one/a"), "1\n");
    fs::rename(host.beside("moved"), host.path("two")).unwrap();
    saved.apply(&[]).unwrap();
    assert_eq!(host.read("two/b"), "2\n");
}

#[test]
fn a_host_that_moved_on_is_left_alone() {
    type Change = fn(&Host);
    let moves: [(&str, Change); 9] = [
        ("edited", |host| host.write("edited", "by somebody else")),
        ("edited", |host| {
            fs::set_permissions(host.path("edited"), fs::Permissions::from_mode(0o600)).unwrap()
        }),
        ("edited", |host| fs::remove_file(host.path("edited")).unwrap()),
        ("gone", |host| host.write("gone", "needed again")),
        ("new", |host| host.write("new", "mine")),
        ("dir", |host| host.write("dir/more", "more")),
        ("dir/x", |host| host.write("dir/x", "other")),
        ("to_file", |host| host.write("to_file/more", "more")),
        ("kept_dir/n", |host| fs::remove_dir_all(host.path("kept_dir")).unwrap()),
    ];
    for (named, change) in moves {
        let host = Host::with(&[
            ("edited", "old"),
            ("gone", "gone"),
            ("dir/x", "x"),
            ("to_file/x", "x"),
            ("kept_dir/k", "k"),
            ("other", "o"),
        ]);
        let mut saved = host.save(
            "echo new > edited; rm gone; echo new > new; rm -r dir to_file; echo f > to_file
             echo n > kept_dir/n; echo p > other",
        );
        let left = told(&saved.changes());
        change(&host);
        let error = host.refused(&mut saved, &[]);
        assert_eq!(error.code(), "conflict", "{named}: {error}");
        assert!(error.to_string().contains(&format!("/workspace/{named}")), "{named}: {error}");
        assert_eq!(told(&saved.changes()), left);
        // What did not move on can still be applied.
        saved.apply(&["other".into()]).unwrap();
        assert_eq!(host.read("other"), "p\n");
    }
}

/// Changes the host between two parts of a script; returns what is saved.
fn while_running(host: &Host, [first, then]: [&str; 2], change: impl Fn()) -> SavedChanges {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let output = runtime.block_on(async {
        let exec = host
            .shell(format!("{first}; echo ready; read go; {then}"))
            .stdin(openbrain::Stdin::Pipe);
        let mut process = host.engine.spawn(exec).await.unwrap();
        process.next_event().await.unwrap();
        // The clock of files ticks every few milliseconds.
        let marks = ["mark", "later"].map(|name| host.beside(name));
        let time = |path: &Path| fs::metadata(path).map(|meta| (meta.ctime(), meta.ctime_nsec()));
        fs::write(&marks[0], "").unwrap();
        while time(&marks[1]).unwrap_or_default() <= time(&marks[0]).unwrap() {
            fs::write(&marks[1], "").unwrap();
        }
        change();
        let mut stdin = process.take_stdin().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, b"go\n").await.unwrap();
        process.wait().await.unwrap()
    });
    assert_eq!(output.status, Status::Exited(0));
    output.changes.unwrap().save(&host.saved()).unwrap().unwrap()
}

#[test]
fn what_the_host_changed_while_the_command_ran_has_moved_on() {
    let host = Host::with(&[("a", "a"), ("other", "o")]);
    let mut saved =
        while_running(&host, [":", "echo sandbox > a; echo p > other"], || host.write("a", "host"));
    assert_eq!(host.refused(&mut saved, &[]).code(), "conflict");
    assert_eq!(host.read("a"), "host");
    saved.apply(&["other".into()]).unwrap();
}

#[test]
fn what_the_host_deleted_while_the_command_ran_has_moved_on() {
    let host = Host::with(&[("a", "a"), ("d/b", "b")]);
    let script = ["echo x >> a", "echo n > d/n"];
    let mut saved = while_running(&host, script, || fs::remove_file(host.path("a")).unwrap());
    assert_eq!(told(&saved.changes()), ["A a", "A d/n"]);
    let error = host.refused(&mut saved, &[]);
    assert_eq!(error.code(), "conflict", "{error}");
    saved.apply(&["d/n".into()]).unwrap();
}

#[test]
fn a_directory_that_is_moved_by_its_files_is_no_move_of_the_host() {
    // `mv` renames each file when the directory cannot be, and overlayfs marks them by their origin.
    let host = Host::with(&[("a/x", "x"), ("a/d/y", "y"), ("into/z", "z")]);
    host.apply("mv a into/b; mv into/z z");
    host.apply("mv into/b/d/y into/y");
}

#[test]
fn another_directory_at_the_place_of_the_mount_is_refused() {
    let host = Host::with(&[("a", "a")]);
    let mut saved = host.save("echo b > b");
    fs::rename(host.tree(), host.beside("moved")).unwrap();
    fs::create_dir(host.tree()).unwrap();
    assert_eq!(host.refused(&mut saved, &[]).code(), "conflict");
}

/// Inodes have the same numbers on every file system.
#[test]
fn the_same_inode_on_another_file_system_is_refused() {
    let host = Host::with(&[("a", "a")]);
    let mut saved = host.save("echo b > b");
    let manifest = host.saved().join(saved.id()).join("manifest.json");
    let id = saved.id().to_owned();
    drop(saved);
    let change = |old: &str, new: &str| {
        let text = fs::read_to_string(&manifest).unwrap();
        assert!(text.contains(old), "{text}");
        fs::write(&manifest, text.replace(old, new)).unwrap();
        SavedChanges::load(&host.saved(), &id).unwrap()
    };
    saved = change("\"number\":", "\"number\":1");
    assert_eq!(host.refused(&mut saved, &[]).code(), "conflict");
    drop(saved);
    // After another start of the machine the numbers say nothing.
    saved = change("\"boot\":\"", "\"boot\":\"0");
    saved.apply(&[]).unwrap();
    assert_eq!(host.read("b"), "b\n");
}

#[test]
fn discarded_changes_are_gone() {
    let host = Host::with(&[("a", "a")]);
    let before = snapshot(&host.tree());
    let saved = host.save("echo b > a");
    let id = saved.id().to_owned();
    assert_eq!(fs::metadata(host.saved()).unwrap().mode() & 0o777, 0o700);
    let mode = fs::metadata(host.saved().join(&id)).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o700);
    let busy = SavedChanges::load(&host.saved(), &id).unwrap_err();
    assert!(busy.to_string().contains("in use"), "{busy}");
    saved.discard().unwrap();
    assert_eq!(fs::read_dir(host.saved()).unwrap().count(), 0);
    assert_eq!(snapshot(&host.tree()), before);
    for id in [&*id, "", "..", "../tree", "nothere0"] {
        let error = SavedChanges::load(&host.saved(), id).unwrap_err();
        assert_eq!(error.code(), "invalid_request", "{id}: {error}");
    }
}

#[test]
fn what_cannot_be_read_is_discarded_as_well() {
    let host = Host::with(&[("a", "a")]);
    let saved = host.save("echo b > a");
    let id = saved.id().to_owned();
    let busy = SavedChanges::discard_by_id(&host.saved(), &id).unwrap_err();
    assert!(busy.to_string().contains("in use"), "{busy}");
    drop(saved);
    fs::write(host.saved().join(&id).join("manifest.json"), "{").unwrap();
    let error = SavedChanges::load(&host.saved(), &id).unwrap_err();
    assert!(error.remedy().unwrap().contains(&format!("openbrain discard {id}")), "{error:?}");
    SavedChanges::discard_by_id(&host.saved(), &id).unwrap();
    assert_eq!(fs::read_dir(host.saved()).unwrap().count(), 0);
    let error = SavedChanges::discard_by_id(&host.saved(), &id).unwrap_err();
    assert_eq!(error.code(), "invalid_request", "{error}");
}

#[test]
fn old_changes_are_removed_by_later_ones() {
    let host = Host::with(&[("a", "a")]);
    let old = host.save("echo old > a").id().to_owned();
    let place = host.saved().join(&old);
    let time = SystemTime::now() - openbrain::KEPT_FOR - Duration::from_secs(60);
    fs::File::open(&place).unwrap().set_modified(time).unwrap();
    fs::create_dir(host.saved().join("notours")).unwrap();
    fs::File::open(host.saved().join("notours")).unwrap().set_modified(time).unwrap();
    let new = host.save("echo new > a").id().to_owned();
    let found = SavedChanges::list(&host.saved()).unwrap();
    assert_eq!(found.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), [new]);
    assert!(!place.exists());
    assert!(host.saved().join("notours").exists());
}

#[test]
fn a_failure_leaves_the_rest_saved() {
    let host = Host::with(&[("a", "a")]);
    let mut saved = host.save("echo b > a; mkdir d; echo c > d/c; echo z > z");
    // The content of one is lost.
    let contents = host.saved().join(saved.id()).join("contents");
    let lost = fs::read_dir(contents).unwrap().map(|entry| entry.unwrap().path());
    let lost = lost.into_iter().find(|path| fs::read(path).unwrap() == b"c\n").unwrap();
    fs::remove_file(&lost).unwrap();
    let error = saved.apply(&[]).unwrap_err();
    assert_eq!(error.code(), "file_failed", "{error}");
    assert!(error.to_string().contains("/workspace/d/c (2 of 4"), "{error}");
    assert_eq!(told(&saved.changes()), ["A d/c", "A z"]);
    let names: Vec<_> = fs::read_dir(host.path("d")).unwrap().collect();
    assert!(names.is_empty(), "{names:?}");
    fs::write(lost, "c\n").unwrap();
    saved.apply(&[]).unwrap();
    assert_eq!([host.read("d/c"), host.read("z")], ["c\n", "z\n"]);
    assert!(Path::new(&host.path("d/c")).exists());
}

//! Changes that were applied when somebody was interrupted, and are applied again.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime},
};

use openbrain::SavedChanges;

use crate::support::{Host, lines, snapshot, snapshot_command, told};

/// Applies some of the changes, or all, and lets the record forget that.
fn interrupted(host: &Host, mut saved: SavedChanges, paths: &[&str]) -> SavedChanges {
    let (id, all) = (saved.id().to_owned(), told(&saved.changes()));
    let (place, copy) = (host.saved().join(&id), host.beside("record"));
    let copied = |from: &PathBuf, to: &PathBuf| {
        let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
        assert!(status.success());
    };
    copied(&place, &copy);
    saved.apply(&paths.iter().map(PathBuf::from).collect::<Vec<_>>()).unwrap();
    drop(saved);
    let _ = fs::remove_dir_all(&place);
    copied(&copy, &place);
    fs::remove_dir_all(&copy).unwrap();
    let saved = SavedChanges::load(&host.saved(), &id).unwrap();
    assert_eq!(told(&saved.changes()), all);
    saved
}

#[test]
fn what_the_host_has_already_is_applied() {
    let script = "echo three >> edited; rm gone; chmod 751 mode; rm -r dir; ln -sfn gone link
         rm to_dir; mkdir to_dir; echo y > to_dir/y; rm -r to_file; echo f > to_file
         rm -r to_link; ln -s edited to_link; rm -r opaque; mkdir opaque; echo c > opaque/c
         mkdir -p new/er; echo n > new/er/n; chmod 555 new/er; mkfifo pipe; chmod 620 pipe
         ln edited hard; ln kept again; : > empty; chmod 711 kept_dir; echo k > kept_dir/k";
    let each = ["edited", "gone", "dir", "to_dir", "to_file", "to_link/z", "opaque", "new", "hard"];
    for paths in [&[][..], &["pipe", "kept_dir"], &each, &["new/er", "dir/deep", "link", "again"]] {
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
            ("kept", "kept\n"),
            ("kept_dir/x", "x\n"),
        ]);
        host.link("link", "edited");
        let command = snapshot_command("/workspace");
        let output = host.run(format!("({script}) >&2\nexec {command}"));
        let saved = output.changes.clone().unwrap().save(&host.saved()).unwrap().unwrap();
        let mut saved = interrupted(&host, saved, paths);
        let count = saved.changes().entries.len();
        assert_eq!(saved.apply(&[]).unwrap().paths.len(), count, "{paths:?}");
        assert_eq!(snapshot(&host.tree()), lines(&output.stdout_text()), "{paths:?}");
    }
}

#[test]
fn a_link_that_was_removed_holds_up_no_other() {
    let host = Host::with(&[("a", "same")]);
    fs::hard_link(host.path("a"), host.path("b")).unwrap();
    let saved = host.save("rm a; echo other > b");
    interrupted(&host, saved, &["a"]).apply(&[]).unwrap();
    assert_eq!(host.read("b"), "other\n");
}

#[test]
fn a_directory_that_was_in_the_making_gets_its_permissions() {
    let host = Host::new();
    let mut saved = host.save("mkdir new; chmod 755 new; echo n > new/n");
    fs::create_dir(host.path("new")).unwrap();
    let set = |mode| {
        fs::set_permissions(host.path("new"), fs::Permissions::from_mode(mode)).unwrap();
    };
    // A directory of the host's own is not opened to others.
    set(0o700);
    assert_eq!(host.refused(&mut saved, &[]).code(), "conflict");
    set(0o1700);
    saved.apply(&[]).unwrap();
    let mode = fs::metadata(host.path("new")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    assert_eq!(host.read("new/n"), "n\n");
}

#[test]
fn what_the_host_has_changed_since_is_a_conflict() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(981_173_106);
    let script =
        "echo new > a; touch -d '2001-02-03 04:05:06 UTC' a; mkdir d; echo x > d/x; echo o > o";
    for named in ["a", "d/x"] {
        let host = Host::with(&[("a", "old\n")]);
        let saved = host.save(script);
        let mut saved = interrupted(&host, saved, &["a", "d"]);
        host.write(named, "by\n\n");
        // Of the same length and time.
        let file = fs::File::options().write(true).open(host.path(named)).unwrap();
        file.set_modified(time).unwrap();
        let error = host.refused(&mut saved, &[]);
        assert_eq!(error.code(), "conflict", "{error}");
        assert!(error.to_string().contains(&format!("/workspace/{named}")), "{error}");
    }
}

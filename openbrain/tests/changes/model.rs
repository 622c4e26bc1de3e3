//! Random work on a tree in an overlay: when it is applied, the host has byte for byte what the sandbox
//! saw.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use openbrain::Changes;
use proptest::{
    collection::vec,
    prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest},
};

use crate::support::{Host, lines, snapshot, snapshot_command, told};

/// Names collide, so that files come where directories were.
const NAMES: [&str; 12] =
    ["a", "b", "c", "a/x", "a/y", "b/x", "a/x/1", "a/x/2", "b/x/1", "c/z", "c/z/1/2", "n\nl"];

/// One step, as a line of shell that may fail.
fn step() -> impl Strategy<Value = String> {
    let name = || (0..NAMES.len()).prop_map(|n| format!("'{}'", NAMES[n]));
    let two = move || (name(), name());
    prop_oneof![
        3 => (name(), any::<u32>()).prop_map(|(n, x)| format!("[ -p {n} ] || echo {x} > {n}")),
        2 => (name(), any::<u32>()).prop_map(|(n, x)| format!("[ -p {n} ] || echo {x} >> {n}")),
        1 => (name(), 0..100_000u32).prop_map(|(n, x)| format!("truncate -s {x} {n}")),
        3 => name().prop_map(|n| format!("mkdir -p {n}")),
        1 => name().prop_map(|n| format!("chmod 700 {n}")),
        2 => (name(), prop_oneof![Just(0o644), Just(0o755), Just(0o600)])
            .prop_map(|(n, mode)| format!("[ -d {n} ] || chmod {mode:o} {n}")),
        3 => two().prop_map(|(a, b)| format!("mv -T {a} {b}")),
        1 => two().prop_map(|(a, b)| format!("mv {a} {b}/")),
        2 => two().prop_map(|(a, b)| format!("ln {a} {b}")),
        1 => two().prop_map(|(a, b)| format!("ln -f {a} {b}")),
        1 => two().prop_map(|(a, b)| format!("ln -sfn {a} {b}")),
        1 => name().prop_map(|n| format!("mkfifo {n}")),
        2 => name().prop_map(|n| format!("rm -rf {n}")),
        1 => name().prop_map(|n| format!("rm -rf {n}; mkdir -p {n}; cp -r ../../usr/share/doc/bash/. {n}/ || :")),
        1 => two().prop_map(|(a, b)| format!("cp -a {a} {b}")),
        1 => name().prop_map(|n| format!("touch {n}")),
    ]
}

fn script(steps: &[String]) -> String {
    steps.iter().map(|step| format!("{{ {step}; }} 2>/dev/null || :\n")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_host_becomes_what_the_sandbox_saw(
        before in vec(step(), 0..25),
        work in vec(step(), 1..25),
        more in vec(step(), 0..10),
    ) {
        let host = Host::new();
        // A tree to begin with, made by the same means. Hard links of the host are not the sandbox's.
        let before: Vec<_> = before.into_iter().filter(|step| !step.starts_with("ln ") || step.contains("-s")).collect();
        let made = std::process::Command::new("sh")
            .args(["-c", &format!("umask 022\n{}", script(&before))])
            .current_dir(host.tree())
            .status();
        assert!(made.unwrap().success());
        for steps in [&work, &more] {

            let script = format!("(:\n{}) >/dev/null\n{}", script(steps), snapshot_command("/workspace"));
            let output = host.run(script);
            let seen = lines(&output.stdout_text());
            let mut changes = output.changes.unwrap();
            let before = snapshot(&host.tree());
            match changes.save(&host.saved()).unwrap() {
                Some(mut saved) => {
                    let told = told(&changes);
                    saved.apply(&[]).unwrap();
                    assert_eq!(snapshot(&host.tree()), seen, "{told:#?} on {before:#?}");
                    check_links(&host, &changes);
                }
                None => assert_eq!(before, seen),
            }
            // Nothing that was in the making is left.
            let left = fs::read_dir(host.tree()).unwrap();
            let names = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            assert!(names.into_iter().all(|name| !name.starts_with(".openbrain")));
        }
    }
}

/// Checks that what is told to be one file is one on the host.
fn check_links(host: &Host, changes: &Changes) {
    let inode = |path: &Path| {
        let path = host.tree().join(path.strip_prefix("/workspace").unwrap());
        fs::symlink_metadata(path).unwrap().ino()
    };
    for change in &changes.entries {
        if let Some(other) = &change.hard_link_to {
            assert_eq!(inode(&change.path), inode(other), "{change}");
        }
    }
}

/// How many trees are tried: more with `PROPTEST_CASES`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(24)
}

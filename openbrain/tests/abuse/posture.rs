//! The whole posture of a sandbox, compared with what a person has read: whatever becomes visible or
//! possible that was not, fails here, also when nobody thought of an attack on it.
//!
//! What differs between machines is masked, so that the expectation holds on another Debian or
//! Ubuntu: types of the host's file systems, which of the known entries of `/etc` exist, which files
//! of `/proc` need a cover, the caller's own numbers. `UPDATE=1` writes it anew.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use openbrain::{Exec, Output};

use crate::{
    host::{self, passes_by, probe},
    sys::c,
};

const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

/// Entries of the host's `/etc` that may be visible, and beginnings of such names.
const ETC: [&str; 19] = [
    "alternatives",
    "bash.bashrc",
    "crypto-policies",
    "debian_version",
    "fonts",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "lsb-release",
    "magic",
    "maven",
    "mime.types",
    "os-release",
    "pki",
    "protocols",
    "services",
    "ssl",
];
const ETC_MORE: [&str; 3] = ["timezone", "java", "python"];

/// System directories that a machine may have or not, as directories or as links.
const SYSTEM: [&str; 8] = ["bin", "gnu", "lib", "lib32", "lib64", "libx32", "nix", "sbin"];

fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn join(names: impl IntoIterator<Item = String>) -> String {
    names.into_iter().collect::<Vec<_>>().join(" ")
}

/// A field of the status of this thread, with single spaces. That of the process is that of its first
/// thread, which has signals blocked while it makes another one.
fn status(field: &str) -> String {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    join(line.unwrap_or("absent").split_whitespace().map(str::to_owned))
}

/// `(target, type, what is allowed)` of every mount, with the host's own peculiarities taken out.
fn mounts() -> BTreeSet<String> {
    let exe = host::exe();
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let lines = text.lines().map(|line| {
        let (left, right) = line.split_once(" - ").unwrap();
        let left: Vec<&str> = left.split(' ').collect();
        let (target, kind) = (left[4], right.split(' ').next().unwrap());
        let shared = left[6..]
            .iter()
            .any(|field| field.starts_with("shared") || field.starts_with("master"));
        let kept = ["ro", "rw", "nosuid", "nodev", "noexec", "idmapped"];
        let options: Vec<&str> =
            left[5].split(',').filter(|option| kept.contains(option)).collect();
        let own =
            ["tmpfs", "proc", "devpts", "overlay"].contains(&kind) && !target.starts_with("/dev/");
        let kind =
            if own || target == "/dev/shm" || target == "/dev/pts" { kind } else { "host's" };
        let target = match target {
            target if Path::new(target) == exe => "EXE",
            target if target.starts_with("/etc/") => "/etc/*",
            target if target.starts_with("/proc/") && target != "/proc/sys" => "/proc/*",
            target => target,
        };
        let shared = if shared { " PROPAGATES" } else { "" };
        let system = SYSTEM.iter().any(|name| {
            target
                .strip_prefix('/')
                .is_some_and(|t| t == *name || t.starts_with(&format!("{name}/")))
        });
        let target = if system || target.starts_with("/usr/") { "/usr" } else { target };
        format!("mount {target} {kind} {}{shared}", options.join(","))
    });
    lines.collect()
}

/// Everything below a directory that this process may write to, without following links.
fn writable(directory: &str, skip: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![PathBuf::from(directory)];
    while let Some(path) = left.pop() {
        let text = path.to_str().unwrap().to_owned();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if skip.contains(&text.as_str()) || meta.is_symlink() {
            continue;
        }
        if sys!(libc::SYS_access, c(&text).as_ptr(), libc::W_OK).is_ok() {
            found.insert(text);
        }
        if meta.is_dir() {
            left.extend(
                fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()),
            );
        }
    }
    found
}

fn collect() -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut say = |name: &str, value: String| lines.push(format!("{name}: {value}"));
    // SAFETY: takes no memory.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    let mask = |text: String| {
        let words = text.split(' ').map(|word| match word {
            word if word == uid.to_string() || word == gid.to_string() => "OWN".to_owned(),
            word => word.to_owned(),
        });
        join(words)
    };
    for field in ["Uid", "Gid"] {
        say(field, mask(status(field)));
    }
    let groups = status("Groups");
    // An ordinary user cannot give up groups; root's sandboxes have none.
    let kept = std::env::var_os("OPENBRAIN_TEST_ROOT").is_none();
    let none = groups.is_empty() || mask(groups.clone()) == "OWN";
    say("groups", if none || kept { "at most the caller's".into() } else { groups });
    for file in ["uid_map", "gid_map", "setgroups"] {
        let text = fs::read_to_string(format!("/proc/self/{file}")).unwrap();
        say(file, mask(join(text.split_whitespace().map(str::to_owned))));
    }
    for field in [
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "SigBlk",
        "SigIgn",
        "ShdPnd",
        "TracerPid",
        "Umask",
    ] {
        say(field, status(field));
    }
    say(
        "securebits",
        format!("{:#x}", sys!(libc::SYS_prctl, libc::PR_GET_SECUREBITS, 0, 0, 0, 0).unwrap()),
    );
    say("dumpable", sys!(libc::SYS_prctl, libc::PR_GET_DUMPABLE, 0, 0, 0, 0).unwrap().to_string());
    say("personality", sys!(libc::SYS_personality, 0xffff_ffffu32).unwrap().to_string());
    let own = std::process::id();
    say("parent", sys!(libc::SYS_getppid).unwrap().to_string());
    let leads = sys!(libc::SYS_getsid, 0).unwrap() == i64::from(own)
        && sys!(libc::SYS_getpgid, 0).unwrap() == i64::from(own);
    say("leads its session", leads.to_string());
    say(
        "terminal",
        fs::read_to_string("/proc/self/stat")
            .unwrap()
            .rsplit_once(") ")
            .unwrap()
            .1
            .split(' ')
            .nth(4)
            .unwrap()
            .into(),
    );
    say(
        "processes",
        join(
            names("/proc")
                .into_iter()
                .filter(|name| name.parse::<u32>().is_ok())
                .map(|pid| if pid == own.to_string() { "own".into() } else { pid }),
        ),
    );
    for name in NAMESPACES {
        let host = std::env::var(format!("OPENBRAIN_TEST_NS_{name}")).unwrap();
        let inside = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        say(
            &format!("namespace {name}"),
            if inside.to_str() == Some(&host) { "the host's" } else { "own" }.into(),
        );
    }
    for fd in names("/proc/self/fd") {
        let Ok(link) = fs::read_link(format!("/proc/self/fd/{fd}")) else { continue };
        let link = link.to_str().unwrap().to_owned();
        if link != format!("/proc/{own}/fd") {
            say(&format!("descriptor {fd}"), link.split(':').next().unwrap().into());
        }
    }
    say("directory", std::env::current_dir().unwrap().to_str().unwrap().into());
    let vars: BTreeSet<_> = std::env::vars()
        .filter(|(name, _)| !name.starts_with("OPENBRAIN_TEST") && name != "RUST_BACKTRACE")
        .collect();
    for (name, value) in vars {
        say(&format!("variable {name}"), value);
    }
    say("host name", fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().into());
    say("domain name", fs::read_to_string("/proc/sys/kernel/domainname").unwrap().trim().into());
    let table = |path: &str, skip| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .lines()
            .skip(skip)
            .map(|line| {
                line.split_whitespace().next().unwrap_or_default().trim_end_matches(':').to_owned()
            })
            .collect::<BTreeSet<_>>()
    };
    say("interfaces", join(table("/proc/self/net/dev", 2)));
    for (path, skip) in
        [("route", 1), ("tcp", 1), ("tcp6", 1), ("udp", 1), ("unix", 1), ("packet", 1)]
    {
        say(
            &format!("net/{path}"),
            fs::read_to_string(format!("/proc/self/net/{path}"))
                .unwrap_or_default()
                .lines()
                .skip(skip)
                .count()
                .to_string(),
        );
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    say(
        "control groups that are not roots",
        groups.lines().filter(|line| !line.ends_with(":/")).count().to_string(),
    );
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    for name in ["Max core file size", "Max open files"] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        say(name, join(line.split_whitespace().take(2).map(str::to_owned)));
    }
    say("list /", join(names("/").into_iter().filter(|name| !SYSTEM.contains(&name.as_str()))));
    for directory in [
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/home",
        "/home/sandbox",
        "/run",
        "/var",
        "/var/tmp",
        "/workspace",
        "/probe",
        "/proc/sysvipc",
    ] {
        let link = |name: String| match fs::read_link(format!("{directory}/{name}")) {
            Ok(target) => format!("{name}->{}", target.display()),
            Err(_) => name,
        };
        say(&format!("list {directory}"), join(names(directory).into_iter().map(link)));
    }
    let known = |name: &String| {
        ETC.contains(&name.as_str()) || ETC_MORE.iter().any(|more| name.starts_with(more))
    };
    say(
        "list /etc, beside what is known",
        join(names("/etc").into_iter().filter(|name| !known(name))),
    );
    say("writable", join(writable("/", &["/proc", "/usr", host::exe().to_str().unwrap()])));
    // Files of the kernel that are not a process's own.
    let kernel = names("/proc").into_iter().filter(|name| name.parse::<u32>().is_err());
    let pressure =
        ["/proc/pressure/cpu", "/proc/pressure/memory", "/proc/pressure/io", "/proc/pressure/irq"];
    let kernel: BTreeSet<String> =
        kernel.flat_map(|name| writable(&format!("/proc/{name}"), &pressure)).collect();
    say("writable in /proc", join(kernel));
    say("set-user-ID programs that would be one", count_set_id().to_string());
    lines.extend(mounts());
    lines.join("\n") + "\n"
}

/// Programs with a set-user-ID bit on a mount that would honour it.
fn count_set_id() -> usize {
    let entries = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .into_iter()
        .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten());
    let set_id = entries
        .filter(|entry| fs::metadata(entry.path()).is_ok_and(|meta| meta.mode() & 0o6000 != 0));
    let honoured = set_id.filter(|entry| {
        let mut stat = [0u64; 32];
        let path = c(entry.path().to_str().unwrap());
        const NOSUID: u64 = 2;
        sys!(libc::SYS_statfs, path.as_ptr(), stat.as_mut_ptr()).unwrap();
        // `f_flags` of `struct statfs`.
        stat[10] & NOSUID == 0
    });
    honoured.count()
}

mod probes {
    use super::*;

    probe! {
        fn tells_everything() {
            println!("\n-----8<-----\n{}-----8<-----", collect());
        }
    }
}

/// What the probe finds, below the header of the committed files.
fn posture(network: bool, way: fn(Exec) -> Output) -> String {
    let mut exec = probe("posture::probes::tells_everything").allow_network(network);
    if host::is_root() {
        exec = exec.env("OPENBRAIN_TEST_ROOT", "1");
    }
    for name in NAMESPACES {
        let link = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        exec = exec.env(format!("OPENBRAIN_TEST_NS_{name}"), link.to_str().unwrap());
    }
    let text = passes_by(way, exec);
    let found = text.split("-----8<-----\n").nth(1).unwrap();
    let header = "# generated by the abuse suite: UPDATE=1 cargo test --test abuse posture\n";
    header.to_owned() + found
}

fn expected() -> (&'static str, &'static str) {
    match host::is_root() {
        true => ("posture-root.txt", include_str!("posture-root.txt")),
        false => ("posture-user.txt", include_str!("posture-user.txt")),
    }
}

#[test]
fn posture_is_the_expected_one() {
    let found = posture(false, host::run);
    let (name, expected) = expected();
    if std::env::var_os("UPDATE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abuse").join(name);
        fs::write(path, &found).unwrap();
        return;
    }
    let (found_lines, expected_lines): (BTreeSet<_>, BTreeSet<_>) =
        (found.lines().collect(), expected.lines().collect());
    let new: Vec<_> = found_lines.difference(&expected_lines).collect();
    let gone: Vec<_> = expected_lines.difference(&found_lines).collect();
    assert!(found == expected, "look at it, then UPDATE=1\nnew: {new:#?}\ngone: {gone:#?}");
}

/// A network adds the relay's sockets to the sandbox's own tables and nothing else.
#[test]
fn posture_with_a_network_differs_by_its_sockets() {
    let mut expected = expected().1.to_owned();
    for table in ["net/tcp6", "net/tcp", "net/udp"] {
        expected = expected.replace(&format!("{table}: 0\n"), &format!("{table}: 1\n"));
    }
    assert_eq!(posture(true, host::run), expected);
}

/// A command in a sandbox that stays open has the same walls, and one more: the filter that keeps its
/// number. The other process is the one that the command before it has left.
#[test]
fn posture_in_an_open_sandbox_is_the_same() {
    let expected = expected()
        .1
        .replace("Seccomp_filters: 1\n", "Seccomp_filters: 2\n")
        .replace("processes: 1 own\n", "processes: 1 3 own\n");
    assert_eq!(posture(false, host::run_opened), expected);
}

/// Nothing tells that a sandbox was made before its command.
#[test]
fn posture_in_a_sandbox_that_was_ready_is_the_same() {
    assert_eq!(posture(false, host::run_warm), expected().1);
}

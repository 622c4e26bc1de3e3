//! Files: what exists, what can be written, and whether a path leads out.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use libc::{EACCES, EBUSY, EEXIST, EINVAL, ENOENT, ENOTDIR, EOVERFLOW, EPERM, EROFS, EXDEV};
use openbrain::{ErrorKind, Mount, MountMode};

use crate::{
    host::{self, Place, hash, passes, probe},
    sys::{c, open},
};

/// What a path outside is called for a probe.
const SECRET: &str = "OPENBRAIN_TEST_SECRET";

fn refused<T: std::fmt::Debug>(result: Result<T, i32>, what: &str) {
    let errno = result.expect_err(what);
    assert!([EROFS, EACCES, EPERM, EOVERFLOW].contains(&errno), "{what}: errno {errno}");
}

fn mount(place: &Place, mode: MountMode) -> Mount {
    Mount::new(place.work(), "/workspace", mode)
}

/// Every path that a probe can list, without `/proc` and the system directories.
fn everything() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::from("/")];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let skip =
                ["/proc", "/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/nix", "/gnu"];
            if entry.file_type().unwrap().is_dir() && !skip.iter().any(|s| path == Path::new(s)) {
                left.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

/// Passes a descriptor over a socket, and returns the number that it gets.
fn pass(
    from: &std::os::unix::net::UnixStream,
    to: &std::os::unix::net::UnixStream,
    fd: i32,
) -> i32 {
    use std::os::fd::AsRawFd;
    let mut byte = 0u8;
    let iov = [&raw mut byte as u64, 1];
    let mut control =
        [20u64, u64::from(libc::SOL_SOCKET as u32) | (libc::SCM_RIGHTS as u64) << 32, fd as u64];
    let message = [0, 0, iov.as_ptr() as u64, 1, control.as_mut_ptr() as u64, 24, 0];
    assert_eq!(sys!(libc::SYS_sendmsg, from.as_raw_fd(), message.as_ptr(), 0), Ok(1));
    control[2] = u64::MAX;
    assert_eq!(sys!(libc::SYS_recvmsg, to.as_raw_fd(), message.as_ptr(), 0), Ok(1));
    control[2] as i32
}

mod probes {
    use super::*;

    probe! {
        fn private_files_do_not_exist() {
            let secret = std::env::var(SECRET).unwrap();
            let paths = [
                "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh", "/etc/fstab", "/etc/machine-id",
                "/root", "/boot", "/sys", "/srv", "/mnt", "/media", "/var/lib", "/var/log", "/var/run",
                "/run/docker.sock", "/run/user", "/run/systemd", "/var/run/docker.sock", "/.dockerenv",
                "/tmp/.X11-unix", "/dev/core", "/dev/mem", "/dev/kmsg", &secret,
            ];
            for path in paths {
                assert_eq!(open(path, libc::O_PATH), Err(ENOENT), "{path}");
            }
            let homes: Vec<_> = fs::read_dir("/home").unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(homes, ["sandbox"]);
            assert!(fs::read_to_string("/etc/passwd").unwrap().contains("sandbox:x:"));
            assert!(fs::metadata("/usr/bin").unwrap().is_dir());
        }
    }

    probe! {
        fn no_socket_or_fifo_is_in_sight() {
            let found = everything();
            assert!(found.contains(&PathBuf::from("/etc/passwd")));
            for path in found {
                let Ok(meta) = fs::symlink_metadata(&path) else { continue };
                let kind = meta.file_type();
                assert!(!kind.is_socket() && !kind.is_fifo() && !kind.is_block_device(), "{path:?}");
            }
        }
    }

    probe! {
        fn system_is_read_only() {
            let create = libc::O_CREAT | libc::O_WRONLY | libc::O_EXCL;
            for directory in ["", "/usr", "/usr/bin", "/bin", "/lib", "/etc", "/dev", "/proc/sys", "/home", "/var"] {
                let path = format!("{directory}/openbrain-abuse");
                let errno = open(&path, create).expect_err(&path);
                assert!([EROFS, EACCES, EPERM, ENOENT].contains(&errno), "{path}: errno {errno}");
                let path = c(&path);
                refused(sys!(libc::SYS_mkdir, path.as_ptr(), 0o755).map_err(|e| if e == ENOENT { EROFS } else { e }), "mkdir");
            }
            for path in ["/etc/passwd", "/etc/hosts", "/etc/resolv.conf"] {
                refused(open(path, libc::O_WRONLY), path);
                refused(sys!(libc::SYS_chmod, c(path).as_ptr(), 0o777), path);
                refused(sys!(libc::SYS_unlink, c(path).as_ptr()), path);
            }
            // Every mount that is writable is one of the sandbox's own.
            let own = [
                "/run", "/var/tmp", "/dev/shm", "/home/sandbox", "/workspace", "/tmp", "/proc", "/dev/pts",
                "/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero",
            ];
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            for line in mounts.lines() {
                let fields: Vec<&str> = line.split(' ').collect();
                let read_only = fields[5].split(',').any(|option| option == "ro");
                assert!(read_only || own.contains(&fields[4]), "{line}");
            }
            // The old and the new way to change a mount.
            let (none, usr) = (c("none"), c("/usr"));
            let remount = libc::MS_REMOUNT | libc::MS_BIND;
            assert_eq!(sys!(libc::SYS_mount, none.as_ptr(), usr.as_ptr(), 0, remount, 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_umount2, usr.as_ptr(), libc::MNT_DETACH), Err(EPERM));
            fs::write("/tmp/x", "writable").unwrap();
            fs::write("/home/sandbox/x", "writable").unwrap();
            assert_eq!(fs::read_to_string("/tmp/x").unwrap(), "writable");
        }
    }

    probe! {
        fn read_only_mount_cannot_change() {
            let file = c("/workspace/file");
            let other = c("/workspace/other");
            let at = libc::AT_FDCWD;
            let times = [0i64; 4];
            refused(open("/workspace/file", libc::O_WRONLY), "open for writing");
            refused(open("/workspace/file", libc::O_RDWR), "open for reading and writing");
            refused(open("/workspace/file", libc::O_RDONLY | libc::O_TRUNC), "open and truncate");
            refused(open("/workspace/other", libc::O_CREAT | libc::O_WRONLY), "create");
            refused(open("/workspace", libc::O_TMPFILE | libc::O_RDWR), "create without a name");
            refused(sys!(libc::SYS_unlink, file.as_ptr()), "unlink");
            refused(sys!(libc::SYS_rename, file.as_ptr(), other.as_ptr()), "rename");
            refused(sys!(libc::SYS_renameat2, at, file.as_ptr(), at, c("/workspace/sub").as_ptr(), libc::RENAME_EXCHANGE), "exchange");
            refused(sys!(libc::SYS_link, file.as_ptr(), other.as_ptr()), "link");
            refused(sys!(libc::SYS_symlink, file.as_ptr(), other.as_ptr()), "symlink");
            refused(sys!(libc::SYS_mkdir, other.as_ptr(), 0o755), "mkdir");
            refused(sys!(libc::SYS_rmdir, c("/workspace/sub").as_ptr()), "rmdir");
            refused(sys!(libc::SYS_mknod, other.as_ptr(), libc::S_IFIFO | 0o666, 0), "mkfifo");
            refused(sys!(libc::SYS_chmod, file.as_ptr(), 0o600), "chmod");
            refused(sys!(libc::SYS_chown, file.as_ptr(), 1, 1), "chown");
            refused(sys!(libc::SYS_truncate, file.as_ptr(), 0), "truncate");
            refused(sys!(libc::SYS_utimensat, at, file.as_ptr(), times.as_ptr(), 0), "utimensat");
            let (name, value) = (c("user.x"), c("y"));
            refused(sys!(libc::SYS_setxattr, file.as_ptr(), name.as_ptr(), value.as_ptr(), 1, 0), "setxattr");
            // A descriptor for reading cannot be made one for writing.
            let fd = open("/workspace/file", libc::O_RDONLY).unwrap();
            refused(open(&format!("/proc/self/fd/{fd}"), libc::O_RDWR), "open again");
            refused(sys!(libc::SYS_fchmod, fd, 0o600), "fchmod");
            refused(sys!(libc::SYS_futimesat, fd, 0, times.as_ptr()), "futimesat");
            refused(sys!(libc::SYS_ftruncate, fd, 0).map_err(|e| if e == EINVAL { EROFS } else { e }), "ftruncate");
            let (shared, protection) = (libc::MAP_SHARED, libc::PROT_READ | libc::PROT_WRITE);
            refused(sys!(libc::SYS_mmap, 0, 4096, protection, shared, fd, 0), "map for writing");
            let map = sys!(libc::SYS_mmap, 0, 4096, libc::PROT_READ, shared, fd, 0).unwrap();
            refused(sys!(libc::SYS_mprotect, map, 4096, protection), "make a map writable");
            assert_eq!(fs::read_to_string("/workspace/file").unwrap(), "content");
            assert_eq!(fs::read_to_string("/workspace/sub/deep").unwrap(), "deep");
        }
    }

    probe! {
        fn writes_are_seen_inside() {
            fs::write("/workspace/new", "new").unwrap();
            fs::write("/workspace/file", "changed").unwrap();
            fs::remove_file("/workspace/sub/deep").unwrap();
            fs::remove_dir("/workspace/sub").unwrap();
            fs::rename("/workspace/file", "/workspace/renamed").unwrap();
            fs::set_permissions("/workspace/new", fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(fs::read_to_string("/workspace/renamed").unwrap(), "changed");
            assert!(fs::metadata("/workspace/sub").is_err());
        }
    }

    probe! {
        fn links_lead_nowhere() {
            let secret = std::env::var(SECRET).unwrap();
            assert!(fs::read_to_string("/workspace/passwd").unwrap().contains("sandbox:x:"));
            assert_eq!(open("/workspace/shadow", libc::O_RDONLY), Err(ENOENT));
            assert_eq!(open("/workspace/secret", libc::O_RDONLY), Err(ENOENT), "{secret}");
            assert_eq!(open("/workspace/up/outside/secret", libc::O_RDONLY), Err(ENOENT));
            let through_init = open("/workspace/init/etc/shadow", libc::O_RDONLY).unwrap_err();
            assert!([EACCES, EPERM, ENOENT].contains(&through_init), "{through_init}");
            assert_eq!(fs::read_to_string("/workspace/near").unwrap(), "content");
        }
    }

    probe! {
        fn links_across_mounts_are_refused() {
            let at = libc::AT_FDCWD;
            let target = c("/workspace/stolen");
            for path in ["/etc/passwd", "/usr/bin/env", "/tmp/own"] {
                fs::write("/tmp/own", "own").unwrap();
                let path_c = c(path);
                let flags = [0, libc::AT_SYMLINK_FOLLOW];
                for flag in flags {
                    let errno = sys!(libc::SYS_linkat, at, path_c.as_ptr(), at, target.as_ptr(), flag).unwrap_err();
                    assert!([EXDEV, EPERM, EACCES].contains(&errno), "{path}: errno {errno}");
                }
                // By the link of a descriptor, and by the descriptor itself.
                let fd = open(path, libc::O_PATH).unwrap();
                let magic = c(&format!("/proc/self/fd/{fd}"));
                let errno = sys!(libc::SYS_linkat, at, magic.as_ptr(), at, target.as_ptr(), libc::AT_SYMLINK_FOLLOW).unwrap_err();
                assert!([EXDEV, EPERM, EACCES, ENOENT].contains(&errno), "{path}: errno {errno}");
            }
            fs::hard_link("/workspace/file", "/workspace/linked").unwrap();
        }
    }

    probe! {
        fn dots_and_magic_links_stay_inside() {
            let secret = std::env::var(SECRET).unwrap();
            let up = "../".repeat(60);
            let root = fs::metadata("/").unwrap();
            let same = |path: &str| {
                let meta = fs::metadata(path).unwrap();
                assert_eq!((meta.dev(), meta.ino()), (root.dev(), root.ino()), "{path}");
            };
            same(&up);
            for start in ["/proc/self/root/", "/proc/self/cwd/", "/proc/thread-self/root/", "/workspace/", "/proc/self/fd/../"] {
                same(&format!("{start}{up}"));
                assert_eq!(open(&format!("{start}{up}{secret}"), libc::O_PATH), Err(ENOENT), "{start}");
            }
            for path in ["/workspace", "/usr", "/tmp", "/etc/passwd", "/proc", "/dev/pts", "/dev/null"] {
                let fd = open(path, libc::O_PATH).unwrap();
                let link = format!("/proc/self/fd/{fd}/{up}");
                if fs::metadata(path).unwrap().is_dir() {
                    same(&link);
                    // `..` of a mount's root is the mount point's parent.
                    let parent = sys!(libc::SYS_openat, fd, c("..").as_ptr(), libc::O_PATH, 0).unwrap();
                    assert_eq!(sys!(libc::SYS_openat, parent, c(secret.trim_start_matches('/')).as_ptr(), libc::O_PATH, 0), Err(ENOENT));
                }
            }
            for path in ["/proc/1/root", "/proc/1/cwd", "/proc/1/exe", "/proc/1/fd", "/proc/1/ns/mnt", "/proc/1/map_files"] {
                let error = match fs::symlink_metadata(path).unwrap().is_dir() {
                    true => fs::read_dir(path).map(drop).unwrap_err(),
                    false => fs::read_link(path).map(drop).unwrap_err(),
                };
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{path}");
            }
        }
    }

    probe! {
        fn chroot_and_handles_are_refused() {
            let (dot, path) = (c("."), c("/tmp"));
            assert_eq!(sys!(libc::SYS_chroot, path.as_ptr()), Err(EPERM));
            assert_eq!(sys!(libc::SYS_pivot_root, dot.as_ptr(), dot.as_ptr()), Err(EPERM));
            // A handle of the sandbox's own directory can be made; one can never be opened.
            let mut handle = [0u32; 34];
            handle[0] = 128;
            let mut id = 0i32;
            let made = sys!(libc::SYS_name_to_handle_at, libc::AT_FDCWD, path.as_ptr(), handle.as_mut_ptr(), &raw mut id, 0);
            assert!(made.is_ok() || made == Err(libc::EOPNOTSUPP), "{made:?}");
            let workspace = open("/workspace", libc::O_RDONLY).unwrap();
            assert_eq!(sys!(libc::SYS_open_by_handle_at, workspace, handle.as_ptr(), libc::O_RDONLY), Err(EPERM));
            assert_eq!(sys!(libc::SYS_fanotify_init, 0, 0), Err(EPERM));
            // The file systems' own way to name their roots by number (`ioctl(2)` of ext4, btrfs).
            let root = "shocker".as_ptr();
            assert!(sys!(libc::SYS_ioctl, workspace, 0x5000_940e_u32, root).is_err());
        }
    }

    probe! {
        fn devices_cannot_be_made_or_opened() {
            let (block, character) = (libc::S_IFBLK | 0o666, libc::S_IFCHR | 0o666);
            let at = libc::AT_FDCWD;
            for directory in ["/tmp", "/workspace", "/dev/shm", "/dev"] {
                let path = c(&format!("{directory}/device"));
                for (kind, device) in [(character, 0x103), (block, 0x800), (character, 0x501)] {
                    assert_eq!(sys!(libc::SYS_mknod, path.as_ptr(), kind, device), Err(EPERM));
                    assert_eq!(sys!(libc::SYS_mknodat, at, path.as_ptr(), kind, device), Err(EPERM));
                }
            }
            if std::env::var_os("OPENBRAIN_TEST_DEVICE").is_some() {
                for path in ["/workspace/zero", "/data/zero"] {
                    assert!(fs::symlink_metadata(path).unwrap().file_type().is_char_device());
                    assert_eq!(open(path, libc::O_RDONLY), Err(EACCES), "{path}");
                }
            }
            let mut names: Vec<_> = fs::read_dir("/dev").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            assert_eq!(names, [
                "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero",
            ]);
            assert_eq!(fs::read("/dev/null").unwrap(), b"");
            fs::write("/dev/null", "x").unwrap();
            let mut byte = [1u8; 8];
            let zero = open("/dev/zero", libc::O_RDONLY).unwrap();
            assert_eq!(sys!(libc::SYS_read, zero, byte.as_mut_ptr(), 8), Ok(8));
            assert_eq!(byte, [0; 8]);
        }
    }

    probe! {
        fn kernel_files_are_closed() {
            for path in [
                "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
                "/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/ns_last_pid",
                "/proc/sys/user/max_user_namespaces", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/binfmt_misc/register",
                "/proc/irq/default_smp_affinity", "/proc/mtrr", "/proc/1/oom_score_adj", "/proc/1/oom_adj", "/proc/1/comm",
                "/proc/1/coredump_filter", "/proc/1/autogroup", "/proc/1/clear_refs", "/proc/1/uid_map", "/proc/1/timerslack_ns",
                "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups", "/proc/self/projid_map",
            ] {
                match open(path, libc::O_WRONLY) {
                    Err(errno) => assert!([EACCES, EPERM, EROFS, ENOENT, EINVAL].contains(&errno), "{path}: errno {errno}"),
                    Ok(fd) => {
                        let written = sys!(libc::SYS_write, fd, c("0 0 1\n").as_ptr(), 6);
                        assert!(written.is_err(), "{path} takes what is written");
                    }
                }
            }
            for path in ["/proc/kcore", "/proc/kmsg", "/proc/keys", "/proc/key-users", "/proc/timer_list", "/proc/sched_debug", "/proc/vmallocinfo", "/proc/slabinfo", "/proc/pagetypeinfo", "/proc/kpagecount"] {
                let content = fs::read(path).map(|content| content.len());
                assert!(matches!(content, Err(_) | Ok(0)), "{path}: {content:?} bytes");
            }
            for path in ["/proc/acpi", "/proc/scsi", "/proc/asound"] {
                let entries = fs::read_dir(path).map(Iterator::count);
                assert!(matches!(entries, Err(_) | Ok(0)), "{path}: {entries:?}");
            }
            // Addresses of the kernel are not told.
            let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
            assert!(symbols.lines().take(50).all(|line| line.starts_with("0000000000000000")));
            let mut entry = [0u8; 8];
            let pagemap = open("/proc/self/pagemap", libc::O_RDONLY).unwrap();
            let at = std::ptr::from_ref(&entry) as i64 / 4096 * 8;
            sys!(libc::SYS_pread64, pagemap, entry.as_mut_ptr(), 8, at).unwrap();
            assert_eq!(u64::from_ne_bytes(entry) & ((1 << 55) - 1), 0, "a frame number is told");
            assert!(fs::read_to_string("/proc/meminfo").unwrap().contains("MemTotal"));
            assert!(fs::read_to_string("/proc/self/status").unwrap().contains("NSpid"));
            fs::write("/proc/self/oom_score_adj", "1000").unwrap();
        }
    }

    probe! {
        fn helper_cannot_be_reached() {
            for path in ["/proc/1/exe", "/proc/1/mem", "/proc/1/maps", "/proc/1/environ", "/proc/1/auxv", "/proc/1/syscall", "/proc/1/stack", "/proc/1/fd/0", "/proc/1/fdinfo/0", "/proc/1/task/1/mem"] {
                for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_PATH] {
                    if flags == libc::O_PATH && !path.contains("fd/") && !path.ends_with("exe") {
                        continue;
                    }
                    let errno = match open(path, flags) {
                        Err(errno) => errno,
                        // Some files open for everybody and are empty for most.
                        Ok(fd) => match sys!(libc::SYS_read, fd, [0u8; 64].as_mut_ptr(), 64) {
                            Ok(0) => EACCES,
                            Ok(length) => panic!("{path}: {length} bytes"),
                            Err(errno) => errno,
                        },
                    };
                    assert!([EACCES, EPERM].contains(&errno), "{path}: errno {errno}");
                }
            }
            let cmdline = fs::read("/proc/1/cmdline").unwrap_or_default();
            assert!(cmdline.len() <= 10, "the helper has arguments: {cmdline:?}");
            // Its own program is one the sandbox may read, not one that it may write.
            let errno = open("/proc/self/exe", libc::O_WRONLY).unwrap_err();
            assert!([libc::ETXTBSY, EROFS, EACCES].contains(&errno), "errno {errno}");
            assert!(fs::read("/proc/self/exe").unwrap().starts_with(b"\x7fELF"));
        }
    }

    probe! {
        fn privileged_programs_give_nothing() {
            let program = "/workspace/suid";
            let meta = fs::metadata(program).unwrap();
            assert_eq!(meta.mode() & 0o6000, 0o6000);
            let before = fs::read_to_string("/proc/self/status").unwrap();
            let output = std::process::Command::new(program)
                .args(["--ignored", "--exact", "files::probes::tells_who_it_is", "--nocapture"])
                .output()
                .unwrap();
            let after = String::from_utf8_lossy(&output.stdout);
            for field in ["Uid:", "Gid:", "CapPrm:", "CapEff:", "CapBnd:", "NoNewPrivs:"] {
                let line = before.lines().find(|line| line.starts_with(field)).unwrap();
                assert!(after.contains(line), "{line} became\n{after}");
            }
            assert!(after.contains("CapEff:\t0000000000000000"));
        }
    }

    probe! {
        fn tells_who_it_is() {
            println!("\n{}", fs::read_to_string("/proc/self/status").unwrap());
        }
    }

    probe! {
        fn set_id_bits_are_refused() {
            fs::write("/workspace/program", "x").unwrap();
            let path = c("/workspace/program");
            let new = c("/workspace/new-program");
            let at = libc::AT_FDCWD;
            let fd = open("/workspace/program", libc::O_RDWR).unwrap();
            let create = libc::O_CREAT | libc::O_WRONLY;
            const FCHMODAT2: i64 = 452;
            for mode in [0o4755, 0o2755, 0o6755, 0o4000] {
                assert_eq!(sys!(libc::SYS_chmod, path.as_ptr(), mode), Err(EPERM));
                assert_eq!(sys!(libc::SYS_fchmod, fd, mode), Err(EPERM));
                assert_eq!(sys!(libc::SYS_fchmodat, at, path.as_ptr(), mode), Err(EPERM));
                assert_eq!(sys!(FCHMODAT2, at, path.as_ptr(), mode, 0), Err(EPERM));
                assert_eq!(sys!(libc::SYS_creat, new.as_ptr(), mode), Err(EPERM));
                assert_eq!(sys!(libc::SYS_open, new.as_ptr(), create, mode), Err(EPERM));
                assert_eq!(sys!(libc::SYS_openat, at, new.as_ptr(), create, mode), Err(EPERM));
                assert_eq!(sys!(libc::SYS_mknod, new.as_ptr(), libc::S_IFREG | mode, 0), Err(EPERM));
                assert_eq!(sys!(libc::SYS_mknodat, at, new.as_ptr(), libc::S_IFREG | mode, 0), Err(EPERM));
                // The kernel looks at the low bits of a mode only.
                assert_eq!(sys!(libc::SYS_chmod, path.as_ptr(), i64::from(mode) | 0x7fff_0000_0000), Err(EPERM));
            }
            let how = [create as u64, 0o4755, 0];
            assert_eq!(sys!(libc::SYS_openat2, at, new.as_ptr(), how.as_ptr(), 24), Err(libc::ENOSYS));
            // A file's capabilities are another way to power.
            let (name, value) = (c("security.capability"), [1u8, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(sys!(libc::SYS_setxattr, path.as_ptr(), name.as_ptr(), value.as_ptr(), 20, 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_chmod, path.as_ptr(), 0o755), Ok(0));
            assert_eq!(fs::metadata("/workspace/program").unwrap().mode() & 0o7777, 0o755);
            fs::create_dir("/workspace/directory").unwrap();
            let _ = sys!(libc::SYS_mkdir, c("/workspace/directory/x").as_ptr(), 0o7777);
        }
    }

    probe! {
        fn mount_points_cannot_be_replaced() {
            let at = libc::AT_FDCWD;
            let (inner, other) = (c("/workspace/sub"), c("/workspace/moved"));
            assert_eq!(sys!(libc::SYS_rename, inner.as_ptr(), other.as_ptr()), Err(EBUSY));
            fs::create_dir("/workspace/fake").unwrap();
            let fake = c("/workspace/fake");
            assert_eq!(sys!(libc::SYS_renameat2, at, fake.as_ptr(), at, inner.as_ptr(), libc::RENAME_EXCHANGE), Err(EBUSY));
            assert_eq!(sys!(libc::SYS_rmdir, inner.as_ptr()), Err(EBUSY));
            refused(open("/workspace/sub/new", libc::O_CREAT | libc::O_WRONLY), "write to the inner mount");
            assert_eq!(fs::read_to_string("/workspace/sub/secret").unwrap(), "secret");
            // Moving the parent of a mount point moves the mount with it.
            assert!(fs::rename("/workspace", "/moved").is_err());
        }
    }

    probe! {
        fn inner_mount_is_where_it_was_asked_for() {
            assert_eq!(fs::read_to_string("/workspace/link/bin/secret").unwrap(), "secret");
        }
    }

    probe! {
        fn two_layers_are_two() {
            fs::write("/data/x/mark", "one").unwrap();
            assert!(fs::metadata("/data-x/mark").is_err(), "two mounts share one layer");
        }
    }

    probe! {
        fn root_of_the_host_is_nobody_here() {
            // Owned by somebody else than the mount's owner.
            assert_eq!(open("/workspace/closed", libc::O_RDONLY), Err(EACCES));
            refused(open("/workspace/closed", libc::O_WRONLY), "write to what is root's");
            refused(open("/workspace/readable", libc::O_WRONLY), "write to what is root's");
            refused(sys!(libc::SYS_chmod, c("/workspace/closed").as_ptr(), 0o666), "chmod");
            refused(sys!(libc::SYS_chown, c("/workspace/closed").as_ptr(), 1000, 1000), "chown");
            assert_eq!(fs::read_to_string("/workspace/readable").unwrap(), "everybody's");
            assert_eq!(fs::read_to_string("/workspace/own").unwrap(), "own");
            fs::write("/workspace/new", "new").unwrap();
            fs::create_dir("/workspace/directory").unwrap();
        }
    }

    probe! {
        fn exposed_directory_is_read_only() {
            let exposed = std::env::var(SECRET).unwrap();
            assert_eq!(fs::read_to_string(format!("{exposed}/file")).unwrap(), "content");
            refused(open(&format!("{exposed}/file"), libc::O_WRONLY), "open for writing");
            refused(open(&format!("{exposed}/new"), libc::O_CREAT | libc::O_WRONLY), "create");
            // What is beside it is not there; what leads to it is the sandbox's own.
            let beside = Path::new(&exposed).parent().unwrap();
            assert_eq!(fs::read_dir(beside).unwrap().count(), 1);
        }
    }

    probe! {
        fn colon_in_a_target_is_a_colon() {
            assert_eq!(fs::read_to_string("/data/a:usr,b\\/file").unwrap(), "content");
            assert!(!Path::new("/data/a:usr,b\\/bin").exists());
        }
    }

    probe! {
        fn sockets_are_made_and_answered_inside_a_mount() {
            use std::os::unix::net::{UnixListener, UnixStream};
            let server = UnixListener::bind("/workspace/inside.sock").unwrap();
            let client = UnixStream::connect("/workspace/inside.sock").unwrap();
            let (server, _) = server.accept().unwrap();
            // A descriptor that is passed on keeps its mount's rights.
            let file = open("/usr/bin/env", libc::O_RDONLY).unwrap();
            let received = pass(&client, &server, file as i32);
            refused(open(&format!("/proc/self/fd/{received}"), libc::O_RDWR), "open again");
            let directory = pass(&client, &server, open("/", libc::O_PATH).unwrap() as i32);
            let up = sys!(libc::SYS_openat, directory, c("../../etc/shadow").as_ptr(), libc::O_RDONLY, 0);
            assert_eq!(up, Err(ENOENT));
        }
    }

    probe! {
        fn socket_of_the_host_in_a_mount() {
            use std::os::unix::net::UnixStream;
            let mut answer = String::new();
            let stream = UnixStream::connect("/workspace/host.sock");
            println!("\nconnected: {}", stream.is_ok());
            if let Ok(mut stream) = stream {
                use std::io::Read;
                let _ = stream.read_to_string(&mut answer);
            }
            assert_eq!(fs::read_to_string("/workspace/file").unwrap(), "content");
        }
    }

    probe! {
        fn writes_a_file() {
            fs::write("/workspace/new", "new").unwrap();
        }
    }

    probe! {
        fn closed_file_is_the_owners() {
            assert_eq!(fs::read_to_string("/workspace/closed").unwrap(), "closed");
            assert_eq!(fs::read_to_string("/workspace/own").unwrap(), "own");
        }
    }

    probe! {
        fn mark_is_there() {
            assert_eq!(fs::read_to_string("/workspace/mark").unwrap(), "right");
        }
    }
}

#[test]
fn private_files_of_the_host_do_not_exist() {
    let place = Place::new();
    let secret = place.outside().join("secret");
    passes(
        probe("files::probes::private_files_do_not_exist").env(SECRET, secret.to_str().unwrap()),
    );
    place.assert_outside_unchanged();
}

#[test]
fn no_socket_of_the_host_is_in_sight() {
    passes(probe("files::probes::no_socket_or_fifo_is_in_sight"));
}

#[test]
fn system_directories_are_read_only() {
    passes(probe("files::probes::system_is_read_only"));
    assert!(!Path::new("/usr/openbrain-abuse").exists());
}

#[test]
fn read_only_mount_stays_as_it_is() {
    let place = Place::new();
    let before = hash(&place.work());
    let mount = mount(&place, MountMode::Ro);
    passes(probe("files::probes::read_only_mount_cannot_change").mount_at(mount));
    assert_eq!(hash(&place.work()), before);
    place.assert_outside_unchanged();
}

#[test]
fn overlay_takes_the_writes_and_throws_them_away() {
    let place = Place::new();
    let before = hash(&place.work());
    for _ in 0..2 {
        let mount = mount(&place, MountMode::Overlay);
        passes(probe("files::probes::writes_are_seen_inside").mount_at(mount));
        assert_eq!(hash(&place.work()), before);
    }
    place.assert_outside_unchanged();
}

#[test]
fn read_write_mount_changes_and_nothing_beside_it() {
    let place = Place::new();
    let owner = fs::metadata(place.work()).unwrap();
    passes(probe("files::probes::writes_are_seen_inside").mount(place.work()));
    let work = place.work();
    let new = fs::metadata(work.join("new")).unwrap();
    assert_eq!((new.uid(), new.gid(), new.mode() & 0o7777), (owner.uid(), owner.gid(), 0o600));
    assert_eq!(fs::read_to_string(work.join("renamed")).unwrap(), "changed");
    assert!(!work.join("file").exists() && !work.join("sub").exists());
    place.assert_outside_unchanged();
}

#[test]
fn symbolic_links_in_a_mount_lead_nowhere() {
    let place = Place::new();
    let secret = place.outside().join("secret");
    for (target, name) in [
        (Path::new("/etc/passwd"), "passwd"),
        (Path::new("/etc/shadow"), "shadow"),
        (Path::new("/proc/1/root"), "init"),
        (Path::new(".."), "up"),
        (Path::new("file"), "near"),
        (&secret, "secret"),
    ] {
        symlink(target, place.work().join(name)).unwrap();
    }
    let exec = probe("files::probes::links_lead_nowhere").env(SECRET, secret.to_str().unwrap());
    passes(exec.mount(place.work()));
    place.assert_outside_unchanged();
}

/// A hard link that exists before the sandbox starts is the file itself: it can be written, and a
/// mount with such links is the caller's choice.
#[test]
fn hard_links_cannot_bring_a_file_in() {
    let place = Place::new();
    let outside = place.outside();
    passes(probe("files::probes::links_across_mounts_are_refused").mount(place.work()));
    assert!(!place.work().join("stolen").exists());
    assert_eq!(fs::metadata(place.work().join("file")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(outside.join("secret")).unwrap().nlink(), 1);
    place.assert_outside_unchanged();
}

#[test]
fn a_mount_source_that_is_swapped_is_never_the_wrong_one() {
    let place = Place::new();
    let (right, shown, kept) =
        (place.work(), place.dir.path().join("shown"), place.dir.path().join("kept"));
    fs::write(right.join("mark"), "right").unwrap();
    fs::rename(&right, &shown).unwrap();
    let stop = AtomicBool::new(false);
    let (mut good, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let swap = || {
            while !stop.load(Ordering::Relaxed) {
                fs::rename(&shown, &kept).unwrap();
                symlink("/", &shown).unwrap();
                fs::remove_file(&shown).unwrap();
                fs::rename(&kept, &shown).unwrap();
            }
        };
        scope.spawn(swap);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..150 {
                let mount = Mount::new(&shown, "/workspace", MountMode::Ro);
                let command = "test -d /workspace/sub && cat /workspace/mark; ls /workspace";
                match host::engine()
                    .run_blocking(openbrain::Exec::new(command).sandbox().mount_at(mount))
                {
                    Ok(output) => {
                        // The link to `/` was there when the caller asked: then it is what was asked
                        // for. What must never be is a mixture, or a path checked and not mounted.
                        let text = output.stdout_text();
                        let whole = text.starts_with("right") && !text.contains("etc\n");
                        let root = !text.starts_with("right") && text.contains("etc\n");
                        assert!(whole || root, "{text}");
                        good += usize::from(whole);
                    }
                    Err(error) => {
                        let kinds = [ErrorKind::InvalidRequest, ErrorKind::SandboxUnavailable];
                        assert!(kinds.contains(&error.kind()), "{error:?}");
                        refused += 1;
                    }
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    println!("{good} right, {refused} refused");
    let mount = Mount::new(&shown, "/workspace", MountMode::Ro);
    passes(probe("files::probes::mark_is_there").mount_at(mount));
}

#[test]
fn dots_and_magic_links_stay_inside() {
    let place = Place::new();
    let secret = place.outside().join("secret");
    let exec = probe("files::probes::dots_and_magic_links_stay_inside");
    passes(exec.env(SECRET, secret.to_str().unwrap()).mount(place.work()));
    place.assert_outside_unchanged();
}

#[test]
fn roots_and_handles_lead_nowhere() {
    let place = Place::new();
    passes(probe("files::probes::chroot_and_handles_are_refused").mount(place.work()));
    place.assert_outside_unchanged();
}

#[test]
fn devices_of_the_host_are_out_of_reach() {
    let place = Place::new();
    let exec = probe("files::probes::devices_cannot_be_made_or_opened");
    let path = c(place.work().join("zero").to_str().unwrap());
    // Only root can put a device there.
    let made = sys!(libc::SYS_mknod, path.as_ptr(), libc::S_IFCHR | 0o666, 0x105);
    let exec = match made {
        Ok(_) => {
            sys!(libc::SYS_chmod, path.as_ptr(), 0o666).unwrap();
            let again = Mount::new(place.work(), "/data", MountMode::Ro);
            exec.env("OPENBRAIN_TEST_DEVICE", "1").mount_at(again)
        }
        Err(errno) => {
            assert!(errno == EPERM || errno == EEXIST);
            exec
        }
    };
    passes(exec.mount(place.work()));
    place.assert_outside_unchanged();
}

#[test]
fn files_of_the_kernel_are_closed() {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let files = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/overcommit_memory",
    ];
    let before = files.map(read);
    passes(probe("files::probes::kernel_files_are_closed"));
    assert_eq!(files.map(read), before);
}

#[test]
fn helper_cannot_be_read_or_replaced() {
    passes(probe("files::probes::helper_cannot_be_reached"));
    // The same image serves the next sandbox.
    passes(probe("files::probes::writes_a_file"));
}

/// The trick of CVE-2019-5736: a command that is whatever program starts it, here the helper.
#[test]
fn helper_as_the_command_changes_nothing() {
    let place = Place::new();
    let program = place.work().join("self");
    fs::write(&program, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for _ in 0..3 {
        let exec = openbrain::Exec::argv(["/workspace/self"]).sandbox().mount(place.work());
        let output = host::run(exec.timeout(std::time::Duration::from_secs(10)));
        assert!(!output.success() && !output.timed_out(), "{output:?}");
    }
    passes(probe("files::probes::writes_a_file"));
}

#[test]
fn set_user_id_programs_give_no_power() {
    let place = Place::new();
    let program = place.work().join("suid");
    fs::copy(host::exe(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    for mode in [MountMode::Rw, MountMode::Ro, MountMode::Overlay] {
        let exec = probe("files::probes::privileged_programs_give_nothing");
        passes(exec.mount_at(mount(&place, mode)));
    }
    assert_eq!(fs::metadata(&program).unwrap().mode() & 0o7777, 0o6755);
}

#[test]
fn no_set_user_id_file_can_be_left_in_a_mount() {
    let place = Place::new();
    passes(probe("files::probes::set_id_bits_are_refused").mount(place.work()));
    for path in hash(&place.work()).into_keys() {
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o6000, 0, "{path:?}");
    }
}

#[test]
fn mount_points_stay_where_they_are() {
    let place = Place::new();
    let inner = Mount::new(place.outside(), "/workspace/sub", MountMode::Ro);
    passes(
        probe("files::probes::mount_points_cannot_be_replaced").mount(place.work()).mount_at(inner),
    );
    place.assert_outside_unchanged();
}

/// An earlier command may have left a link where a later sandbox mounts something: the mount must
/// not land elsewhere, or nowhere.
#[test]
fn a_mount_point_behind_a_link_is_refused_or_right() {
    let place = Place::new();
    for target in ["/usr", "../usr"] {
        let _ = fs::remove_file(place.work().join("link"));
        symlink(target, place.work().join("link")).unwrap();
        let inner = Mount::new(place.outside(), "/workspace/link/bin", MountMode::Ro);
        let exec = probe("files::probes::inner_mount_is_where_it_was_asked_for");
        match host::engine().run_blocking(exec.mount(place.work()).mount_at(inner)) {
            Ok(output) => assert!(output.success(), "{target}: {}", output.stdout_text()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{target}: {error:?}")
            }
        }
    }
    place.assert_outside_unchanged();
}

#[test]
fn overlays_with_similar_names_are_apart() {
    let place = Place::new();
    let mounts = ["/data/x", "/data-x"].map(|at| Mount::new(place.work(), at, MountMode::Overlay));
    let [first, second] = mounts;
    passes(probe("files::probes::two_layers_are_two").mount_at(first).mount_at(second));
}

#[test]
fn exposed_paths_are_read_only_and_alone() {
    let place = Place::new();
    let before = hash(&place.work());
    let exec = probe("files::probes::exposed_directory_is_read_only").expose(place.work());
    passes(exec.env(SECRET, place.work().to_str().unwrap()));
    assert_eq!(hash(&place.work()), before);
    let link = place.work().join("proc");
    symlink("/proc", &link).unwrap();
    let link = link.to_str().unwrap();
    let odd = ["/tmp/../proc", "/tmp/..", "/tmp/../dev/shm", link];
    for path in ["/", "/proc", "/dev", "/sys", "/proc/self/root", "/dev/null"].iter().chain(&odd) {
        let result =
            host::engine().run_blocking(openbrain::Exec::new("true").sandbox().expose(*path));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidRequest, "{path}");
    }
}

mod stages {
    use super::*;

    stage! {
        /// An entry of `/etc` that sandboxes see, with a content that is root's alone.
        fn with_a_closed_file_in_etc() {
            let place = Place::new();
            let closed = place.outside().join("closed");
            fs::write(&closed, "for root only").unwrap();
            fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).unwrap();
            // SAFETY: changes this process only.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
            let (none, slash) = (c"none".as_ptr(), c"/".as_ptr());
            sys!(libc::SYS_mount, none, slash, 0, libc::MS_REC | libc::MS_PRIVATE, 0).unwrap();
            let (closed, target) = (c(closed.to_str().unwrap()), "/etc/debian_version");
            if !Path::new(target).exists() {
                println!("skipped: there is no {target}");
                return;
            }
            sys!(libc::SYS_mount, closed.as_ptr(), c(target).as_ptr(), 0, libc::MS_BIND, 0).unwrap();
            assert_eq!(fs::read_to_string(target).unwrap(), "for root only");
            let output = host::run(openbrain::Exec::new(format!("cat {target}; cat /etc/hostname")).sandbox());
            assert_eq!(output.stdout_text(), "sandbox\n");
        }
    }
}

#[test]
fn files_of_etc_that_are_roots_alone_stay_so() {
    if host::is_root() {
        host::stage("files::stages::with_a_closed_file_in_etc", |_| {});
    }
}

/// As many mounts as a request may have, at worst each of another owner.
#[test]
fn many_mounts_of_many_owners_start() {
    let place = Place::new();
    let mut exec = openbrain::Exec::new("ls /data | wc -l").sandbox();
    for i in 0..48u32 {
        let source = place.work().join(format!("owner-{i}"));
        fs::create_dir(&source).unwrap();
        let _ = std::os::unix::fs::chown(&source, Some(20_000 + i), Some(20_000 + i));
        exec = exec.mount_at(Mount::new(source, format!("/data/{i}"), MountMode::Overlay));
    }
    assert_eq!(host::run(exec.clone()).stdout_text().trim(), "48");
    // One more is refused, and nothing else happens.
    let error = host::engine().run_blocking(exec.mount(place.outside())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error:?}");
}

/// Overlays take their layers as a list with colons in it.
#[test]
fn strange_characters_in_a_target_are_themselves() {
    let place = Place::new();
    for mode in [MountMode::Ro, MountMode::Overlay] {
        let mount = Mount::new(place.work(), "/data/a:usr,b\\", mode);
        passes(probe("files::probes::colon_in_a_target_is_a_colon").mount_at(mount));
    }
}

#[test]
fn sockets_in_a_mount_pass_nothing_new() {
    let place = Place::new();
    passes(
        probe("files::probes::sockets_are_made_and_answered_inside_a_mount").mount(place.work()),
    );
    let socket = place.work().join("inside.sock");
    assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_err(), "its server is gone");
    place.assert_outside_unchanged();
}

/// The kernel lets whoever may write to a socket's file connect, also on a read-only mount: who
/// mounts a directory with the socket of a service gives the service.
#[test]
fn a_socket_in_a_mount_is_given_to_whoever_may_write_to_it() {
    let place = Place::new();
    let socket = place.work().join("host.sock");
    let server = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    server.set_nonblocking(true).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).unwrap();
    let name = "files::probes::socket_of_the_host_in_a_mount";
    let exec = || probe(name).timeout(std::time::Duration::from_secs(5));
    let text = passes(exec().mount_at(mount(&place, MountMode::Ro)));
    assert!(text.contains("connected: false"));
    assert_eq!(server.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// As root the sandbox has the rights of the mount's owner inside the mount, and nobody's elsewhere.
#[test]
fn root_lends_the_rights_of_the_mounts_owner_only() {
    if !host::is_root() {
        return;
    }
    const OWNER: u32 = 12345;
    let place = Place::new();
    let work = place.work();
    for (name, text, mode) in
        [("closed", "closed", 0o600), ("readable", "everybody's", 0o644), ("own", "own", 0o600)]
    {
        fs::write(work.join(name), text).unwrap();
        fs::set_permissions(work.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(OWNER), Some(OWNER)).unwrap();
    own(&work);
    own(&work.join("own"));
    passes(probe("files::probes::root_of_the_host_is_nobody_here").mount(&work));
    for name in ["new", "directory"] {
        let meta = fs::metadata(work.join(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (OWNER, OWNER), "{name}");
    }
    assert_eq!(fs::read_to_string(work.join("closed")).unwrap(), "closed");
    place.assert_outside_unchanged();

    // The same tree as root's own: its owner is root, and root's files in it are the sandbox's.
    let root = |path: &Path| std::os::unix::fs::chown(path, Some(0), Some(0)).unwrap();
    root(&work);
    root(&work.join("own"));
    passes(probe("files::probes::closed_file_is_the_owners").mount(&work));
}

#[test]
fn mount_sources_that_are_no_directories_of_the_callers_are_errors() {
    let place = Place::new();
    for source in ["/nonexistent", "/proc/self/fd/0", "/dev/null"] {
        let result =
            host::engine().run_blocking(openbrain::Exec::new("true").sandbox().mount(source));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidRequest, "{source}");
    }
    let below_file = place.work().join("file/x");
    let result =
        host::engine().run_blocking(openbrain::Exec::new("true").sandbox().mount(below_file));
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert!(error.to_string().contains("cannot be used"), "{error} {ENOTDIR}");
    place.assert_outside_unchanged();
}

/// A host file on standard input is content, not a handle: it could be opened again for writing.
#[test]
fn input_is_no_handle_of_the_host() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("input");
    fs::write(&path, "content").unwrap();
    let script = "cat; echo changed > /proc/self/fd/0; ls -l /proc/self/fd/0";
    let exec = openbrain::Exec::new(script).sandbox().stdin(openbrain::Stdin::File(path.clone()));
    let output = crate::host::run(exec);
    assert!(output.stdout_text().starts_with("content"), "{output:?}");
    assert!(output.stdout_text().contains("pipe:"), "{output:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "content");
    let refused = |path: &Path| {
        let stdin = openbrain::Stdin::File(path.to_owned());
        crate::host::engine()
            .run_blocking(openbrain::Exec::new("true").sandbox().stdin(stdin))
            .unwrap_err()
    };
    assert_eq!(refused(directory.path()).kind(), ErrorKind::InvalidRequest);
    // A named pipe without a writer would make the caller wait for ever.
    let fifo = directory.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    assert_eq!(refused(&fifo).kind(), ErrorKind::InvalidRequest);
}

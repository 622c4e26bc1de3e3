//! The kernel's surface: namespaces, mounts, the system call filter, sockets, keys.

use std::fs;

use libc::{EACCES, EAFNOSUPPORT, EINVAL, ENOSYS, EPERM};

use crate::{
    host::{self, Place, passes, probe},
    sys::{self, End, c, forked},
};

/// Which calls the filter refuses whatever their arguments; a unit test of the filter keeps it.
#[cfg(target_arch = "x86_64")]
const TABLE: &str = include_str!("syscalls-x86_64.txt");

const NEW_NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// The numbers and errors that [`TABLE`] refuses unconditionally: `FIRST[-LAST] errno N`.
#[cfg(target_arch = "x86_64")]
fn refused() -> Vec<(i64, i32)> {
    let mut found = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [numbers, "errno", errno] = fields.as_slice() else { continue };
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        for number in first.parse().unwrap()..=last.parse().unwrap() {
            found.push((number, errno.parse().unwrap()));
        }
    }
    found
}

mod probes {
    use super::*;

    probe! {
        fn no_namespace_can_be_made_or_entered() {
            const CLONE_NEWTIME: i32 = 0x80;
            for flag in NEW_NAMESPACES {
                assert_eq!(sys!(libc::SYS_unshare, flag), Err(EPERM), "{flag:x}");
                for more in [0, libc::CLONE_VM | libc::CLONE_VFORK, libc::CLONE_FS] {
                    let made = sys!(libc::SYS_clone, flag | more | libc::SIGCHLD, 0, 0, 0, 0);
                    assert_eq!(made, Err(EPERM), "{flag:x}");
                }
                // The kernel takes the low 32 bits of the flags.
                let high = i64::from(flag) | 1 << 40;
                assert!(sys!(libc::SYS_unshare, high).is_err());
            }
            assert_eq!(sys!(libc::SYS_unshare, CLONE_NEWTIME), Err(EPERM));
            let arguments = [libc::CLONE_NEWUSER as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0, 0, 0, 0];
            assert_eq!(sys!(libc::SYS_clone3, arguments.as_ptr(), 88), Err(ENOSYS));
            for name in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
                let own = sys::open(&format!("/proc/self/ns/{name}"), libc::O_RDONLY).unwrap();
                assert_eq!(sys!(libc::SYS_setns, own, 0), Err(EPERM), "{name}");
                // The owner and the parent of a namespace are outside, and not handed out.
                for request in [0xb701, 0xb702] {
                    let errno = sys!(libc::SYS_ioctl, own, request).unwrap_err();
                    assert!([EPERM, EINVAL, libc::ENOTTY].contains(&errno) , "{name}: errno {errno}");
                }
            }
            let pidfd = sys!(libc::SYS_pidfd_open, 1, 0).unwrap();
            assert_eq!(sys!(libc::SYS_setns, pidfd, libc::CLONE_NEWNS), Err(EPERM));
            // What programs do all day works.
            assert_eq!(forked(|| 7), End::Exit(7));
            assert_eq!(std::thread::spawn(|| 8).join().unwrap(), 8);
            assert_eq!(sys!(libc::SYS_unshare, libc::CLONE_FILES), Ok(0));
            let vfork = libc::CLONE_VFORK | libc::SIGCHLD;
            let child = sys!(libc::SYS_clone, vfork, 0, 0, 0, 0).unwrap();
            if child == 0 {
                let _ = sys!(libc::SYS_exit, 3);
            }
            assert_eq!(sys::wait_for(child as i32), End::Exit(3));
        }
    }

    probe! {
        fn no_mount_call_works() {
            let (a, b) = (c("/tmp"), c("/workspace"));
            let at = libc::AT_FDCWD;
            assert_eq!(sys!(libc::SYS_mount, a.as_ptr(), b.as_ptr(), 0, libc::MS_BIND, 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_mount, 0, c("/").as_ptr(), 0, libc::MS_REMOUNT | libc::MS_BIND, 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_mount, 0, c("/").as_ptr(), 0, libc::MS_REC | libc::MS_SHARED, 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_umount2, b.as_ptr(), 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_umount2, c("/proc/sys").as_ptr(), libc::MNT_DETACH), Err(EPERM));
            assert_eq!(sys!(libc::SYS_open_tree, at, a.as_ptr(), 1), Err(EPERM));
            assert_eq!(sys!(libc::SYS_open_tree, at, a.as_ptr(), 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_move_mount, at, a.as_ptr(), at, b.as_ptr(), 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_fsopen, c("tmpfs").as_ptr(), 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_fspick, at, a.as_ptr(), 0), Err(EPERM));
            let attributes = [0u64, 1, 0, 0];
            assert_eq!(sys!(libc::SYS_mount_setattr, at, c("/usr").as_ptr(), 0, attributes.as_ptr(), 32), Err(EPERM));
            fs::write("/tmp/x", "x").unwrap();
        }
    }

    probe! {
        /// Rules can be put over rules up to sixteen times (`landlock(7)`), so that the room that is
        /// left tells how many there are.
        fn rules_of_landlock_are_in_force() {
            const MAX_LAYERS: i32 = 16;
            let room = forked(|| {
                // One right, on files: to execute.
                let attributes = [1u64];
                let rules = sys!(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), 8, 0).unwrap();
                let more = || sys!(libc::SYS_landlock_restrict_self, rules, 0).is_ok();
                std::iter::repeat_with(more).take_while(|more| *more).take(20).count() as i32
            });
            assert_eq!(room, End::Exit(MAX_LAYERS - 1));
        }
    }

    #[cfg(target_arch = "x86_64")]
    probe! {
        fn refused_calls_are_refused() {
            let refused = refused();
            assert!(refused.len() > 100, "{}", refused.len());
            for (number, errno) in refused {
                assert_eq!(sys!(number), Err(errno), "call {number}");
            }
            // What the filter lets through reaches the kernel.
            assert_eq!(sys!(libc::SYS_getppid), Ok(1));
        }
    }

    #[cfg(target_arch = "x86_64")]
    probe! {
        fn numbers_of_other_abis_are_refused() {
            const X32: i64 = 0x4000_0000;
            for number in (0..600).chain([0x3fff_fff0, 0xffff]) {
                assert_eq!(sys!(number | X32), Err(ENOSYS), "{number}");
            }
            // A parent's id by the 32-bit way: the filter kills, or the kernel has no such way.
            let end = forked(|| {
                let mut result: i64 = 64;
                // SAFETY: takes no memory, in a child of its own.
                unsafe { std::arch::asm!("int 0x80", inout("rax") result, options(nostack)) };
                i32::from(result >= 0)
            });
            let ends = [End::Signal(libc::SIGSYS), End::Signal(libc::SIGSEGV)];
            assert!(ends.contains(&end), "{end:?}");
        }
    }

    probe! {
        fn socket_families_are_few() {
            for family in 0..64 {
                for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET, libc::SOCK_RAW] {
                    let made = sys!(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, 0);
                    let pair = sys!(libc::SYS_socketpair, family, kind, 0, [0i32; 2].as_mut_ptr());
                    match family {
                        libc::AF_UNIX => assert!(made.is_ok() && pair.is_ok()),
                        libc::AF_INET | libc::AF_INET6 | libc::AF_NETLINK => {
                            assert!(pair.is_err());
                            let raw = kind == libc::SOCK_RAW && family != libc::AF_NETLINK;
                            assert!(!raw || made == Err(EPERM), "{family} raw: {made:?}");
                        }
                        _ => assert_eq!((made, pair), (Err(EAFNOSUPPORT), Err(EAFNOSUPPORT)), "family {family}"),
                    }
                    if let Ok(fd) = made {
                        sys!(libc::SYS_close, fd).unwrap();
                    }
                }
            }
            // The kernel takes an `int`; high bits must not hide a family.
            let high = 1i64 << 32;
            assert_eq!(sys!(libc::SYS_socket, i64::from(libc::AF_ALG) | high, libc::SOCK_SEQPACKET, 0), Err(EAFNOSUPPORT));
            assert_eq!(sys!(libc::SYS_socket, libc::AF_INET, i64::from(libc::SOCK_RAW) | high, 1), Err(EPERM));
            assert_eq!(sys!(libc::SYS_socket, libc::AF_INET, 10, 768), Err(EPERM), "SOCK_PACKET");
            for protocol in 1..32 {
                assert_eq!(sys!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, protocol), Err(EAFNOSUPPORT), "netlink {protocol}");
            }
            // Loopback is the sandbox's own, and works.
            let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
        }
    }

    probe! {
        fn network_is_out_of_reach() {
            use std::net::{TcpStream, UdpSocket};
            let port = std::env::var("OPENBRAIN_TEST_PORT").unwrap();
            let wait = std::time::Duration::from_secs(5);
            for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}"), format!("0.0.0.0:{port}"), "1.1.1.1:443".into(), "169.254.169.254:80".into(), "10.0.0.1:80".into(), "[2606:4700::1111]:443".into()] {
                let started = std::time::Instant::now();
                assert!(TcpStream::connect_timeout(&address.parse().unwrap(), wait).is_err(), "{address}");
                assert!(started.elapsed() < wait, "{address} does not fail fast");
            }
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            assert!(socket.send_to(b"x", "8.8.8.8:53").is_err());
            let interfaces = fs::read_to_string("/proc/self/net/dev").unwrap();
            assert_eq!(interfaces.lines().skip(2).count(), 1, "{interfaces}");
            // Nothing of the interface can be changed.
            let up = sys!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap();
            let mut request = [0u8; 40];
            request[..2].copy_from_slice(b"lo");
            assert_eq!(sys!(libc::SYS_ioctl, up, 0x8914, request.as_ptr()), Err(EPERM));
        }
    }

    probe! {
        fn abstract_socket_of_the_host_is_not_there() {
            use std::os::linux::net::SocketAddrExt;
            let name = std::env::var("OPENBRAIN_TEST_SOCKET").unwrap();
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
            let error = std::os::unix::net::UnixStream::connect_addr(&address).unwrap_err();
            let kinds = [std::io::ErrorKind::ConnectionRefused, std::io::ErrorKind::PermissionDenied];
            assert!(kinds.contains(&error.kind()), "{error}");
            // The same name inside is the sandbox's own.
            let own = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
            std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
            drop(own);
        }
    }

    probe! {
        fn terminal_takes_no_foreign_keystrokes() {
            const TIOCSTI: i64 = 0x5412;
            const TIOCLINUX: i64 = 0x541c;
            let key = b"x";
            let two = [2u8, 0];
            let terminal = sys::open("/dev/tty", libc::O_RDWR);
            for fd in [Ok(0), Ok(1), terminal].into_iter().flatten() {
                for high in [0, 1i64 << 32, 1 << 63, 0x7fff_ffff << 32] {
                    assert_eq!(sys!(libc::SYS_ioctl, fd, TIOCSTI | high, key.as_ptr()), Err(EPERM));
                    assert_eq!(sys!(libc::SYS_ioctl, fd, TIOCLINUX | high, two.as_ptr()), Err(EPERM));
                }
            }
            // On a terminal of one's own, too.
            let own = sys::open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY).unwrap();
            assert_eq!(sys!(libc::SYS_ioctl, own, TIOCSTI, key.as_ptr()), Err(EPERM));
            let mut size = [0u16; 4];
            assert_eq!(sys!(libc::SYS_ioctl, own, libc::TIOCGWINSZ, size.as_mut_ptr()), Ok(0));
            if std::env::var_os("OPENBRAIN_TEST_TERMINAL").is_some() {
                assert!(terminal.is_ok(), "there is a controlling terminal");
            }
        }
    }

    probe! {
        fn personalities_are_few() {
            const ADDR_NO_RANDOMIZE: i64 = 0x004_0000;
            const READ_IMPLIES_EXEC: i64 = 0x040_0000;
            let now = sys!(libc::SYS_personality, 0xffff_ffffu32).unwrap();
            for wanted in [ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, 0x20_0000, 0x10_0000, 1, ADDR_NO_RANDOMIZE | 8] {
                assert_eq!(sys!(libc::SYS_personality, wanted), Err(EPERM), "{wanted:x}");
                assert_eq!(sys!(libc::SYS_personality, wanted | 1 << 32), Err(EPERM), "{wanted:x}");
            }
            assert_eq!(sys!(libc::SYS_personality, now), Ok(now));
        }
    }

    probe! {
        fn keyrings_are_closed() {
            let (kind, name, value) = (c("user"), c("openbrain-abuse"), c("secret"));
            for ring in [-1i64, -2, -3, -4, -5] {
                assert_eq!(sys!(libc::SYS_add_key, kind.as_ptr(), name.as_ptr(), value.as_ptr(), 6, ring), Err(ENOSYS));
                assert_eq!(sys!(libc::SYS_keyctl, 0, ring, 1), Err(ENOSYS));
            }
            assert_eq!(sys!(libc::SYS_request_key, kind.as_ptr(), name.as_ptr(), 0, 0), Err(ENOSYS));
        }
    }

    probe! {
        fn memory_file_runs_no_freer() {
            let name = c("program");
            let fd = match sys!(libc::SYS_memfd_create, name.as_ptr(), 0) {
                // Where no group counts memory, there are no such files.
                Err(ENOSYS) => return,
                made => made.unwrap(),
            };
            let program = fs::read("/proc/self/exe").unwrap();
            let path = format!("/proc/self/fd/{fd}");
            fs::write(&path, program).unwrap();
            let output = std::process::Command::new(&path)
                .args(["--ignored", "--exact", "kernel::probes::still_confined"])
                .output();
            let output = output.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        }
    }

    probe! {
        fn still_confined() {
            assert_eq!(sys!(libc::SYS_ptrace, 0, 0, 0, 0), Err(EPERM));
            assert_eq!(sys!(libc::SYS_unshare, libc::CLONE_NEWUSER), Err(EPERM));
            let status = fs::read_to_string("/proc/self/status").unwrap();
            assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"));
        }
    }

    probe! {
        fn powers_are_locked() {
            const NO_ROOT_LOCKED: i64 = 0b1100_1111;
            assert_eq!(sys!(libc::SYS_prctl, libc::PR_GET_SECUREBITS, 0, 0, 0, 0).unwrap() & NO_ROOT_LOCKED, NO_ROOT_LOCKED);
            assert_eq!(sys!(libc::SYS_prctl, libc::PR_SET_SECUREBITS, 0, 0, 0, 0), Err(EPERM));
            for capability in 0..41 {
                assert_eq!(sys!(libc::SYS_prctl, libc::PR_CAPBSET_READ, capability, 0, 0, 0), Ok(0), "{capability}");
                assert_eq!(sys!(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0), Err(EPERM));
            }
            let header = [0x2008_0522u32, 0];
            let all = [u32::MAX; 6];
            assert_eq!(sys!(libc::SYS_capset, header.as_ptr(), all.as_ptr()), Err(EPERM));
            for id in [0, 1, 65534] {
                assert!(sys!(libc::SYS_setuid, id).is_err() && sys!(libc::SYS_setgid, id).is_err());
                assert!(sys!(libc::SYS_setresuid, id, id, id).is_err());
                assert!(sys!(libc::SYS_setfsuid, id).unwrap() != i64::from(id));
            }
            let groups = [0u32];
            assert_eq!(sys!(libc::SYS_setgroups, 1, groups.as_ptr()), Err(EPERM));
            assert!(sys!(libc::SYS_prctl, libc::PR_SET_MM, 1, 0, 0, 0).is_err());
            assert_eq!(sys!(libc::SYS_setpriority, 0, 0, -20).unwrap_err(), EACCES);
            assert!(sys!(libc::SYS_sched_setscheduler, 0, libc::SCHED_FIFO, [1i32].as_ptr()).is_err());
            assert!(sys!(libc::SYS_ioprio_set, 1, 0, 1 << 13).is_err(), "real-time disk priority");
            let higher = [1u64 << 40, 1 << 40];
            let core = sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, higher.as_ptr(), 0);
            assert_eq!(core, Err(EPERM));
            // A further filter only tightens, and may be set.
            assert_eq!(sys!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), Ok(0));
            assert!(sys!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0).is_err());
        }
    }

    probe! {
        fn shared_memory_is_the_sandboxs_own() {
            let (key, size) = (0x0b0b_0b0b, 4096);
            assert_eq!(sys!(libc::SYS_shmget, key, size, 0), Err(libc::ENOENT));
            assert_eq!(sys!(libc::SYS_semget, key, 1, 0), Err(libc::ENOENT));
            assert_eq!(sys!(libc::SYS_msgget, key, 0), Err(libc::ENOENT));
            assert!(!std::path::Path::new("/dev/shm/openbrain-abuse").exists());
            let queue = c("openbrain-abuse");
            let opened = sys!(libc::SYS_mq_open, queue.as_ptr(), libc::O_RDWR, 0, 0);
            assert!([Err(libc::ENOENT), Err(EACCES), Err(ENOSYS)].contains(&opened), "{opened:?}");
            // Its own work, and are what the next sandbox must not find.
            sys!(libc::SYS_shmget, key, size, libc::IPC_CREAT | 0o666).unwrap();
            sys!(libc::SYS_semget, key, 1, libc::IPC_CREAT | 0o666).unwrap();
            sys!(libc::SYS_msgget, key, libc::IPC_CREAT | 0o666).unwrap();
            fs::write("/dev/shm/openbrain-abuse", "x").unwrap();
        }
    }

    probe! {
        fn names_and_clocks_cannot_be_set() {
            let name = c("owned");
            assert_eq!(sys!(libc::SYS_sethostname, name.as_ptr(), 5), Err(EPERM));
            assert_eq!(sys!(libc::SYS_setdomainname, name.as_ptr(), 5), Err(EPERM));
            assert_eq!(sys!(libc::SYS_clock_settime, libc::CLOCK_REALTIME, [0i64; 2].as_ptr()), Err(EPERM));
            assert_eq!(sys!(libc::SYS_reboot, 0xfee1_deadu32, 672_274_793, 0x4321_fedc, 0), Err(EPERM));
            assert!(std::time::SystemTime::now() > std::time::UNIX_EPOCH);
        }
    }
}

#[test]
fn no_namespace_can_be_made_or_entered() {
    passes(probe("kernel::probes::no_namespace_can_be_made_or_entered"));
}

/// Where the kernel has no Landlock, the result tells, and there is nothing to try.
#[test]
fn rules_of_landlock_are_in_force() {
    let layers = host::run(probe("processes::probes::nothing")).isolation.layers;
    if layers.iter().any(|layer| layer.starts_with("landlock:")) {
        passes(probe("kernel::probes::rules_of_landlock_are_in_force"));
    }
}

#[test]
fn mounts_cannot_be_changed() {
    let place = Place::new();
    passes(probe("kernel::probes::no_mount_call_works").mount(place.work()));
    place.assert_outside_unchanged();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn refused_calls_give_the_errors_of_the_table() {
    passes(probe("kernel::probes::refused_calls_are_refused"));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn other_abis_are_refused() {
    passes(probe("kernel::probes::numbers_of_other_abis_are_refused"));
}

#[test]
fn socket_families_are_few() {
    passes(probe("kernel::probes::socket_families_are_few"));
}

#[test]
fn network_of_the_host_is_out_of_reach() {
    let server = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = server.local_addr().unwrap().port();
    server.set_nonblocking(true).unwrap();
    passes(
        probe("kernel::probes::network_is_out_of_reach")
            .allow_network(false)
            .env("OPENBRAIN_TEST_PORT", port.to_string()),
    );
    assert_eq!(server.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn abstract_sockets_of_the_host_are_out_of_reach() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("openbrain-abuse-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let server = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    server.set_nonblocking(true).unwrap();
    passes(
        probe("kernel::probes::abstract_socket_of_the_host_is_not_there")
            .env("OPENBRAIN_TEST_SOCKET", name),
    );
    assert_eq!(server.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn terminals_take_no_foreign_keystrokes() {
    let name = "kernel::probes::terminal_takes_no_foreign_keystrokes";
    passes(probe(name));
    passes(probe(name).tty(24, 80).env("OPENBRAIN_TEST_TERMINAL", "1"));
}

#[test]
fn personalities_are_few() {
    passes(probe("kernel::probes::personalities_are_few"));
}

#[test]
fn keyrings_are_closed() {
    passes(probe("kernel::probes::keyrings_are_closed"));
}

#[test]
fn memory_files_run_no_freer() {
    passes(probe("kernel::probes::memory_file_runs_no_freer"));
}

#[test]
fn powers_are_locked() {
    passes(probe("kernel::probes::powers_are_locked"));
}

#[test]
fn shared_memory_is_not_shared_with_host_or_siblings() {
    let (key, size) = (0x0b0b_0b0b, 4096);
    // SAFETY: makes and removes a segment that nothing uses.
    let own = unsafe { libc::shmget(key, size, libc::IPC_CREAT | 0o600) };
    for _ in 0..2 {
        passes(probe("kernel::probes::shared_memory_is_the_sandboxs_own"));
    }
    // SAFETY: as above.
    unsafe { libc::shmctl(own, libc::IPC_RMID, std::ptr::null_mut()) };
    assert!(!std::path::Path::new("/dev/shm/openbrain-abuse").exists());
}

#[test]
fn names_and_clocks_cannot_be_set() {
    let read = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let before = read();
    passes(probe("kernel::probes::names_and_clocks_cannot_be_set"));
    assert_eq!(read(), before);
    let _ = host::is_root();
}

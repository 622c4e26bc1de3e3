//! Raw system calls, for probes that ask the kernel for what no library offers.

use std::ffi::CString;

/// The error of a failed call.
pub type Errno = i32;

/// Makes a system call with up to six arguments: `sys!(libc::SYS_kill, 1, 9)`.
macro_rules! sys {
    // One expression, so that a temporary whose address is an argument outlives the call.
    ($number:expr $(, $arg:expr)* $(,)?) => { $crate::sys::call($number, &[$($arg as i64),*]) };
}

pub fn call(number: i64, given: &[i64]) -> Result<i64, Errno> {
    let mut a = [0; 6];
    a[..given.len()].copy_from_slice(given);
    // SAFETY: the callers pass memory that outlives the call, and each runs in a process that it may
    // break: a probe, or a child made for it.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if result == -1 { Err(errno()) } else { Ok(result) }
}

pub fn errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
}

/// Runs `body` in a forked child and waits for its end.
pub fn forked(body: impl FnOnce() -> i32) -> End {
    wait_for(fork(body))
}

/// Runs `body` in a forked child.
pub fn fork(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: probes run on one thread (`--test-threads=1`), and the child leaves by `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            let code = body();
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        child => {
            assert!(child > 0, "cannot fork: {}", errno());
            child
        }
    }
}

/// Waits for the end of a child.
pub fn wait_for(child: i32) -> End {
    let mut status = 0;
    // SAFETY: waits for a child of this process.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } == -1 {
        assert_eq!(errno(), libc::EINTR);
    }
    match libc::WIFEXITED(status) {
        true => End::Exit(libc::WEXITSTATUS(status)),
        false => End::Signal(libc::WTERMSIG(status)),
    }
}

pub fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

/// Opens a path; the descriptor stays open.
pub fn open(path: &str, flags: i32) -> Result<i64, Errno> {
    sys!(libc::SYS_openat, libc::AT_FDCWD, c(path).as_ptr(), flags, 0o600)
}

/// A call that [`refuse`] refuses: all of them, or those with a value or a bit in an argument.
#[derive(Clone, Copy, Debug)]
pub enum Refused {
    Call(i64),
    Value(i64, u8, u32),
    Bits(i64, u8, u32),
}

/// Makes the kernel answer calls of this process and its children with an error, as a container's
/// filter does.
pub fn refuse(calls: &[Refused], errno: i32) {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let equal = |value, jf| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, jf, value);
    let any = |value, jf| step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, jf, value);
    let end = |value| step(libc::BPF_RET | libc::BPF_K, 0, 0, value);
    let error = end(libc::SECCOMP_RET_ERRNO | errno as u32);
    let mut program = Vec::new();
    for call in calls {
        program.push(load(0));
        match *call {
            Refused::Call(number) => program.extend([equal(number as u32, 1), error]),
            Refused::Value(number, argument, value) => {
                let argument = load(16 + 8 * u32::from(argument));
                program.extend([equal(number as u32, 3), argument, equal(value, 1), error]);
            }
            Refused::Bits(number, argument, bits) => {
                let argument = load(16 + 8 * u32::from(argument));
                program.extend([equal(number as u32, 3), argument, any(bits, 1), error]);
            }
        }
    }
    program.push(end(libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    call(libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS.into(), 1, 0, 0, 0]).unwrap();
    let all_threads = libc::SECCOMP_FILTER_FLAG_TSYNC as i64;
    let filter = (&raw const filter) as i64;
    assert_eq!(call(libc::SYS_seccomp, &[1, all_threads, filter]), Ok(0));
}

//! System calls without a C library.

use core::arch::{asm, naked_asm};

/// The system calls that the helper makes on its own account.
#[cfg(target_arch = "x86_64")]
pub mod number {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const IOCTL: usize = 16;
    pub const FCNTL: usize = 72;
    pub const UNLINKAT: usize = 263;
    pub const INOTIFY_INIT1: usize = 294;
    pub const INOTIFY_ADD_WATCH: usize = 254;
    pub const PIPE2: usize = 293;
    pub const SENDMSG: usize = 46;
    pub const PRLIMIT64: usize = 302;
    pub const CLOSE: usize = 3;
    pub const MMAP: usize = 9;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const RECVFROM: usize = 45;
    pub const SENDTO: usize = 44;
    pub const RECVMSG: usize = 47;
    pub const SOCKETPAIR: usize = 53;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const LSEEK: usize = 8;
    pub const PRCTL: usize = 157;
    pub const GETDENTS64: usize = 217;
    pub const EXIT_GROUP: usize = 231;
    pub const OPENAT: usize = 257;
    pub const FACCESSAT: usize = 269;
    pub const PPOLL: usize = 271;
    pub const SIGNALFD4: usize = 289;
    pub const DUP3: usize = 292;
    pub const MUNMAP: usize = 11;
    pub const CLOCK_GETTIME: usize = 228;
    pub const PIDFD_OPEN: usize = 434;
    pub const PIDFD_SEND_SIGNAL: usize = 424;
    pub const STATX: usize = 332;
    pub const MKDIRAT: usize = 258;
    pub const RENAMEAT2: usize = 316;
    pub const SYMLINKAT: usize = 266;
    pub const READLINKAT: usize = 267;
    pub const FCHMOD: usize = 91;
    pub const UTIMENSAT: usize = 280;
    pub const CLOSE_RANGE: usize = 436;
    pub const INOTIFY_RM_WATCH: usize = 255;
    pub const SOCKET: usize = 41;
    pub const CONNECT: usize = 42;
    pub const SHUTDOWN: usize = 48;
    pub const LINKAT: usize = 265;
    pub const FTRUNCATE: usize = 77;
}

/// The system calls that the helper makes on its own account.
#[cfg(target_arch = "aarch64")]
pub mod number {
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const IOCTL: usize = 29;
    pub const FCNTL: usize = 25;
    pub const UNLINKAT: usize = 35;
    pub const INOTIFY_INIT1: usize = 26;
    pub const INOTIFY_ADD_WATCH: usize = 27;
    pub const PIPE2: usize = 59;
    pub const SENDMSG: usize = 211;
    pub const PRLIMIT64: usize = 261;
    pub const CLOSE: usize = 57;
    pub const MMAP: usize = 222;
    pub const RT_SIGACTION: usize = 134;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RECVFROM: usize = 207;
    pub const SENDTO: usize = 206;
    pub const RECVMSG: usize = 212;
    pub const SOCKETPAIR: usize = 199;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
    pub const KILL: usize = 129;
    pub const LSEEK: usize = 62;
    pub const PRCTL: usize = 167;
    pub const GETDENTS64: usize = 61;
    pub const EXIT_GROUP: usize = 94;
    pub const OPENAT: usize = 56;
    pub const FACCESSAT: usize = 48;
    pub const PPOLL: usize = 73;
    pub const SIGNALFD4: usize = 74;
    pub const DUP3: usize = 24;
    pub const MUNMAP: usize = 215;
    pub const CLOCK_GETTIME: usize = 113;
    pub const PIDFD_OPEN: usize = 434;
    pub const PIDFD_SEND_SIGNAL: usize = 424;
    pub const STATX: usize = 291;
    pub const MKDIRAT: usize = 34;
    pub const RENAMEAT2: usize = 276;
    pub const SYMLINKAT: usize = 36;
    pub const READLINKAT: usize = 78;
    pub const FCHMOD: usize = 52;
    pub const UTIMENSAT: usize = 88;
    pub const CLOSE_RANGE: usize = 436;
    pub const INOTIFY_RM_WATCH: usize = 28;
    pub const SOCKET: usize = 198;
    pub const CONNECT: usize = 203;
    pub const SHUTDOWN: usize = 210;
    pub const LINKAT: usize = 37;
    pub const FTRUNCATE: usize = 46;
}

/// Makes a system call; the result is negative for an error, as the kernel gives it.
///
/// # Safety
///
/// The arguments must be what the kernel expects of this call, and what it does must be sound.
#[cfg(target_arch = "x86_64")]
pub unsafe fn call(number: usize, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller vouches for the call; the kernel changes rax, rcx and r11 only.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4],
            in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// Makes a system call; the result is negative for an error, as the kernel gives it.
///
/// # Safety
///
/// The arguments must be what the kernel expects of this call, and what it does must be sound.
#[cfg(target_arch = "aarch64")]
pub unsafe fn call(number: usize, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the caller vouches for the call; the kernel changes x0 only.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a[0] as isize => result,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
            options(nostack));
    }
    result
}

/// Runs `entry` in a child that shares this memory, as `vfork(2)` does: the caller sleeps until the
/// child has executed a program or exited. Returns the child's process id, or an error.
///
/// # Safety
///
/// `stack` must be the upper end of memory that nothing else uses; `entry` must not return.
pub unsafe fn vfork(stack: *mut u8, entry: extern "C" fn() -> !) -> isize {
    const CLONE_VM: usize = 0x100;
    const CLONE_VFORK: usize = 0x4000;
    let flags = CLONE_VM | CLONE_VFORK | super::SIGCHLD;
    let result: isize;
    // SAFETY: the child starts on a stack of its own and calls a function that does not return; the
    // parent only sees its result register change.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "call r12", "ud2", "2:",
            inlateout("rax") number::CLONE as isize => result, in("rdi") flags, in("rsi") stack,
            in("rdx") 0, in("r10") 0, in("r8") 0, in("r12") entry,
            lateout("rcx") _, lateout("r11") _);
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", "cbnz x0, 2f", "mov x29, xzr", "blr x20", "brk #1", "2:",
            in("x8") number::CLONE, inlateout("x0") flags as isize => result, in("x1") stack,
            in("x2") 0, in("x3") 0, in("x4") 0, in("x20") entry);
    }
    result
}

/// Where the kernel starts the helper, with the arguments and the environment on the stack.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {main}", "ud2",
        main = sym super::main
    )
}

/// Where the kernel starts the helper, with the arguments and the environment on the stack, which
/// is aligned as the ABI wants it.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!("mov x29, xzr", "mov x0, sp", "bl {main}", "brk #1", main = sym super::main)
}

/// The compiler may call these; there is no C library to bring them.
///
/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    for i in 0..count {
        // SAFETY: the caller vouches for both ranges. Volatile, so that the compiler does not turn
        // the loop into a call of this very function.
        unsafe { to.add(i).write_volatile(from.add(i).read()) };
    }
    to
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    for i in 0..count {
        // SAFETY: as in `memcpy`.
        unsafe { to.add(i).write_volatile(value as u8) };
    }
    to
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for i in 0..count {
        // SAFETY: the caller vouches for both ranges.
        let (a, b) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if a != b {
            return a as i32 - b as i32;
        }
    }
    0
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the caller vouches for both ranges.
    unsafe { memcmp(a, b, count) }
}

/// # Safety
///
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller vouches for a NUL byte at the end. Volatile as in `memcpy`.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

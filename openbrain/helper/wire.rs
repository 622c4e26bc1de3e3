//! What the library and the helper say to each other, shared by both as one source file.
//!
//! The library compiles a run into a *plan*: flat lists of system calls and the data that they point
//! to. The helper checks the frame, adds its own addresses, and executes. Everything is in the byte
//! order of the machine; both ends are always the same build.

/// First word of a plan. Changes with the format.
pub const MAGIC: u32 = 0x6f62_7031;

/// How many registers there are.
pub const REGISTERS: usize = 250;
/// The first of the registers that hold the descriptors of a [`Start`]; below are the plan's own.
pub const PASSED: u8 = 240;
/// The register that holds the number of a command in a sandbox that stays open.
pub const TAG: u8 = 249;
/// The register that holds the process id of the child, in the sections of the monitor.
pub const CHILD: u8 = 0;
/// In [`Call::save`]: the result is not kept.
pub const NO_REGISTER: u8 = u8::MAX;

/// First descriptor of those that the library passes; below are the helper's own.
pub const FIRST_FD: i32 = 3;
/// Reports to the library are written here.
pub const REPORT_FD: i32 = 0;
/// Orders are read here.
pub const ORDER_FD: i32 = 1;
/// Requests for commands are read here, by the first process of a sandbox that is made before them.
pub const DOOR_FD: i32 = 3;

/// The parts of a plan, in the order in which a run meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Section {
    /// The monitor, before it makes the child.
    Before = 0,
    /// The monitor, when the child exists.
    Beside = 1,
    /// The first process of the sandbox, before it makes the command.
    Inside = 2,
    /// The command, up to its `execve`.
    Command = 3,
    /// The first process of the sandbox: when the command runs, or before the first one of a
    /// sandbox that is made before its commands. In the plan of such a command: what is left to do in
    /// the first process, in one that stays open whether or not the command has started.
    Reaper = 4,
    /// The monitor, when everything is over.
    Cleanup = 5,
}

/// How many [`Section`]s there are.
pub const SECTIONS: usize = 6;

/// The start of a plan.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    pub magic: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// Flags of `clone(2)` for the child of a sandbox.
    pub clone_flags: u64,
    /// Milliseconds until a sandbox that stays open ends by itself.
    pub lifetime_ms: u64,
    /// How many of the passed descriptors the monitor keeps for [`Section::Cleanup`].
    pub kept_fds: u32,
    /// Milliseconds between two looks at the memory of the sandbox.
    pub memory_interval_ms: u32,
    /// Bytes of memory above which the sandbox is killed; 0 for no watch.
    pub memory_limit: u64,
    /// Bytes of a page, in which the kernel counts resident memory.
    pub page_size: u64,
    /// The calls of each section.
    pub sections: [Range; SECTIONS],
    /// Places in the data that hold an offset into the data and want an address.
    pub relocations: Range,
    /// The data; `count` is in bytes.
    pub data: Range,
}

/// What the helper makes of a plan.
pub mod mode {
    /// The child is the command itself.
    pub const DIRECT: u32 = 0;
    /// The child is the first process of a sandbox, which ends with its command.
    pub const SANDBOX: u32 = 1;
    /// The child is the first process of a sandbox that stays open: it starts a command for each
    /// [`Start`](super::Start) that it is sent.
    pub const OPEN: u32 = 2;
    /// The child is the first process of a sandbox that is ready before its command is known: it waits
    /// for one [`Start`](super::Start), which carries no socket, and ends with that command.
    pub const WAITING: u32 = 3;
}

/// A part of a plan: where it starts, in bytes from the start of the plan, and how many elements.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Range {
    pub at: u32,
    pub count: u32,
}

/// One system call, or one of the [`pseudo`] calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Call {
    pub number: i32,
    /// Register for the result, or [`NO_REGISTER`].
    pub save: u8,
    /// One of [`on_error`].
    pub on_error: u8,
    /// One of [`kind`] for each argument.
    pub kinds: [u8; 6],
    pub padding: u32,
    pub args: [u64; 6],
}

/// What an argument is.
pub mod kind {
    /// The value itself.
    pub const VALUE: u8 = 0;
    /// An offset into the data, passed as an address.
    pub const DATA: u8 = 1;
    /// The number of a register, passed as its content.
    pub const REGISTER: u8 = 2;
}

/// What a failed call means.
pub mod on_error {
    /// The run has failed.
    pub const STOP: u8 = 0;
    /// Nothing.
    pub const IGNORE: u8 = 1;
    /// Try the next call: the candidates of a search along `PATH`.
    pub const NEXT: u8 = 2;
}

/// Calls that the helper itself carries out.
pub mod pseudo {
    /// `(data, value)`: fails with ESTALE unless the eight bytes at `data` are `value`.
    pub const EXPECT: i32 = -1;
    /// `(value, data)`: writes the low four bytes of `value` to `data`.
    pub const STORE: i32 = -2;
    /// `(pid, name, flags)`: opens `/proc/<pid>/<name>`.
    pub const OPEN_PROC: i32 = -3;
    /// `(flags)`: makes a child with these clone flags that sleeps until it is killed.
    pub const PARK: i32 = -4;
    /// `(socket, message, length)`: sends a message of netlink and reads the answer, which is an
    /// error number, as the result.
    pub const NETLINK: i32 = -7;
    /// `(resource, limit)`: sets a resource limit, to at most what this process itself may have.
    pub const LIMIT: i32 = -5;
    /// `(argv, changes)`: executes a program with the environment that the helper itself was
    /// started with, changed by these entries, searching `PATH` as `execvp(3)` does.
    pub const EXECUTE: i32 = -6;
}

/// What the library orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Order {
    /// A signal for the command's process group, or one of the constants.
    pub signal: i32,
    /// Comes back in [`report::DONE`].
    pub serial: u32,
    /// For [`Order::LIVE`].
    pub milliseconds: u64,
}

impl Order {
    /// An order that is its number alone.
    pub const fn plain(signal: i32) -> Self {
        Self { signal, serial: 0, milliseconds: 0 }
    }

    /// In [`Order::signal`]: kill everything.
    pub const KILL: i32 = 0;
    /// In [`Order::signal`]: kill what is left when the command ends by itself.
    pub const DOOM: i32 = -1;
    /// Of an open sandbox, answered when it is done: end in so many milliseconds from now.
    pub const LIVE: i32 = -2;
    /// Of an open sandbox, answered when it is done: do not end with whoever gave this order.
    pub const KEEP: i32 = -3;
    /// Of an open sandbox, answered when it is done: stop every process in it.
    pub const PAUSE: i32 = -4;
    /// Of an open sandbox, answered when it is done: let every process in it go on.
    pub const RESUME: i32 = -5;
}

/// A request for a command in a sandbox that stays open, with its descriptors: the plan, the socket
/// for reports and orders, and those of the command in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Start {
    pub magic: u32,
    /// How many descriptors follow the plan.
    pub passed: u32,
}

/// How many descriptors a [`Start`] can carry: the plan, the socket, three streams, a program.
pub const MOST_PASSED: usize = 6;

/// How many commands can run in an open sandbox at a time.
pub const MOST_COMMANDS: usize = 64;

/// What the helper reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Report {
    /// One of [`report`].
    pub kind: u32,
    /// The section of the failed call, or the raw wait status.
    pub first: i32,
    /// The index of the failed call in its section; in [`report::ENDED`], whether there is a status.
    pub second: i32,
    /// The error number.
    pub errno: i32,
    /// Processor time of everything that was reaped, in microseconds.
    pub cpu_us: u64,
    /// Largest resident set of one process, in bytes.
    pub max_rss: u64,
}

/// The kinds of [`Report`].
pub mod report {
    /// A call failed before the command ran; nothing has run.
    pub const FAILED: u32 = 1;
    /// `execve` failed; nothing has run.
    pub const EXEC_FAILED: u32 = 2;
    /// The command runs.
    pub const STARTED: u32 = 3;
    /// The command ended, with this wait status.
    pub const EXITED: u32 = 4;
    /// The memory watch killed the sandbox.
    pub const OUT_OF_MEMORY: u32 = 5;
    /// Nothing is left of the command; a direct one had this wait status.
    pub const ENDED: u32 = 6;
    /// Carries the descriptor of the sandbox's own pseudo-terminal.
    pub const TERMINAL: u32 = 7;
    /// Carries the sockets of the sandbox's network, for the relay.
    pub const EGRESS: u32 = 8;
    /// The time of an open sandbox is over; it is being killed.
    pub const EXPIRED: u32 = 9;
    /// An order for an open sandbox was carried out: the one with this serial number.
    pub const DONE: u32 = 10;
    /// Carries the directory of everything that the sandbox writes, for the report of changes.
    pub const SCRATCH: u32 = 11;
}

/// What the bridge is told: the file [`bridge::JOB`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Job {
    pub magic: u32,
    /// One of [`input`].
    pub input: u32,
    /// Whether there is a file [`bridge::SCRIPT`], which becomes descriptor 3 of the command.
    pub script: u32,
    /// Rows of the pseudo-terminal in the upper half, columns in the lower; 0 for none.
    pub terminal: u32,
    /// How many bytes of output may be on their way before a [`letter::CREDIT`] comes.
    pub window: u64,
}

/// Where the standard input of a bridged command comes from.
pub mod input {
    /// Nowhere.
    pub const NOTHING: u32 = 0;
    /// The file [`super::bridge::INPUT`].
    pub const FILE: u32 = 1;
    /// What arrives piece by piece.
    pub const PIECES: u32 = 2;
}

/// The files in the directory of a bridge.
pub mod bridge {
    /// The helper itself.
    pub const PROGRAM: &str = "openbrain";
    /// A [`Job`](super::Job).
    pub const JOB: &str = "job";
    /// The plan of the run.
    pub const PLAN: &str = "plan";
    /// A program that is too long for an argument.
    pub const SCRIPT: &str = "script";
    /// Standard input that is known from the start.
    pub const INPUT: &str = "input";
    /// Followed by a number: [`Letter`](super::Letter)s.
    pub const LETTERS: u8 = b'l';
    /// Followed by a number, a dot and the length: the next piece of standard input.
    pub const PIECE: u8 = b'p';
    /// How many pieces may wait in the directory.
    pub const PIECES: usize = 4;
}

/// What the library tells a bridge while the command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Letter {
    /// One of [`letter`].
    pub kind: u32,
    pub value: u32,
}

/// The kinds of [`Letter`].
pub mod letter {
    /// An [`Order`](super::Order) for the helper.
    pub const ORDER: u32 = 1;
    /// So many bytes of output were taken.
    pub const CREDIT: u32 = 2;
    /// The terminal has this size, as in [`Job`](super::Job).
    pub const RESIZE: u32 = 3;
    /// After so many pieces standard input ends.
    pub const END: u32 = 4;
}

/// What a bridge prints: base64 of a number that counts from 0 (four bytes), one of these (one
/// byte) and the content, then [`parcel::END`] and a line feed, which may be lost on the way.
pub mod parcel {
    /// A [`Report`](super::Report).
    pub const REPORT: u8 = 1;
    /// Bytes of standard output.
    pub const STDOUT: u8 = 2;
    /// Bytes of standard error.
    pub const STDERR: u8 = 3;
    /// A piece of standard input was read.
    pub const TAKEN: u8 = 4;
    /// Nobody reads standard input any more.
    pub const CLOSED: u8 = 5;
    /// Ends every parcel.
    pub const END: u8 = b';';
}

/// A file as the helper tells of it, or is told: followed by its path, by where a link leads, and by
/// its content where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    /// Kind and permissions, as in `stat(2)`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Nanoseconds after `mtime`.
    pub mtime_ns: u32,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// How long the path is.
    pub path: u32,
    /// How long the text of a link is; or of the path of a file of which this is one more name.
    pub link: u32,
    /// Whether the content follows: pieces with their length before them (four bytes), the last of
    /// length 0. With [`work::HOLE`] it is the length of a hole, of which nothing follows.
    pub has_content: u32,
    pub padding: u32,
}

impl Entry {
    pub const FILE: u32 = 0o100000;
    pub const DIRECTORY: u32 = 0o040000;
    pub const LINK: u32 = 0o120000;

    /// The kind of file.
    pub fn kind(&self) -> u32 {
        self.mode & 0o170000
    }
}

/// Something that happened below a directory that is watched: followed by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Change {
    /// One of [`change`].
    pub kind: u32,
    pub is_directory: u32,
    /// How long the path is, from the directory that is watched.
    pub path: u32,
    pub padding: u32,
}

/// The kinds of [`Change`].
pub mod change {
    /// Everything is watched from now on.
    pub const READY: u32 = 0;
    pub const CREATED: u32 = 1;
    pub const MODIFIED: u32 = 2;
    pub const REMOVED: u32 = 3;
    pub const ATTRIBUTES: u32 = 4;
    /// More happened than could be told.
    pub const LOST: u32 = 5;
}

/// What the helper can do with files: its second argument, after [`work::FILES`]. What follows are
/// paths, in which `%` and two hexadecimal digits stand for a byte.
pub mod work {
    /// In the length of a piece: it is a hole.
    pub const HOLE: u32 = 1 << 31;
    /// The first argument.
    pub const FILES: &[u8] = b"files";
    /// `(path, offset)`: the content from a byte on, in decimal digits; the first if left out.
    pub const READ: &[u8] = b"read";
    /// `(path, mode)`: replaces the content by standard input, and sets the permissions if they are
    /// given, in octal digits.
    pub const WRITE: &[u8] = b"write";
    /// `(path, mode)`: adds standard input to the content, as above.
    pub const APPEND: &[u8] = b"append";
    /// `(path)`: an entry; a link is not followed.
    pub const STAT: &[u8] = b"stat";
    /// `(directory)`: an entry for each name.
    pub const LIST: &[u8] = b"list";
    /// `(directory, pattern)`: an entry for each name below that matches.
    pub const SEARCH: &[u8] = b"search";
    /// `(directory)`: makes it with those above.
    pub const MAKE: &[u8] = b"make";
    /// `(path)`: removes a file or an empty directory.
    pub const REMOVE: &[u8] = b"remove";
    /// `(path)`: removes it with all that is in it.
    pub const REMOVE_ALL: &[u8] = b"remove-all";
    /// `(from, to)`
    pub const RENAME: &[u8] = b"rename";
    /// `(path)`: an entry for everything below a directory, with contents; or one for a regular file, whose
    /// path has no length.
    pub const PACK: &[u8] = b"pack";
    /// `(directory)`: makes what standard input tells of.
    pub const UNPACK: &[u8] = b"unpack";
    /// `(port)`: a piece of no length once there is a connection; then standard input goes there, and
    /// what comes back is told in pieces, the last of no length.
    pub const CONNECT: &[u8] = b"connect";
    /// `(directory)`: a [`Change`](super::Change) for whatever happens below.
    pub const WATCH: &[u8] = b"watch";
    /// `(port)`: ends once there is a connection.
    pub const WAIT_FOR_PORT: &[u8] = b"wait-for-port";
}

/// Whether the frame of a plan can be trusted: every part inside it, aligned, every register and
/// offset in range. What the calls then do is the library's business.
pub fn is_sound(plan: &[u8]) -> bool {
    let Some(header) = read::<Header>(plan, 0) else {
        return false;
    };
    let inside = |range: Range, size: usize| {
        let length = (range.count as u64).checked_mul(size as u64);
        let end = length.and_then(|length| length.checked_add(range.at as u64));
        range.at.is_multiple_of(8) && end.is_some_and(|end| end <= plan.len() as u64)
    };
    let relocation = |index: u32| {
        let offset = read::<u32>(plan, header.relocations.at as usize + index as usize * 4);
        offset.is_some_and(|o| o.is_multiple_of(8) && o as u64 + 8 <= header.data.count as u64)
    };
    header.magic == MAGIC
        && header.mode <= mode::WAITING
        && inside(header.data, 1)
        && inside(header.relocations, 4)
        && header.sections.iter().all(|section| inside(*section, size_of::<Call>()))
        && (0..header.relocations.count).all(relocation)
        && header.sections.iter().all(|section| {
            (0..section.count as usize).all(|index| {
                let at = section.at as usize + index * size_of::<Call>();
                read::<Call>(plan, at).is_some_and(|call| call_is_sound(&call, header.data.count))
            })
        })
}

fn call_is_sound(call: &Call, data: u32) -> bool {
    let arguments = call.kinds.iter().zip(call.args).all(|(kind, arg)| match *kind {
        kind::VALUE => true,
        kind::DATA => arg <= data as u64,
        kind::REGISTER => arg < REGISTERS as u64,
        _ => false,
    });
    let wide = match call.number {
        pseudo::EXPECT => call.kinds[0] == kind::DATA && call.args[0] + 8 <= data as u64,
        pseudo::STORE => call.kinds[1] == kind::DATA && call.args[1] + 4 <= data as u64,
        pseudo::NETLINK => {
            call.kinds[1..3] == [kind::DATA, kind::VALUE]
                && call.args[1].checked_add(call.args[2]).is_some_and(|end| end <= data as u64)
        }
        pseudo::EXECUTE => call.kinds[..2] == [kind::DATA; 2],
        _ => true,
    };
    let save = call.save == NO_REGISTER || (call.save as usize) < REGISTERS;
    arguments && wide && save && call.on_error <= on_error::NEXT
}

/// A value that may be made of any bytes, and whose bytes may be looked at.
///
/// # Safety
///
/// Every bit pattern must be a valid value, and there must be no padding.
pub unsafe trait Plain: Copy {}

// SAFETY: these types are integers, and structures of integers without implicit padding.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for Header {}
// SAFETY: as above.
unsafe impl Plain for Call {}
// SAFETY: as above.
unsafe impl Plain for Order {}
// SAFETY: as above.
unsafe impl Plain for Start {}
// SAFETY: as above.
unsafe impl Plain for Entry {}
// SAFETY: as above.
unsafe impl Plain for Change {}
// SAFETY: as above.
unsafe impl Plain for Report {}
// SAFETY: as above.
unsafe impl Plain for Job {}
// SAFETY: as above.
unsafe impl Plain for Letter {}

/// Copies a value out of bytes, when they are enough.
pub fn read<T: Plain>(bytes: &[u8], at: usize) -> Option<T> {
    let part = bytes.get(at..at.checked_add(size_of::<T>())?)?;
    // SAFETY: `part` has the size of a `T`, whose every bit pattern is valid, and the read does
    // not need alignment.
    Some(unsafe { part.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes of a value.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: a `Plain` value has no padding, so that all its bytes are initialised.
    unsafe { core::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}

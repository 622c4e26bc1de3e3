//! A run as data: lists of system calls, what each is for, and the bytes that they point to.

use std::{borrow::Cow, ffi::OsStr, os::unix::ffi::OsStrExt, time::Duration};

use super::wire::{
    self, Call, Header, NO_REGISTER, Range, SECTIONS, Section, kind, mode, on_error, pseudo,
};

/// A program for the helper, in the making.
///
/// Nothing here touches the system: a program is compiled, printed and tested without privilege.
#[derive(Debug, Default)]
pub(crate) struct Program {
    sections: [Vec<Step>; SECTIONS],
    data: Vec<u8>,
    relocations: Vec<u32>,
    registers: u8,
    /// Registers of each section whose values are no longer needed.
    free: [Vec<u8>; SECTIONS],
    /// The child is the first process of a sandbox, made with these flags of `clone(2)`.
    pub(crate) sandbox: Option<u64>,
    /// Where the commands of the sandbox come from.
    pub(crate) commands: Commands,
    /// How many of the passed descriptors the monitor keeps for its last section.
    pub(crate) kept_fds: u32,
    /// Bytes of memory above which the helper kills the sandbox.
    pub(crate) memory_limit: Option<u64>,
}

/// Where the commands of a sandbox come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Commands {
    /// The program has the one that there is.
    #[default]
    Own,
    /// One comes through the door, in a program of its own, and the sandbox ends with it.
    One,
    /// They come through the door until this time is over.
    Many(Duration),
}

/// One call and the words for its failure.
#[derive(Debug)]
struct Step {
    call: Call,
    what: Cow<'static, str>,
    blame: Blame,
}

/// Whose fault the failure of a call is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The machine does not offer what the run needs.
    #[default]
    Machine,
    /// The request names something that is not there or may not be used.
    Request,
}

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    Value(u64),
    Data(Data),
    Register(Register),
}

/// A place in the data of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Data(u32);

/// Where the result of a call is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register(u8);

/// How often the helper looks at the memory of a sandbox without a cgroup.
const MEMORY_INTERVAL_MS: u32 = 25;

impl Program {
    /// Adds a call whose failure ends the run; `what` says what it does, on which object.
    pub(crate) fn call<const N: usize>(
        &mut self,
        section: Section,
        number: libc::c_long,
        args: [Arg; N],
        what: impl Into<Cow<'static, str>>,
    ) {
        self.push(section, number as i32, &args, on_error::STOP, what.into());
    }

    /// Says that a failure of the call added last is the request's fault.
    pub(crate) fn blame_request(&mut self, section: Section) {
        if let Some(step) = self.sections[section as usize].last_mut() {
            step.blame = Blame::Request;
        }
    }

    /// Adds a call whose failure does not matter.
    pub(crate) fn try_call<const N: usize>(
        &mut self,
        section: Section,
        number: libc::c_long,
        args: [Arg; N],
    ) {
        self.push(section, number as i32, &args, on_error::IGNORE, Cow::Borrowed(""));
    }

    /// Adds a call whose result is kept.
    pub(crate) fn keep<const N: usize>(
        &mut self,
        section: Section,
        number: libc::c_long,
        args: [Arg; N],
        what: impl Into<Cow<'static, str>>,
    ) -> Register {
        self.call(section, number, args, what);
        self.keep_last(section)
    }

    /// Adds a call that may fail; its result, or its negative error number, is kept.
    pub(crate) fn try_keep<const N: usize>(
        &mut self,
        section: Section,
        number: libc::c_long,
        args: [Arg; N],
    ) -> Register {
        self.try_call(section, number, args);
        self.keep_last(section)
    }

    /// Adds one of several calls of which the first that succeeds counts.
    pub(crate) fn alternative<const N: usize>(
        &mut self,
        section: Section,
        number: libc::c_long,
        args: [Arg; N],
    ) {
        self.push(section, number as i32, &args, on_error::NEXT, Cow::Borrowed(""));
    }

    /// Ends the run unless the eight bytes at `place` are `value`.
    pub(crate) fn expect(
        &mut self,
        section: Section,
        place: Data,
        value: u64,
        what: impl Into<Cow<'static, str>>,
    ) {
        let args = [place.into(), Arg::Value(value)];
        self.push(section, pseudo::EXPECT, &args, on_error::STOP, what.into());
    }

    /// Writes a register's low four bytes into the data.
    pub(crate) fn store(&mut self, section: Section, register: Register, place: Data) {
        let args = [register.into(), place.into()];
        self.push(section, pseudo::STORE, &args, on_error::STOP, Cow::Borrowed(""));
    }

    /// Opens `/proc/<pid>/<name>` for the process id in a register.
    pub(crate) fn open_proc(
        &mut self,
        section: Section,
        pid: Register,
        name: &'static str,
        flags: i32,
    ) -> Register {
        let args = [pid.into(), self.text(name), Arg::Value(flags as u64)];
        self.push(section, pseudo::OPEN_PROC, &args, on_error::STOP, Cow::Borrowed(name));
        self.keep_last(section)
    }

    /// Makes a child in new namespaces that sleeps, and keeps its process id.
    pub(crate) fn park(&mut self, section: Section, flags: i32) -> Register {
        let what = Cow::Borrowed("make a user namespace for a mount");
        let args = [Arg::Value(flags as u64)];
        self.push(section, pseudo::PARK, &args, on_error::STOP, what);
        self.keep_last(section)
    }

    /// Sends messages of netlink, of which the last one asks for an answer.
    pub(crate) fn netlink(
        &mut self,
        section: Section,
        socket: Register,
        messages: &[u8],
        what: &'static str,
    ) {
        let place = self.data(messages);
        let args = [socket.into(), place.into(), Arg::Value(messages.len() as u64)];
        self.push(section, pseudo::NETLINK, &args, on_error::STOP, Cow::Borrowed(what));
    }

    /// Sends a report with descriptors to the library (`unix(7)`, `cmsg(3)`), by its socket.
    pub(crate) fn hand_over(
        &mut self,
        section: Section,
        socket: Arg,
        kind: u32,
        fds: &[Register],
        what: &'static str,
    ) {
        let report = wire::Report { kind, ..wire::Report::default() };
        let bytes = self.data(wire::bytes_of(&report));
        let iov = self.words([bytes.into(), Arg::Value(size_of::<wire::Report>() as u64)]);
        let length = 16 + 4 * fds.len();
        let mut control = vec![0; length.next_multiple_of(8)];
        control[..8].copy_from_slice(&(length as u64).to_ne_bytes());
        control[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        control[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
        let size = Arg::Value(control.len() as u64);
        let control = self.data(&control);
        for (at, fd) in (16..).step_by(4).zip(fds) {
            self.store(section, *fd, control.plus(at));
        }
        let (none, one) = (Arg::Value(0), Arg::Value(1));
        let message = self.words([none, none, iov.into(), one, control.into(), size, none]);
        let args = [socket, message.into(), none];
        self.call(section, libc::SYS_sendmsg, args, what);
    }

    /// Sets a resource limit, to at most what the helper itself may have.
    pub(crate) fn limit(&mut self, section: Section, resource: u32, limit: u64) {
        let args = [resource.into(), Arg::Value(limit)];
        self.push(section, pseudo::LIMIT, &args, on_error::STOP, "set a resource limit".into());
    }

    /// Executes a program with the environment of the helper, changed by these entries.
    pub(crate) fn execute(&mut self, section: Section, argv: Data, changes: Data, what: String) {
        let args = [argv.into(), changes.into()];
        self.push(section, pseudo::EXECUTE, &args, on_error::STOP, what.into());
    }

    /// Lets later calls of the same section, whose result was kept in a register, use it again.
    pub(crate) fn release(&mut self, section: Section, register: Register) {
        self.free[section as usize].push(register.0);
    }

    /// The register in which the monitor finds the process id of its child.
    pub(crate) fn child() -> Register {
        Register(wire::CHILD)
    }

    /// The register that holds a descriptor of a command that comes through the door: 0 is the
    /// socket to the library, the others are the command's.
    pub(crate) fn passed(index: u8) -> Register {
        Register(wire::PASSED + index)
    }

    /// The register that holds the number of a command in an open sandbox.
    pub(crate) fn tag() -> Register {
        Register(wire::TAG)
    }

    /// Adds bytes, aligned for any integer.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Data {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let place = Data(self.data.len() as u32);
        self.data.extend_from_slice(bytes);
        place
    }

    /// Adds a text that ends with a NUL byte.
    pub(crate) fn text(&mut self, text: impl AsRef<OsStr>) -> Arg {
        let bytes = text.as_ref().as_bytes();
        let place = self.data(bytes);
        self.data.push(0);
        Arg::Data(place)
    }

    /// Adds a structure of 64-bit words, of which some are addresses of other data.
    pub(crate) fn words<const N: usize>(&mut self, words: [Arg; N]) -> Data {
        self.word_list(&words)
    }

    /// Adds a list of addresses that ends with a null pointer, as `execve(2)` takes it.
    pub(crate) fn strings<I: IntoIterator<Item: AsRef<OsStr>>>(&mut self, strings: I) -> Data {
        let mut words: Vec<Arg> = strings.into_iter().map(|s| self.text(s)).collect();
        words.push(Arg::Value(0));
        self.word_list(&words)
    }

    fn word_list(&mut self, words: &[Arg]) -> Data {
        let place = self.data(&[]);
        for word in words {
            let value = match word {
                Arg::Value(value) => *value,
                Arg::Register(_) => 0,
                Arg::Data(data) => {
                    self.relocations.push(self.data.len() as u32);
                    u64::from(data.0)
                }
            };
            self.data.extend_from_slice(&value.to_ne_bytes());
        }
        place
    }

    fn push(
        &mut self,
        section: Section,
        number: i32,
        args: &[Arg],
        on_error: u8,
        what: Cow<'static, str>,
    ) {
        let mut call = Call {
            number,
            save: NO_REGISTER,
            on_error,
            kinds: [kind::VALUE; 6],
            padding: 0,
            args: [0; 6],
        };
        for (i, arg) in args.iter().enumerate() {
            (call.kinds[i], call.args[i]) = match arg {
                Arg::Value(value) => (kind::VALUE, *value),
                Arg::Data(data) => (kind::DATA, u64::from(data.0)),
                Arg::Register(register) => (kind::REGISTER, u64::from(register.0)),
            };
        }
        self.sections[section as usize].push(Step { call, what, blame: Blame::Machine });
    }

    fn keep_last(&mut self, section: Section) -> Register {
        let register = self.free[section as usize].pop().unwrap_or_else(|| {
            self.registers += 1;
            assert!(self.registers < wire::PASSED, "mounts are limited before");
            self.registers
        });
        if let Some(step) = self.sections[section as usize].last_mut() {
            step.call.save = register;
        }
        Register(register)
    }

    /// What the failed call was to do, and whose fault its failure is.
    pub(crate) fn describe(&self, number: i32, index: i32) -> (&str, Blame) {
        let section = usize::try_from(number).ok().and_then(|s| self.sections.get(s));
        let step = section.and_then(|s| s.get(usize::try_from(index).ok()?));
        let unlisted = match section {
            Some(_) if number == Section::Before as i32 => "make the sandbox's namespaces",
            _ => "make the command's process",
        };
        step.map_or((unlisted, Blame::Machine), |step| (&step.what, step.blame))
    }

    /// The program as the helper reads it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut at = size_of::<Header>();
        let mut place = |count: usize, size: usize| {
            let range = Range { at: at as u32, count: count as u32 };
            at = (at + count * size).next_multiple_of(8);
            range
        };
        let header = Header {
            magic: wire::MAGIC,
            mode: match (self.sandbox, self.commands) {
                (None, _) => mode::DIRECT,
                (Some(_), Commands::Own) => mode::SANDBOX,
                (Some(_), Commands::One) => mode::WAITING,
                (Some(_), Commands::Many(_)) => mode::OPEN,
            },
            clone_flags: self.sandbox.unwrap_or(0),
            lifetime_ms: match self.commands {
                Commands::Many(life) => life.as_millis() as u64,
                Commands::Own | Commands::One => 0,
            },
            kept_fds: self.kept_fds,
            memory_interval_ms: MEMORY_INTERVAL_MS,
            memory_limit: self.memory_limit.unwrap_or(0),
            page_size: rustix::param::page_size() as u64,
            sections: std::array::from_fn(|i| place(self.sections[i].len(), size_of::<Call>())),
            relocations: place(self.relocations.len(), 4),
            data: place(self.data.len(), 1),
        };
        let mut bytes = Vec::with_capacity(at);
        bytes.extend_from_slice(wire::bytes_of(&header));
        for step in self.sections.iter().flatten() {
            bytes.extend_from_slice(wire::bytes_of(&step.call));
        }
        for relocation in &self.relocations {
            bytes.extend_from_slice(&relocation.to_ne_bytes());
        }
        bytes.resize(header.data.at as usize, 0);
        bytes.extend_from_slice(&self.data);
        bytes
    }
}

impl Data {
    /// The place so many bytes further.
    pub(crate) fn plus(self, bytes: u32) -> Self {
        Self(self.0 + bytes)
    }
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self::Value(value)
    }
}

impl From<i32> for Arg {
    /// Sign-extended, as the kernel's own conversions do.
    fn from(value: i32) -> Self {
        Self::Value(i64::from(value) as u64)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Value(value.into())
    }
}

impl From<Data> for Arg {
    fn from(data: Data) -> Self {
        Self::Data(data)
    }
}

impl From<Register> for Arg {
    fn from(register: Register) -> Self {
        Self::Register(register)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{any, prop_assert, proptest},
    };

    use super::{Program, Section, wire};

    fn sample() -> Program {
        let mut program = Program::default();
        let path = program.text("/");
        let argv = program.strings(["a", "bc"]);
        program.call(Section::Before, libc::SYS_chdir, [path], "enter `/`");
        let fd = program.keep(Section::Inside, libc::SYS_dup, [0.into()], "duplicate");
        program.call(Section::Command, libc::SYS_execve, [path, argv.into(), fd.into()], "run");
        program
    }

    #[test]
    fn an_encoded_program_is_sound() {
        assert!(wire::is_sound(&sample().encode()));
    }

    #[test]
    fn a_failed_call_has_words() {
        assert_eq!(sample().describe(0, 0).0, "enter `/`");
        assert_eq!(sample().describe(0, -1).0, "make the sandbox's namespaces");
        assert_eq!(sample().describe(3, -1).0, "make the command's process");
    }

    proptest! {
        #[test]
        fn the_check_of_a_plan_never_panics(bytes in vec(any::<u8>(), 0..400)) {
            wire::is_sound(&bytes);
        }

        /// Whatever one byte of a sound plan is changed to, a plan that still passes the check has
        /// all its parts inside itself.
        #[test]
        fn a_changed_plan_is_refused_or_still_inside(at in 0usize..1000, byte in any::<u8>()) {
            let mut plan = sample().encode();
            let at = at % plan.len();
            plan[at] = byte;
            if wire::is_sound(&plan) {
                let header: wire::Header = wire::read(&plan, 0).unwrap();
                for section in header.sections {
                    let end = section.at as usize + section.count as usize * size_of::<wire::Call>();
                    prop_assert!(end <= plan.len());
                }
                prop_assert!((header.data.at + header.data.count) as usize <= plan.len());
            }
        }

        #[test]
        fn cut_plans_are_refused(keep in 0usize..1000) {
            let plan = sample().encode();
            let keep = keep % plan.len();
            prop_assert!(!wire::is_sound(&plan[..keep]));
        }
    }
}

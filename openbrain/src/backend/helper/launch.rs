//! Starting the helper, and speaking with it.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    process::{Child, Command},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, Mode, OFlags, SealFlags},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
    process::{Pid, PidfdFlags},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    time::timeout,
};

use super::{
    program::Program,
    wire::{self, Order, Report},
};
use crate::{
    backend::sys,
    error::{Error, Result},
};

/// The helper, compiled by the build script.
pub(crate) static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/helper"));

/// Where a distribution may install the same file, so that an AppArmor profile can name it. It is
/// used only when it is byte for byte the helper of this build.
const INSTALLED: &str = "/usr/libexec/openbrain/helper";

/// How many descriptors one message can carry (`SCM_MAX_FD`, `unix(7)`).
const MAX_FDS: usize = 253;

/// How many descriptors a report can carry.
const MOST_HANDED: usize = 80;

/// Time for a helper that has reported its end to leave.
const LEAVE: Duration = Duration::from_millis(500);

/// The helpers of processes that were dropped without a runtime to wait for their end. They end by
/// themselves; the next launch reaps them.
static ORPHANS: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// A running helper and the socket to it. Dropping it kills everything that the helper guards.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Option<AsyncFd<OwnedFd>>,
    helper: Option<Child>,
}

/// Starts the helper with a program; the passed descriptors get the numbers from
/// [`wire::FIRST_FD`] on.
pub(crate) fn launch(program: &Program, fds: &[BorrowedFd<'_>]) -> Result<Link> {
    reap_orphans();
    if fds.len() > MAX_FDS {
        return Err(Error::invalid(format!("more than {MAX_FDS} mounts and exposed paths"))
            .with_remedy("mount the directories that they are in"));
    }
    let plan = store(program)?;
    let (ours, theirs) = socket_pair()?;
    let flags = SendFlags::NOSIGNAL;
    send_fds(&ours, &[1], fds, flags).map_err(|e| Error::system("cannot pass descriptors", e))?;
    let socket = watch(ours, Interest::READABLE)?;
    let helper = spawn(plan, theirs)?;
    Ok(Link { socket: Some(socket), helper: Some(helper) })
}

fn store(program: &Program) -> Result<OwnedFd> {
    sealed_memory("openbrain-plan", &program.encode(), MemfdFlags::empty())
        .map_err(|e| Error::system("cannot store the plan of the run", e))
}

/// Our end and the helper's, of which neither survives an `exec`.
fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::system("cannot make a socket pair", e))
}

fn watch(socket: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&socket, true)
        .map_err(|e| Error::system("cannot prepare a socket", e))?;
    sys::watch_for(socket, interest).map_err(|e| Error::system("cannot watch a socket", e))
}

/// The way into a sandbox that stays open: its process 1 starts a command for each request.
#[derive(Debug)]
pub(crate) struct Door(AsyncFd<OwnedFd>);

impl Door {
    /// A new way in, and the end that process 1 gets.
    pub(crate) fn new() -> Result<(Self, OwnedFd)> {
        let (ours, theirs) = socket_pair()?;
        Ok((Self::of(ours)?, theirs))
    }

    /// A way in that somebody else has opened.
    pub(crate) fn of(socket: OwnedFd) -> Result<Self> {
        Ok(Self(watch(socket, Interest::WRITABLE)?))
    }

    /// The same way in, for somebody else.
    pub(crate) fn again(&self) -> Result<OwnedFd> {
        let again = self.0.get_ref().try_clone();
        again.map_err(|e| Error::system("cannot duplicate a socket", e))
    }

    /// Hands in the only command of a sandbox that waits for it, with the descriptors that it gets. What
    /// becomes of it is heard from the link to the sandbox. Nothing is in the way, so nothing waits.
    pub(crate) fn hand_in(self, program: &Program, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let plan = store(program)?;
        send_start(self.0.get_ref(), &[&[plan.as_fd()], fds].concat())
            .map_err(|e| Error::system("cannot reach the sandbox", e))
    }

    /// Asks for a command, with the descriptors that it gets; waits while too many wait to be
    /// started. What becomes of it is heard from the link, whose end ends the command.
    pub(crate) async fn ask(&self, program: &Program, fds: &[BorrowedFd<'_>]) -> Result<Link> {
        let plan = store(program)?;
        let (ours, theirs) = socket_pair()?;
        let link = Link { socket: Some(watch(ours, Interest::READABLE)?), helper: None };
        let all = [&[plan.as_fd(), theirs.as_fd()], fds].concat();
        loop {
            let ready = self.0.writable().await;
            let mut ready = ready.map_err(|e| Error::system("cannot wait for a socket", e))?;
            match ready.try_io(|fd| send_start(fd.get_ref(), &all)) {
                Ok(Ok(())) => return Ok(link),
                Ok(Err(error)) => return Err(Error::system("cannot reach the sandbox", error)),
                Err(_would_block) => {}
            }
        }
    }
}

/// Starts the helper by `posix_spawn`: `Command` takes that way as long as nothing is asked of it
/// that only code between `fork` and `exec` could do.
fn spawn(plan: OwnedFd, socket: OwnedFd) -> Result<Child> {
    let image = image()?;
    let plan_again = plan.try_clone().map_err(|e| Error::system("cannot duplicate the plan", e))?;
    Command::new(format!("/proc/self/fd/{}", image.as_raw_fd()))
        .arg0("openbrain")
        .env_clear()
        .stdin(socket)
        .stdout(plan)
        .stderr(plan_again)
        .spawn()
        .map_err(|e| {
            Error::system("cannot start the helper process", e)
                .with_remedy("check that /proc is mounted and the process limit is not reached")
        })
}

/// The helper as an executable descriptor, made once.
fn image() -> Result<BorrowedFd<'static>> {
    static IMAGE_FD: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(fd) = IMAGE_FD.get() {
        return Ok(fd.as_fd());
    }
    let fd = open_image().map_err(|e| {
        Error::system("cannot store the helper program", e)
            .with_remedy("allow executable memory files (sysctl vm.memfd_noexec) or files in /tmp")
    })?;
    Ok(IMAGE_FD.get_or_init(|| fd).as_fd())
}

fn open_image() -> io::Result<OwnedFd> {
    let fd = match installed_image() {
        Some(fd) => fd,
        // MFD_EXEC exists since Linux 6.3; before, every memory file is executable.
        None => sealed_memory("openbrain-helper", IMAGE, MemfdFlags::EXEC)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => sealed_memory("openbrain-helper", IMAGE, MemfdFlags::empty()),
                _ => Err(error),
            })
            .or_else(|_| unlinked_file("/tmp").or_else(|_| unlinked_file("/var/tmp")))?,
    };
    // The child's standard descriptors are put in place before it opens the path of this one.
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, wire::FIRST_FD)?)
}

/// The installed helper, when it is root's and the very same program.
fn installed_image() -> Option<OwnedFd> {
    let mut file = File::open(INSTALLED).ok()?;
    let trusted = file.metadata().is_ok_and(|m| m.uid() == 0 && m.mode() & 0o022 == 0);
    let mut content = Vec::new();
    file.read_to_end(&mut content).ok()?;
    (trusted && content == IMAGE).then(|| file.into())
}

/// A memory file with this content that nobody can change any more.
fn sealed_memory(name: &str, content: &[u8], flags: MemfdFlags) -> io::Result<OwnedFd> {
    let flags = flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create(name, flags)?;
    let mut file = File::from(fd);
    file.write_all(content)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// A program that is too long for an argument, as a file that nobody can change.
pub(crate) fn script_file(source: &[u8]) -> Result<OwnedFd> {
    sealed_memory("openbrain-program", source, MemfdFlags::empty())
        .map_err(|e| Error::system("cannot store the program", e))
}

/// The helper in a file without a name, for machines where memory files cannot be executed
/// (`vm.memfd_noexec=2`).
fn unlinked_file(directory: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let writable = rustix::fs::open(directory, flags, Mode::from(0o500))?;
    let mut file = File::from(writable);
    file.write_all(IMAGE)?;
    // A file that is open for writing cannot be executed (ETXTBSY).
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Sends a request for a command, with its plan and all that belongs to it.
fn send_start(door: &OwnedFd, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let start = wire::Start { magic: wire::MAGIC, passed: fds.len() as u32 - 1 };
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    send_fds(door, wire::bytes_of(&start), fds, flags)
}

fn send_fds(
    socket: &OwnedFd,
    message: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, flags)?;
    Ok(())
}

impl Link {
    /// The same link for the runtime of the caller; until now another one has watched it.
    pub(crate) fn adopt(mut self) -> Result<Self> {
        let socket = self.socket.take().map(AsyncFd::into_inner);
        self.socket = socket.map(|socket| watch(socket, Interest::READABLE)).transpose()?;
        Ok(self)
    }

    /// Sends an order. A helper that is gone needs none.
    pub(crate) fn order(&self, signal: i32) {
        self.send(Order::plain(signal));
    }

    /// Sends an order with all that belongs to it.
    pub(crate) fn send(&self, order: Order) {
        if let Some(socket) = &self.socket {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let _ = rustix::net::send(socket.get_ref(), wire::bytes_of(&order), flags);
        }
    }

    /// Waits for the next report; `None` when the helper is gone. Cancel-safe.
    pub(crate) async fn report(&self) -> Result<Option<(Report, Vec<OwnedFd>)>> {
        let Some(socket) = &self.socket else { return Ok(None) };
        loop {
            let mut ready = socket
                .readable()
                .await
                .map_err(|e| Error::system("cannot wait for a socket", e))?;
            match ready.try_io(|fd| receive(fd.get_ref())) {
                Ok(result) => {
                    return result.map_err(|e| Error::system("cannot hear the helper", e));
                }
                Err(_would_block) => {}
            }
        }
    }

    /// Whether the helper has ended.
    pub(crate) fn is_over(&self) -> bool {
        let ends = self.helper.as_ref().and_then(pidfd);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        ends.is_none_or(|fd| poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)) == Ok(1))
    }

    /// Closes the socket, which makes the helper kill what is left of the command, clean up and
    /// leave. Its end is waited for in the background, so that it does not stay a zombie.
    pub(crate) fn finish(&mut self) {
        self.socket = None;
        let Some(mut helper) = self.helper.take() else { return };
        if matches!(helper.try_wait(), Ok(None)) {
            let leaving = Leaving(Some(helper));
            // Without a runtime the helper is left to the next launch.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(leaving.reap());
            }
        }
    }
}

/// A helper on its way out. One that nobody waits for any more is reaped by the next launch.
struct Leaving(Option<Child>);

impl Leaving {
    async fn reap(mut self) {
        let Some(helper) = &mut self.0 else { return };
        let Some(pidfd) = pidfd(helper).and_then(|fd| sys::watch(fd).ok()) else { return };
        let _ = timeout(LEAVE, pidfd.readable()).await;
        if !matches!(helper.try_wait(), Ok(None)) {
            self.0 = None;
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(helper) = self.0.take() {
            ORPHANS.lock().unwrap_or_else(PoisonError::into_inner).push(helper);
        }
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Option<(Report, Vec<OwnedFd>)>> {
    let mut bytes = [0u8; size_of::<Report>()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_HANDED))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let mut receive = || rustix::net::recvmsg(socket, &mut iov, &mut control, flags);
    // An order that the helper had not read when it left is reported first, and once; what the
    // helper has sent comes after it.
    let received = match receive() {
        Err(rustix::io::Errno::CONNRESET) => receive(),
        received => received,
    };
    let length = received?.bytes;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = rights.flatten().collect();
    Ok((length == bytes.len()).then(|| wire::read(&bytes, 0)).flatten().map(|report| (report, fds)))
}

impl Drop for Link {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A descriptor that becomes readable when the helper ends.
fn pidfd(helper: &Child) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(helper.id()).ok()?)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits a bounded time for the helpers whose runtime has ended before them.
pub(crate) fn settle() {
    let leaving = std::mem::take(&mut *ORPHANS.lock().unwrap_or_else(PoisonError::into_inner));
    for mut helper in leaving {
        if let Some(pidfd) = pidfd(&helper) {
            let wait = Timespec { tv_sec: 0, tv_nsec: LEAVE.as_nanos() as i64 };
            let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&wait));
        }
        if matches!(helper.try_wait(), Ok(None)) {
            drop(Leaving(Some(helper)));
        }
    }
}

fn reap_orphans() {
    ORPHANS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain_mut(|helper| matches!(helper.try_wait(), Ok(None)));
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::{AsRawFd, Command, IMAGE, MemfdFlags, sealed_memory, unlinked_file};

    /// Without a socket the helper ends at once, with a code of its own.
    #[test]
    fn every_form_of_the_helper_runs() {
        let memory = sealed_memory("helper", IMAGE, MemfdFlags::empty()).unwrap();
        for image in [memory, unlinked_file("/tmp").unwrap()] {
            let path = format!("/proc/self/fd/{}", image.as_raw_fd());
            let status = Command::new(path).stdin(Stdio::null()).status().unwrap();
            assert_eq!(status.code(), Some(111));
        }
    }
}

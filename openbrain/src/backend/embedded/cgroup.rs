//! Control groups: limits that count everything in a sandbox together, where they can be had.

use std::{
    borrow::Cow,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::{Mode, OFlags},
    rand::GetRandomFlags,
};

use crate::{
    backend::helper::{Arg, Program, Register, Section},
    output::Resources,
    sandbox::Limits,
};

/// Where the hierarchies of this machine are, as far as they can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// Version 2: a directory in which we may make groups, with the controllers it has for them.
    unified: Option<(PathBuf, Vec<String>)>,
    /// Version 1: one directory for each controller, as root only.
    legacy: Vec<(Controller, PathBuf)>,
}

/// A resource that control groups limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    /// Bytes of memory.
    Memory,
    /// Processes and threads.
    Pids,
    /// Processor time.
    Cpu,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }

    fn is_limited(self, limits: &Limits) -> bool {
        match self {
            Self::Memory => limits.memory.is_some(),
            Self::Pids => limits.pids.is_some(),
            Self::Cpu => limits.cpus.is_some(),
        }
    }
}

/// The groups of one sandbox. The monitor makes and removes them, so that whoever dies, none is left;
/// while the sandbox is there, they can be read.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    name: String,
}

#[derive(Debug)]
struct Group {
    controllers: Vec<Controller>,
    version: u8,
    parent: PathBuf,
    /// The directory that holds the group, for the monitor.
    parent_fd: OwnedFd,
}

/// A file of a group and what is written to it; some files exist on some machines only.
struct Setting {
    file: &'static str,
    value: String,
    optional: bool,
}

impl Hierarchies {
    /// What this machine offers, looked at again when the process was moved to other groups.
    pub(crate) fn find() -> Self {
        static KNOWN: Mutex<Option<(String, Hierarchies)>> = Mutex::new(None);
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, hierarchies)) = &*known
            && *then == own
        {
            return hierarchies.clone();
        }
        let hierarchies = Self::look(&own);
        *known = Some((own, hierarchies.clone()));
        hierarchies
    }

    /// Reads `/proc/self/mounts`; `own` is the content of `/proc/self/cgroup`.
    fn look(own: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut found = Self::default();
        for mount in mounts.lines() {
            let fields: Vec<&str> = mount.split(' ').collect();
            let [_, place, kind, options, ..] = fields.as_slice() else { continue };
            match *kind {
                "cgroup2" => found.unified = found.unified.or_else(|| usable_unified(place, own)),
                "cgroup" => found.legacy.extend(usable_legacy(place, options, own)),
                _ => {}
            }
        }
        found
    }

    /// The version of the hierarchy that can limit a resource.
    pub(crate) fn version_for(&self, controller: Controller) -> Option<u8> {
        let unified =
            self.unified.as_ref().is_some_and(|(_, c)| c.iter().any(|c| c == controller.name()));
        let legacy = self.legacy.iter().any(|(c, _)| *c == controller);
        if unified { Some(2) } else { legacy.then_some(1) }
    }

    /// The groups that enforce the limits, as far as there are controllers for them.
    pub(crate) fn plan(&self, limits: &Limits) -> io::Result<Option<Groups>> {
        remove_abandoned();
        let mut random = [0u8; 8];
        rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
        let name = format!("openbrain-{:016x}", u64::from_ne_bytes(random));
        let mut groups = Vec::new();
        let wanted: Vec<Controller> =
            Controller::ALL.into_iter().filter(|c| c.is_limited(limits)).collect();
        let unified: Vec<Controller> =
            wanted.iter().copied().filter(|c| self.version_for(*c) == Some(2)).collect();
        if let (Some((path, _)), false) = (&self.unified, unified.is_empty()) {
            groups.push(Group::new(path, unified, 2)?);
        }
        for controller in wanted.into_iter().filter(|c| self.version_for(*c) == Some(1)) {
            let place = self.legacy.iter().find(|(c, _)| *c == controller);
            if let Some((_, path)) = place {
                groups.push(Group::new(path, vec![controller], 1)?);
            }
        }
        Ok((!groups.is_empty()).then_some(Groups { groups, name }))
    }
}

/// The nearest group of version 2, from the caller's own upwards, in which it may make groups and
/// which hands controllers down. It is rarely the caller's own: a group with processes hands nothing
/// down (`cgroups(7)`, "no internal processes"). Below `systemd --user` it is `app.slice`.
fn usable_unified(place: &str, own: &str) -> Option<(PathBuf, Vec<String>)> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let directory = Path::new(place).join(path.trim_start_matches('/'));
    directory.ancestors().take_while(|group| group.starts_with(place)).find_map(|group| {
        let writable =
            |file: &str| rustix::fs::access(group.join(file), rustix::fs::Access::WRITE_OK).is_ok();
        // Whoever moves a process needs to write to the groups' common ancestor, which is this one.
        if !writable("") || !writable("cgroup.procs") {
            return None;
        }
        let handed_down = fs::read_to_string(group.join("cgroup.subtree_control")).ok()?;
        let controllers: Vec<String> = handed_down.split_whitespace().map(str::to_owned).collect();
        (!controllers.is_empty()).then(|| (group.to_owned(), controllers))
    })
}

/// The caller's own groups of version 1. Only root may put another process into one.
fn usable_legacy(place: &str, options: &str, own: &str) -> Vec<(Controller, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        return Vec::new();
    }
    Controller::ALL
        .into_iter()
        .filter(|c| options.split(',').any(|option| option == c.name()))
        .filter_map(|controller| {
            let path = own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let names = fields.next()?;
                names.split(',').any(|n| n == controller.name()).then(|| fields.next())?
            })?;
            let directory = Path::new(place).join(path.trim_start_matches('/'));
            let usable = rustix::fs::access(&directory, rustix::fs::Access::WRITE_OK).is_ok();
            usable.then_some((controller, directory))
        })
        .collect()
}

impl Group {
    fn new(parent: &Path, controllers: Vec<Controller>, version: u8) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent_fd = rustix::fs::open(parent, flags, Mode::empty())?;
        Ok(Self { controllers, version, parent: parent.to_owned(), parent_fd })
    }

    /// The content of a file of the group with this name; nothing when it is gone.
    fn read(&self, name: &str, file: &str) -> String {
        fs::read_to_string(self.parent.join(name).join(file)).unwrap_or_default()
    }

    fn oom_kills(&self, name: &str) -> u64 {
        let file = match self.version {
            2 => "memory.events",
            _ => "memory.oom_control",
        };
        let text = self.read(name, file);
        let mut counts = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
        counts.next().and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// A thread that moves itself by `tasks` spares the kernel a lock whose first taker waits ten
    /// milliseconds for the other processors; version 2 has no such file for processes.
    fn join_file(&self) -> &'static str {
        if self.version == 1 { "tasks" } else { "cgroup.procs" }
    }
}

impl Groups {
    /// The directories that hold the groups, in the order that [`Groups::make`] counts on.
    pub(crate) fn parents(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.groups.iter().map(|group| group.parent_fd.as_fd())
    }

    /// The monitor makes the groups, the first process of the sandbox joins them, and the monitor
    /// removes them in the end. `first_fd` is the number of the first parent in the helper.
    pub(crate) fn make(&self, to: &mut Program, first_fd: i32, limits: &Limits) {
        let before = Section::Before;
        let name = to.text(&self.name);
        for (fd, group) in (first_fd..).zip(&self.groups) {
            let args = [fd.into(), name, 0o755.into()];
            to.call(before, libc::SYS_mkdirat, args, "make a control group");
            let settings = group.controllers.iter().flat_map(|c| c.settings(group.version, limits));
            for Setting { file, value, optional } in settings {
                let path = to.text(format!("{}/{file}", self.name));
                write_setting(to, fd, path, file, &value, optional);
            }
            let path = to.text(format!("{}/{}", self.name, group.join_file()));
            let join = open(to, fd, path, "open a control group");
            let args = [join.into(), to.data(b"0").into(), 1.into()];
            to.call(Section::Inside, libc::SYS_write, args, "join a control group");
            let args = [fd.into(), name, libc::AT_REMOVEDIR.into()];
            to.try_call(Section::Cleanup, libc::SYS_unlinkat, args);
        }
    }

    /// Removes the groups of a monitor that was killed. What is still dying in them may need a
    /// moment; the next run comes back for it.
    pub(crate) fn abandon(&self) {
        let left = self.groups.iter().map(|group| group.parent.join(&self.name));
        ABANDONED.lock().unwrap_or_else(PoisonError::into_inner).extend(left);
        remove_abandoned();
    }

    /// Whether a group limits this, and by which version.
    pub(crate) fn limits(&self, controller: Controller) -> Option<u8> {
        self.groups.iter().find(|g| g.controllers.contains(&controller)).map(|g| g.version)
    }

    /// How many processes the memory limit has killed.
    pub(crate) fn oom_kills(&self) -> u64 {
        let memory = self.groups.iter().filter(|g| g.controllers.contains(&Controller::Memory));
        memory.map(|group| group.oom_kills(&self.name)).sum()
    }

    /// Reads what the groups have counted; `known` kills were there before.
    pub(crate) fn read(&self, resources: &mut Resources, known: u64) {
        for group in self.groups.iter().filter(|g| g.controllers.contains(&Controller::Memory)) {
            let peak = match group.version {
                2 => "memory.peak",
                _ => "memory.max_usage_in_bytes",
            };
            resources.memory_peak_bytes = group.read(&self.name, peak).trim().parse().ok();
            resources.oom_killed |= group.oom_kills(&self.name) > known;
        }
    }
}

/// Groups that nobody else removes any more.
static ABANDONED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn remove_abandoned() {
    let is_busy = |error: io::Error| error.raw_os_error() == Some(libc::EBUSY);
    let mut abandoned = ABANDONED.lock().unwrap_or_else(PoisonError::into_inner);
    abandoned.retain(|path| fs::remove_dir(path).is_err_and(is_busy));
}

impl Controller {
    /// What is written to a group for a limit.
    fn settings(self, version: u8, limits: &Limits) -> Vec<Setting> {
        const PERIOD_US: u64 = 100_000;
        let set = |file, value: String| Setting { file, value, optional: false };
        let optional = |file, value: String| Setting { file, value, optional: true };
        let memory = limits.memory.unwrap_or(u64::MAX >> 1).to_string();
        let quota = limits.cpus.map_or(PERIOD_US as f64, |cpus| cpus * PERIOD_US as f64);
        // The kernel's least quota is a millisecond.
        let quota = (quota as u64).max(1000);
        match (self, version) {
            (Self::Memory, 1) => vec![
                set("memory.limit_in_bytes", memory.clone()),
                optional("memory.memsw.limit_in_bytes", memory),
            ],
            (Self::Memory, _) => vec![
                set("memory.max", memory),
                optional("memory.swap.max", "0".into()),
                optional("memory.oom.group", "1".into()),
            ],
            // One process is the engine's own.
            (Self::Pids, _) => {
                vec![set("pids.max", (limits.pids.unwrap_or(u64::MAX >> 2) + 1).to_string())]
            }
            (Self::Cpu, 1) => vec![
                set("cpu.cfs_period_us", PERIOD_US.to_string()),
                set("cpu.cfs_quota_us", quota.to_string()),
            ],
            (Self::Cpu, _) => vec![set("cpu.max", format!("{quota} {PERIOD_US}"))],
        }
    }
}

fn write_setting(
    to: &mut Program,
    parent: i32,
    path: Arg,
    file: &'static str,
    value: &str,
    optional: bool,
) {
    let before = Section::Before;
    let data = to.data(value.as_bytes());
    let length = value.len() as u64;
    if optional {
        // Where there is no such file the register holds an error number, which is no descriptor, and
        // the calls after it fail as harmlessly.
        let fd = to.try_keep(before, libc::SYS_openat, open_args(parent, path));
        to.try_call(before, libc::SYS_write, [fd.into(), data.into(), length.into()]);
        to.try_call(before, libc::SYS_close, [fd.into()]);
        return;
    }
    let what = format!("set `{file}` of a control group");
    let fd = open(to, parent, path, what.clone());
    to.call(before, libc::SYS_write, [fd.into(), data.into(), length.into()], what);
    to.call(before, libc::SYS_close, [fd.into()], "close a file");
}

fn open(to: &mut Program, parent: i32, path: Arg, what: impl Into<Cow<'static, str>>) -> Register {
    to.keep(Section::Before, libc::SYS_openat, open_args(parent, path), what)
}

fn open_args(parent: i32, path: Arg) -> [Arg; 4] {
    [parent.into(), path, (libc::O_WRONLY | libc::O_CLOEXEC).into(), 0.into()]
}

#[cfg(test)]
mod tests {
    use super::{Limits, Setting, fs, usable_unified};
    use crate::backend::embedded::cgroup::Controller;

    #[test]
    fn the_nearest_group_that_hands_controllers_down_is_used() {
        let mount = tempfile::tempdir().unwrap();
        let slice = mount.path().join("user/app.slice");
        let scope = slice.join("run.scope");
        fs::create_dir_all(&scope).unwrap();
        for (group, control) in [(&scope, ""), (&slice, "cpu memory pids\n")] {
            fs::write(group.join("cgroup.procs"), "").unwrap();
            fs::write(group.join("cgroup.subtree_control"), control).unwrap();
        }
        let place = mount.path().to_str().unwrap();
        let (found, controllers) = usable_unified(place, "0::/user/app.slice/run.scope\n").unwrap();
        assert_eq!(found, slice);
        assert_eq!(controllers, ["cpu", "memory", "pids"]);
        assert_eq!(usable_unified(place, "0::/elsewhere\n"), None);
        assert_eq!(usable_unified(place, "1:pids:/\n"), None);
    }

    #[test]
    fn limits_are_written_as_each_version_wants_them() {
        let limits =
            Limits { memory: Some(4096), pids: Some(9), cpus: Some(0.5), ..Limits::default() };
        let written = |controller: Controller, version| {
            let settings = controller.settings(version, &limits).into_iter();
            settings
                .map(|Setting { file, value, .. }| format!("{file}={value}"))
                .collect::<Vec<_>>()
        };
        let v2 = ["memory.max=4096", "memory.swap.max=0", "memory.oom.group=1"];
        assert_eq!(written(Controller::Memory, 2), v2);
        assert_eq!(written(Controller::Pids, 2), ["pids.max=10"]);
        assert_eq!(written(Controller::Cpu, 2), ["cpu.max=50000 100000"]);
        let v1 = ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000"];
        assert_eq!(written(Controller::Cpu, 1), v1);
    }
}

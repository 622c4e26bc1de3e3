//! Control groups: limits that count everything in a sandbox together, where they can be had.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    rand::GetRandomFlags,
};

use crate::{output::Resources, sandbox::Limits};

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

/// The groups of one sandbox. The helper removes them; until it does, they can be read.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: Vec<Group>,
    name: String,
}

#[derive(Debug)]
struct Group {
    controllers: Vec<Controller>,
    version: u8,
    path: PathBuf,
    /// The directory that holds the group, through which the helper removes it.
    parent: OwnedFd,
    /// Writing `0` here moves the writer into the group.
    join: File,
}

impl Hierarchies {
    /// What this machine offers, from `/proc/self/mounts` and `/proc/self/cgroup`.
    pub(crate) fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut found = Self::default();
        for mount in mounts.lines() {
            let fields: Vec<&str> = mount.split(' ').collect();
            let [_, place, kind, options, ..] = fields.as_slice() else { continue };
            match *kind {
                "cgroup2" => found.unified = found.unified.or_else(|| usable_unified(place, &own)),
                "cgroup" => found.legacy.extend(usable_legacy(place, options, &own)),
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

    /// Makes the groups that enforce the limits, as far as there are controllers for them.
    pub(crate) fn make(&self, limits: &Limits) -> io::Result<Option<Groups>> {
        let mut random = [0u8; 8];
        rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
        let name = format!("openbrain-{:016x}", u64::from_ne_bytes(random));
        let mut made = Groups { groups: Vec::new(), name };
        let wanted: Vec<Controller> =
            Controller::ALL.into_iter().filter(|c| c.is_limited(limits)).collect();
        let unified: Vec<Controller> =
            wanted.iter().copied().filter(|c| self.version_for(*c) == Some(2)).collect();
        if let (Some((path, _)), false) = (&self.unified, unified.is_empty()) {
            made.add(path, unified, 2, limits)?;
        }
        for controller in wanted.into_iter().filter(|c| self.version_for(*c) == Some(1)) {
            let place = self.legacy.iter().find(|(c, _)| *c == controller);
            if let Some((_, path)) = place {
                made.add(path, vec![controller], 1, limits)?;
            }
        }
        Ok((!made.groups.is_empty()).then_some(made))
    }
}

/// The caller's own group of version 2, when it may make groups there and hands controllers down.
fn usable_unified(place: &str, own: &str) -> Option<(PathBuf, Vec<String>)> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let directory = Path::new(place).join(path.trim_start_matches('/'));
    let writable =
        |file: &str| rustix::fs::access(directory.join(file), rustix::fs::Access::WRITE_OK).is_ok();
    if !writable("") || !writable("cgroup.procs") {
        return None;
    }
    let handed_down = fs::read_to_string(directory.join("cgroup.subtree_control")).ok()?;
    let controllers: Vec<String> = handed_down.split_whitespace().map(str::to_owned).collect();
    (!controllers.is_empty()).then_some((directory, controllers))
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

impl Groups {
    fn add(
        &mut self,
        parent: &Path,
        controllers: Vec<Controller>,
        version: u8,
        limits: &Limits,
    ) -> io::Result<()> {
        let path = parent.join(&self.name);
        fs::create_dir(&path)?;
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let parent = rustix::fs::open(parent, flags, Mode::empty())?;
            // A thread that moves itself by `tasks` spares the kernel a lock whose first taker waits
            // ten milliseconds for the other processors; version 2 has no such file for processes.
            let file = if version == 1 { "tasks" } else { "cgroup.procs" };
            let join = OpenOptions::new().write(true).open(path.join(file))?;
            controllers.iter().try_for_each(|c| limit(&path, *c, version, limits))?;
            io::Result::Ok((parent, join))
        };
        match open() {
            Ok((parent, join)) => {
                self.groups.push(Group { controllers, version, path, parent, join });
                Ok(())
            }
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    /// Name of the groups in their parents.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The directories that hold the groups.
    pub(crate) fn parents(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.groups.iter().map(|group| group.parent.as_fd())
    }

    /// The files through which a process joins the groups.
    pub(crate) fn joins(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.groups.iter().map(|group| group.join.as_fd())
    }

    /// Whether a group limits this, and by which version.
    pub(crate) fn limits(&self, controller: Controller) -> Option<u8> {
        self.groups.iter().find(|g| g.controllers.contains(&controller)).map(|g| g.version)
    }

    /// Reads what the groups have counted.
    pub(crate) fn read(&self, resources: &mut Resources) {
        for group in self.groups.iter().filter(|g| g.controllers.contains(&Controller::Memory)) {
            let (peak, events) = match group.version {
                2 => ("memory.peak", "memory.events"),
                _ => ("memory.max_usage_in_bytes", "memory.oom_control"),
            };
            let read = |file| fs::read_to_string(group.path.join(file)).unwrap_or_default();
            resources.memory_peak_bytes = read(peak).trim().parse().ok();
            let kills = read(events)
                .lines()
                .find_map(|line| line.strip_prefix("oom_kill ")?.parse::<u64>().ok());
            resources.oom_killed |= kills.is_some_and(|kills| kills > 0);
        }
    }
}

impl Drop for Groups {
    /// Groups that no helper has taken over are removed here; a group that is in use stays.
    fn drop(&mut self) {
        for group in &self.groups {
            let _ = fs::remove_dir(&group.path);
        }
    }
}

/// Writes one limit.
fn limit(group: &Path, controller: Controller, version: u8, limits: &Limits) -> io::Result<()> {
    const PERIOD_US: u64 = 100_000;
    let write = |file: &str, value: u64| fs::write(group.join(file), value.to_string());
    let quota = limits.cpus.map(|cpus| ((cpus * PERIOD_US as f64) as u64).max(1000));
    match (controller, version) {
        (Controller::Memory, 2) => {
            write("memory.max", limits.memory.unwrap_or(u64::MAX))?;
            // Without the swap controller there is no such file, and nothing to forbid.
            let _ = write("memory.swap.max", 0);
            let _ = write("memory.oom.group", 1);
            Ok(())
        }
        (Controller::Memory, _) => {
            write("memory.limit_in_bytes", limits.memory.unwrap_or(u64::MAX))?;
            let _ = write("memory.memsw.limit_in_bytes", limits.memory.unwrap_or(u64::MAX));
            Ok(())
        }
        // The processes of the engine's own are counted with the command's.
        (Controller::Pids, _) => write("pids.max", limits.pids.unwrap_or(u64::MAX >> 1) + 1),
        (Controller::Cpu, 2) => {
            let quota = quota.unwrap_or(PERIOD_US);
            fs::write(group.join("cpu.max"), format!("{quota} {PERIOD_US}"))
        }
        (Controller::Cpu, _) => {
            write("cpu.cfs_period_us", PERIOD_US)?;
            write("cpu.cfs_quota_us", quota.unwrap_or(PERIOD_US))
        }
    }
}

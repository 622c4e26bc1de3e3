//! Which limit is enforced by what: control groups where there are some, else what every process
//! may set for itself, and the helper's own watch.

use std::collections::BTreeMap;

use super::{
    cgroup::{Controller, Groups},
    seccomp::{Rule, fallback},
};
use crate::{
    backend::helper::{Arg, Program, Section},
    sandbox::Limits,
};

/// How the limits of one sandbox are enforced.
#[derive(Debug, Default)]
pub(crate) struct Enforcement {
    /// `(resource, limit)` for `prlimit64(2)`.
    pub(crate) rlimits: Vec<(u32, u64)>,
    /// Bytes above which the helper's watch kills the sandbox.
    pub(crate) watch: Option<u64>,
    /// Processors that the sandbox is bound to.
    pub(crate) processors: Option<Vec<usize>>,
    /// Rules of the system call filter without which a fallback could be got around.
    pub(crate) rules: Vec<Rule>,
    /// The report: limit and means.
    pub(crate) report: BTreeMap<String, String>,
    /// Limits that are not enforced in full.
    pub(crate) warnings: Vec<String>,
}

/// How many of the sandbox's processes are the engine's own.
const OWN_PROCESSES: u64 = 1;

/// Decides how each limit is enforced. `groups` are those that were made, `allowed` the processors
/// that the caller itself may use, `chance` a number that spreads sandboxes over them.
pub(crate) fn decide(
    limits: &Limits,
    groups: Option<&Groups>,
    allowed: &[usize],
    chance: usize,
) -> Enforcement {
    let mut e = Enforcement::default();
    let by_group = |controller| groups.and_then(|g| g.limits(controller));
    let by = |version: u8| format!("cgroup v{version}");
    if let Some(bytes) = limits.memory {
        let means = match by_group(Controller::Memory) {
            Some(version) => by(version),
            None => {
                e.watch = Some(bytes);
                e.rules.extend(fallback::NO_HIDDEN_MEMORY);
                e.rlimits.push((libc::RLIMIT_DATA, bytes));
                "rlimit (each process), watch every 25 ms (all together)".into()
            }
        };
        e.report.insert("memory".into(), means);
    }
    if let Some(pids) = limits.pids {
        let means = match by_group(Controller::Pids) {
            Some(version) => by(version),
            None => {
                e.rlimits.push((libc::RLIMIT_NPROC, pids + OWN_PROCESSES));
                "rlimit".into()
            }
        };
        e.report.insert("pids".into(), means);
    }
    if let Some(cpus) = limits.cpus {
        let means = match by_group(Controller::Cpu) {
            Some(version) => by(version),
            None => bind_to_processors(&mut e, cpus, allowed, chance),
        };
        e.report.insert("cpus".into(), means);
    }
    if limits.disk.is_some() {
        e.report.insert("disk".into(), "tmpfs size (mounts are not limited)".into());
    }
    let (rlimits, report) = of_command(limits);
    e.rlimits.extend(rlimits);
    e.report.extend(report);
    // One byte is too little for any dump; zero would not stop one to a program of the host's, as
    // `core_pattern` may have it (`core(5)`).
    e.rlimits.push((libc::RLIMIT_CORE, 1));
    e
}

/// The limits that a command brings along, whatever its sandbox was made with: resource limits, and
/// their part of the report.
pub(crate) fn of_command(limits: &Limits) -> (Vec<(u32, u64)>, BTreeMap<String, String>) {
    let (mut rlimits, mut report) = (Vec::new(), BTreeMap::new());
    if let Some(files) = limits.open_files {
        rlimits.push((libc::RLIMIT_NOFILE, files));
        report.insert("open_files".into(), "rlimit (each process)".into());
    }
    if limits.output.is_some() {
        report.insert("output".into(), "collection".into());
    }
    (rlimits, report)
}

fn bind_to_processors(e: &mut Enforcement, cpus: f64, allowed: &[usize], chance: usize) -> String {
    let count = (cpus.ceil() as usize).clamp(1, allowed.len().max(1));
    let start = chance % allowed.len().max(1);
    let chosen = allowed.iter().cycle().skip(start).take(count).copied().collect();
    if cpus.fract() != 0.0 {
        e.warnings.push(format!(
            "`cpus: {cpus}` is enforced as {count} whole processors: no cgroup is usable here"
        ));
    }
    e.processors = Some(chosen);
    e.rules.extend(fallback::NO_REBINDING);
    format!("{count} processors by affinity")
}

impl Enforcement {
    /// Binds the sandbox to its processors.
    pub(crate) fn bind(&self, to: &mut Program) {
        let Some(processors) = &self.processors else { return };
        let mut mask = [0u8; 128];
        for processor in processors.iter().filter(|p| **p < 1024) {
            mask[processor / 8] |= 1 << (processor % 8);
        }
        let mask = to.data(&mask);
        let args = [Arg::from(0), 128.into(), mask.into()];
        to.call(Section::Inside, libc::SYS_sched_setaffinity, args, "bind to processors");
    }
}

#[cfg(test)]
mod tests {
    use super::{Limits, decide};

    fn limits() -> Limits {
        Limits { memory: Some(1 << 20), pids: Some(9), cpus: Some(1.5), ..Limits::default() }
    }

    #[test]
    fn without_groups_every_limit_has_a_fallback() {
        let e = decide(&limits(), None, &[0, 1, 5], 4);
        assert_eq!(e.watch, Some(1 << 20));
        assert!(e.rlimits.contains(&(libc::RLIMIT_NPROC, 10)));
        assert_eq!(e.processors, Some(vec![1, 5]));
        assert_eq!(e.report.keys().collect::<Vec<_>>(), ["cpus", "memory", "pids"]);
        assert_eq!(e.warnings.len(), 1);
    }

    #[test]
    fn cores_are_never_dumped() {
        assert_eq!(decide(&Limits::default(), None, &[0], 0).rlimits, [(libc::RLIMIT_CORE, 1)]);
    }
}

//! Resource limits of one command.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    units::serde_size,
};

/// Resource limits. A field that is absent takes the value of the settings; sizes are bytes or
/// texts such as `512m` and `2GiB`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Memory of all processes together, in bytes.
    #[serde(with = "serde_size", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_size::Size>")]
    pub memory: Option<u64>,
    /// Processors, as a number that may have a fraction: 1.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Processes and threads at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// Everything written inside the sandbox outside of mounts, in bytes.
    #[serde(with = "serde_size", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_size::Size>")]
    pub disk: Option<u64>,
    /// Open file descriptors of one process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// Output kept in a collected result, in bytes for each stream. Streaming is never limited.
    #[serde(with = "serde_size", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_size::Size>")]
    pub output: Option<u64>,
}

impl Limits {
    /// These limits, completed by `defaults` where a field is absent.
    pub fn or(self, defaults: &Self) -> Self {
        let Self { memory, cpus, pids, disk, open_files, output } = self;
        Self {
            memory: memory.or(defaults.memory),
            cpus: cpus.or(defaults.cpus),
            pids: pids.or(defaults.pids),
            disk: disk.or(defaults.disk),
            open_files: open_files.or(defaults.open_files),
            output: output.or(defaults.output),
        }
    }

    /// Refuses values with which no command could run.
    pub(crate) fn check(&self) -> Result<()> {
        let Self { memory, cpus, pids, disk, open_files, output: _ } = self;
        at_least("memory", *memory, 4 << 20, "4MiB")?;
        at_least("disk", *disk, 64 << 10, "64KiB")?;
        at_least("pids", *pids, 2, "2")?;
        at_least("open_files", *open_files, 8, "8")?;
        // The kernel's own bound on process ids (PID_MAX_LIMIT).
        if pids.is_some_and(|pids| pids > 4_194_303) {
            return Err(Error::invalid("limit `pids` is above 4194303"));
        }
        match cpus {
            Some(cpus) if !(0.01..=4096.0).contains(cpus) => {
                Err(Error::invalid(format!("limit `cpus` is {cpus}, not between 0.01 and 4096")))
            }
            _ => Ok(()),
        }
    }
}

fn at_least(name: &str, value: Option<u64>, least: u64, text: &str) -> Result<()> {
    match value {
        Some(value) if value < least => {
            Err(Error::invalid(format!("limit `{name}` is {value}, below the least of {text}")))
        }
        _ => Ok(()),
    }
}

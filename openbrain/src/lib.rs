#![forbid(unsafe_code)]
#![doc = "stub"]
mod error;
mod event;
mod exec;
mod output;
pub mod sandbox;
mod script;
pub mod settings;
mod spec;
mod units;
pub use error::*;
pub use event::*;
pub use exec::*;
pub use output::*;
pub use script::languages;
pub use settings::Settings;
pub use spec::*;
pub use units::{MAX_TIMEOUT, parse_duration, parse_size};
pub mod backend {
    pub struct Backend;
}
pub struct Process;
impl Process {
    pub fn take_stdin(&self) {}
}

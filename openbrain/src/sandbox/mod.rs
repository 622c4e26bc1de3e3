//! What a sandbox is given and what it enforces: plain data shared by every layer.

mod isolation;
mod limits;
mod mount;
mod network;

pub(crate) use self::network::{
    AddressRange, DomainRule, Host, HostRule, NamePattern, host_name, is_protected,
};
pub use self::{
    isolation::{Isolation, IsolationLevel},
    limits::Limits,
    mount::{Mount, MountMode, WORKSPACE},
    network::{Network, SANDBOX_TOS, protect_port},
};

//! The abuse suite of the embedded engine: what a hostile command in a sandbox tries, and what it
//! must not get.
//!
//! Every attack is a *probe*: an ignored test of this very binary, run inside the sandbox by an
//! ordinary test outside, so that nothing has to be installed. A probe asserts that the attack fails
//! and that something allowed works beside it; the test outside asserts that the host is as it was.
//! What would change the test process itself (its environment, its descriptors, its limits) runs in
//! a *host stage*: an ignored test in a process of its own, on the host.
//!
//! The suite runs as root and as an ordinary user; what differs is said where it differs.
#![cfg(target_os = "linux")]
#![allow(missing_docs, unreachable_pub, reason = "a test binary has no users")]

#[macro_use]
mod sys;
#[macro_use]
mod host;

mod callers;
mod files;
mod honesty;
mod kernel;
mod pool;
mod posture;
mod processes;
mod resources;
mod secrets;
mod session;

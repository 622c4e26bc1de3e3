//! The network of the embedded sandbox: what it reaches, what it does not, and what it says.
//!
//! No test leaves the machine: the internet is [`world::World`]'s. The tests run as root and as an
//! ordinary user.
#![cfg(target_os = "linux")]
#![allow(missing_docs, unreachable_pub, reason = "a test binary has no users")]

#[path = "../abuse/sys.rs"]
#[allow(dead_code, unused_macros, reason = "shared with the abuse suite")]
mod sys;
#[macro_use]
mod world;

mod load;
mod names;
mod programs;
mod refusals;
mod walls;

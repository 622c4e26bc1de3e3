//! What commands have changed: reported, saved, applied.
//!
//! Each case compares with what the sandbox itself saw, or with what it was told to do. The cases hold
//! for root and for an ordinary user.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod apply;
mod atomic;
mod hostile;
#[path = "../conformance/image.rs"]
mod image;
mod model;
mod opened;
mod report;
mod resumed;
mod support;

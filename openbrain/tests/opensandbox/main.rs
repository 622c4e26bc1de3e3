//! Faults of OpenSandbox servers, agents, engines and networks, each against the real server and a
//! real engine. `.ci/opensandbox up` starts both.
//!
//! Nothing may hang, every error must help, and no sandbox may be left: each test looks for that at
//! its end.

mod docker;
mod front;
mod lab;
mod server;

mod agents;
mod engines;
mod killed;
mod many;
mod network;
mod refused;
mod running;
mod wire;

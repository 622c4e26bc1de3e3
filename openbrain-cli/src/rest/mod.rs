//! The REST server: the library over HTTP.
//!
//! `guard` decides whom it answers and wraps everything that is served; `routes` is the one list of
//! what there is, from which the router and the OpenAPI document come; `problem` is the one place
//! that gives failures their HTTP status.

mod accept;
pub(crate) mod body;
mod control;
mod exec;
mod execs;
mod fields;
mod files;
pub(crate) mod guard;
mod host;
mod idempotency;
mod long;
mod openapi;
mod page;
pub(crate) mod problem;
mod ready;
mod routes;
mod sandbox_routes;
mod sandboxes;
mod state;
mod stream;
mod tar;
mod view;

pub(crate) use self::routes::router;

//! tmp
mod job;
mod parcel;

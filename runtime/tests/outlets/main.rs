//! Telling others, with peers that are away, slow, wrong and killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod alert;
#[path = "../support/authority.rs"]
mod authority;
mod broker;
mod events;
#[path = "../support/listener.rs"]
mod listener;
mod mqtt;
mod program;
mod server;
mod webhook;

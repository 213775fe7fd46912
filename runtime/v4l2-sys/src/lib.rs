//! The kernel's types of Video4Linux (`linux/videodev2.h`), for the crate `v4l`.
//!
//! Stands in for `v4l2-sys-mit`, which generates the same at build time and needs libclang for it. The layouts don't
//! depend on the processor but on the widths of `long` and of pointers; every size and offset is asserted when this is
//! compiled. `generate` says how `bindings.rs` was made.

#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, clippy::all, reason = "generated")]

include!("bindings.rs");

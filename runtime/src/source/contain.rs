//! Keeps a decoder's panic from ending the program.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a third-party picture decoder, which hostile bytes may make panic: that is a failure like any
/// other. `run` owns what it changes, or leaves it to be dropped.
pub(super) fn contain<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("bytes that the decoder failed on".to_owned()))
}

//! The pages of `adir`: the report of one restoration, and (feature `serve`) a server that restores pictures in the browser.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr), warn(clippy::unwrap_used))]
#![deny(missing_docs)]

mod picture;
pub mod report;
#[cfg(feature = "serve")]
pub mod serve;

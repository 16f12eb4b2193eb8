//! Image restoration for a known degradation. Given y = A x + e, sample x from a pretrained diffusion model.
//! Closed-form guidance keeps every step in agreement with y, and the model can be adapted at test time to images that
//! resemble y.
//!
//! The method is *ADIR: Adaptive Diffusion for Image Reconstruction* (arXiv 2212.03221). The map of
//! the crate is in `ARCHITECTURE.md`; the invariants that hold everywhere:
//!
//! * images inside the library are tensors `[n, c, h, w]` in [-1, 1]; pixels exist only in [`io`];
//! * only [`noise`] draws random numbers;
//! * nothing that a request computes depends on a process-wide switch;
//! * every long loop is an iterator that the caller drives: the library never prints, never exits
//!   and never reads the environment.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use adir::prelude::*;
//!
//! fn main() -> Result<()> {
//!     let engine = Engine::builder().build()?; // the embedded prior, on the CPU
//!     let request = Request::new("y.png", Problem::deblur("box:5").sigma(5.0)).output("x.png");
//!     let plan = engine.plan(&request)?; // every check, every setting with its source
//!     println!("{plan}");
//!     let mut restored = engine.run(&plan, &|_| ControlFlow::Continue(()))?;
//!     restored.save(&engine)?;
//!     println!("agrees with y to {}", restored.record.agreement_psnr);
//!     Ok(())
//! }
//! ```
//!
//! Tensors are those of [burn](https://docs.rs/burn), re-exported by [`tensor`]: a program that depends on burn itself
//! must use the same version.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr), warn(clippy::unwrap_used))]
#![deny(missing_docs)]

pub mod adapt;
pub mod compute;
pub mod encode;
pub mod engine;
pub mod error;
pub mod evaluate;
pub mod guidance;
pub mod io;
pub mod latent;
pub mod metric;
pub mod models;
pub mod noise;
pub mod operator;
pub mod optim;
pub mod prelude;
pub mod problem;
mod resample;
pub mod restore;
pub mod retrieve;
pub mod sampler;
pub mod schedule;
pub mod task;
pub mod tensor;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod train;
pub mod units;
pub mod verify;

pub use error::{Error, Result};

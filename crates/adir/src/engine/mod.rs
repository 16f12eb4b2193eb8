//! One restoration from a request to its record: what every face of the program (command line, server, Python) calls.
//!
//! An [`Engine`] holds what is opened once: a prior, an encoder, a cache, limits. A [`Request`] is data.
//! [`Engine::plan`] checks all of it before any weights are read, [`Engine::run`] carries the [`Plan`] out and reports
//! [`Event`]s to a watcher that may stop it, and what comes back holds the images and the [`Record`] of the run.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use adir::prelude::*;
//!
//! # fn main() -> adir::Result<()> {
//! let engine = Engine::builder().build()?;
//! let request = Request::new("y.png", Problem::super_resolution(4)).adapt(Adapt::to_gallery("scans")).samples(4);
//! let plan = engine.plan(&request)?;
//! let restored = engine.run(&plan, &|_| ControlFlow::Continue(()))?;
//! restored.mean.write("x.png")?;
//! # Ok(())
//! # }
//! ```

mod adapt;
mod by_y;
mod cache;
mod checks;
mod choice;
mod deviation;
mod event;
mod extent;
mod folder;
mod gallery;
mod latent;
mod local;
mod open;
mod outputs;
mod plan;
mod record;
mod remote;
pub mod report;
mod request;
mod run;
mod sources;
mod states;
#[cfg(test)]
mod tests;
mod training;
mod warnings;

pub use adapt::{AdaptPlan, AdapterFound, Label, Observed};
pub use by_y::ByY;
pub use cache::{Cache, FolderCache, KeptAdapter, NamedAdapters, NoCache};
pub use deviation::{Deviation, DeviationRecord};
pub use event::{Estimate, Event, Watch};
pub use extent::Memory;
pub use folder::{
    CheckedFolder, Each, FileFault, FileOutcome, FilePlan, FileState, FolderDone, FolderPlan, FolderRequest,
    ManifestEntry, ManifestHead, Merged, Shard, StackPlan, StackRecord, StackRequest, merge,
};
pub use gallery::{Chosen, Gallery, build_index};
pub use latent::{
    LatentAdapt, LatentAdaptationRecord, LatentPlan, LatentRecord, LatentRequest, LatentRestored, LatentTask, Region,
};
pub use open::{Engine, EngineBuilder, open_encoder};
pub use outputs::{DeviationFiles, Outputs};
pub use plan::Plan;
pub use record::{AdaptationRecord, Decibel, FileRecord, ImageRecord, ModelRecord, Record, Seconds, write_json};
pub use report::{Bias, Findings};
pub use request::{Adapt, AdaptOverrides, Keep, Observation, OutputRequest, Query, Request, SamplingRequest, Target};
pub use run::Restored;

//! The tables of the paper (arXiv 2212.03221), made anew beside the numbers that it publishes.
//!
//! A [`PaperPlan`] says what each row takes before anything is computed; [`PaperPlan::run`] makes the cells that are not there.
//! Every [`PaperCell`] lies in a file named by all that determines its picture, and the picture beside it. Metrics are no part of
//! that: what is measured later is measured on the pictures that are there. So a table goes on where it was stopped, and
//! processes that share a folder make parts of it.

mod cell;
mod config;
mod cost;
mod differences;
mod plan;
mod prepare;
mod report;
mod requests;
mod run;
mod tables;

pub use cell::{Measured, PaperCell};
pub use config::PaperConfig;
pub use cost::Cost;
pub use plan::{PaperImage, PaperPlan, PaperStep};
pub use prepare::Preparation;
pub use run::{PaperFault, PaperFolder};
pub use tables::{Experiment, Published, Row, Table};

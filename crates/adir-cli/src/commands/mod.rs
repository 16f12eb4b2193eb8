//! One file a command; each is a function from its arguments to an exit code or an error.

pub mod adapt;
mod adapt_create;
pub mod compare;
pub mod completions;
pub mod degrade;
pub mod doctor;
pub mod edit;
pub mod eval;
mod hub;
pub mod index;
mod lists;
pub mod merge;
pub mod models;
pub mod replay;
mod replay_latent;
mod replay_pages;
pub mod restore;
pub mod restore_folder;
mod restore_pages;
mod search;
#[cfg(feature = "serve")]
pub mod serve;
pub mod train;
mod train_run;
mod upscale;
pub mod verify;

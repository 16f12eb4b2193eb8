//! What most programs need: `use adir::prelude::*;`.

pub use crate::compute::Precision;
pub use crate::engine::{Adapt, Engine, Event, FolderCache, Keep, NoCache, Plan, Record, Request, Restored};
pub use crate::error::{Error, Result};
pub use crate::io::image::Picture;
pub use crate::models::Prior;
pub use crate::operator::LinearOperator;
pub use crate::problem::Problem;
pub use crate::task::{Hint, Preset, Task};

//! Retrieval: which images of an archive look most like this one.
//!
//! An [`Index`] holds the embeddings of an archive (see [`crate::encode`]) and answers "the K nearest", exactly: a scan
//! at memory speed takes well under a second for ten million images, so nothing needs training or tuning. An index
//! names its encoder and refuses queries of another.

mod build;
mod group;
mod index;
mod index_file;
mod names;
mod npy;
mod parquet;
mod search;
mod tile;

pub use adir_weights::ContentHash;
pub(crate) use build::Stat;
pub use build::{Build, BuildEvent, BuildOutcome};
pub use group::{Group, group_by_neighbours};
pub use index::{Entry, Index, Precision};
pub use names::read_names;
pub use npy::read_npy;
pub use parquet::{read_parquet_names, read_parquet_vectors};
pub use search::{Exclude, Neighbour};
pub use tile::{Tile, TileSide};

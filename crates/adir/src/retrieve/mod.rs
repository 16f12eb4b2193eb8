//! Retrieval: which images of an archive look most like this one.
//!
//! An [`Index`] holds the embeddings of an archive (see [`crate::encode`]) and answers "the K nearest", exactly: a scan
//! at memory speed takes well under a second for ten million images, so nothing needs training or tuning. An index
//! names its encoder and refuses queries of another. One that is large stays in its file. Indexes on servers are asked
//! through [`RemoteIndex`].

mod build;
mod group;
mod import;
mod index;
mod index_file;
mod layout;
mod names;
mod npy;
mod older;
mod parquet;
mod remote;
mod rounded;
mod search;
mod stored;
mod tile;
mod writer;

pub use adir_weights::ContentHash;
pub(crate) use build::Stat;
pub use build::{Build, BuildEvent, BuildOutcome};
pub use group::{Group, group_by_neighbours};
pub use index::{Entry, Index, Precision};
pub use names::read_names;
pub use npy::NpyRows;
pub use parquet::{count_parquet_rows, read_parquet_names, read_parquet_vectors};
pub use remote::{RemoteHit, RemoteIndex, Remotes, remote_address};
pub use search::{Exclude, Neighbour};
pub use tile::{Tile, TileSide};

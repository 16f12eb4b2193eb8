//! Methods compared on images whose truth is known: degraded, restored, measured.
//!
//! Every [`Cell`] (set, task, image, method, seed) is measured once and kept in a file of its own, named by all that
//! determines it: an interrupted evaluation goes on where it stopped, a longer one uses what a shorter one found.

mod cell;
mod key;
mod method;
pub mod paper;
mod task;

pub use cell::{Cell, Measurement, measure};
pub use method::{Bench, EvalConfig, Made, Method};
pub use task::{EvalTask, observe, with_noise};

use std::path::Path;

use crate::Result;
use crate::io::image::read_hashed;
use crate::io::limits::Limits;
use crate::retrieve::ContentHash;
use crate::tensor::Tensor;

/// An image of a set.
#[derive(Debug, Clone)]
pub struct Truth {
    /// Its name.
    pub name: String,
    /// SHA-256 of its file.
    pub content: ContentHash,
    /// The part that is used, `[1, 3, h, w]` in [-1, 1].
    pub x: Tensor<4>,
    /// What of the file does not count: other pages, alpha.
    pub notes: Vec<String>,
}

impl Truth {
    /// The middle of the image in `path`, with sides of at most `most` pixels (all of them without it) that are multiples
    /// of `unit`; grey becomes three equal channels. `None` where the image is too small.
    ///
    /// # Errors
    /// As [`read_hashed`].
    pub fn read(path: &Path, name: &str, most: Option<usize>, unit: usize) -> Result<Option<Self>> {
        let (picture, content) = read_hashed(path, &Limits::default())?;
        let (notes, x) = (picture.notes_on_colours(), picture.tensor);
        let x = if x.dims()[1] == 1 { x.repeat_dim(1, 3) } else { x };
        let [_, _, h, w] = x.dims();
        let side = |s: usize| most.map_or(s, |most| s.min(most)) / unit * unit;
        let (height, width) = (side(h), side(w));
        if height == 0 || width == 0 {
            return Ok(None);
        }
        let x = x.narrow(2, (h - height) / 2, height).narrow(3, (w - width) / 2, width);
        Ok(Some(Self { name: name.to_owned(), content, x, notes }))
    }

    /// The noise depends on image and seed alone: it is the same for all methods and tasks.
    pub fn noise(&self, seed: u64) -> u64 {
        noise_of(&self.content, seed)
    }
}

/// The seed of the noise of the image in a file with that content.
fn noise_of(content: &ContentHash, seed: u64) -> u64 {
    let own = content.to_string().bytes().take(8).fold(0, |all: u64, byte| all << 8 | u64::from(byte));
    own.wrapping_add(seed)
}

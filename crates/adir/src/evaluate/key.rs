//! The name of a result: the hash of all that determines it, and of nothing else.
//!
//! Contents count, not names: what a preset resolves to, not the preset; the files of a gallery, not its folder. So a
//! result is found again after a gallery was moved, and is not after one of its images, or a default, has changed.

use std::path::PathBuf;

use crate::io::hash::{Hasher, hash_file, sha256};
use crate::metric::Metric;
use crate::operator::ImageShape;
use crate::restore::RestorePlan;
use crate::retrieve::{Entry, Index};
use crate::{Error, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::task::EvalTask;

/// Raise it whenever the same settings come to make other pictures or other numbers: after a change of an operator, a
/// guidance, a sampler, the noise, the adaptation's arithmetic, retrieval, a metric, the crop or the hole of an
/// inpainting. Not for a new default, task, preset or metric: the rest of the key tells those apart. Results under
/// another number are not found and are made again.
///
/// 1: until 2026-11-26, with the names of presets and folders. 2: with what they stand for; the agreement of an
/// inpainting counts known pixels only; sides are cut to what network and factor divide.
pub(super) const BEHAVIOUR: u32 = 2;

/// What determines a result: `image` is the hash of the file whose middle of that shape is the truth, `noise` the seed
/// of the noise in y, `method` everything that [`super::method::Bench::describe`] tells.
pub(super) fn made_from(
    image: &str,
    shape: ImageShape,
    task: &EvalTask,
    noise: u64,
    metrics: &[Box<dyn Metric>],
    method: Value,
) -> Result<Value> {
    let metrics: Vec<String> = metrics.iter().map(|metric| metric.identity()).collect();
    Ok(json!({
        "behaviour": BEHAVIOUR, "image": image, "shape": shape.to_string(), "task": task.text,
        "degradation": to_value(&task.degradation)?, "sigma": task.sigma.0, "noise": noise, "metrics": metrics,
        "method": method,
    }))
}

/// The name of the result with that origin.
pub(super) fn name(made_from: &Value) -> String {
    sha256(made_from.to_string().as_bytes()).to_string()
}

/// The settings of a restoration as they were resolved.
pub(super) fn settings(plan: &RestorePlan) -> Result<Value> {
    to_value(plan.settings())
}

/// A gallery by its content: the encoder, and the hashes of the files in whatever order. Of images whose vectors were
/// imported the files are not known: their paths and vectors stand for them.
pub(super) fn gallery(index: &Index) -> Result<Value> {
    let name = |(id, entry): (usize, &Entry)| match (entry.content, entry.tile) {
        (Some(hash), None) => Ok(hash.to_string()),
        (Some(hash), Some(tile)) => Ok(format!("{hash} {tile}")),
        (None, _) => {
            let mut hasher = Hasher::default();
            hasher.update(entry.path.as_bytes());
            index.vector(id)?.iter().for_each(|v| hasher.update(&v.to_le_bytes()));
            Ok(hasher.finish().to_string())
        }
    };
    let mut images = index.entries()?.iter().enumerate().map(name).collect::<Result<Vec<String>>>()?;
    images.sort_unstable();
    let mut hasher = Hasher::default();
    images.iter().for_each(|image| hasher.update(image.as_bytes()));
    Ok(json!({"encoder": to_value(index.encoder().as_ref())?, "images": hasher.finish()}))
}

/// The hashes of files, in their order.
pub(super) fn contents(files: &[PathBuf]) -> Result<Vec<String>> {
    files.iter().map(|path| Ok(hash_file(path)?.1.to_string())).collect()
}

fn to_value(of: &impl Serialize) -> Result<Value> {
    serde_json::to_value(of).map_err(|e| Error::config(format!("the key of a result: {e}")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use crate::encode::EncoderId;
    use crate::retrieve::Precision;

    use super::*;

    #[test]
    fn an_imported_gallery_is_its_encoder_paths_and_vectors_wherever_it_lies() {
        let of = |weights: &str, root: &str, rows: [(&str, [f32; 2]); 2]| {
            let (name, preprocessing) = ("test".to_owned(), "0".to_owned());
            let encoder = Arc::new(EncoderId { name, weights: weights.into(), preprocessing, dimension: 2 });
            let mut rows = rows.into_iter().map(|(path, row)| (path.to_owned(), row.to_vec()));
            gallery(&Index::from_features(encoder, Precision::F32, Path::new(root), &mut rows).unwrap()).unwrap()
        };
        let (a, b) = (("a.png", [1.0, 0.0]), ("b.png", [0.6, 0.8]));
        let first = of("0", "here", [a, b]);
        assert_eq!(first, of("0", "there", [b, a]));
        for other in
            [of("1", "here", [a, b]), of("0", "here", [a, ("c.png", b.1)]), of("0", "here", [a, ("b.png", [0.8, 0.6])])]
        {
            assert_ne!(first, other);
        }
    }
}

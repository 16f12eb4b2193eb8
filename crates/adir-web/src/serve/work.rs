//! What the server has: models, galleries, uploads, jobs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adir::engine::Plan;
use adir::evaluate::observe;
use adir::io::image::{Picture, Reading, read_observation};
use adir::operator::{Boundary, ImageShape, Mask};
use adir::problem::{MaskSource, Sigma};
use adir::task::Task;
use adir::tensor::Tensor;
use adir::units::NoiseLevel;

use super::error::Fault;
use super::id::Id;
use super::jobs::{Job, Jobs};
use super::restoration::{Files, Restoration};
use super::runner::{Served, names};
use super::store::Store;

/// Pixels a side, at most, of the part that a preview of the operator shows.
const PART: usize = 256;
/// Pixels between its two pictures.
const GAP: usize = 8;

/// All of it.
pub struct Work {
    /// The folder.
    pub store: Arc<Store>,
    /// The queue.
    pub jobs: Jobs,
    /// Models of the first device; the others have the same.
    pub models: Arc<Vec<Served>>,
    /// Galleries by name.
    pub galleries: Vec<(String, PathBuf)>,
    /// Samples of a job at most.
    pub most_samples: usize,
}

impl Work {
    /// The folder of a gallery that was named at the start.
    pub fn gallery(&self, name: Option<&str>) -> Result<Option<&Path>, Fault> {
        let Some(name) = name else { return Ok(None) };
        let found = self.galleries.iter().find(|(known, _)| known == name);
        found.map(|(_, path)| Some(path.as_path())).ok_or_else(|| Fault::not_found("gallery"))
    }

    /// The model of that name, or the first.
    pub fn model(&self, name: Option<&str>) -> Result<&Served, Fault> {
        let found = self.models.iter().find(|model| name.is_none_or(|name| model.name == name));
        found.ok_or_else(|| Fault::not_found("model"))
    }

    /// The files of a job in its folder.
    pub fn files_of(&self, job: &Job) -> Result<Files, Fault> {
        let taken = |name: &str| self.store.taken(job.id, name);
        let asked = &job.restoration;
        Ok(Files {
            image: taken("observation").ok_or_else(|| Fault::not_found("observation"))?,
            mask: asked.mask.and_then(|_| taken("mask")),
            ignore: asked.ignore.and_then(|_| taken("ignore")),
            kernel: asked.kernel_image.and_then(|_| taken("kernel")),
            output: Some(self.store.job_folder(job.id).join(asked.format.file())),
        })
    }

    /// The uploads of a restoration that is no job yet, and the name of y.
    fn uploads_of(&self, asked: &Restoration) -> Result<(Files, String), Fault> {
        let file = |id: Option<Id>| id.map(|id| self.store.image(id).map(|(_, path)| path)).transpose();
        let (upload, image) = self.store.image(asked.image)?;
        let (mask, ignore, kernel) = (file(asked.mask)?, file(asked.ignore)?, file(asked.kernel_image)?);
        Ok((Files { image, mask, ignore, kernel, output: None }, upload.name))
    }

    /// The plan of a restoration, by the first device.
    pub fn plan(&self, asked: &Restoration) -> Result<Plan, Fault> {
        let (files, name) = self.uploads_of(asked)?;
        if asked.samples > self.most_samples {
            let message = format!("{} samples: at most {} are allowed here", asked.samples, self.most_samples);
            return Err(Fault::config(message));
        }
        let model = self.model(asked.model.as_deref())?;
        let gallery = self.gallery(asked.gallery.as_deref())?;
        // Where the result will go decides what it can hold.
        let output = files.image.with_file_name(asked.format.file());
        let files = Files { output: Some(output), ..files };
        let request = asked.request(&files, gallery, model.engine.limits())?;
        model.engine.plan(&request).map_err(|error| Fault::of(&error, &names(&files, &name, &self.galleries)))
    }

    /// Puts a restoration into the queue, once it is known that it can be done.
    pub fn enqueue(&self, asked: Restoration) -> Result<Job, Fault> {
        self.jobs.check_room()?;
        let asked = match asked.seed {
            -1 => Restoration { seed: i64::from(Id::drawn()?.word()), ..asked },
            _ => asked,
        };
        let plan = self.plan(&asked)?;
        let id = Id::drawn()?;
        let taken = || -> Result<Job, Fault> {
            let (_, name) = self.store.take(asked.image, id, "observation")?;
            for (image, file) in [(asked.mask, "mask"), (asked.ignore, "ignore"), (asked.kernel_image, "kernel")] {
                image.map(|image| self.store.take(image, id, file)).transpose()?;
            }
            self.jobs.add(id, name, asked.clone(), plan.warnings().to_vec())
        };
        taken().inspect_err(|_| {
            // What is left is swept at the next start.
            let _ = self.store.remove(id);
        })
    }

    /// The middle of the picture, and what would be measured of it, side by side.
    pub fn preview(&self, asked: &Restoration) -> Result<Vec<u8>, Fault> {
        let (files, name) = self.uploads_of(asked)?;
        let limits = *self.model(asked.model.as_deref())?.engine.limits();
        let mut reading = Reading::default();
        reading.page = asked.page;
        let picture =
            read_observation(&files.image, &reading, &limits).map_err(|e| Fault::of(&e, &[(&files.image, &name)]))?;
        let problem = asked.problem(&files, &limits)?;
        let factor = match problem.task {
            Task::SuperResolution { factor } => factor,
            _ => 1,
        };
        let x = picture.tensor;
        let [_, channels, h, w] = x.dims();
        let side = |side: usize| side.min(PART) / factor * factor;
        let (height, width) = (side(h), side(w));
        if height == 0 || width == 0 {
            return Err(Fault::config(format!("the picture has {w}x{h} pixels: too few for {}", problem.task)));
        }
        let (top, left) = ((h - height) / 2, (w - width) / 2);
        let mask = problem
            .mask
            .as_ref()
            .map(|mask| part_of(mask, (h, w), (top, left), (height, width), &limits))
            .transpose()?;
        let x = x.narrow(2, top, height).narrow(3, left, width);
        let x = if channels == 1 { x.repeat_dim(1, 3) } else { x };
        let mut by_name = problem.clone();
        by_name.mask = mask.clone().map(Into::into);
        let (degradation, _) = match &mask {
            // A part without missing pixels shows all of them.
            Some(part) if part.marks_nothing() => return side_by_side(&x, &x),
            _ => by_name.degradation(
                problem.boundary.filter(|b| *b != Boundary::Valid).unwrap_or(Boundary::Circular),
                &limits,
            )?,
        };
        let a = degradation.build(ImageShape::of_batch(&x), mask.as_ref())?;
        let sigma = match problem.sigma {
            Some(Sigma::Levels(levels)) => levels,
            _ => 0.0,
        };
        let y = observe(a.as_ref(), &x, NoiseLevel::from_255(sigma), problem.gain, 0)?;
        let y = match degradation.offset(ImageShape::of_batch(&x), mask.as_ref())? {
            Some(offset) => y.clone() + offset.cast(y.dtype()),
            None => y,
        };
        side_by_side(&x, &y)
    }
}

/// The part of a mask of a whole picture.
fn part_of(
    mask: &MaskSource,
    (h, w): (usize, usize),
    (top, left): (usize, usize),
    (height, width): (usize, usize),
    limits: &adir::io::limits::Limits,
) -> Result<Mask, Fault> {
    let whole = mask.read_for(h, w, limits)?;
    let known = whole.known();
    let part = (0..height * width).map(|i| known[(top + i / width) * w + left + i % width]).collect();
    Ok(Mask::new(height, width, part)?)
}

/// x, and y as large as it, with a gap between them; y without colours is grey.
fn side_by_side(x: &Tensor<4>, y: &Tensor<4>) -> Result<Vec<u8>, Fault> {
    let [_, channels, height, width] = x.dims();
    let y = if y.dims()[1] < channels { y.clone().repeat_dim(1, channels) } else { y.clone() };
    let factor = (height / y.dims()[2]).max(1);
    let [_, _, h, w] = y.dims();
    let y = y.reshape([1, channels, h, 1, w, 1]).repeat_dim(3, factor).repeat_dim(5, factor);
    let y = y.reshape([1, channels, h * factor, w * factor]).cast(x.dtype());
    let gap = Tensor::ones([1, channels, height, GAP], (&x.device(), x.dtype()));
    let y = y.narrow(2, 0, height).narrow(3, 0, width);
    Ok(Picture::from_tensor(Tensor::cat(vec![x.clone(), gap, y], 3)).to_png()?)
}

//! Making the cells of a table: what is kept is taken as it is, the rest is restored, kept and measured.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

use super::super::key;
use super::super::method::Method;
use super::cell::PaperCell;
use super::plan::{Observation, PaperImage, PaperPlan, PaperStep, latent_files};
use super::requests::{of_latents, of_pixels};
use crate::engine::{Engine, Event, ImageRecord, Watch};
use crate::io::atomic;
use crate::io::hash::ContentHash;
use crate::io::image::{Picture, WriteOptions, read_hashed, read_image, write_image};
use crate::metric::Metric;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Images of the gallery this close to a photograph, in radians, show the same: the model would be adapted to what it is judged
/// by. Copies of twelve photographs as JPEG of quality 90 or at 0.75 of the size are at 0.09 to 0.27 by the embedded encoder,
/// other photographs beyond 1.1; by CLIP photographs are 0.3 to 1 apart.
const COPY: f64 = 0.3;

/// A cell that could not be made.
#[derive(Debug)]
pub struct PaperFault {
    /// Task, side, image and method.
    pub cell: String,
    /// Why.
    pub error: Error,
}

/// Where the cells of a table lie.
#[derive(Debug, Clone)]
pub struct PaperFolder(PathBuf);

impl PaperFolder {
    /// Below the folder of its results.
    pub fn new(output: impl Into<PathBuf>) -> Self {
        Self(output.into())
    }

    /// The folder for the engine's cache: what is begun and not finished.
    pub fn unfinished(&self) -> PathBuf {
        self.0.join("unfinished")
    }

    /// Writes the table and its cells, one JSON object a line. What is unfinished no more is tidied away.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn write(&self, table: &str, cells: &[PaperCell]) -> Result<()> {
        let json = |cell| serde_json::to_string(cell).map_err(|e| Error::config(format!("a cell: {e}")));
        let lines = cells.iter().map(json).collect::<Result<Vec<_>>>()?;
        for (name, text) in [("cells.jsonl", lines.join("\n") + "\n"), ("table.md", table.to_owned())] {
            let path = self.0.join(name);
            atomic::write(&path, |file| file.write_all(text.as_bytes()).map_err(|e| Error::io(&path, e)))?;
        }
        // Only folders that are empty go.
        let unfinished = self.unfinished();
        for folder in ["adapters", "latent", "sampling"].map(|name| unfinished.join(name)).iter().chain([&unfinished]) {
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }

    fn cells(&self) -> PathBuf {
        self.0.join("cells")
    }

    fn file(&self, key: &str, ending: &str) -> PathBuf {
        self.cells().join(format!("{key}.{ending}"))
    }

    /// What is kept under `key`, if its picture is there, too.
    fn kept(&self, key: &str) -> Result<Option<PaperCell>> {
        let picture = self.file(key, "png");
        Ok(PaperCell::read(&self.file(key, "json"))?.filter(|_| picture.is_file()))
    }
}

/// A restored picture, and what its model was adapted to.
struct Restored {
    picture: Tensor<4>,
    neighbours: Vec<ImageRecord>,
    copies: usize,
    /// The adapter that is no longer needed when the cell is kept.
    adapter: Option<String>,
}

impl PaperPlan {
    /// Everything that determines the picture of an image in a step, which is what its cell is named by.
    fn made_from(&self, step: &PaperStep, image: &PaperImage) -> Value {
        let mut all = step.recipe.clone();
        if !matches!(step.method, Method::Observed | Method::Bicubic) {
            all["method"]["model"] = json!(self.model);
        }
        if matches!(step.method, Method::Knn | Method::Lora) {
            all["method"]["gallery"] = json!({"index": self.gallery, "neighbours": self.config.neighbours()});
        }
        all["image"] = json!(image.content);
        all["noise"] = json!(image.noise(self.config.seed));
        all
    }

    /// The cells that are there already, in the order of the table: those of all shards.
    ///
    /// # Errors
    /// [`Error::Input`] for a file that is no cell.
    pub fn kept(&self, folder: &PaperFolder) -> Result<Vec<PaperCell>> {
        let mut found = Vec::new();
        for (step, image) in self.steps.iter().flat_map(|step| self.images.iter().map(move |image| (step, image))) {
            let cell = folder.kept(&key::name(&self.made_from(step, image)))?;
            // The key knows contents: the image may have had another name.
            found.extend(cell.map(|cell| PaperCell { image: image.name.clone(), ..cell }));
        }
        Ok(found)
    }

    /// Makes the cells of this shard that are not there, and measures what others lack; `each` gets every cell. What fails
    /// for the numbers of one image is left out.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the watcher breaks: the same call then goes on. [`Error::Io`] where the system refuses; as
    /// [`Engine::run`] and [`Engine::run_latent`].
    pub fn run(
        &self,
        engine: &Engine,
        metrics: &[Box<dyn Metric>],
        folder: &PaperFolder,
        watch: &Watch<'_>,
        mut each: impl FnMut(&PaperCell),
    ) -> Result<Vec<PaperFault>> {
        let cells = folder.cells();
        std::fs::create_dir_all(&cells).map_err(|e| Error::io(&cells, e))?;
        let (total, mut number, mut faults) = (self.own_images().len() * self.steps.len(), 0, Vec::new());
        for image in self.own_images() {
            let mut seen = Seen { plan: self, engine, image, photograph: None, observation: None };
            for step in &self.steps {
                number += 1;
                let name =
                    format!("{} {} {} {}", self.experiment(step).task, step.side, image.name, step.method.name());
                let event = Event::File { number, total, path: name.clone(), seconds_left: None };
                if watch(&event).is_break() {
                    return Err(Error::Interrupted);
                }
                match self.cell(engine, metrics, folder, step, &mut seen, watch) {
                    Ok(cell) => each(&cell),
                    Err(error @ Error::Numerical(_)) => faults.push(PaperFault { cell: name, error }),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(faults)
    }

    fn cell(
        &self,
        engine: &Engine,
        metrics: &[Box<dyn Metric>],
        folder: &PaperFolder,
        step: &PaperStep,
        seen: &mut Seen<'_>,
        watch: &Watch<'_>,
    ) -> Result<PaperCell> {
        let image = seen.image;
        let made_from = self.made_from(step, image);
        let key = key::name(&made_from);
        let (file, shown) = (folder.file(&key, "json"), folder.file(&key, "png"));
        let (mut cell, adapter) = match folder.kept(&key)? {
            Some(cell) => (PaperCell { image: image.name.clone(), ..cell }, None),
            None => {
                let started = Instant::now();
                let Restored { picture, neighbours, copies, adapter } = self.restored(engine, step, seen, watch)?;
                write_image(&shown, &picture, &WriteOptions::default())?;
                let cell = PaperCell {
                    table: self.config.table,
                    task: self.experiment(step).task.to_owned(),
                    side: step.side,
                    method: step.method.name().to_owned(),
                    image: image.name.clone(),
                    seed: self.config.seed,
                    seconds: started.elapsed().as_secs_f64(),
                    neighbours,
                    copies,
                    measured: Default::default(),
                    made_from,
                };
                (cell, adapter)
            }
        };
        if !cell.lacks(metrics).is_empty() || !file.is_file() {
            // As others see it: 8 bits.
            let picture = read_image(&shown, engine.limits())?.tensor;
            cell.measure(metrics, &picture, seen.at(step)?)?;
            cell.write(&file)?;
        }
        adapter.iter().for_each(|key| engine.cache().forget_adapter(key));
        Ok(cell)
    }

    /// The picture of a step.
    fn restored(&self, engine: &Engine, step: &PaperStep, seen: &mut Seen<'_>, watch: &Watch<'_>) -> Result<Restored> {
        if let Some(picture) = seen.at(step)?.plain(step.method)? {
            return Ok(Restored { picture, neighbours: Vec::new(), copies: 0, adapter: None });
        }
        let config = &self.config;
        let exclude = match (step.method, &config.gallery) {
            (Method::Knn | Method::Lora, Some(gallery)) => {
                engine.copies_of(gallery, &seen.photograph()?, COPY, watch)?
            }
            _ => Vec::new(),
        };
        let (copies, seen) = (exclude.len(), seen.at(step)?);
        if config.table.is_latent() {
            let files = latent_files(config)?;
            let request = of_latents(config, &files, step.method, exclude)?;
            let plan = engine.plan_latent_of(files, &request, Picture::from_tensor(seen.y.clone()))?;
            let restored = engine.run_latent(&plan, watch)?;
            let (neighbours, adapter) =
                restored.record.adaptation.map_or_else(Default::default, |a| (a.images, Some(a.key)));
            let picture = restored.results.into_iter().next().map(|picture| picture.tensor);
            let picture = picture.ok_or_else(|| Error::config("no result"))?;
            return Ok(Restored { picture, neighbours, copies, adapter });
        }
        let request = of_pixels(config, &seen.task, step.method, &seen.y, exclude)?;
        let restored = engine.run(&engine.plan(&request)?, watch)?;
        let (images, adapter) = restored.record.adaptation.map_or_else(Default::default, |a| (a.images, Some(a.key)));
        let neighbours = if step.method == Method::Itself { Vec::new() } else { images };
        Ok(Restored { picture: restored.mean.tensor, neighbours, copies, adapter })
    }
}

/// What is seen of an image, made when it is asked for.
struct Seen<'a> {
    plan: &'a PaperPlan,
    engine: &'a Engine,
    image: &'a PaperImage,
    photograph: Option<Tensor<4>>,
    /// Of the experiment with that number.
    observation: Option<(usize, Observation)>,
}

impl Seen<'_> {
    fn at(&mut self, step: &PaperStep) -> Result<&Observation> {
        if self.observation.as_ref().is_none_or(|(experiment, _)| *experiment != step.experiment) {
            let photograph = self.photograph()?;
            let experiment = self.plan.experiment(step);
            let seen = Observation::of(&self.plan.config, experiment, step.side, &photograph, self.image)?;
            self.observation = Some((step.experiment, seen));
        }
        self.observation.as_ref().map(|(_, seen)| seen).ok_or_else(|| Error::config("nothing was observed"))
    }

    /// The pixels of the file, which must be that of the plan.
    fn photograph(&mut self) -> Result<Tensor<4>> {
        if let Some(known) = &self.photograph {
            return Ok(known.clone());
        }
        let path = self.plan.config.images.join(&self.image.name);
        let (picture, content): (Picture, ContentHash) = read_hashed(&path, self.engine.limits())?;
        if content != self.image.content {
            return Err(Error::input(path, "has changed since it was looked at"));
        }
        Ok(self.photograph.insert(picture.tensor).clone())
    }
}

//! Adapting the model before a restoration: which images, how, and what an earlier run left in the cache.

use std::path::{Path, PathBuf};

use adir::adapt::{AdaptConfig, Adaptation, Adapter, AdapterInfo, CropScale, HeldOut, LevelWeights, Trained};
use adir::io::hash::sha256;
use adir::io::image::read_image;
use adir::io::limits::Limits;
use adir::io::weights::WeightFile;
use adir::models::Denoiser;
use adir::models::clip::Clip;
use adir::models::efficientnet_lite::EfficientNetLite0;
use adir::models::guided_diffusion::GuidedDiffusion;
use adir::retrieve::{Build, BuildOutcome, ContentHash, Encoder, Exclude, Index, Neighbour, Precision};
use adir::task::Preset;
use adir::tensor::{self, DType, Tensor, cpu};
use adir::{Error, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::log::Log;
use crate::stop;
use crate::store::Store;

/// What the model is adapted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The gallery's nearest images; adapted weights are kept only where held-out neighbours say that they are better
    Auto,
    /// The gallery's nearest images
    Gallery,
    /// The gallery's images nearest to --prompt (needs a CLIP --encoder)
    Text,
    /// The observation itself (IA)
    #[value(name = "self")]
    Itself,
    /// Nothing
    None,
}

/// How the model is adapted, whatever it is adapted to.
#[derive(Debug, Clone, Args)]
pub struct AdaptSettings {
    /// Image encoder: a CLIP model (file or folder); by default the embedded EfficientNet-Lite0
    #[arg(long, value_name = "WEIGHTS")]
    pub encoder: Option<PathBuf>,
    /// Number of nearest images
    #[arg(short = 'k', long, default_value_t = 20, value_name = "K", value_parser = clap::value_parser!(u16).range(1..=10000))]
    pub neighbours: u16,
    /// Leave out images closer to the observation than this, in radians
    #[arg(long, default_value_t = 0.0, value_name = "RADIANS", value_parser = crate::args::distance)]
    pub closer_than: f64,
    /// Training steps
    #[arg(long, value_name = "N")]
    pub iterations: Option<u32>,
    /// Learning rate
    #[arg(long, value_name = "RATE")]
    pub adapt_rate: Option<f64>,
    /// Side of the crops
    #[arg(long, value_name = "PIXELS")]
    pub adapt_crop: Option<usize>,
    /// Crops a step
    #[arg(long, value_name = "N")]
    pub adapt_batch: Option<usize>,
    /// Decay of the average of the weights
    #[arg(long, value_name = "DECAY")]
    pub adapt_ema: Option<f64>,
    /// How much of the trained change of the weights is used: 1 as trained, 2 twice as much
    #[arg(long, value_name = "FACTOR")]
    pub adapt_strength: Option<f64>,
    /// Exponent of the weights by noise level, 1 / (K + SNR)^GAMMA; 0 weights all alike
    #[arg(long, value_name = "GAMMA")]
    pub adapt_p2_gamma: Option<f64>,
    /// The K of these weights
    #[arg(long, value_name = "K")]
    pub adapt_p2_k: Option<f64>,
    /// Compute blocks of the network again instead of keeping them: much less memory, a third more time
    #[arg(long)]
    pub recompute: bool,
    /// Images of a step computed at once; less takes less memory
    #[arg(long, value_name = "N")]
    pub adapt_micro_batch: Option<usize>,
}

/// Adaptation of the model to images like the one to restore.
#[derive(Debug, Clone, Args)]
pub struct AdaptArgs {
    /// Folder of images like the one to restore, or an index made by `adir index`; the model is adapted to the nearest
    #[arg(long, value_name = "FOLDER")]
    pub gallery: Option<PathBuf>,
    /// What the model is adapted to [default: auto with --gallery, else none; the preset paper: gallery]
    #[arg(long, value_enum, value_name = "MODE")]
    pub adapt: Option<Mode>,
    /// Text whose nearest images are taken, with --adapt text
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    #[command(flatten)]
    pub settings: AdaptSettings,
    /// Train low-rank factors of this rank on the convolutions (alpha is half of it)
    #[arg(long, value_name = "RANK", conflicts_with = "full")]
    pub lora: Option<usize>,
    /// Train all weights
    #[arg(long)]
    pub full: bool,
    #[command(flatten)]
    pub store: Store,
    /// Neither use nor keep adapted weights of earlier runs
    #[arg(long)]
    pub no_cache: bool,
}

/// The model to adapt, and the SHA-256 of its weight file.
pub struct Base<'a> {
    pub model: &'a GuidedDiffusion,
    pub sha256: &'a str,
}

impl Base<'_> {
    /// The adapter in the file at `path`, and what it says of itself.
    pub fn read_adapter(&self, path: &Path) -> Result<(Adapter, AdapterInfo)> {
        let file = WeightFile::open(path)?;
        Ok((Adapter::load(&file, self.model, self.sha256)?, Adapter::info(&file)?))
    }

    /// The model with an adapter in it.
    pub fn with(&self, adapter: &Adapter) -> Result<GuidedDiffusion> {
        Ok(self.model.with_params(adapter.apply(self.model.params())?))
    }
}

/// The observation, and the file it was read from.
pub struct Observed<'a> {
    pub file: &'a Path,
    pub y: &'a Tensor<4>,
}

/// A folder of images like the one to restore, and what tells their likeness.
pub struct Gallery {
    encoder: Box<dyn Encoder>,
    index: Index,
}

/// What a new adapter is called, and the SHA-256 of the observations it is made for.
#[derive(Clone)]
pub struct Label {
    pub name: String,
    pub serves: Vec<String>,
}

/// An adapter, from the cache or new.
pub struct Found {
    pub adapter: Adapter,
    pub info: AdapterInfo,
    /// Its name in the cache.
    pub key: String,
    /// Images with their distances, for the record.
    images: Value,
    pub from_cache: bool,
}

/// What became of an adaptation.
pub struct Adapted {
    /// The model to sample with.
    pub model: GuidedDiffusion,
    /// For the record.
    pub record: Value,
}

impl AdaptArgs {
    /// What to adapt to.
    pub fn mode(&self, preset: Preset) -> Result<Mode> {
        let mode = self.adapt.unwrap_or(match (&self.gallery, preset) {
            (None, _) => Mode::None,
            (Some(_), Preset::Paper) => Mode::Gallery,
            (Some(_), _) => Mode::Auto,
        });
        let needs_gallery = matches!(mode, Mode::Auto | Mode::Gallery | Mode::Text);
        if needs_gallery && self.gallery.is_none() {
            return Err(Error::config("--adapt auto, gallery and text need --gallery FOLDER"));
        }
        if (mode == Mode::Text) != self.prompt.is_some() {
            return Err(Error::config("--prompt and --adapt text go together"));
        }
        Ok(mode)
    }

    /// The preset's settings, overridden by what was given.
    pub fn config(&self, mode: Mode, preset: Preset, seed: u64) -> AdaptConfig {
        let base = match (preset, mode) {
            (Preset::Paper, Mode::Itself) => AdaptConfig::paper_itself(),
            (Preset::Paper, _) => AdaptConfig::paper(),
            (Preset::Balanced, _) => AdaptConfig::balanced(),
            (Preset::Fast, _) => AdaptConfig::fast(),
        };
        AdaptConfig {
            iterations: self.settings.iterations.unwrap_or(base.iterations),
            learning_rate: self.settings.adapt_rate.unwrap_or(base.learning_rate),
            crop: self.settings.adapt_crop.unwrap_or(base.crop),
            batch: self.settings.adapt_batch.unwrap_or(base.batch),
            ema: self.settings.adapt_ema.unwrap_or(base.ema),
            strength: self.settings.adapt_strength.unwrap_or(base.strength),
            level_weights: LevelWeights {
                k: self.settings.adapt_p2_k.unwrap_or(base.level_weights.k),
                gamma: self.settings.adapt_p2_gamma.unwrap_or(base.level_weights.gamma),
            },
            micro_batch: self.settings.adapt_micro_batch.unwrap_or(base.micro_batch),
            trained: match (self.lora, self.full) {
                (Some(rank), _) => Trained::Lora { rank, alpha: rank as f64 / 2.0 },
                (None, true) => Trained::Full,
                (None, false) => base.trained,
            },
            held_out: mode == Mode::Auto,
            recompute: self.settings.recompute || base.recompute,
            seed,
            ..base
        }
    }

    /// The gallery, ready to be asked, where what is adapted to comes from one.
    pub fn open_gallery(&self, mode: Mode, log: &Log) -> Result<Option<Gallery>> {
        if let Mode::None | Mode::Itself = mode {
            return Ok(None);
        }
        let folder = self.gallery.as_ref().ok_or_else(|| Error::config("no --gallery"))?;
        let encoder = open_encoder(self.settings.encoder.as_deref())?;
        if folder.is_file() {
            let index = Index::open(folder)?;
            index.check_encoder(encoder.id()).map_err(|e| Error::input(folder, format!("{e}; see --encoder")))?;
            return Ok(Some(Gallery { encoder, index }));
        }
        let root = root_of(folder)?;
        let path = self.store.index_path(&root, encoder.as_ref())?;
        let index = build_index(&root, encoder.as_ref(), Precision::F16, &path, log)?;
        Ok(Some(Gallery { encoder, index }))
    }

    /// The model adapted for `observed`.
    pub fn run(&self, base: &Base, observed: &Observed, mode: Mode, config: AdaptConfig, log: &Log) -> Result<Adapted> {
        if mode == Mode::None {
            return Ok(Adapted { model: base.model.clone(), record: Value::Null });
        }
        let found = self.find(base, self.open_gallery(mode, log)?.as_ref(), observed, config, log)?;
        let verdict = verdict_of(&found.info);
        let used = verdict.is_none_or(|v| v.helped());
        if let Some(v) = verdict {
            log.info(&format!("adaptation: {}: {}", in_words(&v), if used { "used" } else { "not used" }));
        }
        let record = json!({
            "mode": mode.to_possible_value().map(|v| v.get_name().to_owned()), "images": found.images,
            "settings": found.info.made_from["settings"], "held_out": verdict, "used": used,
            "from_cache": found.from_cache, "key": found.key,
        });
        let model = if used { base.with(&found.adapter)? } else { base.model.clone() };
        Ok(Adapted { model, record })
    }

    /// The adapter for `observed`, to what is nearest in the gallery or, without one, to the observation itself: from
    /// the cache, or made now and kept there.
    pub fn find(
        &self,
        base: &Base,
        gallery: Option<&Gallery>,
        observed: &Observed,
        config: AdaptConfig,
        log: &Log,
    ) -> Result<Found> {
        let (model, mut config) = (base.model, config);
        let (files, images) = match gallery {
            None => {
                let [_, _, h, w] = observed.y.dims();
                let multiple = model.size_multiple();
                config.crop = config.crop.min((h.min(w) / multiple * multiple).max(multiple));
                config.scale = CropScale::Native;
                (vec![observed.file.to_owned()], json!("the observation itself"))
            }
            Some(gallery) => {
                let nearest = gallery.nearest(observed, self)?;
                (gallery.files(&nearest), gallery.describe(&nearest))
            }
        };
        let name = observed.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let label = Label { name, serves: vec![ContentHash::of_file(observed.file)?.to_string()] };
        let mut found = self.adapted_to(base, &files, label, config, log)?;
        found.images = images;
        Ok(found)
    }

    /// The adapter to the images in `files`: from the cache, or made now and kept there.
    pub fn adapted_to(
        &self,
        base: &Base,
        files: &[PathBuf],
        label: Label,
        config: AdaptConfig,
        log: &Log,
    ) -> Result<Found> {
        let model = base.model;
        config.check(model.size_multiple())?;
        let images = Value::Null;
        let hashes = files.iter().map(|p| Ok(ContentHash::of_file(p)?.to_string())).collect::<Result<Vec<_>>>()?;
        let mut made_from = json!({"version": 1, "base": base.sha256, "images": hashes, "settings": config});
        if tensor::bf16_products() || model.params().dtype() != DType::F32 {
            made_from["computed_in"] =
                json!(format!("{:?}, bf16 products: {}", model.params().dtype(), tensor::bf16_products()));
        }
        let key = sha256(made_from.to_string().as_bytes()).to_string();
        let kept = self.store.adapter_path(&key)?;
        if !self.no_cache && kept.is_file() {
            let (adapter, info) = base.read_adapter(&kept)?;
            return Ok(Found { adapter, info, key, images, from_cache: true });
        }
        let limits = Limits::default();
        let pictures = files.iter().map(|p| Ok(read_image(p, &limits)?.tensor)).collect::<Result<Vec<_>>>()?;
        let mut run = Adaptation::new(model, pictures, config)?;
        let progress = log.progress("adapting", run.total() as usize);
        for step in run.by_ref() {
            let step = step?;
            progress.step(&format!("loss {:.4}", step.loss), json!({"t": step.timestep.0, "loss": step.loss}));
            stop::check()?;
        }
        drop(progress);
        made_from["held_out"] = json!(run.held_out()?);
        let adapter = run.adapter();
        let Label { name, serves } = label;
        let info = AdapterInfo { name, base: base.sha256.to_owned(), made_from, lora: adapter.lora(), serves };
        if !self.no_cache {
            self.store.keep(&key, &adapter, &info, model)?;
        }
        Ok(Found { adapter, info, key, images, from_cache: false })
    }
}

impl Gallery {
    /// The index of its images.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The images nearest to `observed`, or to the prompt, nearest first.
    pub fn nearest(&self, observed: &Observed, args: &AdaptArgs) -> Result<Vec<Neighbour>> {
        let query = match &args.prompt {
            Some(text) => self.encoder.text(text)?,
            None => self.encoder.image(observed.y)?,
        };
        let content = Some(ContentHash::of_file(observed.file)?);
        let exclude = Exclude { closer_than: args.settings.closer_than, content };
        let found = self.index.nearest(&query, usize::from(args.settings.neighbours), &exclude)?;
        if found.is_empty() {
            return Err(Error::input(self.index.root(), "holds no images to adapt to"));
        }
        Ok(found)
    }

    /// Their files.
    pub fn files(&self, images: &[Neighbour]) -> Vec<PathBuf> {
        images.iter().filter_map(|n| self.index.file(n.id)).collect()
    }

    /// Their names and distances, for the record.
    fn describe(&self, images: &[Neighbour]) -> Value {
        let entry = |id: usize| &self.index.entries()[id];
        images.iter().map(|n| json!({"path": entry(n.id).path, "distance": n.distance})).collect()
    }
}

/// What held-out images said of an adaptation, where any were held out.
pub fn verdict_of(info: &AdapterInfo) -> Option<HeldOut> {
    serde_json::from_value(info.made_from.get("held_out")?.clone()).ok()
}

/// A verdict in words.
pub fn in_words(v: &HeldOut) -> String {
    format!("held-out loss {:.5} -> {:.5}", v.before, v.after)
}

/// CLIP from a file or folder, or the embedded encoder.
pub fn open_encoder(path: Option<&Path>) -> Result<Box<dyn Encoder>> {
    Ok(match path {
        Some(path) => Box::new(Clip::open(path, None, &cpu())?),
        None => Box::new(EfficientNetLite0::embedded(&cpu())?),
    })
}

/// The folder of an index, as it is kept in it.
pub fn root_of(folder: &Path) -> Result<PathBuf> {
    folder.canonicalize().map_err(|e| Error::input(folder, format!("cannot be opened: {e}")))
}

/// Brings the index at `path` up to date with `folder`. What was embedded before an interruption is kept.
pub fn build_index(
    folder: &Path,
    encoder: &dyn Encoder,
    precision: Precision,
    path: &Path,
    log: &Log,
) -> Result<Index> {
    let previous = if path.is_file() { Some(Index::open(path)?) } else { None };
    let before = previous.as_ref().filter(|index| index.is_complete()).map(|index| index.entries().to_vec());
    let mut build = Build::new(folder, encoder, precision, Limits::default(), previous)?;
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    }
    let progress = log.progress("indexing", build.total());
    while let Some(event) = build.next() {
        match event.outcome {
            BuildOutcome::Embedded | BuildOutcome::Reused => {}
            BuildOutcome::Skipped(error) => log.warn(&format!("left out: {error}")),
        }
        progress.step("", json!({"path": event.path}));
        if let Err(stopped) = stop::check() {
            build.index()?.save(path)?;
            return Err(stopped);
        }
    }
    let index = build.index()?;
    if index.entries().is_empty() {
        return Err(Error::input(folder, "holds no images"));
    }
    // Entries carry the hashes of their files: equal ones have equal embeddings.
    if before.as_deref() != Some(index.entries()) {
        index.save(path)?;
    }
    Ok(index)
}

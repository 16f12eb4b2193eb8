//! Arguments of adaptations, and the requests they make.

use std::path::{Path, PathBuf};

use adir::adapt::Trained;
use adir::engine::{Adapt, AdaptOverrides, EngineBuilder, Keep, NamedAdapters, Query, Target};
use adir::retrieve::TileSide;
use adir::task::Preset;
use adir::{Error, Result};
use clap::{Args, ValueEnum};

use crate::remote::RemoteArgs;
use crate::seed::Seed;
use crate::store::Store;

/// Training steps on the neighbours of an observation, after an archive's adapter.
const REFINING: u32 = 100;

/// What the model is adapted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The nearest gallery images; the adapted weights are used only if they denoise held-out neighbours better, by
    /// more than 2 % (Stable Diffusion: any) and by more than chance, and if the observation does not speak against them.
    /// With --adapter alone: that adapter, if the observation favours it
    Auto,
    /// The nearest gallery images, without the held-out check
    Gallery,
    /// The gallery images nearest to --prompt (needs a CLIP --encoder)
    Text,
    /// The observation itself (the paper's IA)
    #[value(name = "self")]
    Itself,
    /// Nothing
    None,
}

/// What the images of a gallery are to be near to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Likeness {
    /// The observation
    Y,
    /// A first restoration of it, a sample of the model as it is
    First,
    /// Both: the mean of their directions
    Both,
}

/// How the model is adapted, whatever it is adapted to.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct AdaptSettings {
    /// Image encoder: a CLIP model (file, folder, or ORG/NAME as pulled) [default: the embedded EfficientNet-Lite0]
    #[arg(long, value_name = "WEIGHTS", value_parser = crate::hub::model_path())]
    pub encoder: Option<PathBuf>,
    /// Number of nearest images [default: 20]
    #[arg(short = 'k', long, value_name = "K")]
    pub neighbours: Option<usize>,
    /// Leave out images closer to the observation than this angle in radians, 0 to pi
    #[arg(long, value_name = "RADIANS", value_parser = crate::args::distance)]
    pub closer_than: Option<f64>,
    /// Divide large images of the gallery into tiles of about this side, and search these. Use it where one image shows many
    /// things: scans, maps, surveys of the sky
    #[arg(long, value_name = "PIXELS")]
    pub gallery_tiles: Option<TileSide>,
    /// Largest number of training steps: fewer are taken if the loss on held-out images stops falling [default: 200,
    /// which take 2 to 4 minutes on two cores with the embedded prior; 150 with --adapt self, 100 with --adapter; 400
    /// with --preset paper]
    #[arg(long, value_name = "N")]
    pub iterations: Option<u32>,
    /// Time for the training, in place of --iterations. The first steps are timed to turn it into a number of steps, which
    /// the record holds
    #[arg(long, visible_alias = "minutes", conflicts_with = "iterations", value_name = "M")]
    pub adapt_minutes: Option<f64>,
    /// Learning rate
    #[arg(long, value_name = "RATE")]
    pub adapt_rate: Option<f64>,
    /// Side of the crops in pixels
    #[arg(long, value_name = "PIXELS")]
    pub adapt_crop: Option<usize>,
    /// Crops per step
    #[arg(long, value_name = "N")]
    pub adapt_batch: Option<usize>,
    /// Decay of the moving average of the weights, 0 to below 1
    #[arg(long, value_name = "DECAY")]
    pub adapt_ema: Option<f64>,
    /// Share of the trained change of the weights that is used: 1 as trained, 2 twice as much
    #[arg(long, value_name = "FACTOR")]
    pub adapt_strength: Option<f64>,
    /// Exponent of the weights by noise level, 1 / (K + SNR)^GAMMA; 0 weights all levels equally
    #[arg(long, value_name = "GAMMA")]
    pub adapt_p2_gamma: Option<f64>,
    /// K of the loss weight
    #[arg(long, value_name = "K")]
    pub adapt_p2_k: Option<f64>,
    /// Seed of the crops, timesteps and noise of the training, -1 to draw one; it does not follow --seed [default: 0]
    #[arg(long, value_name = "SEED")]
    pub adapt_seed: Option<Seed>,
    /// Recompute blocks of the network in the backward pass instead of keeping them: much less memory, a third more time
    #[arg(long)]
    pub recompute: bool,
    /// Images of a step computed at once; fewer take less memory
    #[arg(long, value_name = "N")]
    pub adapt_micro_batch: Option<usize>,
}

/// Adaptation of the model to images like the one to restore.
#[derive(Debug, Clone, Args)]
pub struct AdaptArgs {
    /// Folder of images like the one to restore, an index made by `adir index`, or an index on a server
    /// (qdrant://HOST/COLLECTION, clip-retrieval://HOST/INDEX); the model is adapted to the nearest of them
    #[arg(long, value_name = "FOLDER")]
    pub gallery: Option<PathBuf>,
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// What the model is adapted to [default: auto with --gallery, otherwise none; with the preset paper: gallery]
    #[arg(long, value_enum, value_name = "MODE")]
    pub adapt: Option<Mode>,
    /// Text whose nearest images are used, with --adapt text; for Stable Diffusion, what the result shows
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// What to search the gallery for; first and both take the time of one more sample [default: y]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub query: Option<Likeness>,
    #[command(flatten)]
    pub settings: AdaptSettings,
    /// Train low-rank factors of this rank for all convolutions [default: rank 16 or all weights, whichever lowers the
    /// held-out loss more]
    #[arg(long, value_name = "RANK", conflicts_with = "full")]
    pub lora: Option<usize>,
    /// Train all weights
    #[arg(long)]
    pub full: bool,
    #[command(flatten)]
    pub store: Store,
    /// Use no cache: embed the images of a gallery anew, neither use adapted weights of earlier runs nor keep new ones, and
    /// keep no state of a run that is interrupted
    #[arg(long)]
    pub no_cache: bool,
}

impl AdaptSettings {
    /// The settings given.
    pub fn overrides(&self, trained: Option<Trained>) -> AdaptOverrides {
        AdaptOverrides {
            iterations: self.iterations,
            minutes: self.adapt_minutes,
            learning_rate: self.adapt_rate,
            crop: self.adapt_crop,
            batch: self.adapt_batch,
            micro_batch: self.adapt_micro_batch,
            ema: self.adapt_ema,
            strength: self.adapt_strength,
            p2_gamma: self.adapt_p2_gamma,
            p2_k: self.adapt_p2_k,
            trained,
            recompute: self.recompute.then_some(true),
        }
    }

    /// The first option given that chooses images from a gallery.
    pub fn of_search(&self) -> Option<&'static str> {
        let given = [
            (self.encoder.is_some(), "--encoder"),
            (self.neighbours.is_some(), "--neighbours"),
            (self.closer_than.is_some(), "--closer-than"),
            (self.gallery_tiles.is_some(), "--gallery-tiles"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }

    /// The first option given that says how to train.
    pub fn of_training(&self) -> Option<&'static str> {
        let given = [
            (self.iterations.is_some(), "--iterations"),
            (self.adapt_minutes.is_some(), "--adapt-minutes"),
            (self.adapt_rate.is_some(), "--adapt-rate"),
            (self.adapt_crop.is_some(), "--adapt-crop"),
            (self.adapt_batch.is_some(), "--adapt-batch"),
            (self.adapt_ema.is_some(), "--adapt-ema"),
            (self.adapt_strength.is_some(), "--adapt-strength"),
            (self.adapt_p2_gamma.is_some(), "--adapt-p2-gamma"),
            (self.adapt_p2_k.is_some(), "--adapt-p2-k"),
            (self.adapt_seed.is_some(), "--adapt-seed"),
            (self.recompute, "--recompute"),
            (self.adapt_micro_batch.is_some(), "--adapt-micro-batch"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }

    /// An engine with the encoder.
    pub fn engine(&self, builder: EngineBuilder) -> EngineBuilder {
        match &self.encoder {
            Some(clip) => builder.clip(clip),
            None => builder,
        }
    }

    /// An adaptation to `target`.
    pub fn request(&self, target: Target, keep: Keep, trained: Option<Trained>) -> Adapt {
        let mut adapt = Adapt::new(target).keep(keep).seed(self.adapt_seed.unwrap_or_default().value);
        adapt.neighbours = self.neighbours.unwrap_or(adapt.neighbours);
        adapt.closer_than = self.closer_than.unwrap_or(adapt.closer_than);
        adapt.tiles = self.gallery_tiles.filter(|_| adapt.target.gallery().is_some());
        adapt.overrides = self.overrides(trained);
        adapt
    }
}

impl AdaptArgs {
    /// Refuses options that would have no effect. With `--adapt none` none has: it switches off what it is added to.
    fn check_effects(&self, is_adapter_given: bool) -> Result<()> {
        self.remote.check(self.gallery.as_deref())?;
        if self.gallery.is_some() || self.adapt == Some(Mode::None) {
            return Ok(());
        }
        let query = self.query.map(|_| "--query");
        if let Some(option) = self.settings.of_search().or(query) {
            return Err(Error::config(format!("{option} has no effect without --gallery FOLDER, which it needs")));
        }
        let how = [(self.lora.is_some(), "--lora"), (self.full, "--full")];
        let how = how.into_iter().find(|(given, _)| *given).map(|(_, name)| name);
        match self.settings.of_training().or(how) {
            Some(option) if self.adapt.is_none() => Err(Error::config(match is_adapter_given {
                true => format!("{option} has no effect: without --gallery FOLDER an adapter is used as it is"),
                false => format!("{option} has no effect: nothing is adapted without --gallery FOLDER or --adapt self"),
            })),
            _ => Ok(()),
        }
    }

    /// The adaptation asked for, if any.
    pub fn request(&self, preset: Preset) -> Result<Option<Adapt>> {
        self.check_effects(false)?;
        self.made(preset)
    }

    fn made(&self, preset: Preset) -> Result<Option<Adapt>> {
        let mode = self.adapt.unwrap_or(match (&self.gallery, preset) {
            (None, _) => Mode::None,
            (Some(_), Preset::Paper) => Mode::Gallery,
            (Some(_), _) => Mode::Auto,
        });
        if (mode == Mode::Text) != self.prompt.is_some() {
            return Err(Error::config("--prompt and --adapt text need each other"));
        }
        let gallery = || {
            let gallery = self.gallery.clone();
            gallery.ok_or_else(|| Error::config("--adapt auto, gallery or text needs --gallery FOLDER"))
        };
        let (target, keep) = match mode {
            Mode::None => return Ok(None),
            Mode::Itself => (Target::Itself, Keep::Always),
            Mode::Gallery => (Target::Gallery(gallery()?), Keep::Always),
            Mode::Auto => (Target::Gallery(gallery()?), Keep::IfHeldOutImproves),
            Mode::Text => {
                let prompt = self.prompt.clone().unwrap_or_default();
                (Target::Text { gallery: gallery()?, prompt }, Keep::Always)
            }
        };
        let mut adapt = self.settings.request(target, keep, self.trained(preset));
        adapt.use_cache = !self.no_cache;
        adapt.query = match self.query {
            Some(_) if !matches!(adapt.target, Target::Gallery(_)) => {
                return Err(Error::config(
                    "--query has no effect: images are not chosen by their likeness to the observation",
                ));
            }
            Some(Likeness::First) => Query::Restoration,
            Some(Likeness::Both) => Query::Both,
            Some(Likeness::Y) | None => Query::Observation,
        };
        Ok(Some(adapt))
    }

    /// An adaptation to all images of a folder.
    pub fn to_archive(&self, folder: &Path, preset: Preset) -> Adapt {
        let target = Target::Archive(folder.to_owned());
        let mut adapt = self.settings.request(target, Keep::IfHeldOutImproves, self.trained(preset));
        adapt.use_cache = !self.no_cache;
        adapt
    }

    fn trained(&self, preset: Preset) -> Option<Trained> {
        match (self.lora, self.full) {
            (Some(rank), _) => Some(Adapt::factors(rank, preset)),
            (None, true) => Some(Trained::Full),
            (None, false) => None,
        }
    }

    /// The use of an adapter that is there, refined if there is something to refine it on.
    pub fn refining(&self, adapter: &Path, preset: Preset) -> Result<Adapt> {
        self.check_effects(true)?;
        if self.adapt == Some(Mode::None) {
            return Err(Error::config(
                "--adapt none uses no adapted weights, --adapter those of an adapter: give one of them",
            ));
        }
        if self.adapt == Some(Mode::Auto) && self.gallery.is_none() {
            let target = Target::Adapter(adapter.to_owned());
            return Ok(self.settings.request(target, Keep::IfHeldOutImproves, None));
        }
        let Some(mut adapt) = self.made(preset)? else {
            let target = Target::Adapter(adapter.to_owned());
            return Ok(self.settings.request(target, Keep::Always, None));
        };
        adapt.start = Some(adapter.to_owned());
        adapt.overrides.trained.get_or_insert(Adapt::factors(16, preset));
        if adapt.overrides.minutes.is_none() {
            adapt.overrides.iterations.get_or_insert(REFINING);
        }
        Ok(adapt)
    }

    /// An engine that keeps adapters and indexes where the user wants them.
    pub fn engine(&self, builder: EngineBuilder) -> EngineBuilder {
        let builder = self.remote.engine(self.settings.engine(builder), &self.store, self.no_cache);
        engine_with(builder, &self.store, self.no_cache)
    }
}

/// An engine that keeps adapters and indexes in that store; with `no_cache` it only knows adapters by their names.
pub fn engine_with(builder: EngineBuilder, store: &Store, no_cache: bool) -> EngineBuilder {
    match store.find() {
        Some(cache) if no_cache => builder.cache(NamedAdapters(cache)),
        Some(cache) => builder.cache(cache),
        None => builder,
    }
}

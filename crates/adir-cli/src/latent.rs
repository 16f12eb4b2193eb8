//! What the commands for latent diffusion models share.

use std::path::PathBuf;
use std::time::Instant;

use adir::compute::WeightPrecision;
use adir::engine::{Engine, LatentAdapt, LatentAdaptationRecord, LatentRequest};
use adir::latent::{LatentPreset, LatentTraining, Solver};
use adir::models::latent_speed;
use adir::models::stable_diffusion::LatentFiles;
use adir::optim::AdaptedLayers;
use adir::task::Preset;
use adir::{Error, Result};
use clap::{Args, ValueEnum};

use crate::cost;
use crate::log::Log;
use crate::model::named;
use crate::seed::Seed;
use adir_web::report::LatentReport;

/// Steps of [`Sampler::Dpm`] where none are given.
const DPM_STEPS: usize = 25;

/// The sampler of a latent diffusion model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sampler {
    /// DDIM; with --eta it adds fresh noise
    Ddim,
    /// DPM-Solver++ of second order, in 25 steps unless --steps says otherwise
    Dpm,
}

/// How to sample with a latent diffusion model.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Stable Diffusion")]
pub struct LatentArgs {
    /// What the result should not show
    #[arg(long, value_name = "TEXT")]
    pub negative_prompt: Option<String>,
    /// How strongly the prompt counts, 1 to 100; above 1 each step takes two passes of the network, unless there is no
    /// prompt [default: 9 for sr4, 7.5 for edit]
    #[arg(long, value_name = "SCALE")]
    pub guidance_scale: Option<f64>,
    /// How the sampler goes down the noise levels [default: ddim]
    #[arg(long, value_enum, value_name = "SAMPLER")]
    pub sampler: Option<Sampler>,
    /// Use the weights averaged during training (EMA), where a single file holds them beside the others
    #[arg(long)]
    pub ema: bool,
    /// Precision in which the weights are kept in memory; computation is always in f32. f16 and bf16 take half the
    /// memory; file keeps the precision of the file [default: f32]
    #[arg(long, value_name = "PRECISION", value_parser = named::<WeightPrecision>(WeightPrecision::ALL.map(|(_, name)| name)))]
    pub weights_dtype: Option<WeightPrecision>,
}

impl LatentArgs {
    /// The options that were given.
    fn given(&self) -> Option<&'static str> {
        [
            (self.negative_prompt.is_some(), "--negative-prompt"),
            (self.guidance_scale.is_some(), "--guidance-scale"),
            (self.sampler.is_some(), "--sampler"),
            (self.ema, "--ema"),
            (self.weights_dtype.is_some(), "--weights-dtype"),
        ]
        .into_iter()
        .find_map(|(given, option)| given.then_some(option))
    }

    /// `request` sampled so, with the settings of a preset, and in `steps` where these are given.
    pub fn applied(
        &self,
        request: LatentRequest,
        preset: Preset,
        steps: Option<&str>,
        eta: Option<f64>,
    ) -> Result<LatentRequest> {
        let mut request = request.with_preset(preset);
        request.averaged = self.ema;
        request.weights = self.weights_dtype.unwrap_or_default();
        request.negative_prompt = self.negative_prompt.clone().unwrap_or_default();
        let sampling = &mut request.sampling;
        if let Some(scale) = self.guidance_scale {
            sampling.scale = scale;
        }
        sampling.solver = match (self.sampler.unwrap_or(Sampler::Ddim), eta) {
            (Sampler::Ddim, eta) => Solver::Ddim { eta: eta.unwrap_or(0.0) },
            (Sampler::Dpm, None) => Solver::Dpm,
            (Sampler::Dpm, Some(_)) => return Err(Error::config("--eta has no effect with --sampler dpm")),
        };
        if sampling.solver == Solver::Dpm {
            sampling.steps = DPM_STEPS;
        }
        if let Some(steps) = steps {
            let number = steps.parse().map_err(|_| Error::config(format!("--steps {steps}: expected a whole number")));
            sampling.steps = number?;
        }
        Ok(request)
    }
}

/// What images are nearest to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Query {
    /// The picture; the adapted weights are used only if they denoise held-out crops better
    Auto,
    /// The picture, without that check
    Gallery,
    /// The prompt, without that check (needs a CLIP --encoder)
    Text,
}

/// Adaptation of a latent diffusion model to the nearest images of a gallery.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Adaptation")]
pub struct LatentAdaptArgs {
    /// Folder of images, or an index made by `adir index`; low-rank factors are trained on the nearest of them
    #[arg(long, value_name = "FOLDER")]
    pub gallery: Option<PathBuf>,
    /// What the images are nearest to, and whether the result is checked [default: auto; with the preset paper: gallery]
    #[arg(long, value_enum, value_name = "MODE")]
    pub adapt: Option<Query>,
    /// Image encoder: a CLIP model (file, folder, or ORG/NAME as pulled) [default: the embedded EfficientNet-Lite0]
    #[arg(long, value_name = "WEIGHTS", value_parser = crate::hub::model_path())]
    pub encoder: Option<PathBuf>,
    /// Number of nearest images [default: 50]
    #[arg(short = 'k', long, value_name = "K")]
    pub neighbours: Option<usize>,
    /// Training steps [default: those of the paper, 1000]
    #[arg(long, value_name = "N")]
    pub iterations: Option<u32>,
    /// Train for about this many minutes; the resulting number of steps is kept, so that the same command repeats it
    #[arg(long, visible_alias = "minutes", conflicts_with = "iterations", value_name = "M")]
    pub adapt_minutes: Option<f64>,
    /// Train low-rank factors of this rank [default: rank 16; with the preset paper: all weights]
    #[arg(long, value_name = "RANK")]
    pub lora: Option<usize>,
    /// Train all weights
    #[arg(long, conflicts_with_all = ["lora", "adapt_attention", "save_adapter"])]
    pub full: bool,
    /// Give factors to the linear layers of attention, too
    #[arg(long)]
    pub adapt_attention: bool,
    /// Learning rate [default: 1e-6]
    #[arg(long, value_name = "RATE")]
    pub adapt_rate: Option<f64>,
    /// Side of the crops in pixels [default: 512]
    #[arg(long, value_name = "PIXELS")]
    pub adapt_crop: Option<usize>,
    /// Crops per step [default: 6]
    #[arg(long, value_name = "N")]
    pub adapt_batch: Option<usize>,
    /// Decay of the moving average of the factors [default: 0]
    #[arg(long, value_name = "DECAY")]
    pub adapt_ema: Option<f64>,
    /// Seed of crops, masks, timesteps and noise of the training, -1 to draw one [default: 0]
    #[arg(long, value_name = "SEED")]
    pub adapt_seed: Option<Seed>,
    /// Add the low-rank factors of this file first: of diffusers, PEFT or kohya's scripts
    #[arg(long, value_name = "FILE")]
    pub adapter: Option<PathBuf>,
    /// Write the trained factors, as diffusers reads them (.safetensors)
    #[arg(long, value_name = "FILE", requires = "gallery")]
    pub save_adapter: Option<PathBuf>,
}

impl LatentAdaptArgs {
    /// `request` with the adaptation, trained as its preset where nothing else is said.
    pub fn applied(&self, request: LatentRequest) -> Result<LatentRequest> {
        let mut request = request;
        let LatentPreset { training: preset, neighbours, if_better, .. } = request.settings();
        request.lora.clone_from(&self.adapter);
        let Some(gallery) = &self.gallery else {
            let given = [
                (self.adapt.is_some(), "--adapt"),
                (self.neighbours.is_some(), "--neighbours"),
                (self.iterations.is_some(), "--iterations"),
                (self.adapt_minutes.is_some(), "--adapt-minutes"),
                (self.lora.is_some(), "--lora"),
                (self.full, "--full"),
                (self.adapt_attention, "--adapt-attention"),
                (self.adapt_rate.is_some(), "--adapt-rate"),
                (self.adapt_crop.is_some(), "--adapt-crop"),
                (self.adapt_batch.is_some(), "--adapt-batch"),
                (self.adapt_ema.is_some(), "--adapt-ema"),
                (self.adapt_seed.is_some(), "--adapt-seed"),
                (self.encoder.is_some(), "--encoder"),
            ];
            let given = given.into_iter().find_map(|(given, option)| given.then_some(option));
            return match given {
                Some(option) => Err(Error::config(format!("{option} has no effect without --gallery"))),
                None => Ok(request),
            };
        };
        let query = self.adapt.unwrap_or(if if_better { Query::Auto } else { Query::Gallery });
        if query == Query::Text && request.prompt.is_empty() {
            return Err(Error::config("--adapt text needs a --prompt"));
        }
        let training = LatentTraining {
            iterations: self.iterations.unwrap_or(preset.iterations),
            full: self.full || preset.full && self.lora.is_none() && !self.adapt_attention,
            rank: self.lora.unwrap_or(preset.rank),
            layers: if self.adapt_attention { AdaptedLayers::ConvolutionsAndLinear } else { preset.layers },
            rate: self.adapt_rate.unwrap_or(preset.rate),
            ema: self.adapt_ema.unwrap_or(preset.ema),
            batch: self.adapt_batch.unwrap_or(preset.batch),
            crop: self.adapt_crop.unwrap_or(preset.crop),
            held_out: query == Query::Auto || preset.held_out,
            seed: self.adapt_seed.unwrap_or_default().value,
            ..preset
        };
        let neighbours = self.neighbours.unwrap_or(neighbours);
        let training = match request.preset {
            Preset::Paper => training.with_crops_as_drawn(neighbours),
            _ => training,
        };
        request.adapt = Some(LatentAdapt {
            gallery: gallery.clone(),
            neighbours,
            exclude: Vec::new(),
            by_text: query == Query::Text,
            if_better: query == Query::Auto,
            training,
            minutes: self.adapt_minutes,
            save: self.save_adapter.clone(),
        });
        Ok(request)
    }
}

/// What the x4 upscaler can do besides.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Stable Diffusion")]
pub struct UpscalerArgs {
    #[command(flatten)]
    pub common: LatentArgs,
    /// Level of the noise that the x4 upscaler adds to the observation, 0 to 350: the higher, the more it invents
    /// [default: 20]
    #[arg(long, value_name = "LEVEL")]
    pub noise_level: Option<usize>,
    /// Move the result of the x4 upscaler to the nearest image that agrees with the observation
    #[arg(long)]
    pub match_observation: bool,
    /// Take the coarse colours of the x4 upscaler's result from the observation
    #[arg(long)]
    pub match_colours: bool,
    /// Give factors to the linear layers of attention, too, when the x4 upscaler is adapted
    #[arg(long)]
    pub adapt_attention: bool,
    /// Write the factors that the x4 upscaler was adapted by, as diffusers reads them (.safetensors)
    #[arg(long, value_name = "FILE", requires = "gallery")]
    pub save_adapter: Option<PathBuf>,
}

impl UpscalerArgs {
    /// Refuses them for other models.
    pub fn refuse(&self) -> Result<()> {
        let own = [
            (self.noise_level.is_some(), "--noise-level"),
            (self.match_observation, "--match-observation"),
            (self.match_colours, "--match-colours"),
            (self.adapt_attention, "--adapt-attention"),
            (self.save_adapter.is_some(), "--save-adapter"),
        ];
        let given = own.into_iter().find_map(|(given, option)| given.then_some(option)).or(self.common.given());
        given.map_or(Ok(()), |option| {
            Err(Error::config(format!(
                "{option} is for Stable Diffusion's x4 upscaler (--model FOLDER), not for this model"
            )))
        })
    }
}

/// Carries out a latent request, or explains it.
pub fn run(
    engine: &Engine,
    files: LatentFiles,
    request: &LatentRequest,
    explain: bool,
    seed_drawn: bool,
    log: &Log,
) -> Result<u8> {
    let started = Instant::now();
    let plan = engine.plan_latent_with(files, request)?;
    if explain {
        plan.warnings().iter().for_each(|warning| log.warn(warning));
        say!("{plan}")?;
        let (training, minutes) = (plan.training_products(), plan.adaptation_minutes());
        cost::say_indexing(engine, plan.gallery().map(|gallery| (gallery, None)))?;
        cost::say_time(latent_speed(engine.compute())?, plan.products(), training, minutes)?;
        return Ok(crate::exit::DONE);
    }
    if seed_drawn {
        log.info(&format!("seed {}", request.seed));
    }
    plan.to_string().lines().for_each(|line| log.detail(line));
    let watcher = log.watcher();
    let restored = engine.run_latent(&plan, &|event| watcher.see(event));
    watcher.finish();
    if matches!(restored, Err(Error::Interrupted)) {
        let goes_on = if watcher.kept() { "goes on from here" } else { "begins anew" };
        log.warn(&format!("stopped: no result is written; the same command {goes_on}"));
    }
    let mut restored = restored?;
    restored.save(engine, &plan)?;
    if let Some(LatentAdaptationRecord { outcome: Some(found), used: true, from_cache, .. }) =
        &restored.record.adaptation
    {
        let from = if *from_cache { "found in the cache, nothing was trained: " } else { "" };
        let (before, after, error) = (found.before, found.after, found.error);
        log.info(&format!(
            "adaptation: {from}the loss on held-out crops went from {before:.4} to {after:.4} (+- {error:.4})"
        ));
    }
    let seconds = started.elapsed().as_secs_f64();
    let agreement = restored.record.agreement_psnr.map(|found| format!(", agrees with the observation to {found}"));
    let output = request.output.as_ref();
    let name = plan.outputs().map_or_else(String::new, |outputs| outputs.image.display().to_string());
    if let Some(path) = output.and_then(|output| output.report.as_ref()) {
        let (findings, warnings) = (restored.findings(&plan)?, watcher.warnings());
        let findings = findings.as_ref();
        LatentReport { plan: &plan, restored: &restored, findings, warnings: &warnings, name: &name }.write(path)?;
    }
    log.info(&format!("{name}: {seconds:.1} s{}", agreement.unwrap_or_default()));
    Ok(crate::exit::DONE)
}

//! `adir train`: trains a prior on your own photographs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adir::compute::Precision;
use adir::compute::Workers;
use adir::io::atomic::{self, check_outputs};
use adir::io::ending::{Written, check_ending};
use adir::io::folder::check_folder;
use adir::io::image::{ImageFormat, WriteOptions, write_image};
use adir::io::limits::Limits;
use adir::io::plain::one_line;
use adir::io::tally::counted;
use adir::io::weights::WeightFile;
use adir::models::guided_diffusion::{UNetConfig, config_of};
use adir::models::{Denoiser, Prior};
use adir::noise::{Noise, Stream};
use adir::optim::LevelWeights;
use adir::sampler::{AncestralConfig, Chain, Inputs, initial_noise};
use adir::schedule::Respacing;
use adir::tensor::{self, Compute, DType, Tensor, is_cpu};
use adir::train::{Collection, LEVELS, Length, Photographs, Tiles, TrainConfig, Trainer, Validation};
use adir::{Error, Result};
use clap::Args;
use serde_json::json;

use super::train_run::{RunOptions, RunSettings};
use crate::args::words;
use crate::log::Log;
use crate::memory;
use crate::model::precision;
use crate::seed::Seed;

/// Files left out that are shown one by one; the rest is counted.
const SHOWN: usize = 20;

/// Train a prior on your own photographs.
///
/// Writes the averaged weights (f16 safetensors, for `restore --model`), a model card (.md) and a checkpoint
/// (.checkpoint) from which `--resume` continues. Stop at any time with Ctrl-C. One photograph in 25 is held out for
/// measuring.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Folder of photographs (PNG, JPEG, WebP, TIFF, FITS, OpenEXR, JPEG XL, AVIF), including subfolders
    folder: PathBuf,
    /// Where to write the prior (.safetensors)
    #[arg(short, long)]
    output: PathBuf,
    /// Length of the training in minutes, over all runs
    #[arg(long, conflicts_with = "steps", value_name = "M")]
    minutes: Option<f64>,
    /// Length of the training in steps, over all runs; repeatable to the bit [default: 20000]
    #[arg(long, value_name = "N")]
    steps: Option<u32>,
    /// Continue from the checkpoint beside OUTPUT with its settings, --memory, --tiles, --validation-crops and --sheet among
    /// them; --minutes or --steps change the length
    #[arg(long, conflicts_with_all = ["init", "overwrite", "model_config", "crop", "batch", "micro_batch", "learning_rate", "warm_up", "ema", "p2_gamma", "p2_k", "seed"])]
    resume: bool,
    /// Start from these weights instead of random ones
    #[arg(long, value_name = "WEIGHTS")]
    init: Option<PathBuf>,
    /// Network configuration (JSON, guided-diffusion's names) [default: that of the embedded prior, 10 million parameters]
    #[arg(long, value_name = "JSON")]
    model_config: Option<PathBuf>,
    /// Side of the crops in pixels
    #[arg(long, default_value_t = 64, value_name = "PIXELS")]
    crop: usize,
    /// Crops per step
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Crops computed at once; fewer need less memory [default: 4 on the CPU, all elsewhere]
    #[arg(long, value_name = "N")]
    micro_batch: Option<usize>,
    /// Highest learning rate
    #[arg(long, default_value_t = 4e-4, value_name = "RATE")]
    learning_rate: f64,
    /// Warm-up steps until the highest learning rate
    #[arg(long, default_value_t = 500, value_name = "STEPS")]
    warm_up: u32,
    /// Decay of the moving average of the weights, which is written
    #[arg(long, default_value_t = 0.9995, value_name = "DECAY")]
    ema: f64,
    /// Exponent of the loss weight 1 / (K + SNR)^GAMMA per noise level (P2 weighting); above 0, strong noise counts
    /// more
    #[arg(long, default_value_t = 0.0, value_name = "GAMMA")]
    p2_gamma: f64,
    /// K of the loss weight; it bounds the weight of the strongest noise
    #[arg(long, default_value_t = 1.0, value_name = "K")]
    p2_k: f64,
    /// Random seed of initial weights, crops, timesteps and noise; -1 draws one, which the model card holds
    #[arg(long, default_value_t)]
    seed: Seed,
    /// Memory for photographs in GB; if they do not fit, a random part is used [default: 4]
    #[arg(long, value_name = "GB")]
    memory: Option<f64>,
    /// Whether files NAME_ROW_COLUMN.* are tiles of one photograph, which is trained on or held out whole: always, never,
    /// or auto (if their numbers count from 0 without leading zeros, unlike dates and scans) [default: auto]
    #[arg(long, value_name = "WHEN", value_parser = words::<Tiles>(TILES))]
    tiles: Option<Tiles>,
    /// Minutes between checkpoints
    #[arg(long, default_value_t = 5.0, value_name = "MINUTES")]
    checkpoint_every: f64,
    /// Held-out crops for the final measurement [default: 512]
    #[arg(long, value_name = "N")]
    validation_crops: Option<usize>,
    /// Also write 16 unconditional samples to this image
    #[arg(long, value_name = "IMAGE")]
    sheet: Option<PathBuf>,
    /// Device: cpu, or in builds with that feature cuda, vulkan, metal or rocm; append :N for the N-th, counted from 0
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Precision the network computes in; weights stay in f32
    #[arg(long, default_value = "f32", value_parser = precision())]
    dtype: Precision,
    /// Replace existing outputs
    #[arg(long)]
    overwrite: bool,
}

pub fn run(args: &TrainArgs, log: &Log) -> Result<u8> {
    let checkpoint = args.output.with_extension("checkpoint");
    let card = args.output.with_extension("md");
    let (mut trainer, settings) = args.trainer(&checkpoint, &card, log)?;
    let config = trainer.config().clone();
    let photographs = args.photographs(&config, &settings, log)?;
    log.info(&format!(
        "{} to train on, {} held out; {} parameters",
        counted(photographs.training.len(), "image"),
        photographs.held_out.len(),
        trainer.params().layout().element_count()
    ));

    train(&mut trainer, &photographs, &checkpoint, args, log)?;

    let known = if config.network.is_blind_to_means() {
        Some(photographs.training.image_mean(config.crop, config.seed)?)
    } else {
        None
    };
    let model = trainer.averaged().with_image_mean(known);
    let validation = validate(&model, &photographs.held_out, settings.validation_crops, config.crop, log)?;
    let model = model.with_errors(validation.errors.clone());
    // How long it took is in the card: the weights are the same bytes however fast the machine is.
    let notes = BTreeMap::from([("held_out_simple".to_owned(), format!("{:.5}", validation.loss))]);
    trainer.save_model(&model, &args.output, &notes)?;
    write_card(&card, &card_text(args, &trainer, &photographs, &validation))?;
    if let Some(path) = &settings.sheet {
        let side = (2 * config.crop).next_multiple_of(config.network.size_multiple()).min(128.max(config.crop));
        write_image(path, &sheet(&model, side, log)?, &WriteOptions::default())?;
    }
    log.info(&format!(
        "{}: {}, {:.1} minutes, held-out loss {:.5}",
        args.output.display(),
        counted(trainer.steps() as usize, "step"),
        trainer.seconds() / 60.0,
        validation.loss
    ));
    Ok(crate::exit::DONE)
}

impl TrainArgs {
    /// What options say of the photographs and of the end.
    fn run_options(&self) -> RunOptions<'_> {
        let Self { memory, tiles, validation_crops, sheet, .. } = self;
        let folder = self.folder.canonicalize().ok().map(|folder| folder.to_string_lossy().into_owned());
        RunOptions {
            memory: *memory,
            tiles: *tiles,
            validation_crops: *validation_crops,
            sheet: sheet.as_deref(),
            folder,
        }
    }

    /// The training, new or continued, once its files may be written, and what beside it decides the run.
    fn trainer(&self, checkpoint: &Path, card: &Path, log: &Log) -> Result<(Trainer, RunSettings)> {
        check_folder(&self.folder)?;
        check_ending(&self.output, Written::Weights)?;
        let every = self.checkpoint_every;
        if !(0.0..=1e6).contains(&every) {
            return Err(Error::config(format!("--checkpoint-every {every}: expected 0 to 1000000 minutes")));
        }
        if self.dtype == Precision::F64 {
            return Err(Error::config("--dtype f64: not supported in training; use f32"));
        }
        let compute = Compute::named(&self.device, self.dtype)?;
        let fits = |config: &TrainConfig| match is_cpu(&compute.device) {
            true => memory::check(config.memory(Workers::available())?),
            false => Ok(()),
        };
        if !self.resume {
            let run = RunSettings::new(&self.run_options());
            self.check_run(&run, checkpoint, card)?;
            let settings = self.settings()?;
            fits(&settings)?;
            let mut trainer = Trainer::new(settings, self.initial(&compute)?, &compute)?;
            trainer.keep_note(run.to_json()?);
            return Ok((trainer, run));
        }
        let mut trainer = Trainer::resume(&WeightFile::open(checkpoint)?, &compute)?;
        let run = RunSettings::resumed(trainer.note(), &self.run_options())?;
        self.check_run(&run, checkpoint, card)?;
        if let Some(message) = RunSettings::moved(trainer.note(), &self.run_options()) {
            log.warn(&message);
        }
        trainer.keep_note(run.to_json()?);
        fits(trainer.config())?;
        if let Some(length) = self.length()? {
            trainer.set_length(length)?;
        }
        Ok((trainer, run))
    }

    /// Refuses outputs that may not be written, and numbers that nothing can have.
    fn check_run(&self, run: &RunSettings, checkpoint: &Path, card: &Path) -> Result<()> {
        let inputs = [Some(&self.folder), self.init.as_ref(), self.model_config.as_ref()].into_iter().flatten();
        let inputs: Vec<&Path> = inputs.map(PathBuf::as_path).collect();
        let outputs: Vec<&Path> =
            [self.output.as_path(), card, checkpoint].into_iter().chain(run.sheet.as_deref()).collect();
        if let Some(sheet) = &run.sheet {
            ImageFormat::from_path(sheet)?;
        }
        check_outputs(&inputs, &outputs, self.overwrite || self.resume).map_err(|e| match e {
            Error::Config(message) if !self.overwrite && !self.resume && checkpoint.is_file() => {
                Error::config(format!("{message}, or continue that training with --resume"))
            }
            other => other,
        })?;
        check_crops("--validation-crops", run.validation_crops)?;
        memory_bytes(run.memory).map(drop)
    }

    fn photographs(&self, config: &TrainConfig, run: &RunSettings, log: &Log) -> Result<Collection> {
        let reading = log.progress("", "reading photographs", 0);
        let bytes = memory_bytes(run.memory)?;
        let photographs =
            Collection::read(&self.folder, config.crop, bytes, &Limits::default(), run.tiles, |done, all| {
                reading.at(done, all);
                log.check()
            })?;
        drop(reading);
        warn_of_left_out(&photographs, log);
        photographs.check_trainable(&self.folder)?;
        if photographs.share < 1.0 {
            log.warn(&format!("only {} of the photographs fit into memory: see --memory", photographs.share));
        }
        Ok(photographs)
    }

    fn length(&self) -> Result<Option<Length>> {
        Ok(match (self.minutes, self.steps) {
            (Some(minutes), _) if !(minutes > 0.0 && minutes <= 1e6) => {
                return Err(Error::config(format!("--minutes {minutes}: expected more than 0 and at most 1000000")));
            }
            (Some(minutes), _) => Some(Length::Seconds(60.0 * minutes)),
            (None, Some(steps)) => Some(Length::Steps(steps)),
            (None, None) => None,
        })
    }

    fn settings(&self) -> Result<TrainConfig> {
        let network = match (&self.model_config, &self.init) {
            (Some(path), _) => UNetConfig::read(path)?,
            (None, Some(path)) => {
                let (file, config) = Prior::open_weights(path, None)?;
                config.map_or_else(|| config_of(&file), Ok).map_err(|e| Error::model(path, e.to_string()))?
            }
            (None, None) => config_of(&Prior::embedded_file()?)?,
        };
        let micro_batch = self.micro_batch.unwrap_or(if self.device == "cpu" { 4 } else { self.batch });
        Ok(TrainConfig {
            crop: self.crop,
            batch: self.batch,
            micro_batch,
            learning_rate: self.learning_rate,
            warm_up: self.warm_up,
            ema: self.ema,
            level_weights: LevelWeights { k: self.p2_k, gamma: self.p2_gamma },
            seed: self.seed.value,
            ..TrainConfig::new(network, self.length()?.unwrap_or(Length::Steps(20_000)))
        })
    }

    fn initial(&self, compute: &Compute) -> Result<Option<adir::models::params::Params>> {
        let Some(path) = &self.init else { return Ok(None) };
        let compute = Compute { dtype: DType::F32, ..compute.clone() };
        let model = Prior::load(&WeightFile::open(path)?, Some(self.settings()?.network), &compute)?;
        Ok(Some(model.params().clone()))
    }
}

/// Bytes for that many GB of photographs.
fn memory_bytes(memory: f64) -> Result<usize> {
    if memory.is_finite() && memory > 0.0 && memory < 1e6 {
        Ok((memory * 1e9) as usize)
    } else {
        Err(Error::config(format!("--memory {memory}: expected a positive number of GB")))
    }
}

/// Refuses a number of crops to measure on that says no more than fewer would, and that no machine could hold.
pub fn check_crops(option: &str, crops: usize) -> Result<()> {
    const MOST: usize = 10_000_000;
    match crops {
        0 => Err(Error::config(format!("{option} 0: expected 1 or more"))),
        1..=MOST => Ok(()),
        _ => Err(Error::config(format!(
            "{option} {crops}: expected at most {MOST}; the losses of that many would take {:.1} GB of memory",
            crops as f64 * 16.0 / 1e9
        ))),
    }
}

/// The names of [`Tiles`].
pub const TILES: [&str; 3] = ["auto", "always", "never"];

/// Says what of a folder is not used.
pub fn warn_of_left_out(photographs: &Collection, log: &Log) {
    photographs.unseen.iter().for_each(|message| log.warn(message));
    for error in photographs.skipped.iter().take(SHOWN) {
        log.warn(&format!("left out: {error}"));
    }
    if photographs.skipped.len() > SHOWN {
        log.warn(&format!("left out: {}", counted(photographs.skipped.len() - SHOWN, "more file")));
    }
    if photographs.copies > 0 {
        log.warn(&format!("left out: {} with the same pixels as another one", counted(photographs.copies, "file")));
    }
}

/// Trains to the end, with a checkpoint every few minutes and when the user stops the program.
fn train(
    trainer: &mut Trainer,
    photographs: &Collection,
    checkpoint: &Path,
    args: &TrainArgs,
    log: &Log,
) -> Result<()> {
    let every = Duration::from_secs_f64(60.0 * args.checkpoint_every.max(0.01));
    let progress = log.progress("", "training", 1000);
    let (mut saved, mut begun) = (Instant::now(), Instant::now());
    let (mut losses, mut images) = (0.0, 0);
    let mut count = 0;
    while trainer.share() < 1.0 {
        let batch = trainer.draw(&photographs.training);
        let report = trainer.step(&batch)?;
        losses += report.loss;
        images += batch.len();
        count += 1;
        progress.at((report.share * 1000.0) as usize, 1000);
        if begun.elapsed() > Duration::from_secs(15) {
            let (loss, speed) = (losses / f64::from(count), images as f64 / begun.elapsed().as_secs_f64());
            let text = format!("step {}, loss {loss:.5}, {speed:.1} images/s", report.step);
            progress.tell(
                &text,
                &json!({"step": report.step, "loss": loss, "rate": report.rate, "images_per_s": speed,
                    "gradient_norm": report.gradient_norm, "minutes": trainer.seconds() / 60.0}),
            );
            (losses, images, count, begun) = (0.0, 0, 0, Instant::now());
        }
        let stopped = log.check();
        if stopped.is_err() || saved.elapsed() > every {
            trainer.save(checkpoint)?;
            saved = Instant::now();
        }
        if stopped.is_err() {
            log.warn(&format!(
                "stopped at step {}; continue with: adir train {} -o {} --resume",
                report.step,
                args.folder.display(),
                args.output.display()
            ));
            return stopped;
        }
    }
    trainer.save(checkpoint)
}

/// The losses of a network on held-out photographs.
pub fn validate(model: &Prior, held_out: &Photographs, crops: usize, side: usize, log: &Log) -> Result<Validation> {
    let progress = log.progress("", "measuring", crops);
    let mut losses = Vec::new();
    for some in Validation::run(model, held_out, crops, side) {
        losses.extend(some?);
        progress.at(losses.len(), crops);
        log.check()?;
    }
    Ok(Validation::of(&losses, side, &model.info().schedule))
}

/// 16 unconditional samples, 4 by 4, ancestral over 100 steps.
fn sheet(model: &Prior, side: usize, log: &Log) -> Result<Tensor<4>> {
    const ROWS: usize = 4;
    const STEPS: usize = 100;
    let schedule = model.info().schedule.respaced(&Respacing::Sections(vec![STEPS]))?;
    let config = AncestralConfig { variance: model.info().variance, clip_x0: true };
    let progress = log.progress("", "sampling", ROWS * ROWS * STEPS);
    let mut rows = Vec::new();
    for row in 0..ROWS {
        let mut images = Vec::new();
        for column in 0..ROWS {
            let noise = Noise::new((row * ROWS + column) as u64, Stream::Sampling);
            let mut x = initial_noise(&noise, [1, 3, side, side], &tensor::cpu(), DType::F32);
            for step in Chain::new(Inputs::new(model, &schedule, &noise), config, x.clone())? {
                x = step?.x_t;
                progress.step("", json!(null));
                log.check()?;
            }
            images.push(x);
        }
        rows.push(Tensor::cat(images, 3));
    }
    Ok(Tensor::cat(rows, 2))
}

fn write_card(path: &Path, text: &str) -> Result<()> {
    atomic::write(path, |file| file.write_all(text.as_bytes()).map_err(|e| Error::io(path, e)))
}

/// Model card with what the program knows; the user adds licences and limits.
fn card_text(args: &TrainArgs, trainer: &Trainer, photographs: &Collection, validation: &Validation) -> String {
    let config = trainer.config();
    let mut text = String::new();
    let name = args.output.file_name().unwrap_or_default().to_string_lossy();
    let name = one_line(&name);
    let _ = write!(
        text,
        "# {name}\n\nA diffusion prior made by `adir train` {version}: guided-diffusion U-Net, {parameters} parameters in f16.\n\n\
         - Data: {training} images or tiles from {folder}; {held_out} of other photographs held out. Licences: to be added by the publisher of this file.\n\
         - Recipe: {steps} steps of {batch} crops of {crop}x{crop}, AdamW at {rate:e} with warm-up over {warm_up} steps and \
         cosine decay, hybrid loss{weights}, average of the weights with decay {ema}; seed {seed}.\n\
         - Time: {minutes:.1} minutes on {device}, {dtype}.\n\
         - Network: `{network}`\n\n\
         Held-out l_simple on {crops} crops of {side}x{side}: **{loss:.5}**. By timestep:\n\n| t | l_simple |\n|---|---|\n",
        version = env!("CARGO_PKG_VERSION"),
        parameters = trainer.params().layout().element_count(),
        training = photographs.training.len(),
        folder = one_line(&args.folder.file_name().unwrap_or_default().to_string_lossy()),
        held_out = photographs.held_out.len(),
        steps = trainer.steps(),
        batch = config.batch,
        crop = config.crop,
        rate = config.learning_rate,
        warm_up = config.warm_up,
        ema = config.ema,
        weights = match config.level_weights {
            LevelWeights { gamma: 0.0, .. } => String::new(),
            LevelWeights { k, gamma } => format!(" with noise levels weighted by 1 / ({k} + SNR)^{gamma}"),
        },
        seed = config.seed,
        minutes = trainer.seconds() / 60.0,
        device = args.device,
        dtype = args.dtype,
        network = config.network.to_json(),
        crops = validation.crops,
        side = validation.side,
        loss = validation.loss,
    );
    let all = config.network.diffusion_steps;
    for (k, loss) in validation.levels.iter().enumerate() {
        let loss = loss.map_or_else(|| "no crops".into(), |loss| format!("{loss:.5}"));
        let _ = writeln!(text, "| {} to {} | {loss} |", k * all / LEVELS, (k + 1) * all / LEVELS - 1);
    }
    text
}

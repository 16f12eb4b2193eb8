//! `adir models`: what a weights file holds, and which networks the program knows.

use std::path::{Path, PathBuf};

use adir::adapt::Adapter;
use adir::engine::Engine;
use adir::io::atomic::check_outputs;
use adir::io::ending::{Written, check_ending};
use adir::io::folder::{check_folder, check_output_folder};
use adir::io::limits::Limits;
use adir::io::weights::{Dtype, WeightFile};
use adir::models::clip::{Clip, ClipInfo, Tokenizer};
use adir::models::stable_diffusion::{Architecture, LatentFiles, Purpose, write_random};
use adir::models::{Conditioning, Denoiser, DenoiserInfo, EstimateErrors, Network as _, Prior, PriorHeader};
use adir::noise::{Noise, Stream};
use adir::optim::save_params;
use adir::schedule::Timestep;
use adir::tensor::{self, DType};
use adir::train::{Collection, LEVELS, Tiles};
use adir::{Error, Result};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::args::words;
use crate::commands::hub::{self, PullArgs};
use crate::commands::train::{TILES, check_crops, validate, warn_of_left_out};
use crate::log::Log;
use crate::metrics;
use crate::model::ModelArgs;
use crate::out;
use crate::store::Store;

/// List the known networks, download models, show the contents of a weights file, or measure a network.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// List the networks that can be loaded, and the models in the cache that Hugging Face tools share
    List,
    Pull(PullArgs),
    /// Print where a model that was pulled lies
    Where {
        /// The model: ORG/NAME, ORG/NAME/FILE, either with @REVISION
        model: String,
    },
    /// Measure a network on the held-out photographs of a folder: the loss l_simple, in total and by timestep, and the error
    /// of its x0 estimates, by which restorations of noisy observations weigh the observation
    Measure {
        /// Folder of photographs, split as by `adir train`
        folder: PathBuf,
        #[command(flatten)]
        model: ModelArgs,
        /// Side of the crops in pixels
        #[arg(long, default_value_t = 64)]
        crop: usize,
        /// Number of crops
        #[arg(long, default_value_t = 512)]
        crops: usize,
        /// Whether files NAME_ROW_COLUMN.* are tiles of one photograph, as of `adir train`
        #[arg(long, default_value = "auto", value_name = "WHEN", value_parser = words::<Tiles>(TILES))]
        tiles: Tiles,
        /// Measure on the training photographs instead of the held-out ones
        #[arg(long)]
        used: bool,
        /// Measure with this adapter: a file, or a name or key shown by `adir adapt list`
        #[arg(long, value_name = "ADAPTER")]
        adapter: Option<PathBuf>,
        /// Write the model with that error in its metadata (.safetensors, f32)
        #[arg(long, value_name = "FILE", conflicts_with = "adapter")]
        write: Option<PathBuf>,
        /// Replace an existing FILE
        #[arg(long, requires = "write")]
        overwrite: bool,
        #[command(flatten)]
        store: Store,
    },
    /// Write a latent diffusion model with random weights, as a folder of diffusers. It restores nothing: with it commands,
    /// plans and the speed can be tried before a download
    Random {
        /// What the model is: x4-upscaler, ldm-sr, sd1-inpainting or sd2-inpainting
        #[arg(value_parser = PossibleValuesParser::new(Architecture::ALL.map(|(name, _)| name)))]
        architecture: String,
        /// The folder to write, which must be empty or missing; 1 to 4 GB, with --tiny 20 MB
        #[arg(short, long)]
        output: PathBuf,
        /// Keep the structure, and few channels
        #[arg(long)]
        tiny: bool,
        /// Random seed
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Show the contents of a weights file or of the embedded prior, and whether it denoises
    Info {
        #[command(flatten)]
        model: ModelArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Also denoise a test pattern; fails with a wrong configuration
        #[arg(long)]
        test: bool,
    },
}

/// Arguments of `models measure`.
struct Measure<'a> {
    folder: &'a Path,
    model: &'a ModelArgs,
    side: usize,
    crops: usize,
    tiles: Tiles,
    used: bool,
    adapter: Option<PathBuf>,
    write: Option<&'a Path>,
    overwrite: bool,
}

/// Prints the losses of a network on a folder of photographs, and keeps the errors of its estimates.
fn measure(args: &Measure, log: &Log) -> Result<u8> {
    if let Some(path) = args.write {
        check_ending(path, Written::Weights)?;
        check_outputs(&[args.folder], &[path], args.overwrite)?;
    }
    check_crops("--crops", args.crops)?;
    check_folder(args.folder)?;
    let prior = args.model.engine().build()?.prior(&|_| log.flow())?;
    let mut model = (*prior).clone();
    if let Some(path) = &args.adapter {
        let file = WeightFile::open(path)?;
        model = Adapter::load(&file, &prior)?.adapt(&prior, &Adapter::info(&file)?)?;
    }
    let multiple = model.info().size_multiple;
    if args.side == 0 || !args.side.is_multiple_of(multiple) {
        return Err(Error::config(format!("--crop {}: expected a multiple of {multiple}", args.side)));
    }
    let limits = Limits::default();
    let photographs = Collection::read(args.folder, args.side, 4 << 30, &limits, args.tiles, |_, _| log.check())?;
    warn_of_left_out(&photographs, log);
    let part = if args.used { &photographs.training } else { &photographs.held_out };
    if part.is_empty() {
        let other = if args.used { "without --used" } else { "with --used" };
        let message = format!("contains no photographs of this part; measure {other}");
        return Err(Error::input(args.folder, message));
    }
    let found = validate(&model, part, args.crops, args.side, log)?;
    let all = model.info().schedule.len();
    say!("l_simple {:.5} on {} crops of {side}x{side}", found.loss, found.crops, side = args.side)?;
    for (k, loss) in found.levels.iter().enumerate() {
        let loss = loss.map_or_else(|| "no crops".into(), |loss| format!("{loss:.6}"));
        say!("t {:>3} to {:>3}: {loss}", k * all / LEVELS, (k + 1) * all / LEVELS - 1)?;
    }
    for (ratio, error) in found.errors.iter().flat_map(EstimateErrors::entries) {
        say!("noise-to-signal ratio {ratio:.3e}: mean squared error of x0 {error:.3e}")?;
    }
    if let Some(path) = args.write {
        let model = model.with_errors(found.errors);
        save_params(path, model.params(), Dtype::F32, &model.metadata())?;
    }
    Ok(crate::exit::DONE)
}

/// A network with the right weights and configuration explains most of the noise in a smooth picture; one
/// whose heads or qkv order are wrong does not.
const WORKING_LOSS: f64 = 0.3;

pub fn run(args: &ModelsArgs, log: &Log) -> Result<u8> {
    match &args.command {
        ModelsCommand::List => {
            list()?;
            hub::list()?;
            Ok(crate::exit::DONE)
        }
        ModelsCommand::Random { architecture, output, tiny, seed } => {
            let known = Architecture::ALL.into_iter().find(|(name, _)| name == architecture);
            let (_, known) = known.ok_or_else(|| Error::config(format!("unknown architecture {architecture}")))?;
            check_ending(output, Written::Folder)?;
            check_output_folder(output)?;
            write_random(known, *tiny, *seed, output)?;
            log.info(&format!("{}: {architecture} with random weights", output.display()));
            Ok(crate::exit::DONE)
        }
        ModelsCommand::Pull(args) => hub::pull(args, log),
        ModelsCommand::Where { model } => hub::place(model, log),
        ModelsCommand::Info { model, json, test } => info(model, *json, *test, log),
        ModelsCommand::Measure { folder, model, crop, crops, tiles, used, adapter, write, overwrite, store } => {
            let find = |adapter: &PathBuf| store.find_adapter(adapter);
            let adapter = adapter.as_ref().map(find).transpose()?;
            measure(
                &Measure {
                    folder,
                    model,
                    side: *crop,
                    crops: *crops,
                    tiles: *tiles,
                    used: *used,
                    adapter,
                    write: write.as_deref(),
                    overwrite: *overwrite,
                },
                log,
            )
        }
    }
}

fn list() -> Result<()> {
    let prior = Prior::describe(&Prior::embedded_file()?, None)?;
    say!("embedded prior: guided-diffusion U-Net, {:.1} M parameters", prior.parameter_count() as f64 / 1e6)?;
    say!("recognised by names and shapes (--model FILE):")?;
    for name in [
        "256x256_diffusion_uncond.pt, lsun_bedroom.pt, lsun_cat.pt, lsun_horse.pt",
        "256x256_diffusion.pt, 512x512_diffusion.pt, 128x128_diffusion.pt, 64x64_diffusion.pt (with --class)",
        "ffhq_10m.pt",
    ] {
        say!("  {name}")?;
    }
    say!("recognised by their files (--model FOLDER of diffusers, or a single file):")?;
    for name in [
        "the x4 upscaler of Stable Diffusion and latent diffusion's super-resolution, for adir restore --task sr4",
        "the inpainting models of Stable Diffusion 1.5 and 2, for adir edit",
    ] {
        say!("  {name}")?;
    }
    say!("any other guided-diffusion U-Net needs its configuration (metadata, or a .json file beside it)")?;
    Ok(())
}

fn info(args: &ModelArgs, as_json: bool, test: bool, log: &Log) -> Result<u8> {
    if let Some(path) = &args.model
        && let Some(found) = LatentFiles::recognised(path, false)?
    {
        return latent_info(&found, as_json, test);
    }
    if let Some(path) = &args.model
        && let Some(found) = Clip::describe(path)?
    {
        return clip_info(path, &found, as_json, test);
    }
    let engine = args.engine().build()?;
    let (file, config) = engine.weights()?;
    let header = Prior::describe(&file, config);
    if let (Err(_), Some(path)) = (&header, &args.model)
        && let Some((what, metric, sha256)) = metrics::of_network(path)
    {
        if test {
            return Err(Error::config("--test denoises pixels, which the network of a metric does not"));
        }
        return metric_info(path, &what, &metric, &sha256, as_json);
    }
    let header = header?;
    let (config, layout) = (header.config(), header.network().layout());
    let loss = if test { Some(denoise(&engine, &file, &header, log)?) } else { None };
    let sha256 = file.sha256()?;
    if as_json {
        say!(
            "{}",
            json!({
                "model": engine.model_name(), "kind": "guided_diffusion", "sha256": sha256, "config": config,
                "parameters": layout.element_count(), "tensors": layout.specs().len(), "denoising_loss": loss,
                "metadata": file.metadata(),
            })
        )?;
    } else {
        say!("{}: guided-diffusion U-Net", out::name(&engine.model_name()))?;
        say!("  {} parameters in {} tensors", layout.element_count(), layout.specs().len())?;
        say!("  sha256 {sha256}")?;
        say!("  {}", config.map_or_else(String::new, adir::models::guided_diffusion::UNetConfig::to_json))?;
        for (key, value) in file.metadata().iter().filter(|(key, _)| *key != "config") {
            say!("  {key}: {value}")?;
        }
        if let Some(loss) = loss {
            say!("  denoising loss on a test pattern: {loss:.3} (a working network: below {WORKING_LOSS})")?;
        }
    }
    let broken = loss.is_some_and(|loss| loss.is_nan() || loss >= WORKING_LOSS);
    Ok(if broken { crate::exit::SOME_FAILED } else { crate::exit::DONE })
}

/// Shows that a file or folder is a CLIP model.
fn clip_info(path: &Path, found: &ClipInfo, as_json: bool, test: bool) -> Result<u8> {
    if test {
        return Err(Error::config("--test denoises pixels, which CLIP does not"));
    }
    let (name, ClipInfo { encoder, parameters, vocabulary, .. }) = (path.display().to_string(), found);
    let mut options = vec![format!("--encoder {name}")];
    if *vocabulary == Tokenizer::published().size() {
        options.push(format!("--metric clip-iqa={name}"));
    }
    match as_json {
        true => say!(
            "{}",
            json!({
                "model": name, "kind": "clip", "encoder": encoder.name, "dimension": encoder.dimension,
                "parameters": parameters, "for": options, "sha256": encoder.weights,
            })
        )?,
        false => say!(
            "{}: CLIP, {}\n  {parameters} parameters; embeddings of {} numbers\n  sha256 {}\n  for {}",
            out::name(&name),
            encoder.name,
            encoder.dimension,
            encoder.weights,
            out::name(&options.join(", and "))
        )?,
    }
    Ok(crate::exit::DONE)
}

/// Shows that a file is the network of a metric.
fn metric_info(path: &Path, what: &str, metric: &str, sha256: &str, as_json: bool) -> Result<u8> {
    let (name, option) = (path.display().to_string(), format!("--metric {metric}={}", path.display()));
    match as_json {
        true => say!("{}", json!({"model": name, "kind": what, "for": option, "sha256": sha256}))?,
        false => say!(
            "{}: {what}, the network of a metric ({} of adir compare and eval)\n  sha256 {sha256}",
            out::name(&name),
            out::name(&option)
        )?,
    }
    Ok(crate::exit::DONE)
}

/// Shows what a folder or a single file of Stable Diffusion holds.
fn latent_info(found: &LatentFiles, as_json: bool, test: bool) -> Result<u8> {
    if test {
        return Err(Error::config("--test denoises pixels, which no part of Stable Diffusion does"));
    }
    let (command, use_) = match found.purpose() {
        Purpose::Upscaling => ("adir restore --task sr4", "Stable Diffusion, super-resolution by 4"),
        Purpose::SuperResolution => ("adir restore --task sr4", "latent diffusion, super-resolution by 4"),
        _ => ("adir edit", "Stable Diffusion, filling in a part of an image"),
    };
    let parameters = [
        ("text encoder", found.text_parameters()),
        ("U-Net", found.unet().layout().element_count()),
        ("autoencoder", found.autoencoder().layout().element_count()),
    ];
    let (facts, sha256) = (found.facts(), found.hash()?);
    let (name, prediction) = (found.path().display().to_string(), format!("{:?}", facts.prediction).to_lowercase());
    let files: Vec<_> = found.files().iter().map(|file| file.display().to_string()).collect();
    if as_json {
        let parameters: serde_json::Map<_, _> = parameters
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(part, count)| (part.into(), json!(count)))
            .collect();
        let text = json!({
            "model": name, "kind": "stable_diffusion", "for": command, "sha256": sha256, "parameters": parameters,
            "prediction": prediction, "betas": facts.betas, "files": files,
        });
        say!("{text}")?;
        return Ok(crate::exit::DONE);
    }
    say!("{}: {use_} ({command})", out::name(&name))?;
    for (part, count) in parameters.into_iter().filter(|(_, count)| *count > 0) {
        say!("  {part}: {count} parameters")?;
    }
    say!("  sha256 of the U-Net {sha256}")?;
    say!("  predicts {prediction}, betas {} to {}, scaled linearly", facts.betas[0], facts.betas[1])?;
    files.iter().try_for_each(|file| say!("  {}", out::name(file)))?;
    Ok(crate::exit::DONE)
}

/// Mean squared error of the predicted noise on a soft test pattern half-way through the noise levels.
fn denoise(engine: &Engine, file: &WeightFile, header: &PriorHeader, log: &Log) -> Result<f64> {
    const SIDE: usize = 64;
    log.info("denoising a test pattern");
    let model = Prior::load(file, header.config().cloned(), engine.compute())?;
    let DenoiserInfo { channels, schedule, .. } = model.info();
    let side = SIDE.next_multiple_of(model.info().size_multiple);
    let pattern: Vec<f32> = (0..channels * side * side)
        .map(|i| {
            let (c, y, x) = (i / (side * side), i / side % side, i % side);
            let disc = (x as f32 - 24.0).hypot(y as f32 - 36.0) < 14.0 + 3.0 * c as f32;
            let ramp = (x + y) as f32 / (2 * side) as f32 - 0.5;
            if disc { 0.5 - 0.3 * c as f32 } else { ramp }
        })
        .collect();
    let shape = [1, *channels, side, side];
    let x0 = tensor::from_f32(pattern, shape, &tensor::cpu());
    let eps = Noise::new(0, Stream::Evaluation).normal_tensor(0, shape, &tensor::cpu(), DType::F32);
    let t = Timestep((schedule.original_len() / 2) as u16);
    let x_t = adir::optim::add_noise(schedule, &x0, &eps, t);
    let class = Conditioning::from(model.network().classes().map(|_| 0));
    let error = model.predict(&x_t, t, &class)?.eps - eps;
    Ok(tensor::to_f64(&(error.clone() * error).mean())?.iter().sum())
}

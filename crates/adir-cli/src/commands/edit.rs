//! `adir edit`: a part of a picture made anew by a text.

use std::path::PathBuf;

use adir::engine::{LatentRequest, OutputRequest, Region};
use adir::models::stable_diffusion::LatentFiles;
use adir::task::Preset;
use adir::{Error, Result};
use clap::Args;

use crate::args::{ReadArgs, preset};
use crate::latent::{self, LatentAdaptArgs, LatentArgs};
use crate::log::Log;
use crate::model::ModelArgs;
use crate::pipe;
use crate::seed::Seed;

/// Make a part of a picture anew, as a text says, with an inpainting model of Stable Diffusion.
///
/// All other pixels stay as they are, to the bit. The model is a folder as diffusers keeps it, or a single file.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// The picture
    input: PathBuf,
    /// Where to write the result (.png, .tif, .jpg, .webp); a record is written beside it
    #[arg(short, long)]
    output: PathBuf,
    /// The part to make anew: white; in an image of two colours, the one that is not black; if all colours are alike,
    /// the opaque pixels [default: what is transparent in the picture]
    #[arg(long, value_name = "IMAGE", conflicts_with = "region")]
    mask: Option<PathBuf>,
    /// The part to make anew, in pixels from the upper left corner
    #[arg(long = "box", value_name = "X,Y,WIDTH,HEIGHT", value_parser = region)]
    region: Option<[usize; 4]>,
    /// What the part should show
    #[arg(short, long, default_value = "", value_name = "TEXT")]
    prompt: String,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: LatentArgs,
    #[command(flatten)]
    adaptation: LatentAdaptArgs,
    /// Preset: fast (50 steps; an adaptation trains low-rank factors), or paper (settings of the paper's Table 4: 500 steps;
    /// an adaptation trains all weights)
    #[arg(long, default_value = "fast", value_parser = preset())]
    preset: Preset,
    /// Sampling steps [default: those of the preset, or 25 with dpm]
    #[arg(long, value_name = "N")]
    steps: Option<String>,
    /// Fresh noise per step of ddim, 0 to 1 [default: 0]
    #[arg(long)]
    eta: Option<f64>,
    /// Random seed; -1 draws one, which the record holds
    #[arg(long, default_value_t)]
    seed: Seed,
    /// Number of results with noise of their own, written as x.1.png, x.2.png ...
    #[arg(short = 'n', long, default_value_t = 1, value_name = "N")]
    samples: usize,
    /// Let the network see tiles of at most this many latents a side, 8 pixels each, overlapping and blended at every step
    #[arg(long, value_name = "LATENTS")]
    tile: Option<usize>,
    #[command(flatten)]
    read: ReadArgs,
    /// Keep no state of a run that is interrupted
    #[arg(long)]
    no_cache: bool,
    #[command(flatten)]
    store: crate::store::Store,
    /// Where to write the record [default: beside the result]
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Also write a page about the result that opens in any browser
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Replace existing outputs
    #[arg(long)]
    overwrite: bool,
    /// Check the request, print every setting and the memory needed, and stop
    #[arg(long, visible_alias = "plan")]
    explain: bool,
}

fn region(text: &str) -> Result<[usize; 4], String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(|part| part.trim().parse()).collect();
    let numbers = numbers.ok().and_then(|numbers| <[usize; 4]>::try_from(numbers).ok());
    numbers.ok_or_else(|| "expected four whole numbers: left, top, width, height".into())
}

pub fn run(args: &EditArgs, log: &Log) -> Result<u8> {
    for path in [&args.input, &args.output] {
        if pipe::is_pipe(path) {
            return Err(Error::config("edit takes files, not - for a pipe"));
        }
    }
    let Some(model) = &args.model.model else {
        return Err(Error::config("editing needs an inpainting model of Stable Diffusion: give --model FOLDER"));
    };
    let region = match (&args.mask, args.region) {
        (Some(mask), _) => Region::Mask(mask.clone()),
        (None, Some(region)) => Region::Box(region),
        (None, None) => Region::Transparent,
    };
    let averaged = args.sampling.ema;
    let files = if averaged { LatentFiles::open_averaged(model)? } else { LatentFiles::open(model)? };
    let request = LatentRequest::edit(&args.input, model, region);
    let mut request = args.sampling.applied(request, args.preset, args.steps.as_deref(), args.eta)?;
    request.reading = args.read.reading(None)?;
    request.prompt.clone_from(&args.prompt);
    request.seed = args.seed.value;
    request.samples = args.samples;
    request.tile = args.tile;
    let mut output = OutputRequest::new(&args.output, args.overwrite);
    (output.record, output.report) = (args.record.clone(), args.report.clone());
    request.output = Some(output);
    let request = args.adaptation.applied(request)?;
    let engine = args.model.engine();
    let engine = match &args.adaptation.encoder {
        Some(clip) => engine.clip(clip),
        None => engine,
    };
    let engine = crate::adaptation::engine_with(engine, &args.store, args.no_cache).build()?;
    latent::run(&engine, files, &request, args.explain, args.seed.drawn, log)
}

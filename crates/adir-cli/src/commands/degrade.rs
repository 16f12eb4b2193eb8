//! `adir degrade`: makes an observation y from an image x, for experiments.

use std::path::{Path, PathBuf};

use adir::evaluate::{observe, with_noise};
use adir::io::atomic::check_outputs;
use adir::io::image::{BitDepth, ImageFormat, Picture, WriteOptions, read_image_as, write_image};
use adir::io::light::Light;
use adir::io::limits::Limits;
use adir::operator::{Boundary, Degradation, ImageShape, Mask};
use adir::problem::Sigma;
use adir::task::Task;
use adir::units::NoiseLevel;
use adir::{Error, Result};
use clap::Args;

use crate::args::{DegradationArgs, ReadArgs};
use crate::log::Log;
use crate::seed::Seed;

/// Degrade an image x to an observation y = A x + e.
///
/// An alpha channel is brought to the size of y, and not degraded.
#[derive(Debug, Args)]
pub struct DegradeArgs {
    /// The image x
    input: PathBuf,
    /// Where to write y: 8 bits, or 32-bit float for .tif, .fits and .exr, which keeps values beyond black (0) and white (1,
    /// or those of --black and --white)
    #[arg(short, long)]
    output: PathBuf,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    degradation: DegradationArgs,
    /// Seed of the noise; -1 draws one
    #[arg(long, default_value_t)]
    seed: Seed,
    /// Replace an existing output
    #[arg(long)]
    overwrite: bool,
}

pub fn run(args: &DegradeArgs, log: &Log) -> Result<u8> {
    let limits = Limits::default();
    let (kernel, mask) = (args.degradation.kernel.as_deref().map(Path::new), args.degradation.mask.as_deref());
    let inputs: Vec<&Path> = [Some(args.input.as_path()), kernel, mask].into_iter().flatten().collect();
    check_outputs(&inputs, &[&args.output], args.overwrite)?;
    let float = ImageFormat::from_path(&args.output)?.supports(BitDepth::Float);
    let problem = args.degradation.problem()?;
    let boundary = problem.boundary.unwrap_or(Boundary::Circular);
    let mut warnings = Vec::new();
    let (degradation, mask) = problem.degradation_with_warnings(boundary, &limits, &mut warnings)?;
    warnings.iter().for_each(|warning| log.warn(warning));
    let picture = read_image_as(&args.input, &args.read.reading(None)?, &limits)?;
    picture.warnings.iter().for_each(|warning| log.warn(&format!("{}: {warning}", args.input.display())));
    picture.check_alpha(&args.output)?;
    let picture = cut_to_fit(picture, &degradation, mask.as_ref(), log)?;
    let mut x = picture.tensor.clone();
    let a = degradation.build(ImageShape::of_batch(&x), mask.as_ref())?;
    let sigma = match problem.sigma {
        None if problem.task == Task::Denoise && problem.gain.is_none() => {
            return Err(Error::config("degrading by noise needs its level, for example --sigma 25"));
        }
        None => 0.0,
        Some(Sigma::Levels(levels)) => levels,
        Some(_) => return Err(Error::config("degrade adds noise of a given level: --sigma needs a number here")),
    };
    if problem.linear_light && ImageFormat::from_path(&args.output)?.holds_light() && !picture.metadata.is_light() {
        return Err(Error::config(format!(
            "with --linear-light, {} is to hold encoded values, and its format means light: write .png or .tif",
            args.output.display()
        )));
    }
    let light = problem.linear_light.then(|| Light::of(&picture.metadata, x.dims()[1])).transpose()?;
    if let Some(light) = &light {
        x = light.to_light(&x)?;
    }
    let noise = if light.is_some() { 0.0 } else { sigma };
    let y = observe(a.as_ref(), &x, NoiseLevel::from_255(noise), problem.gain, args.seed.value)?;
    let y = match degradation.offset(ImageShape::of_batch(&x), mask.as_ref())? {
        Some(offset) => y.clone() + offset.cast(y.dtype()),
        None => y,
    };
    let y = match &light {
        // The noise is that of the encoded values.
        Some(light) => with_noise(light.to_encoded(&y)?, NoiseLevel::from_255(sigma), args.seed.value),
        None => y,
    };
    let [_, _, h, w] = y.dims();
    let bit_depth = if float { BitDepth::Float } else { BitDepth::Eight };
    let shrinks = match problem.task {
        Task::SuperResolution { factor } => 1.0 / factor as f64,
        _ => 1.0,
    };
    let alpha = picture.alpha_for(h, w, shrinks)?;
    let associated_alpha = picture.associated_alpha;
    // Floats are written in the values that --black and --white gave to the file, so that both options go on to hold.
    let scale = picture.scale.filter(|_| float);
    let mut options = WriteOptions { bit_depth, scale, alpha, associated_alpha, ..WriteOptions::default() };
    // The values mean the same as before.
    let (kept, read) = (&mut options.metadata, picture.metadata);
    (kept.icc, kept.linear, kept.png_colour) = (read.icc, read.linear, read.png_colour);
    write_image(&args.output, &y, &options)?;
    let seed = if args.seed.drawn { format!(", seed {}", args.seed) } else { String::new() };
    log.info(&format!("{}: {w}x{h}{seed}", args.output.display()));
    Ok(crate::exit::DONE)
}

/// Crops rows and columns at the end until the sides are multiples of the factor.
fn cut_to_fit(x: Picture, degradation: &Degradation, mask: Option<&Mask>, log: &Log) -> Result<Picture> {
    let whole = ImageShape::of_batch(&x.tensor);
    let fits = |shape: ImageShape| -> Result<ImageShape> {
        degradation.domain_for_range(degradation.build(shape, mask)?.range())
    };
    // One side after the other: the factor is at most 16, and the sides do not influence each other.
    let mut shape = whole;
    while shape.height > 1 && fits(shape)?.height != shape.height {
        shape.height -= 1;
    }
    while shape.width > 1 && fits(shape)?.width != shape.width {
        shape.width -= 1;
    }
    let least = fits(shape)?;
    if (whole.height > 1 && least.height != shape.height) || (whole.width > 1 && least.width != shape.width) {
        return Err(Error::config(format!(
            "an image of {}x{} pixels is too small for this task, which makes one pixel of {}x{}",
            whole.width, whole.height, least.width, least.height
        )));
    }
    if shape != whole {
        log.warn(&format!(
            "the image is cropped from {}x{} to {}x{} (top left), a multiple of the factor",
            whole.width, whole.height, shape.width, shape.height
        ));
    }
    Ok(x.upper_left(shape.height, shape.width))
}

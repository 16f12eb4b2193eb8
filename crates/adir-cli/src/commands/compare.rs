//! `adir compare`: how close a result is to the truth, and how well it agrees with the observation.

use std::path::{Path, PathBuf};

use adir::engine::Decibel;
use adir::io::image::{Picture, read_hashed_as, read_image_as};
use adir::io::limits::Limits;
use adir::metric::{Case, Metric, Needs, standard};
use adir::operator::ImageShape;
use adir::task::Task;
use adir::{Error, Result};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::args::{DegradationArgs, MeasuredArgs, ReadArgs, measure_for};
use crate::log::Log;
use crate::{memory, metrics};

/// Compare a result with the true image, and with the observation it was restored from.
#[derive(Debug, Args)]
#[command(mut_arg("task", |task| task.required(false)))]
pub struct CompareArgs {
    /// The true image x
    #[arg(required_unless_present = "list_metrics")]
    reference: Option<PathBuf>,
    /// The restored image
    #[arg(required_unless_present = "list_metrics")]
    result: Option<PathBuf>,
    /// The observation y; also prints how well A x agrees with it (needs --task)
    #[arg(long, value_name = "IMAGE", requires = "task")]
    observed: Option<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    degradation: Option<DegradationArgs>,
    #[command(flatten)]
    measured: MeasuredArgs,
    /// Pixels that luma metrics leave out at each border [default: the factor for srN, else 0]
    #[arg(long, value_name = "PIXELS")]
    border: Option<usize>,
    /// Metrics to print, in this order, separated by commas or one per option; learned ones need the file of their
    /// network [default: PSNR and SSIM of RGB and luma, with --observed agreement_psnr]
    #[arg(long = "metric", value_name = "NAME[=FILE]")]
    metrics: Vec<String>,
    /// List the metrics: name, which values are better, range and source
    #[arg(long)]
    list_metrics: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &CompareArgs, log: &Log) -> Result<u8> {
    if args.list_metrics {
        metrics::list(args.json)?;
        return Ok(crate::exit::DONE);
    }
    let (Some(reference), Some(result)) = (&args.reference, &args.result) else {
        return Err(Error::config("compare needs a reference and a result"));
    };
    args.warn_of_idle(log);
    let values = args.values(reference, result, log)?;
    if args.json {
        let number = |value: Option<f64>| value.map_or(Value::Null, |value| json!(Decibel(value)));
        let object: Map<String, Value> = values.into_iter().map(|(name, value)| (name, number(value))).collect();
        say!("{}", json!(object))?;
    } else {
        for (name, value) in values {
            match value {
                Some(value) => say!("{name:<16} {value:.4}")?,
                None => say!("{name:<16} does not apply")?,
            }
        }
    }
    Ok(crate::exit::DONE)
}

impl CompareArgs {
    /// The metrics asked for, or the standard ones for which there is what they need.
    fn metrics(&self) -> Result<Vec<Box<dyn Metric>>> {
        let lacks = |metric: &dyn Metric| metric.needs() == Needs::Observation && self.observed.is_none();
        if self.metrics.is_empty() {
            return Ok(standard().into_iter().filter(|metric| !lacks(metric.as_ref())).collect());
        }
        let metrics = metrics::metrics(&self.metrics)?;
        match metrics.iter().find(|metric| lacks(metric.as_ref())) {
            Some(metric) => Err(Error::config(format!("the metric {} needs --observed and --task", metric.name()))),
            None => Ok(metrics),
        }
    }

    /// Warns of options that tell something of the observation alone, where there is none; of the task, the metrics take the
    /// border from srN.
    fn warn_of_idle(&self, log: &Log) {
        let of = self.degradation.as_ref();
        let idle = [
            (of.is_some_and(|of| of.kernel.is_some() || of.kernel_centre.is_some()), "--kernel"),
            (of.is_some_and(|of| of.boundary.is_some()), "--boundary"),
            (of.is_some_and(|of| of.mask.is_some()), "--mask"),
            (of.is_some_and(|of| of.sigma.is_some() || of.gain.is_some()), "--sigma and --gain"),
            (of.is_some_and(|of| of.linear_light), "--linear-light"),
            (self.measured != MeasuredArgs::default(), "--ignore and --saturated"),
        ];
        let idle: Vec<&str> = idle.into_iter().filter_map(|(given, name)| given.then_some(name)).collect();
        if self.observed.is_none() && !idle.is_empty() {
            let idle = idle.join(", ");
            log.warn(&format!(
                "{idle}: these tell how the observation was made, and change nothing without --observed"
            ));
        }
    }

    /// Names and values, in order.
    fn values(&self, reference: &Path, result: &Path, log: &Log) -> Result<Vec<(String, Option<f64>)>> {
        let (metrics, limits) = (self.metrics()?, Limits::default());
        let reading = self.read.reading(None)?;
        let told = |path: &Path, picture: Picture| {
            picture.notes_on_colours().iter().for_each(|note| log.warn(&format!("{}: {note}", path.display())));
            picture.tensor
        };
        let read = |path: &Path| Ok::<_, Error>(told(path, read_image_as(path, &reading, &limits)?));
        let truth = read(reference)?;
        let most = metrics.iter().map(|metric| metric.bytes_per_pixel()).max().unwrap_or(0);
        memory::check(ImageShape::of_batch(&truth).pixels() as u64 * most)?;
        let restored = read(result)?;
        let observed = match (&self.observed, &self.degradation) {
            (Some(observed), Some(degradation)) => {
                let (y, _) = read_hashed_as(observed, &reading, &limits)?;
                let measured = measure_for(&self.measured.of(degradation.problem()?), &restored, &y, &limits)?;
                told(observed, y);
                Some((measured.judged()?, measured.compared(&restored)?))
            }
            _ => None,
        };
        let factor = match self.degradation.as_ref().map(|d| d.task) {
            Some(Task::SuperResolution { factor }) => factor,
            _ => 0,
        };
        let case = Case::new(&restored).with_truth(&truth).with_border(self.border.unwrap_or(factor));
        // What is compared with the observation is what A acts on, which may be light.
        let mut with_observation = case;
        if let Some(((operator, y), acted_on)) = &observed {
            with_observation = Case::new(acted_on).with_observation(operator.as_ref(), y);
        }
        let case_of = |metric: &dyn Metric| match metric.needs() {
            Needs::Observation => &with_observation,
            _ => &case,
        };
        let value = |metric: &dyn Metric| match (metric.value(case_of(metric)), metric.needs()) {
            (Err(Error::Config(message)), Needs::Truth) => {
                Err(Error::config(format!("{} against {}: {message}", reference.display(), result.display())))
            }
            (value, _) => {
                let value = value?;
                if value.is_none() {
                    log.warn(&format!("{}: {}", result.display(), metrics::left_out(metric)));
                }
                Ok((metric.name().to_owned(), value))
            }
        };
        metrics.iter().map(|metric| value(metric.as_ref())).collect()
    }
}

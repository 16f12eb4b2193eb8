//! `adir eval --paper`: the paper's tables, made anew.

use std::path::PathBuf;
use std::time::Duration;

use adir::engine::{Event, FolderCache};
use adir::evaluate::paper::{PaperConfig, PaperFolder, PaperPlan, Preparation, Table};
use adir::io::ending::{Written, check_ending};
use adir::io::folder::check_output_folder;
use adir::io::tally::counted;
use adir::metric::{Metric, standard};
use adir::models::latent_speed;
use adir::tensor::is_cpu;
use adir::{Error, Result};
use clap::Args;

use super::super::restore_folder::{ShardArg, shard_of};
use super::{EvalArgs, check_output};
use crate::log::Log;
use crate::metrics::LeftOut;
use crate::model::named;

/// Metrics that the paper judges by, as `--metric` knows them, and the names of their two forms.
const OF_THE_PAPER: [(&str, [&str; 2]); 2] =
    [("musiq", ["musiq", "musiq_google"]), ("musiq-ava", ["musiq_ava", "musiq_ava_google"])];

/// A table of the paper.
#[derive(Debug, Args)]
#[command(next_help_heading = "The paper's tables")]
pub struct PaperArgs {
    /// Make a table of the paper (arXiv 2212.03221) beside its published numbers: table1 (super-resolution by 4 and 8 with
    /// guided diffusion), table2 (by 4 with Stable Diffusion) or table3 (deblurring). Needs --images, --model and --gallery,
    /// and for its columns --metric musiq=FILE and musiq-ava=FILE. --methods chooses rows: bicubic, observed, none (the model
    /// as it is), self (IA), knn (ADIR with all weights) and lora
    #[arg(long, value_name = "TABLE", value_parser = named::<Table>(Table::ALL.map(|(_, name)| name)), requires = "images",
        conflicts_with_all = ["sets", "tasks", "linear_light", "random_from", "adapter", "samples", "seeds", "full", "preset",
        "lora", "overlap", "show", "cache", "closer_than", "gallery_tiles", "adapt_minutes"])]
    pub paper: Option<Table>,
    /// Folder of the images, DIV2K_valid_HR: the first --count by their names [default count: 50]
    #[arg(long, value_name = "FOLDER", requires = "paper")]
    pub images: Option<PathBuf>,
    /// Say what each row costs in memory and hours, and what is done already, and compute nothing
    #[arg(long, requires = "paper")]
    plan: bool,
    /// Make only part I of N of the images, from 1; auto takes both from SLURM, as of `adir restore`. Parts may share OUTPUT:
    /// each writes the table of all that is there
    #[arg(long, value_name = "I/N", requires = "paper")]
    shard: Option<ShardArg>,
    /// How references are made: centre (scaled until the short side fits, then the middle, as guided-diffusion prepares
    /// images) or crop (the middle as it is)
    #[arg(long, value_name = "HOW", requires = "paper", default_value = "centre",
        value_parser = named::<Preparation>(Preparation::ALL.map(|(_, name)| name)))]
    preparation: Preparation,
    /// Enlarge images that are smaller than the references, and do not refuse them
    #[arg(long, requires = "paper")]
    enlarge: bool,
    /// For table2: level of the noise that the x4 upscaler adds to the observation, 0 to 350 [default: 0]
    #[arg(long, value_name = "LEVEL", requires = "paper")]
    noise_level: Option<usize>,
    /// Keep the state of the run at most that often, as of `adir restore` [default: 5]
    #[arg(long, value_name = "SECONDS", requires = "paper", value_parser = crate::time::seconds)]
    checkpoint_seconds: Option<Duration>,
}

impl EvalArgs {
    /// What is asked for of the table.
    fn table(&self, table: Table) -> Result<PaperConfig> {
        let own = &self.paper;
        let mut config = PaperConfig::new(table, own.images.clone().unwrap_or_default());
        config.count = self.count.unwrap_or(config.count);
        (config.preparation, config.enlarge) = (own.preparation, own.enlarge);
        config.methods.clone_from(&self.methods);
        config.side = self.crop;
        let number = |steps: &String| {
            steps.parse().map_err(|_| Error::config(format!("--steps {steps}: expected a whole number")))
        };
        config.steps = self.steps.as_ref().map(number).transpose()?;
        config.noise_level = own.noise_level;
        config.model.clone_from(&self.model.model);
        config.gallery.clone_from(&self.gallery);
        config.neighbours = self.settings.neighbours;
        config.adapt = self.settings.overrides(None);
        config.adapt_seed = self.settings.adapt_seed.unwrap_or_default().value;
        config.shard = shard_of(own.shard)?;
        Ok(config)
    }

    /// PSNR, SSIM and the agreement with the observation, and what was asked for besides.
    fn metrics_of_table(&self) -> Result<Vec<Box<dyn Metric>>> {
        let mut metrics = standard();
        for metric in crate::metrics::metrics(&self.metrics)? {
            if metrics.iter().all(|known| known.name() != metric.name()) {
                metrics.push(metric);
            }
        }
        Ok(metrics)
    }
}

/// Warns of the paper's metrics that are not asked for.
fn warn_of_missing(metrics: &[Box<dyn Metric>], log: &Log) {
    for (option, names) in OF_THE_PAPER {
        if metrics.iter().all(|metric| !names.contains(&metric.name())) {
            log.warn(&format!(
                "{option} is not measured, without --metric {option}=FILE; the same command with it measures the pictures \
                 that are there"
            ));
        }
    }
}

/// Makes the table, or says what it costs.
pub fn run(args: &EvalArgs, table: Table, log: &Log) -> Result<u8> {
    let metrics = args.metrics_of_table()?;
    let output = args.output.clone().unwrap_or_else(|| format!("paper-{table}").into());
    let config = args.table(table)?;
    check_ending(&output, Written::Folder)?;
    check_output_folder(&output)?;
    check_output(&output, std::slice::from_ref(&config.images))?;
    let folder = PaperFolder::new(&output);
    let builder = args.settings.engine(args.model.engine()).cache(FolderCache::new(folder.unfinished()));
    let builder = match args.paper.checkpoint_seconds {
        Some(time) => builder.state_every(time),
        None => builder,
    };
    // A plan tells what all rows take, before it is refused for that.
    let engine = if args.paper.plan { builder.memory(None) } else { builder };
    let engine = engine.build()?;
    let watcher = log.watcher();
    let watch = |event: &Event| watcher.see(event);
    let plan = PaperPlan::new(&engine, config, &watch)?;
    watcher.finish();
    warn_of_missing(&metrics, log);
    if args.paper.plan {
        let (images, steps) = (plan.images().len(), plan.steps().len());
        say!("table                {table}: {}", table.title())?;
        say!(
            "images               {images}, {} each; this part: shard {}",
            counted(steps, "row"),
            plan.config().shard
        )?;
        plan.differs().iter().try_for_each(|line| say!("not the paper's      {line}"))?;
        let done = plan.kept(&folder)?;
        let speed = if table.is_latent() { latent_speed(engine.compute())? } else { engine.speed()? };
        say!("\n{}", plan.costs(speed, &done))?;
        return match (plan.memory(), args.model.memory()) {
            (need, Some(free)) if need > free && is_cpu(&engine.compute().device) => {
                Err(Error::short_of_memory(need, free))
            }
            _ => Ok(crate::exit::DONE),
        };
    }
    plan.differs().iter().for_each(|line| log.info(&format!("not the paper's: {line}")));
    let made = plan.run(&engine, &metrics, &folder, &watch, |cell| {
        watcher.finish();
        log.info(&cell.summary(&metrics));
    });
    watcher.finish();
    if matches!(made, Err(Error::Interrupted)) {
        log.warn(&format!("stopped: the same command goes on from here ({})", output.display()));
    }
    let faults = made?;
    faults.iter().for_each(|fault| log.warn(&format!("left out: {}: {}", fault.cell, fault.error)));
    let cells = plan.kept(&folder)?;
    let mut left_out = LeftOut::default();
    for (cell, metric) in cells.iter().flat_map(|cell| metrics.iter().map(move |metric| (cell, metric))) {
        if cell.value(metric.name()).is_none() {
            left_out.add(metric.as_ref(), cell.image.clone());
        }
    }
    left_out.tell(log);
    let text = plan.table(&cells, &metrics);
    folder.write(&text, &cells)?;
    say!("{text}")?;
    log.info(&format!("{}: table.md, cells.jsonl", output.display()));
    Ok(if faults.is_empty() { crate::exit::DONE } else { crate::exit::SOME_FAILED })
}

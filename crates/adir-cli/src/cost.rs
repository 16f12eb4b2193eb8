//! How long what is planned takes here.

use std::path::Path;

use adir::Result;
use adir::engine::{CheckedFolder, Engine, FilePlan};
use adir::io::tally::counted;
use adir::models::latent_speed;
use adir::retrieve::TileSide;

use crate::log::Log;
use crate::time::in_words;

/// Prints the line of a plan that tells the time of indexing its `gallery`, if that takes any.
pub fn say_indexing(engine: &Engine, gallery: Option<(&Path, Option<TileSide>)>) -> Result<()> {
    let Some((gallery, tiles)) = gallery else { return Ok(()) };
    match engine.left_to_index(gallery, tiles)? {
        None | Some((0, _)) => Ok(()),
        Some((count, time)) => {
            let (time, count) = (in_words(time.as_secs_f64()), counted(count, "image"));
            say!("indexing time        about {time} for {count} of the gallery")
        }
    }
}

/// Prints the lines of a plan that tell its time, at `speed` products a second. An adaptation takes as many `minutes` as it was
/// given.
pub fn say_time(speed: f64, products: u64, training: Option<u64>, minutes: Option<f64>) -> Result<()> {
    if let Some(training) = training {
        let seconds = minutes.map_or(training as f64 / speed, |minutes| 60.0 * minutes);
        say!("adaptation time      at most about {}", in_words(seconds))?;
    }
    say!("time                 about {} of sampling", in_words(products as f64 / speed))
}

/// Prints what the user should know of the files of a folder, the plan of the first, and what all take.
pub fn say_folder(engine: &Engine, checked: &CheckedFolder, noun: &str, log: &Log) -> Result<()> {
    checked.warnings.iter().for_each(|warning| log.warn(warning));
    if checked.more_warnings > 0 {
        log.warn(&counted(checked.more_warnings, "more warning"));
    }
    let Some(first) = &checked.first else { return Ok(()) };
    let speed = match first {
        FilePlan::Latents(_) => latent_speed(engine.compute())?,
        _ => engine.speed()?,
    };
    say!("{first}")?;
    say_indexing(engine, first.gallery())?;
    say_time(speed, first.products(), first.training_products(), first.adaptation_minutes())?;
    let time = in_words(checked.products as f64 / speed);
    let files = counted(checked.files, noun);
    say!("\n{files}: at most about {:.2} GB, about {time} of sampling", checked.memory as f64 / 1e9)
}

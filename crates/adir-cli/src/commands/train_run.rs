//! What a training's checkpoint keeps of the command that began it, so that `--resume` goes on with the same.

use std::path::{Path, PathBuf};

use adir::train::Tiles;
use adir::{Error, Result};
use serde::{Deserialize, Serialize};

/// Held-out crops for the final measurement where nothing else is said.
const VALIDATION_CROPS: usize = 512;
/// Memory for photographs in GB where nothing else is said.
const MEMORY: f64 = 4.0;

/// What decides which photographs are seen, and what is done at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSettings {
    /// Memory for photographs in GB: with less, a part of them is used.
    pub memory: f64,
    /// Which files are parts of one photograph, by name.
    pub tiles: Tiles,
    /// Held-out crops for the final measurement.
    pub validation_crops: usize,
    /// The image with samples.
    pub sheet: Option<PathBuf>,
    /// The folder of the photographs, in full; checkpoints of earlier versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

/// The same as options say it.
#[derive(Debug, Clone)]
pub struct RunOptions<'a> {
    /// `--memory`.
    pub memory: Option<f64>,
    /// `--tiles`.
    pub tiles: Option<Tiles>,
    /// `--validation-crops`.
    pub validation_crops: Option<usize>,
    /// `--sheet`.
    pub sheet: Option<&'a Path>,
    /// The folder, where it is found.
    pub folder: Option<String>,
}

impl RunSettings {
    /// Those of a new training.
    pub fn new(given: &RunOptions) -> Self {
        Self {
            memory: given.memory.unwrap_or(MEMORY),
            tiles: given.tiles.unwrap_or_default(),
            validation_crops: given.validation_crops.unwrap_or(VALIDATION_CROPS),
            sheet: given.sheet.map(Path::to_owned),
            folder: given.folder.clone(),
        }
    }

    /// What to say where a training goes on that had the photographs of another folder until now.
    pub fn moved(kept: Option<&str>, given: &RunOptions) -> Option<String> {
        let before = serde_json::from_str::<Self>(kept?).ok()?.folder?;
        let now = given.folder.as_ref().filter(|now| **now != before)?;
        Some(format!(
            "this training had the photographs of {before} until now, not those of {now}: unless they are the same, ones that \
             were held out may be trained on"
        ))
    }

    /// Those of a training that goes on, where `kept` is what its checkpoint has. Another choice of photographs is refused:
    /// what was held out would be trained on.
    pub fn resumed(kept: Option<&str>, given: &RunOptions) -> Result<Self> {
        // A checkpoint of an earlier version keeps nothing.
        let Some(kept) = kept.and_then(|text| serde_json::from_str::<Self>(text).ok()) else {
            return Ok(Self::new(given));
        };
        if let Some(tiles) = given.tiles.filter(|tiles| *tiles != kept.tiles) {
            let name = |tiles: Tiles| format!("{tiles:?}").to_lowercase();
            return Err(Error::config(format!(
                "--tiles {} contradicts the checkpoint, whose training has --tiles {}: photographs that were held out would \
                 be trained on. Leave the option out",
                name(tiles),
                name(kept.tiles)
            )));
        }
        Ok(Self {
            memory: given.memory.unwrap_or(kept.memory),
            validation_crops: given.validation_crops.unwrap_or(kept.validation_crops),
            sheet: given.sheet.map(Path::to_owned).or(kept.sheet),
            tiles: kept.tiles,
            folder: given.folder.clone(),
        })
    }

    /// For the checkpoint.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::config(format!("the settings of the training: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: RunOptions<'static> =
        RunOptions { memory: None, tiles: None, validation_crops: None, sheet: None, folder: None };

    #[test]
    fn a_training_goes_on_with_what_it_had() {
        let first = RunOptions {
            validation_crops: Some(32),
            sheet: Some(Path::new("s.png")),
            tiles: Some(Tiles::Never),
            memory: Some(0.5),
            folder: None,
        };
        let begun = RunSettings::new(&first);
        let kept = begun.to_json().unwrap();
        assert_eq!(RunSettings::resumed(Some(&kept), &NOTHING).unwrap(), begun);
        assert_eq!(RunSettings::resumed(Some(&kept), &first).unwrap(), begun);
        let other = RunOptions { validation_crops: Some(64), ..NOTHING };
        assert_eq!(RunSettings::resumed(Some(&kept), &other).unwrap(), RunSettings { validation_crops: 64, ..begun });
        let refused = RunSettings::resumed(Some(&kept), &RunOptions { tiles: Some(Tiles::Always), ..NOTHING });
        assert!(refused.unwrap_err().to_string().contains("--tiles always contradicts"));
        let [here, there] = ["/a", "/b"].map(|folder| RunOptions { folder: Some(folder.into()), ..NOTHING });
        let kept = RunSettings::new(&here).to_json().unwrap();
        let moved = RunSettings::moved(Some(&kept), &there).unwrap();
        assert!(moved.contains("of /a until now, not those of /b"), "{moved}");
        let known = [(Some(&*kept), &here), (Some(&*kept), &NOTHING), (Some("{}"), &here), (None, &here)];
        assert!(known.into_iter().all(|(kept, given)| RunSettings::moved(kept, given).is_none()));
        for old in [None, Some("{}")] {
            assert_eq!(RunSettings::resumed(old, &NOTHING).unwrap(), RunSettings::new(&NOTHING));
        }
    }
}

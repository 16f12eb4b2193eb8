//! The parts of a model, loaded one after the other, or kept for the next image of a folder.

use super::super::event::{Event, Watch, report};
use super::super::open::Engine;
use super::plan::LatentPlan;
use super::request::{LatentRequest, LatentTask};
use crate::Result;
use crate::io::weights::WeightFile;
use crate::models::Prior;
use crate::models::stable_diffusion::{LatentFiles, Latents, Purpose, TextEncoder, add_lora};
use crate::tensor::Tensor;

/// The states of the texts of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts {
    /// What it asks for, and what it is drawn away from.
    pub asked: [Option<Tensor<3>>; 2],
    /// What an adaptation is told, and no text.
    pub training: Option<[Tensor<3>; 2]>,
}

impl Texts {
    fn of(request: &LatentRequest, encoder: &TextEncoder) -> Result<Self> {
        let without = request.is_guided().then(|| encoder.states(&request.negative_prompt)).transpose()?;
        let (with, none) = (encoder.states(&request.prompt)?, encoder.states("")?);
        // An upscaler is trained without a text, as it is asked to restore.
        let training = match &request.task {
            LatentTask::Upscale { .. } => none.clone(),
            LatentTask::Edit { .. } => with.clone(),
        };
        Ok(Self { asked: [Some(with), without], training: Some([training, none]) })
    }
}

/// The U-Net with the factors that the request names.
#[derive(Debug, Clone)]
pub(super) struct LoadedUNet {
    pub prior: Prior,
    /// What tells the weights of its file apart.
    pub id: String,
}

/// What is in memory of a model. Runs of requests that differ in their images only may hand it on.
#[derive(Debug, Default)]
pub struct Parts {
    texts: Option<Texts>,
    unet: Option<LoadedUNet>,
    autoencoder: Option<Latents>,
    hashes: Option<[String; 2]>,
}

impl Parts {
    /// Gives up what a plan has no room for.
    pub fn make_room(&mut self, plan: &LatentPlan) {
        if !plan.keeps_parts {
            (self.unet, self.autoencoder) = (None, None);
        }
    }

    /// What tells the weights apart, see [`LatentFiles::hashes`].
    pub fn hashes(&mut self, files: &LatentFiles) -> Result<[String; 2]> {
        if self.hashes.is_none() {
            self.hashes = Some(files.hashes()?);
        }
        Ok(self.hashes.clone().unwrap_or_default())
    }
}

/// Loads the parts that a plan needs, where they are not in memory.
pub(super) struct Loader<'a> {
    pub engine: &'a Engine,
    pub plan: &'a LatentPlan,
    pub watch: &'a Watch<'a>,
    pub parts: &'a mut Parts,
}

impl Loader<'_> {
    fn tell(&self, part: &str) -> Result<()> {
        report(self.watch, &Event::Loading { name: format!("{} ({part})", self.plan.request.model.display()) })
    }

    /// The states of the texts. The encoder is in memory no longer.
    pub fn texts(&mut self) -> Result<Texts> {
        let files = &self.plan.files;
        if let (None, false) = (&self.parts.texts, files.purpose() == Purpose::SuperResolution) {
            self.tell("text encoder")?;
            self.parts.texts = Some(Texts::of(&self.plan.request, &files.load_text(self.engine.compute())?)?);
        }
        Ok(self.parts.texts.clone().unwrap_or_default())
    }

    /// The autoencoder.
    pub fn autoencoder(&mut self) -> Result<Latents> {
        if let Some(autoencoder) = &self.parts.autoencoder {
            return Ok(autoencoder.clone());
        }
        self.tell("autoencoder")?;
        let autoencoder = self.plan.files.load_autoencoder(self.engine.compute())?;
        self.parts.autoencoder = Some(autoencoder.clone());
        Ok(autoencoder)
    }

    /// The U-Net. It is alone in memory unless the plan keeps parts.
    pub fn unet(&mut self) -> Result<LoadedUNet> {
        if let Some(unet) = &self.parts.unet {
            return Ok(unet.clone());
        }
        if !self.plan.keeps_parts {
            self.parts.autoencoder = None;
        }
        self.tell("U-Net")?;
        let mut prior = self.plan.files.load_unet(self.engine.compute())?;
        let id = prior.id()?.to_string();
        if let Some(path) = &self.plan.request.lora {
            let (params, _) = add_lora(self.plan.files.unet(), prior.params(), &WeightFile::open(path)?, 1.0)?;
            prior = prior.with_params(params);
        }
        let unet = LoadedUNet { prior, id };
        self.parts.unet = self.plan.keeps_parts.then(|| unet.clone());
        Ok(unet)
    }
}

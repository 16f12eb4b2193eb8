//! What is done to each file of a folder: a restoration with a prior of pixels, or an upscaling by a latent diffusion model.

use std::fmt;
use std::path::Path;

use crate::engine::latent::{LatentPlan, LatentRequest, LatentTask};
use crate::engine::open::Engine;
use crate::engine::plan::Plan;
use crate::engine::request::Request;
use crate::io::image::{Picture, Reading};
use crate::retrieve::TileSide;
use crate::{Error, Result};

/// What is done to each file. Input and output of the request are replaced.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Each {
    /// Restored with a prior of pixels.
    Pixels(Box<Request>),
    /// Upscaled by a latent diffusion model.
    Latents(Box<LatentRequest>),
}

impl From<Request> for Each {
    fn from(request: Request) -> Self {
        Self::Pixels(request.into())
    }
}

impl From<LatentRequest> for Each {
    fn from(request: LatentRequest) -> Self {
        Self::Latents(request.into())
    }
}

impl Each {
    /// Results of a file.
    pub(super) fn samples(&self) -> usize {
        match self {
            Self::Pixels(request) => request.sampling.samples,
            Self::Latents(request) => request.samples,
        }
    }

    pub(super) fn reading(&self) -> &Reading {
        match self {
            Self::Pixels(request) => &request.reading,
            Self::Latents(request) => &request.reading,
        }
    }

    pub(super) fn reading_mut(&mut self) -> &mut Reading {
        match self {
            Self::Pixels(request) => &mut request.reading,
            Self::Latents(request) => &mut request.reading,
        }
    }
}

/// Refuses what a folder of upscalings cannot have.
pub(super) fn check_latents(each: &LatentRequest) -> Result<()> {
    let refused = [
        (!matches!(each.task, LatentTask::Upscale { .. }), "editing takes one image: a folder is upscaled"),
        (each.samples > 1, "of a folder, each observation gets one result by a latent diffusion model"),
        (
            each.adapt.as_ref().is_some_and(|adapt| adapt.save.is_some()),
            "one file cannot take the factors of a whole folder",
        ),
    ];
    match refused.into_iter().find(|(refused, _)| *refused) {
        Some((_, message)) => Err(Error::config(message)),
        None => Ok(()),
    }
}

/// The plan for a file.
#[derive(Debug)]
#[non_exhaustive]
pub enum FilePlan {
    /// Of a restoration with a prior of pixels.
    Pixels(Box<Plan>),
    /// Of an upscaling by a latent diffusion model.
    Latents(Box<LatentPlan>),
}

impl FilePlan {
    pub(super) fn picture(&self) -> &Picture {
        match self {
            Self::Pixels(plan) => plan.picture(),
            Self::Latents(plan) => plan.picture(),
        }
    }

    /// What the user should know before it runs.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Self::Pixels(plan) => plan.warnings().to_vec(),
            Self::Latents(plan) => plan.warnings(),
        }
    }

    /// Bytes of memory that it takes at most.
    pub fn memory(&self) -> u64 {
        match self {
            Self::Pixels(plan) => plan.memory().most(),
            Self::Latents(plan) => plan.memory(),
        }
    }

    /// See [`Plan::products`].
    pub fn products(&self) -> u64 {
        match self {
            Self::Pixels(plan) => plan.products(),
            Self::Latents(plan) => plan.products(),
        }
    }

    /// See [`Plan::adaptation_minutes`].
    pub fn adaptation_minutes(&self) -> Option<f64> {
        match self {
            Self::Pixels(plan) => plan.adaptation_minutes(),
            Self::Latents(plan) => plan.adaptation_minutes(),
        }
    }

    /// See [`Plan::gallery`].
    pub fn gallery(&self) -> Option<(&Path, Option<TileSide>)> {
        match self {
            Self::Pixels(plan) => plan.gallery(),
            Self::Latents(plan) => plan.gallery().map(|gallery| (gallery, None)),
        }
    }

    /// See [`Plan::training_products`].
    pub fn training_products(&self) -> Option<u64> {
        match self {
            Self::Pixels(plan) => plan.training_products(),
            Self::Latents(plan) => plan.training_products(),
        }
    }
}

impl fmt::Display for FilePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pixels(plan) => plan.fmt(f),
            Self::Latents(plan) => plan.fmt(f),
        }
    }
}

impl Engine {
    pub(super) fn plan_each(&self, each: &Each) -> Result<FilePlan> {
        match each {
            Each::Pixels(request) => self.plan(request).map(|plan| FilePlan::Pixels(plan.into())),
            Each::Latents(request) => {
                self.plan_latent(request).map(|plan| FilePlan::Latents(plan.among_others(self).into()))
            }
        }
    }
}

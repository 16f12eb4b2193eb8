//! What a row costs, before it is made: products from the networks' descriptions, memory from the engine's plans, and time
//! by a small network that is run for it.

use std::sync::Arc;
use std::time::Instant;

use super::tables::Table;
use crate::adapt::{AdaptConfig, Trained};
use crate::engine::LatentPlan;
use crate::models::guided_diffusion::UNetConfig;
use crate::models::params::Params;
use crate::models::stable_diffusion::{ConditionalConfig, ConditionalUNet, Facts, TOKENS};
use crate::models::{Conditioning, Conditions, Denoiser, Network, Prior, PriorHeader};
use crate::schedule::Timestep;
use crate::tensor::{Compute, Tensor, to_f32};
use crate::{Error, Result};

/// What one image of a row takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Products that networks add up, see [`Network::products`].
    pub products: u64,
    /// Bytes of memory at most.
    pub memory: u64,
}

impl Cost {
    /// Hours with so many products a second.
    pub fn hours(&self, speed: f64) -> f64 {
        self.products as f64 / speed / 3600.0
    }
}

/// A network like guided diffusion's, but small.
const PROBE: &str = r#"{"in_channels":3,"out_channels":6,"model_channels":256,"num_res_blocks":1,"channel_mult":[1,2],
    "attention_resolutions":[2],"num_head_channels":64,"resblock_updown":true,"use_scale_shift_norm":true}"#;
/// The side of its images.
const PROBE_SIDE: usize = 64;
/// Passes that are timed, after one that is not.
const PROBES: usize = 3;

/// How many products a second networks add up where `compute` says: from the quickest of a few passes of a small network like
/// those that `table` restores with. Transformers add up fewer than convolutions, which have ways around many of them.
///
/// # Errors
/// [`Error::Backend`] when the device fails.
pub fn speed(compute: &Compute, table: Table) -> Result<f64> {
    let (prior, told) = if table.is_latent() { latent_probe(compute)? } else { (probe(compute)?, Conditioning::None) };
    let x = Tensor::zeros([1, prior.info().channels, PROBE_SIDE, PROBE_SIDE], &compute.device);
    let mut least = f64::INFINITY;
    for pass in 0..=PROBES {
        let started = Instant::now();
        // What is read has been computed.
        to_f32(&prior.predict(&x, Timestep(500), &told)?.eps)?;
        if pass > 0 {
            least = least.min(started.elapsed().as_secs_f64());
        }
    }
    let products = prior.network().products(PROBE_SIDE, PROBE_SIDE);
    if least > 0.0 { Ok(products as f64 / least) } else { Err(Error::Backend("the clock stands still".into())) }
}

fn probe(compute: &Compute) -> Result<Prior> {
    let config = UNetConfig::from_json(PROBE)?;
    let params = Params::initial(PriorHeader::new(config.clone())?.network().layout().clone(), 0, compute)?;
    Prior::from_config(config, params)
}

/// The x4 upscaler's U-Net with half of its levels and layers, and what it is told.
fn latent_probe(compute: &Compute) -> Result<(Prior, Conditioning)> {
    let mut config = ConditionalConfig { layers_per_block: 1, ..ConditionalConfig::upscaler() };
    config.levels.truncate(2);
    let net = Arc::new(ConditionalUNet::new(&config)?);
    let params = Params::initial(net.layout().clone(), 0, compute)?;
    let beside = Tensor::zeros([1, config.in_channels - config.out_channels, PROBE_SIDE, PROBE_SIDE], &compute.device);
    let text = config.text_width.map(|width| Tensor::zeros([1, TOKENS, width], &compute.device));
    let told = Conditions { text, class: config.classes.map(|_| 0), beside: Some(beside) };
    let prior = Prior::new(net, params, Facts::upscaler().info(&config)?)?;
    Ok((prior, Conditioning::Several(Arc::new(told))))
}

/// Passes that a crop of a training step is worth: the pass itself, and the gradients by maps and by weights. Those of factors
/// are small.
fn passes_of_training(trained: Trained, recompute: bool) -> u64 {
    let gradients = if matches!(trained, Trained::Full) { 2 } else { 1 };
    1 + gradients + u64::from(recompute)
}

/// Products of sampling images of that height and width, and of an adaptation to crops before it.
pub(super) fn of_pixels(
    network: &dyn Network,
    [height, width]: [usize; 2],
    steps: usize,
    adapt: Option<(&AdaptConfig, usize)>,
) -> u64 {
    let training = adapt.map_or(0, |(config, crop)| {
        let crops = u64::from(config.iterations) * config.batch as u64;
        crops * passes_of_training(config.trained, config.recompute) * network.products(crop, crop)
    });
    training + steps as u64 * network.products(height, width)
}

/// Products of a latent restoration.
pub(super) fn of_latents(plan: &LatentPlan) -> u64 {
    let (files, request) = (plan.files(), plan.request());
    let [height, width] = plan.latents();
    let (unet, autoencoder) = (files.unet(), files.autoencoder());
    let sampling = plan.passes() as u64 * unet.products(height, width) + autoencoder.products(height, width)[1];
    let training = request.adapt.as_ref().map_or(0, |adapt| {
        let training = &adapt.training;
        let side = training.crop / autoencoder.config().factor();
        let trained = if training.full { Trained::Full } else { Trained::Auto { rank: 1, alpha: 1.0 }.low_rank() };
        let crops = u64::from(training.iterations) * training.batch as u64;
        let encoded = (adapt.neighbours * training.crops_per_image) as u64;
        crops * passes_of_training(trained, false) * unet.products(side, side)
            + encoded * autoencoder.products(side, side)[0]
    });
    sampling + training
}

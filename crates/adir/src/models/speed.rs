//! How fast networks are here: a few passes of one are timed.

use std::sync::Arc;
use std::time::Instant;

use super::guided_diffusion::UNetConfig;
use super::params::Params;
use super::stable_diffusion::{ConditionalConfig, ConditionalUNet, Facts, TOKENS};
use super::{Conditioning, Conditions, Denoiser, Network, Prior, PriorHeader};
use crate::schedule::Timestep;
use crate::tensor::{Compute, Tensor, to_f32};
use crate::{Error, Result};

/// A network like guided diffusion's, but small.
const PROBE: &str = r#"{"in_channels":3,"out_channels":6,"model_channels":256,"num_res_blocks":1,"channel_mult":[1,2],
    "attention_resolutions":[2],"num_head_channels":64,"resblock_updown":true,"use_scale_shift_norm":true}"#;
/// The side of its images.
const PROBE_SIDE: usize = 64;
/// That of a network that is its own probe: smaller maps leave threads idle.
const OWN_SIDE: usize = 128;
/// Parameters up to which a network is its own probe.
const SMALL: usize = 16 << 20;
/// Passes that are timed, after one that is not.
const PROBES: usize = 3;

/// How many products a second a network adds up where `compute` says, see [`Network::products`]: from the quickest of a few
/// passes of it without its weights if it is small, else of a small one like guided diffusion's.
///
/// # Errors
/// [`Error::Backend`] when the device fails.
pub fn speed(compute: &Compute, header: &PriorHeader) -> Result<f64> {
    let own = header.config().filter(|config| header.parameter_count() <= SMALL && config.num_classes.is_none());
    let (config, side) = match own {
        Some(config) => (config.clone(), OWN_SIDE),
        None => (UNetConfig::from_json(PROBE)?, PROBE_SIDE),
    };
    let params = Params::initial(PriorHeader::new(config.clone())?.network().layout().clone(), 0, compute)?;
    speed_of(&Prior::from_config(config, params)?, &Conditioning::None, side)
}

/// The same of a network that works in latents: of one of the levels of the x4 upscaler's U-Net. Its
/// transformers add up fewer products a second than convolutions, which have ways around many of them.
///
/// # Errors
/// As [`speed`].
pub fn latent_speed(compute: &Compute) -> Result<f64> {
    let mut config = ConditionalConfig { layers_per_block: 1, ..ConditionalConfig::upscaler() };
    config.levels = config.levels.split_off(1);
    config.levels.truncate(1);
    let net = Arc::new(ConditionalUNet::new(&config)?);
    let params = Params::initial(net.layout().clone(), 0, compute)?;
    let beside = Tensor::zeros([1, config.in_channels - config.out_channels, PROBE_SIDE, PROBE_SIDE], &compute.device);
    let text = config.text_width.map(|width| Tensor::zeros([1, TOKENS, width], &compute.device));
    let told = Conditions { text, class: config.classes.map(|_| 0), beside: Some(beside) };
    let prior = Prior::new(net, params, Facts::upscaler().info(&config)?)?;
    speed_of(&prior, &Conditioning::Several(Arc::new(told)), PROBE_SIDE)
}

/// The same of a network itself, where its weights are, with images of that side.
///
/// # Errors
/// As [`speed`].
pub fn speed_of(prior: &Prior, told: &Conditioning, side: usize) -> Result<f64> {
    let x = Tensor::zeros([1, prior.info().channels, side, side], &prior.params().device());
    let mut least = f64::INFINITY;
    for pass in 0..=PROBES {
        let started = Instant::now();
        // What is read has been computed.
        to_f32(&prior.predict(&x, Timestep(500), told)?.eps)?;
        if pass > 0 {
            least = least.min(started.elapsed().as_secs_f64());
        }
    }
    let products = prior.network().products(side, side);
    if least > 0.0 { Ok(products as f64 / least) } else { Err(Error::Backend("the clock stands still".into())) }
}

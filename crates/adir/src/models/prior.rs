//! A network with its weights: what is sampled from, adapted, trained, verified and saved.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::denoiser::check_cotangent;
use super::guided_diffusion::{KeyReport, UNet, UNetConfig, config_of, shapes_of};
use super::load::fault_of;
use super::params::{ParamLayout, Params};
use super::{
    Conditioning, Denoiser, DenoiserInfo, EstimateErrors, ImageMean, Network, Pixels, Prediction, Pullback, Space,
};
use crate::compute::in_pool;
use crate::io::hash::{ContentHash, Hasher};
use crate::io::sidecar::beside;
use crate::io::weights::WeightFile;
use crate::schedule::{Timestep, VarianceKind};
use crate::tensor::{self, Compute, Device, Tensor};
use crate::{Error, Result};

/// By what weights are told apart: the SHA-256 of their file, or a digest of their values where they come from none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightsId(String);

impl WeightsId {
    /// The digest of names, shapes and values.
    ///
    /// # Errors
    /// [`Error::Backend`] when the device fails.
    pub fn digest(params: &Params) -> Result<Self> {
        let mut hasher = Hasher::default();
        for (id, spec) in params.layout().ids().zip(params.layout().specs()) {
            hasher.update(format!("{} {:?}\n", spec.name, spec.shape).as_bytes());
            for value in tensor::to_f32(&params.flat(id))? {
                hasher.update(&value.to_le_bytes());
            }
        }
        Ok(Self(hasher.finish().to_string()))
    }

    /// 64 lower-case hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WeightsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names and shapes of a weight file tell of a prior, before any weights are read.
#[derive(Debug, Clone)]
pub struct PriorHeader {
    config: Option<UNetConfig>,
    net: Arc<dyn Network>,
    info: Arc<DenoiserInfo>,
    image_mean: Option<ImageMean>,
}

impl PriorHeader {
    /// Of the network of a configuration.
    ///
    /// # Errors
    /// As [`UNetConfig::check`].
    pub fn new(config: UNetConfig) -> Result<Self> {
        let (net, info) = (Arc::new(UNet::new(&config)?), Arc::new(config.info()?));
        Ok(Self { config: Some(config), net, info, image_mean: None })
    }

    /// What samplers must know.
    pub fn info(&self) -> &DenoiserInfo {
        &self.info
    }

    /// The configuration of a guided-diffusion network.
    pub fn config(&self) -> Option<&UNetConfig> {
        self.config.as_ref()
    }

    /// The network without its weights; it knows what sampling takes of memory.
    pub fn network(&self) -> &Arc<dyn Network> {
        &self.net
    }

    /// Refuses a class that the network does not have, and the lack of one that it needs.
    ///
    /// # Errors
    /// [`Error::Config`] naming the classes.
    pub fn check_class(&self, class: Option<usize>) -> Result<()> {
        self.net.check_conditioning(&class.into())
    }

    /// Number of scalar parameters.
    pub fn parameter_count(&self) -> usize {
        self.net.layout().element_count()
    }
}

/// A network with its weights on a device. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Prior {
    net: Arc<dyn Network>,
    params: Params,
    info: Arc<DenoiserInfo>,
    id: Arc<OnceLock<WeightsId>>,
    space: Arc<dyn Space>,
    image_mean: Option<ImageMean>,
    config: Option<UNetConfig>,
}

impl Prior {
    /// The prior that is part of the program, a small guided-diffusion network (its model card is `assets/prior.md`), in
    /// f32 on the CPU.
    ///
    /// # Errors
    /// Never in a correct build.
    pub fn embedded() -> Result<Self> {
        Self::load(&Self::embedded_file()?, None, &Compute::default())
    }

    /// The weight file of [`Prior::embedded`].
    ///
    /// # Errors
    /// Never in a correct build.
    pub fn embedded_file() -> Result<WeightFile> {
        Ok(WeightFile::from_bytes("<embedded prior>", adir_assets::PRIOR)?)
    }

    /// A weight file and the configuration of its network: that in `config`, else that in a .json file beside the
    /// weights if they have none themselves.
    ///
    /// # Errors
    /// [`Error::Model`] naming the one of the two files that cannot be read.
    pub fn open_weights(path: &Path, config: Option<&Path>) -> Result<(WeightFile, Option<UNetConfig>)> {
        let file = WeightFile::open(path)?;
        let config = match config {
            Some(config) => Some(config.to_owned()),
            None if file.metadata().contains_key("config") => None,
            None => beside(path),
        };
        let config = config.map(|path| UNetConfig::read(&path)).transpose()?;
        Ok((file, config))
    }

    /// The prior of a weight file, with the configuration in a .json file beside it where there is one and the weights
    /// have none, in f32 on the CPU.
    ///
    /// # Errors
    /// As [`Prior::load`].
    pub fn open(path: &Path) -> Result<Self> {
        let (file, config) = Self::open_weights(path, None)?;
        Self::load(&file, config, &Compute::default())
    }

    /// What the names and shapes of `file` tell of the prior in it.
    ///
    /// `config` is the configuration where the caller has one (a file beside the weights); without it, it
    /// comes from the file's metadata, or from [`super::guided_diffusion::infer`].
    ///
    /// # Errors
    /// [`Error::Model`] when the configuration is missing or invalid, or a tensor is missing, unexpected or mis-shaped
    /// (all are listed).
    pub fn describe(file: &WeightFile, config: Option<UNetConfig>) -> Result<PriorHeader> {
        let fault = fault_of(file.path());
        let config = config.map_or_else(|| config_of(file), Ok).map_err(&fault)?;
        let header = PriorHeader::new(config).map_err(&fault)?;
        let expected = header.net.layout().specs().iter().map(|s| (s.name.as_str(), s.shape.as_slice()));
        let report = KeyReport::compare(expected, &shapes_of(file));
        if !report.is_clean() {
            return Err(Error::model(file.path(), format!("the weights do not fit the network: {report}")));
        }
        let image_mean = file.metadata().get(ImageMean::KEY).map(|text| ImageMean::from_json(text)).transpose();
        let errors = file.metadata().get(EstimateErrors::KEY).map(|text| EstimateErrors::from_json(text)).transpose();
        let info = DenoiserInfo { errors: errors.map_err(&fault)?, ..(*header.info).clone() };
        Ok(PriorHeader { image_mean: image_mean.map_err(fault)?, info: Arc::new(info), ..header })
    }

    /// Loads a checkpoint tensor by tensor, so that no more than one tensor exists twice, to where and in what precision
    /// `compute` says. `config` is as of [`Prior::describe`].
    ///
    /// # Errors
    /// As [`Prior::describe`]; [`Error::Model`] when a value is not finite.
    pub fn load(file: &WeightFile, config: Option<UNetConfig>, compute: &Compute) -> Result<Self> {
        let header = Self::describe(file, config)?;
        let layout = header.net.layout().clone();
        // One pass over the file gives both the weights and their identity.
        let read = |take: &mut dyn FnMut(&str, Vec<f32>) -> Result<()>| file.stream(|_, _| true, take);
        let (params, id) = Params::stream(layout, compute, read).map_err(fault_of(file.path()))?;
        Ok(Self::with_header(header, params).with_file_hash(id))
    }

    /// The guided-diffusion network of a configuration with values for its layout.
    ///
    /// # Errors
    /// [`Error::Config`] when the configuration is not valid, or the values belong to another network.
    pub fn from_config(config: UNetConfig, params: Params) -> Result<Self> {
        let header = PriorHeader::new(config)?;
        check_layout(header.net.layout(), &params)?;
        Ok(Self::with_header(header, params))
    }

    /// Any network with values for its layout, on pixels.
    ///
    /// # Errors
    /// [`Error::Config`] when the values belong to another network.
    pub fn new(net: Arc<dyn Network>, params: Params, info: DenoiserInfo) -> Result<Self> {
        check_layout(net.layout(), &params)?;
        Ok(Self {
            net,
            params,
            info: Arc::new(info),
            id: Arc::default(),
            space: Arc::new(Pixels),
            image_mean: None,
            config: None,
        })
    }

    fn with_header(header: PriorHeader, params: Params) -> Self {
        let PriorHeader { config, net, info, image_mean } = header;
        let (id, space) = (Arc::default(), Arc::new(Pixels));
        Self { net, params, info, id, space, image_mean, config }
    }

    /// The same network with other weights (adapted, averaged), which have an id of their own. What was measured of its
    /// errors does not hold for them.
    #[must_use]
    pub fn with_params(&self, params: Params) -> Self {
        Self { params, id: Arc::default(), ..self.clone() }.with_errors(None)
    }

    /// The same weights, told apart by the hash of the file that they come from.
    #[must_use]
    pub(super) fn with_file_hash(self, hash: ContentHash) -> Self {
        Self { id: Arc::new(OnceLock::from(WeightsId(hash.to_string()))), ..self }
    }

    /// The same network with the mean colours of its training images; `None` for no correction.
    #[must_use]
    pub fn with_image_mean(self, image_mean: Option<ImageMean>) -> Self {
        Self { image_mean, ..self }
    }

    /// The same network with the error of its x0 estimates; `None` where it is not known.
    #[must_use]
    pub fn with_errors(self, errors: Option<EstimateErrors>) -> Self {
        Self { info: Arc::new(DenoiserInfo { errors, ..(*self.info).clone() }), ..self }
    }

    /// The same network sampling in another space.
    #[must_use]
    pub fn with_space(self, space: Arc<dyn Space>) -> Self {
        Self { space, ..self }
    }

    /// What a file of its weights must tell in its metadata for [`Prior::load`] to make the same of them.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let config = self.config.as_ref().map(|config| ("config".to_owned(), config.to_json()));
        let mean = self.image_mean.map(|known| (ImageMean::KEY.to_owned(), known.to_json()));
        let errors = self.info.errors.as_ref().map(|table| (EstimateErrors::KEY.to_owned(), table.to_json()));
        config.into_iter().chain(mean).chain(errors).collect()
    }

    /// The configuration of a guided-diffusion network.
    pub fn config(&self) -> Option<&UNetConfig> {
        self.config.as_ref()
    }

    /// The network without its weights.
    pub fn network(&self) -> &Arc<dyn Network> {
        &self.net
    }

    /// What is known of it before its weights are read.
    pub fn header(&self) -> PriorHeader {
        let Self { net, info, image_mean, config, .. } = self.clone();
        PriorHeader { config, net, info, image_mean }
    }

    /// The weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The layout of the weights.
    pub fn layout(&self) -> &Arc<ParamLayout> {
        self.params.layout()
    }

    /// The space it samples in.
    pub fn space(&self) -> &Arc<dyn Space> {
        &self.space
    }

    /// By what the weights are told apart; computed at the first call where they come from no file.
    ///
    /// # Errors
    /// As [`WeightsId::digest`].
    pub fn id(&self) -> Result<&WeightsId> {
        if let Some(id) = self.id.get() {
            return Ok(id);
        }
        let id = WeightsId::digest(&self.params)?;
        Ok(self.id.get_or_init(|| id))
    }

    /// An entry for each of `n` images, none for a network without classes.
    fn conditioning(&self, n: usize, given: &Conditioning) -> Result<Vec<Conditioning>> {
        self.net.check_conditioning(given)?;
        let beside = given.beside().map_or(0, |beside| beside.dims()[1]);
        if self.info.channels + beside != self.net.input_channels() {
            return Err(Error::config(format!(
                "{beside} channels beside a state of {}: the network expects {} in all",
                self.info.channels,
                self.net.input_channels()
            )));
        }
        Ok(if matches!(given, Conditioning::None) { Vec::new() } else { vec![given.clone(); n] })
    }

    /// eps, not corrected for the image mean, and the variance, by `params` of the network: differentiable where `params`
    /// and `x_t` are on the device's autodiff side.
    fn evaluate(
        &self,
        params: &Params,
        x_t: &Tensor<4>,
        t: Timestep,
        conditioning: &[Conditioning],
    ) -> (Tensor<4>, Option<Tensor<4>>) {
        let timesteps = vec![t; x_t.dims()[0]];
        // The sampler's tensors stay where and in what precision they are; the network computes in its own.
        let input = Conditioning::join(x_t.clone(), conditioning).to_device(&params.device()).cast(params.dtype());
        let out = in_pool(&params.device(), || self.net.forward(params, input, &timesteps, conditioning));
        let out = out.to_device(&x_t.device()).cast(x_t.dtype());
        let (out, variance) = if self.info.variance == VarianceKind::LearnedRange {
            let parts = out.chunk(2, 1);
            (parts[0].clone(), Some(parts[1].clone()))
        } else {
            (out, None)
        };
        (self.info.prediction.eps(out, x_t, &self.info.schedule, &timesteps), variance)
    }

    /// eps as [`Denoiser::predict`] gives it.
    fn corrected(&self, t: Timestep, x_t: &Tensor<4>, eps: Tensor<4>) -> Result<Tensor<4>> {
        match &self.image_mean {
            Some(known) => known.correct(&self.info.schedule, t, x_t, eps),
            None => Ok(eps),
        }
    }

    /// x_t, and eps with the graph that leads back to it.
    fn graph(&self, x_t: &Tensor<4>, t: Timestep, conditioning: &[Conditioning]) -> (Graph, Option<Tensor<4>>) {
        let params = self.params.untracked();
        let x_t = x_t.clone().autodiff().require_grad();
        let (eps, variance) = self.evaluate(&params, &x_t, t, conditioning);
        (Graph { x_t, eps }, variance.map(Tensor::inner))
    }
}

/// Refuses values for another layout.
fn check_layout(layout: &Arc<ParamLayout>, params: &Params) -> Result<()> {
    if params.layout() == layout { Ok(()) } else { Err(Error::config("the weights belong to another network")) }
}

impl Denoiser for Prior {
    fn info(&self) -> &DenoiserInfo {
        &self.info
    }

    fn device(&self) -> Device {
        self.params.device()
    }

    fn predict(&self, x_t: &Tensor<4>, t: Timestep, conditioning: &Conditioning) -> Result<Prediction> {
        self.info.check(x_t)?;
        let conditioning = self.conditioning(x_t.dims()[0], conditioning)?;
        let (eps, variance) = self.evaluate(&self.params, x_t, t, &conditioning);
        Ok(Prediction { eps: self.corrected(t, x_t, eps)?, variance })
    }

    fn predict_back(
        &self,
        x_t: &Tensor<4>,
        t: Timestep,
        conditioning: &Conditioning,
    ) -> Result<(Prediction, Box<dyn Pullback>)> {
        self.info.check(x_t)?;
        let conditioning = self.conditioning(x_t.dims()[0], conditioning)?;
        let (graph, variance) = self.graph(x_t, t, &conditioning);
        let eps = self.corrected(t, x_t, graph.eps.clone().inner())?;
        let back = PriorPullback { prior: self.clone(), x_t: x_t.clone(), t, conditioning, graph: Some(graph).into() };
        Ok((Prediction { eps, variance }, Box::new(back)))
    }
}

/// A tracked evaluation.
struct Graph {
    x_t: Tensor<4>,
    eps: Tensor<4>,
}

/// The way back through the network. The maps of the forward pass serve the first call; later ones compute them again.
struct PriorPullback {
    prior: Prior,
    x_t: Tensor<4>,
    t: Timestep,
    conditioning: Vec<Conditioning>,
    graph: Mutex<Option<Graph>>,
}

impl Pullback for PriorPullback {
    fn x_t(&self, cotangent: &Tensor<4>) -> Result<Tensor<4>> {
        let Self { prior, x_t, t, conditioning, graph } = self;
        check_cotangent(cotangent, x_t.dims())?;
        let kept = graph.lock().unwrap_or_else(PoisonError::into_inner).take();
        let graph = kept.unwrap_or_else(|| prior.graph(x_t, *t, conditioning).0);
        let cotangent = cotangent.clone().to_device(&x_t.device()).cast(x_t.dtype());
        let (of_eps, of_mean) = match &prior.image_mean {
            Some(known) => {
                let (of_eps, of_mean) = known.pull_back(&prior.info.schedule, *t, cotangent)?;
                (of_eps, Some(of_mean))
            }
            None => (cotangent, None),
        };
        let mut gradients = (graph.eps * of_eps.autodiff()).sum().backward();
        let found = graph.x_t.grad_remove(&mut gradients);
        let found = found.ok_or_else(|| Error::Backend("the prediction does not depend on x_t".into()))?;
        Ok(match of_mean {
            Some(of_mean) => found + of_mean,
            None => found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::PredictionKind;
    use crate::noise::{Noise, Stream};
    use crate::tensor::{DType, cpu, to_f64};
    use crate::testing::assert_tensors_close;

    const NETWORK: &str = r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,"channel_mult":[1,2],
        "attention_resolutions":[2],"num_head_channels":32,"resblock_updown":true,"use_scale_shift_norm":true}"#;

    fn normal(step: u32, shape: [usize; 4]) -> Tensor<4> {
        Noise::new(5, Stream::Evaluation).normal_tensor(step, shape, &cpu(), DType::F64)
    }

    /// A network in f64 none of whose weights is zero.
    fn prior(prediction: PredictionKind) -> Prior {
        let config = UNetConfig::from_json(NETWORK).unwrap();
        let header = PriorHeader::new(config).unwrap();
        let noise = Noise::new(1, Stream::Initialization);
        let mut step = 0;
        let params = Params::load(header.net.layout().clone(), &Compute::new(&cpu(), DType::F64), |spec| {
            step += 1;
            let bound = (spec.len() as f64 / spec.shape[0] as f64).sqrt();
            Ok(noise.normal(step, spec.len()).iter().map(|z| z * 0.7 / bound as f32).collect())
        });
        let info = DenoiserInfo { prediction, ..header.info().clone() };
        Prior::new(header.net.clone(), params.unwrap(), info).unwrap()
    }

    fn gaussian() -> ImageMean {
        let covariance = [[0.16, 0.13, 0.10], [0.13, 0.15, 0.13], [0.10, 0.13, 0.18]];
        ImageMean { mean: [-0.1, 0.05, 0.2], covariance }
    }

    /// sum(g eps(x + h d)) by central differences against the pullback of g along d; twice, since the second call computes
    /// the maps again. With and without the image mean, for every kind of prediction.
    #[test]
    fn pullback_is_the_derivative_of_eps() {
        const STEP: f64 = 1e-5;
        let (x, g) = (normal(0, [2, 3, 8, 8]), normal(1, [2, 3, 8, 8]));
        // Along noise, and along a constant: the mean.
        let directions = [normal(2, [2, 3, 8, 8]), normal(3, [2, 3, 1, 1]).expand([2, 3, 8, 8])];
        let t = Timestep(700);
        for kind in [PredictionKind::Epsilon, PredictionKind::V, PredictionKind::Sample] {
            for mean in [None, Some(gaussian())] {
                let prior = prior(kind).with_image_mean(mean);
                let along = |x: Tensor<4>| {
                    let eps = prior.predict(&x, t, &Conditioning::None).unwrap().eps;
                    to_f64(&(eps * g.clone()).sum()).unwrap()[0]
                };
                let (predicted, back) = prior.predict_back(&x, t, &Conditioning::None).unwrap();
                let plain = prior.predict(&x, t, &Conditioning::None).unwrap();
                assert_tensors_close(&predicted.eps, &plain.eps, 1e-12);
                assert_tensors_close(&predicted.variance.unwrap(), &plain.variance.unwrap(), 1e-12);
                for _ in 0..2 {
                    let pulled = back.x_t(&g).unwrap();
                    for d in &directions {
                        let expected =
                            (along(x.clone() + d.clone() * STEP) - along(x.clone() - d.clone() * STEP)) / (2.0 * STEP);
                        let found = to_f64(&(pulled.clone() * d.clone()).sum()).unwrap()[0];
                        assert!(
                            (found - expected).abs() < 1e-6 * expected.abs().max(1.0),
                            "{kind:?}, {mean:?}: {found} instead of {expected}"
                        );
                    }
                }
                assert!(back.x_t(&normal(0, [1, 3, 8, 8])).is_err());
            }
        }
    }

    #[test]
    fn weights_are_told_apart_by_their_values() {
        let prior = prior(PredictionKind::Epsilon);
        let same = prior.with_params(prior.params().map(|_, value| value));
        let other =
            prior.with_params(prior.params().map(|id, value| if id.index() == 5 { value + 1e-3 } else { value }));
        assert_eq!(prior.id().unwrap(), same.id().unwrap());
        assert_ne!(prior.id().unwrap(), other.id().unwrap());
        let file = Prior::embedded_file().unwrap();
        assert_eq!(Prior::embedded().unwrap().id().unwrap().as_str(), file.sha256().unwrap().to_string());
    }

    #[test]
    fn what_a_network_cannot_take_is_refused() {
        let prior = prior(PredictionKind::Epsilon);
        let said = |x: Tensor<4>, c: Conditioning| prior.predict(&x, Timestep(0), &c).unwrap_err().to_string();
        assert!(said(normal(0, [1, 1, 8, 8]), Conditioning::None).contains("3 channels"));
        assert!(said(normal(0, [1, 3, 8, 7]), Conditioning::None).contains("multiples of 2"));
        assert!(said(normal(0, [1, 3, 8, 8]), Conditioning::Class(0)).contains("no classes"));
        let config = UNetConfig { model_channels: 64, ..UNetConfig::from_json(NETWORK).unwrap() };
        assert!(Prior::from_config(config, prior.params().clone()).is_err());
    }
}

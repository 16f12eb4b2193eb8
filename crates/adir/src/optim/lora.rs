//! Low-rank adaptation (Hu et al. 2021), of convolutions as the paper's second version uses it, and of linear layers.
//!
//! A convolution's weight W gains (alpha / rank) B A, where A is a convolution of the same kernel to `rank`
//! channels and B a 1x1 convolution of those. The surprising decision: the sum is formed before the network
//! runs, once a step, and the factors travel with it only to get their gradients, which are taken in the rank. An
//! adapted network so costs nothing more to sample from, and every network that looks its parameters up can be adapted
//! without knowing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::models::params::{FactorIds, Init, ParamId, ParamLayout, ParamSpec, Params, Role};
use crate::tensor::{Compute, DType, Tensor};

/// Prefix of layer names, as in diffusers' files.
const PREFIX: &str = "unet.";

/// Which layers get factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdaptedLayers {
    /// Every convolution (the paper).
    #[default]
    Convolutions,
    /// Every convolution and every linear layer.
    ConvolutionsAndLinear,
}

impl AdaptedLayers {
    /// Whether a parameter is the weight of such a layer.
    pub fn include(self, role: Role) -> bool {
        match role {
            Role::Convolution => true,
            Role::Linear => self == Self::ConvolutionsAndLinear,
            _ => false,
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The factors of the adapted layers of one network.
#[derive(Debug, Clone)]
pub struct Lora {
    rank: usize,
    alpha: f64,
    /// Base parameter, and its factors within `factors`.
    layers: Arc<[FactorIds]>,
    factors: Params,
}

/// Name of the first factor of a parameter.
pub(crate) fn name_of_a(base: &ParamSpec) -> String {
    format!("{PREFIX}{}.lora_A.weight", base.name.trim_end_matches(".weight"))
}

/// Names and shapes of the factors: `unet.LAYER.lora_A.weight` `[rank, in, k..]` and
/// `unet.LAYER.lora_B.weight` `[out, rank, 1..]` for every adapted layer.
fn factors_of(base: &ParamLayout, rank: usize, adapted: AdaptedLayers) -> (ParamLayout, Arc<[FactorIds]>) {
    let mut layout = ParamLayout::default();
    let mut layers = Vec::new();
    for (id, spec) in base.ids().zip(base.specs()).filter(|(_, spec)| adapted.include(spec.role)) {
        let ParamSpec { name, shape, role, .. } = spec;
        let layer = name.trim_end_matches(".weight");
        let fan_in = shape[1..].iter().product();
        let of_a: Vec<usize> = std::iter::once(rank).chain(shape[1..].iter().copied()).collect();
        let of_b: Vec<usize> = [shape[0], rank].into_iter().chain(shape[2..].iter().map(|_| 1)).collect();
        layers.push(FactorIds {
            base: id,
            a: layout.add(name_of_a(spec), &of_a, *role, Init::Uniform { fan_in }),
            b: layout.add(format!("{PREFIX}{layer}.lora_B.weight"), &of_b, *role, Init::Zeros),
        });
    }
    (layout, layers.into())
}

impl Lora {
    /// Factors whose product is zero: A uniform within 1 / sqrt(fan in), B zero. They lie where `base` does, in f32.
    ///
    /// # Errors
    /// None is expected.
    pub fn new(base: &Params, rank: usize, alpha: f64, adapted: AdaptedLayers, seed: u64) -> Result<Self> {
        let (layout, layers) = factors_of(base.layout(), rank, adapted);
        let factors = Params::initial(Arc::new(layout), seed, &Compute::new(&base.device(), DType::F32))?;
        Ok(Self { rank, alpha, layers, factors })
    }

    /// Factors for `base`, read with `read`.
    ///
    /// # Errors
    /// What `read` returns.
    pub fn read(
        base: &Params,
        rank: usize,
        alpha: f64,
        adapted: AdaptedLayers,
        read: impl FnMut(&ParamSpec) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let (layout, layers) = factors_of(base.layout(), rank, adapted);
        let factors = Params::load(Arc::new(layout), &Compute::new(&base.device(), DType::F32), read)?;
        Ok(Self { rank, alpha, layers, factors })
    }

    /// The rank of the factors.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The factors' product counts alpha / rank times.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The factors.
    pub fn factors(&self) -> &Params {
        &self.factors
    }

    /// Every adapted weight with its factors A and B, flat.
    pub fn layers(&self) -> Vec<(ParamId, Tensor<1>, Tensor<1>)> {
        self.layers.iter().map(|ids| (ids.base, self.factors.flat(ids.a), self.factors.flat(ids.b))).collect()
    }

    /// The same with other factors.
    #[must_use]
    pub fn with_factors(&self, factors: Params) -> Self {
        Self { factors, ..self.clone() }
    }

    /// The same factors with another alpha.
    #[must_use]
    pub fn with_alpha(self, alpha: f64) -> Self {
        Self { alpha, ..self }
    }

    /// What the products of the factors count: alpha / rank.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// `base` plus the products of the factors.
    #[must_use]
    pub fn merged(&self, base: &Params) -> Params {
        base.par_map(|id, value| match self.layers.binary_search_by_key(&id, |layer| layer.base) {
            Ok(place) => {
                let layer = self.layers[place];
                let (a, b) = (self.factors.flat(layer.a), self.factors.flat(layer.b));
                let inputs = self.factors.layout().spec(layer.a).len() / self.rank;
                let outputs = self.factors.layout().spec(layer.b).len() / self.rank;
                let change = b.reshape([outputs, self.rank]).matmul(a.reshape([self.rank, inputs])) * self.scale();
                (value.cast(DType::F32) + change.reshape([outputs * inputs])).cast(base.dtype())
            }
            Err(_) => value,
        })
    }

    /// [`Lora::merged`] with the factors as what is trained.
    #[must_use]
    pub fn attached(&self, base: &Params) -> Params {
        self.merged(base).with_factors(self.layers.clone(), self.factors.clone(), self.scale())
    }
}

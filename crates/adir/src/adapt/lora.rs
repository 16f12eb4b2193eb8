//! Low-rank adaptation of convolutions (Hu et al. 2021, as the paper's second version uses it).
//!
//! A convolution's weight W gains (alpha / rank) B A, where A is a convolution of the same kernel to `rank`
//! channels and B a 1x1 convolution of those. The surprising decision: the sum is formed before the network
//! runs, and the factors' gradients follow from that of W, which is exact, since two linear maps in a row are
//! one. An adapted network so costs nothing more to sample from, and every network that looks its parameters
//! up can be adapted without knowing.

use std::sync::Arc;

use burn::tensor::DType;

use crate::Result;
use crate::models::params::{ParamId, ParamLayout, ParamSpec, Params};
use crate::noise::{Noise, Stream};
use crate::tensor::Tensor;

/// What stands before the names of adapted layers, as in diffusers' files.
pub(super) const PREFIX: &str = "unet.";

/// The factors of every convolution of one network.
#[derive(Debug, Clone)]
pub struct Lora {
    rank: usize,
    alpha: f64,
    /// Base parameter, and its factors within `factors`.
    layers: Vec<Layer>,
    factors: Params,
}

#[derive(Debug, Clone, Copy)]
struct Layer {
    base: ParamId,
    a: ParamId,
    b: ParamId,
    /// Output channels, and inputs times kernel.
    sides: [usize; 2],
}

/// Names and shapes of the factors: `unet.LAYER.lora_A.weight` `[rank, in, k..]` and
/// `unet.LAYER.lora_B.weight` `[out, rank, 1..]` for every convolution.
fn factors_of(base: &ParamLayout, rank: usize) -> (ParamLayout, Vec<Layer>) {
    let mut layout = ParamLayout::default();
    let mut layers = Vec::new();
    for (id, ParamSpec { name, shape }) in base.ids().zip(base.specs()) {
        // Convolutions are the weights of three (1-d) or four dimensions.
        let Some(layer) = name.strip_suffix(".weight").filter(|_| shape.len() >= 3) else { continue };
        let of_a: Vec<usize> = std::iter::once(rank).chain(shape[1..].iter().copied()).collect();
        let of_b: Vec<usize> = [shape[0], rank].into_iter().chain(shape[2..].iter().map(|_| 1)).collect();
        layers.push(Layer {
            base: id,
            a: layout.add(format!("{PREFIX}{layer}.lora_A.weight"), &of_a),
            b: layout.add(format!("{PREFIX}{layer}.lora_B.weight"), &of_b),
            sides: [shape[0], shape[1..].iter().product()],
        });
    }
    (layout, layers)
}

impl Lora {
    /// Factors whose product is zero: A uniform within 1 / sqrt(fan in), B zero. They lie where `base` does, in f32.
    ///
    /// # Errors
    /// None is expected.
    pub fn new(base: &Params, rank: usize, alpha: f64, seed: u64) -> Result<Self> {
        let noise = Noise::new(seed, Stream::Initialization);
        let mut step = 0;
        Self::read(base, rank, alpha, |spec| {
            step += 1;
            if spec.name.ends_with("lora_B.weight") {
                return Ok(vec![0.0; spec.len()]);
            }
            let bound = (spec.shape[1..].iter().product::<usize>() as f64).sqrt().recip();
            let value = |i: usize| (bound * (2.0 * noise.uniform(step, i as u32) - 1.0)) as f32;
            Ok((0..spec.len()).map(value).collect())
        })
    }

    /// Factors for `base` that `read` knows.
    ///
    /// # Errors
    /// What `read` returns.
    pub fn read(
        base: &Params,
        rank: usize,
        alpha: f64,
        read: impl FnMut(&ParamSpec) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let (layout, layers) = factors_of(base.layout(), rank);
        let factors = Params::load(Arc::new(layout), &base.device(), DType::F32, read)?;
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

    /// The same with other factors.
    #[must_use]
    pub fn with_factors(&self, factors: Params) -> Self {
        Self { factors, ..self.clone() }
    }

    /// The same with another alpha: its product counts more or less.
    #[must_use]
    pub fn with_alpha(self, alpha: f64) -> Self {
        Self { alpha, ..self }
    }

    fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Both factors of a layer as matrices `[rank, in k..]` and `[out, rank]`.
    fn matrices(&self, layer: &Layer) -> (Tensor<2>, Tensor<2>) {
        let [out, inputs] = layer.sides;
        (self.factors.flat(layer.a).reshape([self.rank, inputs]), self.factors.flat(layer.b).reshape([out, self.rank]))
    }

    /// `base` plus the products of the factors.
    #[must_use]
    pub fn merged(&self, base: &Params) -> Params {
        let mut layers = self.layers.iter().peekable();
        base.map(|id, value| match layers.next_if(|layer| layer.base == id) {
            Some(layer) => {
                let (a, b) = self.matrices(layer);
                let [out, inputs] = layer.sides;
                let change = b.matmul(a) * self.scale();
                (value.cast(DType::F32) + change.reshape([out * inputs])).cast(base.dtype())
            }
            None => value,
        })
    }

    /// The factors' gradients, by their place in [`Lora::factors`], from the gradient of the merged weight `id`;
    /// none where that parameter is not adapted. `d(B A) = W'`: dB = s W' A^T, dA = s B^T W'.
    pub fn chain(&self, id: ParamId, gradient: Tensor<1>) -> Option<[(ParamId, Tensor<1>); 2]> {
        let layer = &self.layers[self.layers.binary_search_by_key(&id, |layer| layer.base).ok()?];
        let (a, b) = self.matrices(layer);
        let [out, inputs] = layer.sides;
        let gradient = gradient.cast(DType::F32).reshape([out, inputs]) * self.scale();
        let of_b = gradient.clone().matmul(a.transpose());
        let of_a = b.transpose().matmul(gradient);
        Some([(layer.a, of_a.reshape([self.rank * inputs])), (layer.b, of_b.reshape([out * self.rank]))])
    }
}

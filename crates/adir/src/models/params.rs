//! A network's parameters, apart from the network: a named list of flat tensors.
//!
//! Networks hold no weights. A network is a description that looks its
//! parameters up by [`ParamId`] in whatever [`Params`] it is given, so that pretrained, adapted, averaged
//! and tracked weights are the same kind of value, and an optimiser walks a flat list.

use std::collections::HashMap;
use std::sync::Arc;

use adir_kernels::{Kernel, LowRank, widen};
use burn::tensor::DType;
use rayon::prelude::*;

use super::placing::place;
use crate::noise::{Noise, Stream};
use crate::tensor::{self, Compute, Device, Tensor};
use crate::{Error, Result};

/// Position of a parameter in its [`ParamLayout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(usize);

impl ParamId {
    /// The position, counted from 0.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What a parameter is to its network, whatever its name and rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Weight of a convolution of one or two dimensions, `[out, in, k..]`.
    Convolution,
    /// Weight of a linear layer, `[out, in]`.
    Linear,
    /// Factor of a normalised channel, `[channels]`.
    Norm,
    /// Table of vectors, `[entries, width]`.
    Embedding,
    /// What is added by a layer of any kind, `[out]`.
    Bias,
}

/// How a parameter begins in an untrained network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Init {
    /// Uniform within 1 / sqrt(`fan_in`), as PyTorch's convolutions and linear layers, weights and biases alike.
    Uniform {
        /// Numbers that one output of the layer is summed from.
        fan_in: usize,
    },
    /// 1.
    Ones,
    /// 0.
    Zeros,
}

/// Name, shape and meaning of one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// The name in checkpoints.
    pub name: String,
    /// Its shape, row-major, output channels first.
    pub shape: Vec<usize>,
    /// What it is.
    pub role: Role,
    /// How it begins.
    pub init: Init,
}

impl ParamSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the parameter has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The names and shapes of a network's parameters, in a fixed order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParamLayout {
    specs: Vec<ParamSpec>,
    by_name: HashMap<String, ParamId>,
}

impl ParamLayout {
    /// Adds a parameter.
    ///
    /// # Panics
    /// When there is one of that name: a mistake in the network's code.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize], role: Role, init: Init) -> ParamId {
        let id = ParamId(self.specs.len());
        let name = name.into();
        let before = self.by_name.insert(name.clone(), id);
        assert!(before.is_none(), "the network has two parameters {name}");
        self.specs.push(ParamSpec { name, shape: shape.to_vec(), role, init });
        id
    }

    /// All parameters, in order.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.by_name.get(name).copied()
    }

    /// The parameter at that position.
    pub fn spec(&self, id: ParamId) -> &ParamSpec {
        &self.specs[id.0]
    }

    /// Every parameter's id, in order.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = ParamId> + use<> {
        (0..self.specs.len()).map(ParamId)
    }

    /// Number of scalar parameters in all.
    pub fn element_count(&self) -> usize {
        self.specs.iter().map(ParamSpec::len).sum()
    }
}

/// Values for a [`ParamLayout`]: one flat tensor each. Cloning shares the values. Weights may be kept in half as many bits as
/// they are computed with ([`Compute::kept_in`]).
///
/// They may come with low-rank factors ([`Params::with_factors`]), which then are what is trained. A network that looks
/// its parameters up need not know.
#[derive(Debug, Clone)]
pub struct Params {
    layout: Arc<ParamLayout>,
    values: Vec<Tensor<1>>,
    /// In which a network computes with them.
    dtype: DType,
    /// In which some of them are kept; see [`Compute::kept_in`].
    kept_in: Option<DType>,
    bf16_products: bool,
    factors: Option<Factors>,
}

/// Which factors belong to a weight, by their places in a layout of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FactorIds {
    /// The weight, `[out, in, k..]`.
    pub base: ParamId,
    /// A, `[rank, in, k..]`.
    pub a: ParamId,
    /// B, `[out, rank, 1..]`.
    pub b: ParamId,
}

/// Factors that are part of values: the weight of each of `ids` holds `scale B A`.
#[derive(Debug, Clone)]
struct Factors {
    /// By increasing base.
    ids: Arc<[FactorIds]>,
    values: Box<Params>,
    scale: f64,
}

/// Values with gradients, and what they are gradients of.
#[derive(Debug, Clone)]
pub struct Tracked {
    /// For a network to compute with.
    pub params: Params,
    /// What is trained: the factors where the values came with some, else the values, in the order of their layout.
    pub leaves: Vec<Tensor<1>>,
}

impl Params {
    /// Reads every parameter through `read`, one after the other, and puts each at once where and in what precision
    /// `compute` says, so that no more than one of them exists twice.
    ///
    /// # Errors
    /// Whatever `read` returns, and [`Error::Config`] when it gives the wrong number of elements.
    pub fn load(
        layout: Arc<ParamLayout>,
        compute: &Compute,
        mut read: impl FnMut(&ParamSpec) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let values = layout.specs().iter().map(|spec| place(spec, read(spec)?, compute)).collect::<Result<_>>()?;
        Ok(Self::of(layout, values, compute))
    }

    fn of(layout: Arc<ParamLayout>, values: Vec<Tensor<1>>, compute: &Compute) -> Self {
        let Compute { dtype, bf16_products, kept_in, .. } = *compute;
        Self { layout, values, dtype, kept_in, bf16_products, factors: None }
    }

    /// As [`Params::load`], from a source that hands over its tensors by name in an order of its own: `feed` gets a
    /// function to call with each. Returns what `feed` returns, too.
    ///
    /// # Errors
    /// What `feed` returns; [`Error::Config`] for a name that the layout has not, a wrong number of elements, and for
    /// parameters that were not handed over.
    pub fn stream<T>(
        layout: Arc<ParamLayout>,
        compute: &Compute,
        feed: impl FnOnce(&mut dyn FnMut(&str, Vec<f32>) -> Result<()>) -> Result<T>,
    ) -> Result<(Self, T)> {
        let mut values: Vec<Option<Tensor<1>>> = vec![None; layout.specs().len()];
        let fed = feed(&mut |name, found| {
            let id = layout.find(name).ok_or_else(|| Error::config(format!("{name} is no parameter")))?;
            values[id.0] = Some(place(layout.spec(id), found, compute)?);
            Ok(())
        })?;
        let missing = |(value, spec): (Option<Tensor<1>>, &ParamSpec)| {
            value.ok_or_else(|| Error::config(format!("{} was not read", spec.name)))
        };
        let values = values.into_iter().zip(layout.specs()).map(missing).collect::<Result<_>>()?;
        Ok((Self::of(layout, values, compute), fed))
    }

    /// The parameters of an untrained network, as each [`Init`] says: a function of `seed`.
    ///
    /// # Errors
    /// None is expected.
    pub fn initial(layout: Arc<ParamLayout>, seed: u64, compute: &Compute) -> Result<Self> {
        let noise = Noise::new(seed, Stream::Initialization);
        let mut step = 0;
        Self::load(layout, compute, |spec| {
            step += 1;
            Ok(match spec.init {
                Init::Zeros => vec![0.0; spec.len()],
                Init::Ones => vec![1.0; spec.len()],
                Init::Uniform { fan_in } => {
                    let bound = (fan_in as f64).sqrt().recip();
                    let value = |i: usize| (bound * (2.0 * noise.uniform(step, i as u32) - 1.0)) as f32;
                    (0..spec.len()).map(value).collect()
                }
            })
        })
    }

    /// The layout these values belong to.
    pub fn layout(&self) -> &Arc<ParamLayout> {
        &self.layout
    }

    /// The flat values of one parameter, in the precision that is computed with.
    pub fn flat(&self, id: ParamId) -> Tensor<1> {
        let value = self.values[id.0].clone();
        if self.kept_in == Some(value.dtype()) { widen(value) } else { value }
    }

    /// One parameter in its own shape.
    ///
    /// # Panics
    /// When `D` is not the rank the network declared for it: a mistake in the network's code.
    pub fn get<const D: usize>(&self, id: ParamId) -> Tensor<D> {
        let shape: [usize; D] =
            self.layout.spec(id).shape.as_slice().try_into().expect("the network asks for the rank it declared");
        self.flat(id).reshape(shape)
    }

    /// One weight of a convolution; that of a 1-d one of kernel 1, or of a linear layer, as the 1x1 it is over the positions
    /// of an image.
    ///
    /// # Panics
    /// As [`Params::get`].
    pub fn kernel(&self, id: ParamId) -> Kernel {
        // As it is kept: the kernels widen it where they read it.
        let value = self.values[id.0].clone();
        let weight = match self.layout.spec(id).shape[..] {
            [out, inputs, 1] | [out, inputs] => value.reshape([out, inputs, 1, 1]),
            [out, inputs, height, width] => value.reshape([out, inputs, height, width]),
            ref shape => panic!("the network asks for the kernel of a weight {shape:?}"),
        };
        let low_rank = self.factors_of(id).map(|(a, b, scale)| {
            let [_, inputs, kernel, _] = weight.dims();
            let [rank, _] = a.dims();
            LowRank { a: a.reshape([rank, inputs, kernel, kernel]), b, scale }
        });
        Kernel { weight, bf16_products: self.bf16_products, low_rank }
    }

    /// `x W^T` for the weight `[out, in]` of a linear layer and `x` `[n, in]`.
    ///
    /// # Panics
    /// As [`Params::get`].
    pub fn linear(&self, id: ParamId, x: Tensor<2>) -> Tensor<2> {
        let out = x.clone().matmul(self.get::<2>(id).transpose());
        match self.factors_of(id) {
            None => out,
            // The factors are part of the weight: their branch adds nothing but their gradients.
            Some((a, b, scale)) => {
                let branch = x.detach().matmul(a.transpose()).matmul(b.transpose()) * scale;
                out + (branch.clone() - branch.detach())
            }
        }
    }

    /// A `[rank, in k..]`, B `[out, rank]` and scale of the factors of a weight.
    fn factors_of(&self, id: ParamId) -> Option<(Tensor<2>, Tensor<2>, f64)> {
        let Factors { ids, values, scale } = self.factors.as_ref()?;
        let ids = ids[ids.binary_search_by_key(&id, |ids| ids.base).ok()?];
        let matrix = |id: ParamId| {
            let spec = values.layout.spec(id);
            values.flat(id).reshape([spec.shape[0], spec.len() / spec.shape[0].max(1)])
        };
        Some((matrix(ids.a), matrix(ids.b), *scale))
    }

    /// The same values, of which factors are part already: the weight of each of `ids`, by increasing base, holds `scale
    /// B A`. Gradients are then taken of the factors, and of nothing else.
    #[must_use]
    pub fn with_factors(self, ids: Arc<[FactorIds]>, values: Params, scale: f64) -> Self {
        debug_assert!(ids.is_sorted_by_key(|ids| ids.base));
        Self { factors: Some(Factors { ids, values: Box::new(values), scale }), ..self }
    }

    /// The values on the device's autodiff side; tracked is only what is trained.
    pub fn tracked(&self) -> Tracked {
        let track = |value: Tensor<1>| value.autodiff().require_grad();
        match &self.factors {
            None => {
                let leaves: Vec<_> = self.layout.ids().map(|id| track(self.flat(id))).collect();
                Tracked { params: Self { values: leaves.clone(), ..self.clone() }, leaves }
            }
            Some(factors) => {
                let leaves: Vec<_> = factors.values.values.iter().cloned().map(track).collect();
                let tracked = Params { values: leaves.clone(), ..Params::clone(&factors.values) };
                let factors = Some(Factors { values: Box::new(tracked), ..factors.clone() });
                let values = self.values.iter().map(|value| value.clone().autodiff()).collect();
                Tracked { params: Self { values, factors, ..self.clone() }, leaves }
            }
        }
    }

    /// The values on the device's autodiff side, none of them tracked.
    #[must_use]
    pub fn untracked(&self) -> Self {
        Self { factors: None, ..self.map(|_, value| value.autodiff()) }
    }

    /// Whether a parameter, or factors of it, are among the leaves of [`Params::tracked`].
    pub fn is_trained(&self, id: ParamId) -> bool {
        let among = |factors: &Factors| factors.ids.binary_search_by_key(&id, |ids| ids.base).is_ok();
        self.factors.as_ref().is_none_or(among)
    }

    /// Whether convolutions with these weights multiply in bfloat16; see [`Compute::bf16_products`].
    pub fn bf16_products(&self) -> bool {
        self.bf16_products
    }

    /// New values from old ones, parameter by parameter, as they are kept.
    #[must_use]
    pub fn map(&self, mut f: impl FnMut(ParamId, Tensor<1>) -> Tensor<1>) -> Self {
        let values = self.layout.ids().zip(&self.values).map(|(id, value)| f(id, value.clone())).collect();
        Self { layout: self.layout.clone(), values, ..self.clone() }
    }

    /// [`Params::map`] on all threads.
    #[must_use]
    pub fn par_map(&self, f: impl Fn(ParamId, Tensor<1>) -> Tensor<1> + Sync) -> Self {
        let values = (0..self.values.len()).into_par_iter().map(|i| f(ParamId(i), self.values[i].clone())).collect();
        Self { values, ..self.clone() }
    }

    /// Applies `f` to every value in place; `f` receives the only reference if nothing else holds one.
    pub fn update(&mut self, mut f: impl FnMut(ParamId, Tensor<1>) -> Tensor<1>) {
        let values = std::mem::take(&mut self.values);
        self.values = values.into_iter().enumerate().map(|(i, value)| f(ParamId(i), value)).collect();
    }

    /// The same values in another precision.
    #[must_use]
    pub fn in_precision(&self, dtype: DType) -> Self {
        if dtype == self.dtype() && self.factors.as_ref().is_none_or(|factors| factors.values.dtype() == dtype) {
            return self.clone();
        }
        let factors = self.factors.as_ref().map(|factors| {
            let values = Box::new(factors.values.in_precision(dtype));
            Factors { values, ..factors.clone() }
        });
        Self { factors, dtype, kept_in: None, ..self.map(|_, value| value.cast(dtype)) }
    }

    /// The same values, to be computed with as `other` is.
    #[must_use]
    pub fn like(&self, other: &Self) -> Self {
        Self { bf16_products: other.bf16_products, ..self.in_precision(other.dtype()) }
    }

    /// Where and how they are computed with.
    pub fn compute(&self) -> Compute {
        let Self { dtype, kept_in, bf16_products, .. } = *self;
        Compute { device: self.device(), dtype, bf16_products, kept_in }
    }

    /// The precision that is computed with.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device the values live on.
    pub fn device(&self) -> Device {
        self.values.first().map_or_else(tensor::cpu, |v| v.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Network;
    use crate::models::guided_diffusion::{UNet, UNetConfig};
    use crate::tensor::to_f64;

    #[test]
    #[should_panic(expected = "two parameters a.weight")]
    fn a_second_parameter_of_a_name_is_refused() {
        let mut layout = ParamLayout::default();
        layout.add("a.weight", &[2], Role::Norm, Init::Ones);
        layout.add("a.weight", &[3], Role::Norm, Init::Ones);
    }

    /// Convolutions and linear layers are uniform within 1 / sqrt(fan in), weights and biases alike; normalisations are 1
    /// and 0; the last layer of each residual and attention branch, and of the network, is zero.
    #[test]
    fn initial_weights_match_pytorch() {
        let config = UNetConfig::from_json(
            r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,"channel_mult":[1,2],
                "attention_resolutions":[2],"num_head_channels":32,"resblock_updown":true,"use_scale_shift_norm":true}"#,
        )
        .unwrap();
        let net = UNet::new(&config).unwrap();
        let params = Params::initial(net.layout().clone(), 3, &Compute::default()).unwrap();
        let values = |name: &str| to_f64(&params.flat(params.layout().find(name).unwrap())).unwrap();
        assert!(values("input_blocks.1.0.in_layers.0.weight").iter().all(|v| *v == 1.0));
        for zero in
            ["input_blocks.1.0.in_layers.0.bias", "out.2.weight", "out.2.bias", "middle_block.1.proj_out.weight"]
        {
            assert!(values(zero).iter().all(|v| *v == 0.0), "{zero}");
        }
        for (name, fan_in) in [
            ("input_blocks.1.0.in_layers.2.weight", 32 * 9),
            ("input_blocks.1.0.in_layers.2.bias", 32 * 9),
            ("time_embed.0.weight", 32),
            ("middle_block.1.qkv.weight", 64),
        ] {
            let (values, bound) = (values(name), f64::from(fan_in).sqrt().recip());
            let largest = values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
            assert!(largest <= bound * 1.000001 && largest > 0.8 * bound, "{name}: {largest} of {bound}");
            let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
            // Uniform: a third of the square of the bound; loosely for the 32 numbers of a bias.
            assert!((variance * 3.0 / bound / bound - 1.0).abs() < 0.5, "{name}: {variance}");
        }
    }
}

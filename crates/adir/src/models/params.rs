//! A network's parameters, apart from the network: a named list of flat tensors.
//!
//! The surprising decision: networks here hold no weights. A network is a description that looks its
//! parameters up by [`ParamId`] in whatever [`Params`] it is given, so that pretrained, adapted, averaged
//! and tracked weights are all the same kind of value, and an optimiser needs no tree walk.

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::DType;

use crate::tensor::{self, Device, Tensor};
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

/// Name and shape of one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// The name in checkpoints.
    pub name: String,
    /// Its shape, row-major, output channels first.
    pub shape: Vec<usize>,
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
    /// Adds a parameter; names are unique by construction of the networks.
    pub fn add(&mut self, name: impl Into<String>, shape: &[usize]) -> ParamId {
        let id = ParamId(self.specs.len());
        let name = name.into();
        self.by_name.insert(name.clone(), id);
        self.specs.push(ParamSpec { name, shape: shape.to_vec() });
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

/// Values for a [`ParamLayout`]: one flat tensor each. Cloning shares the values.
#[derive(Debug, Clone)]
pub struct Params {
    layout: Arc<ParamLayout>,
    values: Vec<Tensor<1>>,
}

impl Params {
    /// Reads every parameter through `read`, one after the other, and moves each to `device` in precision `dtype` at once, so
    /// that no more than one of them exists twice.
    ///
    /// # Errors
    /// Whatever `read` returns, and [`Error::Config`] when it gives the wrong number of elements.
    pub fn load(
        layout: Arc<ParamLayout>,
        device: &Device,
        dtype: DType,
        mut read: impl FnMut(&ParamSpec) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let values = layout
            .specs()
            .iter()
            .map(|spec| {
                let values = read(spec)?;
                if values.len() != spec.len() {
                    return Err(Error::config(format!(
                        "{}: {} values for shape {:?}",
                        spec.name,
                        values.len(),
                        spec.shape
                    )));
                }
                Ok(tensor::from_f32(values, [spec.len()], device).cast(dtype))
            })
            .collect::<Result<_>>()?;
        Ok(Self { layout, values })
    }

    /// The layout these values belong to.
    pub fn layout(&self) -> &Arc<ParamLayout> {
        &self.layout
    }

    /// The flat values of one parameter.
    pub fn flat(&self, id: ParamId) -> Tensor<1> {
        self.values[id.0].clone()
    }

    /// One parameter in its own shape.
    ///
    /// # Panics
    /// When `D` is not the rank the network declared for it: a mistake in the network's code.
    pub fn get<const D: usize>(&self, id: ParamId) -> Tensor<D> {
        let shape: [usize; D] =
            self.layout.spec(id).shape.as_slice().try_into().expect("the network asks for the rank it declared");
        self.values[id.0].clone().reshape(shape)
    }

    /// New values from old ones, parameter by parameter.
    #[must_use]
    pub fn map(&self, mut f: impl FnMut(ParamId, Tensor<1>) -> Tensor<1>) -> Self {
        let values = self.layout.ids().map(|id| f(id, self.flat(id))).collect();
        Self { layout: self.layout.clone(), values }
    }

    /// Replaces every value by what `f` makes of it; `f` gets the only reference where nothing else holds one.
    pub fn update(&mut self, mut f: impl FnMut(ParamId, Tensor<1>) -> Tensor<1>) {
        let values = std::mem::take(&mut self.values);
        self.values = values.into_iter().enumerate().map(|(i, value)| f(ParamId(i), value)).collect();
    }

    /// The same values in another precision.
    #[must_use]
    pub fn in_precision(&self, dtype: DType) -> Self {
        if dtype == self.dtype() { self.clone() } else { self.map(|_, value| value.cast(dtype)) }
    }

    /// The precision of the values.
    pub fn dtype(&self) -> DType {
        self.values.first().map_or(DType::F32, |v| v.dtype())
    }

    /// The device the values live on.
    pub fn device(&self) -> Device {
        self.values.first().map_or_else(tensor::cpu, |v| v.device())
    }
}

//! Which network, where, in which precision.

use std::path::PathBuf;

use adir::compute::Precision;
use adir::engine::{Engine, EngineBuilder};
use adir::io::limits::Limits;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::hub::model_path;
use crate::memory;

/// The names of a library enum, for clap.
pub fn named<T: Clone + Send + Sync + std::str::FromStr<Err = adir::Error> + 'static>(
    names: impl IntoIterator<Item = &'static str>,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(names).try_map(|text: String| text.parse::<T>())
}

/// A precision, for clap.
pub fn precision() -> impl TypedValueParser<Value = Precision> {
    named(Precision::ALL.map(|(_, name)| name))
}

/// The network of a command.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Weights: guided-diffusion's .pt or safetensors; a folder of diffusers or a single file with Stable Diffusion's x4
    /// upscaler, or for `adir edit` an inpainting model; or ORG/NAME of a model that `adir models pull` has downloaded
    /// [default: the embedded prior; none for `adir edit`]
    #[arg(short = 'm', long, value_name = "WEIGHTS", value_parser = model_path())]
    pub model: Option<PathBuf>,
    /// Configuration of the network (JSON), if the weights do not hold it [default: a .json file beside them]
    #[arg(long, value_name = "JSON", requires = "model")]
    pub model_config: Option<PathBuf>,
    /// cpu or, in builds with that feature, cuda, vulkan, metal or rocm; :N picks the N-th GPU
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Precision the network computes in
    #[arg(long, default_value = "f32", value_parser = precision())]
    pub dtype: Precision,
    /// Memory limit in GB: images too large for it are sampled in smaller tiles. Images whose decoded samples take more
    /// than an eighth of it are refused [default: the free memory, and 0.54 GB for decoded samples]
    #[arg(long, value_name = "GB", value_parser = crate::args::above_zero)]
    pub max_memory: Option<f64>,
}

impl ModelArgs {
    /// An engine with this network, refusing what does not fit into the memory that is free.
    pub fn engine(&self) -> EngineBuilder {
        let builder = Engine::builder().device(&self.device).precision(self.dtype).memory(self.memory());
        let builder = builder.limits(self.most().map_or_else(Limits::default, Limits::within));
        match &self.model {
            Some(weights) => builder.model(weights, self.model_config.clone()),
            None => builder,
        }
    }

    /// Bytes that may be taken.
    pub fn memory(&self) -> Option<u64> {
        memory::available().into_iter().chain(self.most()).min()
    }

    /// Bytes that the user allows.
    fn most(&self) -> Option<u64> {
        self.max_memory.map(|gb| (gb * 1e9) as u64)
    }
}

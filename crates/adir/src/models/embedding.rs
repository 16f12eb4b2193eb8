//! What every block of a U-Net is told of timesteps and classes.

use burn::tensor::activation::silu;

use super::blocks::Affine;
use super::params::{Init, ParamId, ParamLayout, Params, Role};
use crate::schedule::Timestep;
use crate::tensor::{self, Tensor};

/// The embedding of timesteps by two linear layers, and that of classes by a table, added up.
#[derive(Debug)]
pub(super) struct StepEmbedding {
    channels: usize,
    time: [Affine; 2],
    label: Option<ParamId>,
}

impl StepEmbedding {
    /// Of sinusoids of `channels` numbers to `width` numbers, with guided-diffusion's names.
    pub fn new(layout: &mut ParamLayout, channels: usize, width: usize, classes: Option<usize>) -> Self {
        let time = [
            Affine::linear_layer(layout, "time_embed.0", &[width, channels]),
            Affine::linear_layer(layout, "time_embed.2", &[width, width]),
        ];
        let label = classes.map(|classes| {
            let init = Init::Uniform { fan_in: width };
            layout.add("label_emb.weight", &[classes, width], Role::Embedding, init)
        });
        Self { channels, time, label }
    }

    /// `[n, width]` for an entry of `timesteps` and of `classes` an image, with the SiLU that every block would apply
    /// first; no `classes` at all add nothing, nor does the lack of one. In the precision and on the device of `like`.
    pub fn forward(
        &self,
        p: &Params,
        timesteps: &[Timestep],
        classes: &[Option<usize>],
        like: &Tensor<4>,
    ) -> Tensor<2> {
        let embedding = sinusoids(timesteps, self.channels, like);
        let mut emb = self.time[1].linear(p, silu(self.time[0].linear(p, embedding)));
        if let (Some(label), false) = (self.label, classes.is_empty()) {
            let table = p.get::<2>(label);
            let row = |class: usize| table.clone().narrow(0, class, 1);
            let rows = classes.iter().map(|class| match class {
                Some(class) => row(*class),
                None => row(0).zeros_like(),
            });
            emb = emb + Tensor::cat(rows.collect(), 0);
        }
        silu(emb)
    }

    /// All parameters.
    pub fn parameters(&self) -> Vec<ParamId> {
        self.time.iter().flat_map(|layer| layer.ids()).chain(self.label).collect()
    }
}

/// Sinusoidal embedding `[n, width]` of the timesteps, cosines first, in the precision of `like`.
///
/// Frequencies and angles are rounded to f32 as the reference rounds them: at t = 999 that rounding is
/// larger than what separates implementations otherwise.
fn sinusoids(timesteps: &[Timestep], width: usize, like: &Tensor<4>) -> Tensor<2> {
    let half = width / 2;
    let angle = |t: Timestep, k: usize| f32::from(t.0) * (-(10000.0_f32.ln()) * k as f32 / half as f32).exp();
    let values = timesteps
        .iter()
        .flat_map(|&t| (0..half).map(move |k| angle(t, k).cos()).chain((0..half).map(move |k| angle(t, k).sin())))
        .collect();
    tensor::from_f32(values, [timesteps.len(), width], &like.device()).cast(like.dtype())
}

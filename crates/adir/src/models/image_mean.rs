//! The mean colour of an image, for networks that cannot see it.
//!
//! Before its last convolution the network normalises 32 groups of channels. With 32 channels each group is one
//! channel, whose mean is removed, so the mean of the predicted noise hardly depends on the mean of x_t (measured:
//! 0.003 of it, where 0.9 would be right at the highest noise level), and images drawn
//! from such a prior keep the mean of the initial noise, 1.2 in [-1, 1] units at 128x128: flat, saturated hues. The
//! mean is a few numbers, so its denoiser is known: that of a Gaussian with the mean and covariance that the
//! training images have.

use serde::{Deserialize, Serialize};

use crate::schedule::{Schedule, Timestep};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// Mean and covariance of the mean colours of images, in [-1, 1] units.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageMean {
    /// The mean of all images.
    pub mean: [f64; 3],
    /// How the means of single images vary around it.
    pub covariance: [[f64; 3]; 3],
}

impl ImageMean {
    /// The key under which weights files carry it, as JSON.
    pub(super) const KEY: &'static str = "image_mean";

    /// From the mean colours of images.
    ///
    /// # Errors
    /// [`Error::Config`] for fewer than two, which have no covariance.
    pub fn of(colours: &[[f64; 3]]) -> Result<Self> {
        if colours.len() < 2 {
            return Err(Error::config("the covariance of mean colours needs at least two images"));
        }
        let count = colours.len() as f64;
        let mean = std::array::from_fn(|i| colours.iter().map(|c| c[i]).sum::<f64>() / count);
        let covariance = std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                colours.iter().map(|c| (c[i] - mean[i]) * (c[j] - mean[j])).sum::<f64>() / (count - 1.0)
            })
        });
        Ok(Self { mean, covariance })
    }

    /// From JSON.
    ///
    /// # Errors
    /// [`Error::Config`] when it is no such JSON, or no covariance.
    pub fn from_json(text: &str) -> Result<Self> {
        let found: Self = serde_json::from_str(text).map_err(|e| Error::config(format!("image_mean: {e}")))?;
        let c = &found.covariance;
        let symmetric = (0..3).all(|i| (0..3).all(|j| (c[i][j] - c[j][i]).abs() <= 1e-9 * (c[i][i] + c[j][j])));
        let finite = found.mean.iter().chain(c.iter().flatten()).all(|v| v.is_finite());
        if !finite || !symmetric || (0..3).any(|i| c[i][i] < 0.0) || determinant(c) < -1e-12 {
            return Err(Error::config("image_mean: the covariance is not positive semi-definite"));
        }
        Ok(found)
    }

    /// As [`ImageMean::from_json`] reads it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The noise `eps` predicted for `x_t` with its mean over each image and channel replaced by the best guess from
    /// that of `x_t`: with m its mean and N pixels, m = sqrt(alpha_bar) mean(x0) + N(0, (1 - alpha_bar) / N), hence
    /// mean(x0) = mu + sqrt(alpha_bar) C (alpha_bar C + (1 - alpha_bar) / N)^-1 (m - sqrt(alpha_bar) mu).
    ///
    /// # Errors
    /// [`Error::Backend`] when the device fails; [`Error::Config`] for other than 3 channels.
    pub(super) fn correct(
        &self,
        schedule: &Schedule,
        t: Timestep,
        x_t: &Tensor<4>,
        eps: Tensor<4>,
    ) -> Result<Tensor<4>> {
        let [n, channels, h, w] = x_t.dims();
        if channels != 3 {
            return Err(Error::config(format!("image_mean has 3 channels, the image {channels}")));
        }
        let alpha_bar = schedule.original_alpha_bar(t);
        let means = |of: &Tensor<4>| of.clone().mean_dim(3).mean_dim(2);
        let seen = tensor::to_f64(&means(x_t))?;
        let (colours, _) = seen.as_chunks::<3>();
        let wanted = colours.iter().flat_map(|m| {
            let x0 = self.posterior(*m, alpha_bar, (1.0 - alpha_bar) / (h * w) as f64);
            std::array::from_fn::<f64, 3, _>(|i| (m[i] - alpha_bar.sqrt() * x0[i]) / (1.0 - alpha_bar).sqrt())
        });
        let wanted = tensor::from_f64(wanted.collect(), [n, 3, 1, 1], &eps.device()).cast(eps.dtype());
        Ok(eps.clone() + (wanted - means(&eps)))
    }

    /// The way back through [`ImageMean::correct`]: from the cotangent of its result those of the `eps` it was given and,
    /// `[n, 3, 1, 1]`, of every pixel of x_t by the mean alone. With D the Jacobian of the mean of eps by that of x_t,
    /// a cotangent g of N pixels leaves g - mean(g) for eps and D^T mean(g) for x_t.
    ///
    /// # Errors
    /// As [`ImageMean::correct`].
    pub(super) fn pull_back(
        &self,
        schedule: &Schedule,
        t: Timestep,
        cotangent: Tensor<4>,
    ) -> Result<(Tensor<4>, Tensor<4>)> {
        let [n, _, h, w] = cotangent.dims();
        let alpha_bar = schedule.original_alpha_bar(t);
        let centre = self.mean.map(|mean| alpha_bar.sqrt() * mean);
        // The posterior is linear in what is seen beyond its centre.
        let columns: [[f64; 3]; 3] = std::array::from_fn(|j| {
            let seen = std::array::from_fn(|i| centre[i] + if i == j { 1.0 } else { 0.0 });
            let x0 = self.posterior(seen, alpha_bar, (1.0 - alpha_bar) / (h * w) as f64);
            let identity = |i: usize| if i == j { 1.0 } else { 0.0 };
            std::array::from_fn(|i| {
                (identity(i) - alpha_bar.sqrt() * (x0[i] - self.mean[i])) / (1.0 - alpha_bar).sqrt()
            })
        });
        let means = cotangent.clone().mean_dim(3).mean_dim(2);
        let of_images = tensor::to_f64(&means)?;
        let of_x_t =
            of_images.as_chunks::<3>().0.iter().flat_map(|g| columns.map(|d| (0..3).map(|i| d[i] * g[i]).sum::<f64>()));
        let of_x_t = tensor::from_f64(of_x_t.collect(), [n, 3, 1, 1], &cotangent.device()).cast(cotangent.dtype());
        Ok((cotangent - means, of_x_t))
    }

    /// The mean of x0 given `seen`, that of x_t whose noise has variance `noise`.
    fn posterior(&self, seen: [f64; 3], alpha_bar: f64, noise: f64) -> [f64; 3] {
        let c = &self.covariance;
        let total: [[f64; 3]; 3] =
            std::array::from_fn(|i| std::array::from_fn(|j| alpha_bar * c[i][j] + if i == j { noise } else { 0.0 }));
        let off: [f64; 3] = std::array::from_fn(|i| seen[i] - alpha_bar.sqrt() * self.mean[i]);
        // Cramer's rule.
        let whole = determinant(&total);
        let solved: [f64; 3] = std::array::from_fn(|k| {
            let replaced: [[f64; 3]; 3] =
                std::array::from_fn(|i| std::array::from_fn(|j| if j == k { off[i] } else { total[i][j] }));
            determinant(&replaced) / whole
        });
        std::array::from_fn(|i| self.mean[i] + alpha_bar.sqrt() * (0..3).map(|j| c[i][j] * solved[j]).sum::<f64>())
    }
}

fn determinant(m: &[[f64; 3]; 3]) -> f64 {
    let minor = |j: usize, k: usize| m[1][j] * m[2][k] - m[1][k] * m[2][j];
    m[0][0] * minor(1, 2) - m[0][1] * minor(0, 2) + m[0][2] * minor(0, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::guided_diffusion::UNetConfig;
    use crate::models::params::Params;
    use crate::models::{Denoiser, Prior, PriorHeader};
    use crate::noise::{Noise, Stream};
    use crate::sampler::{Chain, DdimConfig, Inputs, initial_noise};
    use crate::schedule::Respacing;
    use crate::tensor::{Compute, DType, cpu};

    /// Colours of a Gaussian with a strong common part, as photographs have.
    fn gaussian() -> ImageMean {
        let covariance = [[0.16, 0.13, 0.10], [0.13, 0.15, 0.13], [0.10, 0.13, 0.18]];
        ImageMean { mean: [-0.1, 0.05, 0.2], covariance }
    }

    /// A blind network (all weights zero: it always predicts no noise) with the mean in it.
    fn blind() -> Prior {
        let config = r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,"channel_mult":[1],
            "attention_resolutions":[],"resblock_updown":true,"use_scale_shift_norm":true}"#;
        let config = UNetConfig::from_json(config).unwrap();
        let layout = PriorHeader::new(config.clone()).unwrap().network().layout().clone();
        let zeros = Params::load(layout, &Compute::default(), |spec| Ok(vec![0.0; spec.len()])).unwrap();
        Prior::from_config(config, zeros).unwrap().with_image_mean(Some(gaussian()))
    }

    /// The mean colours of 200 images drawn with it have the mean and covariance asked for.
    #[test]
    fn images_of_a_blind_network_get_the_colours_of_the_training_images() {
        let model = blind();
        let schedule = model.info().schedule.respaced(&Respacing::Sections(vec![100])).unwrap();
        let noise = Noise::new(3, Stream::Sampling);
        let x = initial_noise(&noise, [200, 3, 4, 4], &cpu(), DType::F32);
        let config = DdimConfig { eta: 0.0, clip_x0: false, ..DdimConfig::default() };
        let last = Chain::new(Inputs::new(&model, &schedule, &noise), config, x).unwrap().last().unwrap().unwrap().x_t;
        let means = tensor::to_f64(&last.mean_dim(3).mean_dim(2)).unwrap();
        let found = ImageMean::of(means.as_chunks::<3>().0).unwrap();
        let asked = gaussian();
        for i in 0..3 {
            let error = asked.covariance[i][i].sqrt() / 200.0_f64.sqrt();
            assert!((found.mean[i] - asked.mean[i]).abs() < 4.0 * error, "{found:?}");
            for j in 0..3 {
                // The variance of a sample covariance.
                let (c, both) = (asked.covariance[i][j], asked.covariance[i][i] * asked.covariance[j][j]);
                let error = ((both + c * c) / 199.0).sqrt();
                assert!((found.covariance[i][j] - c).abs() < 4.0 * error, "{i} {j}: {found:?}");
            }
        }
    }

    /// Against the same formula written for a covariance without correlations.
    #[test]
    fn the_posterior_of_independent_channels_is_the_textbook_s() {
        let independent =
            ImageMean { mean: [0.3, -0.2, 0.0], covariance: [[0.2, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.4]] };
        for (alpha_bar, noise) in [(0.5, 0.01), (4e-5, 6e-5), (0.999, 1e-7)] {
            let seen = [0.02, 0.3, -0.4];
            let found = independent.posterior(seen, alpha_bar, noise);
            for i in 0..3 {
                // Precisions add up: of the prior, and of the observation of x0.
                let (prior, observed) = (1.0 / independent.covariance[i][i], alpha_bar / noise);
                let expected =
                    (independent.mean[i] * prior + seen[i] / alpha_bar.sqrt() * observed) / (prior + observed);
                assert!((found[i] - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found:?} {expected}");
            }
        }
    }

    #[test]
    fn what_is_no_covariance_is_refused() {
        let mut wrong = gaussian();
        assert_eq!(ImageMean::from_json(&wrong.to_json()).unwrap(), wrong);
        wrong.covariance[0][1] = 0.2;
        assert!(ImageMean::from_json(&wrong.to_json()).is_err());
        wrong.covariance = [[-1.0; 3]; 3];
        assert!(ImageMean::from_json(&wrong.to_json()).is_err());
        assert!(ImageMean::from_json("{}").is_err() && ImageMean::of(&[[0.0; 3]]).is_err());
    }
}

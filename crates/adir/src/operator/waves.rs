//! Waves on planes: the eigenvectors of convolutions.

use std::ops::{Add, Mul};
use std::sync::OnceLock;

use rayon::prelude::*;
use rustfft::num_complex::Complex64;

use super::dct::Dct2d;
use super::fft::Fft2d;
use super::real_fft::{Real, RealFft2d};
use super::{ImageShape, Kernel};
use crate::compute::get_or_make;

/// A basis of waves, and the eigenvalue of each.
#[derive(Debug)]
pub(super) struct Waves {
    exact: Transform<f64>,
    near: Transform<f32>,
    origin: Origin,
    eigenvalues: OnceLock<Vec<f64>>,
}

/// What the eigenvalues of waves come from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A is the convolution with a kernel.
    Kernel(Kernel),
    /// A A^T is separable. The eigenvalues on each axis.
    Axes { vertical: Vec<f64>, horizontal: Vec<f64> },
}

/// Planes to the amplitudes of waves, and back.
#[derive(Debug)]
pub(super) enum Transform<T> {
    /// The Fourier basis, of planes that continue periodically.
    Fourier(RealFft2d<T>),
    /// The cosine basis, of planes that continue mirrored.
    Cosine(Dct2d<T>),
}

/// Numbers of a precision in which waves are computed.
pub(super) trait Precision: Real {
    /// The transform of that precision.
    fn transform(waves: &Waves) -> &Transform<Self>;
}

impl Precision for f64 {
    fn transform(waves: &Waves) -> &Transform<f64> {
        &waves.exact
    }
}

impl Precision for f32 {
    fn transform(waves: &Waves) -> &Transform<f32> {
        &waves.near
    }
}

impl Waves {
    /// On planes of that shape that continue periodically, the eigenvalues being those of K K^T for the convolution K with
    /// `kernel`.
    pub(super) fn periodic(shape: ImageShape, kernel: Kernel) -> Self {
        let ImageShape { height, width, .. } = shape;
        Self {
            exact: Transform::Fourier(RealFft2d::new(height, width)),
            near: Transform::Fourier(RealFft2d::new(height, width)),
            origin: Origin::Kernel(kernel),
            eigenvalues: OnceLock::new(),
        }
    }

    /// On planes that continue mirrored.
    pub(super) fn mirrored(shape: ImageShape, origin: Origin) -> Self {
        let ImageShape { height, width, .. } = shape;
        Self {
            exact: Transform::Cosine(Dct2d::new(height, width)),
            near: Transform::Cosine(Dct2d::new(height, width)),
            origin,
            eigenvalues: OnceLock::new(),
        }
    }

    /// Column by column. Computed on the first call, then kept: a plan asks for none of them.
    pub(super) fn eigenvalues(&self) -> &[f64] {
        get_or_make::<Vec<f64>>(&self.eigenvalues, || match (&self.origin, &self.exact) {
            (Origin::Axes { vertical, horizontal }, _) => {
                horizontal.iter().flat_map(|h| vertical.iter().map(move |v| h * v)).collect()
            }
            (Origin::Kernel(kernel), Transform::Fourier(fft)) => {
                let fft = Fft2d::new(fft.height(), fft.width());
                transfer(&fft, kernel).iter().map(Complex64::norm_sqr).collect()
            }
            (Origin::Kernel(kernel), Transform::Cosine(dct)) => {
                // Of planes with their mirrored copies, the waves up to half of the frequencies are the cosines.
                let (height, width) = (dct.height(), dct.width());
                let copied = transfer(&Fft2d::new(2 * height, 2 * width), kernel);
                let columns = copied.chunks(2 * height).take(width);
                columns.flat_map(|column| column[..height].iter().map(Complex64::norm_sqr)).collect()
            }
        })
    }

    /// The eigenvalues of the waves whose amplitudes a transform keeps.
    pub(super) fn kept(&self) -> &[f64] {
        match &self.exact {
            Transform::Fourier(fft) => &self.eigenvalues()[..fft.values()],
            Transform::Cosine(_) => self.eigenvalues(),
        }
    }

    /// Whether they were asked for.
    #[cfg(test)]
    pub(super) fn are_known(&self) -> bool {
        self.eigenvalues.get().is_some()
    }

    /// The largest eigenvalue. A kernel that takes no light away has it at the constant wave, which it keeps as it is.
    pub(super) fn largest(&self) -> f64 {
        let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        match &self.origin {
            Origin::Axes { vertical, horizontal } => most(vertical) * most(horizontal),
            Origin::Kernel(kernel) if kernel.is_non_negative() => 1.0,
            Origin::Kernel(_) => most(self.eigenvalues()),
        }
    }

    /// The sum of images whose waves are multiplied by gains, of those that are [kept](Waves::kept).
    pub(super) fn filter<T: Precision>(&self, images: &[&[f64]], gains: &[Vec<T>]) -> Vec<f64> {
        let numbers = |image: &&[f64]| image.par_iter().map(|v| T::of(*v)).collect::<Vec<T>>();
        let terms = images.iter().map(numbers).zip(gains);
        let sum = match T::transform(self) {
            Transform::Fourier(fft) => {
                let spectra = terms.map(|(image, gains)| {
                    let mut spectra = fft.forward(&image);
                    weigh(&mut spectra, gains);
                    spectra
                });
                sum(spectra).map(|spectra| fft.inverse(spectra))
            }
            Transform::Cosine(dct) => {
                let spectra = terms.map(|(image, gains)| {
                    let mut spectra = dct.forward(image);
                    weigh(&mut spectra, gains);
                    spectra
                });
                sum(spectra).map(|spectra| dct.inverse(spectra))
            }
        };
        sum.unwrap_or_default().into_par_iter().map(Into::into).collect()
    }
}

/// Values of a plane that one task takes.
const VALUES_PER_TASK: usize = 1 << 14;

/// Multiplies the values of planes by gains, the same for each.
fn weigh<V: Copy + Mul<T, Output = V> + Send, T: Copy + Sync>(planes: &mut [V], gains: &[T]) {
    planes.par_chunks_mut(gains.len()).for_each(|plane| {
        plane.par_chunks_mut(VALUES_PER_TASK).zip(gains.par_chunks(VALUES_PER_TASK)).for_each(|(part, gains)| {
            part.iter_mut().zip(gains).for_each(|(v, gain)| *v = *v * *gain);
        });
    });
}

/// The sum of lists of the same length.
fn sum<V: Copy + Add<Output = V> + Send + Sync>(lists: impl Iterator<Item = Vec<V>>) -> Option<Vec<V>> {
    lists.reduce(|mut sum, list| {
        sum.par_chunks_mut(VALUES_PER_TASK).zip(list.par_chunks(VALUES_PER_TASK)).for_each(|(sum, list)| {
            sum.iter_mut().zip(list).for_each(|(sum, v)| *sum = *sum + *v);
        });
        sum
    })
}

/// The transfer function of a circular convolution with `kernel`, in the order of the transform.
pub(super) fn transfer(fft: &Fft2d, kernel: &Kernel) -> Vec<Complex64> {
    let (height, width) = (fft.height, fft.width);
    let mut wrapped = vec![Complex64::ZERO; height * width];
    for (i, weight) in kernel.weights().iter().enumerate() {
        let (row, column) = (i / kernel.width(), i % kernel.width());
        wrapped[row % height * width + column % width] += weight;
    }
    fft.forward(wrapped)
}

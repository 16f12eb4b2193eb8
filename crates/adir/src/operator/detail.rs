//! How much of the fine detail of photographs a blur leaves.

use super::Kernel;
use super::fft::Fft2d;
use super::waves::transfer;

/// Side of the planes that the sum below is taken over.
const SIDE: usize = 256;

/// The mean square of the Laplacian of photographs that were blurred with `kernel`, in relation to that of sharp ones. Their
/// power falls with the third power of the frequency here, which fits 23 photographs to within a factor of 1.5 for boxes and
/// Gaussians of up to 9 pixels (docs/results/borders.md).
pub fn detail_left(kernel: &Kernel) -> f64 {
    let transfer = transfer(&Fft2d::new(SIDE, SIDE), kernel);
    let frequency = |k: usize| k.min(SIDE - k) as f64 / SIDE as f64;
    let (mut blurred, mut sharp) = (0.0, 0.0);
    for (i, value) in transfer.iter().enumerate().skip(1) {
        let [x, y] = [frequency(i / SIDE), frequency(i % SIDE)];
        let laplacian = 4.0 - 2.0 * (std::f64::consts::TAU * x).cos() - 2.0 * (std::f64::consts::TAU * y).cos();
        let power = laplacian * laplacian * x.hypot(y).powi(-3);
        sharp += power;
        blurred += power * value.norm_sqr();
    }
    blurred / sharp
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same sums by NumPy.
    #[test]
    fn wide_kernels_leave_little() {
        assert!((detail_left(&Kernel::delta()) - 1.0).abs() < 1e-12);
        for (kernel, expected) in [
            (Kernel::boxed(3).unwrap(), 0.08341),
            (Kernel::boxed(5).unwrap(), 0.02255),
            (Kernel::gaussian(9, 1.6).unwrap(), 0.01573),
            (Kernel::gaussian(13, 2.0).unwrap(), 0.008137),
        ] {
            let found = detail_left(&kernel);
            assert!((found / expected - 1.0).abs() < 1e-3, "{found} {expected}");
        }
    }
}

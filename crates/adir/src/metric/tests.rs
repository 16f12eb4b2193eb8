//! Numbers from scikit-image and numpy.
//!
//! The script that made them:
//!
//! ```python
//! import numpy as np
//! from skimage.metrics import structural_similarity as ssim
//! def image(c, h, w, a, b):
//!     return np.array([[[(a*i*i + b*j*j + 5*i*j + 40*k + 11*i*k) % 256 for j in range(w)]
//!                       for i in range(h)] for k in range(c)], np.uint8)
//! x = image(3, 24, 31, 1, 2)
//! y = np.clip(0.8*x + 13 + (image(3, 24, 31, 3, 5) % 40), 0, 255).round().astype(np.uint8)
//! kw = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
//! print(10*np.log10(255**2/np.mean((x.astype(float) - y)**2)))   # psnr_rgb
//! print(ssim(x, y, channel_axis=0, **kw))                        # ssim_rgb
//! luma = lambda u: 16 + (65.481*u[0] + 128.553*u[1] + 24.966*u[2])/255
//! a, b = luma(x.astype(float))[3:-3, 3:-3], luma(y.astype(float))[3:-3, 3:-3]
//! print(10*np.log10(255**2/np.mean((a - b)**2)), ssim(a, b, **kw))  # psnr_y, ssim_y
//! ```

use super::*;
use crate::Error;
use crate::operator::{BicubicDownsample, ImageShape, LinearOperator};
use crate::tensor::{self, Tensor};

const SHAPE: ImageShape = ImageShape::new(3, 24, 31);

fn pixel(n: usize, a: usize, b: usize) -> f64 {
    let (k, i, j) = (n / SHAPE.pixels(), n / SHAPE.width % SHAPE.height, n % SHAPE.width);
    ((a * i * i + b * j * j + 5 * i * j + 40 * k + 11 * i * k) % 256) as f64
}

fn tensor_from_pixels(pixels: impl Iterator<Item = f64>, channels: usize) -> Tensor<4> {
    let values = pixels.map(|p| (p / 127.5 - 1.0) as f32).collect();
    tensor::from_f32(values, [1, channels, SHAPE.height, SHAPE.width], &tensor::cpu())
}

/// The pair of the script; y with fractions of a level, which the metrics must round away.
fn pair() -> (Tensor<4>, Tensor<4>) {
    let x = (0..SHAPE.elements()).map(|n| pixel(n, 1, 2));
    let y = (0..SHAPE.elements()).map(|n| 0.8 * pixel(n, 1, 2) + 13.0 + pixel(n, 3, 5) % 40.0);
    (tensor_from_pixels(x, 3), tensor_from_pixels(y, 3))
}

fn assert_close(found: &[f64], expected: f64) {
    assert!(found.iter().all(|v| (v - expected).abs() < 1e-9), "found {found:?}, expected {expected}");
}

#[test]
fn agree_with_numpy_and_scikit_image() {
    let (x, y) = pair();
    assert_close(&psnr_rgb(&x, &y).unwrap(), 22.224460306120562);
    assert_close(&psnr_y(&x, &y, 3).unwrap(), 26.392833624960197);
    assert_close(&ssim_rgb(&x, &y).unwrap(), 0.9600395288505875);
    assert_close(&ssim_y(&x, &y, 3).unwrap(), 0.9549011691353122);
}

#[test]
fn symmetric_and_perfect_for_equal_images() {
    let (x, y) = pair();
    assert_eq!(psnr_rgb(&x, &y).unwrap(), psnr_rgb(&y, &x).unwrap());
    assert_eq!(ssim_y(&x, &y, 1).unwrap(), ssim_y(&y, &x, 1).unwrap());
    assert_eq!(psnr_y(&x, &x, 0).unwrap(), [f64::INFINITY]);
    assert_close(&ssim_rgb(&x, &x).unwrap(), 1.0);
}

#[test]
fn one_value_for_each_image_and_values_outside_the_range_are_clamped() {
    let (x, y) = pair();
    let both = |a: &Tensor<4>, b: &Tensor<4>| Tensor::cat(vec![a.clone(), b.clone()], 0);
    let found = psnr_rgb(&both(&x, &x), &both(&y, &x)).unwrap();
    assert_close(&found[..1], 22.224460306120562);
    assert_eq!(found[1], f64::INFINITY);

    let white = tensor_from_pixels((0..SHAPE.elements()).map(|_| 255.0), 3);
    assert_eq!(psnr_rgb(&(white.clone() * 3.0), &white).unwrap(), [f64::INFINITY]);
}

#[test]
fn grey_images_are_compared_as_they_are() {
    let x = tensor_from_pixels((0..SHAPE.pixels()).map(|n| pixel(n, 1, 2)), 1);
    let y = tensor_from_pixels((0..SHAPE.pixels()).map(|n| 0.8 * pixel(n, 1, 2) + 13.0), 1);
    assert_eq!(psnr_y(&x, &y, 0).unwrap(), psnr_rgb(&x, &y).unwrap());
    assert_eq!(ssim_y(&x, &y, 0).unwrap(), ssim_rgb(&x, &y).unwrap());
}

#[test]
fn agreement_is_the_psnr_of_the_residual() {
    let (x, _) = pair();
    let a = BicubicDownsample::new(SHAPE, 4).unwrap();
    let y = a.apply(&x).unwrap() + 0.02;
    // 10 log10(2^2 / 0.02^2) = 40 dB.
    let found = agreement(&a, &x, &y).unwrap();
    assert!((found[0] - 40.0).abs() < 1e-4, "{found:?}");
    assert!(matches!(agreement(&a, &x, &x), Err(Error::Config(_))));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let (x, y) = pair();
    let wider = tensor::from_f32(vec![0.0; 3 * 24 * 32], [1, 3, 24, 32], &tensor::cpu());
    assert!(matches!(psnr_rgb(&x, &wider), Err(Error::Config(_))));
    assert!(matches!(psnr_y(&x, &y, 12), Err(Error::Config(_))), "nothing left");
    assert!(matches!(ssim_y(&x, &y, 7), Err(Error::Config(_))), "10 rows left");
    let two = x.clone().narrow(1, 0, 2);
    assert!(matches!(psnr_y(&two, &two, 0), Err(Error::Config(_))));
    let nan = x.clone() * f32::NAN;
    assert!(matches!(ssim_rgb(&x, &nan), Err(Error::Numerical(_))));
}

/// The values of basicsr 1.4.2 (tests/fixtures/niqe.py); its Gaussian window has rounded numbers, its resizing is in f32.
#[test]
fn niqe_is_that_of_the_published_package() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/cat.png");
    let cat = crate::io::image::read_image(&path, &crate::io::limits::Limits::default()).unwrap().tensor;
    let part = cat.clone().narrow(2, 30, 210).narrow(3, 16, 200);
    for (image, expected) in [(cat.clone(), 3.059556999942845), (part, 3.246055383639815)] {
        let found = niqe(&image).unwrap()[0];
        assert!((found / expected - 1.0).abs() < 1e-4, "{found}, expected {expected}");
    }
    let flat = Tensor::zeros([1, 3, 192, 192], &tensor::cpu());
    assert!(matches!(niqe(&flat), Err(Error::Numerical(_))));
    assert!(matches!(niqe(&cat.narrow(2, 0, 128).narrow(3, 0, 180)), Err(Error::Config(_))));
}

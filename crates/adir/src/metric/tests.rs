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
//! z = 0.8*x + 13 + image(3, 24, 31, 3, 5) % 40                     # y before it is rounded
//! a, b = x/127.5 - 1, z/127.5 - 1
//! known = np.fromfunction(lambda i, j: (3*i + j) % 4 != 0, (24, 31))
//! print(10*np.log10(4/np.mean((a - b)[:, known]**2)))              # agreement of y with x in the known pixels
//! p, q = a[:, :12].mean((1, 2)), b[:, :12].mean((1, 2))
//! print(np.arccos(p@q/np.linalg.norm(p)/np.linalg.norm(q)))        # angle of the mean colours of the upper half
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::encode::{Embedding, Encoder, EncoderId};
use crate::operator::{BicubicDownsample, Compose, Degradation, ImageShape, LinearOperator, Mask, PixelMask};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

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

/// By pytorch_msssim 1.0.0, which pads odd sides otherwise and so is asked for even ones:
///
/// ```python
/// k, i, j = np.mgrid[0:3, 0:h, 0:w]
/// image = lambda a, b: ((a*i + b*j + (i//8)*(j//8)*5 + 40*k) % 256).astype(np.uint8)
/// x = image(1, 2); y = np.clip(0.8*x + 13 + image(3, 5) % 40, 0, 255).round().astype(np.uint8)
/// planes = [torch.from_numpy(luma(v.astype(float))[None, None]) for v in (x, y)]
/// print(pytorch_msssim.ms_ssim(*planes, data_range=255))
/// ```
#[test]
fn multiscale_ssim_is_pytorch_msssims() {
    for (h, w, expected) in [(192, 256, 0.9615079609968741), (176, 208, 0.9597783753360625)] {
        let level = |n: usize, a: usize, b: usize| {
            let (k, i, j) = (n / (h * w), n / w % h, n % w);
            ((a * i + b * j + (i / 8) * (j / 8) * 5 + 40 * k) % 256) as f64
        };
        let image = |level: &dyn Fn(usize) -> f64| {
            let values = (0..3 * h * w).map(|n| (level(n) / 127.5 - 1.0) as f32).collect();
            tensor::from_f32(values, [1, 3, h, w], &tensor::cpu())
        };
        let x = image(&|n| level(n, 1, 2));
        let y = image(&|n| 0.8 * level(n, 1, 2) + 13.0 + level(n, 3, 5) % 40.0);
        let found = ms_ssim_y(&x, &y, 0).unwrap()[0];
        assert!((found - expected).abs() < 2e-7, "{h}x{w}: {found} instead of {expected}");
        assert_eq!(ms_ssim_y(&x, &x, 0).unwrap(), [1.0]);
        let nan = x.clone() * f32::NAN;
        assert!(matches!(MsSsimY.value(&Case::new(&nan).with_truth(&x)), Err(Error::Numerical(_))));
        // Odd sides have a value, too; below a side of 161 there is none.
        let cut = |t: &Tensor<4>, side: usize| t.clone().narrow(2, 0, side).narrow(3, 0, 171);
        assert!((ms_ssim_y(&cut(&x, 161), &cut(&y, 161), 0).unwrap()[0] - expected).abs() < 0.02);
        assert!(MsSsimY.value(&Case { truth: Some(&cut(&x, 160)), ..Case::new(&cut(&y, 160)) }).unwrap().is_none());
    }
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
    let cat = cat();
    let part = cat.clone().narrow(2, 30, 210).narrow(3, 16, 200);
    for (image, expected) in [(cat.clone(), 3.059556999942845), (part, 3.246055383639815)] {
        let found = niqe(&image).unwrap()[0];
        assert!((found / expected - 1.0).abs() < 1e-4, "{found}, expected {expected}");
    }
    let flat = Tensor::zeros([1, 3, 192, 192], &tensor::cpu());
    assert!(matches!(niqe(&flat), Err(Error::Numerical(_))));
    assert!(matches!(niqe(&cat.narrow(2, 0, 128).narrow(3, 0, 180)), Err(Error::Config(_))));
}

/// The first three quarters of every four pixels, moved by one from line to line, are known.
fn mask() -> Mask {
    let known = (0..SHAPE.pixels()).map(|n| !(3 * (n / SHAPE.width) + n % SHAPE.width).is_multiple_of(4)).collect();
    Mask::new(SHAPE.height, SHAPE.width, known).unwrap()
}

fn value(metric: &dyn Metric, case: &Case<'_>) -> f64 {
    metric.value(case).unwrap().unwrap_or_else(|| panic!("{} does not apply", metric.name()))
}

#[test]
fn metrics_have_the_values_of_the_script_and_of_the_published_package() {
    let (x, y) = pair();
    let operator = PixelMask::new(SHAPE, mask()).unwrap();
    let case = Case::new(&y).with_truth(&x).with_border(3).with_observation(&operator, &x);
    let expected = [
        ("psnr_rgb", 22.224460306120562, 1e-9),
        ("psnr_y", 26.392833624960197, 1e-9),
        ("ssim_rgb", 0.9600395288505875, 1e-9),
        ("ssim_y", 0.9549011691353122, 1e-9),
        // The images are f32, and not rounded here.
        ("agreement_psnr", 22.234038592295647, 1e-5),
    ];
    for (name, expected, within) in expected {
        let found = value(named(name).unwrap().as_ref(), &case);
        assert!((found - expected).abs() < within, "{name}: {found}, expected {expected}");
    }
    let found = value(&Niqe, &Case::new(&cat()));
    assert!((found / 3.059556999942845 - 1.0).abs() < 1e-4, "{found}");
    let found = value(&FeatureAngle::new(Arc::new(UpperHalf::default())), &case);
    assert!((found - 2.234375507632133).abs() < 1e-5, "{found}");
}

#[test]
fn an_image_is_perfect_against_itself_and_the_worse_the_more_it_is_changed() {
    let cat = cat();
    let changed = [0.0, 0.02, 0.2].map(|by| cat.clone() + wave(&cat) * by);
    let a = Degradation::SuperResolution { factor: 4 }.build(ImageShape::of_batch(&cat), None).unwrap();
    let y = a.apply(&cat).unwrap();
    let case = |restored| Case::new(restored).with_truth(&cat).with_observation(a.as_ref(), &y).with_border(4);
    for metric in all().unwrap() {
        let found = [0, 1, 2].map(|i| value(metric.as_ref(), &case(&changed[i])));
        let better = |i: usize, j: usize| metric.better().prefers(found[i], found[j]);
        // What knows no truth may like a little of a pattern, but not much of it.
        let sorted = better(0, 2) && (metric.needs() == Needs::Nothing || better(0, 1) && better(1, 2));
        assert!(sorted, "{}: {found:?}", metric.name());
        match (metric.needs(), metric.unit()) {
            (Needs::Nothing, _) => {}
            (_, "dB") => assert_eq!(found[0], f64::INFINITY, "{}", metric.name()),
            (_, "rad") => assert_eq!(found[0], 0.0),
            _ => assert!((found[0] - 1.0).abs() < 1e-12, "{}: {}", metric.name(), found[0]),
        }
    }
}

#[test]
fn a_metric_without_what_it_needs_does_not_apply() {
    let (x, y) = pair();
    let small = |t: &Tensor<4>| t.clone().narrow(2, 0, 12).narrow(3, 0, 10);
    let two = |t: &Tensor<4>| t.clone().narrow(1, 0, 2);
    let applying = |restored: &Tensor<4>, truth: Option<&Tensor<4>>, border: usize| -> Vec<String> {
        let case = Case { truth, ..Case::new(restored).with_border(border) };
        let metrics = all().unwrap().into_iter().filter(|m| m.value(&case).unwrap().is_some());
        metrics.map(|m| m.name().to_owned()).collect()
    };
    assert_eq!(applying(&y, None, 0), [""; 0]);
    assert_eq!(applying(&y, Some(&x), 0), ["psnr_rgb", "psnr_y", "ssim_rgb", "ssim_y", "feature_angle"]);
    assert_eq!(applying(&y, Some(&x), 7), ["psnr_rgb", "psnr_y", "ssim_rgb", "feature_angle"], "10 rows inside");
    assert_eq!(applying(&small(&y), Some(&small(&x)), 0), ["psnr_rgb", "psnr_y", "feature_angle"]);
    assert_eq!(applying(&two(&y), Some(&two(&x)), 0), ["psnr_rgb", "ssim_rgb"]);
    assert_eq!(applying(&cat(), None, 0), ["niqe"]);
    let flat = Tensor::zeros([1, 3, 192, 192], &tensor::cpu());
    assert_eq!(applying(&flat, None, 0), [""; 0], "without structure");
}

#[test]
fn images_that_do_not_belong_together_are_refused_by_every_metric() {
    let (x, y) = pair();
    let a = BicubicDownsample::new(SHAPE, 4).unwrap();
    let small = a.apply(&x).unwrap();
    let nan = y.clone() * f32::NAN;
    let both = Tensor::cat(vec![x.clone(), y.clone()], 0);
    let pairs = Tensor::cat(vec![small.clone(), small.clone()], 0);
    // MS-SSIM does not apply to images as small as these.
    let applies = |m: &dyn Metric| m.needs() != Needs::Nothing && m.name() != "ms_ssim_y";
    for metric in all().unwrap().iter().filter(|m| applies(m.as_ref())) {
        let refused = |case: Case<'_>| metric.value(&case).unwrap_err();
        let name = metric.name();
        assert!(
            matches!(refused(Case::new(&y).with_truth(&small).with_observation(&a, &y)), Error::Config(_)),
            "{name}"
        );
        let nan = refused(Case::new(&nan).with_truth(&x).with_observation(&a, &small));
        assert!(matches!(nan, Error::Numerical(_)), "{name}: {nan}");
        let several = refused(Case::new(&both).with_truth(&both).with_observation(&a, &pairs));
        assert!(several.to_string().contains("one image"), "{name}: {several}");
    }
    let nan = cat() * f32::NAN;
    assert!(matches!(Niqe.value(&Case::new(&nan)), Err(Error::Numerical(_))));
    let nothing_left = Case::new(&y).with_truth(&x).with_border(12);
    assert!(matches!(SsimY.value(&nothing_left), Err(Error::Config(_))));
}

#[test]
fn metrics_are_found_by_their_names() {
    for name in NAMES {
        let metric = named(name).unwrap();
        assert_eq!(metric.name(), name);
        assert!(!metric.describe().is_empty() && !metric.describe().contains('\n'), "{name}");
    }
    let message = named("psnr").unwrap_err().to_string();
    assert!(NAMES.iter().all(|name| message.contains(name)), "{message}");
    assert!(Better::Higher.prefers(2.0, 1.0) && Better::Lower.prefers(1.0, 2.0));
    assert!(!Better::Higher.prefers(1.0, 1.0) && !Better::Lower.prefers(1.0, f64::NAN));
}

#[test]
fn features_of_a_truth_are_computed_once_in_a_row() {
    let (x, y) = pair();
    let encoder = Arc::new(UpperHalf::default());
    let metric = FeatureAngle::new(encoder.clone());
    let angle = |restored, truth| value(&metric, &Case::new(restored).with_truth(truth));
    let found = [angle(&y, &x), angle(&y, &x), angle(&x, &y), angle(&y, &x)];
    assert_eq!(encoder.calls.load(Ordering::Relaxed), 7, "four results, x, y, and x again");
    assert!(found.iter().all(|v| (v - found[0]).abs() < 1e-9), "{found:?}");
}

/// What a file holds where pixels are missing: as they were, mid-grey, and white.
#[test]
fn the_agreement_of_an_inpainting_does_not_look_into_the_hole() {
    let (x, other) = pair();
    let known: Vec<f32> = mask().known().iter().map(|known| f32::from(*known)).collect();
    let known = tensor::from_f32(known, [1, 1, SHAPE.height, SHAPE.width], &tensor::cpu());
    let filled = |hole: Tensor<4>| x.clone() * known.clone() + hole * (1.0 - known.clone());
    let a = Arc::new(PixelMask::new(SHAPE, mask()).unwrap());
    let after = Compose::new(vec![Arc::new(crate::operator::Identity::new(SHAPE).unwrap()), a.clone()]).unwrap();
    for hole in [other, x.zeros_like(), x.ones_like()] {
        let y = filled(hole);
        for a in [a.as_ref() as &dyn LinearOperator, &after] {
            assert_eq!(agreement(a, &x, &y).unwrap(), [f64::INFINITY]);
            // 10 log10(2^2 / 0.02^2) = 40 dB, whatever part of the image is known.
            let found = agreement(a, &x, &(y.clone() + 0.02)).unwrap();
            assert!((found[0] - 40.0).abs() < 1e-4, "{found:?}");
        }
    }
}

#[test]
fn an_operator_that_tells_nonsense_of_what_it_observes_is_refused() {
    #[derive(Debug)]
    struct Tells(Vec<bool>);
    impl LinearOperator for Tells {
        fn domain(&self) -> ImageShape {
            SHAPE
        }
        fn range(&self) -> ImageShape {
            SHAPE
        }
        fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
            Ok(x.clone())
        }
        fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
            Ok(y.clone())
        }
        fn norm_squared(&self) -> f64 {
            1.0
        }
        fn observed(&self) -> Option<&[bool]> {
            Some(&self.0)
        }
    }
    let (x, _) = pair();
    assert!(agreement(&Tells(vec![true; SHAPE.pixels()]), &x, &x).is_ok());
    for flags in [vec![true; 3], vec![false; SHAPE.pixels()], vec![true; SHAPE.elements()]] {
        assert!(matches!(agreement(&Tells(flags), &x, &x), Err(Error::Config(_))));
    }
}

fn cat() -> Tensor<4> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/cat.png");
    crate::io::image::read_image(&path, &crate::io::limits::Limits::default()).unwrap().tensor
}

/// A pattern in [-1, 1] of the shape of `like`, with long and short waves.
fn wave(like: &Tensor<4>) -> Tensor<4> {
    let [_, c, h, w] = like.dims();
    let at = |n: usize| ((n / w % h) as f32 * 0.11).sin() * 0.5 + ((n % w) as f32 * 2.3).cos() * 0.5;
    tensor::from_f32((0..c * h * w).map(at).collect(), like.dims(), &tensor::cpu())
}

/// The mean colour of the upper 12 rows.
#[derive(Default)]
struct UpperHalf {
    id: std::sync::OnceLock<Arc<EncoderId>>,
    calls: AtomicUsize,
}

impl Encoder for UpperHalf {
    fn id(&self) -> &Arc<EncoderId> {
        let made = || EncoderId { name: "test".into(), weights: "0".into(), preprocessing: "0".into(), dimension: 3 };
        self.id.get_or_init(|| Arc::new(made()))
    }

    fn image(&self, picture: &Tensor<4>) -> Result<Embedding> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let values = tensor::to_f64(&picture.clone().narrow(2, 0, 12))?;
        let plane = 12 * picture.dims()[3];
        let mean = |plane: &[f64]| (plane.iter().sum::<f64>() / plane.len() as f64) as f32;
        Embedding::new(self.id().clone(), values.chunks(plane).map(mean).collect())
    }

    fn text(&self, _text: &str) -> Result<Embedding> {
        Err(Error::config("no texts"))
    }
}

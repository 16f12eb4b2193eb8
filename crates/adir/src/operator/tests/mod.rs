//! Tests of the operators: a registry of them all, and what must hold for each.
//!
//! To add an operator, add it to [`registry`]: the transpose, linearity, zero and shape tests come
//! for free. Numbers from outside are in [`reference`] and [`standard_sets`].

mod configuration;
mod gram;
mod norms;
mod reference;
mod standard_sets;

use std::sync::Arc;

use super::convolve::Method;
use super::*;
use crate::tensor::{self, Tensor};

/// The shape on which matrices are written out.
const DENSE: ImageShape = ImageShape::new(1, 12, 10);

/// Odd, even, non-square and single-pixel images, some smaller than the kernels below.
const SHAPES: [ImageShape; 6] = [
    DENSE,
    ImageShape::new(1, 1, 1),
    ImageShape::new(3, 1, 6),
    ImageShape::new(3, 7, 9),
    ImageShape::new(1, 16, 16),
    ImageShape::new(3, 5, 24),
];

/// Odd, even, non-square, one-sided, signed and large kernels.
fn kernels() -> Vec<Kernel> {
    let skew = (0..10).map(|i| f64::from((7 * i * i + 3 * i) % 11) - 2.0).collect();
    vec![
        Kernel::delta(),
        Kernel::boxed(5).unwrap(),
        Kernel::boxed(4).unwrap(),
        Kernel::gaussian(15, 1.6).unwrap(),
        Kernel::motion(7.0, 30.0).unwrap(),
        Kernel::from_values(2, 5, skew).unwrap(),
        Kernel::from_values(1, 2, vec![0.0, 3.0]).unwrap(),
    ]
}

/// A mask with about two thirds of the pixels known.
fn some_mask(shape: ImageShape) -> Mask {
    let known = (0..shape.pixels()).map(|i| (i * i + i / 3) % 3 != 1).collect();
    Mask::new(shape.height, shape.width, known).unwrap()
}

/// Another one, with the first pixel known.
fn other_mask(shape: ImageShape) -> Mask {
    let known = (0..shape.pixels()).map(|i| i % 5 != 3).collect();
    Mask::new(shape.height, shape.width, known).unwrap()
}

/// Weights from 0.5 to 2.2.
fn some_weights(shape: ImageShape) -> Arc<[f64]> {
    (0..shape.elements()).map(|i| [0.5, 1.0, 1.5, 2.2][(i + i / 5) % 4]).collect()
}

/// The ways to convolve with a kernel.
fn ways(kernel: &Kernel) -> impl Iterator<Item = Method> {
    let separable = kernel.factors().map(|_| Method::Separable);
    [Method::Direct, Method::Fft].into_iter().chain(separable)
}

/// Every kind of operator on images of shape `domain`.
fn registry(domain: ImageShape) -> Vec<Arc<dyn LinearOperator>> {
    let mut all: Vec<Arc<dyn LinearOperator>> = vec![
        Arc::new(Identity::new(domain).unwrap()),
        Arc::new(Grayscale::new(domain).unwrap()),
        Arc::new(PixelMask::new(domain, some_mask(domain)).unwrap()),
        Arc::new(Crop::new(domain, window(domain)).unwrap()),
    ];
    for factor in [2, 3, 4, 8, 16] {
        all.push(Arc::new(BicubicDownsample::new(domain, factor).unwrap()));
    }
    for kernel in kernels() {
        for (boundary, _) in Boundary::ALL {
            let fits = kernel.height() <= domain.height && kernel.width() <= domain.width;
            for method in ways(&kernel) {
                match Blur::with_method(domain, kernel.clone(), boundary, method) {
                    Ok(blur) => all.push(Arc::new(blur)),
                    Err(_) => assert!(boundary == Boundary::Valid && !fits),
                }
            }
        }
    }
    if domain.height >= 6 && domain.width >= 6 {
        let valid = Arc::new(Blur::new(domain, Kernel::boxed(3).unwrap(), Boundary::Valid).unwrap());
        let inner = Window { top: 1, left: 1, height: domain.height - 2, width: domain.width - 2 };
        all.push(Arc::new(InWindow::new(valid, inner).unwrap()));
    }
    let blur: Arc<dyn LinearOperator> =
        Arc::new(Blur::new(domain, Kernel::boxed(3).unwrap(), Boundary::Reflect).unwrap());
    all.push(Arc::new(Masked::new(blur.clone(), &some_mask(blur.range())).unwrap()));
    for inner in [all[0].clone(), all[1].clone(), all[2].clone(), all[4].clone(), blur.clone()] {
        all.push(Arc::new(Weighted::new(inner.clone(), some_weights(inner.range())).unwrap()));
    }
    let gray = Arc::new(Grayscale::new(domain).unwrap());
    let unmeasured = Arc::new(Masked::new(gray.clone(), &some_mask(domain)).unwrap());
    all.push(Arc::new(Masked::new(unmeasured, &other_mask(domain)).unwrap()));
    let shrink = Arc::new(BicubicDownsample::new(gray.range(), 2).unwrap());
    all.push(Arc::new(Compose::new(vec![blur, gray, shrink]).unwrap()));
    all
}

fn everything() -> Vec<Arc<dyn LinearOperator>> {
    let all: Vec<_> = SHAPES.into_iter().flat_map(registry).collect();
    assert!(all.len() > 350, "the registry lost operators: {}", all.len());
    all
}

/// Image number `i`, in f64.
fn image(shape: ImageShape, i: u32) -> Tensor<4> {
    image_from(dot_test::test_vector(7, i, shape.elements()), shape)
}

fn image_from(values: Vec<f64>, shape: ImageShape) -> Tensor<4> {
    tensor::from_f64(values, [1, shape.channels, shape.height, shape.width], &tensor::cpu())
}

fn values(x: &Tensor<4>) -> Vec<f64> {
    tensor::to_f64(x).unwrap()
}

/// Largest difference, after checking that lengths agree and all is finite.
fn max_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|v| v.is_finite()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn every_adjoint_passes_the_dot_test() {
    for a in everything() {
        let gap = dot_test(&*a, 1, 64).unwrap();
        assert!(gap <= 1e-12, "f64 {gap:e}: {a:?}");
        let gap = dot_test_f32(&*a, 2, 8).unwrap();
        assert!(gap <= 1e-6, "f32 {gap:e}: {a:?}");
    }
}

#[test]
fn a_gram_matrix_is_applied_as_its_two_parts_are() {
    let canvas = ImageShape::new(3, 16, 16);
    let domain = ImageShape::new(3, 13, 15);
    let crop: Arc<dyn LinearOperator> = Arc::new(Crop::new(canvas, domain).unwrap());
    let cropped = registry(domain)
        .into_iter()
        .filter(|last| last.domain() == domain)
        .map(|last| -> Arc<dyn LinearOperator> { Arc::new(Compose::new(vec![crop.clone(), last]).unwrap()) });
    for a in everything().into_iter().chain(cropped) {
        let u = image(a.range(), 3);
        let expected = tensor::to_f64(&a.apply(&a.adjoint(&u).unwrap()).unwrap()).unwrap();
        let found = tensor::to_f64(&a.apply_gram(&u).unwrap()).unwrap();
        let gap = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(gap < 1e-12, "{gap} {a:?}");
    }
}

#[test]
fn the_dot_test_finds_a_wrong_transpose() {
    /// A border treated as self-adjoint, which an edge that goes on is not.
    #[derive(Debug)]
    struct Wrong(Blur);
    impl LinearOperator for Wrong {
        fn domain(&self) -> ImageShape {
            self.0.domain()
        }
        fn range(&self) -> ImageShape {
            self.0.range()
        }
        fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
            self.0.apply(x)
        }
        fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
            self.0.apply(y)
        }
        fn norm_squared(&self) -> f64 {
            1.0
        }
    }
    let shape = ImageShape::new(1, 32, 32);
    let wrong = Wrong(Blur::new(shape, Kernel::boxed(5).unwrap(), Boundary::Replicate).unwrap());
    let gap = dot_test(&wrong, 1, 8).unwrap();
    assert!(gap > 1e-3, "{gap:e}");
}

#[test]
fn the_dot_test_is_infinite_for_what_is_not_a_number() {
    /// The identity, with a transpose that is nowhere a number.
    #[derive(Debug)]
    struct Broken(Identity);
    impl LinearOperator for Broken {
        fn domain(&self) -> ImageShape {
            self.0.domain()
        }
        fn range(&self) -> ImageShape {
            self.0.range()
        }
        fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
            self.0.apply(x)
        }
        fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
            Ok(y.clone() * f32::NAN)
        }
        fn norm_squared(&self) -> f64 {
            f64::NAN
        }
    }
    let broken = Broken(Identity::new(DENSE).unwrap());
    assert_eq!(dot_test(&broken, 1, 2).unwrap(), f64::INFINITY);
    assert!(matches!(normalized_adjoint(&broken, &image(DENSE, 0)), Err(Error::Numerical(_))));
}

/// The matrix of a map, column by column, as its rows.
fn dense(from: ImageShape, map: impl Fn(&Tensor<4>) -> Result<Tensor<4>>) -> Vec<Vec<f64>> {
    let column = |i: usize| {
        let mut unit = vec![0.0; from.elements()];
        unit[i] = 1.0;
        values(&map(&image_from(unit, from)).unwrap())
    };
    (0..from.elements()).map(column).collect()
}

#[test]
fn every_adjoint_is_the_transposed_matrix() {
    for a in registry(DENSE).into_iter().chain(registry(ImageShape::new(3, 3, 4))) {
        let columns = dense(a.domain(), |x| a.apply(x));
        let rows = dense(a.range(), |y| a.adjoint(y));
        let transposed: Vec<f64> = (0..columns.len()).flat_map(|i| rows.iter().map(move |row| row[i])).collect();
        let worst = max_difference(&columns.concat(), &transposed);
        assert!(worst <= 1e-14, "{worst:e}: {a:?}");
    }
}

#[test]
fn every_operator_is_linear_and_keeps_zero() {
    for a in everything() {
        let (x, z) = (image(a.domain(), 1), image(a.domain(), 2));
        let of_sum = values(&a.apply(&(x.clone() * 1.5 - z.clone() * 0.25)).unwrap());
        let sum_of = values(&(a.apply(&x).unwrap() * 1.5 - a.apply(&z).unwrap() * 0.25));
        let worst = max_difference(&of_sum, &sum_of);
        assert!(worst <= 1e-12, "{worst:e}: {a:?}");

        let nothing = a.apply(&(x * 0.0)).unwrap();
        assert_eq!(ImageShape::of_batch(&nothing), a.range());
        assert!(values(&nothing).iter().all(|v| *v == 0.0), "{a:?}");
    }
}

#[test]
fn every_operator_keeps_the_batch_and_the_precision() {
    for a in everything() {
        let (x, z) = (image(a.domain(), 1), image(a.domain(), 2));
        let one_by_one = [values(&a.apply(&x).unwrap()), values(&a.apply(&z).unwrap())].concat();
        let batch = Tensor::cat(vec![x, z], 0);
        let together = a.apply(&batch).unwrap();
        assert_eq!(max_difference(&values(&together), &one_by_one), 0.0, "{a:?}");

        let single = a.apply(&batch.cast(burn::tensor::DType::F32)).unwrap();
        assert_eq!(single.dtype(), burn::tensor::DType::F32);
        assert!(max_difference(&values(&single), &one_by_one) < 1e-6, "{a:?}");
    }
}

#[test]
fn every_operator_refuses_another_shape() {
    for a in everything() {
        let ImageShape { channels, height, width } = a.domain();
        for wrong in [
            ImageShape::new(channels + 1, height, width),
            ImageShape::new(channels, height + 1, width),
            ImageShape::new(channels, height, width + 1),
        ] {
            let error = a.apply(&image(wrong, 0)).unwrap_err().to_string();
            assert!(error.contains(&wrong.to_string()), "{error}: {a:?}");
        }
        let ImageShape { channels, height, width } = a.range();
        assert!(matches!(a.adjoint(&image(ImageShape::new(channels, height + 1, width), 0)), Err(Error::Config(_))));
    }
}

/// The inner part that [`Crop`] keeps in these tests: all but the last rows and columns.
fn window(domain: ImageShape) -> ImageShape {
    ImageShape { height: domain.height.div_ceil(2), width: domain.width.max(2) - 1, ..domain }
}

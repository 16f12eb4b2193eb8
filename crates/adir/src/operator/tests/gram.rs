//! A A^T by eigenvalues against A and its transpose, and systems against their residuals.

use super::*;
use crate::tensor::DType;

#[test]
fn every_exact_gram_is_the_operator_times_its_transpose() {
    let mut exact = 0;
    for a in everything() {
        let Some(gram) = a.gram().filter(Gram::is_exact) else { continue };
        exact += 1;
        let r = image(a.range(), 3);
        let expected = values(&a.apply(&a.adjoint(&r).unwrap()).unwrap());
        let worst = max_difference(&values(&gram.filter(&r, |v| v).unwrap()), &expected);
        assert!(worst <= 1e-9, "{worst:e}: {a:?}");
        let (largest, norm) = (gram.largest(), a.norm_squared());
        assert!((largest - norm).abs() <= 1e-9 * norm, "{largest} {norm}: {a:?}");
        // A function of it: the square root, twice.
        let root = |r: &Tensor<4>| gram.filter(r, f64::sqrt).unwrap();
        let worst = max_difference(&values(&root(&root(&r))), &expected);
        assert!(worst <= 1e-9, "{worst:e}: {a:?}");
    }
    assert!(exact > 140, "only {exact} operators have an exact Gram matrix");
}

#[test]
fn down_sampling_circular_and_symmetric_blurs_have_exact_grams() {
    let shape = ImageShape::new(3, 32, 40);
    let crop = Arc::new(Crop::new(ImageShape::new(3, 48, 40), shape).unwrap());
    let gray = Arc::new(Grayscale::new(shape).unwrap());
    let shrink = Arc::new(BicubicDownsample::new(gray.range(), 4).unwrap());
    let kernel = || Kernel::gaussian(9, 1.6).unwrap();
    let all: Vec<Arc<dyn LinearOperator>> = vec![
        Arc::new(Compose::new(vec![crop, gray, shrink]).unwrap()),
        Arc::new(Blur::new(shape, kernel(), Boundary::Circular).unwrap()),
        Arc::new(Blur::new(shape, kernel(), Boundary::Reflect).unwrap()),
    ];
    assert!(all.iter().all(|a| a.gram().is_some_and(|gram| gram.is_exact())));
    let skew = Kernel::motion(7.0, 30.0).unwrap();
    for (kernel, boundary) in
        [(skew, Boundary::Reflect), (kernel(), Boundary::Valid), (kernel(), Boundary::Constant(0.0))]
    {
        let gram = Blur::new(shape, kernel, boundary).unwrap().gram();
        assert!(gram.is_some_and(|gram| !gram.is_exact()), "{boundary}");
    }
}

/// A sum of functions of A A^T is that of the parts, in the precision of what it is taken of.
#[test]
fn sums_of_functions_are_taken_in_the_precision_of_images() {
    let gains: [&(dyn Fn(f64) -> f64 + Sync); 2] = [&|v| 1.0 / (v + 0.1), &|v| 2.0 - v];
    for a in everything() {
        let Some(gram) = a.gram() else { continue };
        let images = [image(a.range(), 5), image(a.range(), 6)];
        let parts: Vec<_> = images.iter().zip(gains).map(|(r, g)| gram.filter(r, g).unwrap()).collect();
        let expected = values(&(parts[0].clone() + parts[1].clone()));
        for (dtype, most) in [(DType::F64, 1e-11), (DType::F32, 2e-5)] {
            let images = images.clone().map(|image| image.cast(dtype));
            let terms: Vec<_> = images.iter().zip(gains).collect();
            let found = gram.filter_sum(&terms).unwrap();
            assert_eq!(found.dtype(), dtype);
            let worst = max_difference(&values(&found), &expected);
            assert!(worst < most, "{dtype:?}, {worst:e}: {a:?}");
        }
        assert!(gram.filter_sum(&[]).is_err());
    }
}

/// r = (scale A A^T + damping I) u, whichever way u is found.
#[test]
fn every_system_is_solved() {
    let stop = Solve { steps: 200, tolerance: 1e-8 };
    for a in everything() {
        let r = image(a.range(), 3);
        for (scale, damping) in [(1.0, 0.3), (2.5, 0.01)] {
            let u = solve(&*a, scale, damping, &r, &stop).unwrap();
            let back = a.apply(&(a.adjoint(&u).unwrap() * scale)).unwrap() + u * damping;
            let worst = max_difference(&values(&back), &values(&r));
            assert!(worst < 1e-5, "{worst:e}: {a:?}");
        }
    }
}

/// Six steps where plain conjugate gradients need far more: a valid blur is nearly a circular one.
#[test]
fn a_valid_blur_is_solved_in_few_steps() {
    let shape = ImageShape::new(1, 72, 72);
    let blur = Blur::new(shape, Kernel::gaussian(9, 1.6).unwrap(), Boundary::Valid).unwrap();
    let r = image(blur.range(), 4);
    let u = solve(&blur, 1.0, 1e-3, &r, &Solve { steps: 12, tolerance: 1e-6 }).unwrap();
    let left = blur.apply(&blur.adjoint(&u).unwrap()).unwrap() + u * 1e-3 - r.clone();
    let square = |x: &Tensor<4>| values(x).iter().map(|v| v * v).sum::<f64>();
    let share = (square(&left) / square(&r)).sqrt();
    assert!(share < 1e-3, "{share:e} of the right side is left");
}

/// Weights that change slowly: the near inverse is near, so that few steps suffice, however different the weights are; and a
/// function of A A^T is that of the A whose values all have the weight of the place.
#[test]
fn weighted_waves_are_right_nearby() {
    let shape = ImageShape::new(1, 64, 64);
    let blur: Arc<dyn LinearOperator> =
        Arc::new(Blur::new(shape, Kernel::gaussian(7, 1.0).unwrap(), Boundary::Circular).unwrap());
    let ramp = |i: usize| (1.2 * (std::f64::consts::PI * (i % 64) as f64 / 32.0).cos()).exp();
    let weights: Arc<[f64]> = (0..shape.elements()).map(ramp).collect();
    let a = Weighted::new(blur.clone(), weights).unwrap();
    let gram = a.gram().unwrap();
    assert!(!gram.is_exact() && gram.is_exact_nearby());
    let r = a.apply(&image(shape, 3)).unwrap();
    for damping in [1.0, 0.1, 0.01] {
        let u = solve(&a, 1.0, damping, &r, &Solve { steps: 10, tolerance: 1e-9 }).unwrap();
        let left = a.apply(&a.adjoint(&u).unwrap()).unwrap() + u * damping - r.clone();
        let norm = |t: &Tensor<4>| values(t).iter().map(|v| v * v).sum::<f64>().sqrt();
        let share = norm(&left) / norm(&r);
        assert!(share < 0.01, "damping {damping}: {share:e}");
    }
    let g = |eigenvalue: f64| eigenvalue / (eigenvalue + 0.3);
    let (found, r) = (values(&gram.filter(&r, g).unwrap()), values(&r));
    let r = image_from(r, shape);
    for column in [0, 16, 32] {
        let weight: Arc<[f64]> = vec![ramp(column); shape.elements()].into();
        let alike = Weighted::new(
            Arc::new(Blur::new(shape, Kernel::gaussian(7, 1.0).unwrap(), Boundary::Circular).unwrap()),
            weight,
        );
        let expected = values(&alike.unwrap().gram().unwrap().filter(&r, g).unwrap());
        for row in 0..64 {
            let i = row * 64 + column;
            assert!((found[i] - expected[i]).abs() < 0.03, "{column}: {} {}", found[i], expected[i]);
        }
    }
}

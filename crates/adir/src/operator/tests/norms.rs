//! Norms against closed forms, dense matrices and each other.

use super::*;

/// The norm found by iteration, whatever the operator's own answer.
fn iterated(a: &Arc<dyn LinearOperator>) -> f64 {
    Compose::new(vec![a.clone()]).unwrap().norm_squared()
}

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-9 * expected
}

#[test]
fn every_norm_is_the_one_found_by_iteration() {
    for a in everything() {
        let (own, found) = (a.norm_squared(), iterated(&a));
        // What a mask leaves of an operator is at most as strong.
        let bound = format!("{a:?}").starts_with("Masked");
        assert!(close(found, own) || bound && own > found, "own {own}, iterated {found}: {a:?}");
    }
}

/// Above [`norm::MOST_ITERATED`] no iteration runs over all of the image; what stands for it is not too small, and
/// hardly too large.
#[test]
fn norms_on_large_images_are_near_and_never_too_small() {
    let exact = |a: &dyn LinearOperator| {
        let ImageShape { channels, height, width } = a.domain();
        let product = |v: &[f64]| {
            let x = tensor::from_f64(v.to_vec(), [1, channels, height, width], &tensor::cpu());
            tensor::to_f64(&a.adjoint(&a.apply(&x)?)?)
        };
        norm::largest_eigenvalue::<Error>(a.domain().elements(), product).unwrap()
    };
    let domain = ImageShape::new(1, 140, 148);
    assert!(domain.elements() > norm::MOST_ITERATED);
    let skew = || Kernel::from_text("1 2 0\n3 4 5\n0 1 9").unwrap();
    let mut all: Vec<Arc<dyn LinearOperator>> = Vec::new();
    for (boundary, _) in Boundary::ALL {
        all.push(Arc::new(Blur::new(domain, skew(), boundary).unwrap()));
        let blur = Arc::new(Blur::new(domain, Kernel::gaussian(9, 1.5).unwrap(), boundary).unwrap());
        let shrink = Arc::new(BicubicDownsample::new(blur.range(), 4).unwrap());
        all.push(blur.clone());
        all.push(Arc::new(Compose::new(vec![blur, shrink]).unwrap()));
    }
    for a in all {
        let (own, found) = (a.norm_squared(), exact(a.as_ref()));
        assert!(own >= found * (1.0 - 1e-6) && own <= found * 1.02, "{own} for {found}: {:.200}", format!("{a:?}"));
    }
}

#[test]
fn closed_forms() {
    let domain = ImageShape::new(3, 48, 32);
    assert_eq!(Grayscale::new(domain).unwrap().norm_squared(), 1.0 / 3.0);
    assert_eq!(PixelMask::new(domain, some_mask(domain)).unwrap().norm_squared(), 1.0);
    // A constant image is the worst case of a box, at any boundary that keeps it constant.
    for boundary in [Boundary::Circular, Boundary::Reflect, Boundary::Replicate] {
        let found = Blur::new(domain, Kernel::boxed(5).unwrap(), boundary).unwrap().norm_squared();
        assert!(if boundary == Boundary::Replicate { found >= 1.0 } else { close(found, 1.0) }, "{boundary}: {found}");
    }
    // k = (-1, 3) / 2 has |k(f)|^2 = (10 - 6 cos f) / 4, at most 4.
    let signed = Kernel::from_values(1, 2, vec![-1.0, 3.0]).unwrap();
    assert!(close(Blur::new(domain, signed, Boundary::Circular).unwrap().norm_squared(), 4.0));
    // A signed kernel that wraps around the image more than once.
    let signed = (0..63).map(|i| f64::from((5 * i * i + i) % 13) - 5.0).collect();
    let signed = Kernel::from_values(7, 9, signed).unwrap();
    let blur: Arc<dyn LinearOperator> =
        Arc::new(Blur::new(ImageShape::new(1, 3, 4), signed, Boundary::Circular).unwrap());
    assert!(close(blur.norm_squared(), iterated(&blur)));
}

// Largest singular value squared of imresize's matrix, numpy.linalg.svd of `mat` in `reference`:
// times factor, 1 for 16/2, 12/3, 16/4, 32/8; 1.6996532186329598 for 18/4, 1.7452498457771717 for 5/4.
#[test]
fn bicubic_down_sampling() {
    let norm = |h, w, factor| BicubicDownsample::new(ImageShape::new(1, h, w), factor).unwrap().norm_squared();
    for (side, factor) in [(16, 2), (12, 3), (16, 4), (32, 8), (256, 4)] {
        let found = norm(side, side, factor) * (factor * factor) as f64;
        assert!(close(found, 1.0), "{side}/{factor}: {found}");
    }
    assert!(close(norm(18, 16, 4), 1.6996532186329598 / 16.0));
    assert!(close(norm(18, 5, 4), 1.6996532186329598 * 1.7452498457771717 / 16.0));
}

// Tridiagonal (-1, 2, -1) of size n has the largest eigenvalue 2 + 2 cos(pi / (n + 1)), and the
// neighbours crowd around it.
#[test]
fn crowded_eigenvalues() {
    let n = 100;
    let product = |v: &[f64]| {
        let at = |i: Option<usize>| i.and_then(|i| v.get(i)).copied().unwrap_or(0.0);
        Ok::<_, Error>((0..n).map(|i| 2.0 * v[i] - at(i.checked_sub(1)) - at(Some(i + 1))).collect())
    };
    let found = norm::largest_eigenvalue(n, product).unwrap();
    assert!(close(found, 2.0 + 2.0 * (std::f64::consts::PI / (n as f64 + 1.0)).cos()), "{found}");
}

// Where the factor divides the size, the mirrored grid of y continues the grid of y, so the two agree
// at the border too; where it does not, they cannot.
#[test]
fn normalized_adjoint_of_down_sampling_is_up_sampling() {
    let difference = |height, width| {
        let a = BicubicDownsample::new(ImageShape::new(1, height, width), 4).unwrap();
        let y = image(a.range(), 3);
        let up = bicubic_upsample(&y, 4).unwrap().narrow(2, 0, height).narrow(3, 0, width);
        max_difference(&values(&up), &values(&normalized_adjoint(&a, &y).unwrap()))
    };
    assert!(difference(64, 48) < 1e-9);
    assert!(difference(62, 48) > 1e-3);
}

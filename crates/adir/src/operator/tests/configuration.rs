//! Kernels and degradations as they are written, and what is refused.

use super::*;

fn refused<T>(result: Result<T>, part: &str) {
    match result {
        Err(Error::Config(message)) => assert!(message.contains(part), "{message:?} does not say {part:?}"),
        Err(other) => panic!("not a configuration error: {other}"),
        Ok(_) => panic!("accepted; expected an error about {part:?}"),
    }
}

fn kernel(name: &str) -> Kernel {
    name.parse::<KernelSpec>().unwrap().build().unwrap()
}

#[test]
fn named_kernels() {
    assert_eq!(kernel("box:3").weights(), [1.0 / 9.0; 9]);
    assert_eq!(kernel("delta"), Kernel::delta());
    // np.exp(-r2 / 2 / 0.64) normalised, r2 in {0, 1, 2}
    let gaussian = kernel("gaussian:3:0.8");
    let expected = [0.05711825900067254, 0.12475774762164543, 0.05711825900067254, 0.12475774762164543];
    assert!(max_difference(&gaussian.weights()[..4], &expected) < 1e-15);
    assert_eq!(kernel("gaussian:4:0.01").weights()[5], 0.25, "far narrower than a pixel");
}

#[test]
fn motion_kernels() {
    let across = kernel("motion:9:0");
    assert_eq!((across.height(), across.width()), (1, 9));
    assert!(max_difference(across.weights(), &[1.0 / 9.0; 9]) < 1e-15);
    let down = kernel("motion:5:90");
    assert_eq!((down.height(), down.width()), (5, 1));
    // At 45 degrees (upwards to the right): the anti-diagonal weighs 1, its neighbours 1 - 1/sqrt(2).
    let slanted = kernel("motion:3.8284271247461903:45");
    assert_eq!((slanted.height(), slanted.width()), (3, 3));
    let (one, near) = (slanted.weights()[4], slanted.weights()[1]);
    assert!((slanted.weights()[2] - one).abs() < 1e-12 && (slanted.weights()[6] - one).abs() < 1e-12);
    assert!((near / one - (1.0 - 0.5f64.sqrt())).abs() < 1e-12);
    assert_eq!(slanted.weights()[0], 0.0);
    // The centre of gravity is the centre, at any angle.
    for angle in 0..36 {
        let kernel = kernel(&format!("motion:7.5:{}", 10 * angle));
        let reversed: Vec<f64> = kernel.weights().iter().rev().copied().collect();
        assert!(max_difference(kernel.weights(), &reversed) < 1e-15, "{angle}");
    }
}

#[test]
fn kernels_from_text() {
    let kernel = Kernel::from_text("# made by hand\n0, 1, 0\n1\t4 1  # middle\n\n0 1 0\n").unwrap();
    assert_eq!((kernel.height(), kernel.width()), (3, 3));
    assert_eq!(kernel.weights()[4], 0.5);
    refused(Kernel::from_text("1 2\n3"), "the kernel: line 2: 1 numbers");
    refused(Kernel::from_text("0 0"), "add up to nothing");
}

#[test]
fn impossible_kernels() {
    refused(Kernel::from_values(1, 3, vec![1.0, -2.0, 1.0]), "add up to nothing");
    refused(Kernel::from_text("0 -1 0\n-1 -2 -1\n0 -1 0"), "add up to -6");
    refused(Kernel::from_values(1, 2, vec![1.0, f64::NAN]), "row 1, column 2");
    refused(Kernel::from_values(1, 2, vec![1e308, 1e308]), "more than a number");
    refused(Kernel::from_values(2, 2, vec![1.0]), "found 1");
    refused(Kernel::from_values(1, 1026, vec![1.0; 1026]), "1 to 1025");
    refused(Kernel::boxed(usize::MAX), "1 to 1025");
    for name in ["", "box", "box:", "box:-1", "box:3:3", "gaussian:5", "disk:3", "motion:5", "delta:1"] {
        refused(name.parse::<KernelSpec>(), "unknown kernel");
    }
    for (name, part) in [
        ("box:0", "found 0x0"),
        ("gaussian:5:0", "a finite number above 0"),
        ("gaussian:5:nan", "a finite number above 0"),
        ("motion:0.5:0", "length"),
        ("motion:5:inf", "finite angle"),
        ("motion:1e9:0", "length"),
    ] {
        refused(name.parse::<KernelSpec>(), part);
    }
}

#[test]
fn boundaries_are_read_as_they_are_written() {
    for (boundary, name) in Boundary::ALL {
        assert_eq!(boundary.to_string(), name);
        assert_eq!(name.parse::<Boundary>().unwrap(), boundary);
        assert_eq!(serde_json::to_value(boundary).unwrap(), name);
    }
    assert_eq!("zero".parse::<Boundary>().unwrap(), Boundary::Constant(0.0), "black");
    assert_eq!("constant:127.5".parse::<Boundary>().unwrap().to_string(), "constant:127.5");
    refused("symmetric".parse::<Boundary>(), "unknown boundary \"symmetric\"");
    for text in ["constant:", "constant:256", "constant:-1", "constant:nan"] {
        refused(text.parse::<Boundary>(), "0 (black) to 255 (white)");
    }
}

/// A point at 5 of 12, blurred by each convention. scipy: `uniform_filter1d(x, 4)` is [0 0 0 0 1 1 1 1 0 ...] / 4, as is
/// `convolve(x, ones(4), "same")` of scipy.signal; `ndimage.convolve1d(x, ones(4))` is [0 0 0 1 1 1 1 0 ...] / 4.
#[test]
fn even_kernels_are_centred_as_named() {
    let point = |spec: &KernelSpec| {
        let blur = Blur::new(ImageShape::new(1, 1, 12), spec.build().unwrap(), Boundary::Reflect101).unwrap();
        let x = image_from((0..12).map(|i| f64::from(i == 5)).collect(), blur.domain());
        values(&blur.apply(&x).unwrap())
    };
    let four = KernelSpec::Values(Kernel::from_values(1, 4, vec![1.0; 4]).unwrap());
    let quarters =
        |from: usize| (0..12).map(|i| if (from..from + 4).contains(&i) { 0.25 } else { 0.0 }).collect::<Vec<_>>();
    let opencv = point(&four.centred(KernelCentre::OpenCv).unwrap());
    assert!(max_difference(&opencv, &quarters(4)) < 1e-15, "{opencv:?}");
    let matlab = point(&four.centred(KernelCentre::Matlab).unwrap());
    assert!(max_difference(&matlab, &quarters(3)) < 1e-15, "{matlab:?}");
    let both: Vec<f64> = opencv.iter().zip(&matlab).map(|(a, b)| (a + b) / 2.0).collect();
    assert!(max_difference(&point(&four.centred(KernelCentre::Symmetric).unwrap()), &both) < 1e-15);
    // Padding is the same convention in numbers, and odd kernels know none.
    assert_eq!(point(&KernelSpec::Values(four.build().unwrap().centred(KernelCentre::Matlab).unwrap())), matlab);
    for (centre, name) in KernelCentre::ALL {
        assert_eq!((centre.to_string().as_str(), name.parse::<KernelCentre>().unwrap()), (name, centre));
        assert_eq!(serde_json::to_value(centre).unwrap(), name);
        let odd: KernelSpec = "box:3".parse().unwrap();
        assert_eq!(odd.centred(centre).unwrap(), odd);
    }
    let gaussian: KernelSpec = "gaussian:12:2".parse().unwrap();
    assert_eq!(gaussian.centred(KernelCentre::Symmetric).unwrap().to_string(), "gaussian:13:2");
    refused("scipy".parse::<KernelCentre>(), "opencv, matlab or symmetric");
}

/// y = A x + offset is the blur of an image that continues in one grey level.
#[test]
fn a_constant_boundary_is_the_level_outside() {
    let domain = ImageShape::new(1, 6, 7);
    let (kernel, level) = (Kernel::motion(5.0, 30.0).unwrap(), 51.0);
    let spec = KernelSpec::Values(kernel.clone());
    let degradation = Degradation::Compose(vec![
        Degradation::Blur { kernel: spec, boundary: Boundary::Constant(level) },
        Degradation::SuperResolution { factor: 2 },
    ]);
    let x = image(domain, 1);
    let offset = degradation.offset(domain, None).unwrap().unwrap();
    let found = values(&(degradation.build(domain, None).unwrap().apply(&x).unwrap() + offset));
    // By hand: a wide margin of that level, and a blur whose border is far away.
    let (margin, outside) = (5, level / 127.5 - 1.0);
    let wide = ImageShape::new(1, 16, 17);
    let mut padded = vec![outside; wide.pixels()];
    for (i, v) in values(&x).into_iter().enumerate() {
        padded[(i / 7 + margin) * 17 + i % 7 + margin] = v;
    }
    let blurred = Blur::new(wide, kernel, Boundary::Replicate).unwrap().apply(&image_from(padded, wide)).unwrap();
    let inside = Window { top: margin, left: margin, height: 6, width: 7 }.cut(&blurred);
    let expected = values(&BicubicDownsample::new(domain, 2).unwrap().apply(&inside).unwrap());
    assert!(max_difference(&found, &expected) < 1e-13);
    for boundary in [Boundary::Circular, Boundary::Constant(127.5), Boundary::Valid] {
        let blur = Degradation::Blur { kernel: KernelSpec::Box { size: 3 }, boundary };
        assert!(blur.offset(domain, None).unwrap().is_none(), "{boundary}");
    }
}

#[test]
fn degradations_survive_json() {
    let degradation = Degradation::Compose(vec![
        Degradation::Blur { kernel: "gaussian:15:1.6".parse().unwrap(), boundary: Boundary::Valid },
        Degradation::Blur { kernel: KernelSpec::Values(Kernel::boxed(2).unwrap()), boundary: Boundary::Constant(0.0) },
        Degradation::Grayscale,
        Degradation::Inpaint,
        Degradation::SuperResolution { factor: 4 },
        Degradation::Identity,
    ]);
    let text = serde_json::to_string(&degradation).unwrap();
    assert!(text.contains(r#"{"kernel":"gaussian:15:1.6","boundary":"valid"}"#), "{text}");
    assert_eq!(serde_json::from_str::<Degradation>(&text).unwrap(), degradation);

    let short: Degradation = serde_json::from_str(r#"{"blur": {"kernel": "box:5"}}"#).unwrap();
    assert_eq!(short, Degradation::Blur { kernel: KernelSpec::Box { size: 5 }, boundary: Boundary::Circular });
    for (text, part) in [
        (r#"{"super_resolution": {"factor": 4, "scale": 2}}"#, "unknown field `scale`"),
        (r#"{"super_resolution": {"factor": -4}}"#, "-4"),
        (r#"{"blur": {"kernel": "disk:5"}}"#, "unknown kernel \\\"disk:5\\\""),
        (r#"{"blur": {"kernel": [[1, 2], [3]]}}"#, "row 2 of the kernel"),
        (r#"{"sharpen": {}}"#, "unknown variant `sharpen`"),
    ] {
        let error = serde_json::from_str::<Degradation>(text).unwrap_err().to_string();
        assert!(error.replace('"', "\\\"").contains(part), "{error}");
    }
}

#[test]
fn degradations_build_and_know_the_size_of_x() {
    let all = [
        Degradation::Identity,
        Degradation::SuperResolution { factor: 4 },
        Degradation::Blur { kernel: "motion:9:20".parse().unwrap(), boundary: Boundary::Reflect },
        Degradation::Blur { kernel: "box:4".parse().unwrap(), boundary: Boundary::Valid },
        Degradation::Grayscale,
        Degradation::Compose(vec![
            Degradation::Blur { kernel: "box:5".parse().unwrap(), boundary: Boundary::Valid },
            Degradation::Grayscale,
            Degradation::SuperResolution { factor: 2 },
        ]),
    ];
    for degradation in all {
        let range = ImageShape::new(if degradation == Degradation::Identity { 3 } else { 1 }, 9, 14);
        let domain = degradation.domain_for_range(range).unwrap();
        let a = degradation.build(domain, None).unwrap();
        assert_eq!((a.domain(), a.range()), (domain, range), "{degradation:?}");
        assert!(dot_test(&*a, 3, 4).unwrap() < 1e-12);
    }
    let blur_first = Degradation::Compose(vec![
        Degradation::SuperResolution { factor: 2 },
        Degradation::Blur { kernel: "box:3".parse().unwrap(), boundary: Boundary::Valid },
    ]);
    let domain = blur_first.domain_for_range(ImageShape::new(3, 10, 10)).unwrap();
    assert_eq!(domain, ImageShape::new(3, 24, 24), "the first of the list is applied first");
}

#[test]
fn masks() {
    let domain = ImageShape::new(3, 2, 3);
    let known = vec![true, false, false, true, true, false];
    let mask = Mask::new(2, 3, known).unwrap();
    let a = Degradation::Inpaint.build(domain, Some(&mask)).unwrap();
    let y = values(&a.apply(&image_from((1..19).map(f64::from).collect(), domain)).unwrap());
    assert_eq!(y[..6], [1.0, 0.0, 0.0, 4.0, 5.0, 0.0]);
    assert_eq!(y[12..], [13.0, 0.0, 0.0, 16.0, 17.0, 0.0]);

    refused(Mask::new(2, 3, vec![true; 5]), "found 5");
    refused(Mask::new(2, 3, vec![false; 6]), "pixels as unknown");
    refused(Degradation::Inpaint.build(domain, None), "needs a mask");
    refused(Degradation::Inpaint.build(ImageShape::new(3, 3, 2), Some(&mask)), "2x3");
    refused(Degradation::Grayscale.build(domain, Some(&mask)), "takes no mask");
}

#[test]
fn operators_that_cannot_be() {
    let domain = ImageShape::new(3, 8, 8);
    refused(Degradation::SuperResolution { factor: 1 }.build(domain, None), "must be 2 to 16, found 1");
    refused(Degradation::SuperResolution { factor: 17 }.build(domain, None), "found 17");
    refused(Degradation::Identity.build(ImageShape::new(3, 0, 8), None), "3x0x8 is empty");
    refused(Degradation::Identity.build(ImageShape::new(usize::MAX, 2, 8), None), "too large");
    refused(Degradation::Compose(vec![]).build(domain, None), "found none");
    refused(Degradation::Grayscale.domain_for_range(domain), "1 channel, found 3");
    refused(
        Degradation::SuperResolution { factor: 16 }.domain_for_range(ImageShape::new(1, usize::MAX, 1)),
        "too large",
    );
    let large = Degradation::Blur { kernel: "box:9".parse().unwrap(), boundary: Boundary::Valid };
    refused(large.build(domain, None), "9x9 does not fit into an image of 8x8");
    let other = Arc::new(Identity::new(ImageShape::new(1, 8, 8)).unwrap());
    let first = Arc::new(Identity::new(domain).unwrap());
    refused(Compose::new(vec![first, other]), "stage 1 of the composition makes images of 3x8x8");
    let y = image(domain, 0);
    refused(bicubic_upsample(&y, 1), "found 1");
    refused(bicubic_resize(&y, 0, 4), "empty");
}

/// What the window of a valid blur shows is where its kernel's centre lies.
#[test]
fn the_window_of_a_valid_blur_is_where_its_centre_lies() {
    for (kernel, before) in [("box:5", 2), ("box:4", 1), ("gaussian:7:1.5", 3)] {
        let kernel: KernelSpec = kernel.parse().unwrap();
        let size = kernel.build().unwrap().height();
        let blur = Degradation::Blur { kernel, boundary: Boundary::Valid };
        let range = ImageShape::new(3, 20, 30);
        let window = blur.window_for_range(range).unwrap();
        assert_eq!(window, Window { top: before, left: before, height: 20, width: 30 });
        let domain = blur.domain_for_range(range).unwrap();
        // The centre of the kernel is the one weight whose pixel a circular blur leaves where it is.
        let x = image(domain, 3);
        let valid = values(&blur.build(domain, None).unwrap().apply(&x).unwrap());
        let circular = Degradation::Blur { kernel: blur_kernel(&blur), boundary: Boundary::Circular };
        let whole = circular.build(domain, None).unwrap().apply(&x).unwrap();
        assert!(max_difference(&valid, &values(&window.cut(&whole))) < 1e-12, "size {size}");
        let shrunk = Degradation::Compose(vec![blur, Degradation::SuperResolution { factor: 4 }]);
        let window = shrunk.window_for_range(range).unwrap();
        assert_eq!(window, Window { top: before, left: before, height: 80, width: 120 });
    }
}

fn blur_kernel(blur: &Degradation) -> KernelSpec {
    match blur {
        Degradation::Blur { kernel, .. } => kernel.clone(),
        other => panic!("{other:?}"),
    }
}

/// A circular blur goes on across its borders; a window of it does not, nor does noise.
#[test]
fn borders_that_continue_each_other_are_recognised() {
    let shape = ImageShape::new(1, 64, 64);
    let smooth = Blur::new(shape, Kernel::boxed(9).unwrap(), Boundary::Circular).unwrap();
    let y = smooth.apply(&image(shape, 1)).unwrap();
    assert!(wraps_around(&y).unwrap());
    assert!(!wraps_around(&y.clone().narrow(2, 0, 40)).unwrap());
    assert!(!wraps_around(&y.narrow(3, 10, 32)).unwrap());
    assert!(!wraps_around(&image(shape, 2)).unwrap(), "noise says nothing");
    assert!(!wraps_around(&Tensor::zeros([1, 1, 64, 64], &tensor::cpu())).unwrap(), "nor does a flat image");
}

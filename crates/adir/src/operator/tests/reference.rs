//! Numbers from numpy and scipy.
//!
//! The script that made them:
//!
//! ```python
//! import numpy as np, scipy.ndimage as nd, scipy.signal as ss
//! def cubic(x):
//!     x = abs(x)
//!     return np.where(x <= 1, 1.5*x**3 - 2.5*x**2 + 1, np.where(x < 2, -.5*x**3 + 2.5*x**2 - 4*x + 2, 0))
//! def mat(n, m, scale):  # one axis of MATLAB's imresize
//!     k = min(scale, 1); M = np.zeros((m, n))
//!     for i in range(m):
//!         u = (i + .5)/scale - .5; left = int(np.floor(u - 2/k)); idx = np.arange(left, left + int(np.ceil(4/k)) + 3)
//!         w = k*cubic(k*(u - idx)); w /= w.sum()
//!         for j, v in zip(idx, w):
//!             r = j % (2*n); M[i, r if r < n else 2*n - 1 - r] += v
//!     return M
//! def image(h, w): return np.array([[(7*i*i + 3*j*j + 5*i*j) % 17 for j in range(w)] for i in range(h)], float)
//! down = mat(9, 3, 1/4) @ image(9, 10) @ mat(10, 3, 1/4).T
//! up = mat(3, 6, 2) @ image(3, 4) @ mat(4, 8, 2).T
//! k = np.array([[1, 2, 3, 4], [5, 6, 7, 9], [2, 0, 1, 5]], float); k /= k.sum()
//! for mode in ["wrap", "reflect", "nearest", "constant"]: nd.convolve(image(4, 5), k, mode=mode)
//! ss.convolve2d(image(4, 5), k, "valid")
//! d = np.zeros((6, 5)); d[0, 0] = 1; k = np.array([[1, 2, 0], [0, 3, 1], [0, 0, 1]])/8
//! H = np.fft.fft2(nd.convolve(d, k, mode="wrap"))
//! fy, fx = np.meshgrid(np.fft.fftfreq(6), np.fft.fftfreq(5), indexing="ij")
//! np.fft.ifft2(np.conj(H)*np.fft.fft2(image(6, 5))/(abs(H)**2 + .01*100*(fx**2 + fy**2))).real
//! ```

use super::*;

fn numbers(height: usize, width: usize) -> Tensor<4> {
    let value = |i: usize, j: usize| ((7 * i * i + 3 * j * j + 5 * i * j) % 17) as f64;
    let values = (0..height * width).map(|n| value(n / width, n % width)).collect();
    image_from(values, ImageShape::new(1, height, width))
}

#[test]
fn down_sampling_where_the_factor_does_not_divide() {
    let a = BicubicDownsample::new(ImageShape::new(1, 9, 10), 4).unwrap();
    #[rustfmt::skip]
    let expected = [
        9.129383444786072, 7.104030907154083, 6.11666738986969,
        9.512062966823578, 7.575063228607178, 7.658511281013489,
        8.21779578924179, 9.589384317398071, 8.213520646095276,
    ];
    assert!(max_difference(&values(&a.apply(&numbers(9, 10)).unwrap()), &expected) < 1e-13);
}

#[test]
fn up_sampling() {
    #[rustfmt::skip]
    let expected = [
        -0.8935546875, -0.37939453125, 0.64892578125, 4.16748046875, 10.17626953125, 12.21044921875, 10.27001953125, 9.2998046875,
        0.92529296875, 2.04986572265625, 4.29901123046875, 7.2528076171875, 10.9112548828125, 12.38067626953125, 11.66107177734375, 11.30126953125,
        4.56298828125, 6.90838623046875, 11.59918212890625, 13.4234619140625, 12.3812255859375, 12.72113037109375, 14.44317626953125, 15.30419921875,
        7.750244140625, 9.572265625, 13.21630859375, 14.0386962890625, 12.0394287109375, 11.37744140625, 12.052734375, 12.390380859375,
        10.487060546875, 10.04150390625, 9.150390625, 9.0985107421875, 9.8858642578125, 8.349609375, 4.48974609375, 2.559814453125,
        11.85546875, 10.276123046875, 7.117431640625, 6.62841796875, 8.80908203125, 6.835693359375, 0.708251953125, -2.35546875,
    ];
    assert!(max_difference(&values(&bicubic_upsample(&numbers(3, 4), 2).unwrap()), &expected) < 1e-13);
}

#[test]
#[rustfmt::skip]
fn blur_at_every_boundary() {
    let expected: [(Boundary, &[f64]); 6] = [
        (Boundary::Circular, &[
            7.066666666666666, 7.999999999999999, 9.866666666666665, 9.577777777777778, 9.333333333333336,
            10.399999999999999, 9.355555555555556, 10.4, 9.666666666666668, 9.822222222222221,
            9.444444444444445, 8.688888888888888, 8.688888888888888, 8.511111111111111, 9.222222222222223,
            7.977777777777778, 8.933333333333334, 8.733333333333334, 8.4, 8.911111111111111,
        ]),
        (Boundary::Reflect, &[
            4.288888888888889, 6.177777777777778, 9.533333333333333, 12.088888888888889, 11.466666666666669,
            8.577777777777778, 9.355555555555556, 10.4, 10.355555555555558, 10.11111111111111,
            9.822222222222223, 8.688888888888888, 8.688888888888888, 8.6, 8.422222222222222,
            10.711111111111112, 10.400000000000002, 8.999999999999998, 6.355555555555555, 7.466666666666666,
        ]),
        (Boundary::Reflect101, &[
            7.4222222222222225, 7.444444444444444, 10.555555555555555, 11.977777777777778, 11.933333333333334,
            10.155555555555555, 9.355555555555556, 10.4, 10.755555555555556, 10.511111111111111,
            10.0, 8.688888888888888, 8.688888888888888, 7.7333333333333325, 7.8,
            9.822222222222221, 9.822222222222223, 8.444444444444445, 7.4222222222222225, 7.666666666666668,
        ]),
        (Boundary::Replicate, &[
            4.288888888888889, 6.177777777777778, 9.533333333333333, 12.088888888888889, 11.911111111111111,
            8.577777777777778, 9.355555555555556, 10.4, 10.355555555555558, 9.71111111111111,
            9.822222222222223, 8.688888888888888, 8.688888888888888, 8.6, 9.288888888888888,
            10.711111111111112, 10.400000000000002, 8.999999999999998, 6.355555555555555, 6.0888888888888895,
        ]),
        (Boundary::Constant(0.0), &[
            3.1333333333333337, 5.666666666666667, 8.31111111111111, 8.200000000000001, 5.977777777777778,
            6.2, 9.355555555555556, 10.4, 8.644444444444446, 6.444444444444445,
            5.777777777777778, 8.688888888888888, 8.688888888888888, 6.711111111111111, 5.488888888888889,
            4.5777777777777775, 7.977777777777779, 6.911111111111111, 4.222222222222222, 3.6666666666666665,
        ]),
        (Boundary::Valid, &[9.355555555555556, 10.399999999999999, 8.68888888888889, 8.68888888888889]),
    ];
    let kernel = Kernel::from_text("1 2 3 4\n5 6 7 9\n2 0 1 5").unwrap();
    for (boundary, expected) in expected {
        for method in [Method::Direct, Method::Fft] {
            let a = Blur::with_method(ImageShape::new(1, 4, 5), kernel.clone(), boundary, method).unwrap();
            let found = values(&a.apply(&numbers(4, 5)).unwrap());
            assert!(max_difference(&found, expected) < 1e-13, "{boundary} {method:?}");
        }
    }
}

#[test]
fn all_ways_to_convolve_agree() {
    let domain = ImageShape::new(3, 40, 33);
    for kernel in kernels() {
        for (boundary, _) in Boundary::ALL {
            let blur = |method| Blur::with_method(domain, kernel.clone(), boundary, method).unwrap();
            let direct = blur(Method::Direct);
            let (x, y) = (image(domain, 1), image(direct.range(), 2));
            let of = |a: &Blur| [a.apply(&x), a.adjoint(&y)].map(|image| values(&image.unwrap()));
            let expected = of(&direct);
            for method in ways(&kernel) {
                for (found, expected) in of(&blur(method)).iter().zip(&expected) {
                    assert!(max_difference(found, expected) < 1e-13, "{boundary} {kernel:?} {method:?}");
                }
            }
        }
    }
}

#[test]
fn every_kernel_goes_the_cheapest_way() {
    let way = |kernel: Kernel| Method::cheaper(&kernel, (256, 256));
    assert_eq!(way(Kernel::boxed(5).unwrap()), Method::Separable);
    assert_eq!(way(Kernel::gaussian(61, 10.0).unwrap()), Method::Separable);
    assert_eq!(way(Kernel::boxed(101).unwrap()), Method::Fft);
    assert_eq!(way(Kernel::boxed(3).unwrap()), Method::Direct);
    assert_eq!(way(Kernel::motion(9.0, 45.0).unwrap()), Method::Direct);
    assert_eq!(way(Kernel::motion(99.0, 45.0).unwrap()), Method::Fft);
}

#[test]
fn a_wiener_filter_is_that_of_numpy() {
    #[rustfmt::skip]
    let expected = [-0.4267402193, 6.7802357433, 14.0335655089, 6.7850076087, 5.9644858150, 6.7884723482, 11.7434287547, 10.9236177499, 14.6837274293, 10.7908673583, 8.4046272858, 10.8353621041, 12.9484029291, 4.1007355991, 12.8403892711, 13.2187421127, 9.0321989895, 3.6744329574, 6.9118455477, 3.4382994269, 11.5895523500, 16.8081244747, 7.4850040121, 16.2892524409, 2.5619950766, 7.4175107495, 19.4706918237, 14.7339162492, 7.7675160499, -3.5952675470];
    let kernel =
        Kernel::from_values(3, 3, [1.0, 2.0, 0.0, 0.0, 3.0, 1.0, 0.0, 0.0, 1.0].map(|v| v / 8.0).to_vec()).unwrap();
    let blur = Blur::new(ImageShape::new(1, 6, 5), kernel, Boundary::Circular).unwrap();
    let found = tensor::to_f64(&wiener(&blur, &numbers(6, 5), 0.01).unwrap()).unwrap();
    let worst = found.iter().zip(expected).map(|(a, b): (&f64, f64)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-9, "{worst}");
}

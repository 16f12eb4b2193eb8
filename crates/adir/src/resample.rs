//! What all bicubic resampling shares.

/// The cubic convolution kernel of Keys with a = -1/2, in the order of operations of Pillow, whose resampling
/// `retrieve` reproduces to the last bit.
pub(crate) fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
